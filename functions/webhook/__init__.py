"""Webhooks: receivers of a run's records and events.

Source of paths, members and words: the published API of sync jobs.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, Field

from functions._shared.errors import Refusal
from functions._shared.members import Text

# In examples.
WEBHOOK_ID = "01a20382-0000-7d96-a5c5-b8c163abfe5d"
ENVIRONMENT_ID = "7d9c7b7e-6e0c-4cfb-8c58-2d1f2c0f6a11"

WEBHOOK_NOT_FOUND = Refusal(404, "webhook_not_found", "There is no webhook with this id.")
OTHER_ORGANIZATION = Refusal(403, "other_organization", "environment_id is not that of your agency.")


def _web_address(url: str) -> str:
    if not url.startswith(("https://", "http://127.0.0.1", "http://localhost")):
        raise ValueError("must begin with https://")
    return url


TargetUrl = Annotated[Text, Field(max_length=2000), AfterValidator(_web_address)]
EventTypes = Annotated[list[Annotated[Text, Field(max_length=100)]], Field(max_length=100)]
