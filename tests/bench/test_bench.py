"""`make bench`: its arithmetic, and each part of it with tiny counts. What the figures are is no test's business."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from functions._local import postgrest
from functions._local.schema import ROOT
from functions._local.web_server import WebServer
from tests.bench import cold, engine, load, records, stop, transports
from tests.bench import installed as bench
from tests.bench.figures import Goal, Table, median, paired_ratio, percentile
from tests.support.installed import installed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from wsgiref.types import StartResponse, WSGIEnvironment


def test_a_percentile_is_one_of_the_values() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert [percentile(values, share) for share in (0.001, 0.01, 0.5, 0.99, 1)] == [1, 1, 50, 99, 100]
    assert percentile([7.0], 0.99) == 7


def test_what_disturbs_a_round_disturbs_no_ratio() -> None:
    ones, others = [1.0, 1.0, 30.0], [2.0, 2.0, 60.0]
    assert paired_ratio(ones, others) == 0.5
    assert median(ones) / sum(others) != 0.5


@pytest.mark.parametrize(
    ("goal", "bound", "met"),
    [
        (Goal("a", 0.4, at_most=0.4), "≤ 0.4", "yes"),
        (Goal("a", 0.41, at_most=0.4), "≤ 0.4", "no"),
        (Goal("a", 2.0, at_least=2), "≥ 2", "yes"),
        (Goal("a", 1.9, at_least=2), "≥ 2", "no"),
    ],
)
def test_a_goal_is_met_at_its_bound(goal: Goal, bound: str, met: str) -> None:
    assert goal.row[2:] == (bound, met)


def test_a_table_is_markdown() -> None:
    table = Table(("a", "b"))
    table.add("1", "2")
    assert str(table) == "| a | b |\n| --- | --- |\n| 1 | 2 |"


@pytest.mark.parametrize(
    ("result", "is_whole"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{", False),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", True),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n", False),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n", True),
    ],
)
def test_an_answer_counts_when_all_of_it_is_there(response: bytes, is_whole: bool) -> None:
    assert load.is_whole(response) is is_whole


def test_the_load_asks_everything_once_and_keeps_its_connections() -> None:
    asked: list[bytes] = []
    ports: set[str] = set()

    def application(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        asked.append(environ["wsgi.input"].read())
        ports.add(environ["REMOTE_PORT"])
        start_response("200 OK" if asked[-1] != b"bad" else "400 Bad Request", [("content-length", "2")])
        return [b"{}"]

    server = WebServer(application)
    try:
        requests = [load.request("/x", {"authorization": "Bearer t"}, b"%d" % number) for number in range(20)]
        taken = load.run(server.port, 3, requests)
        assert sorted(asked) == sorted(b"%d" % number for number in range(20))
        assert (len(taken.answers), len(ports)) == (20, 3)
        with pytest.raises(RuntimeError, match="not a 200"):
            load.run(server.port, 1, [load.request("/x", {}, b"bad")])
    finally:
        server.close()


@pytest.mark.timeout(400)
def test_every_part_runs() -> None:
    installed("PostgREST", postgrest.binary())
    installed("Deno", bench.DENO)
    environment = {**os.environ, "BENCH_SCALE": "0.01", "BENCH_HISTORY": "20", "ONLY": "", "BENCH_README": ""}
    command = [sys.executable, "-m", "tests.bench"]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    measured = set(re.findall(r"^\| ([^|]+?) \|", done.stdout, re.MULTILINE))
    ours = {
        transports.OURS,
        transports.OURS_HS256,
        transports.DIRECT,
        cold.ALONE,
        cold.REGISTRY,
        engine.OURS,
        engine.OURS_PAST,
    }
    peers = {transports.FLOOR, transports.EDGE, transports.PLAIN, cold.EDGE, cold.PLAIN}
    assert ours | peers | {records.OURS, stop.HINTED, stop.UNHINTED} <= measured
    assert "Postgres with synchronous_commit on, fsync on, full_page_writes on" in done.stdout
