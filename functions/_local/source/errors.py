"""Error responses of the data API."""

from __future__ import annotations


class HttpError(Exception):
    """An error response, with `headers`."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = [(name.replace("_", "-"), value) for name, value in headers.items()]
