// A client that is locked out for wrong keys of somebody at its address, and waits as it is told.
import { client, refusal, tell, user } from "./told.mjs";

const question = { model: "openclaw", messages: user("hi") };
const stranger = client.withOptions({ apiKey: "wrong" });
const strangers = [];
for (let attempt = 0; attempt < 3; attempt++) strangers.push((await refusal(stranger.chat.completions.create(question))).status);

const answers = [];
const patient = client.withOptions({
  maxRetries: 2,
  fetch: async (...request) => {
    const answer = await fetch(...request);
    answers.push({ at: performance.now(), status: answer.status, retryAfter: answer.headers.get("retry-after") });
    return answer;
  },
});
const completion = await patient.chat.completions.create(question);
tell({ strangers, answers, content: completion.choices[0].message.content });
