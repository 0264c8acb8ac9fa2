"""Quotas: tokens of a day, reserved before an answer is written and settled after it."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from sqlalchemy import Connection, Integer, ScalarSelect, Table, bindparam, cast, delete, func, select, update

from imprint.messages import Bilingual
from imprint.serve.store.addresses import ADDRESSES_A_SITE, visitor_address, visitor_network
from imprint.serve.store.database import Database
from imprint.serve.store.errors import StoreError
from imprint.serve.store.limits import Limits
from imprint.serve.store.principal import Principal
from imprint.serve.store.tables import RESERVATIONS, USAGE, new_public_id

DAY: Final = 86_400
KEPT_DAYS: Final = 400
"""Days whose usage is kept."""
ACCOUNT_OWNER: Final = "account:"
CHARACTERS_A_TOKEN: Final = 16
"""Of what is kept, whatever a vocabulary makes of it: some drop characters, and text has three to five a token."""


def _tokens_in(table: Table) -> ScalarSelect[int]:
    mine = (table.c.subject == bindparam("whose"), table.c.day == bindparam("on"))
    return select(func.coalesce(func.sum(table.c.tokens), 0)).where(*mine).scalar_subquery()


# What every answer asks: made once, as making a query takes longer than asking it.
USED: Final = select(_tokens_in(USAGE) + _tokens_in(RESERVATIONS))
"""Tokens of somebody on a day, with those reserved."""
RESERVE: Final = RESERVATIONS.insert()
COUNT: Final = USAGE.insert()
COUNT_MORE: Final = (
    update(USAGE)
    .where(USAGE.c.subject == bindparam("whose"), USAGE.c.day == bindparam("on"))
    .values(tokens=USAGE.c.tokens + bindparam("more"))
)
RESERVED: Final = select(RESERVATIONS.c.subject, RESERVATIONS.c.day).where(RESERVATIONS.c.public_id == bindparam("reservation"))
END_RESERVATION: Final = delete(RESERVATIONS).where(RESERVATIONS.c.public_id == bindparam("reservation"))


@dataclass(frozen=True)
class Reservation:
    """Tokens that are set aside for all answers of one request."""

    id: str
    """Its name."""
    usage: "Usage"
    """What is left beside it."""


@dataclass(frozen=True)
class Usage:
    """What somebody has used of a day's tokens, and still may."""

    limit: int
    """Tokens of a day."""
    used: int
    """Tokens used today, with those that are reserved."""
    remaining: int
    """Tokens that may still be reserved: of a guest no more than its address has left."""
    resets_at: float
    """When the next day begins (UTC), in seconds since 1970."""


class Quota:
    """Counts tokens by owner and day; of guests also by address, and by the site (/48) of an IPv6 address."""

    def __init__(self, database: Database, limits: Limits) -> None:
        self._database = database
        self._limits = limits

    def reserve(self, principal: Principal, address: str, tokens: int) -> Reservation:
        """Set tokens aside: of the prompt, and as many as the answer may have. Raises StoreError if there are not so many left."""
        assert tokens >= 0
        now = self._database.now()
        name, limits = new_public_id(), []
        with self._database.writing() as connection:
            for subject, limit in self._subjects(principal, address):
                used = _used(connection, subject, now)
                if used + tokens > limit:
                    raise _used_up(limit, max(0, limit - used), tokens, _next_day(now) - now, of_address=subject != principal.owner)
                connection.execute(RESERVE, {"public_id": name, "subject": subject, "day": day_of(now), "tokens": tokens})
                limits.append((limit, used + tokens))
        return Reservation(name, _usage(limits, now))

    def settle(self, reservation: Reservation, tokens: int) -> None:
        """Count the tokens that an answer really took, in place of those reserved for it. A second time changes nothing."""
        mine = {"reservation": reservation.id}
        with self._database.writing() as connection:
            for subject, day in connection.execute(RESERVED, mine).all():
                if not connection.execute(COUNT_MORE, {"whose": subject, "on": day, "more": tokens}).rowcount:
                    connection.execute(COUNT, {"subject": subject, "day": day, "tokens": tokens})
            connection.execute(END_RESERVATION, mine)

    def usage(self, principal: Principal, address: str) -> Usage:
        """What is used and left today."""
        now = self._database.now()
        with self._database.reading() as connection:
            limits = [(limit, _used(connection, subject, now)) for subject, limit in self._subjects(principal, address)]
        return _usage(limits, now)

    def free_reservations(self, connection: Connection) -> None:
        """Give back what was reserved by a service that was killed."""
        connection.execute(delete(RESERVATIONS))

    def tidy(self, connection: Connection) -> None:
        """Forget what was used long ago, and what guests used before today."""
        now = self._database.now()
        connection.execute(delete(USAGE).where(USAGE.c.day < day_of(now - KEPT_DAYS * DAY)))
        of_account = USAGE.c.subject.startswith(ACCOUNT_OWNER, autoescape=True)
        connection.execute(delete(USAGE).where(~of_account, USAGE.c.day < day_of(now - DAY)))

    def _subjects(self, principal: Principal, address: str) -> list[tuple[str, int]]:
        """Who is counted, and the tokens of a day: the owner first."""
        subjects = [(principal.owner, principal.tokens_a_day)]
        if principal.role == "guest":
            visitor, network, most = visitor_address(address), visitor_network(address), self._limits.address_tokens_a_day
            subjects.append((f"address:{visitor}", most))
            if network != visitor:
                subjects.append((f"address:{network}", ADDRESSES_A_SITE * most))
        return subjects


def least_tokens(kept: str | None) -> int:
    """As how many tokens an answer counts at least whose question is kept with it; None: the question was there before."""
    return 1 + math.ceil(len(kept or "") / CHARACTERS_A_TOKEN)


def day_of(now: float) -> str:
    """The day of a time, in UTC."""
    return datetime.fromtimestamp(now, UTC).date().isoformat()


def tokens_of_accounts(connection: Connection, now: float) -> Mapping[int, int]:
    """Number of an account -> its tokens of today."""
    number = cast(func.substr(USAGE.c.subject, len(ACCOUNT_OWNER) + 1), Integer)
    query = select(number, USAGE.c.tokens).where(USAGE.c.day == day_of(now), USAGE.c.subject.startswith(ACCOUNT_OWNER, autoescape=True))
    return {row[0]: row[1] for row in connection.execute(query)}


def _next_day(now: float) -> float:
    return (now // DAY + 1) * DAY


def _used(connection: Connection, subject: str, now: float) -> int:
    """Tokens of today, with those reserved."""
    return int(connection.execute(USED, {"whose": subject, "on": day_of(now)}).scalar_one())


def _usage(limits: Sequence[tuple[int, int]], now: float) -> Usage:
    """`limits`: the tokens of a day, and those used, of all who are counted, the owner first."""
    return Usage(*limits[0], max(0, min(limit - used for limit, used in limits)), _next_day(now))


def _used_up(limit: int, remaining: int, wanted: int, seconds: float, *, of_address: bool) -> StoreError:
    whose = Bilingual("all guests from your address", "来自你所在地址的访客合计") if of_address else Bilingual("this account", "此账号")
    return StoreError(
        "quota_exceeded",
        Bilingual(
            f"{remaining:,} of the {limit:,} tokens a day of {whose.english} are left, fewer than the {wanted:,} that prompt and answer "
            "may take. Ask for a shorter answer (max_tokens), wait until 00:00 UTC, or ask an admin for more.",
            f"{whose.chinese}每天 {limit:,} 个词元，还剩 {remaining:,} 个，少于提问与回答可能用到的 {wanted:,} 个。"
            "请调低回答长度（max_tokens），等到 UTC 零点，或请管理员提高额度。",
        ),
        retry_after=seconds,
    )
