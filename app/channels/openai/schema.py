"""OpenAI's chat completion request: JSON in, a frozen :class:`ChatRequest` out. Pure.

The rules are those of OpenAI's API reference. What the gateway does not serve is refused by
name; unknown fields are ignored, as OpenAI's own servers ignore them.
"""

from __future__ import annotations

from dataclasses import dataclass

from ...errors import InvalidRequest
from ...messages import JsonObject, JsonValue, Message, SamplingParams
from .content import parse_conversation
from .fields import boolean, integer, invalid, string, unserved
from .sampling import parse_sampling

_LONGEST_MODEL = 256


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """A valid request.

    :ivar model: as the client wrote it, to be echoed; ``openclaw`` when absent.
    :ivar user: trimmed; None when absent or blank.
    :ivar system: all system and developer text, joined by blank lines.
    :ivar messages: the conversation without system text; empty if there was only that.
    """

    model: str
    messages: tuple[Message, ...]
    system: str
    params: SamplingParams
    stream: bool = False
    include_usage: bool = False
    user: str | None = None


def parse_chat_request(body: JsonValue) -> ChatRequest:
    """The request that ``body`` describes.

    :raises InvalidRequest: the first thing that is wrong, with ``param`` naming it.
    """
    if not isinstance(body, dict):
        raise InvalidRequest("The request body must be a JSON object.")
    _refuse_unserved(body)
    system, messages = parse_conversation(body)
    stream = boolean(body, "stream")
    return ChatRequest(
        model=_model(body),
        messages=messages,
        system=system,
        params=parse_sampling(body),
        stream=stream,
        include_usage=_include_usage(body),
        user=(string(body, "user") or "").strip() or None,
    )


def _model(body: JsonObject) -> str:
    model = string(body, "model") or "openclaw"
    if len(model) > _LONGEST_MODEL:  # every chunk of the answer repeats it
        raise invalid("model", f"is longer than {_LONGEST_MODEL} characters")
    return model


def _refuse_unserved(body: JsonObject) -> None:
    count = integer(body, "n", 1, 128)
    if count not in (None, 1):
        raise unserved("n", "Only n=1 is served.")
    if boolean(body, "logprobs") or body.get("top_logprobs"):
        raise unserved("logprobs", "Log probabilities are not served.")
    for name in ("tools", "functions"):
        value = body.get(name)
        if value is not None and not isinstance(value, list):
            raise invalid(name, "must be an array")
        if value and body.get("tool_choice") != "none":
            raise unserved(name, "Tools of the client are not served yet; the agent has its own.")
    modalities = body.get("modalities")
    if modalities is not None and modalities != ["text"] and modalities != []:
        raise unserved("modalities", "Only text is served.")
    if body.get("audio") is not None:
        raise unserved("audio", "Only text is served.")


def _include_usage(body: JsonObject) -> bool:
    options = body.get("stream_options")
    if options is None:
        return False
    if not isinstance(options, dict):
        raise invalid("stream_options", "must be an object")
    return boolean(options, "include_usage", "stream_options.include_usage")
