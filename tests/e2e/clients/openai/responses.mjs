import { client, tell } from "./told.mjs";

const { data: first, response } = await client.responses
  .create({ model: "openclaw", instructions: "be brief", input: "my name is Ada" })
  .withResponse();
const second = await client.responses.create({
  model: "openclaw",
  previous_response_id: first.id,
  input: [{ role: "user", content: [{ type: "input_text", text: "who am I?" }] }],
});
const kept = await client.responses.retrieve(first.id);
await client.responses.delete(first.id);
tell({ first, second, kept, header: response.headers.get("x-request-id") });
