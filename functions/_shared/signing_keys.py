"""The project's public keys, bounded in number, in age and in how often they are fetched.

The client's own cache fetches again for every unknown `kid` and does not keep an empty set.
"""

from __future__ import annotations

import json
from threading import Lock
from time import monotonic, time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Key = Mapping[str, Any]

# Anyone can send tokens with unknown kids, so this also bounds how long a new key stays unknown.
FETCH_INTERVAL_SECONDS = 10.0
LIFETIME_SECONDS = 600.0
MAX_KEYS = 100
# The keys that can verify a token here, by algorithm: (kty, crv). A shared secret (`oct`) is not among them.
PUBLIC_KEY_TYPES = {"ES256": ("EC", "P-256"), "RS256": ("RSA", None)}


class UnknownKey(Exception):
    """The project's current key set has no key with this id."""


class KeysUnavailable(Exception):
    """It is unknown whether the project has this key, because its key set could not be fetched."""


class SigningKeys:
    """`fetch` returns the body of the project's JWKS endpoint, or raises. Threads share the cache."""

    def __init__(self, fetch: Callable[[], bytes]) -> None:
        self._fetch = fetch
        self._fetching = Lock()
        self._by_id: Mapping[str, Key | None] = {}
        self._next_fetch = 0.0
        self._stale_at = 0.0
        self._fetched_at = 0.0  # system time, because the monotonic clock may stop while the process is frozen
        self._error: str | None = None

    def find(self, kid: str) -> Key | None:
        """The key as a JWK, None if it is the project's but cannot verify tokens here.

        Raises UnknownKey or KeysUnavailable.
        """
        if kid not in self._by_id:
            with self._fetching:  # threads that waited here use the set that was just fetched
                self._refresh()
        elif monotonic() >= self._stale_at and self._fetching.acquire(blocking=False):
            try:
                self._refresh()
            finally:
                self._fetching.release()
        if kid in self._by_id:
            return self._by_id[kid]
        if self._error:
            raise KeysUnavailable(self._error)
        raise UnknownKey

    def expire_if_old(self) -> None:
        """Fetches again at the next `find` if the keys are old by the system time. For a process that was frozen."""
        if not 0 <= time() - self._fetched_at < LIFETIME_SECONDS:
            self._stale_at = self._next_fetch = 0.0

    def _refresh(self) -> None:
        """At most once per interval, whether or not it succeeds."""
        if monotonic() < self._next_fetch:
            return
        try:
            self._by_id = _read(self._fetch())
            self._stale_at, self._fetched_at = monotonic() + LIFETIME_SECONDS, time()
            self._error = None
        except Exception as error:  # of the network, the status or the shape
            # The old keys stay valid: an Auth server that is down must not sign out every user.
            self._error = f"The signing keys could not be fetched: {type(error).__name__}."
        self._next_fetch = monotonic() + FETCH_INTERVAL_SECONDS


def _read(body: bytes) -> Mapping[str, Key | None]:
    keys = json.loads(body)["keys"]
    if len(keys) > MAX_KEYS:
        raise ValueError("too many keys")
    return {key["kid"]: key if _can_verify(key) else None for key in keys if isinstance(key["kid"], str)}


def _can_verify(key: Key) -> bool:
    algorithm = key.get("alg")
    if not isinstance(algorithm, str) or key.get("use", "sig") != "sig":
        return False
    return (key.get("kty"), key.get("crv")) == PUBLIC_KEY_TYPES.get(algorithm)
