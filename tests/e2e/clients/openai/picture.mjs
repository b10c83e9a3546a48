import { client, tell } from "./told.mjs";

const dot = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg==";
const content = [
  { type: "text", text: "what is this?" },
  { type: "image_url", image_url: { url: `data:image/png;base64,${dot}`, detail: "low" } },
];
const completion = await client.chat.completions.create({ model: "openclaw", messages: [{ role: "user", content }] });
tell(completion.choices[0].message.content);
