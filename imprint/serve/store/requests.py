"""Requests for an account: a visitor asks, an admin approves or declines."""

from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import Connection, Row, delete, func, select, update

from imprint.messages import Bilingual
from imprint.serve.store.accounts import MAX_CONTACT, Accounts, CreatedAccount
from imprint.serve.store.addresses import ADDRESSES_A_SITE, visitor_address, visitor_network
from imprint.serve.store.audit import record
from imprint.serve.store.database import Database
from imprint.serve.store.errors import StoreError, not_found
from imprint.serve.store.limits import Limits
from imprint.serve.store.names import account_name, short_text
from imprint.serve.store.principal import Actor
from imprint.serve.store.tables import REQUESTS, new_public_id
from imprint.serve.store.throttle import Throttle

MAX_REASON: Final = 2000
DAY: Final = 86_400
KEPT_DAYS: Final = 90
"""Days for which a request is kept that was decided, or that nobody has decided: it tells how a person is reached."""


@dataclass(frozen=True)
class AccountRequest:
    """A request for an account."""

    id: str
    """Its name for the service."""
    name: str
    """The name that is asked for, which may be taken."""
    contact: str
    """How the person can be reached."""
    reason: str
    """Why."""
    address: str
    """From where it came."""
    asked_at: float
    """When, in seconds since 1970."""
    decision: Literal["approved", "declined"] | None
    """What an admin said; None: nothing yet."""
    decided_at: float | None
    """When."""
    decided_by: str | None
    """Who."""


class Requests:
    """Takes, lists and decides requests."""

    def __init__(self, database: Database, accounts: Accounts, limits: Limits) -> None:
        self._database = database
        self._accounts = accounts
        self._limits = limits
        self._of_network = Throttle(ADDRESSES_A_SITE * limits.account_requests_a_day, float(DAY))

    def ask(self, name: str, contact: str, reason: str, address: str) -> None:
        """Ask for an account. The answer does not tell whether the name is taken.

        Raises StoreError for texts that are not allowed, and if too many were asked for from this address, or wait at all.
        """
        values: dict[str, Any] = {
            "public_id": new_public_id(),
            "name": account_name(name),
            "contact": short_text(contact, "contact", most=MAX_CONTACT, least=1),
            "reason": short_text(reason, "reason", most=MAX_REASON),
            "address": visitor_address(address),
            "asked_at": self._database.now(),
        }
        with self._database.reading() as connection:
            self._refuse_too_many(connection, values["address"])  # a flood does not even wait for those who write
        if (seconds := self._of_network.take(visitor_network(address))) is not None:
            raise _too_many(seconds)
        with self._database.writing() as connection:
            self._refuse_too_many(connection, values["address"])
            connection.execute(REQUESTS.insert().values(**values))

    def _refuse_too_many(self, connection: Connection, address: str) -> None:
        """Raise StoreError if an address has asked very often today, or very many requests wait."""
        now = self._database.now()
        recent = (REQUESTS.c.address == address, REQUESTS.c.asked_at > now - DAY, REQUESTS.c.asked_at <= now)  # not before it was put back
        for condition, most in (
            (recent, self._limits.account_requests_a_day),
            ((REQUESTS.c.decision.is_(None),), self._limits.open_account_requests),
        ):
            if connection.execute(select(func.count()).select_from(REQUESTS).where(*condition)).scalar_one() >= most:
                raise _too_many(float(DAY))

    def list(self, *, open_only: bool = True) -> tuple[AccountRequest, ...]:
        """Requests, oldest first."""
        query = select(REQUESTS).order_by(REQUESTS.c.id)
        if open_only:
            query = query.where(REQUESTS.c.decision.is_(None))
        with self._database.reading() as connection:
            return tuple(map(_request, connection.execute(query)))

    def approve(
        self,
        request_id: str,
        actor: Actor,
        *,
        name: str | None = None,
        models: frozenset[str] | None = None,
        tokens_a_day: int | None = None,
        concurrency: int | None = None,
    ) -> CreatedAccount:
        """Make the account that a request asks for, with a one-time password; `name`: another one than was asked for.

        Raises StoreError for a request that is decided, and for a name that is taken: then it stays open.
        """
        rights = self._accounts.checked_rights("user", models, tokens_a_day, concurrency)
        wanted = None if name is None else account_name(name)
        password, stored = self._accounts.new_password()
        with self._database.writing() as connection:
            request = _open_request(connection, request_id)
            values = {**rights, "name": wanted or account_name(request.name), "contact": request.contact}
            account_id = self._accounts.insert(connection, values, stored, actor)
            self._decide(connection, request, "approved", actor)
        return CreatedAccount(self._accounts.get(account_id), password)

    def decline(self, request_id: str, actor: Actor) -> None:
        """Decline a request. Raises StoreError for one that is decided."""
        with self._database.writing() as connection:
            self._decide(connection, _open_request(connection, request_id), "declined", actor)

    def tidy(self, connection: Connection) -> None:
        """Forget old requests."""
        connection.execute(delete(REQUESTS).where(REQUESTS.c.asked_at < self._database.now() - KEPT_DAYS * DAY))

    def _decide(self, connection: Connection, request: Row[Any], decision: Literal["approved", "declined"], actor: Actor) -> None:
        now = self._database.now()
        values = {"decision": decision, "decided_at": now, "decided_by": actor.name}
        connection.execute(update(REQUESTS).where(REQUESTS.c.id == request.id).values(**values))
        record(connection, now, "request_approved" if decision == "approved" else "request_declined", actor, request.name)


def _too_many(seconds: float) -> StoreError:
    message = Bilingual("too many accounts were asked for. Try again tomorrow.", "申请过多，请明天再试。")
    return StoreError("throttled", message, retry_after=seconds)


def _open_request(connection: Connection, request_id: str) -> Row[Any]:
    row = connection.execute(select(REQUESTS).where(REQUESTS.c.public_id == request_id)).first()
    if row is None:
        raise not_found("there is no such request.", "没有这个申请。")
    if row.decision is not None:
        raise StoreError("conflict", Bilingual(f"this request was {row.decision} already.", "这个申请已经处理过了。"))
    return row


def _request(row: Row[Any]) -> AccountRequest:
    return AccountRequest(
        row.public_id,
        row.name,
        row.contact,
        row.reason,
        row.address,
        row.asked_at,
        row.decision,
        row.decided_at,
        row.decided_by,
    )
