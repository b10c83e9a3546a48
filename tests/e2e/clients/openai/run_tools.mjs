import { zodFunction } from "openai/helpers/zod";
import { z } from "zod";
import { client, tell, user } from "./told.mjs";

const [stream] = process.argv.slice(2);
const asked = [];
const weather = zodFunction({
  name: "get_weather",
  description: "The weather of a city.",
  parameters: z.object({ city: z.string() }),
  function: ({ city }) => {
    asked.push(city);
    return { city, sky: "clear" };
  },
});
const runner = client.chat.completions.runTools({
  model: "openclaw",
  messages: user("how is the weather in Rome and in Oslo?"),
  tools: [weather],
  ...(stream ? { stream: true } : {}),
});
const content = await runner.finalContent();
tell({ asked, content, messages: runner.messages });
