import { client, refusal, tell, user } from "./told.mjs";

const ask = (body, by = client) => refusal(by.chat.completions.create({ model: "openclaw", messages: user("hi"), ...body }));
tell({
  key: await ask({}, client.withOptions({ apiKey: "wrong" })),
  agent: await ask({ model: "openclaw:nobody" }),
  parameter: await ask({ temperature: 3 }),
  stream: await ask({ temperature: 3, stream: true }),
  empty: await ask({ messages: [] }),
});
