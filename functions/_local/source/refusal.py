"""An answer other than what was asked for."""

from __future__ import annotations


class RefusedError(Exception):
    """An answer other than a page; `headers` are sent with it."""

    def __init__(self, status: int, message: str, **headers: str) -> None:
        super().__init__(message)
        self.status = status
        self.headers = [(name.replace("_", "-"), value) for name, value in headers.items()]
