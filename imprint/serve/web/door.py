"""Who may sign in at this moment: places and threads for logins, and for what else hashes a password."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from imprint.messages import Bilingual
from imprint.serve.store.addresses import visitor_network
from imprint.serve.store.login import Standing
from imprint.serve.store.principal import Principal
from imprint.serve.web.errors import ApiError

HASHING_THREADS: Final = 2
MAX_LOGINS: Final = 100
"""Logins that may wait for a thread, or have it; more are refused."""
MAX_SUSPECTS: Final = MAX_LOGINS // 2
"""Those of them that are suspected; the other places are for those who are not."""
MAX_LOGINS_PER_NETWORK: Final = MAX_LOGINS // 4
"""Those of them that come from one network."""
UNSUSPECTED_PER_NETWORK: Final = 2
"""Logins of one network at a time of which none is suspected; a person has one."""
MAX_CHANGES: Final = 8
"""Passwords that one account makes at a time, for itself or, as an admin, for others; more are refused."""
BUSY: Final = Bilingual("Too many sign in at this moment; try again.", "此刻登录的人过多，请重试。")
MANY_CHANGES: Final = Bilingual("You make too many passwords at a time; try again in a moment.", "同时设置的密码过多，请稍后再试。")
T = TypeVar("T")


class Door:
    """Lets logins in, those that are suspected behind the others. All of it belongs to one event loop.

    A login is suspected if its network had a wrong password of late, or has others here now. The suspected ones go one by one, each waits
    first while very many guess, and they have half of the places: so guesses from few networks hold up each other and nobody else.
    """

    def __init__(self) -> None:
        self.waiting: Counter[str] = Counter()
        """Network -> how many logins of it wait, or are being verified."""
        self.suspects: Counter[str] = Counter()
        """The suspected ones of them."""
        self.changes: Counter[str] = Counter()
        """Account -> how many passwords it is making."""
        self._verifying = anyio.CapacityLimiter(HASHING_THREADS)
        self._suspected = anyio.CapacityLimiter(1)
        self._changing = anyio.CapacityLimiter(1)

    async def sign_in(self, address: str, standing: Standing, verify: Callable[[], T]) -> T:
        """Call what verifies a password, in a thread. Raises ApiError if very many wait for that already, or many from this network."""
        network = visitor_network(address)
        is_suspect = standing.has_failures or self.waiting[network] >= UNSUSPECTED_PER_NETWORK
        is_full = self.waiting.total() >= MAX_LOGINS or (is_suspect and self.suspects.total() >= MAX_SUSPECTS)
        if is_full or self.waiting[network] >= MAX_LOGINS_PER_NETWORK:
            raise ApiError("rate_limited", BUSY, retry_after=5)
        with _counted(self.waiting, network):
            if not is_suspect:
                return await anyio.to_thread.run_sync(verify, limiter=self._verifying)
            with _counted(self.suspects, network):
                async with self._suspected:
                    await anyio.sleep(standing.brake_seconds)
                    return await anyio.to_thread.run_sync(verify, limiter=self._verifying)

    async def change(self, principal: Principal, make: Callable[[], T]) -> T:
        """Call what makes a password, for somebody who has signed in, in a thread that no login has. Raises ApiError if many wait."""
        if self.changes[principal.owner] >= MAX_CHANGES:
            raise ApiError("rate_limited", MANY_CHANGES, retry_after=2)
        with _counted(self.changes, principal.owner):
            return await anyio.to_thread.run_sync(make, limiter=self._changing)


@contextmanager
def _counted(counts: Counter[str], key: str) -> Iterator[None]:
    counts[key] += 1
    try:
        yield
    finally:
        counts[key] -= 1
        if not counts[key]:
            del counts[key]
