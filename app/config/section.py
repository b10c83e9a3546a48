"""What every section of the configuration shares: strictness and the small types.

A section is frozen, knows its keys in camelCase, refuses unknown keys and never converts
a type: `"18789"` is not a port.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, TypeAlias
from urllib.parse import urlsplit

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, SecretStr, Strict
from pydantic.alias_generators import to_camel

_ID = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
_SPAN = re.compile(r"([1-9][0-9]{0,5})(s|m|h|d|w)")
_UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 7 * 86_400}
_PLACEHOLDERS = {"", "undefined", "null"}


class Section(BaseModel):
    """One object of the configuration file."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        strict=True,
        alias_generator=to_camel,
        validate_by_name=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
    )


def _real_secret(secret: SecretStr) -> SecretStr:
    text = secret.get_secret_value().strip()
    if text.lower() in _PLACEHOLDERS:
        raise ValueError('must be a real secret, not blank, "undefined" or "null"')
    if not text.isprintable():
        raise ValueError("must not contain line breaks or control characters")
    return SecretStr(text)


def _identifier(text: str) -> str:
    if not _ID.fullmatch(text.lower()):
        raise ValueError('must be 1 to 64 of a-z, 0-9, "_" and "-", and start with a letter or digit')
    return text.lower()


def seconds_of(span: str) -> float:
    """A length of time such as ``90s``, ``30m``, ``12h``, ``30d`` or ``2w``, in seconds.

    :raises ValueError: it is none.
    """
    found = _SPAN.fullmatch(span)
    if not found:
        raise ValueError('must be a length of time like "12h" or "30d"')
    return int(found[1]) * _UNITS[found[2]]


def _span(span: str) -> str:
    seconds_of(span)
    return span


def web_address(text: str) -> str:
    """``text`` without a slash at its end, if it is a plain http(s) address.

    :raises ValueError: it is none, or it carries credentials, a query or a fragment.
    """
    try:
        url = urlsplit(text)
        usable = url.scheme in {"http", "https"} and url.hostname and url.port != 0
    except ValueError:
        usable = False
    if not usable or not text.isprintable() or " " in text:
        raise ValueError('must be an address like "https://api.example.com/v1"')
    if url.username is not None or url.query or url.fragment:
        raise ValueError("must not carry credentials, a query or a fragment; use apiKey or headers")
    return text.rstrip("/")


def _with_lower_keys(value: Any) -> Any:
    if not isinstance(value, dict):
        return value
    lowered = {key.lower(): item for key, item in value.items() if isinstance(key, str)}
    if len(lowered) < len(value):
        raise ValueError("names that differ only in upper and lower case are the same name")
    return lowered


Secret: TypeAlias = Annotated[SecretStr, AfterValidator(_real_secret)]
Text: TypeAlias = Annotated[str, Field(min_length=1)]
TextList: TypeAlias = Annotated[tuple[Text, ...], Strict(False)]
Span: TypeAlias = Annotated[str, AfterValidator(_span)]
Identifier: TypeAlias = Annotated[str, AfterValidator(_identifier)]
LowerKeys = BeforeValidator(_with_lower_keys)
Count: TypeAlias = Annotated[int, Field(ge=1, le=2**53)]
Seconds: TypeAlias = Annotated[float, Field(gt=0, le=31_536_000)]
