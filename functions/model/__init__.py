"""Models are queries over a resource of a connection. Model syncs map their fields.

Source of paths, fields and status values: the published API, versions 2023-04-25 to 2025-09-18.
"""

from __future__ import annotations

PATH = "/api/models"  # of all its endpoints

# In examples.
MODEL_ID = "c1a4b7de-2f0a-4b3c-8f7e-5d6c7b8a9012"
