"""Device identity: only the holder of the key, for this challenge, now."""

from __future__ import annotations

from base64 import b64encode, urlsafe_b64encode
from collections.abc import Callable
from dataclasses import fields, replace
from hashlib import sha256

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from app.channels.ws.device import SKEW_MS, Proof, verify
from app.channels.ws.protocol import Refusal

NOW = 1_795_399_380_722
NONCE = "6e1c2d7c-0000-4000-8000-000000000001"
KEY = ed25519.Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
RAW = KEY.public_key().public_bytes_raw()

SPOKEN = {
    "id": sha256(RAW).hexdigest(),
    "client_id": "openclaw-tui",
    "client_mode": "ui",
    "role": "operator",
    "scopes": "operator.read,operator.write",
    "token": "s3cret-token",
    "platform": " Linux ",
    "family": "PC",
}


def unpadded(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")


def text_of(version: str, proof: Proof) -> str:
    """What a client of each generation signs."""
    spoken = [version, proof.id, proof.client_id, proof.client_mode, proof.role, proof.scopes]
    spoken += [str(proof.signed_at), proof.token]
    if version != "v1":
        spoken.append(proof.nonce or "")
    if version == "v3":
        spoken += [proof.platform.strip().lower(), proof.family.strip().lower()]
    return "|".join(spoken)


def signed(version: str, *, nonce: str | None = NONCE, signed_at: int = NOW, **spoken: str) -> Proof:
    unsigned = Proof(
        **{**SPOKEN, **spoken}, public_key=unpadded(RAW), signature="", signed_at=signed_at, nonce=nonce
    )
    return replace(unsigned, signature=unpadded(KEY.sign(text_of(version, unsigned).encode())))


def refusal_of(proof: Proof, *, now_ms: int = NOW, loopback: bool = False) -> str | None:
    """The reason of the refusal, None if the proof holds."""
    try:
        verify(proof, nonce=NONCE, now_ms=now_ms, loopback=loopback)
    except Refusal as refusal:
        details = refusal.details or {}
        return f"{refusal}; {details['code']}; {details['reason']}"
    return None


EXPIRED = "device signature expired; DEVICE_AUTH_SIGNATURE_EXPIRED; device-signature-stale"
INVALID = "device signature invalid; DEVICE_AUTH_SIGNATURE_INVALID; device-signature"
MISMATCH = "device identity mismatch; DEVICE_AUTH_DEVICE_ID_MISMATCH; device-id-mismatch"
NO_NONCE = "device nonce required; DEVICE_AUTH_NONCE_REQUIRED; device-nonce-missing"
OTHER_NONCE = "device nonce mismatch; DEVICE_AUTH_NONCE_MISMATCH; device-nonce-mismatch"
NO_KEY = "device public key invalid; DEVICE_AUTH_PUBLIC_KEY_INVALID; device-public-key"


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_the_signatures_of_both_generations_are_accepted(version: str) -> None:
    assert refusal_of(signed(version)) is None


def test_a_client_of_this_machine_that_did_not_wait_for_the_challenge_is_accepted() -> None:
    early = signed("v1", nonce=None)

    assert refusal_of(early, loopback=True) is None
    assert refusal_of(early, loopback=False) == NO_NONCE


@pytest.mark.parametrize("version", ["v2", "v3"])
def test_a_newer_signature_needs_the_nonce_and_an_older_one_does_not_do_with_it(version: str) -> None:
    assert refusal_of(signed(version, nonce=None), loopback=True) == INVALID
    assert refusal_of(signed("v1"), loopback=True) == INVALID


def test_the_platform_is_signed_in_lower_case_of_ascii_only() -> None:
    proof = signed("v2", platform=" WİNDOWS\n", family="")
    text = "|".join(text_of("v2", proof).split("|")).replace("v2|", "v3|", 1) + "|wİndows|"

    assert refusal_of(replace(proof, signature=unpadded(KEY.sign(text.encode())))) is None


@pytest.mark.parametrize(
    "spell",
    [
        unpadded,
        lambda raw: b64encode(raw).decode(),
        lambda raw: urlsafe_b64encode(raw).decode(),
        lambda raw: (
            ed25519.Ed25519PublicKey.from_public_bytes(raw)
            .public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
            .decode()
        ),
    ],
)
def test_a_public_key_may_be_base64_of_either_alphabet_or_pem(spell: Callable[[bytes], str]) -> None:
    assert refusal_of(replace(signed("v3"), public_key=spell(RAW))) is None


def _rsa_pem() -> str:
    key = rsa.generate_private_key(65537, 2048).public_key()
    return key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()


@pytest.mark.parametrize(
    "key",
    [
        "",
        "x",
        "é",
        "not base64!",
        unpadded(RAW[:31]),
        unpadded(RAW + b"x"),
        "-----BEGIN PUBLIC KEY-----",
        _rsa_pem(),
    ],
    ids=["empty", "short", "accent", "text", "31 bytes", "33 bytes", "broken pem", "rsa"],
)
def test_what_is_no_ed25519_key_is_refused(key: str) -> None:
    assert refusal_of(replace(signed("v3"), public_key=key)) == NO_KEY


@given(st.binary(min_size=32, max_size=32))
def test_a_key_that_is_not_the_devices_own_is_refused(raw: bytes) -> None:
    proof = replace(signed("v3"), public_key=unpadded(raw))
    assert refusal_of(proof) == (None if raw == RAW else MISMATCH)
    # Even a point of no curve, named rightly, proves nothing.
    assert refusal_of(replace(proof, id=sha256(raw).hexdigest())) == (None if raw == RAW else INVALID)


def test_the_name_of_a_device_is_exactly_the_digest_of_its_key() -> None:
    assert refusal_of(signed("v3", id=SPOKEN["id"].upper())) == MISMATCH
    assert refusal_of(signed("v3", id=SPOKEN["id"][:-1])) == MISMATCH


@pytest.mark.parametrize("sign", [-1, 1])
def test_a_signature_is_good_for_ten_minutes_around_now(sign: int) -> None:
    assert refusal_of(signed("v3"), now_ms=NOW + sign * SKEW_MS) is None
    assert refusal_of(signed("v3"), now_ms=NOW + sign * (SKEW_MS + 1)) == EXPIRED
    assert refusal_of(signed("v3", signed_at=sign * 10**300)) == EXPIRED


def test_a_replayed_proof_does_not_fit_another_challenge() -> None:
    recorded = signed("v3", nonce="6e1c2d7c-0000-4000-8000-000000000002")

    assert refusal_of(recorded) == OTHER_NONCE
    assert refusal_of(replace(recorded, nonce=NONCE)) == INVALID
    assert refusal_of(replace(recorded, nonce="é\x00")) == OTHER_NONCE


@given(st.integers(0, 63), st.integers(1, 255), st.sampled_from(["v1", "v2", "v3"]))
def test_no_byte_of_a_signature_may_change(at: int, flip: int, version: str) -> None:
    proof = signed(version, nonce=None if version == "v1" else NONCE)
    raw = bytearray(KEY.sign(text_of(version, proof).encode()))
    raw[at] ^= flip

    assert refusal_of(replace(proof, signature=unpadded(bytes(raw))), loopback=True) == INVALID


@given(
    st.sampled_from([field.name for field in fields(Proof) if field.name in {*SPOKEN} - {"id"}]),
    st.text(min_size=1),
    st.sampled_from(["v2", "v3"]),
)
def test_no_field_that_was_signed_may_change(name: str, tail: str, version: str) -> None:
    proof = signed(version)
    changed = replace(proof, **{name: getattr(proof, name) + tail})
    same = text_of(version, changed) == text_of(version, proof)

    assert refusal_of(changed) == (None if same else INVALID)


def test_the_time_of_a_signature_is_signed_too() -> None:
    assert refusal_of(replace(signed("v3"), signed_at=NOW + 1)) == INVALID


@given(st.text())
def test_no_text_as_a_signature_raises_or_passes(signature: str) -> None:
    assert refusal_of(replace(signed("v3"), signature=signature)) == INVALID
