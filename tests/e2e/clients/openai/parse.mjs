import { zodResponseFormat } from "openai/helpers/zod";
import { z } from "zod";
import { client, tell, user } from "./told.mjs";

const Menu = z.object({ dish: z.string(), courses: z.number().int(), vegan: z.boolean().nullable() });
const question = { model: "openclaw", messages: user("what is for dinner?"), response_format: zodResponseFormat(Menu, "menu") };
const completion = await client.chat.completions.parse(question);
const streamed = await client.chat.completions.stream(question).finalChatCompletion();
tell({ parsed: completion.choices[0].message.parsed, streamed: streamed.choices[0].message.parsed });
