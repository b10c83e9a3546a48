"""The same with httpx-sse, which many Python clients stand on."""

import json
import os
import sys

import httpx
from httpx_sse import connect_sse

chunks = []
with (
    httpx.Client(headers={"x-openclaw-events": "tools"}) as client,
    connect_sse(
        client,
        "POST",
        os.environ["OPENAI_BASE_URL"] + "/chat/completions",
        headers={"Authorization": "Bearer " + os.environ["OPENAI_API_KEY"]},
        json={
            "model": "openclaw",
            "messages": [{"role": "user", "content": "hi"}],
            "stream": True,
            "store": sys.argv[1] == "store",
        },
    ) as source,
):
    events = [event.data for event in source.iter_sse()]
assert events.pop() == "[DONE]"
print(json.dumps([json.loads(data) for data in events]))
