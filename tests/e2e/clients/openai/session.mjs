import { client, tell, user } from "./told.mjs";

const [name] = process.argv.slice(2);
const first = await client.chat.completions.create({ model: "openclaw", user: name, messages: user("my name is Ada") });
const second = await client.chat.completions.create({ model: "openclaw", user: name, messages: user("who am I?") });
tell([first, second].map((completion) => completion.choices[0].message.content));
