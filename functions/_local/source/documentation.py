"""The page at `/`."""

from __future__ import annotations

from typing import Final

from functions._local.source.data import FIRST_DATE, LAST_DATE, RESOURCES, fields
from functions._local.source.paging import DEFAULT_PAGE_SIZE, MAX_PAGE_SIZE

_PAGE: Final = """<!doctype html><html lang="en"><meta charset="utf-8"><title>nycflights13</title>
<style>body{{font:16px/1.5 system-ui;max-width:60rem;margin:2rem auto;padding:0 1rem}}
td,th{{text-align:left;vertical-align:top;padding:.2rem .8rem .2rem 0}}</style>
<h1>nycflights13</h1>
<p>Flights that left New York City in 2013, with weather, planes, airports and airlines. Read only, JSON.</p>
<table><tr><th>Resource<th>Rows<th>Primary key<th>Fields</tr>{rows}</table>
<h2>Dates</h2><p>{dated} take <code>date_from</code> and <code>date_to</code>, both inclusive and written YYYY-MM-DD:
the UTC date of <code>time_hour</code>. Flights have every date from {first} to {last}. Rows are sorted by
<code>time_hour</code>, then by the rest of the key; the other resources by their key.</p>
<h2>Filters</h2><p>Every field is a parameter too, and leaves the rows that have this value there, as in
<code>/flights?carrier=AA&amp;origin=JFK</code>. Several must all hold, together with the dates; null is equal to
nothing. A parameter that is no field is answered 400, and so is a number that is none.</p>
<h2>One row</h2><p>{single} answer one row at <code>/</code> and its key, as in <code>/airlines/AA</code>:
<code>{{"data": {{...}}}}</code>, or 404.</p>
<h2>Pages</h2><p>Every answer is <code>{{"data": [...], "total": n, "next_cursor": "..." or null}}</code>, where
<code>total</code> counts the rows of the query on all its pages. A page has 1 to {largest} rows, {default} unless you
say.</p>
<ul><li><code>page</code> (from 1) and <code>per_page</code>; <code>Link: &lt;...&gt;; rel="next"</code> until the last
<li><code>offset</code> and <code>limit</code>
<li><code>cursor</code> and <code>limit</code>: no cursor for the first page, then each <code>next_cursor</code></ul>
<h2>Credentials</h2><p>One of <code>Authorization: Bearer ...</code>, <code>X-API-Key: ...</code>, the parameter
<code>api_key</code>, or HTTP Basic. Anything else is answered 401.</p>
<h2>Errors</h2><p><code>{{"error": "..."}}</code> with 400, 401, 404, 405, or 429 and <code>Retry-After</code> in
seconds when a rate limit is set. Tests can also ask this server for 500, 503, 429, invalid JSON, a truncated body or a
delay.</p>
"""


def documentation() -> bytes:
    rows = "".join(
        f'<tr><td><a href="/{name}">/{name}</a><td>{resource.count:,}<td>{", ".join(resource.primary_key)}'
        f"<td>{', '.join(fields(name))}</tr>"
        for name, resource in RESOURCES.items()
    )
    dated = " and ".join(f"<code>/{name}</code>" for name, resource in RESOURCES.items() if resource.dated)
    singles = [f"<code>/{name}</code>" for name, resource in RESOURCES.items() if len(resource.primary_key) == 1]
    single = f"{', '.join(singles[:-1])} and {singles[-1]}"
    sizes = {"largest": MAX_PAGE_SIZE, "default": DEFAULT_PAGE_SIZE}
    return _PAGE.format(rows=rows, dated=dated, single=single, first=FIRST_DATE, last=LAST_DATE, **sizes).encode()
