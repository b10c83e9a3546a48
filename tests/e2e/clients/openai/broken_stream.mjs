import { client, refusal, tell, user } from "./told.mjs";

const pieces = [];
const broken = await refusal(
  (async () => {
    const stream = await client.chat.completions.create({ model: "openclaw", messages: user("hi"), stream: true });
    for await (const chunk of stream) pieces.push(chunk.choices[0].delta.content ?? "");
  })(),
);
tell({ text: pieces.join(""), broken });
