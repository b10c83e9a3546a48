"""LiteLLM as a library: an answer, a stream, errors of its own classes, vectors."""

import json

import litellm
import openai

session = {"x-openclaw-session-key": "agent:main:litellm"}  # it drops `user` for models it does not know
asked = {"model": "openai/openclaw", "extra_headers": session}
question = [{"role": "user", "content": "what is for dinner?"}]
whole = litellm.completion(**asked, messages=question)
stream = litellm.completion(**asked, messages=question, stream=True, stream_options={"include_usage": True})
chunks = list(stream)
rebuilt = litellm.stream_chunk_builder(chunks, messages=question)
vectors = litellm.embedding(model="openai/openclaw", input=["one", "two"])
errors = {}
for name, changed in {
    "agent": {"model": "openai/openclaw:nobody"},
    "key": {"api_key": "wrong"},
    "parameter": {"temperature": 3},
}.items():
    try:
        litellm.completion(**{**asked, **changed}, messages=question, num_retries=0)
    except openai.APIStatusError as error:
        errors[name] = [type(error).__name__, error.status_code]
told = {"whole": whole.choices[0].message.content, "cost": whole.usage.total_tokens}
told["rebuilt"] = [rebuilt.choices[0].message.content, rebuilt.usage.total_tokens]
told["vectors"] = [len(one["embedding"]) for one in vectors.data]
print(json.dumps({**told, "errors": errors}))
