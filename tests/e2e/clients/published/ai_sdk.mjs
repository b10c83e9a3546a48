// Vercel's AI SDK: a stream, a tool with several steps, an object.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { Output, generateText, isStepCount, streamText, tool } from "ai";
import { z } from "zod";

const gateway = createOpenAICompatible({
  name: "openclaw",
  baseURL: process.env.OPENAI_BASE_URL,
  apiKey: process.env.OPENAI_API_KEY,
  headers: { "x-openclaw-session-key": "agent:main:ai-sdk" },
  includeUsage: true,
  supportsStructuredOutputs: true,
});
const model = gateway("openclaw");
const asked = [];
const getWeather = tool({
  description: "The weather of a city.",
  inputSchema: z.object({ city: z.string() }),
  execute: async ({ city }) => {
    asked.push(city);
    return { city, sky: "clear" };
  },
});

const streamed = streamText({ model, prompt: "one two" });
const pieces = [];
for await (const piece of streamed.textStream) pieces.push(piece);
const usage = await streamed.usage;
const steps = await generateText({
  model,
  prompt: "how is the weather in Rome?",
  tools: { get_weather: getWeather },
  stopWhen: isStepCount(3),
});
const menu = await generateText({
  model,
  prompt: "what is for dinner?",
  output: Output.object({ schema: z.object({ dish: z.string(), courses: z.number() }) }),
});
console.log(
  JSON.stringify({ text: pieces.join(""), pieces: pieces.length, usage: usage.totalTokens, asked, answer: steps.text, menu: menu.output }),
);
