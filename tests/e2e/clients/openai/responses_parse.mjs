import { zodTextFormat } from "openai/helpers/zod";
import { z } from "zod";
import { client, tell } from "./told.mjs";

const Menu = z.object({ dish: z.string(), courses: z.number().int() });
const answer = await client.responses.parse({ model: "openclaw", input: "dinner?", text: { format: zodTextFormat(Menu, "menu") } });
tell(answer.output_parsed);
