"""`make readme`: the endpoint table of README.md, from the registry."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from functions._local.schema import ROOT
from functions._shared import registry
from functions._shared.fields import unsent

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pydantic import BaseModel

    from functions._shared.endpoint import Endpoint

README = ROOT / "README.md"
_TABLE = re.compile(r"(?<=<!-- endpoints: make readme -->\n).*?(?=<!-- end -->)", re.DOTALL)


def with_table(text: str) -> str:
    """README's text with the table as the registry has it now."""
    rows = ["| function | method | request | success | |", "|---|---|---|---|---|", *map(_row, registry.endpoints())]
    return _TABLE.sub(lambda _: "\n".join(rows) + "\n", text)


def _row(endpoint: Endpoint) -> str:
    url = endpoint.path.removeprefix("/")
    request = _members(endpoint.request, unsent(endpoint.request) | set(endpoint.path_parameters(endpoint.path) or ()))
    success = f"{endpoint.status} {_members(endpoint.response) if endpoint.response else ''}"
    return f"| `{url}` | {endpoint.method} | {request} | {success} | {endpoint.summary} |"


def _members(model: type[BaseModel], without: Iterable[str] = ()) -> str:
    """Required ones in code, optional ones in brackets; the first few of a long list."""
    fields = {name: field for name, field in model.model_fields.items() if name not in without}
    names = [f"`{name}`" if field.is_required() else f"[`{name}`]" for name, field in fields.items()]
    return ", ".join(names if len(names) < 7 else [*names[:5], "…"])


if __name__ == "__main__":
    README.write_text(with_table(README.read_text()))
