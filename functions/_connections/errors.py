"""How a read fails, whichever connector reads."""

from __future__ import annotations

from typing import NoReturn


class SourceError(Exception):
    """A failed read. `code` is for programs; `message` says what to do, and holds no secret, query or response body."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class SourceUnavailable(SourceError):
    """Worth trying again later; `retry_after` is the number of seconds the source asked to wait, if it did."""

    def __init__(self, code: str, message: str, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.retry_after = retry_after


class SourceRefused(SourceError):
    """Not worth trying again until someone changes the config, the secret or the source."""


class SecretRotated(Exception):
    """The source refuses a secret whose store has another by now: the execution begins again where it stands, with that
    one. No SourceError, so that nothing passes over it as over a record that cannot be read.
    """


def malformed(message: str) -> NoReturn:
    """Refuses an answer that cannot be read."""
    # From None, as wherever a SourceError is raised: the error at hand may quote a body or an URL.
    raise SourceRefused("source_malformed", message) from None
