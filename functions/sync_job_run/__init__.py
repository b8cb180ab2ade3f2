"""Sync job runs: a sync job on an integrated account (a connection that can be read), its records stored or delivered.

Source of paths, members and words: the published API of sync jobs.
"""

from __future__ import annotations

PATH = "/sync-job-run"  # what those of its endpoints begin with

# In examples.
RUN_ID = "01a20382-fece-7d96-a5c5-b8c163abfe5d"
