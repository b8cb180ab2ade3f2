"""A tree of resources: the roots in turn, and for each record as it arrives the resources that depend on it.

One page per level is held, however many records there are. The checkpoint is {frames, started, errors}: a frame per
level, from the root down to where the last batch came from, {node, loop, page, skip, of} as pages.py says, and `at` and
`key`, the record whose dependants were being read. Where another record is there now, because the source has changed,
that page's dependants are read again. After the last error it is {complete: true}.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from functions._connections.errors import SourceError, SourceRefused
from functions.worker.client import Batch, Delivery
from functions.worker.runners.pages import cut, get_resource, position
from functions.worker.runners.templates import PlaceholderError, fill, looked_up

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
    def __init__(self, execution: Execution, source: HttpConnector) -> None:
        spec = execution.spec
        checkpoint = execution.checkpoint or {}
        self._source = source
        self._nodes: list[dict[str, Any]] = spec["nodes"]
        self._delivers = spec["write"]["mode"] == "deliver"
        self._errors_are = spec["error_handling"]
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
            yield replace(self._batch(self._nodes[0], self._frames), delivery=self._letter("started", {}))
        roots = [number for number, node in enumerate(self._nodes) if node["parent"] is None]
        async for batch in self._all(roots, self._scope, [], self._frames):
            yield batch
        if self._errors and self._errors_are == "batch":
            told = self._letter("record_error", {"errors": self._errors})
            yield replace(self._batch(self._nodes[0], []), checkpoint={"complete": True}, delivery=told)

    async def _all(
        self, numbers: Sequence[int], scope: Scope, above: list[Frame], resume: list[Frame]
    ) -> AsyncGenerator[Batch, None]:
        """These nodes in turn, from where `resume` says; `above` are the frames of the levels above."""
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
            if not first:  # else it was told before
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
        """One request of a node with all its pages, and what depends on their records."""
        node = self._nodes[start["node"]]
        children = [number for number, child in enumerate(self._nodes) if child["parent"] == start["node"]]
        get_resource(self._source, node["resource"])
        filled = fill({"id": node.get("id"), "query": node.get("query") or {}}, scope)
        assert isinstance(filled, dict)
        params = filled.get("query") or {}
        frame = position(self._source, node["resource"], None, start, resume[0] if resume else None, params=params)
        below = resume[1:] if resume and frame is resume[0] else []
        async for page in self._pages(node, filled.get("id"), params, frame):
            for records, skip in cut(page, frame["skip"]):
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
            frame = {name: frame[name] for name in ("node", "loop", "of")} | {"page": page.next, "skip": 0}

    async def _pages(self, node: Mapping[str, Any], key: object, params: Any, frame: Frame) -> AsyncIterator[Page]:  # noqa: ANN401
        if node["method"] == "get":
            yield await self._source.one(node["resource"], key, params)
            return
        async for page in self._source.pages(node["resource"], None, frame["page"], params):
            yield page

    def _records(self, node: Mapping[str, Any], frames: list[Frame], records: Sequence[dict[str, Any]]) -> Batch:
        read = replace(self._batch(node, frames), fetched=len(records))
        if not node["persist"]:
            return read
        if not self._delivers:
            return replace(read, records=records)
        payload = {"resource": node["resource"], "method": node["method"], "records": [one["data"] for one in records]}
        return replace(read, delivery=self._letter("record", payload, len(records)))

    def _failure(self, node: Mapping[str, Any], frames: list[Frame], error: SourceError | PlaceholderError) -> Batch:
        """Passes over it: `frames` stand behind what failed. Raises where nothing is passed over."""
        if self._errors_are == "fail_fast":
            raise error if isinstance(error, SourceError) else SourceRefused("invalid_placeholder", error.message)
        code = getattr(error, "code", "invalid_placeholder")
        told = {"resource": node["resource"], "method": node["method"], "code": code, "message": str(error)}
        if self._errors_are == "batch" and len(self._errors) < MAX_ERRORS:
            self._errors = [*self._errors, told]
        failed = replace(self._batch(node, frames), errors=[str(error)])
        return replace(failed, delivery=self._letter("record_error", told)) if self._errors_are == "ignore" else failed

    def _batch(self, node: Mapping[str, Any], frames: list[Frame]) -> Batch:
        checkpoint = {"frames": frames, "started": self._started, "errors": self._errors}
        return Batch(node["resource"], [], checkpoint, {}, method=node["method"], fetched=0)

    def _letter(self, event: str, payload: Mapping[str, Any], records: int = 0) -> Delivery | None:
        return Delivery(f"sync_job_run:{event}", {**self._about, **payload}, records) if self._delivers else None


def _is_same(page: Page, frame: Frame) -> bool:
    """Whether the record that the frame stands at is still there."""
    at = frame.get("at")
    return at is not None and at < len(page.records) and page.records[at].key == frame["key"]


def _loop_path(text: str, scope: Scope) -> str:
    """loop_on names an argument, or anything by its whole path; with braces or without."""
    path = text.strip().strip("{}").strip()
    return f"args.{path}" if path and isinstance(looked_up(f"args.{path}", scope), list) else path


def _elements(path: str, scope: Scope) -> list[Any]:
    found = looked_up(path, scope)
    if not isinstance(found, list):
        raise PlaceholderError(f"loop_on needs a list, and {path} is none.")
    return found


def _with(scope: Scope, path: str, value: object) -> dict[str, Any]:
    """The scope with one value at a dotted path; nothing of the given scope is changed."""
    name, _, rest = path.partition(".")
    inner = scope.get(name)
    return {**scope, name: _with(inner if isinstance(inner, Mapping) else {}, rest, value) if rest else value}
