"""Errors of reading a source."""

from __future__ import annotations

from typing import NoReturn


class SourceError(Exception):
    """A failed read. `code` is stable. `message` says what to do and quotes no secret, query or response body."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SourceUnavailable(SourceError):
    """A later attempt may succeed. `retry_after`: seconds that the source asked to wait, if any."""

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class SourceRefused(SourceError):
    """No attempt succeeds until someone changes the configuration, the secret or the source."""


class SecretRotated(Exception):
    """The source rejected a replaced secret. The execution continues from its checkpoint with the new one.

    Not a SourceError, so that it is never handled like a record that cannot be read.
    """


def malformed(message: str) -> NoReturn:
    """Raises SourceRefused for a response that cannot be read."""
    # From None, as with every SourceError, because the current exception may quote a body or a URL.
    raise SourceRefused("source_malformed", message) from None
