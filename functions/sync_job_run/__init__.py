"""Sync job runs execute a sync job on an integrated account (a source), and store or deliver its records.

Source of paths, fields and status values: the published API of sync jobs.
"""

from __future__ import annotations

PATH = "/sync-job-run"  # of all its endpoints

# In examples.
RUN_ID = "01a20382-fece-7d96-a5c5-b8c163abfe5d"
