import { client, tell } from "./told.mjs";

const tools = [
  {
    type: "function",
    name: "get_weather",
    description: "The weather of a city.",
    strict: true,
    parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"], additionalProperties: false },
  },
];
const input = [{ role: "user", content: "how is the weather in Rome?" }];
const first = await client.responses.create({ model: "openclaw", input, tools, store: false });
const calls = first.output.filter((item) => item.type === "function_call");
const outputs = calls.map(({ call_id }) => ({ type: "function_call_output", call_id, output: "clear sky" }));
const second = await client.responses.create({ model: "openclaw", input: [...input, ...first.output, ...outputs], tools, store: false });
tell({ calls, text: second.output_text });
