"""Webhooks receive a run's records and events.

Source of paths, fields and status values: the published API of sync jobs.
"""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field

from functions._shared.fields import PgText

PATH = "/webhook"  # of all its endpoints

# In examples.
WEBHOOK_ID = "01a20382-0000-7d96-a5c5-b8c163abfe5d"
ENVIRONMENT_ID = "7d9c7b7e-6e0c-4cfb-8c58-2d1f2c0f6a11"


def _valid_url(text: str) -> str:
    try:
        url = urlsplit(text)
        port = url.port  # raises for an invalid port
    except ValueError:
        raise ValueError("must be a URL") from None
    if not url.hostname or port == 0 or url.username is not None or url.fragment:
        raise ValueError("must be https://host/path without credentials or fragment")
    if url.scheme != "https" and not (url.scheme == "http" and url.hostname in {"127.0.0.1", "localhost"}):
        raise ValueError("must begin with https://")
    return text


TargetUrl = Annotated[PgText, Field(max_length=2000), AfterValidator(_valid_url)]
EventTypes = Annotated[list[Annotated[PgText, Field(max_length=100)]], Field(max_length=100)]
