"""What the routes work with."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Final, Protocol, TypeVar

import anyio
import anyio.to_thread
from starlette.requests import Request

from imprint.messages import Bilingual
from imprint.serve.generation.job import Backend
from imprint.serve.store.addresses import visitor_address
from imprint.serve.store.permission import Permission
from imprint.serve.store.principal import Principal
from imprint.serve.store.quota import Reservation
from imprint.serve.store.store import Store
from imprint.serve.store.throttle import Throttle
from imprint.serve.web.body_parser import BodyParser
from imprint.serve.web.door import Door
from imprint.serve.web.errors import ApiError
from imprint.serve.web.metrics import Metrics
from imprint.serve.web.settings import WebSettings
from imprint.serve.web.shared_threads import SharedThreads
from imprint.serve.web.slots import slot
from imprint.serve.web.store_batcher import StoreBatcher

FORWARDING: Final = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
"""Headers that proxies add."""
WRITING_THREADS: Final = 12
WRITING_EACH: Final = 2
"""Those of them that one account has, or waits for, at a time."""
VISITOR_WRITING_THREADS: Final = 4
READING_THREADS: Final = 8
READING_EACH: Final = 2
"""The same for what is read: of one account, or of all guests of one address."""
MAX_TOO_LONG: Final = 120
"""Prompts that do not fit into the context, of one account or address in a minute: each is tokenized and costs no quota."""
SLOW_THREADS: Final = 2
MAX_SLOW: Final = 4
"""Searches and files of one owner at a time; more are refused."""
OPENING_THREADS: Final = 2
MAX_OPENING: Final = 8
"""Long chats that one owner opens at a time; more are refused."""
MAX_LARGE_BODIES: Final = 64
"""Large bodies of one owner, or of all guests from one address, that are received or wait to be parsed at a time: each takes up to a MiB
for as long as its client likes to send it. More are refused."""
MANY: Final = Bilingual(
    "You search, import and export too much at a time; try again in a moment.", "同时进行的搜索、导入、导出过多，请稍后再试。"
)
BACKING_UP: Final = Bilingual("A backup is being written; try again when it is done.", "正在写入备份，请在完成后再试。")
MANY_OPEN: Final = Bilingual("You open too many chats at a time; try again in a moment.", "同时打开的对话过多，请稍后再试。")
MANY_BODIES: Final = Bilingual("You send too many large requests at a time; try again in a moment.", "同时发送的大请求过多，请稍后再试。")
ENDED: Final = Bilingual(
    "Your right to this has just ended; sign in again, or use another key.", "相应权限刚刚失效，请重新登录或更换密钥。"
)
ENDING: Final = Bilingual("The service is ending; try again later.", "服务正在关闭；请稍后再试。")


T = TypeVar("T")


class Live(Protocol):
    """Something that goes on for somebody, and ends when that one may no longer have it."""

    @property
    def principal(self) -> Principal | None:
        """For whom."""

    def cancel(self) -> None:
        """End it."""


@dataclass
class Services:
    """The backend, the store, and how they are offered."""

    backend: Backend
    """Where answers come from."""
    store: Store
    """Accounts, keys, quotas and chats."""
    settings: WebSettings
    """How the service is reached."""
    metrics: Metrics
    """What is counted."""
    draining: bool = field(default=False, init=False)
    """Whether the signal to end has come."""
    has_store: bool = field(default=True, init=False)
    """Whether the database could be read when that was last tried."""
    unsettled: list[tuple[Reservation, int]] = field(default_factory=list, init=False)
    """What answers took that the database could not count yet."""
    live: set[Live] = field(default_factory=set, init=False)
    """What goes on now."""
    door: Door = field(default_factory=Door, init=False)
    """Threads that hash passwords, so that a flood of logins leaves the others alone."""
    slow: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(SLOW_THREADS), init=False)
    """Threads for searches and files, so that these leave the others alone."""
    visitor_slow: SharedThreads = field(default_factory=lambda: SharedThreads(1, each=1), init=False)
    """The same for guests, each of whom is an owner of its own, so that many of them leave accounts alone, and those of other addresses."""
    slow_counts: Counter[str] = field(default_factory=Counter, init=False)
    """How many of these each owner waits for, or has."""
    opening: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(OPENING_THREADS), init=False)
    """Threads that read the messages of a chat, of which there may be thousands; apart from `slow`, so that they wait for no search."""
    visitor_opening: SharedThreads = field(default_factory=lambda: SharedThreads(1, each=1), init=False)
    """The same for guests."""
    opening_counts: Counter[str] = field(default_factory=Counter, init=False)
    """How many of these each owner waits for, or has."""
    sending_counts: Counter[str] = field(default_factory=Counter, init=False)
    """How many opened chats are being sent to each owner: one that reads slowly opens few, and asks on."""
    large_body_counts: Counter[str] = field(default_factory=Counter, init=False)
    """How many large bodies of each sender are being received and parsed."""
    body_parser: BodyParser = field(default_factory=BodyParser, init=False)
    """Parses bodies, large ones in a thread of its own."""
    writing: SharedThreads = field(default_factory=lambda: SharedThreads(WRITING_THREADS, each=WRITING_EACH), init=False)
    """Threads for what accounts write: where the database is locked, all of these wait, and what is read goes on."""
    visitor_writing: SharedThreads = field(default_factory=lambda: SharedThreads(VISITOR_WRITING_THREADS, each=1), init=False)
    """The same for guests and those who have not signed in, so that many of them leave accounts alone."""
    reading: SharedThreads = field(default_factory=lambda: SharedThreads(READING_THREADS, each=READING_EACH), init=False)
    """Threads for what accounts read, such as their lists; apart from `reads`, which every request of everybody waits for."""
    visitor_reading: SharedThreads = field(default_factory=lambda: SharedThreads(READING_THREADS, each=READING_EACH), init=False)
    """The same for guests."""
    forming: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1), init=False)
    """A thread that writes the log-probabilities of long answers: one at a time, as each takes memory."""
    deleting: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1), init=False)
    """A thread that deletes all chats of somebody, which may take long."""
    admin_deleting: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1), init=False)
    """The same for admins, who delete accounts: these keep their rights until it begins, so it waits for nobody else's chats."""
    watching: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1), init=False)
    """A thread that asks for the rights to what goes on, however many requests wait for threads."""
    backing_up: anyio.CapacityLimiter = field(default_factory=lambda: anyio.CapacityLimiter(1), init=False)
    """A thread that copies the whole database."""
    backup_counts: Counter[str] = field(default_factory=Counter, init=False)
    """How many admins want that: no second one waits."""
    too_long: Throttle = field(default_factory=lambda: Throttle(MAX_TOO_LONG, 60.0), init=False)
    """Prompts that did not fit into the context."""
    reads: StoreBatcher = field(init=False)
    """What every request reads from the store."""
    reservations: StoreBatcher = field(init=False)
    """Reserves tokens in it before an answer begins."""
    settlements: StoreBatcher = field(init=False)
    """Settles reservations at the end of answers. Apart from `reservations`: where the database is locked, answers that begin need not
    wait for those that end, too."""

    def __post_init__(self) -> None:
        self.reads = StoreBatcher(self.store, writes=False)
        self.reservations, self.settlements = StoreBatcher(self.store, writes=True), StoreBatcher(self.store, writes=True)

    @property
    def ready(self) -> bool:
        """Whether answers are given."""
        return self.has_store and not self.draining and self.backend.ready()

    async def drain(self) -> None:
        """Take no further jobs, and wait until all have ended, for the grace at most."""
        self.draining = True
        await self.backend.close(self.settings.grace)

    def may_go_on(self, principal: Principal) -> bool:
        """Whether somebody may still do all that this principal says. It waits for the disk: call it from threads."""
        return self.store.is_valid(principal) and self.lets_in(principal)

    def lets_in(self, principal: Principal) -> bool:
        """Whether somebody whose session or key is valid may be here, as it is set now. It waits for the disk, too."""
        return principal.role != "guest" or self.lets_guests_in(passed_on=principal.passed_on)

    def refuse_ended(self, principal: Principal) -> None:
        """Raise ApiError if somebody may not do all that this principal says any more. It waits for the disk, too."""
        if not self.may_go_on(principal):
            raise ApiError("invalid_session", ENDED)

    def lets_guests_in(self, *, passed_on: bool = False) -> bool:
        """Whether guests may be here, as it is set now; `passed_on`: those that a proxy leads in. It waits for the disk, too."""
        wanted = self.store.settings.guests()
        here = self.settings.guest or not (self.settings.public or passed_on)
        return wanted == "everywhere" or (wanted == "loopback" and here)

    def check_open(self) -> None:
        """Raise ApiError once the service is ending."""
        if self.draining:
            raise ApiError("shutting_down", ENDING, retry_after=self.settings.grace)


def services_of(request: Request) -> Services:
    """What this request's application works with."""
    services = request.app.state.services
    assert isinstance(services, Services)
    return services


def principal_of(request: Request) -> Principal:
    """Who asks; the route's access has been checked."""
    principal = request.state.principal
    assert isinstance(principal, Principal)
    return principal


def permission_of(services: Services, principal: Principal | None) -> Permission | None:
    """What the store asks for in all that a request does there; None where nobody had to say who asks.

    The right to a model is that of an answer, which asks for it itself.
    """
    return None if principal is None else Permission(partial(services.refuse_ended, principal.needing(())))


def is_passed_on(request: Request) -> bool:
    """Whether a proxy passes a request on: then it may come from anywhere, whatever its address says."""
    return any(name in request.headers for name in FORWARDING)


def address_of(request: Request) -> str:
    """The address from which a request comes."""
    return request.client.host if request.client else ""


def is_visitor(principal: Principal | None) -> bool:
    """Whether somebody has no account: a guest, or who has not signed in (None)."""
    return principal is None or principal.role == "guest"


def sender_of(principal: Principal | None, address: str) -> str:
    """Who is counted as one: an account, or all visitors from one address."""
    return principal.owner if principal is not None and not is_visitor(principal) else visitor_address(address)


async def in_writing_thread(services: Services, principal: Principal | None, address: str, function: Callable[[], T]) -> T:
    """Call what writes into the store, for an account, a guest, or somebody who has not signed in (None)."""
    threads = services.visitor_writing if is_visitor(principal) else services.writing
    return await threads.call(sender_of(principal, address), function)


async def in_reading_thread(services: Services, principal: Principal, address: str, function: Callable[[], T]) -> T:
    """Call what reads a little from the store for somebody, who waits for what else it asks for at the same time."""
    threads = services.visitor_reading if is_visitor(principal) else services.reading
    return await threads.call(sender_of(principal, address), function)


async def in_deleting_thread(services: Services, principal: Principal, function: Callable[[], T]) -> T:
    """Call what deletes all chats of somebody. Raises ApiError if many searches, files and such of one owner wait."""
    with slow_slot(services, principal):
        return await anyio.to_thread.run_sync(function, limiter=services.admin_deleting if principal.role == "admin" else services.deleting)


async def in_slow_thread(services: Services, principal: Principal, address: str, function: Callable[[], T]) -> T:
    """Call what may take seconds: a few at a time, so that all others have threads. Raises ApiError if many of one owner wait."""
    with slow_slot(services, principal):
        if is_visitor(principal):
            return await services.visitor_slow.call(sender_of(principal, address), function)
        return await anyio.to_thread.run_sync(function, limiter=services.slow)


async def in_backup_thread(services: Services, function: Callable[[], T]) -> T:
    """Call what copies the whole database. Raises ApiError while that goes on already."""
    with slot(services.backup_counts, "", 1, BACKING_UP):
        return await anyio.to_thread.run_sync(function, limiter=services.backing_up)


async def in_opening_thread(services: Services, principal: Principal, address: str, function: Callable[[], T]) -> T:
    """Call what reads or writes the messages of a chat, in an `opening_slot`."""
    if is_visitor(principal):
        return await services.visitor_opening.call(sender_of(principal, address), function)
    return await anyio.to_thread.run_sync(function, limiter=services.opening)


@contextmanager
def slow_slot(services: Services, principal: Principal) -> Iterator[None]:
    """One of an owner's slots for what takes seconds. Raises ApiError if none is free."""
    with slot(services.slow_counts, principal.owner, MAX_SLOW, MANY):
        yield


@contextmanager
def opening_slot(services: Services, principal: Principal) -> Iterator[None]:
    """One of an owner's slots while chats are read, each in `in_opening_thread`. Raises ApiError if none is free."""
    with slot(services.opening_counts, principal.owner, MAX_OPENING, MANY_OPEN):
        yield


@contextmanager
def sending_slot(services: Services, principal: Principal) -> Iterator[None]:
    """One of an owner's slots for chats that are opened, each kept until all of it is sent. Raises ApiError if none is free."""
    with slot(services.sending_counts, principal.owner, MAX_OPENING, MANY_OPEN):
        yield


@contextmanager
def large_body_slot(services: Services, principal: Principal | None, address: str) -> Iterator[None]:
    """One of a sender's slots for large bodies. Raises ApiError if none is free."""
    with slot(services.large_body_counts, sender_of(principal, address), MAX_LARGE_BODIES, MANY_BODIES):
        yield
