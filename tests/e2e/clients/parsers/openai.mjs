// Reads a stream with all that the gateway may put between chunks, and prints the chunks.
import OpenAI from "openai";

const client = new OpenAI({ maxRetries: 0, defaultHeaders: { "x-openclaw-events": "tools" } });
const stream = await client.chat.completions.create({
  model: "openclaw",
  messages: [{ role: "user", content: "hi" }],
  stream: true,
  store: process.argv[2] === "store",
});
const chunks = [];
for await (const chunk of stream) chunks.push(chunk);
console.log(JSON.stringify(chunks));
