"""Who may sign in at this moment: places and threads for logins, and for what else hashes a password."""

from collections import Counter
from collections.abc import Callable
from typing import Final, TypeVar

import anyio
import anyio.to_thread

from imprint.messages import Bilingual
from imprint.serve.store.addresses import visitor_network
from imprint.serve.store.login import Standing
from imprint.serve.store.principal import Principal
from imprint.serve.web.errors import ApiError
from imprint.serve.web.slots import counted, slot
from imprint.serve.web.turns import Turns

HASHING_THREADS: Final = 2
MAX_LOGINS: Final = 100
"""Logins that may wait for a thread, or have it; more are refused."""
MAX_SUSPECTS: Final = MAX_LOGINS // 2
"""Those of them that are suspected; the other places are for those who are not."""
MAX_LOGINS_PER_NETWORK: Final = MAX_LOGINS // 4
"""Those of them that come from one network."""
UNSUSPECTED_PER_NETWORK: Final = 3
"""Logins of one network at a time of which none is suspected; a person has one."""
MAX_CHANGES: Final = 8
"""Passwords that one account makes at a time, for itself or, as an admin, for others; more are refused."""
BUSY: Final = Bilingual("Too many sign in at this moment; try again.", "此刻登录的人过多，请重试。")
MANY_CHANGES: Final = Bilingual("You make too many passwords at a time; try again in a moment.", "同时设置的密码过多，请稍后再试。")
T = TypeVar("T")


class Door:
    """Lets logins in, those that are suspected behind the others. All of it belongs to one event loop.

    A login is suspected if its network had several wrong passwords of late, or has others here now. The suspected ones have half of the
    places and go one by one, round robin over their networks; each waits first while very many guess. So guesses hold up each other, and
    one that is suspected by mistake waits for as many others as there are networks that guess.
    """

    def __init__(self) -> None:
        self.waiting: Counter[str] = Counter()
        """Network -> how many logins of it wait, or are being verified."""
        self.suspects = Turns()
        """The suspected ones of them."""
        self.changes: Counter[str] = Counter()
        """Account -> how many passwords it is making."""
        self._verifying = anyio.CapacityLimiter(HASHING_THREADS)
        self._changing = anyio.CapacityLimiter(1)

    async def sign_in(self, address: str, standing: Standing, verify: Callable[[], T]) -> T:
        """Call what verifies a password, in a thread. Raises ApiError if very many wait for that already, or many from this network."""
        network = visitor_network(address)
        is_suspect = standing.is_suspect or self.waiting[network] >= UNSUSPECTED_PER_NETWORK
        if self.waiting[network] >= MAX_LOGINS_PER_NETWORK or not self._has_place(network, is_suspect=is_suspect):
            raise ApiError("rate_limited", BUSY, retry_after=5)
        with counted(self.waiting, network):
            if not is_suspect:
                return await anyio.to_thread.run_sync(verify, limiter=self._verifying)
            async with self.suspects.turn(network) as has_turn:
                if not has_turn:
                    raise ApiError("rate_limited", BUSY, retry_after=5)
                await anyio.sleep(standing.brake_seconds)
                return await anyio.to_thread.run_sync(verify, limiter=self._verifying)

    def _has_place(self, network: str, *, is_suspect: bool) -> bool:
        left = MAX_LOGINS - self.waiting.total()
        return self.suspects.make_place(network, min(MAX_SUSPECTS, len(self.suspects) + left)) if is_suspect else left > 0

    async def change(self, principal: Principal, make: Callable[[], T]) -> T:
        """Call what makes a password, for somebody who has signed in, in a thread that no login has. Raises ApiError if many wait."""
        with slot(self.changes, principal.owner, MAX_CHANGES, MANY_CHANGES):
            return await anyio.to_thread.run_sync(make, limiter=self._changing)
