import { client, tell, user } from "./told.mjs";

const stream = await client.chat.completions.create({ model: "openclaw", messages: user("a long story"), stream: true });
const pieces = [];
for await (const chunk of stream) {
  pieces.push(chunk.choices[0].delta.content ?? "");
  if (pieces.join("").includes("once")) stream.controller.abort();
}
const next = await client.chat.completions.create({ model: "openclaw", messages: user("still there?") });
tell({ text: pieces.join(""), next: next.choices[0].message.content });
