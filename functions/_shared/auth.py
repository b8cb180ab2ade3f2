"""Who is calling: an `Authorization` header becomes verified claims, or the reason why not.

Which algorithms and keys count, how often keys are fetched, whether the claims are those of a user of this project, and
what the Auth server says of a token that nobody else can verify.
"""

from __future__ import annotations

import base64
import json
import re
from dataclasses import dataclass, field
from threading import Lock
from time import monotonic, time
from typing import TYPE_CHECKING, Any, Literal, TypeGuard
from urllib.parse import urlsplit

from functions._shared.pool import Pool, Unreachable
from functions._shared.signature import verify

if TYPE_CHECKING:
    from collections.abc import Mapping

ErrorSpec = Literal["missing_token", "invalid_token", "expired_token", "revoked_token"]

SENTENCES: Mapping[ErrorSpec, str] = {
    "missing_token": "Sign in and send the access token as 'Authorization: Bearer <token>'.",
    "invalid_token": "This is not a valid access token of a user of this project. Sign in again.",
    "expired_token": "The access token has expired. Refresh the session and send the new token.",
    "revoked_token": "This session was signed out or its user deleted. Sign in again.",
}

# The Auth server is asked while a user waits: give up early and say so.
CONNECT_SECONDS, READ_SECONDS = 2.0, 5.0
MAX_TOKEN_LENGTH = 8192
# Also the longest that a signing key unknown to us can stay unknown.
KEY_FETCH_INTERVAL_SECONDS = 10.0
KEY_LIFETIME_SECONDS = 600.0
CLOCK_LEEWAY_SECONDS = 10.0

_TOKEN = re.compile(r"[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+\.[A-Za-z0-9_-]+")
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE | re.ASCII)
_YEAR_10000 = 253_402_300_800
# The only keys that verify here, by algorithm: (kty, crv). A shared secret (`oct`) is never among them.
_PUBLIC_KEY_TYPES = {"ES256": ("EC", "P-256"), "RS256": ("RSA", None)}


@dataclass(frozen=True)
class Caller:
    """A user of this project whose token was verified, or an agency's server with a key that the database knows or not.

    Its repr leaves token and key out.
    """

    token: str | None = field(repr=False)
    claims: Mapping[str, Any]
    agency_key: str | None = field(default=None, repr=False)


_AGENCY_KEY = re.compile(r"sync_[0-9a-f]{64}")


def agency_key(authorization: str | None) -> str | None:
    """The agency's key in an `Authorization` header, None where it holds something else (a user's token, for one).

    As the published clients send it: Bearer, the key itself or its base64; Basic, as the user name.
    """
    scheme, _, rest = (authorization or "").strip(" ").partition(" ")
    text = rest.strip(" ")
    if scheme.lower() == "bearer":
        candidates = [text, _plain(text)]
    elif scheme.lower() == "basic":
        candidates = [_plain(text).partition(":")[0]]
    else:
        return None
    return next((one for one in candidates if _AGENCY_KEY.fullmatch(one)), None)


def _plain(encoded: str) -> str:
    try:
        return base64.b64decode(encoded, validate=True).decode() if len(encoded) <= 1024 else ""
    except ValueError:
        return ""


class Unauthorized(Exception):
    """Becomes 401. `code` is stable, `sentence` tells the user what to do; neither holds the token."""

    def __init__(self, code: ErrorSpec) -> None:
        super().__init__(code)
        self.code = code
        self.message = SENTENCES[code]


class AuthUnavailable(Exception):
    """Becomes 503: nothing is known about the token, the same request may succeed later."""


class Authenticator:
    """Verifies access tokens of one project; made once per process and shared by its threads."""

    def __init__(
        self,
        url: str,
        *,
        api_key: str,
        check: Literal["claims", "user"] = "claims",
        issuer: str | None = None,
        pool: Pool | None = None,
    ) -> None:
        """`url` is the project's, its Auth server is below `/auth/v1`, which is also the default `issuer`.

        `check="claims"` verifies tokens signed with a public key of the project here, without a round trip, and so
        does not see a session that was signed out since; `check="user"` asks the Auth server about every token.
        Raises ValueError for a URL that is none: a wrong setting fails here, not as everyone's 401.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname or parts.port == 0:
            raise ValueError("SUPABASE_URL is no URL of a project.")
        auth_url = f"{url.rstrip('/')}/auth/v1"
        headers = {"apikey": api_key}
        self._issuer = issuer or auth_url
        self._check = check
        self._pool = pool or Pool(connect_seconds=CONNECT_SECONDS, read_seconds=READ_SECONDS)
        self._keys = _SigningKeys(self._pool, f"{auth_url}/.well-known/jwks.json", headers)
        self._user_url, self._headers = f"{auth_url}/user", headers

    def authenticate(self, authorization: str | None) -> Caller:
        """The user behind an `Authorization` header. Raises `Unauthorized` or `AuthUnavailable`, nothing else."""
        try:
            token = _bearer_token(authorization)
            caller = Caller(token, self._verified_claims(token))
        except Exception as error:  # whatever it is: a token that something trips over is invalid
            failure = _failure(error)
        else:
            return caller
        # Not inside the handler: the parser's errors quote the token, and would be logged as context.
        raise failure

    def renew(self) -> None:
        """Forgets pooled connections, while no request is under way, and asks anew for keys that are old by now."""
        self._pool.close()
        self._keys.renew()

    def close(self) -> None:
        """Closes the pooled connections."""
        self._pool.close()

    def _verified_claims(self, token: str) -> Mapping[str, Any]:
        # What cannot become valid is refused before anyone is asked; nothing is believed before the signature.
        header, claims = (_decoded(part) for part in token.split(".")[:2])
        _require_sound_header(header)
        _require_user(claims, self._issuer)
        if self._check == "user" or header["alg"] == "HS256" or "kid" not in header:
            self._ask(token, claims)
            return claims
        key = self._keys.find(header["kid"])
        # The token names its algorithm: it must not meet a key that is meant for another.
        if key is None or key["alg"] != header["alg"]:
            raise Unauthorized("invalid_token")
        verify(key, token)
        return claims

    def _ask(self, token: str, claims: Mapping[str, Any]) -> None:
        """What the Auth server says of the token."""
        try:
            sent = {**self._headers, "authorization": f"Bearer {token}"}
            response = self._pool.request("GET", self._user_url, sent)
        except Unreachable as error:
            raise AuthUnavailable(f"The Auth server did not answer: {error}") from None
        if response.status >= 500 or response.status == 429:
            raise AuthUnavailable(f"The Auth server answered {response.status}.")
        body = json.loads(response.content)
        if response.is_success and body["id"] == claims["sub"]:
            return
        # Its older form names the code `error_code`; in the newer one `code` is no longer the status.
        gone = {body.get("error_code"), body.get("code")} & {"session_not_found", "user_not_found"}
        raise Unauthorized("revoked_token" if gone else "invalid_token")


class _SigningKeys:
    """The project's public keys. The client's own cache asks anew for every unknown `kid` and keeps no empty set."""

    def __init__(self, pool: Pool, url: str, headers: Mapping[str, str]) -> None:
        self._pool = pool
        self._url = url
        self._headers = headers
        self._fetching = Lock()
        self._by_kid: Mapping[str, Mapping[str, Any]] = {}
        self._next_fetch = 0.0
        self._stale_at = 0.0
        self._fetched_at = 0.0  # by the calendar's clock: the other may stand still while the process is frozen
        self._trouble: str | None = None

    def find(self, kid: str) -> Mapping[str, Any] | None:
        """The key (a JWK) called `kid`, None where the project has none; AuthUnavailable where that is not known."""
        if kid not in self._by_kid:
            with self._fetching:  # whoever waited here finds the key, or that it was asked for just now
                self._fetch()
        elif monotonic() >= self._stale_at and self._fetching.acquire(blocking=False):
            try:
                self._fetch()
            finally:
                self._fetching.release()
        key = self._by_kid.get(kid)
        if key is None and self._trouble:
            raise AuthUnavailable(self._trouble)
        return key

    def renew(self) -> None:
        if not 0 <= time() - self._fetched_at < KEY_LIFETIME_SECONDS:
            self._stale_at = self._next_fetch = 0.0

    def _fetch(self) -> None:
        """At most once per interval, whoever asks and however it ends: anyone can send tokens with unknown kids."""
        if monotonic() < self._next_fetch:
            return
        try:
            response = self._pool.request("GET", self._url, self._headers)
            if not response.is_success:
                raise Unreachable(f"HTTP {response.status}")
            self._by_kid = {key["kid"]: key for key in json.loads(response.content)["keys"] if _can_verify(key)}
            self._stale_at, self._fetched_at = monotonic() + KEY_LIFETIME_SECONDS, time()
            self._trouble = None
        except Exception as error:  # network, status or shape: each time the keys are not to be had
            # The old keys go on: they were the project's and public, so an Auth server that is down must not
            # sign out everyone whose token can still be verified.
            self._trouble = f"The signing keys could not be fetched: {type(error).__name__}."
        self._next_fetch = monotonic() + KEY_FETCH_INTERVAL_SECONDS


def _can_verify(key: Mapping[str, Any]) -> bool:
    kid, algorithm = key.get("kid"), key.get("alg")
    if not (isinstance(kid, str) and isinstance(algorithm, str)) or key.get("use", "sig") != "sig":
        return False
    return (key.get("kty"), key.get("crv")) == _PUBLIC_KEY_TYPES.get(algorithm)


def _bearer_token(authorization: str | None) -> str:
    scheme, _, token = (authorization or "").strip(" ").partition(" ")
    token = token.lstrip(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthorized("missing_token")
    # Whatever else a header may hold (control characters, megabytes) must reach neither the parser nor the wire.
    if len(token) > MAX_TOKEN_LENGTH or not _TOKEN.fullmatch(token):
        raise Unauthorized("invalid_token")
    return token


def _decoded(part: str) -> dict[str, Any]:
    value = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)).decode())
    if not isinstance(value, dict):
        raise Unauthorized("invalid_token")
    return value


def _require_sound_header(header: Mapping[str, Any]) -> None:
    # `crit` names extensions that must be understood, and the client would not even notice it.
    if header.get("alg") not in ("HS256", *_PUBLIC_KEY_TYPES) or "crit" in header:
        raise Unauthorized("invalid_token")
    if not isinstance(header.get("kid", ""), str):
        raise Unauthorized("invalid_token")


def _require_user(claims: Mapping[str, Any], issuer: str) -> None:
    """Refuses what the Auth server signs, or lets pass, that is not a signed-in user of this project."""
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
    return error if isinstance(error, Unauthorized | AuthUnavailable) else Unauthorized("invalid_token")
