"""Malformed requests: tokens, bodies, encodings, headers, injections, raw bytes, and connections that never finish.
A rejected request changes nothing, and no response is a server error.
"""

from __future__ import annotations

import contextlib
import json
from functools import partial
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import urlsplit

import httpx

from tests.chaos import bodies, wire
from tests.chaos.agency import Agency
from tests.chaos.calls import ENDPOINTS, made
from tests.chaos.checker import SourceChecker
from tests.chaos.fingerprint import fingerprint
from tests.chaos.tokens import bad_token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random

    from functions._shared.endpoint import Endpoint
    from tests.chaos.report import Report
    from tests.chaos.target import Target

TIMES: Final = 20  # of each kind in a round
ODD: Final = 0.25  # share of a request's values that are hostile
SLOW: Final = 64  # connections that never finish their request
HAVE_BODIES: Final = [endpoint for endpoint in ENDPOINTS.values() if endpoint.method in ("POST", "PATCH")]
# Headers that an attacker may expect to have an effect. The response is the same as without them.
HEADERS: Final = (
    {"x-agency-key": "sync_x"},
    {"x-http-method-override": "DELETE"},
    {"x-forwarded-for": "127.0.0.1", "x-forwarded-host": "evil.example", "forwarded": "for=127.0.0.1;host=evil"},
    {"accept-profile": "app", "content-profile": "app"},
    {"prefer": "tx=rollback,return=representation,params=single-object"},
    {"request.jwt.claims": '{"role": "service_role"}', "x-user-id": "1", "role": "service_role"},
    {"apikey": "x", "cookie": "sb-access-token=x"},
    {"x-request-id": "' || pg_sleep(30) || '"},
    {"x-request-id": "é" * 200},
    {"range": "items=0-0", "if-none-match": "*", "expect": "x"},
    {"content-type": "text/html; charset=utf-7"},
    {"content-encoding": "gzip", "te": "trailers"},
    {"host": "evil.example"},
    {"origin": "https://evil.example", "access-control-request-method": "DELETE"},
)


class Malformed:
    def __init__(self, target: Target, report: Report) -> None:
        self._target = target
        self._report = report
        self._client = httpx.Client(timeout=30)
        self._checker = SourceChecker(target)
        self._agency = Agency(target, self._client)
        self._token = self._agency.headers["authorization"].removeprefix("Bearer ")

    def round(self, chance: Random) -> None:
        self._agency.furnish()
        setup = chance.choice([*self._target.function_urls])
        self._url = self._target.function_urls[setup]
        with self._unchanged("a rejected request"):
            for _ in range(TIMES):
                self._send_bad_token(chance)
                self._send_bad_body(chance)
                self._send_bad_bytes(chance)
        for _ in range(TIMES):
            self._inject(chance)
            self._smuggle_header(chance)
        self._be_slow()

    @contextlib.contextmanager
    def _unchanged(self, what: str) -> Iterator[None]:
        with self._target.admin() as admin:
            before = fingerprint(admin)
            yield
            after = fingerprint(admin)
        changed = [name for name, one in after.items() if before.get(name) != one]
        self._report.expect(not changed, f"{what} changed {', '.join(changed)}")

    def _send(self, method: str, path: str, token: str | None = None, **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token or self._token}", **options.pop("headers", {})}
        sent = httpx.Headers(headers, encoding="utf-8")
        return self._client.request(method, f"{self._url}{path}", headers=sent, **options)

    def _good(self, endpoint: Endpoint) -> dict[str, Any]:
        return made(endpoint, partial(self._agency.real, endpoint.name)).options

    def _send_bad_token(self, chance: Random) -> None:
        name, token = bad_token(self._target, self._token, chance)
        options = self._good(chance.choice([*ENDPOINTS.values()]))
        response = self._send(options.pop("method"), options.pop("url"), token, **options)
        self._report.count("invalid tokens")
        self._report.expect(response.status_code == 401, f"a token ({name}) got {_shown(response)}")

    def _send_bad_body(self, chance: Random) -> None:
        endpoint = chance.choice(HAVE_BODIES)
        options = self._good(endpoint)
        # A cancel accepts unknown fields.
        name = chance.choice(
            [name for name in bodies.BAD if "cancel" not in endpoint.name or name not in bodies.GOOD_JSON]
        )
        content = bodies.BAD[name](json.dumps(options["json"] or {"x": 1}).encode(), chance)
        response = self._send(options["method"], options["url"], content=content)
        self._report.count("invalid bodies")
        fair = response.status_code in (400, 404, 413, 415, 422)
        self._report.expect(fair, f"a body ({name}) for {endpoint.name} got {_shown(response)}")

    def _send_bad_bytes(self, chance: Random) -> None:
        parts = urlsplit(self._url)
        head = f"host: {parts.netloc}\r\nauthorization: Bearer {self._token}\r\n".encode()
        name = chance.choice([*wire.BAD])
        received = wire.statuses(self._url, wire.BAD[name](parts.path.encode(), head, chance))
        self._report.count("malformed or smuggled HTTP requests")
        fair = all(400 <= status < 500 or status in (501, 505) for status in received)
        self._report.expect(fair, f"bytes ({name}) got {received}")

    def _inject(self, chance: Random) -> None:
        endpoint = chance.choice([*ENDPOINTS.values()])

        in_url = endpoint not in HAVE_BODIES

        def value(member: str, it: Any) -> Any:
            it = self._agency.real(endpoint.name, member, it)
            odd = bodies.odd_value(chance) if chance.random() < ODD else it
            return _as_text(odd) if in_url or f"{{{member}}}" in endpoint.path else odd

        options = made(endpoint, value).options
        if "json" in options:
            options["content"] = json.dumps(options.pop("json")).encode()
        response = self._send(options.pop("method"), options.pop("url"), **options)
        self._report.count("injections, in any field of any endpoint")
        self._report.expect(response.status_code < 500, f"{endpoint.name} with {options} got {_shown(response)}")

    def _smuggle_header(self, chance: Random) -> None:
        extra = chance.choice(HEADERS)
        plain = self._send("GET", "/api/connections")
        response = self._send("GET", "/api/connections", headers=extra)
        self._report.count("misleading headers")
        same = (response.status_code, response.json().get("data")) == (plain.status_code, plain.json().get("data"))
        self._report.expect(same or response.status_code == 417, f"with {extra} it got {_shown(response)}")
        self._report.expect("evil" not in str(response.headers), f"{extra} was returned: {response.headers}")

    def _be_slow(self) -> None:
        """Many connections begin a request and never finish it. Other requests are served meanwhile."""
        with contextlib.ExitStack() as stack:
            for nth in range(SLOW):
                slow = stack.enter_context(wire.connect(self._url))
                path = urlsplit(self._url).path.encode()
                slow.sendall(
                    b"POST "
                    + path
                    + b"/cancel-historical-sync HTTP/1.1\r\ncontent-length: 9\r\n"
                    + b"\r\n{" * (nth % 2)
                )
            self._report.count("connections that never finish", SLOW)
            response = self._send("GET", "/api/connections")
            self._report.expect(response.status_code == 200, f"beside slow connections it got {_shown(response)}")

    def close(self) -> None:
        self._checker.close()
        self._client.close()


def _as_text(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text[:5000].encode("utf-8", "replace").decode()


def _shown(response: httpx.Response) -> str:
    return f"{response.status_code} {response.text[:300]}"
