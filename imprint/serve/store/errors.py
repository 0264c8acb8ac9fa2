"""What the store refuses, and of what kind: a route makes a status of the kind, the command line prints the message."""

from typing import Literal

from imprint.messages import Bilingual, UserError

StoreErrorKind = Literal[
    "credentials", "throttled", "quota_exceeded", "not_found", "conflict", "invalid", "forbidden", "busy", "unavailable"
]


class StoreError(UserError):
    """Something that the store does not do, and why."""

    def __init__(self, kind: StoreErrorKind, message: Bilingual, *, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.kind: StoreErrorKind = kind
        self.retry_after = retry_after
        """After how many seconds it may go well; None: not by waiting."""


def invalid(english: str, chinese: str) -> StoreError:
    """A value that is not allowed."""
    return StoreError("invalid", Bilingual(english, chinese))


def not_found(english: str, chinese: str) -> StoreError:
    """Something that does not exist, or belongs to somebody else."""
    return StoreError("not_found", Bilingual(english, chinese))
