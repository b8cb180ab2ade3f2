"""A stand-in for the Auth server at `/auth/v1`. It responds like the real one, from the same tables.

There is no sign-in with a password. Tests and the local stack mint tokens and start sessions with its methods.
"""

from __future__ import annotations

import json
import re
import time
from base64 import urlsafe_b64encode
from http import HTTPStatus
from threading import Lock
from typing import TYPE_CHECKING, Any, Literal, LiteralString
from uuid import UUID, uuid4

import jwt
import psycopg
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm
from psycopg.rows import dict_row

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from wsgiref.types import StartResponse, WSGIEnvironment

    from jwt.types import Options

TEN_YEARS_SECONDS = 10 * 365 * 24 * 3600

# Like the real server's pattern for bearer tokens.
_BEARER = re.compile(r"[Bb]earer (\S+)")
# Like the real server, it does not check aud, iss and role.
_UNCHECKED: Options = {
    "verify_aud": False,
    "verify_iss": False,
    "verify_iat": False,
    "verify_sub": False,
    "verify_jti": False,
}

_FIND_USER: LiteralString = """
    select id, email, coalesce(raw_app_meta_data, '{}') as app_metadata,
           coalesce(raw_user_meta_data, '{}') as user_metadata, coalesce(created_at, 'epoch') as created_at
    from auth.users where id = %s and deleted_at is null
"""


class AuthServer:
    """The WSGI application, and methods that issue tokens."""

    def __init__(
        self,
        database_url: str,
        *,
        issuer_url: str,
        jwt_secret: str,
        signing: Literal["ES256", "HS256"] = "ES256",
    ) -> None:
        """`issuer_url` is the `iss` of its tokens: the project's URL followed by `/auth/v1`.

        `jwt_secret` (at least 32 characters) signs the API keys, and with HS256 the access tokens too.
        """
        self._database = _Database(database_url)
        self._issuer = issuer_url
        self._secret = jwt_secret
        self._signing_keys: Mapping[str, ec.EllipticCurvePrivateKey] = {}
        if signing == "ES256":
            self.rotate_key()

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        headers: list[tuple[str, str]] = []
        try:
            status, body = self._route(environ)
        except AuthError as error:
            status, body = error.status, error.body
            headers.append(("x-sb-error-code", error.code))
        content = b"" if body is None else json.dumps(body).encode()
        if body is not None:
            headers += [("content-type", "application/json"), ("content-length", str(len(content)))]
        start_response(f"{status} {HTTPStatus(status).phrase}", headers)
        return [content]

    def mint(
        self,
        user_id: UUID | str,
        *,
        session_id: UUID | str | None = "",
        email: str = "",
        lifetime: int = 3600,
        **overrides: object,
    ) -> str:
        """An access token, valid for `lifetime` seconds. User and session need not exist, and are not created.

        `session_id` is random by default. `overrides` replace or add claims. Claims that are None are left out.
        """
        now = int(time.time())
        claims: dict[str, object] = {
            "iss": self._issuer,
            "sub": str(user_id),
            "aud": "authenticated",
            "exp": now + lifetime,
            "iat": now,
            "email": email,
            "phone": "",
            "app_metadata": {"provider": "email", "providers": ["email"]},
            "user_metadata": {},
            "role": "authenticated",
            "aal": "aal1",
            "amr": [{"method": "password", "timestamp": now}],
            "session_id": None if session_id is None else str(session_id or uuid4()),
            "is_anonymous": False,
        }
        return self._sign({name: value for name, value in (claims | overrides).items() if value is not None})

    def sign_in(self, user_id: UUID | str) -> str:
        """An access token of a new session. Raises LookupError if the user does not exist."""
        if not (users := self._database.rows(_FIND_USER, user_id)):
            raise LookupError(f"no user {user_id}")
        user, session_id = users[0], uuid4()
        self._database.rows(
            # The statement may run twice, because it is repeated after a lost connection.
            "insert into auth.sessions (id, user_id) values (%s, %s) on conflict do nothing returning id",
            session_id,
            user_id,
        )
        metadata = {"app_metadata": user["app_metadata"], "user_metadata": user["user_metadata"]}
        return self.mint(user_id, session_id=session_id, email=user["email"] or "", **metadata)

    def sign_out(self, token: str) -> None:
        """Ends the session of `token`. Its signature stays valid until it expires."""
        session_id = jwt.decode(token, options={"verify_signature": False}).get("session_id")
        self._database.rows("delete from auth.sessions where id = %s returning id", session_id)

    def anon_key(self) -> str:
        return self._api_key("anon")

    def service_role_key(self) -> str:
        return self._api_key("service_role")

    def rotate_key(self) -> None:
        """Signs with a new ES256 key from now on. Tokens that earlier keys or the secret have signed stay valid."""
        self._signing_keys = {**self._signing_keys, str(uuid4()): ec.generate_private_key(ec.SECP256R1())}

    def jwks_for_postgrest(self) -> str:
        """PostgREST's `jwt-secret`: a JWKS with the public keys and, as an `oct` key, the secret. Private."""
        secret = urlsafe_b64encode(self._secret.encode()).rstrip(b"=").decode()
        return json.dumps({"keys": [*self._jwks()["keys"], {"kty": "oct", "alg": "HS256", "k": secret}]})

    def close(self) -> None:
        self._database.close()

    def _route(self, environ: WSGIEnvironment) -> tuple[int, Any]:
        route = environ["REQUEST_METHOD"], environ.get("PATH_INFO", "").removeprefix("/auth/v1")
        try:
            match route:
                case "GET", "/health":
                    return 200, {"name": "GoTrue", "description": "A stand-in for the Auth server"}
                case "GET", "/.well-known/jwks.json":
                    return 200, self._jwks()
                case "GET", "/user":
                    return 200, self._user(self._claims(environ))
                case "POST", "/logout":
                    self._log_out(self._claims(environ))
                    return 204, None
        except psycopg.OperationalError as error:
            raise AuthError(503, "unexpected_failure", "The database cannot be reached") from error
        raise AuthError(404, "not_found", "Not found")

    def _claims(self, environ: WSGIEnvironment) -> Mapping[str, Any]:
        bearer = _BEARER.fullmatch(environ.get("HTTP_AUTHORIZATION", ""))
        if bearer is None:
            raise AuthError(401, "no_authorization", "This endpoint requires a valid Bearer token")
        try:
            return self._verified(bearer[1])
        except Exception as error:
            message = f"invalid JWT: unable to parse or verify signature, {error}"
            raise AuthError(403, "bad_jwt", message) from error

    def _verified(self, token: str) -> Mapping[str, Any]:
        key = self._signing_keys.get(jwt.get_unverified_header(token).get("kid", ""))
        if key is None:
            return jwt.decode(token, self._secret, algorithms=["HS256"], options=_UNCHECKED)
        return jwt.decode(token, key.public_key(), algorithms=["ES256"], options=_UNCHECKED)

    def _user(self, claims: Mapping[str, Any]) -> dict[str, Any]:
        users = self._database.rows(_FIND_USER, _uuid_claim(claims, "sub"))
        if not users:
            raise AuthError(403, "user_not_found", "User from sub claim in JWT does not exist")
        if claims.get("session_id"):
            session_id = _uuid_claim(claims, "session_id")
            if not self._database.rows("select 1 from auth.sessions where id = %s", session_id):
                raise AuthError(403, "session_not_found", "Session from session_id claim in JWT does not exist")
        return _user_object(users[0])

    def _log_out(self, claims: Mapping[str, Any]) -> None:
        self._user(claims)
        if session_id := claims.get("session_id"):
            self._database.rows("delete from auth.sessions where id = %s returning id", session_id)

    def _sign(self, claims: dict[str, Any]) -> str:
        if not self._signing_keys:
            return jwt.encode(claims, self._secret, algorithm="HS256")
        kid, key = list(self._signing_keys.items())[-1]
        return jwt.encode(claims, key, algorithm="ES256", headers={"kid": kid})

    def _api_key(self, role: str) -> str:
        now = int(time.time())
        claims = {"iss": "supabase", "ref": "local", "role": role, "iat": now, "exp": now + TEN_YEARS_SECONDS}
        return jwt.encode(claims, self._secret, algorithm="HS256")

    def _jwks(self) -> dict[str, list[dict[str, Any]]]:
        common = {"alg": "ES256", "key_ops": ["verify"], "use": "sig"}
        keys = self._signing_keys.items()
        return {
            "keys": [ECAlgorithm.to_jwk(key.public_key(), as_dict=True) | common | {"kid": kid} for kid, key in keys]
        }


class AuthError(Exception):
    def __init__(self, status: int, code: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.body = {"code": status, "error_code": code, "msg": message}


class _Database:
    """One connection, opened at first use and again after the server has closed it."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._lock = Lock()
        self._connection: psycopg.Connection[dict[str, Any]] | None = None

    def rows(self, statement: LiteralString, *parameters: object) -> list[dict[str, Any]]:
        """All rows of a statement that may run twice. Raises psycopg.OperationalError without a server."""
        with self._lock:
            try:
                return self._connected().execute(statement, parameters).fetchall()
            except psycopg.OperationalError:
                # A connection that a restarted server closed fails only when it is used.
                self._disconnect()
                return self._connected().execute(statement, parameters).fetchall()

    def close(self) -> None:
        with self._lock:
            self._disconnect()

    def _connected(self) -> psycopg.Connection[dict[str, Any]]:
        if self._connection is None:
            self._connection = psycopg.connect(self._url, autocommit=True, connect_timeout=5, row_factory=dict_row)
        return self._connection

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _uuid_claim(claims: Mapping[str, Any], name: str) -> UUID:
    if not (value := claims.get(name)):
        raise AuthError(403, "bad_jwt", f"invalid claim: missing {name} claim")
    try:
        return UUID(value)
    except (ValueError, AttributeError, TypeError) as error:
        raise AuthError(400, "bad_jwt", f"invalid claim: {name} claim must be a UUID") from error


def _user_object(user: Mapping[str, Any]) -> dict[str, Any]:
    created_at = user["created_at"].isoformat()
    return {
        "id": str(user["id"]),
        "aud": "authenticated",
        "role": "authenticated",
        "email": user["email"] or "",
        "email_confirmed_at": created_at,
        "phone": "",
        "confirmed_at": created_at,
        "app_metadata": user["app_metadata"],
        "user_metadata": user["user_metadata"],
        "identities": [],
        "created_at": created_at,
        "updated_at": created_at,
        "is_anonymous": False,
    }
