"""A streamed chat completion put together again, as a client would, into the body of one that is not."""

from __future__ import annotations

from typing import Any


def folded(events: list[Any]) -> dict[str, Any]:
    """The body that a stream's chunks add up to, or the error it ends with, checked on the way.

    :param events: the data of every event, ``"[DONE]"`` last.
    """
    *chunks, done = events
    assert done == "[DONE]"
    if "error" in chunks[-1]:
        assert all("error" not in chunk for chunk in chunks[:-1])
        return {"error": chunks[-1]["error"]}
    *chunks, last = chunks
    assert last["choices"] == [], "the usage comes last, alone"
    message: dict[str, Any] = {}
    reasons: list[str | None] = []
    for chunk in chunks:
        assert chunk["usage"] is None
        assert {name: chunk[name] for name in _FRAME} == {name: last[name] for name in _FRAME}
        [choice] = chunk["choices"]
        assert (choice["index"], choice["logprobs"]) == (0, None)
        reasons.append(choice["finish_reason"])
        _add(message, choice["delta"])
    assert reasons[:-1] == [None] * (len(reasons) - 1)
    for call in message.get("tool_calls", []):
        del call["index"]
    choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": reasons[-1]}
    return {name: last[name] for name in _FRAME} | {
        "object": "chat.completion",
        "choices": [choice],
        "usage": last["usage"],
    }


_FRAME = ("id", "object", "created", "model")


def _add(whole: dict[str, Any], delta: dict[str, Any]) -> None:
    """Texts grow, lists by ``index``, and everything else is said once."""
    for name, value in delta.items():
        if whole.get(name) is None:
            whole[name] = [] if isinstance(value, list) else {} if isinstance(value, dict) else value
        elif isinstance(value, str):
            whole[name] += value
        if isinstance(value, dict):
            _add(whole[name], value)
        elif isinstance(value, list):
            for entry in value:
                if entry["index"] == len(whole[name]):
                    whole[name].append({"index": entry["index"]})
                _add(whole[name][entry["index"]], {k: v for k, v in entry.items() if k != "index"})
