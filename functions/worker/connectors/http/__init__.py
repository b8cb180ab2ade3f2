"""Reads a REST API page by page, as its configuration declares (functions/_connections/http_config.py).

connector.py    from a resource to its pages
pagination.py   from one page to the next
params.py       query parameters and keys that a caller adds
transport.py    one request: limits of time and size, statuses, retries
network.py      one connection, to public addresses only
backoff.py      waits between attempts, and the rate limit
page.py         pages, records and positions
records.py      from a body to records that Postgres can store
"""

from functions.worker.connectors.http.backoff import Backoff
from functions.worker.connectors.http.connector import HttpConnector
from functions.worker.connectors.http.page import Page, Record

__all__ = ["Backoff", "HttpConnector", "Page", "Record"]
