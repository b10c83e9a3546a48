import { client, tell, user } from "./told.mjs";

const events = [];
const note = (name) => (value) => events.push([name, value]);
const stream = client.chat.completions
  .stream({ model: "openclaw", messages: user("one two"), stream_options: { include_usage: true } })
  .on("connect", () => events.push(["connect"]))
  .on("content.delta", ({ delta, snapshot }) => events.push(["content.delta", delta, snapshot]))
  .on("content.done", ({ content }) => events.push(["content.done", content]))
  .on("finalContent", note("finalContent"))
  .on("end", () => events.push(["end"]));
const completion = await stream.finalChatCompletion();
const content = await stream.finalContent();
const usage = await stream.totalUsage();
tell({ events, completion, content, usage });
