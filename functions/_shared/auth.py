"""Verifies access tokens with `supabase_auth`: an `Authorization` header becomes a caller, or the reason why not.

The client checks signature and expiry. Everything that it accepts and a function must not is checked here: other
algorithms and keys, `crit`, `aud`, `iss`, `role`, `nbf`. The Auth server checks tokens without a public key.
"""

from __future__ import annotations

import base64
import json
import re
from threading import Lock, local
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Literal, TypeGuard

import httpx
from pydantic import ValidationError
from supabase_auth import SyncGoTrueClient
from supabase_auth.errors import AuthError, AuthInvalidJwtError

from functions._shared.caller import Caller
from functions._shared.http_client import make_client
from functions._shared.settings import require_project_url
from functions._shared.signing_keys import PUBLIC_KEY_TYPES, KeysUnavailable, SigningKeys, UnknownKey

if TYPE_CHECKING:
    from collections.abc import Mapping

Reason = Literal["missing_token", "invalid_token", "expired_token", "revoked_token"]

MESSAGES: Mapping[Reason, str] = {
    "missing_token": "Sign in and send the access token as 'Authorization: Bearer <token>'.",
    "invalid_token": "This is not a valid access token of a user of this project. Sign in again.",
    "expired_token": "The access token has expired. Refresh the session and send the new token.",
    "revoked_token": "This session was signed out or its user deleted. Sign in again.",
}

# A user waits for the Auth server: give up early and report it.
CONNECT_SECONDS, READ_SECONDS = 2.0, 5.0
MAX_TOKEN_LENGTH = 8192
CLOCK_LEEWAY_SECONDS = 10.0
# Anyone can send tokens with unknown kids: the Auth server checks one of them per interval and process.
UNKNOWN_KEY_INTERVAL_SECONDS = 1.0

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_YEAR_10000 = 253_402_300_800


class Unauthorized(Exception):
    """Becomes 401. `code` is stable, `message` tells the user what to do. Neither holds the token."""

    def __init__(self, code: Reason) -> None:
        super().__init__(code)
        self.code = code
        self.message = MESSAGES[code]


class AuthUnavailable(Exception):
    """Becomes 503: whether the token is valid is unknown, and the same request may succeed later."""


class Authenticator:
    """Verifies access tokens of one project. Made once per process and shared by its threads."""

    def __init__(  # noqa: PLR0913 (by name)
        self,
        url: str,
        *,
        api_key: str,
        check: Literal["claims", "user"] = "claims",
        issuer: str | None = None,
        http_transport: httpx.BaseTransport | None = None,
        read_seconds: float = READ_SECONDS,
    ) -> None:
        """`url` is the project's. Its Auth server is at `/auth/v1`, which is also the default `issuer`.

        `check="claims"` verifies tokens signed with a public key of the project here, without a round trip, and so does
        not see that a session was signed out. `check="user"` sends every token to the Auth server.
        Raises ValueError for an invalid URL.
        """
        require_project_url(url)
        self._url = f"{url.rstrip('/')}/auth/v1"
        self._api_key = api_key
        self._issuer = issuer or self._url
        self._check = check
        self._read_seconds = read_seconds
        self._http_transport = http_transport
        self._last = local()  # .response: the last response of the Auth server to this thread
        self._keys = SigningKeys(self._fetch_keys)
        self._unknown_keys = _Throttle(UNKNOWN_KEY_INTERVAL_SECONDS)
        self._connect()

    def authenticate(self, authorization: str | None) -> Caller:
        """The user behind an `Authorization` header. Raises `Unauthorized` or `AuthUnavailable`, nothing else."""
        try:
            token = _bearer_token(authorization)
            caller = Caller(token, self._verified_claims(token))
        except Exception as error:  # a token that makes anything fail is invalid
            failure = _failure(error)
        else:
            return caller
        # Not inside the handler: the client's errors quote the token's claims and would be logged as context.
        raise failure

    def reset_connections(self) -> None:
        """Drops pooled connections, and keys that are old by now. No request may be under way."""
        self.close()
        self._keys.expire_if_old()

    def close(self) -> None:
        """Closes the pooled connections. A later call makes new ones."""
        self._http.close()
        self._connect()

    def _connect(self) -> None:
        self._http = make_client(
            self._url,
            connect_seconds=CONNECT_SECONDS,
            read_seconds=self._read_seconds,
            transport=self._http_transport,
        )
        self._http.event_hooks["response"].append(self._remember)
        self._client = SyncGoTrueClient(
            url=self._url,
            headers={"apikey": self._api_key},
            auto_refresh_token=False,
            persist_session=False,
            http_client=self._http,
        )

    def _verified_claims(self, token: str) -> Mapping[str, Any]:
        # Reject before any request is sent. The claims are not trusted before the signature is verified.
        header, claims = (_decoded(part) for part in token.split(".")[:2])
        _require_sound_header(header)
        _require_user(claims, self._issuer)
        if self._check == "user" or header["alg"] == "HS256" or "kid" not in header:
            self._ask(token, claims)
        else:
            self._verify(token, header, claims)
        return claims

    def _verify(self, token: str, header: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
        try:
            key = self._keys.find(header["kid"])
        except KeysUnavailable as error:
            raise AuthUnavailable(str(error)) from None
        except UnknownKey:
            # The key may be newer than the published set, which caches may serve for a while.
            if not self._unknown_keys.allows():
                raise Unauthorized("invalid_token") from None
            return self._ask(token, claims)
        # The token names its algorithm: it must not meet a key that is meant for another.
        if key is None or key["alg"] != header["alg"]:
            raise Unauthorized("invalid_token")
        try:
            self._client.get_claims(token, jwks={"keys": [key]})  # type: ignore[arg-type]
        except AuthInvalidJwtError as error:
            # The client's model is narrower than what Auth signs. The Auth server itself can read such a token.
            if not isinstance(error.__cause__, ValidationError):
                raise
            self._ask(token, claims)
        return None

    def _ask(self, token: str, claims: Mapping[str, Any]) -> None:
        """Lets the Auth server check the token."""
        try:
            self._client.get_user(token)
        except ValidationError:
            pass  # the client's model rejects some users that the Auth server sends, so the body decides
        except AuthError as error:
            raise _auth_failure(error) from None
        if json.loads(self._last.response.content)["id"] != claims["sub"]:
            raise Unauthorized("invalid_token")

    def _fetch_keys(self) -> bytes:
        response = self._http.get(f"{self._url}/.well-known/jwks.json", headers={"apikey": self._api_key})
        return response.raise_for_status().content

    def _remember(self, response: httpx.Response) -> None:
        response.read()
        self._last.response = response


class _Throttle:
    """Allows one of the calls in each interval."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._lock = Lock()
        self._next = 0.0

    def allows(self) -> bool:
        with self._lock:
            if monotonic() < self._next:
                return False
            self._next = monotonic() + self._seconds
            return True


def _auth_failure(error: AuthError) -> Unauthorized | AuthUnavailable:
    """Judged by the cause, because the client's types and codes miss some: 429 in HTML, `session_not_found`."""
    cause = error.__cause__
    if not isinstance(cause, httpx.HTTPStatusError):
        return AuthUnavailable(f"The Auth server did not respond: {type(cause).__name__}.")
    status = cause.response.status_code
    if status >= 500 or status == 429:
        return AuthUnavailable(f"The Auth server responded with {status}.")
    body = json.loads(cause.response.content)
    # The older form names the code `error_code`; in the newer one `code` is no longer the status.
    is_gone = {body.get("error_code"), body.get("code")} & {"session_not_found", "user_not_found"}
    return Unauthorized("revoked_token" if is_gone else "invalid_token")


def _bearer_token(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").strip(" ").partition(" ")
    token = token.lstrip(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("missing_token")
    # Control characters and megabytes must reach neither the parser nor the wire.
    if len(token) > MAX_TOKEN_LENGTH or not _TOKEN.fullmatch(token):
        raise Unauthorized("invalid_token")
    return token


def _decoded(part: str) -> dict[str, Any]:
    value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode())
    if not isinstance(value, dict):
        raise Unauthorized("invalid_token")
    return value


def _require_sound_header(header: Mapping[str, Any]) -> None:
    # `crit` names extensions that must be understood. The client ignores it.
    if header.get("alg") not in ("HS256", *PUBLIC_KEY_TYPES) or "crit" in header:
        raise Unauthorized("invalid_token")
    if not isinstance(header.get("kid", ""), str):
        raise Unauthorized("invalid_token")


def _require_user(claims: Mapping[str, Any], issuer: str) -> None:
    """Rejects tokens that the Auth server signs or accepts, and that are not a signed-in user's of this project."""
    now = time()
    expires, not_before, audience = claims.get("exp"), claims.get("nbf", now), claims.get("aud")
    if not _is_time(expires) or not _is_time(not_before):
        raise Unauthorized("invalid_token")
    if expires <= now:
        raise Unauthorized("expired_token")
    is_user = (
        not_before <= now + CLOCK_LEEWAY_SECONDS
        and "authenticated" in (audience if isinstance(audience, list) else [audience])
        and claims.get("role") == "authenticated"
        and claims.get("iss") == issuer
        and _is_uuid(claims.get("sub"))
        and ("session_id" not in claims or _is_uuid(claims["session_id"]))
    )
    if not is_user:
        raise Unauthorized("invalid_token")


def _is_time(value: object) -> TypeGuard[float]:
    """Seconds since 1970 that a calendar can show: neither a bool, NaN nor infinite."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < _YEAR_10000


def _is_uuid(value: object) -> bool:
    return isinstance(value, str) and _UUID.fullmatch(value) is not None


def _failure(error: Exception) -> Unauthorized | AuthUnavailable:
    failure = error if isinstance(error, Unauthorized | AuthUnavailable) else Unauthorized("invalid_token")
    failure.__context__ = None  # an error of the client
    return failure
