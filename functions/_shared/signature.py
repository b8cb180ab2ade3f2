"""Whether a token was signed with a public key of the project: RFC 7515's ES256 and RS256, and nothing else.

Straight to the library that does the mathematics: what stands between (the official client, and its JWT library) takes
a third of a cold start to import, and leaves every other check of the token to its caller anyhow.
"""

from __future__ import annotations

from base64 import urlsafe_b64decode
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from typing import Any

# Of P-256: a signature is two numbers of so many bytes.
NUMBER_BYTES = 32


def verify(key: Mapping[str, Any], token: str) -> None:
    """`key` is a JWK with `alg`. Raises cryptography's InvalidSignature, or ValueError or KeyError where it is none."""
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415 (who needs no signature imports no cryptography)
    from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa, utils  # noqa: PLC0415

    signed, _, encoded = token.rpartition(".")
    signature = _bytes(encoded)
    if key["alg"] == "ES256":
        if len(signature) != 2 * NUMBER_BYTES:
            raise ValueError("a signature of ES256 has 64 bytes")
        pair = _number(signature[:NUMBER_BYTES]), _number(signature[NUMBER_BYTES:])
        point = ec.EllipticCurvePublicNumbers(_number(_bytes(key["x"])), _number(_bytes(key["y"])), ec.SECP256R1())
        point.public_key().verify(utils.encode_dss_signature(*pair), signed.encode(), ec.ECDSA(hashes.SHA256()))
    elif key["alg"] == "RS256":
        numbers = rsa.RSAPublicNumbers(_number(_bytes(key["e"])), _number(_bytes(key["n"])))
        numbers.public_key().verify(signature, signed.encode(), padding.PKCS1v15(), hashes.SHA256())
    else:
        raise ValueError("no public key")


def _bytes(text: str) -> bytes:
    return urlsafe_b64decode(text + "=" * (-len(text) % 4))


def _number(content: bytes) -> int:
    return int.from_bytes(content)
