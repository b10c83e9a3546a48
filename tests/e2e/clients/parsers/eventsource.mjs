// The same with eventsource-parser, which the AI SDK and many others stand on.
import { createParser } from "eventsource-parser";

const answer = await fetch(`${process.env.OPENAI_BASE_URL}/chat/completions`, {
  method: "POST",
  headers: { authorization: `Bearer ${process.env.OPENAI_API_KEY}`, "x-openclaw-events": "tools" },
  body: JSON.stringify({
    model: "openclaw",
    messages: [{ role: "user", content: "hi" }],
    stream: true,
    store: process.argv[2] === "store",
  }),
});
const events = [];
const parser = createParser({ onEvent: (event) => events.push(event.data) });
const decoder = new TextDecoder();
for await (const piece of answer.body) parser.feed(decoder.decode(piece, { stream: true }));
if (events.pop() !== "[DONE]") throw new Error("the stream did not end");
console.log(JSON.stringify(events.map((data) => JSON.parse(data))));
