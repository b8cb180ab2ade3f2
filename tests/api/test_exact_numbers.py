"""Numbers keep their digits on their way through the worker: from a source, through both transports, to a webhook."""

from __future__ import annotations

import asyncio
import contextlib
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Literal, cast

import pytest

from functions._connections.errors import SourceRefused
from functions._shared import exact_json
from functions._shared.transports.postgres import PostgresTransport
from functions.worker import supabase_transport
from functions.worker.client import Batch, WorkerClient, service_caller
from functions.worker.connectors.http import records
from functions.worker.connectors.webhook import WebhookMessage
from tests.support.project import Backend

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.support.database import Database

# A float would make 1884518522.1684268, 1234567890123456.8, 0.1, 1e+22 and 9007199254740992 of them.
NUMBERS = (
    "1884518522.1684267241",
    "1234567890123456.781",
    "0.1000000000000000055511151231257827",
    "10000000000000000000000.0001",
    "9007199254740993",
    "-0.30",
)
BODY = f'[{{"id": 7, "numbers": [{", ".join(NUMBERS)}]}}]'.encode()


@pytest.fixture(scope="module")
def backend(clone: Callable[[], AbstractContextManager[Database]]) -> Iterator[Backend]:
    with clone() as database, contextlib.closing(Backend(database, "ES256")) as made:
        _ = made.postgrest
        yield made


@contextlib.asynccontextmanager
async def worker(backend: Backend, transport: Literal["postgres", "supabase"]) -> AsyncIterator[WorkerClient]:
    key = backend.auth.service_role_key()
    made = (
        WorkerClient(PostgresTransport(backend.database.login("authenticator")), service_caller(""))
        if transport == "postgres"
        else WorkerClient(await supabase_transport.connect(backend.url, key), service_caller(key))
    )
    async with contextlib.aclosing(made) as client:
        yield client


@pytest.mark.parametrize("transport", ["postgres", "supabase"])
def test_numbers__from_a_source_to_the_database_and_back(
    backend: Backend, transport: Literal["postgres", "supabase"]
) -> None:
    database = backend.database
    job_id = database.start(database.member())

    async def scenario() -> Any:
        async with worker(backend, transport) as client:
            [execution] = await client.claim("w", ["historical_sync"], 1, 30)
            [read] = cast("list[object]", records.parse("things", BODY))
            record = records.make_record("things", ["id"], read)
            checkpoint = {"at": Decimal(NUMBERS[0])}
            batch = Batch("things", [{"key": record.key, "data": record.data}], checkpoint, {})
            assert await client.commit_batch(execution, 1, batch) == "continue"
            await client.release(execution, "shutdown")
            [again] = await client.claim("w", ["historical_sync"], 1, 30)
            await client.complete(again)
            return again.checkpoint

    assert exact_json.dumps(asyncio.run(scenario())) == f'{{"at": {NUMBERS[0]}}}'
    stored = "select key, data ->> 'numbers' as numbers from app.records where execution_id = %s"
    assert database.one(stored, (job_id,)) == {"key": "[7]", "numbers": f"[{', '.join(NUMBERS)}]"}


def test_numbers__in_a_webhook() -> None:
    message = WebhookMessage(
        id="d", event="e", payload={"records": exact_json.loads(BODY)}, created_at="now", environment_id="a",
        webhook_id="w", url="https://receiver.example", secret="s",
    )  # fmt: skip
    for number in NUMBERS:
        assert number.encode() in message.body


@pytest.mark.parametrize("numbers", [("1.50", "1.5"), ("1.0", "1"), ("1e2", "100"), ("-0.0", "0"), ("1E-7", "1e-7")])
def test_key__the_same_number_makes_the_same_key(numbers: tuple[str, str]) -> None:
    first, second = (records.key_of([exact_json.loads(number)]) for number in numbers)
    assert first == second


@pytest.mark.parametrize(
    ("first", "second"), [("9007199254740992.1", "9007199254740992.2"), ("0.1", "0.1000000000000000055511151231257827")]
)
def test_key__numbers_that_are_one_float_are_two_keys(first: str, second: str) -> None:
    assert records.key_of([exact_json.loads(first)]) != records.key_of([exact_json.loads(second)])


@pytest.mark.parametrize("number", ["1e999", "-1e309", "1e-20000", "NaN", "Infinity"])
def test_number__that_cannot_be_stored_is_refused(number: str) -> None:
    with pytest.raises(SourceRefused):
        records.parse("things", f'[{{"id": {number}}}]'.encode())


@pytest.mark.parametrize("number", ["1e308", "1e-16000", "5e-324", "123456789." + "9" * 300])
def test_number__of_an_unusual_size_is_stored(backend: Backend, number: str) -> None:
    stored = backend.database.one("select %s::jsonb::text = %s::jsonb::text as same", (f"[{number}]", exact_json.dumps(
        [exact_json.loads_storable(number)])))  # fmt: skip
    assert stored == {"same": True}
