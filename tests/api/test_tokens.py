"""Tokens without a live session of a user of this project are rejected in every setup of a project."""

from __future__ import annotations

import base64
import functools
import json
import time
import uuid
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from functions._local.fake_auth import AuthServer
from tests.support.project import EVERY_SETUP, JANUARY, expect_error

if TYPE_CHECKING:
    from collections.abc import Callable

    import httpx

    from tests.support.database import User
    from tests.support.project import Project

pytestmark = pytest.mark.parametrize("project", EVERY_SETUP, indirect=True, ids=str)

FOREIGN_KEY = ec.generate_private_key(ec.SECP256R1())
REVOKED = ("revoked_token",)  # from the Auth server or from the database


def unsigned(claims: dict[str, Any], header: dict[str, Any]) -> str:
    parts = (base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in (header, claims))
    return f"{'.'.join(parts)}."


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


def forged(project: Project, user: User) -> str:
    """Signed with another key. Everything else is right."""
    token = project.token(user)
    header = jwt.get_unverified_header(token)
    key: Any = FOREIGN_KEY if header["alg"] == "ES256" else "x" * 48
    return jwt.encode(claims_of(token), key, header["alg"], headers=header)


def tampered(project: Project, user: User) -> str:
    """A good signature under other claims."""
    head, _, signature = project.token(user).split(".")
    claims = claims_of(project.token(project.database.member()))
    return f"{head}.{unsigned(claims, {}).split('.')[1]}.{signature}"


def signed_by_a_public_key(project: Project, user: User) -> str:
    """HS256 with a public key as the secret, which everybody can read."""
    pem = FOREIGN_KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    secret = pem.hex()  # the library rejects a PEM
    return jwt.encode(claims_of(project.token(user)), secret, "HS256")


def of_another_project(project: Project, user: User) -> str:
    other = AuthServer(
        "", issuer_url="https://other.example/auth/v1", jwt_secret="y" * 48, signing=project.setup.signing
    )
    return other.mint(user.id, session_id=user.session_id)


def signed_out(project: Project, user: User) -> str:
    token = project.token(user)
    project.auth.sign_out(token)
    return token


def of_a_deleted_user(project: Project, user: User) -> str:
    project.database.admin.execute("delete from auth.users where id = %s", (user.id,))
    return project.token(user)


def of_a_softly_deleted_user(project: Project, user: User) -> str:
    project.database.admin.execute("update auth.users set deleted_at = now() where id = %s", (user.id,))
    return project.token(user)


def minted(**claims: Any) -> Callable[[Project, User], str]:
    return lambda project, user: project.token(user, **claims)


TOKENS: dict[str, tuple[Callable[[Project, User], str], tuple[str, ...]]] = {
    "plain text": (lambda *_: "a-word", ("invalid_token",)),
    "two dots": (lambda *_: "..", ("invalid_token",)),
    "SQL": (lambda *_: "';drop/**/table/**/x;--", ("invalid_token",)),
    "very long": (lambda *_: "a." * 20_000 + "a", ("invalid_token",)),
    "cut off": (lambda project, user: project.token(user)[:-4], ("invalid_token",)),
    "expired": (minted(lifetime=-1), ("expired_token",)),
    "expired long ago": (minted(lifetime=-86400), ("expired_token",)),
    "not valid yet": (minted(nbf=int(time.time()) + 3600), ("invalid_token",)),
    "forged": (forged, ("invalid_token",)),
    "tampered": (tampered, ("invalid_token",)),
    "signed by a public key": (signed_by_a_public_key, ("invalid_token",)),
    "alg none": (
        lambda project, user: unsigned(claims_of(project.token(user)), {"alg": "none", "typ": "JWT"}),
        ("invalid_token",),
    ),
    "alg none, with a signature": (
        lambda project, user: unsigned(claims_of(project.token(user)), {"alg": "none"}) + "c2ln",
        ("invalid_token",),
    ),
    "the anon key": (lambda project, _: project.auth.anon_key(), ("invalid_token",)),
    "the service_role key": (lambda project, _: project.auth.service_role_key(), ("invalid_token",)),
    "another project's": (of_another_project, ("invalid_token",)),
    "role service_role": (minted(role="service_role"), ("invalid_token",)),
    "role anon": (minted(role="anon"), ("invalid_token",)),
    "another audience": (minted(aud="other"), ("invalid_token",)),
    "another issuer": (minted(iss="https://other.example/auth/v1"), ("invalid_token",)),
    "a subject that is not an id": (minted(sub="' or '1'='1"), ("invalid_token",)),
    "a session that is not an id": (minted(session_id="' or '1'='1"), ("invalid_token",)),
    "signed out": (signed_out, REVOKED),
    "an unknown session": (minted(session_id=str(uuid.uuid4())), REVOKED),
    "an unknown user": (lambda project, _: project.auth.mint(uuid.uuid4(), session_id=None), REVOKED),
    "a deleted user": (of_a_deleted_user, REVOKED),
    "a softly deleted user": (of_a_softly_deleted_user, REVOKED),
    "a user deleted since, without a session": (
        lambda project, user: (of_a_deleted_user(project, user), project.token(user, session_id=None))[1],
        REVOKED,
    ),
}


class Target:
    """A job of an agency, and calls of three endpoints for it."""

    def __init__(self, project: Project) -> None:
        self.project = project
        self.user = project.database.member()
        self.job_id = project.job(self.user)
        self.connection_id = project.database.connection(self.user.agency_id)

    def colleague(self) -> User:
        return self.project.database.user(self.user.agency_id)

    def calls(self, token: str | None, **options: Any) -> list[httpx.Response]:
        body = {"connection_id": self.connection_id, **JANUARY}
        return [
            self.project.cancel(token, {"job_id": self.job_id}, **options),
            self.project.start(token, body, **options),
            self.project.get(token, self.job_id, **options),
        ]


@functools.cache
def untouched(project: Project) -> Target:
    """One target for all rejected requests, because none of them changes it."""
    return Target(project)


@pytest.mark.parametrize("name", TOKENS)
def test_token__rejected(project: Project, name: str) -> None:
    make, codes = TOKENS[name]
    target = untouched(project)
    token = make(project, target.colleague())
    with project.unchanged():
        for response in target.calls(token):
            assert response.json()["code"] in codes
            assert expect_error(response, 401, response.json()["code"]) == {}
            assert response.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize(
    "header",
    [None, "", "Bearer", "Basic dTpw", "{}", "bearer", "Token {}", "Bearer{}", "{} Bearer"],
    ids=repr,
)
def test_authorization_header__no_bearer_token(project: Project, header: str | None) -> None:
    target = untouched(project)
    headers = {} if header is None else {"authorization": header.format(project.token(target.user))}
    with project.unchanged():
        for response in target.calls(None, headers=headers | {"apikey": project.auth.anon_key()}):
            assert expect_error(response, 401, "missing_token") == {}
            assert response.headers["www-authenticate"] == "Bearer"


def test_authorization_header__two_tokens(project: Project) -> None:
    target = untouched(project)
    token = project.token(target.user)
    for response in target.calls(None, headers={"authorization": f"Bearer {token}, Bearer {token}"}):
        expect_error(response, 401, "invalid_token")


@pytest.mark.parametrize("scheme", ["Bearer", "bearer", "BEARER", "Bearer  "])
def test_authorization_header__scheme_in_any_case(project: Project, scheme: str) -> None:
    target = Target(project)
    headers = {"authorization": f"{scheme} {project.token(target.user)}"}
    assert [response.status_code for response in target.calls(None, headers=headers)] == [200, 201, 200]


def test_token__without_session_id(project: Project) -> None:
    """Allowed, because the Auth server allows it too."""
    target = Target(project)
    token = project.token(target.user, session_id=None)
    assert [response.status_code for response in target.calls(token)] == [200, 201, 200]


def test_session__sign_out_ends_only_that_session(project: Project) -> None:
    target = Target(project)
    second = project.auth.sign_in(target.user.id)
    signed_out(project, target.user)
    assert [response.status_code for response in target.calls(project.token(target.user))] == [401, 401, 401]
    assert [response.status_code for response in target.calls(second)] == [200, 201, 200]


def test_session__of_another_user(project: Project) -> None:
    target = untouched(project)
    token = project.token(target.user, session_id=target.colleague().session_id)
    with project.unchanged():
        assert [response.status_code for response in target.calls(token)] == [401, 401, 401]
