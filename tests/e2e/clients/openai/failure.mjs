import { client, refusal, tell, user } from "./told.mjs";

tell(await refusal(client.chat.completions.create({ model: "openclaw", messages: user("hi") })));
