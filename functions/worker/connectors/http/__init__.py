"""Reads a REST API page by page, as a declarative config says.

config.py       what config and secret may hold: read this to write one
connector.py    from a resource to its pages
pagination.py   from one page to the next
params.py       what is asked beside what the config says
transport.py    one request: limits of time and size, statuses, retries
network.py      one connection: to an address of the public internet, and no other
addresses.py    which addresses those are
credentials.py  the secret, as a request carries it
backoff.py      when to ask again
records.py      from a body to records, with nothing in them that Postgres cannot store
"""

from functions.worker.connectors.http.backoff import Backoff
from functions.worker.connectors.http.connector import HttpConnector
from functions.worker.connectors.http.records import Page, Record

__all__ = ["Backoff", "HttpConnector", "Page", "Record"]
