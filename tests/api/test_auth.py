"""Who is calling: every token that is not a signed-in user's is refused, and only the Auth server's faults are 503."""

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
Answer = httpx.Response | Exception

JWKS, USER = "GET /auth/v1/.well-known/jwks.json", "GET /auth/v1/user"
FOREIGN_KEY = ec.generate_private_key(ec.SECP256R1())
RSA_KEY = rsa.generate_private_key(public_exponent=65537, key_size=2048)


@dataclass
class Project:
    """A project whose Auth server is the stand-in, and what was asked of it."""

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
        """The newest key of the project; made up where it has none, as an attacker would."""
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
class OddServer:
    """An Auth server with one ES256 key that answers `/user` and the JWKS as it is told."""

    user: Answer = field(default_factory=lambda: httpx.Response(500))
    jwks: Answer = field(default_factory=lambda: httpx.Response(500))
    asked: list[str] = field(default_factory=list)
    kid: str = "k"
    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert (request.method, request.headers["apikey"]) == ("GET", "k")
        self.asked.append(request.url.path)
        answer = self.jwks if request.url.path.endswith("jwks.json") else self.user
        if isinstance(answer, Exception):
            raise answer
        length = {"content-length": str(len(answer.content))}
        return httpx.Response(answer.status_code, headers={**answer.headers, **length}, content=answer.content)

    def authenticator(self, check: Check = "claims") -> Authenticator:
        transport = httpx.MockTransport(self)
        return Authenticator("https://project.example", api_key="k", check=check, http_transport=transport)

    def with_keys(self, *more: Any) -> OddServer:
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


def refusal(authenticator: Authenticator, header: str | None) -> str:
    """The code with which this header is refused."""
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
    made = Authenticator(project.url, api_key="the-api-key", check=check, issuer=ISSUER)
    with contextlib.closing(made):
        yield made


@pytest.fixture
def authenticator(project: Project, check: Check) -> Iterator[Authenticator]:
    with connected(project, check) as authenticator:
        yield authenticator


def test_a_signed_in_user_is_the_caller(project: Project, authenticator: Authenticator, check: Check) -> None:
    token = project.auth.sign_in(project.user_id)
    for scheme in ("Bearer", "bearer", "BEARER "):
        assert authenticator.authenticate(f"{scheme} {token}") == Caller(token, claims_of(token))
    local = (project.signing, check) == ("ES256", "claims")
    assert project.requests == ([JWKS] if local else [USER] * 3)
    assert project.api_keys == {"the-api-key"}


def test_the_issuer_is_the_projects_own_unless_given(project: Project, check: Check) -> None:
    with contextlib.closing(Authenticator(f"{project.url}/", api_key="k", check=check)) as authenticator:
        own = project.token(iss=f"{project.url}/auth/v1")
        assert authenticator.authenticate(bearer(own)).token == own
        assert refusal(authenticator, bearer(project.token())) == "invalid_token"


def test_it_brings_its_own_connections(project: Project, check: Check, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "*")
    with contextlib.closing(Authenticator(project.url, api_key="k", check=check, issuer=ISSUER)) as authenticator:
        assert authenticator.authenticate(bearer(project.token())).claims["sub"] == project.user_id


def test_a_wrong_url_fails_at_the_start() -> None:
    for url in ("http://project:not-a-port", "http://project:0", "project.example", "ftp://project", "http://", ""):
        with pytest.raises(ValueError, match=r"port|SUPABASE_URL"):
            Authenticator(url, api_key="k")


@pytest.mark.parametrize("header", [None, "", " ", "Basic YTpi", "Bearer", "Bearer ", "BearerX a.b.c", "a.b.c"])
def test_no_bearer_token(check: Check, header: str | None) -> None:
    server = OddServer()
    assert refusal(server.authenticator(check), header) == "missing_token"
    assert server.asked == []


def test_a_good_token_passes_the_odd_server(check: Check) -> None:
    """So that the refusals below are none of its doing."""
    server = OddServer(user=httpx.Response(200, json=A_USER)).with_keys()
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
def test_nothing_is_read_around_a_good_token(check: Check, name: str) -> None:
    server = OddServer(user=httpx.Response(200, json=A_USER)).with_keys()
    for token in (server.token(), server.legacy_token()):
        assert refusal(server.authenticator(check), bearer(SPOILED[name](token))) == "invalid_token"
    assert server.asked == []


def test_a_token_has_room_for_8_kib(check: Check) -> None:
    server = OddServer(user=httpx.Response(200, json=A_USER)).with_keys()
    tokens = [jwt.encode(server.claims() | {"user_metadata": "x" * size}, SECRET, "HS256") for size in (5000, 6000)]
    assert len(tokens[0]) < MAX_TOKEN_LENGTH < len(tokens[1])
    authenticator = server.authenticator(check)
    assert authenticator.authenticate(bearer(tokens[0])).token == tokens[0]
    assert refusal(authenticator, bearer(tokens[1])) == "invalid_token"
    assert len(server.asked) == 1


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_token_is_refused_without_asking_anyone(check: Check, name: str) -> None:
    server = OddServer()
    assert refusal(server.authenticator(check), bearer(MALFORMED[name])) == "invalid_token"
    assert server.asked == []


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
def test_other_headers_are_refused_without_asking_anyone(check: Check, header: dict[str, Any]) -> None:
    server = OddServer(user=httpx.Response(200, json=A_USER)).with_keys()
    claims = server.claims()
    for kid in ({}, {"kid": server.kid}):
        message = kid | header
        for token in (hmac_token(message, claims, SECRET.encode()), f"{encoded(message)}.{encoded(claims)}."):
            assert refusal(server.authenticator(check), bearer(token)) == "invalid_token"
    assert server.asked == []


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
def test_a_forged_token_is_refused(project: Project, authenticator: Authenticator, name: str) -> None:
    assert refusal(authenticator, bearer(FORGED[name](project))) == "invalid_token"


@only_es256
def test_the_jwks_never_verifies_a_token_that_the_client_takes_elsewhere(project: Project) -> None:
    """Asymmetric without kid, and every HS256, are the Auth server's to judge: it is asked, the keys are not."""
    with connected(project) as authenticator:
        refusal(authenticator, bearer(of_foreign_key(project)))
        refusal(authenticator, bearer(of_public_key_as_secret(project, "pem", kid=True)))
    assert project.requests == [USER, USER]


@only_es256
def test_legacy_tokens_go_on_while_a_project_rotates(project: Project, check: Check) -> None:
    legacy = hmac_token({"alg": "HS256", "typ": "JWT"}, claims_of(project.token()), SECRET.encode())
    with connected(project, check) as authenticator:
        assert authenticator.authenticate(bearer(legacy)).token == legacy
    assert project.requests == [USER]


def test_an_expired_token(project: Project, authenticator: Authenticator) -> None:
    assert refusal(authenticator, bearer(project.token(lifetime=-1))) == "expired_token"
    assert project.requests == []


def test_api_keys_are_no_users(project: Project, authenticator: Authenticator) -> None:
    for key in (project.auth.anon_key(), project.auth.service_role_key()):
        assert refusal(authenticator, bearer(key)) == "invalid_token"
    assert project.requests == []


IN_AN_HOUR = time.time() + 3600
WRONG_VALUES: Mapping[str, list[Any]] = {
    "aud": ["anon", "", None, 5, [], ["other"], {"authenticated": 1}, [["authenticated"]]],
    "iss": ["https://other.example/auth/v1", "supabase", f"{ISSUER}/", "", 5, [ISSUER]],
    "role": ["anon", "service_role", "postgres", "", None, ["authenticated"]],
    "sub": ["", "somebody", None, 5, uuid.UUID(int=7).hex, f"{{{uuid.UUID(int=7)}}}"],
    "session_id": ["", "some", None, 5, "0" * 36, f"{uuid.UUID(int=7)}\n"],
    "exp": [True, "9999999999", None, [9999999999], {}, 10**20, 1e300, -1, 0, float("nan"), float("inf")],
    "nbf": [True, "0", None, float("nan"), 10**20, IN_AN_HOUR],
}
WRONG_CLAIMS = [(claim, value) for claim, values in WRONG_VALUES.items() for value in values]


@pytest.mark.parametrize(
    ("claim", "value"), WRONG_CLAIMS, ids=lambda value: "in an hour" if value is IN_AN_HOUR else str(value)
)
def test_wrong_claims_are_refused_though_well_signed(check: Check, claim: str, value: Any) -> None:
    server = OddServer(user=httpx.Response(200, json=A_USER)).with_keys()
    claims = json.dumps(server.claims() | {claim: value}).encode()
    local = jwt.api_jws.encode(claims, server.key, "ES256", headers={"kid": server.kid})
    for token in (local, hmac_token({"alg": "HS256"}, json.loads(claims), SECRET.encode())):
        assert refusal(server.authenticator(check), bearer(token)) == "invalid_token"
    assert server.asked == []


@pytest.mark.parametrize("claim", ["aud", "iss", "role", "sub", "exp"])
def test_missing_claims_are_refused(project: Project, authenticator: Authenticator, claim: str) -> None:
    assert refusal(authenticator, bearer(project.token(**{claim: None}))) == "invalid_token"


def test_unusual_claims_that_are_right(project: Project, authenticator: Authenticator) -> None:
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
def test_a_clock_that_runs_behind_is_forgiven_for_seconds(project: Project) -> None:
    with connected(project) as authenticator:
        token = project.token(nbf=int(time.time()) + 5)
        assert authenticator.authenticate(bearer(token)).token == token


def test_no_message_and_no_log_holds_the_token(
    project: Project, authenticator: Authenticator, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    good, forged = project.token(), swapped_signature(project)
    said = repr(authenticator.authenticate(bearer(good)))
    for token in (forged, project.token(lifetime=-1), "secret-nonsense", project.auth.mint(project.user_id, aud="x")):
        with pytest.raises(Unauthorized) as caught:
            authenticator.authenticate(bearer(token))
        said += "".join(traceback.format_exception(caught.value)) + caught.value.message + repr(caught.value)
        assert caught.value.__context__ is None
        assert token.rpartition(".")[2] not in said + caplog.text
    assert good.rpartition(".")[2] not in said + caplog.text


def end(project: Project, how: str) -> str:
    """A token whose session was signed out, or whose user was deleted, since."""
    user_id = new_user(project.database)
    token = project.auth.sign_in(user_id)
    if how == "signed out":
        project.auth.sign_out(token)
    else:
        project.database.admin.execute("delete from auth.users where id = %s", (user_id,))
    return token


@pytest.mark.parametrize("how", ["signed out", "deleted"])
def test_an_ended_session_is_refused_where_the_auth_server_is_asked(
    project: Project, authenticator: Authenticator, check: Check, how: str
) -> None:
    token = end(project, how)
    if (project.signing, check) == ("ES256", "claims"):
        # By design: verified without a round trip, so the end of the session is the database's to see.
        assert authenticator.authenticate(bearer(token)).token == token
        assert USER not in project.requests
    else:
        assert refusal(authenticator, bearer(token)) == "revoked_token"


@only_es256
def test_a_known_kid_costs_no_round_trip(project: Project) -> None:
    with connected(project) as authenticator:
        for _ in range(5):
            authenticator.authenticate(bearer(project.token()))
    assert project.requests == [JWKS]


@only_es256
def test_unknown_kids_fetch_the_keys_once_per_interval(project: Project, clock: Clock) -> None:
    with connected(project) as authenticator:
        authenticator.authenticate(bearer(project.token()))
        clock.now += FETCH_INTERVAL_SECONDS
        for expected in (2, 3):
            for number in range(20):
                token = of_foreign_key(project, kid=f"unknown-{number}")
                assert refusal(authenticator, bearer(token)) == "invalid_token"
            assert project.requests == [JWKS] + [JWKS, USER] * (expected - 1)
            clock.now += FETCH_INTERVAL_SECONDS


@only_es256
def test_a_token_with_wrong_claims_does_not_fetch_keys(project: Project) -> None:
    with connected(project) as authenticator:
        claims = claims_of(project.token(aud="other"))
        refusal(authenticator, bearer(jwt.encode(claims, FOREIGN_KEY, "ES256", headers={"kid": "unknown"})))
    assert project.requests == []


@only_hs256
def test_an_empty_key_set_is_remembered(project: Project) -> None:
    with connected(project) as authenticator:
        for number in range(5):
            assert refusal(authenticator, bearer(of_foreign_key(project, kid=f"k{number}"))) == "invalid_token"
    assert project.requests == [JWKS, USER]


def test_a_new_key_is_picked_up_and_the_old_one_goes_on(project: Project, clock: Clock) -> None:
    with connected(project) as authenticator:
        old = project.token()
        authenticator.authenticate(bearer(old))
        project.auth.rotate_key()
        clock.now += FETCH_INTERVAL_SECONDS
        for token in (project.token(), old, project.token()):
            assert authenticator.authenticate(bearer(token)).token == token
    fetches = 2 if project.signing == "ES256" else 1
    assert project.requests.count(JWKS) == fetches


# From here on: what no Auth server should answer, and some do.

HTML = {"content-type": "text/html"}
NOT_VALID = httpx.Response(403, json={"code": "bad_jwt", "message": "invalid JWT"})
UNAVAILABLE: Mapping[str, Answer] = {
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
    "no answer": httpx.ReadTimeout("late"),
    "no free connection": httpx.PoolTimeout("busy"),
    "half an answer": httpx.RemoteProtocolError("closed"),
}


@pytest.mark.parametrize("name", UNAVAILABLE)
def test_a_failing_auth_server_says_nothing_about_the_token(name: str) -> None:
    server = OddServer(user=UNAVAILABLE[name], jwks=UNAVAILABLE[name])
    for check, token in (("claims", server.legacy_token()), ("user", server.token()), ("claims", server.token())):
        with pytest.raises(AuthUnavailable) as caught:
            server.authenticator("user" if check == "user" else "claims").authenticate(bearer(token))
        assert token not in "".join(traceback.format_exception(caught.value))
    assert [path.rpartition("/")[2] for path in server.asked] == ["user", "user", "jwks.json"]


REFUSED: Mapping[str, tuple[Answer, str]] = {
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


@pytest.mark.parametrize("name", REFUSED)
def test_whatever_else_the_auth_server_answers_is_a_refusal(name: str, check: Check) -> None:
    answer, code = REFUSED[name]
    server = OddServer(user=answer)
    assert refusal(server.authenticator(check), bearer(server.legacy_token())) == code
    assert len(server.asked) == 1


def test_nobody_listening_is_unavailable() -> None:
    server = OddServer()
    authenticator = Authenticator(f"http://127.0.0.1:{free_port()}", api_key="k", issuer=ISSUER)
    for token in (server.token(), server.legacy_token()):
        with pytest.raises(AuthUnavailable):
            authenticator.authenticate(bearer(token))


def test_a_server_that_never_answers_is_unavailable() -> None:
    server = OddServer()
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with contextlib.closing(Authenticator(url, api_key="k", issuer=ISSUER, read_seconds=0.2)) as authenticator:
            for token in (server.token(), server.legacy_token()):
                with pytest.raises(AuthUnavailable):
                    authenticator.authenticate(bearer(token))


@pytest.mark.parametrize("content", [b"", b"<h1>Hi</h1>", b"[]", b"{}", b'{"keys": null}', b'{"keys": ["k"]}', b"5"])
def test_a_key_set_that_is_none_is_unavailable(content: bytes) -> None:
    server = OddServer(jwks=httpx.Response(200, content=content))
    with pytest.raises(AuthUnavailable):
        server.authenticator().authenticate(bearer(server.token()))


def test_old_keys_outlive_an_outage_of_the_auth_server(clock: Clock) -> None:
    server = OddServer().with_keys()
    authenticator = server.authenticator()
    authenticator.authenticate(bearer(server.token()))
    server.jwks = httpx.ConnectError("refused")
    clock.now += LIFETIME_SECONDS
    for _ in range(5):
        authenticator.authenticate(bearer(server.token()))
    assert len(server.asked) == 2
    server.kid = "new"
    # It may be a key of the project made during the outage: not known is not invalid.
    with pytest.raises(AuthUnavailable):
        authenticator.authenticate(bearer(server.token()))
    assert len(server.asked) == 2
    server.with_keys()
    clock.now += FETCH_INTERVAL_SECONDS
    assert authenticator.authenticate(bearer(server.token()))
    server.kid = "unknown"
    server.user = NOT_VALID
    assert refusal(authenticator, bearer(server.token())) == "invalid_token"


def test_without_any_key_a_failed_fetch_is_not_repeated_at_once(clock: Clock) -> None:
    server = OddServer()
    authenticator = server.authenticator()
    for _ in range(5):
        with pytest.raises(AuthUnavailable):
            authenticator.authenticate(bearer(server.token()))
    assert len(server.asked) == 1
    server.with_keys()
    clock.now += FETCH_INTERVAL_SECONDS
    assert authenticator.authenticate(bearer(server.token()))


def test_a_withdrawn_key_is_refused_once_the_keys_are_stale(clock: Clock) -> None:
    server = OddServer().with_keys()
    authenticator = server.authenticator()
    old = server.token()
    authenticator.authenticate(bearer(old))
    server.kid, server.user = "new", NOT_VALID
    server.with_keys()
    clock.now += LIFETIME_SECONDS
    assert refusal(authenticator, bearer(old)) == "invalid_token"
    assert authenticator.authenticate(bearer(server.token()))


def oct_key(algorithm: str) -> dict[str, Any]:
    secret = base64.urlsafe_b64encode(SECRET.encode()).rstrip(b"=").decode()
    return {"kty": "oct", "kid": "shared", "alg": algorithm, "k": secret}


@pytest.mark.parametrize("algorithm", ["HS256", "ES256", "RS256"])
def test_a_shared_secret_among_the_keys_verifies_nothing_here(algorithm: str) -> None:
    server = OddServer(user=httpx.Response(403, json={"error_code": "bad_jwt", "msg": "no"})).with_keys(
        oct_key(algorithm)
    )
    token = hmac_token({"alg": algorithm, "kid": "shared"}, server.claims(), SECRET.encode())
    assert refusal(server.authenticator(), bearer(token)) == "invalid_token"
    assert server.asked == ["/auth/v1/user" if algorithm == "HS256" else "/auth/v1/.well-known/jwks.json"]


@pytest.mark.parametrize(
    "change",
    [{"alg": "RS256"}, {"alg": "HS256"}, {"alg": None}, {"use": "enc"}, {"kty": "RSA"}, {"crv": "P-384"}, {"kid": 5}],
    ids=str,
)
def test_a_key_meant_for_something_else_verifies_nothing(change: dict[str, Any]) -> None:
    server = OddServer(user=NOT_VALID)
    server.jwks = httpx.Response(200, json={"keys": [jwk(server.key, server.kid) | change]})
    assert refusal(server.authenticator(), bearer(server.token())) == "invalid_token"
    # Only a kid that is not in the set is a question for the Auth server.
    assert ("/auth/v1/user" in server.asked) == ("kid" in change)


def test_a_key_on_another_curve_verifies_nothing() -> None:
    """The client would: it hashes with SHA-256 as ES256 says, and takes the curve from the key."""
    key = ec.generate_private_key(ec.SECP384R1())
    server = OddServer().with_keys(jwk(key, "p384"))
    message = f"{encoded({'alg': 'ES256', 'kid': 'p384'})}.{encoded(server.claims())}"
    signature = der_to_raw_signature(key.sign(message.encode(), ec.ECDSA(hashes.SHA256())), key.curve)
    assert refusal(server.authenticator(), bearer(f"{message}.{encoded(signature)}")) == "invalid_token"
    assert len(server.asked) == 1


def signed(alg: str, kid: str, claims: dict[str, Any], algorithm: Any, key: Any) -> str:
    """A token that names `alg` and is signed with another algorithm."""
    message = f"{encoded({'alg': alg, 'kid': kid})}.{encoded(claims)}"
    return f"{message}.{encoded(algorithm.sign(message.encode(), key))}"


def test_a_token_takes_only_a_key_of_its_own_algorithm() -> None:
    rsa_key = {**RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True), "alg": "RS256", "kid": "rsa"}
    server = OddServer().with_keys(rsa_key)
    authenticator = server.authenticator()
    own = jwt.encode(server.claims(), RSA_KEY, "RS256", headers={"kid": "rsa"})
    assert authenticator.authenticate(bearer(own)).token == own
    crossed = [
        jwt.encode(server.claims(), RSA_KEY, "RS256", headers={"kid": server.kid}),
        jwt.encode(server.claims(), server.key, "ES256", headers={"kid": "rsa"}),
        # With an algorithm that is not the key's, and signed with that key all the same.
        signed("ES256", "rsa", server.claims(), jwt.get_algorithm_by_name("RS256"), RSA_KEY),
        signed("RS256", server.kid, server.claims(), jwt.get_algorithm_by_name("ES256"), server.key),
    ]
    assert [refusal(authenticator, bearer(token)) for token in crossed] == ["invalid_token"] * 4
    assert len(server.asked) == 1


@dataclass
class SlowServer(OddServer):
    """Holds back the key set until told."""

    entered: threading.Event = field(default_factory=threading.Event)
    release: threading.Event = field(default_factory=threading.Event)

    def __call__(self, request: httpx.Request) -> httpx.Response:
        self.entered.set()
        assert self.release.wait(30)
        return super().__call__(request)


def test_concurrent_callers_fetch_the_keys_once() -> None:
    server = SlowServer()
    authenticator = server.with_keys().authenticator()
    callers: list[Caller] = []

    def call() -> None:
        callers.append(authenticator.authenticate(bearer(server.token())))

    threads = [threading.Thread(target=call) for _ in range(12)]
    for thread in threads:
        thread.start()
    assert server.entered.wait(30)
    time.sleep(0.2)  # lets the others come as far as they get; without it this would pass too easily
    server.release.set()
    for thread in threads:
        thread.join(30)
    assert len(callers) == 12
    assert len(server.asked) == 1


def test_a_refresh_under_way_keeps_nobody_waiting(clock: Clock) -> None:
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
    assert len(server.asked) == 2


# What the client lacks


def test_unknown_key__the_auth_server_decides_once_per_interval(clock: Clock) -> None:
    """The published set is cached on its way here, so it may lack a key that signs already."""
    server = OddServer(user=httpx.Response(200, json=A_USER)).with_keys()
    authenticator = server.authenticator()
    server.kid = "newer than the set"
    for expected in (1, 2):
        assert authenticator.authenticate(bearer(server.token()))
        assert refusal(authenticator, bearer(server.token())) == "invalid_token"
        assert server.asked.count("/auth/v1/user") == expected
        clock.now += UNKNOWN_KEY_INTERVAL_SECONDS


@pytest.mark.parametrize(
    "claims",
    [{"aal": "aal3"}, {"amr": ["password"]}, {"exp": IN_AN_HOUR}, {"iat": 1.5}, {"auth": {"by": "a hook"}}],
    ids=lambda claims: next(iter(claims)),
)
@pytest.mark.parametrize("user", [A_USER, {**A_USER, "id": str(uuid.UUID(int=2))}], ids=["their own", "another's"])
def test_claims_that_the_clients_model_refuses__the_auth_server_decides(
    claims: dict[str, Any], user: dict[str, Any]
) -> None:
    server = OddServer(user=httpx.Response(200, json=user)).with_keys()
    header = {"kid": server.kid}
    token = jwt.encode(server.claims() | claims, server.key, "ES256", headers=header)
    if user is A_USER:
        assert server.authenticator().authenticate(bearer(token)).token == token
    else:
        assert refusal(server.authenticator(), bearer(token)) == "invalid_token"
    assert server.asked[-1] == "/auth/v1/user"


@pytest.mark.parametrize("identity", [{"id": "1"}, {"id": "1", "user_id": None}, "odd"], ids=str)
def test_user_that_the_clients_model_refuses__the_body_decides(check: Check, identity: Any) -> None:
    server = OddServer(user=httpx.Response(200, json={**A_USER, "identities": [identity]})).with_keys()
    assert server.authenticator(check).authenticate(bearer(server.legacy_token()))
    server.user = httpx.Response(200, json={**A_USER, "id": str(uuid.UUID(int=2)), "identities": [identity]})
    assert refusal(server.authenticator(check), bearer(server.legacy_token())) == "invalid_token"


def test_key_set__is_bounded() -> None:
    server = OddServer().with_keys(*({"kid": str(number)} for number in range(MAX_KEYS)))
    with pytest.raises(AuthUnavailable):
        server.authenticator().authenticate(bearer(server.token()))


def test_keys__a_key_with_the_right_algorithm_and_wrong_numbers_verifies_nothing() -> None:
    server = OddServer()
    server.jwks = httpx.Response(200, json={"keys": [jwk(server.key, server.kid) | {"x": "AA"}]})
    assert refusal(server.authenticator(), bearer(server.token())) == "invalid_token"


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
    server = OddServer().with_keys(rsa_key)
    key, kid = (server.key, server.kid) if algorithm == "ES256" else (RSA_KEY, "rsa")
    token = jwt.encode(server.claims(), key, algorithm, headers={"kid": kid})
    assert server.authenticator().authenticate(bearer(token))
    message, _, signature = token.rpartition(".")
    changed = CHANGED_SIGNATURES[name](base64.urlsafe_b64decode(signature + "=="))
    assert refusal(server.authenticator(), bearer(f"{message}.{encoded(changed)}")) == "invalid_token"


def test_auth_response__without_a_declared_length_is_not_whole() -> None:
    def cut(request: httpx.Request) -> httpx.Response:
        response = httpx.Response(200, json=A_USER)
        del response.headers["content-length"]
        return response

    token = OddServer().legacy_token()
    authenticator = Authenticator("https://project.example", api_key="k", http_transport=httpx.MockTransport(cut))
    with pytest.raises(AuthUnavailable):
        authenticator.authenticate(bearer(token))
