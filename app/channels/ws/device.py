"""Device identity: a client proves that it holds the private key of the device it names.

The proof lets nobody in. It says who is there, and it must be right when it is given.
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import Error as InvalidBase64
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from hmac import compare_digest
from string import ascii_lowercase, ascii_uppercase

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

from .protocol import Refusal

SKEW_MS = 10 * 60 * 1000

_LOWER = str.maketrans(ascii_uppercase, ascii_lowercase)
_BASE64 = re.compile(r"[A-Za-z0-9_-]+=*")


@dataclass(frozen=True, slots=True)
class Proof:
    """What a device says and signs. Texts are as they were sent.

    :ivar signed_at: Unix time in milliseconds.
    :ivar nonce: the challenge's; None from a client that did not wait for it.
    :ivar scopes: as asked for, joined with commas.
    :ivar token: the secret the client signed with; "" if it sent none.
    """

    id: str
    public_key: str
    signature: str
    signed_at: int
    nonce: str | None
    client_id: str
    client_mode: str
    role: str
    scopes: str
    token: str
    platform: str
    family: str


def verify(proof: Proof, *, nonce: str, now_ms: int, loopback: bool) -> None:
    """Check a proof against the challenge that was sent.

    :param loopback: only a client of this machine may do without the nonce.
    :raises Refusal: it does not prove anything.
    """
    raw = _raw_key(proof.public_key)
    if raw is None:
        raise _refusal("public key invalid", "PUBLIC_KEY_INVALID", "device-public-key")
    if proof.id != sha256(raw).hexdigest():
        raise _refusal("identity mismatch", "DEVICE_ID_MISMATCH", "device-id-mismatch")
    if abs(now_ms - proof.signed_at) > SKEW_MS:
        raise _refusal("signature expired", "SIGNATURE_EXPIRED", "device-signature-stale")
    _check_nonce(proof.nonce, nonce, loopback=loopback)
    signature = _decoded(proof.signature)
    if signature is None or not any(_is_signed(raw, signature, text) for text in _texts(proof)):
        raise _refusal("signature invalid", "SIGNATURE_INVALID", "device-signature")


def _check_nonce(sent: str | None, nonce: str, *, loopback: bool) -> None:
    if sent is None:
        if not loopback:
            raise _refusal("nonce required", "NONCE_REQUIRED", "device-nonce-missing")
    elif not compare_digest(sent.encode(), nonce.encode()):
        raise _refusal("nonce mismatch", "NONCE_MISMATCH", "device-nonce-mismatch")


def _texts(proof: Proof) -> Iterator[str]:
    """The texts that clients of each generation sign, the newest first."""
    signer = (proof.id, proof.client_id, proof.client_mode, proof.role, proof.scopes)
    common = (*signer, str(proof.signed_at), proof.token)
    if proof.nonce is None:
        yield "|".join(("v1", *common))
        return
    yield "|".join(("v3", *common, proof.nonce, _normalized(proof.platform), _normalized(proof.family)))
    yield "|".join(("v2", *common, proof.nonce))


def _normalized(text: str) -> str:
    return text.strip().translate(_LOWER)


def _is_signed(raw: bytes, signature: bytes, text: str) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(raw).verify(signature, text.encode())
    except InvalidSignature:
        return False
    return True


def _raw_key(text: str) -> bytes | None:
    """The 32 bytes of a public key in base64url or PEM; None if it is no Ed25519 key."""
    if "BEGIN" not in text:
        raw = _decoded(text)
        return raw if raw is not None and len(raw) == 32 else None
    try:
        key = load_pem_public_key(text.encode())
    except (ValueError, UnsupportedAlgorithm):
        return None
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw) if isinstance(key, Ed25519PublicKey) else None


def _decoded(text: str) -> bytes | None:
    """The bytes of base64 in either alphabet, padded or not; None if it is none."""
    text = text.strip().replace("+", "-").replace("/", "_")
    if not _BASE64.fullmatch(text):
        return None
    try:
        return b64decode(text.rstrip("=") + "==", altchars=b"-_")
    except InvalidBase64:
        return None


def _refusal(what: str, code: str, reason: str) -> Refusal:
    return Refusal(f"device {what}", details={"code": f"DEVICE_AUTH_{code}", "reason": reason})
