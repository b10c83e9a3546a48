import { client, tell } from "./told.mjs";

const events = [];
const stream = client.responses.stream({ model: "openclaw", input: "one two" });
for await (const event of stream) events.push(event);
const final = await stream.finalResponse();
tell({ events, text: final.output_text, usage: final.usage });
