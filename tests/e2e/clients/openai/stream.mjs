import { client, tell, user } from "./told.mjs";

const [text, usage] = process.argv.slice(2);
const options = usage ? { stream_options: { include_usage: true } } : {};
const stream = await client.chat.completions.create({ model: "openclaw", messages: user(text), stream: true, ...options });
const chunks = [];
for await (const chunk of stream) chunks.push(chunk);
tell(chunks);
