"""Invalid access tokens, each made from a valid one."""

from __future__ import annotations

import base64
import json
import time
from typing import TYPE_CHECKING, Any, Final

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

from functions._local.fake_auth import AuthServer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from random import Random

    from tests.chaos.target import Target

_FOREIGN_KEY = ec.generate_private_key(ec.SECP256R1())


def _part(value: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


def _claims(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def _unsigned(token: str, **header: object) -> str:
    return f"{_part({'typ': 'JWT', **header})}.{_part(_claims(token))}."


def _of_another_project(token: str) -> str:
    other = AuthServer("", issuer_url="https://other.example/auth/v1", jwt_secret="y" * 48)
    return other.mint(_claims(token)["sub"], session_id=_claims(token)["session_id"])


def _with_a_key_of_its_own(token: str) -> str:
    """A token that contains the key that verifies it, and the address of others."""
    header = jwt.get_unverified_header(token)
    key = json.loads(jwt.algorithms.ECAlgorithm.to_jwk(_FOREIGN_KEY.public_key()))
    header |= {"jwk": key, "jku": "http://127.0.0.1:9/jwks.json", "x5u": "http://127.0.0.1:9/x"}
    return jwt.encode(_claims(token), _FOREIGN_KEY, "ES256", headers=header)


def _with_a_bit_turned(token: str, chance: Random) -> str:
    head, claims, signature = token.split(".")
    raw = bytearray(base64.urlsafe_b64decode(f"{signature}=="))
    raw[chance.randrange(len(raw))] ^= 1 << chance.randrange(8)
    return f"{head}.{claims}.{base64.urlsafe_b64encode(raw).rstrip(b'=').decode()}"


def _promoted(token: str, role: str) -> str:
    """A valid signature with a more powerful role."""
    head, _, signature = token.split(".")
    return f"{head}.{_part(_claims(token) | {'role': role})}.{signature}"


_ODD_CLAIMS: Final[Sequence[Mapping[str, Any]]] = (
    {"aud": "anon"}, {"role": "x"}, {"iss": "x"}, {"role": ["authenticated"]}, {"exp": "soon"},
)  # fmt: skip

_TRICKS: Final[Mapping[str, Callable[[Target, str, Random], str]]] = {
    "alg none": lambda _, token, chance: _unsigned(token, alg=chance.choice(("none", "None", "nOnE", "NONE", ""))),
    "no alg": lambda _, token, __: _unsigned(token),
    "alg of another kind": lambda _, token, chance: _unsigned(token, alg=chance.choice((None, 1, [], {}, ["ES256"]))),
    "a public secret": lambda target, token, _: jwt.encode(_claims(token), target.auth.anon_key(), "HS256"),
    "a foreign key": lambda _, token, __: jwt.encode(
        _claims(token), _FOREIGN_KEY, "ES256", headers=jwt.get_unverified_header(token)
    ),
    "an unknown kid": lambda _, token, chance: jwt.encode(
        _claims(token),
        _FOREIGN_KEY,
        "ES256",
        headers={"kid": chance.choice(("", "x", "../../etc/passwd", "' or 1=1--"))},
    ),
    "a key of its own": lambda _, token, __: _with_a_key_of_its_own(token),
    "a bit turned": lambda _, token, chance: _with_a_bit_turned(token, chance),
    "promoted": lambda _, token, chance: _promoted(token, chance.choice(("service_role", "postgres", "anon"))),
    "another project": lambda _, token, __: _of_another_project(token),
    "expired": lambda target, token, chance: target.auth.mint(
        _claims(token)["sub"], session_id=_claims(token)["session_id"], lifetime=-chance.randint(60, 10**6)
    ),
    "not yet valid": lambda target, token, _: target.auth.mint(
        _claims(token)["sub"], session_id=_claims(token)["session_id"], nbf=int(time.time()) + 3600
    ),
    "a session that never was": lambda target, token, _: target.auth.mint(_claims(token)["sub"]),
    "odd claims": lambda target, token, chance: target.auth.mint(
        _claims(token)["sub"],
        session_id=_claims(token)["session_id"],
        **chance.choice(_ODD_CLAIMS),
    ),
    "the anon key": lambda target, _, __: target.auth.anon_key(),
    "cut off": lambda _, token, chance: token[: chance.randrange(1, len(token) - 1)],
    "very long": lambda _, __, chance: "a" * chance.randint(1, 20_000) + ".b.c",
    "no token": lambda _, __, chance: chance.choice((".", "..", "...", "null", "undefined", "[object Object]", "{}")),
}


def bad_token(target: Target, token: str, chance: Random) -> tuple[str, str]:
    """The name of a trick, and the token that it makes from a valid one."""
    name = chance.choice([*_TRICKS])
    return name, _TRICKS[name](target, token, chance)
