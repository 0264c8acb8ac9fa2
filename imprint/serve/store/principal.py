"""Who asks, and what that person may do: the one value that routes take from the store."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Final, Literal

from imprint.serve.store.names import kept_text

Role = Literal["guest", "user", "admin"]


@dataclass(frozen=True)
class Principal:
    """An account as one session or one key of it may act."""

    account_id: int
    """The account's number in the database."""
    name: str
    """The account's name."""
    role: Role
    """What it may do: a guest may chat, a user has chats and keys, an admin manages accounts."""
    owner: str
    """To whom chats belong: an account, or one browser session of a guest."""
    models: frozenset[str] | None
    """The models that may be used; None: all."""
    tokens_a_day: int
    """Most tokens in a day (UTC), of prompts and answers together."""
    concurrency: int
    """Most answers at the same time."""
    session_id: str | None
    """The browser session, if it came with one."""
    key_id: str | None
    """The API key, if it came with one."""
    must_change_password: bool
    """Whether it has a one-time password, and so may do nothing but change it."""
    expires_at: float | None = None
    """When the session, however it is used, or the key ends by the clock alone, in seconds since 1970; None: never."""

    passed_on: bool = False
    """Whether a proxy led it here, from wherever that may be; the store does not know it."""

    def needing(self, models: Iterable[str]) -> "Principal":
        """The same for something that needs these models alone: it goes on where the right to another one ends."""
        return replace(self, models=frozenset(map(kept_text, models)))

    def may_use(self, model: str) -> bool:
        """Whether it has the right to this model."""
        return self.models is None or kept_text(model) in self.models


@dataclass(frozen=True)
class Actor:
    """Who does something, for the audit log."""

    name: str
    """Name of the account; of the command line, `COMMAND_LINE`'s."""
    address: str | None = None
    """From where, if over the network."""

    @classmethod
    def of(cls, principal: Principal, address: str | None = None) -> "Actor":
        """Somebody who has signed in."""
        return cls(principal.name, address)


COMMAND_LINE: Final = Actor("(command line)")
"""Who can run `imprint user` in the folder of the data; no account has parentheses in its name."""
