"""Historical syncs read a date range of a connection's data, one window of days after the other."""

from __future__ import annotations

# In examples.
JOB_ID = "01a20382-fece-7d96-a5c5-b8c163abfe5d"
CONNECTION_ID = "e5ec3e3f-9877-4d63-938a-e2f34036a1d6"
