import { client, tell } from "./told.mjs";

const input = ["one", "two"];
const usual = await client.embeddings.create({ model: "openclaw", input });
const floats = await client.embeddings.create({ model: "openclaw", input, encoding_format: "float" });
tell({ usual, floats });
