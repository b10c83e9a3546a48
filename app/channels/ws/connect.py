"""The parameters of ``connect``: what a client says about itself, checked for its form only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

from ...messages import JsonObject, JsonValue
from .device import Proof
from .protocol import Client, Refusal

MAX_LABEL_LENGTH = 256


@dataclass(frozen=True, slots=True)
class Connect:
    """Who asks to be let in.

    :ivar client: without a device id, which is for a device that has proved itself.
    :ivar scopes: as asked for.
    :ivar secrets: what may be the gateway's secret, in either of its fields.
    :ivar proof: the device's, if there is a device.
    """

    min_protocol: int
    max_protocol: int
    client: Client
    role: str
    scopes: tuple[str, ...]
    secrets: tuple[str, ...]
    proof: Proof | None

    @classmethod
    def read(cls, params: JsonObject) -> Self:
        """Read what is known here; other keys are a newer client's.

        :raises Refusal: a value is missing or has the wrong type. Values are not repeated.
        """
        connect = _Fields(params)
        auth = connect.object("auth")
        return cls(
            min_protocol=connect.version("minProtocol"),
            max_protocol=connect.version("maxProtocol"),
            client=_client(connect),
            role=_role(connect),
            scopes=connect.texts("scopes"),
            secrets=tuple(filter(None, (auth.text("token"), auth.text("password")))),
            proof=_proof(connect, auth) if params.get("device") is not None else None,
        )


class _Fields:
    """The fields of an object at ``path``, by type. Null is absent."""

    def __init__(self, values: JsonObject, path: str = "") -> None:
        self._values = values
        self._path = path

    def text(self, name: str) -> str:
        """A text; "" if it is absent."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, str):
            raise self._wrong(name, "be string")
        return value or ""

    def required_text(self, name: str) -> str:
        self._require(name)
        text = self.text(name)
        if not text.strip():
            raise self._wrong(name, "NOT be blank")
        return text

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; empty if it is absent."""
        value = self._values.get(name)
        if value is None:
            return ()
        texts = [item for item in value if isinstance(item, str)] if isinstance(value, list) else None
        if texts is None or texts != value:
            raise self._wrong(name, "be array of string")
        return tuple(texts)

    def integer(self, name: str) -> int:
        value = self._require(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or value % 1:
            raise self._wrong(name, "be integer")
        return int(value)

    def version(self, name: str) -> int:
        number = self.integer(name)
        if number < 1:
            raise self._wrong(name, "be >= 1")
        return number

    def object(self, name: str) -> _Fields:
        """An object; an empty one if it is absent."""
        value = self._values.get(name)
        if value is not None and not isinstance(value, dict):
            raise self._wrong(name, "be object")
        return _Fields(value or {}, f"{self._path}/{name}")

    def _require(self, name: str) -> JsonValue:
        value = self._values.get(name)
        if value is None:
            where = f"at {self._path}: " if self._path else ""
            raise Refusal(f"invalid connect params: {where}must have required property '{name}'")
        return value

    def _wrong(self, name: str, must: str) -> Refusal:
        return Refusal(f"invalid connect params: at {self._path}/{name}: must {must}")


def _client(connect: _Fields) -> Client:
    client = connect.object("client")
    return Client(
        id=_label(client.required_text("id")),
        version=_label(client.required_text("version")),
        platform=_label(client.required_text("platform")),
        mode=_label(client.required_text("mode")),
        display_name=_label(client.text("displayName")),
        instance_id=_label(client.text("instanceId")),
        caps=frozenset(connect.texts("caps")),
    )


def _label(text: str) -> str:
    """Everybody is shown it: no longer than a label has to be."""
    return text[:MAX_LABEL_LENGTH]


def _role(connect: _Fields) -> str:
    return connect.text("role") or "operator"


def _proof(connect: _Fields, auth: _Fields) -> Proof:
    device, client = connect.object("device"), connect.object("client")
    return Proof(
        id=device.required_text("id"),
        public_key=device.required_text("publicKey"),
        signature=device.required_text("signature"),
        signed_at=device.integer("signedAt"),
        nonce=device.text("nonce") or None,
        client_id=client.text("id"),
        client_mode=client.text("mode"),
        role=_role(connect),
        scopes=",".join(connect.texts("scopes")),
        token=auth.text("token") or auth.text("deviceToken") or auth.text("bootstrapToken"),
        platform=client.text("platform"),
        family=client.text("deviceFamily"),
    )
