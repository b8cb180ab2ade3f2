"""Authentication: tokens that are not a signed-in user's are rejected with 401. Failures of the Auth server are 503."""

from __future__ import annotations

import base64
import contextlib
import json
import logging
import socket
import threading
import time
import traceback
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from jwt.utils import der_to_raw_signature

from functions._local.fake_auth import AuthServer
from functions._local.postgres import free_port
from functions._shared.auth import (
    MAX_TOKEN_LENGTH,
    UNKNOWN_KEY_INTERVAL_SECONDS,
    Authenticator,
    AuthUnavailable,
    Unauthorized,
)
from functions._shared.caller import Caller
from functions._shared.signing_keys import FETCH_INTERVAL_SECONDS, LIFETIME_SECONDS, MAX_KEYS
from tests.support.tokens import ISSUER, SECRET, claims_of, encoded, hmac_token, new_user
from tests.support.wsgi_server import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from contextlib import AbstractContextManager
    from wsgiref.types import StartResponse, WSGIEnvironment

    from tests.support.database import Database

Signing = Literal["ES256", "HS256"]
Check = Literal["claims", "user"]
ServerResponse = httpx.Response | Exception

JWKS, USER = "GET /auth/v1/.well-known/jwks.json", "GET /auth/v1/user"
FOREIGN_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Project:
    """A project with the fake Auth server, which records the requests."""

    auth: AuthServer
    database: Database
    user_id: str
    signing: Signing
    url: str = ""
    requests: list[str] = field(default_factory=list)
    api_keys: set[str] = field(default_factory=set)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        self.api_keys.add(environ.get("HTTP_APIKEY", ""))
        return self.auth(environ, start_response)

    def token(self, **overrides: Any) -> str:
        """A token of a session that exists, with other claims."""
        return self.auth.mint(self.user_id, **({"session_id": self.session()} | overrides))

    def session(self) -> str:
        session_id: str = claims_of(self.auth.sign_in(self.user_id))["session_id"]
        return session_id

    def public_key(self) -> dict[str, Any]:
        """The newest key of the project; invented if it has none, as by an attacker."""
        keys = self.auth._jwks()["keys"]
        return keys[-1] if keys else jwk(FOREIGN_KEY, "made-up")


def jwk(key: ec.EllipticCurvePrivateKey, kid: str) -> dict[str, Any]:
    return {**ECAlgorithm.to_jwk(key.public_key(), as_dict=True), "alg": "ES256", "use": "sig", "kid": kid}


A_USER = {
    "id": str(uuid.UUID(int=1)),
    "aud": "authenticated",
    "app_metadata": {},
    "user_metadata": {},
    "created_at": "2026-01-01T00:00:00Z",
}


@dataclass
class ScriptedServer:
    """An Auth server with one ES256 key that returns the given responses for `/user` and the JWKS."""

    user: ServerResponse = field(default_factory=lambda: httpx.Response(500))
    jwks: ServerResponse = field(default_factory=lambda: httpx.Response(500))
    paths: list[str] = field(default_factory=list)
    kid: str = "k"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, request.headers["apikey"]) == ("GET", "k")
        self.paths.append(request.url.path)
        response = self.jwks if request.url.path.endswith("jwks.json") else self.user
        if isinstance(response, Exception):
            raise response
        length = {"content-length": str(len(response.content))}
        return httpx.Response(response.status_code, headers={**response.headers, **length}, content=response.content)

    def authenticator(self, check: Check = "claims") -> Authenticator:
        transport = httpx.MockTransport(self)
        return Authenticator("https://project.example", api_key="k", check=check, http_transport=transport)

    def with_keys(self, *more: Any) -> ScriptedServer:
        self.jwks = httpx.Response(200, json={"keys": [*more, jwk(self.key, self.kid)]})
        return self

    def claims(self) -> dict[str, Any]:
        return claims_of(AuthServer("", issuer_url=ISSUER, jwt_secret=SECRET, signing="HS256").mint(str(A_USER["id"])))

    def token(self) -> str:
        return jwt.encode(self.claims(), self.key, "ES256", headers={"kid": self.kid})

    def legacy_token(self) -> str:
        return jwt.encode(self.claims(), SECRET, "HS256")


def bearer(token: str) -> str:
    return f"Bearer {token}"


def rejection_code(authenticator: Authenticator, header: str | None) -> str:
    """The code with which this header is rejected."""
    with pytest.raises(Unauthorized) as caught:
        authenticator.authenticate(header)
    assert caught.value.message.endswith(".")
    return caught.value.code


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("functions._shared.auth.monotonic", clock)
    monkeypatch.setattr("functions._shared.signing_keys.monotonic", clock)
    return clock


@pytest.fixture(scope="module")
def people(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    with clone() as database:
        yield database


@pytest.fixture(params=["ES256", "HS256"])
def project(people: Database, request: pytest.FixtureRequest) -> Iterator[Project]:
    signing: Signing = request.param
    with contextlib.closing(AuthServer(people.url, issuer_url=ISSUER, jwt_secret=SECRET, signing=signing)) as auth:
        project = Project(auth, people, new_user(people), signing)
        with serve(project) as project.url:
            yield project


only_es256 = pytest.mark.parametrize("project", ["ES256"], indirect=True)
only_hs256 = pytest.mark.parametrize("project", ["HS256"], indirect=True)


@pytest.fixture(params=["claims", "user"])
def check(request: pytest.FixtureRequest) -> Check:
    name: Check = request.param
    return name


@contextlib.contextmanager
def connected(project: Project, check: Check = "claims") -> Iterator[Authenticator]:
    authenticator = Authenticator(project.url, api_key="the-api-key", check=check, issuer=ISSUER)
    with contextlib.closing(authenticator):
        yield authenticator


@pytest.fixture
def authenticator(project: Project, check: Check) -> Iterator[Authenticator]:
    with connected(project, check) as authenticator:
        yield authenticator


def test_authenticator__signed_in_user(project: Project, authenticator: Authenticator, check: Check) -> None:
    token = project.auth.sign_in(project.user_id)
    for scheme in ("Bearer", "bearer", "BEARER "):
        assert authenticator.authenticate(f"{scheme} {token}") == Caller(token, claims_of(token))
    local = (project.signing, check) == ("ES256", "claims")
    assert project.requests == ([JWKS] if local else [USER] * 3)
    assert project.api_keys == {"the-api-key"}


def test_authenticator__default_issuer(project: Project, check: Check) -> None:
    with contextlib.closing(Authenticator(f"{project.url}/", api_key="k", check=check)) as authenticator:
        own = project.token(iss=f"{project.url}/auth/v1")
        assert authenticator.authenticate(bearer(own)).token == own
        assert rejection_code(authenticator, bearer(project.token())) == "invalid_token"


def test_authenticator__makes_its_own_connections(
    project: Project, check: Check, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with contextlib.closing(Authenticator(project.url, api_key="k", check=check, issuer=ISSUER)) as authenticator:
        assert authenticator.authenticate(bearer(project.token())).claims["sub"] == project.user_id


def test_authenticator__invalid_url() -> None:
    for url in ("http://project:not-a-port", "http://project:0", "project.example", "ftp://project", "http://", ""):
        with pytest.raises(ValueError, match=r"port|SUPABASE_URL"):
            Authenticator(url, api_key="k")


@pytest.mark.parametrize("header", [None, "", " ", "Basic YTpi", "Bearer", "Bearer ", "BearerX a.b.c", "a.b.c"])
def test_authorization_header__no_bearer_token(check: Check, header: str | None) -> None:
    server = ScriptedServer()
    assert rejection_code(server.authenticator(check), header) == "missing_token"
    assert server.paths == []


def test_scripted_server__accepts_a_good_token(check: Check) -> None:
    """The server rejects nothing by itself, so the rejections below are the authenticator's."""
    server = ScriptedServer(user=httpx.Response(200, json=A_USER)).with_keys()
    for token in (server.token(), server.legacy_token()):
        assert server.authenticator(check).authenticate(bearer(token)).token == token


GOOD_HEADER = encoded({"alg": "ES256", "typ": "JWT", "kid": "k"})

MALFORMED = {
    "one part": "nonsense",
    "opaque key": "sb_publishable_abcdefghijklmnopqrstuv",
    "two parts": f"{GOOD_HEADER}.e30",
    "four parts": f"{GOOD_HEADER}.e30.YQ.YQ",
    "empty parts": "..",
    "no signature": f"{GOOD_HEADER}.e30.",
    "not base64": f"{GOOD_HEADER}.e30.a*b",
    "impossible base64": "aaaaa.aaaaa.aaaaa",
    "padded base64": f"{GOOD_HEADER}.e30=.YQ==",
    "standard base64": f"{GOOD_HEADER}.e30.a+/b",
    "not UTF-8": f"{encoded(bytes([0xFF, 0xFE]))}.e30.YQ",
    "not JSON": f"{encoded(b'{alg}')}.e30.YQ",
    "array header": f"{encoded(['ES256'])}.e30.YQ",
    "null claims": f"{GOOD_HEADER}.{encoded(None)}.YQ",
    "array claims": f"{GOOD_HEADER}.{encoded([1])}.YQ",
    "nested too deeply": f"{encoded(b'[' * 5000)}.e30.YQ",
    "number too long": f"{GOOD_HEADER}.{encoded(b'1' * 5000)}.YQ",
}


SPOILED: Mapping[str, Callable[[str], str]] = {
    "NUL": lambda token: f"{token}\0",
    "line break": lambda token: f"{token}\r\nX-Forged: 1",
    "final line break": lambda token: f"{token}\n",
    "tab": lambda token: f"\t{token}",
    "space": lambda token: f"{token} x",
    "second token": lambda token: f"{token}, {token}",
    "beyond ASCII": lambda token: f"{token}é",
    "other digits": lambda token: f"{token}٣٣٣٣",
    "skipped by base64": lambda token: f"{token[:-1]}*{token[-1]}",
    "padding": lambda token: f"{token}==",
    "fourth part": lambda token: f"{token}.YQ",
    "twice the scheme": lambda token: f"Bearer {token}",
}


@pytest.mark.parametrize("name", SPOILED)
def test_authorization_header__extra_text_around_a_token(check: Check, name: str) -> None:
    server = ScriptedServer(user=httpx.Response(200, json=A_USER)).with_keys()
    for token in (server.token(), server.legacy_token()):
        assert rejection_code(server.authenticator(check), bearer(SPOILED[name](token))) == "invalid_token"
    assert server.paths == []


def test_token__at_most_8_kib(check: Check) -> None:
    server = ScriptedServer(user=httpx.Response(200, json=A_USER)).with_keys()
    tokens = [jwt.encode(server.claims() | {"user_metadata": "x" * size}, SECRET, "HS256") for size in (5000, 6000)]
    assert len(tokens[0]) < MAX_TOKEN_LENGTH < len(tokens[1])
    authenticator = server.authenticator(check)
    assert authenticator.authenticate(bearer(tokens[0])).token == tokens[0]
    assert rejection_code(authenticator, bearer(tokens[1])) == "invalid_token"
    assert len(server.paths) == 1


@pytest.mark.parametrize("name", MALFORMED)
def test_token__malformed_is_rejected_without_a_request(check: Check, name: str) -> None:
    server = ScriptedServer()
    assert rejection_code(server.authenticator(check), bearer(MALFORMED[name])) == "invalid_token"
    assert server.paths == []


@pytest.mark.parametrize(
    "header",
    [
        {"alg": "none"}, {"alg": "None"}, {"alg": "NONE"}, {"alg": None}, {"alg": ""}, {"alg": "es256"},
        {"alg": ["ES256"]}, {"alg": "HS384"}, {"alg": "ES384"}, {"alg": "PS256"}, {"alg": "EdDSA"}, {},
        {"alg": "ES256", "kid": 5}, {"alg": "ES256", "kid": None}, {"alg": "HS256", "kid": ["k"]},
        {"alg": "HS256", "crit": ["b64"], "b64": False},
    ],
    ids=str,
)  # fmt: skip
def test_token_header__unsupported_is_rejected_without_a_request(check: Check, header: dict[str, Any]) -> None:
    server = ScriptedServer(user=httpx.Response(200, json=A_USER)).with_keys()
    claims = server.claims()
    for kid in ({}, {"kid": server.kid}):
        message = kid | header
        for token in (hmac_token(message, claims, SECRET.encode()), f"{encoded(message)}.{encoded(claims)}."):
            assert rejection_code(server.authenticator(check), bearer(token)) == "invalid_token"
    assert server.paths == []


def swapped_signature(project: Project) -> str:
    message, _, _ = project.token().rpartition(".")
    return f"{message}.{project.token().rpartition('.')[2]}"


def swapped_claims(project: Project) -> str:
    header, _, signature = project.token().split(".")
    return f"{header}.{encoded(claims_of(project.token()))}.{signature}"


def of_foreign_key(project: Project, **headers: str) -> str:
    return jwt.encode(claims_of(project.token()), FOREIGN_KEY, "ES256", headers=headers)


def rs256_on_the_projects_kid(project: Project) -> str:
    return jwt.encode(claims_of(project.token()), RSA_KEY, "RS256", headers={"kid": project.public_key()["kid"]})


def of_public_key_as_secret(project: Project, form: Literal["pem", "jwk", "der"], *, kid: bool) -> str:
    key = project.public_key()
    public: ec.EllipticCurvePublicKey = jwt.PyJWK(key).key
    secret = {
        "pem": public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo),
        "der": public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "jwk": json.dumps(key).encode(),
    }[form]
    return hmac_token({"alg": "HS256"} | ({"kid": key["kid"]} if kid else {}), claims_of(project.token()), secret)


FORGED: Mapping[str, Callable[[Project], str]] = {
    "signature of another token": swapped_signature,
    "claims of another token": swapped_claims,
    "foreign key, same kid": lambda p: of_foreign_key(p, kid=p.public_key()["kid"]),
    "foreign key, other kid": lambda p: of_foreign_key(p, kid="other"),
    "foreign key, empty kid": lambda p: of_foreign_key(p, kid=""),
    "foreign key, no kid": of_foreign_key,
    "RS256 on the kid of an ES256 key": rs256_on_the_projects_kid,
    "PEM as secret": lambda p: of_public_key_as_secret(p, "pem", kid=False),
    "PEM as secret, with kid": lambda p: of_public_key_as_secret(p, "pem", kid=True),
    "DER as secret": lambda p: of_public_key_as_secret(p, "der", kid=True),
    "JWK as secret": lambda p: of_public_key_as_secret(p, "jwk", kid=True),
    "another secret": lambda p: hmac_token({"alg": "HS256"}, claims_of(p.token()), b"another"),
    "empty secret": lambda p: hmac_token({"alg": "HS256"}, claims_of(p.token()), b""),
    "ES256 signed with the secret": lambda p: hmac_token(
        {"alg": "ES256", "kid": p.public_key()["kid"]}, claims_of(p.token()), SECRET.encode()
    ),
}


@pytest.mark.parametrize("name", FORGED)
def test_token__forged(project: Project, authenticator: Authenticator, name: str) -> None:
    assert rejection_code(authenticator, bearer(FORGED[name](project))) == "invalid_token"


@only_es256
def test_token__without_public_key_is_verified_by_the_auth_server(project: Project) -> None:
    """Asymmetric tokens without a kid, and all HS256 tokens, are verified by the Auth server and not with the JWKS."""
    with connected(project) as authenticator:
        rejection_code(authenticator, bearer(of_foreign_key(project)))
        rejection_code(authenticator, bearer(of_public_key_as_secret(project, "pem", kid=True)))
    assert project.requests == [USER, USER]


@only_es256
def test_token__legacy_secret_while_a_project_rotates_keys(project: Project, check: Check) -> None:
    legacy = hmac_token({"alg": "HS256", "typ": "JWT"}, claims_of(project.token()), SECRET.encode())
    with connected(project, check) as authenticator:
        assert authenticator.authenticate(bearer(legacy)).token == legacy
    assert project.requests == [USER]


def test_token__expired(project: Project, authenticator: Authenticator) -> None:
    assert rejection_code(authenticator, bearer(project.token(lifetime=-1))) == "expired_token"
    assert project.requests == []


def test_token__api_keys_of_the_project(project: Project, authenticator: Authenticator) -> None:
    for key in (project.auth.anon_key(), project.auth.service_role_key()):
        assert rejection_code(authenticator, bearer(key)) == "invalid_token"
    assert project.requests == []


IN_AN_HOUR = time.time() + 3600
WRONG_VALUES: Mapping[str, list[Any]] = {
    "aud": ["anon", "", None, 5, [], ["other"], {"authenticated": 1}, [["authenticated"]]],
    "iss": ["https://other.example/auth/v1", "supabase", f"{ISSUER}/", "", 5, [ISSUER]],
    "role": ["anon", "service_role", "postgres", "", None, ["authenticated"]],
    "sub": ["", "someone", None, 5, uuid.UUID(int=7).hex, f"{{{uuid.UUID(int=7)}}}"],
    "session_id": ["", "some", None, 5, "0" * 36, f"{uuid.UUID(int=7)}\n"],
    "exp": [True, "9999999999", None, [9999999999], {}, 10**20, 1e300, -1, 0, float("nan"), float("inf")],
    "nbf": [True, "0", None, float("nan"), 10**20, IN_AN_HOUR],
}
WRONG_CLAIMS = [(claim, value) for claim, values in WRONG_VALUES.items() for value in values]


@pytest.mark.parametrize(
    ("claim", "value"), WRONG_CLAIMS, ids=lambda value: "in an hour" if value is IN_AN_HOUR else str(value)
)
def test_claims__wrong_value_with_a_good_signature(check: Check, claim: str, value: Any) -> None:
    server = ScriptedServer(user=httpx.Response(200, json=A_USER)).with_keys()
    claims = json.dumps(server.claims() | {claim: value}).encode()
    local = jwt.api_jws.encode(claims, server.key, "ES256", headers={"kid": server.kid})
    for token in (local, hmac_token({"alg": "HS256"}, json.loads(claims), SECRET.encode())):
        assert rejection_code(server.authenticator(check), bearer(token)) == "invalid_token"
    assert server.paths == []


@pytest.mark.parametrize("claim", ["aud", "iss", "role", "sub", "exp"])
def test_claims__missing(project: Project, authenticator: Authenticator, claim: str) -> None:
    assert rejection_code(authenticator, bearer(project.token(**{claim: None}))) == "invalid_token"


def test_claims__unusual_and_valid(project: Project, authenticator: Authenticator) -> None:
    now = int(time.time())
    for overrides in (
        {"aud": ["other", "authenticated"]},
        {"session_id": None},
        {"nbf": now - 5},
        {"is_anonymous": True},
    ):
        token = project.token(**overrides)
        assert authenticator.authenticate(bearer(token)).token == token


@only_es256
def test_claims__nbf_within_the_clock_leeway(project: Project) -> None:
    with connected(project) as authenticator:
        token = project.token(nbf=int(time.time()) + 5)
        assert authenticator.authenticate(bearer(token)).token == token


def test_errors__never_contain_the_token(
    project: Project, authenticator: Authenticator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    good, forged = project.token(), swapped_signature(project)
    text = repr(authenticator.authenticate(bearer(good)))
    for token in (forged, project.token(lifetime=-1), "secret-nonsense", project.auth.mint(project.user_id, aud="x")):
        with pytest.raises(Unauthorized) as caught:
            authenticator.authenticate(bearer(token))
        text += "".join(traceback.format_exception(caught.value)) + caught.value.message + repr(caught.value)
        assert caught.value.__context__ is None
        assert token.rpartition(".")[2] not in text + caplog.text
    assert good.rpartition(".")[2] not in text + caplog.text


def end(project: Project, how: str) -> str:
    """A token whose session was signed out or whose user was deleted after it was issued."""
    user_id = new_user(project.database)
    token = project.auth.sign_in(user_id)
    if how == "signed out":
        project.auth.sign_out(token)
    else:
        project.database.admin.execute("delete from auth.users where id = %s", (user_id,))
    return token


@pytest.mark.parametrize("how", ["signed out", "deleted"])
def test_session__ended(project: Project, authenticator: Authenticator, check: Check, how: str) -> None:
    token = end(project, how)
    if (project.signing, check) == ("ES256", "claims"):
        # By design: verified without a round trip, so only the database notices the end of the session.
        assert authenticator.authenticate(bearer(token)).token == token
        assert USER not in project.requests
    else:
        assert rejection_code(authenticator, bearer(token)) == "revoked_token"


@only_es256
def test_signing_keys__known_kid_needs_no_request(project: Project) -> None:
    with connected(project) as authenticator:
        for _ in range(5):
            authenticator.authenticate(bearer(project.token()))
    assert project.requests == [JWKS]


@only_es256
def test_signing_keys__unknown_kids_fetch_once_per_interval(project: Project, clock: Clock) -> None:
    with connected(project) as authenticator:
        authenticator.authenticate(bearer(project.token()))
        clock.now += FETCH_INTERVAL_SECONDS
        for expected in (2, 3):
            for number in range(20):
                token = of_foreign_key(project, kid=f"unknown-{number}")
                assert rejection_code(authenticator, bearer(token)) == "invalid_token"
            assert project.requests == [JWKS] + [JWKS, USER] * (expected - 1)
            clock.now += FETCH_INTERVAL_SECONDS


@only_es256
def test_signing_keys__not_fetched_for_wrong_claims(project: Project) -> None:
    with connected(project) as authenticator:
        claims = claims_of(project.token(aud="other"))
        rejection_code(authenticator, bearer(jwt.encode(claims, FOREIGN_KEY, "ES256", headers={"kid": "unknown"})))
    assert project.requests == []


@only_hs256
def test_signing_keys__empty_set_is_cached(project: Project) -> None:
    with connected(project) as authenticator:
        for number in range(5):
            assert rejection_code(authenticator, bearer(of_foreign_key(project, kid=f"k{number}"))) == "invalid_token"
    assert project.requests == [JWKS, USER]


def test_signing_keys__rotated(project: Project, clock: Clock) -> None:
    with connected(project) as authenticator:
        old = project.token()
        authenticator.authenticate(bearer(old))
        project.auth.rotate_key()
        clock.now += FETCH_INTERVAL_SECONDS
        for token in (project.token(), old, project.token()):
            assert authenticator.authenticate(bearer(token)).token == token
    fetches = 2 if project.signing == "ES256" else 1
    assert project.requests.count(JWKS) == fetches


# Responses that an Auth server should not send, and that occur.

HTML = {"content-type": "text/html"}
NOT_VALID = httpx.Response(403, json={"code": "bad_jwt", "message": "invalid JWT"})
UNAVAILABLE: Mapping[str, ServerResponse] = {
    "500 html": httpx.Response(500, headers=HTML, content=b"<h1>Oops</h1>"),
    "500 json": httpx.Response(500, json={"code": 500, "error_code": "unexpected_failure", "msg": "Oops"}),
    "500 bad_jwt": httpx.Response(500, json={"code": 500, "error_code": "bad_jwt", "msg": "Oops"}),
    "500 empty": httpx.Response(500),
    "501 html": httpx.Response(501, headers=HTML, content=b"<h1>Oops</h1>"),
    "502 html": httpx.Response(502, headers=HTML, content=b"<h1>Bad gateway</h1>"),
    "503 json": httpx.Response(503, json={"msg": "Later"}),
    "503 array": httpx.Response(503, json=["Later"]),
    "504 empty": httpx.Response(504),
    "520 html": httpx.Response(520, headers=HTML, content=b"<h1>Unknown</h1>"),
    "429 json": httpx.Response(429, json={"code": 429, "error_code": "over_request_rate_limit", "msg": "Slowly"}),
    "429 html": httpx.Response(429, headers=HTML, content=b"<h1>Slowly</h1>"),
    "429 weak password": httpx.Response(429, json={"weak_password": {"reasons": ["length"]}, "msg": "Slowly"}),
    "no connection": httpx.ConnectError("refused"),
    "no response": httpx.ReadTimeout("late"),
    "no free connection": httpx.PoolTimeout("busy"),
    "half a response": httpx.RemoteProtocolError("closed"),
}


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_auth_server__unavailable(name: str) -> None:
    server = ScriptedServer(user=UNAVAILABLE[name], jwks=UNAVAILABLE[name])
    for check, token in (("claims", server.legacy_token()), ("user", server.token()), ("claims", server.token())):
        with pytest.raises(AuthUnavailable) as caught:
            server.authenticator("user" if check == "user" else "claims").authenticate(bearer(token))
        assert token not in "".join(traceback.format_exception(caught.value))
    assert [path.rpartition("/")[2] for path in server.paths] == ["user", "user", "jwks.json"]


REJECTED: Mapping[str, tuple[ServerResponse, str]] = {
    "403": (httpx.Response(403, json={"code": 403, "error_code": "bad_jwt", "msg": "no"}), "invalid_token"),
    "403 html": (httpx.Response(403, headers=HTML, content=b"<h1>no</h1>"), "invalid_token"),
    "401": (httpx.Response(401, json={"message": "Invalid API key"}), "invalid_token"),
    "400": (httpx.Response(400, json=["no"]), "invalid_token"),
    "302": (httpx.Response(302, headers={"location": "https://elsewhere.example/"}), "invalid_token"),
    "200 html": (httpx.Response(200, headers=HTML, content=b"<h1>Log in</h1>"), "invalid_token"),
    "200 no user": (httpx.Response(200, json={}), "invalid_token"),
    "200 another user": (httpx.Response(200, json={**A_USER, "id": str(uuid.UUID(int=2))}), "invalid_token"),
    "session": (httpx.Response(403, json={"code": 403, "error_code": "session_not_found"}), "revoked_token"),
    "user, newer form": (
        httpx.Response(403, headers={"x-supabase-api-version": "2024-01-01"}, json={"code": "user_not_found"}),
        "revoked_token",
    ),
}


@pytest.mark.parametrize("name", REJECTED)
def test_auth_server__other_responses_reject_the_token(name: str, check: Check) -> None:
    response, code = REJECTED[name]
    server = ScriptedServer(user=response)
    assert rejection_code(server.authenticator(check), bearer(server.legacy_token())) == code
    assert len(server.paths) == 1


def test_auth_server__connection_refused() -> None:
    server = ScriptedServer()
    authenticator = Authenticator(f"http://127.0.0.1:{free_port()}", api_key="k", issuer=ISSUER)
    for token in (server.token(), server.legacy_token()):
        with pytest.raises(AuthUnavailable):
            authenticator.authenticate(bearer(token))


def test_auth_server__never_responds() -> None:
    server = ScriptedServer()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with contextlib.closing(Authenticator(url, api_key="k", issuer=ISSUER, read_seconds=0.2)) as authenticator:
            for token in (server.token(), server.legacy_token()):
                with pytest.raises(AuthUnavailable):
                    authenticator.authenticate(bearer(token))


@pytest.mark.parametrize("content", [b"", b"<h1>Hi</h1>", b"[]", b"{}", b'{"keys": null}', b'{"keys": ["k"]}', b"5"])
def test_signing_keys__malformed_set_is_unavailable(content: bytes) -> None:
    server = ScriptedServer(jwks=httpx.Response(200, content=content))
    with pytest.raises(AuthUnavailable):
        server.authenticator().authenticate(bearer(server.token()))


def test_signing_keys__kept_while_the_auth_server_is_down(clock: Clock) -> None:
    server = ScriptedServer().with_keys()
    authenticator = server.authenticator()
    authenticator.authenticate(bearer(server.token()))
    server.jwks = httpx.ConnectError("refused")
    clock.now += LIFETIME_SECONDS
    for _ in range(5):
        authenticator.authenticate(bearer(server.token()))
    assert len(server.paths) == 2
    server.kid = "new"
    # The project may have made the key during the outage, so an unknown key is not invalid.
    with pytest.raises(AuthUnavailable):
        authenticator.authenticate(bearer(server.token()))
    assert len(server.paths) == 2
    server.with_keys()
    clock.now += FETCH_INTERVAL_SECONDS
    assert authenticator.authenticate(bearer(server.token()))
    server.kid = "unknown"
    server.user = NOT_VALID
    assert rejection_code(authenticator, bearer(server.token())) == "invalid_token"


def test_signing_keys__failed_first_fetch_is_not_repeated_at_once(clock: Clock) -> None:
    server = ScriptedServer()
    authenticator = server.authenticator()
    for _ in range(5):
        with pytest.raises(AuthUnavailable):
            authenticator.authenticate(bearer(server.token()))
    assert len(server.paths) == 1
    server.with_keys()
    clock.now += FETCH_INTERVAL_SECONDS
    assert authenticator.authenticate(bearer(server.token()))


def test_signing_keys__withdrawn_key(clock: Clock) -> None:
    server = ScriptedServer().with_keys()
    authenticator = server.authenticator()
    old = server.token()
    authenticator.authenticate(bearer(old))
    server.kid, server.user = "new", NOT_VALID
    server.with_keys()
    clock.now += LIFETIME_SECONDS
    assert rejection_code(authenticator, bearer(old)) == "invalid_token"
    assert authenticator.authenticate(bearer(server.token()))


def oct_key(algorithm: str) -> dict[str, Any]:
    secret = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    return {"kty": "oct", "kid": "shared", "alg": algorithm, "k": secret}


@pytest.mark.parametrize("algorithm", ["HS256", "ES256", "RS256"])
def test_signing_keys__shared_secret_in_the_set(algorithm: str) -> None:
    server = ScriptedServer(user=httpx.Response(403, json={"error_code": "bad_jwt", "msg": "no"})).with_keys(
        oct_key(algorithm)
    )
    token = hmac_token({"alg": algorithm, "kid": "shared"}, server.claims(), SECRET.encode())
    assert rejection_code(server.authenticator(), bearer(token)) == "invalid_token"
    assert server.paths == ["/auth/v1/user" if algorithm == "HS256" else "/auth/v1/.well-known/jwks.json"]


@pytest.mark.parametrize(
    "change",
    [{"alg": "RS256"}, {"alg": "HS256"}, {"alg": None}, {"use": "enc"}, {"kty": "RSA"}, {"crv": "P-384"}, {"kid": 5}],
    ids=str,
)
def test_signing_keys__key_for_another_use(change: dict[str, Any]) -> None:
    server = ScriptedServer(user=NOT_VALID)
    server.jwks = httpx.Response(200, json={"keys": [jwk(server.key, server.kid) | change]})
    assert rejection_code(server.authenticator(), bearer(server.token())) == "invalid_token"
    # The Auth server is called only for a kid that is not in the set.
    assert ("/auth/v1/user" in server.paths) == ("kid" in change)


def test_signing_keys__key_on_another_curve() -> None:
    """The client would accept it, because it takes the hash from ES256 and the curve from the key."""
    key = ec.generate_private_key(ec.SECP384R1())
    server = ScriptedServer().with_keys(jwk(key, "p384"))
    message = f"{encoded({'alg': 'ES256', 'kid': 'p384'})}.{encoded(server.claims())}"
    signature = der_to_raw_signature(key.sign(message.encode(), ec.ECDSA(hashes.SHA256())), key.curve)
    assert rejection_code(server.authenticator(), bearer(f"{message}.{encoded(signature)}")) == "invalid_token"
    assert len(server.paths) == 1


def signed(alg: str, kid: str, claims: dict[str, Any], algorithm: Any, key: Any) -> str:
    """A token that names `alg` and is signed with another algorithm."""
    message = f"{encoded({'alg': alg, 'kid': kid})}.{encoded(claims)}"
    return f"{message}.{encoded(algorithm.sign(message.encode(), key))}"


def test_signing_keys__key_of_another_algorithm() -> None:
    rsa_key = {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "alg": "RS256", "kid": "rsa"}
    server = ScriptedServer().with_keys(rsa_key)
    authenticator = server.authenticator()
    own = jwt.encode(server.claims(), RSA_KEY, "RS256", headers={"kid": "rsa"})
    assert authenticator.authenticate(bearer(own)).token == own
    crossed = [
        jwt.encode(server.claims(), RSA_KEY, "RS256", headers={"kid": server.kid}),
        jwt.encode(server.claims(), server.key, "ES256", headers={"kid": "rsa"}),
        # Signed with a key by an algorithm that is not the key's.
        signed("ES256", "rsa", server.claims(), jwt.get_algorithm_by_name("RS256"), RSA_KEY),
        signed("RS256", server.kid, server.claims(), jwt.get_algorithm_by_name("ES256"), server.key),
    ]
    assert [rejection_code(authenticator, bearer(token)) for token in crossed] == ["invalid_token"] * 4
    assert len(server.paths) == 1


@dataclass
class SlowServer(ScriptedServer):
    """Holds back its responses until `release` is set."""

    entered: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.entered.set()
        assert self.release.wait(30)
        return super().__call__(request)


def test_signing_keys__concurrent_callers_fetch_once() -> None:
    server = SlowServer()
    authenticator = server.with_keys().authenticator()
    callers: list[Caller] = []

    def call() -> None:
        callers.append(authenticator.authenticate(bearer(server.token())))

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    assert server.entered.wait(30)
    time.sleep(0.2)  # lets the other threads start, because otherwise the test could pass without concurrency
    server.release.set()
    for thread in threads:
        thread.join(30)
    assert len(callers) == 12
    assert len(server.paths) == 1


def test_signing_keys__refresh_does_not_block_other_callers(clock: Clock) -> None:
    server = SlowServer()
    server.release.set()
    authenticator = server.with_keys().authenticator()
    authenticator.authenticate(bearer(server.token()))
    clock.now += LIFETIME_SECONDS
    server.entered.clear()
    server.release.clear()
    refresher = threading.Thread(target=authenticator.authenticate, args=[bearer(server.token())])
    refresher.start()
    try:
        assert server.entered.wait(30)
        assert authenticator.authenticate(bearer(server.token()))
    finally:
        server.release.set()
        refresher.join(30)
    assert len(server.paths) == 2


# Limits of the supabase_auth client


def test_unknown_key__checked_by_the_auth_server_once_per_interval(clock: Clock) -> None:
    """Caches may serve an old key set, which lacks a key that already signs."""
    server = ScriptedServer(user=httpx.Response(200, json=A_USER)).with_keys()
    authenticator = server.authenticator()
    server.kid = "newer than the set"
    for expected in (1, 2):
        assert authenticator.authenticate(bearer(server.token()))
        assert rejection_code(authenticator, bearer(server.token())) == "invalid_token"
        assert server.paths.count("/auth/v1/user") == expected
        clock.now += UNKNOWN_KEY_INTERVAL_SECONDS


@pytest.mark.parametrize(
    "claims",
    [{"aal": "aal3"}, {"amr": ["password"]}, {"exp": IN_AN_HOUR}, {"iat": 1.5}, {"auth": {"by": "a hook"}}],
    ids=lambda claims: next(iter(claims)),
)
@pytest.mark.parametrize("user", [A_USER, {**A_USER, "id": str(uuid.UUID(int=2))}], ids=["their own", "another's"])
def test_claims__rejected_by_the_clients_model(claims: dict[str, Any], user: dict[str, Any]) -> None:
    server = ScriptedServer(user=httpx.Response(200, json=user)).with_keys()
    header = {"kid": server.kid}
    token = jwt.encode(server.claims() | claims, server.key, "ES256", headers=header)
    if user is A_USER:
        assert server.authenticator().authenticate(bearer(token)).token == token
    else:
        assert rejection_code(server.authenticator(), bearer(token)) == "invalid_token"
    assert server.paths[-1] == "/auth/v1/user"


@pytest.mark.parametrize("identity", [{"id": "1"}, {"id": "1", "user_id": None}, "odd"], ids=str)
def test_user__rejected_by_the_clients_model(check: Check, identity: Any) -> None:
    server = ScriptedServer(user=httpx.Response(200, json={**A_USER, "identities": [identity]})).with_keys()
    assert server.authenticator(check).authenticate(bearer(server.legacy_token()))
    server.user = httpx.Response(200, json={**A_USER, "id": str(uuid.UUID(int=2)), "identities": [identity]})
    assert rejection_code(server.authenticator(check), bearer(server.legacy_token())) == "invalid_token"


def test_signing_keys__too_many() -> None:
    server = ScriptedServer().with_keys(*({"kid": str(number)} for number in range(MAX_KEYS)))
    with pytest.raises(AuthUnavailable):
        server.authenticator().authenticate(bearer(server.token()))


def test_signing_keys__wrong_numbers() -> None:
    server = ScriptedServer()
    server.jwks = httpx.Response(200, json={"keys": [jwk(server.key, server.kid) | {"x": "AA"}]})
    assert rejection_code(server.authenticator(), bearer(server.token())) == "invalid_token"


CHANGED_SIGNATURES: Mapping[str, Callable[[bytes], bytes]] = {
    "first bit": lambda signature: bytes([signature[0] ^ 0x80]) + signature[1:],
    "last bit": lambda signature: signature[:-1] + bytes([signature[-1] ^ 1]),
    "zeros": lambda signature: bytes(len(signature)),
    "too short": lambda signature: signature[:-1],
    "too long": lambda signature: signature + b"\0",
    "a zero before its second number": lambda signature: signature[:32] + b"\0" + signature[32:],
}


@pytest.mark.parametrize("name", CHANGED_SIGNATURES)
@pytest.mark.parametrize("algorithm", ["ES256", "RS256"])
def test_signature__changed_by_a_bit(algorithm: str, name: str) -> None:
    rsa_key = {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "alg": "RS256", "kid": "rsa"}
    server = ScriptedServer().with_keys(rsa_key)
    key, kid = (server.key, server.kid) if algorithm == "ES256" else (RSA_KEY, "rsa")
    token = jwt.encode(server.claims(), key, algorithm, headers={"kid": kid})
    assert server.authenticator().authenticate(bearer(token))
    message, _, signature = token.rpartition(".")
    changed = CHANGED_SIGNATURES[name](base64.urlsafe_b64decode(signature + "=="))
    assert rejection_code(server.authenticator(), bearer(f"{message}.{encoded(changed)}")) == "invalid_token"


def test_auth_server__response_without_content_length() -> None:
    def cut(request: httpx.Request) -> httpx.Response:
        response = httpx.Response(200, json=A_USER)
        del response.headers["content-length"]
        return response

    token = ScriptedServer().legacy_token()
    authenticator = Authenticator("https://project.example", api_key="k", http_transport=httpx.MockTransport(cut))
    with pytest.raises(AuthUnavailable):
        authenticator.authenticate(bearer(token))
