"""Reads a tree of resources: each root in turn, and for each of its records the resources that depend on it.

One page per level is in memory, however many records there are. The checkpoint is {frames, started, errors}. `frames`
has one frame per level, from the root to the level of the last batch: {node, loop, page, skip, request_hash} (see
pages.py), and `at` and `key` of the record whose dependent resources were being read. If another record is there later,
because the source has changed, the dependent resources of that page are read again. After the last batch of errors the
checkpoint is {complete: true}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from functions._connections.errors import SourceError, SourceRefused
from functions.worker.client import Batch, Delivery
from functions.worker.runners.pages import get_resource, resume_position, split_page
from functions.worker.runners.templates import PlaceholderError, look_up, render

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Sequence

    from functions.worker.client import Execution
    from functions.worker.connectors import OpenSource
    from functions.worker.connectors.http import HttpConnector, Page

MAX_ERRORS = 100

Frame = dict[str, Any]
Scope = Mapping[str, Any]


async def sync_job_run(execution: Execution, open_source: OpenSource) -> AsyncGenerator[Batch, None]:
    if (execution.checkpoint or {}).get("complete"):
        return
    async with open_source(execution.connection) as source:
        async for batch in Run(execution, source).batches():
            yield batch


class Run:
    """One execution: makes its batches, and the deliveries where it writes to a webhook."""

    def __init__(self, execution: Execution, source: HttpConnector) -> None:
        spec = execution.spec
        checkpoint = execution.checkpoint or {}
        self._source = source
        self._nodes: list[dict[str, Any]] = spec["nodes"]
        self._delivers = spec["write"]["mode"] == "deliver"
        self._error_handling = spec["error_handling"]
        self._frames: list[Frame] = checkpoint.get("frames", [])
        self._started = bool(checkpoint.get("started")) or not self._delivers
        self._errors: list[dict[str, Any]] = checkpoint.get("errors", [])
        self._about = {"sync_job_run_id": execution.id, "sync_job_id": execution.definition_id}
        self._scope: dict[str, Any] = {
            "args": spec["args"],
            "resources": {},
            "sync_job_run": {"id": execution.id},
            "integrated_account": {"id": execution.connection_id},
        }
        if spec.get("previous_run_date"):
            self._scope["previous_run_date"] = spec["previous_run_date"]

    async def batches(self) -> AsyncGenerator[Batch, None]:
        if not self._started:
            self._started = True
            yield replace(self._batch(self._nodes[0], self._frames), delivery=self._delivery("started", {}))
        roots = [number for number, node in enumerate(self._nodes) if node["parent"] is None]
        async for batch in self._all(roots, self._scope, [], self._frames):
            yield batch
        if self._errors and self._error_handling == "batch":
            delivery = self._delivery("record_error", {"errors": self._errors})
            yield replace(self._batch(self._nodes[0], []), checkpoint={"complete": True}, delivery=delivery)

    async def _all(
        self, numbers: Sequence[int], scope: Scope, above: list[Frame], resume: list[Frame]
    ) -> AsyncGenerator[Batch, None]:
        """Read these nodes in turn, from the frames `resume` on. `above` are the frames of the levels above."""
        first = numbers.index(resume[0]["node"]) if resume and resume[0]["node"] in numbers else 0
        for number in numbers[first:]:
            async for batch in self._node(number, scope, above, resume if number == numbers[first] else []):
                yield batch

    async def _node(
        self, number: int, scope: Scope, above: list[Frame], resume: list[Frame]
    ) -> AsyncGenerator[Batch, None]:
        node = self._nodes[number]
        path = _loop_path(node.get("loop_on") or "", scope)
        first = resume[0]["loop"] if resume else 0
        try:
            elements = _elements(path, scope) if path else [None]
        except PlaceholderError as error:
            if not first:  # else it was reported before
                yield self._failure(node, [*above, {"node": number, "loop": 1}], error)
            return
        for loop, element in [*enumerate(elements)][first:]:
            inner = _with(scope, path, element) if path else scope
            at_first = resume if loop == first else []
            try:
                async for batch in self._call({"node": number, "loop": loop}, inner, above, at_first):
                    yield batch
            except (SourceError, PlaceholderError) as error:
                yield self._failure(node, [*above, {"node": number, "loop": loop + 1}], error)

    async def _call(
        self, start: Frame, scope: Scope, above: list[Frame], resume: list[Frame]
    ) -> AsyncGenerator[Batch, None]:
        """Read all pages of one request of a node, and the resources that depend on their records."""
        node = self._nodes[start["node"]]
        children = [number for number, child in enumerate(self._nodes) if child["parent"] == start["node"]]
        get_resource(self._source, node["resource"])
        rendered = render({"id": node.get("id"), "query": node.get("query") or {}}, scope)
        assert isinstance(rendered, dict)
        params = rendered.get("query") or {}
        stored = resume[0] if resume else None
        frame = resume_position(self._source, node["resource"], None, start, stored, params=params)
        below = resume[1:] if resume and frame is resume[0] else []
        async for page in self._pages(node, rendered.get("id"), params, frame):
            for records, skip in split_page(page, frame["skip"]):
                frame = {**frame, "skip": skip}
                if records:
                    yield self._records(node, [*above, frame], records)
            begin = frame["at"] if _is_same(page, frame) else 0
            below = below if _is_same(page, frame) else []
            for at, record in enumerate(page.records[begin:], begin) if children else ():
                frame = {**frame, "at": at, "key": record.key}
                inner = _with(scope, "resources." + node["resource"].replace("/", "."), record.data)
                async for batch in self._all(children, inner, [*above, frame], below):
                    yield batch
                below = []
            frame = {name: frame[name] for name in ("node", "loop", "request_hash")} | {"page": page.next, "skip": 0}

    async def _pages(self, node: Mapping[str, Any], key: object, params: Any, frame: Frame) -> AsyncIterator[Page]:  # noqa: ANN401
        if node["method"] == "get":
            yield await self._source.get_record(node["resource"], key, params)
            return
        async for page in self._source.pages(node["resource"], None, frame["page"], params):
            yield page

    def _records(self, node: Mapping[str, Any], frames: list[Frame], records: Sequence[dict[str, Any]]) -> Batch:
        read = replace(self._batch(node, frames), fetched=len(records))
        if not node["persist"]:
            return read
        if not self._delivers:
            return replace(read, records=records)
        data = [record["data"] for record in records]
        payload = {"resource": node["resource"], "method": node["method"], "records": data}
        return replace(read, delivery=self._delivery("record", payload, len(records)))

    def _failure(self, node: Mapping[str, Any], frames: list[Frame], error: SourceError | PlaceholderError) -> Batch:
        """Make the batch that reports an error; its `frames` are behind what failed. Raises if the run fails fast."""
        if self._error_handling == "fail_fast":
            raise error if isinstance(error, SourceError) else SourceRefused("invalid_placeholder", error.message)
        code = getattr(error, "code", "invalid_placeholder")
        report = {"resource": node["resource"], "method": node["method"], "code": code, "message": str(error)}
        if self._error_handling == "batch" and len(self._errors) < MAX_ERRORS:
            self._errors = [*self._errors, report]
        failed = replace(self._batch(node, frames), errors=[str(error)])
        if self._error_handling == "ignore":
            return replace(failed, delivery=self._delivery("record_error", report))
        return failed

    def _batch(self, node: Mapping[str, Any], frames: list[Frame]) -> Batch:
        checkpoint = {"frames": frames, "started": self._started, "errors": self._errors}
        return Batch(node["resource"], [], checkpoint, {}, method=node["method"], fetched=0)

    def _delivery(self, event: str, payload: Mapping[str, Any], records: int = 0) -> Delivery | None:
        return Delivery(f"sync_job_run:{event}", {**self._about, **payload}, records) if self._delivers else None


def _is_same(page: Page, frame: Frame) -> bool:
    """Whether the frame's record is still at its place."""
    at = frame.get("at")
    return at is not None and at < len(page.records) and page.records[at].key == frame["key"]


def _loop_path(text: str, scope: Scope) -> str:
    """The path of loop_on: the name of an argument or a whole path, with braces or without."""
    path = text.strip().strip("{}").strip()
    return f"args.{path}" if path and isinstance(look_up(f"args.{path}", scope), list) else path


def _elements(path: str, scope: Scope) -> list[Any]:
    found = look_up(path, scope)
    if not isinstance(found, list):
        raise PlaceholderError(f"loop_on requires a list, but {path} is not a list.")
    return found


def _with(scope: Scope, path: str, value: object) -> dict[str, Any]:
    """A copy of the scope with one value at a dotted path."""
    name, _, rest = path.partition(".")
    inner = scope.get(name)
    return {**scope, name: _with(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}
