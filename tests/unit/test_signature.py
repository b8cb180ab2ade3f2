"""What PyJWT signs is verified, and nothing that differs from it by a bit."""

from __future__ import annotations

from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from functions._shared.signature import verify

if TYPE_CHECKING:
    from collections.abc import Callable

EC_KEYS = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
RSA_KEYS = [rsa.generate_private_key(public_exponent=65537, key_size=2048) for _ in range(2)]
ALGORITHMS = ["ES256", "RS256"]


def key(algorithm: str, number: int = 0) -> dict[str, Any]:
    if algorithm == "ES256":
        return {**ECAlgorithm.to_jwk(EC_KEYS[number].public_key(), as_dict=True), "alg": algorithm}
    return {**RSAAlgorithm.to_jwk(RSA_KEYS[number].public_key(), as_dict=True), "alg": algorithm}


def token(algorithm: str, **claims: object) -> str:
    return jwt.encode(dict(claims), EC_KEYS[0] if algorithm == "ES256" else RSA_KEYS[0], algorithm)


def with_signature(text: str, change: Callable[[bytes], bytes]) -> str:
    signed, _, encoded = text.rpartition(".")
    signature = change(urlsafe_b64decode(encoded + "=" * (-len(encoded) % 4)))
    return f"{signed}.{urlsafe_b64encode(signature).rstrip(b'=').decode()}"


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_what_is_signed_is_verified(algorithm: str) -> None:
    for number in range(50):  # also signatures whose numbers begin with zeros
        verify(key(algorithm), token(algorithm, sub=number))


CHANGES: dict[str, Callable[[bytes], bytes]] = {
    "first bit": lambda signature: bytes([signature[0] ^ 0x80]) + signature[1:],
    "last bit": lambda signature: signature[:-1] + bytes([signature[-1] ^ 1]),
    "empty": lambda _: b"",
    "zeros": lambda signature: bytes(len(signature)),
    "too short": lambda signature: signature[:-1],
    "too long": lambda signature: signature + b"\0",
    "a zero before its second number": lambda signature: signature[:32] + b"\0" + signature[32:],
}


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_signature_is_refused(algorithm: str, name: str) -> None:
    with pytest.raises((InvalidSignature, ValueError)):
        verify(key(algorithm), with_signature(token(algorithm), CHANGES[name]))


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_other_content_is_refused(algorithm: str) -> None:
    signature = token(algorithm, sub="a").rpartition(".")[2]
    with pytest.raises(InvalidSignature):
        verify(key(algorithm), f"{token(algorithm, sub='b').rpartition('.')[0]}.{signature}")


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_another_key_is_refused(algorithm: str) -> None:
    with pytest.raises(InvalidSignature):
        verify(key(algorithm, 1), token(algorithm))


@pytest.mark.parametrize(
    "wrong",
    [
        {**key("ES256"), "alg": "HS256"},
        {**key("ES256"), "alg": "none"},
        {**key("ES256"), "alg": "RS256"},
        {**key("ES256"), "x": "AA"},  # on no curve
        {"alg": "ES256", "kty": "oct", "k": "AAAA"},
    ],
)
def test_what_is_no_key_verifies_nothing(wrong: dict[str, Any]) -> None:
    with pytest.raises((ValueError, KeyError)):
        verify(wrong, token("ES256"))
