"""Real workers run executions while everything breaks: workers, Postgres, PostgREST, Auth, network, disk.

Afterwards each execution has ended in time. Completed ones hold the source's records, and cancelled ones are as they
were when the cancel returned.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import threading
import time
from typing import TYPE_CHECKING, Any, Final

import httpx
import psycopg

from tests.chaos.jobs import Job, Jobs, row_of
from tests.chaos.team import SIZE, Team

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from random import Random

    from tests.chaos.report import Report
    from tests.chaos.target import Target

ACTIONS: Final = 8  # in a round
CANCELS: Final = 4  # a cancel is as likely as this number of other actions
CHECKS: Final = ("/list-historical-syncs", "/api/bulk/syncs", "/sync-job-run", "/api/connections")
PAGE_SECONDS: Final = 0.05  # per page of the source, so that executions last as long as the round
PAUSE_SECONDS: Final = 0.05  # between reads
PATIENCE_SECONDS: Final = 90.0  # far more than a lease and a tick
FULL_BYTES: Final = 16_384
FULL: Final = "File too large"  # Postgres reports an internal error, where a full disk would be 53100
ABORTED: Final = "was terminated by signal 6"  # a backend that could not write the WAL of its commit

ERROR_RESPONSES: Final = [
    ("502 Bad Gateway", b""),
    ("503 Service Unavailable", b"{}"),
    ("500 Internal Server Error", b"<html>"),
]
INVALID_RESPONSES: Final = [
    ("200 OK", body) for body in (b"", b"{}", b"[]", b"null", b'"x"', b"<html>", b'{"id": 1}', b"\xff")
]
CALLS: Final = (
    b"worker_commit_batch",
    b"worker_heartbeat",
    b"worker_complete",
    b"worker_claim",
    b"worker_run_bulk_action_step",
    b"worker_begin_delivery",
)

_BACKENDS = "select pid from pg_stat_activity where usename = 'authenticator' order by pid"
_END_BACKENDS = "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'authenticator'"


class Crashes:
    def __init__(self, target: Target, report: Report) -> None:
        self._target = target
        self._report = report
        self._client = httpx.Client(timeout=30)
        self._team = Team(target)
        self._jobs = Jobs(target, self._send)
        self._timers: list[threading.Timer] = []
        self._allowed: set[int] = set()  # statuses that are expected in this round
        self._read = 0  # bytes of Postgres's log so far
        self._actions: dict[str, Callable[[Random], object]] = {
            "kill -9 of a worker": lambda chance: self._team.kill(chance.randrange(SIZE)),
            "SIGSTOP of a worker": lambda chance: self._team.stop(chance.randrange(SIZE), chance.uniform(0.1, 2.5)),
            "SIGTERM of a worker": lambda chance: self._team.end(chance.randrange(SIZE)),
            "connections ended by Postgres": self._terminate,
            "kill -9 of a Postgres backend": self._kill_backend,
            "Postgres restarted": lambda _: target.postgres.restart(signal.SIGINT),
            "Postgres crashed": lambda _: target.postgres.restart(signal.SIGQUIT),
            "full disk of a Postgres backend": self._fill_disk,
            "Auth down": lambda chance: self._replace_auth(chance, ERROR_RESPONSES),
            "Auth returning nonsense": lambda chance: self._replace_auth(chance, INVALID_RESPONSES),
            "network cut": lambda _: self._team.network.cut(),
            "network frozen": self._freeze,
            "response of the database lost": lambda chance: self._team.network.lose_response(chance.choice(CALLS)),
            "source slow": self._slow_source,
            "source returning errors": self._break_source,
            "cancels": self._cancel,
        }
        if target.postgrest:
            self._actions["PostgREST down"] = self._without_postgrest

    def round(self, chance: Random) -> None:
        self._under_way = self._jobs.start()
        self._allowed.clear()
        self._target.source.faults.delay_seconds = PAGE_SECONDS
        with self._traffic():
            for _ in range(ACTIONS):
                time.sleep(chance.uniform(0, 0.4))
                name = chance.choice([*self._actions, *["cancels"] * CANCELS])
                self._report.count(name)
                self._actions[name](chance)
            self._recover()
        self._wait()
        with self._target.admin() as admin:
            for job in self._under_way:
                self._report.count(f"executions that {row_of(job.id, admin)['status']}")
                for wrong in self._jobs.violations(job, admin):
                    self._report.violation(wrong)
        self._read_logs()

    def _read_logs(self) -> None:
        """Workers logged no unexpected error and no secret."""
        with self._target.postgres.log.open(errors="replace") as log:
            log.seek(self._read)
            self._report.errors.clear()
            # A backend at its limit cannot write to a long log either, so the postmaster's message is counted.
            self._report.count("Postgres crashed by a full disk", log.read().count(ABORTED))
            self._read = log.tell()
        accepted = self._target.source.credentials
        secrets = [accepted.token, self._target.postgres.password, self._target.auth.service_role_key()]
        for line in self._team.log_lines():
            logged = json.dumps(line, default=str)
            self._report.expect(line.get("level") != "error" or FULL in logged, f"a worker logged {logged}")
            self._report.expect(not any(secret in logged for secret in secrets), "a worker's log contains a secret")

    def _send(self, method: str, path: str, token: str, setup: str = "direct", **options: Any) -> httpx.Response:
        headers = {"authorization": f"Bearer {token}", **options.pop("headers", {})}
        return self._client.request(method, f"{self._target.function_urls[setup]}{path}", headers=headers, **options)

    # Faults

    def _backends(self) -> list[int]:
        with contextlib.suppress(psycopg.OperationalError), self._target.admin() as admin:
            return [int(row["pid"]) for row in admin.execute(_BACKENDS)]
        return []

    def _terminate(self, _: Random | None = None) -> bool:
        """Whether Postgres accepted the call."""
        with contextlib.suppress(psycopg.OperationalError), self._target.admin() as admin:
            admin.execute(_END_BACKENDS)
            return True
        return False

    def _kill_backend(self, chance: Random) -> None:
        """Postgres ends all connections and recovers from its log."""
        place = chance.random()  # a share, because the following choices must not depend on the number of backends
        if backends := self._backends():
            with contextlib.suppress(ProcessLookupError):
                os.kill(backends[int(place * len(backends))], signal.SIGKILL)

    def _fill_disk(self, chance: Random) -> None:
        """The kernel lets the backend write no file beyond FULL_BYTES, so it must abort, as with a full disk."""
        first = chance.randrange(2)
        for pid in self._backends()[first::2]:
            self._target.postgres.limit_files(pid, FULL_BYTES)

    def _replace_auth(self, chance: Random, responses: Sequence[tuple[str, bytes]]) -> None:
        if responses is INVALID_RESPONSES:  # an invalid 200 may accept a token, while an outage rejects no caller
            self._allowed.add(401)
        self._target.auth_response = chance.choice(responses)
        self._later(chance, lambda: setattr(self._target, "auth_response", None))

    def _freeze(self, chance: Random) -> None:
        self._team.network.freeze()
        self._later(chance, self._team.network.thaw)

    def _without_postgrest(self, chance: Random) -> None:
        server = self._target.postgrest
        assert server
        server.stop()
        time.sleep(chance.uniform(0, 0.5))
        server.start()

    def _slow_source(self, chance: Random) -> None:
        self._target.source.faults.delay(chance.uniform(0.5, 2), times=chance.randint(1, 4))

    def _break_source(self, chance: Random) -> None:
        faults = self._target.source.faults
        times = chance.randint(1, 4)
        match chance.randrange(4):
            case 0:
                faults.status(chance.choice((500, 502, 503)), times=times)
            case 1:
                faults.status(429, times=times, retry_after=chance.choice((0, 1, "soon")))
            case 2:
                faults.truncate(times=times)
            case _:
                faults.invalid_json(times=times)

    def _later(self, chance: Random, repair: Callable[[], None]) -> None:
        timer = threading.Timer(chance.uniform(0.2, 1), repair)
        timer.start()
        self._timers.append(timer)

    # Requests meanwhile

    def _cancel(self, chance: Random) -> None:
        job = chance.choice(self._under_way)
        method, path, body = job.cancel
        response = self._try(chance.choice([*self._target.function_urls]), method, path, json=body)
        if response is None or response.status_code != 200 or job.cancelled:
            return
        with contextlib.suppress(psycopg.OperationalError), self._target.admin() as admin:
            row = row_of(job.id, admin)
            if row["cancelled_by"]:
                job.cancelled = row

    @contextlib.contextmanager
    def _traffic(self) -> Iterator[None]:
        """Reads through each setup all the time."""
        stop = threading.Event()

        def read(setup: str) -> None:
            for path in itertools.cycle(CHECKS):
                if stop.wait(PAUSE_SECONDS):
                    return
                self._try(setup, "GET", path)

        threads = [threading.Thread(target=read, args=[setup]) for setup in self._target.function_urls]
        for thread in threads:
            thread.start()
        try:
            yield
        finally:
            stop.set()
            for thread in threads:
                thread.join()

    def _try(self, setup: str, method: str, path: str, **options: Any) -> httpx.Response | None:
        """The functions always respond, and never with an unexpected error."""
        try:
            response = self._send(method, path, self._jobs.person.token, setup, **options)
        except httpx.TransportError as error:
            self._report.violation(f"{method} {path} with the {setup} setup: {error!r}")
            return None
        self._report.count("calls while it was broken")
        allowed = {200, 400, 503, *self._allowed}
        fair = response.status_code in allowed or any(FULL in error for error in self._report.errors)
        self._report.expect(fair, f"{method} {path} with the {setup} setup: {response.text}")
        return response

    # Recovery

    def _recover(self) -> None:
        for timer in self._timers:
            timer.join()
        self._timers.clear()
        self._target.source.faults.clear()
        self._team.recover()
        until = time.monotonic() + PATIENCE_SECONDS
        while not self._terminate() and time.monotonic() < until:  # ends the backends with limited files
            time.sleep(0.1)

    def _wait(self) -> None:
        deadline = time.monotonic() + PATIENCE_SECONDS
        left: list[Job] = self._under_way
        while left and time.monotonic() < deadline:
            time.sleep(0.1)
            with contextlib.suppress(psycopg.OperationalError), self._target.admin() as admin:
                left = [job for job in left if not row_of(job.id, admin)["finished_at"]]
        for job in left:
            self._report.violation(f"{job.id} has not ended")

    def close(self) -> None:
        self._team.close()
        self._jobs.receiver.close()
        self._client.close()
