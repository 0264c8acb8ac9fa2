"""Passwords as argon2id hashes, computed by few threads, so that many logins at once take neither the cores nor the memory of answers."""

import base64
import os
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Final

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from imprint.messages import Bilingual
from imprint.serve.store.errors import StoreError
from imprint.serve.store.names import password_text

NICER: Final = 5
"""By how much the threads that hash are nicer than the others: about a third of a core beside a thread that never pauses."""


@dataclass(frozen=True)
class Hashing:
    """What a hash costs. The least that OWASP names is 19 MiB and two passes."""

    memory_kib: int = 65_536
    """Memory of one hash in KiB."""
    passes: int = 2
    """Passes over that memory."""
    threads: int = 2
    """Most hashes at the same time."""
    waiting: int = 32
    """Most that wait for their turn; more are refused at once."""


class Passwords:
    """Hashes and verifies passwords; may be called from any thread, which waits."""

    def __init__(self, hashing: Hashing) -> None:
        self._hasher = PasswordHasher(time_cost=hashing.passes, memory_cost=hashing.memory_kib, parallelism=1)
        self._pool = ThreadPoolExecutor(hashing.threads, thread_name_prefix="password", initializer=_yield_to_others)
        self._slots = threading.BoundedSemaphore(hashing.threads + hashing.waiting)
        salt, digest = (base64.b64encode(os.urandom(size)).decode().rstrip("=") for size in (16, 32))
        self._nobody = f"$argon2id$v=19$m={hashing.memory_kib},t={hashing.passes},p=1${salt}${digest}"

    def hashed(self, password: str) -> str:
        """The hash of a password, with its salt and its costs in it. Raises StoreError if too many wait."""
        with self._slot():
            return self._pool.submit(self._hasher.hash, _bytes(password)).result()

    def is_right(self, password: str, stored: str | None) -> bool:
        """Whether a password has this hash; without one the same work is done for nothing, so that the time tells no names.

        Raises StoreError if too many wait.
        """
        with self._slot():
            return self._pool.submit(self._verified, password, stored).result() and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether a hash was made at other costs than hashes are now."""
        return self._hasher.check_needs_rehash(stored)

    def close(self) -> None:
        """End the threads."""
        self._pool.shutdown()

    def _verified(self, password: str, stored: str | None) -> bool:
        try:
            return self._hasher.verify(self._nobody if stored is None else stored, _bytes(password))
        except (VerificationError, InvalidHashError):
            return False

    @contextmanager
    def _slot(self) -> Iterator[None]:
        """One of the hashes that run or wait. Raises StoreError if too many do."""
        if not self._slots.acquire(blocking=False):
            raise StoreError(
                "busy",
                Bilingual("too many people sign in right now. Try again in a few seconds.", "登录的人太多，请几秒后再试。"),
                retry_after=3.0,
            )
        try:
            yield
        finally:
            self._slots.release()


def _yield_to_others() -> None:
    """Let what answers and streams run before this thread where the cores are taken: a login may wait, a stream shows it."""
    if sys.platform == "linux":  # elsewhere a priority is of the whole process
        with suppress(OSError):  # a sandbox may forbid it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), os.getpriority(os.PRIO_PROCESS, 0) + NICER)


def _bytes(password: str) -> bytes:
    """The bytes that are hashed."""
    return password_text(password).encode("utf-8", "surrogatepass")
