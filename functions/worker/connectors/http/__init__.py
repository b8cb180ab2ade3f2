"""Reads a REST API page by page, as a declarative configuration says (functions/_connections/http_config.py).

connector.py    from a resource to its pages
pagination.py   from one page to the next
params.py       what is asked beside what the config says
transport.py    one request: limits of time and size, statuses, retries
network.py      one connection: to an address of the public internet, and no other
backoff.py      when to ask again
page.py         pages, records and positions
records.py      from a body to records, with nothing in them that Postgres cannot store
"""

from functions.worker.connectors.http.backoff import Backoff
from functions.worker.connectors.http.connector import HttpConnector
from functions.worker.connectors.http.page import Page, Record

__all__ = ["Backoff", "HttpConnector", "Page", "Record"]
