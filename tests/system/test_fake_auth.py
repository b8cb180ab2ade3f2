"""The stand-in for the Auth server, over a real socket. It responds like the real one."""

from __future__ import annotations

import contextlib
import json
import time
import uuid
from typing import TYPE_CHECKING, Any, Literal

import httpx
import jwt
import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from supabase_auth import SyncGoTrueClient

from functions._local.fake_auth import AuthServer
from functions._local.postgres import free_port
from tests.support.tokens import ISSUER, SECRET, claims_of, encoded, hmac_token, new_user
from tests.support.wsgi_server import serve

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from contextlib import AbstractContextManager

    from tests.support.database import Database

Signing = Literal["ES256", "HS256"]


@pytest.fixture(scope="module")
def people(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Database]:
    with clone() as database:
        yield database


@pytest.fixture(params=["ES256", "HS256"])
def signing(request: pytest.FixtureRequest) -> Signing:
    name: Signing = request.param
    return name


@pytest.fixture
def auth(people: Database, signing: Signing) -> Iterator[AuthServer]:
    with contextlib.closing(AuthServer(people.url, issuer_url=ISSUER, jwt_secret=SECRET, signing=signing)) as server:
        yield server


@pytest.fixture
def client(auth: AuthServer) -> Iterator[httpx.Client]:
    with serve(auth) as url, httpx.Client(base_url=url, trust_env=False) as client:
        yield client


@pytest.fixture
def user_id(people: Database) -> str:
    return new_user(people)


def ask(client: httpx.Client, token: str) -> httpx.Response:
    return client.get("/auth/v1/user", headers={"Authorization": f"Bearer {token}"})


def assert_error(response: httpx.Response, status: int, code: str) -> None:
    assert (response.status_code, response.headers["x-sb-error-code"]) == (status, code)
    assert response.headers["content-type"] == "application/json"
    body = response.json()
    assert body.keys() == {"code", "error_code", "msg"}
    assert (body["code"], body["error_code"]) == (status, code)


def test_user__valid_token(client: httpx.Client, auth: AuthServer, user_id: str) -> None:
    response = ask(client, auth.sign_in(user_id))
    assert response.status_code == 200
    user = response.json()
    assert (user["id"], user["email"], user["aud"], user["role"]) == (
        user_id, "a@example.com", "authenticated", "authenticated",
    )  # fmt: skip


@pytest.mark.parametrize("header", [None, "", "Basic YTpi", "Bearer", "BEARER a.b.c", "Bearer a b", "token"])
def test_user__no_bearer_token(client: httpx.Client, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    assert_error(client.get("/auth/v1/user", headers=headers), 401, "no_authorization")


def unsigned(claims: Mapping[str, Any]) -> str:
    return f"{encoded({'alg': 'none', 'typ': 'JWT'})}.{encoded(claims)}."


BAD_TOKENS: Mapping[str, Callable[[AuthServer, str], str]] = {
    "not a JWT": lambda _auth, _user: "nonsense",
    "nested too deeply": lambda _auth, _user: f"{encoded(b'[' * 6000)}.e30.YQ",
    "bad signature": lambda auth, user: f"{auth.mint(user).rpartition('.')[0]}.{encoded(b'x' * 64)}",
    "expired": lambda auth, user: auth.mint(user, lifetime=-10),
    "not valid yet": lambda auth, user: auth.mint(user, nbf=int(time.time()) + 600),
    "infinite expiry": lambda auth, user: auth.mint(user, exp=float("inf")),
    "alg none": lambda auth, user: unsigned(claims_of(auth.mint(user))),
    "no sub": lambda auth, user: auth.mint(user, sub=None),
    "anon key": lambda auth, _user: auth.anon_key(),
    "service_role key": lambda auth, _user: auth.service_role_key(),
    "another secret": lambda auth, user: hmac_token({"alg": "HS256"}, claims_of(auth.mint(user)), b"other" * 10),
    "unknown kid": lambda auth, user: jwt.encode(
        claims_of(auth.mint(user)), ec.generate_private_key(ec.SECP256R1()), "ES256", headers={"kid": "unknown"}
    ),
}


@pytest.mark.parametrize("name", BAD_TOKENS)
def test_user__bad_token(client: httpx.Client, auth: AuthServer, user_id: str, name: str) -> None:
    assert_error(ask(client, BAD_TOKENS[name](auth, user_id)), 403, "bad_jwt")


def test_user__malformed_ids(client: httpx.Client, auth: AuthServer, user_id: str) -> None:
    assert_error(ask(client, auth.mint("somebody")), 400, "bad_jwt")
    assert_error(ask(client, auth.mint(user_id, session_id="some")), 400, "bad_jwt")


def test_user__unknown_or_deleted(client: httpx.Client, auth: AuthServer, people: Database, user_id: str) -> None:
    assert_error(ask(client, auth.mint(uuid.uuid4())), 403, "user_not_found")
    softly = new_user(people)
    tokens = auth.sign_in(user_id), auth.sign_in(softly)
    assert [ask(client, token).status_code for token in tokens] == [200, 200]
    people.admin.execute("delete from auth.users where id = %s", (user_id,))
    people.admin.execute("update auth.users set deleted_at = now() where id = %s", (softly,))
    for token in tokens:
        assert_error(ask(client, token), 403, "user_not_found")


def test_user__ended_session(client: httpx.Client, auth: AuthServer, user_id: str) -> None:
    assert_error(ask(client, auth.mint(user_id)), 403, "session_not_found")
    token, other = auth.sign_in(user_id), auth.sign_in(user_id)
    auth.sign_out(token)
    assert_error(ask(client, token), 403, "session_not_found")
    assert ask(client, other).status_code == 200


@pytest.mark.parametrize(
    "overrides", [{}, {"aud": "other"}, {"iss": "https://other.example/auth/v1"}, {"role": "anon"}, {"aud": None}]
)
def test_user__unchecked_claims(
    client: httpx.Client, auth: AuthServer, user_id: str, overrides: dict[str, Any]
) -> None:
    assert ask(client, auth.mint(user_id, session_id=None, **overrides)).status_code == 200


def test_logout__ends_the_session(client: httpx.Client, auth: AuthServer, user_id: str) -> None:
    token, other = auth.sign_in(user_id), auth.sign_in(user_id)
    headers = {"Authorization": f"Bearer {token}"}
    response = client.post("/auth/v1/logout", headers=headers)
    assert (response.status_code, response.content) == (204, b"")
    assert_error(ask(client, token), 403, "session_not_found")
    assert ask(client, other).status_code == 200
    assert_error(client.post("/auth/v1/logout", headers=headers), 403, "session_not_found")
    assert_error(client.post("/auth/v1/logout"), 401, "no_authorization")
    headers = {"Authorization": f"Bearer {auth.mint(user_id, session_id=None)}"}
    assert client.post("/auth/v1/logout", headers=headers).status_code == 204


def test_jwks__public_keys(client: httpx.Client, signing: Signing) -> None:
    keys = client.get("/auth/v1/.well-known/jwks.json").json()["keys"]
    if signing == "HS256":
        assert keys == []
        return
    [key] = keys
    assert key.keys() == {"alg", "crv", "key_ops", "kid", "kty", "use", "x", "y"}
    named = (key["alg"], key["crv"], key["kty"], key["use"], key["key_ops"])
    assert named == ("ES256", "P-256", "EC", "sig", ["verify"])


def test_rotation__earlier_tokens_stay_valid(client: httpx.Client, auth: AuthServer, user_id: str) -> None:
    session = claims_of(auth.sign_in(user_id))
    old, of_secret = auth.sign_in(user_id), hmac_token({"alg": "HS256"}, session, SECRET.encode())
    before = client.get("/auth/v1/.well-known/jwks.json").json()["keys"]
    auth.rotate_key()
    after = client.get("/auth/v1/.well-known/jwks.json").json()["keys"]
    new = auth.sign_in(user_id)
    assert after[:-1] == before
    assert jwt.get_unverified_header(new)["kid"] == after[-1]["kid"]
    assert [ask(client, token).status_code for token in (old, of_secret, new)] == [200, 200, 200]


def test_user__secret_with_the_kid_of_a_key(client: httpx.Client, auth: AuthServer, user_id: str) -> None:
    session = claims_of(auth.sign_in(user_id))
    auth.rotate_key()
    [*_, key] = client.get("/auth/v1/.well-known/jwks.json").json()["keys"]
    token = hmac_token({"alg": "HS256", "kid": key["kid"]}, session, SECRET.encode())
    assert_error(ask(client, token), 403, "bad_jwt")


def test_mint__claims(auth: AuthServer, user_id: str, signing: Signing) -> None:
    token = auth.sign_in(user_id)
    claims = claims_of(token)
    assert jwt.get_unverified_header(token)["alg"] == signing
    assert claims.keys() == {
        "iss", "sub", "aud", "exp", "iat", "email", "phone", "app_metadata", "user_metadata", "role", "aal", "amr",
        "session_id", "is_anonymous",
    }  # fmt: skip
    assert (claims["iss"], claims["sub"], claims["email"]) == (ISSUER, user_id, "a@example.com")
    assert (claims["aud"], claims["role"]) == ("authenticated", "authenticated")
    assert claims["exp"] - claims["iat"] == 3600


def test_api_keys__role_and_no_user(auth: AuthServer) -> None:
    for key, role in ((auth.anon_key(), "anon"), (auth.service_role_key(), "service_role")):
        claims = jwt.decode(key, SECRET, algorithms=["HS256"])
        assert (claims["iss"], claims["role"]) == ("supabase", role)
        assert "sub" not in claims


def test_sign_in__unknown_user(auth: AuthServer) -> None:
    with pytest.raises(LookupError):
        auth.sign_in(uuid.uuid4())


def test_jwks_for_postgrest__verify_every_token(auth: AuthServer, user_id: str) -> None:
    keys = {key["alg"]: jwt.PyJWK(key).key for key in json.loads(auth.jwks_for_postgrest())["keys"]}
    for token in (auth.sign_in(user_id), auth.anon_key()):
        algorithm = jwt.get_unverified_header(token)["alg"]
        assert jwt.decode(token, keys[algorithm], algorithms=[algorithm], audience=claims_of(token).get("aud"))
    assert "HS256" in keys
    assert '"d"' not in auth.jwks_for_postgrest()


def test_paths__unknown_or_wrong_method(client: httpx.Client, auth: AuthServer, user_id: str) -> None:
    headers = {"Authorization": f"Bearer {auth.sign_in(user_id)}"}
    assert client.get("/auth/v1/health").status_code == 200
    assert client.get("/user", headers=headers).status_code == 200
    assert client.get("/auth/v1/nothing").status_code == 404
    assert client.post("/auth/v1/user", headers=headers).status_code == 404


def test_fake_auth__official_client(client: httpx.Client, auth: AuthServer, user_id: str) -> None:
    official = SyncGoTrueClient(url=str(client.base_url.join("/auth/v1")), http_client=client)
    response = official.get_user(auth.sign_in(user_id))
    assert response is not None
    assert response.user.id == user_id


def test_database__connections_dropped(client: httpx.Client, auth: AuthServer, people: Database, user_id: str) -> None:
    token = auth.sign_in(user_id)
    dropped = people.all(
        "select pg_terminate_backend(pid, 5000) as done from pg_stat_activity"
        " where datname = current_database() and pid <> pg_backend_pid() and backend_type = 'client backend'"
    )
    assert any(row["done"] for row in dropped)
    assert ask(client, token).status_code == 200


def test_database__unreachable() -> None:
    url = f"postgresql://nobody@127.0.0.1:{free_port()}/nothing"
    with contextlib.closing(AuthServer(url, issuer_url=ISSUER, jwt_secret=SECRET)) as auth:
        with serve(auth) as server, httpx.Client(base_url=server, trust_env=False) as client:
            assert_error(ask(client, auth.mint(uuid.uuid4())), 503, "unexpected_failure")
            assert client.get("/auth/v1/.well-known/jwks.json").status_code == 200
        with pytest.raises(psycopg.OperationalError):
            auth.sign_in(uuid.uuid4())
