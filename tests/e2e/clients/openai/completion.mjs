import { client, tell, user } from "./told.mjs";

const { data, response, request_id } = await client.chat.completions
  .create({
    model: "openclaw:beta",
    messages: user("grüß dich"),
    max_completion_tokens: 50,
    temperature: 0.5,
    seed: 7,
    stop: ["END"],
    metadata: { purpose: "test" },
    store: true,
    n: 1,
    service_tier: "auto",
  })
  .withResponse();
tell({ data, request_id, header: response.headers.get("x-request-id"), type: response.headers.get("content-type") });
