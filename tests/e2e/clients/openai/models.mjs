import { client, refusal, tell } from "./told.mjs";

const names = [];
for await (const model of client.models.list()) names.push(model.id);
const found = [];
for (const name of ["openclaw:main", "openclaw/beta"]) found.push(await client.models.retrieve(name));
const missing = await refusal(client.models.retrieve("openclaw:nobody"));
tell({ names, found, missing });
