"""`make readme`: writes the endpoint table of functions/README.md from the registry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from functions._local.schema import ROOT
from functions._shared import registry
from functions._shared.fields import unsent

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from pydantic import BaseModel

    from functions._shared.endpoint import Endpoint

README = ROOT / "functions" / "README.md"
HEADER = ("| endpoint | method | request | success | |", "|---|---|---|---|---|")
MAX_FIELDS = 6
_TABLE = re.compile(r"(?<=<!-- endpoints: make readme -->\n).*?(?=<!-- end -->)", re.DOTALL)


def with_table(text: str) -> str:
    """`text` with the table of the endpoints that the registry has now."""
    return _TABLE.sub(lambda _: "".join(f"{line}\n" for line in (*HEADER, *map(_row, registry.endpoints()))), text)


def _row(endpoint: Endpoint) -> str:
    in_path = endpoint.path_parameters(endpoint.path) or {}
    request = _fields(endpoint.request, unsent(endpoint.request) | set(in_path))
    response = _fields(endpoint.response) if endpoint.response else ""
    cells = (f"`{endpoint.path[1:]}`", endpoint.method, request, f"{endpoint.status} {response}", endpoint.summary)
    return f"| {' | '.join(cells)} |"


def _fields(model: type[BaseModel], without: Iterable[str] = ()) -> str:
    """The first fields of a model by their JSON names, optional ones in brackets."""
    names = list(_json_names(model, without))
    return ", ".join(names if len(names) <= MAX_FIELDS else [*names[: MAX_FIELDS - 1], "…"])


def _json_names(model: type[BaseModel], without: Iterable[str]) -> Iterator[str]:
    for name, field in model.model_fields.items():
        if name not in without:
            yield f"`{field.alias or name}`" if field.is_required() else f"[`{field.alias or name}`]"


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
