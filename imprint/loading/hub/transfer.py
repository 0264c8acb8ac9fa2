"""The one door to huggingface_hub and the network: requests to a hub that end in bounded time, whatever the server does.

A request runs in a thread of its own, and the caller waits at most `RetryPolicy.stall` seconds for its next part: also a server that sends
one byte now and then, or never ends its headers, holds nobody. The session, and with it proxies, certificates and the user's token, is
huggingface_hub's.
"""

import json
import os
import re
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event, Thread
from types import ModuleType
from typing import Any, Final
from urllib.parse import quote, urljoin, urlsplit

from imprint.messages import Bilingual, UserError
from imprint.terminal import say

MAX_ANSWER_BYTES: Final = 2**25
"""Most bytes of an answer that is no file."""
PAGE_STALLS: Final = 12
"""An answer that is no file may take this many times the seconds of a stall."""
LEAST_BYTES: Final = 1024
"""Fewer bytes than this within the seconds of a stall are a stall."""
MAX_REASON: Final = 200
ON: Final = ("1", "on", "yes", "true")
PARTS: Final = 8
"""Parts of an answer that wait to be taken."""
LOCK_SECONDS: Final = 1.0
"""How long a lock is waited for before that is told."""
NEXT_PAGE: Final = re.compile(r'<([^>]+)>\s*;\s*rel="next"')


@dataclass(frozen=True)
class RetryPolicy:
    """How long a server is waited for, and how often it is asked again."""

    stall: float
    """Seconds in which something must come: HF_HUB_DOWNLOAD_TIMEOUT, 10 by default."""
    tries: int = 5
    """Requests for a file, one after another, that bring hardly anything, before it is given up."""
    pause: float = 1.0
    """Seconds before the second request; twice as many before each further one."""
    longest_pause: float = 60.0
    """The longest pause that a server may ask for."""

    def before(self, retry: int) -> float:
        """Seconds to wait before a retry, counted from 1."""
        return float(min(self.pause * 2 ** (retry - 1), self.longest_pause))


class HubProblemError(Exception):
    """Why a hub gave no answer; `reason` in a few words, in both languages."""

    def __init__(self, english: str, chinese: str, *, status: int = 0, code: str = "", pause: float | None = None) -> None:
        super().__init__(english)
        self.reason = Bilingual(english, chinese)
        self.status = status
        """The HTTP status of a refusal; 0 where there was no answer."""
        self.code = code
        """The hub's own name of the refusal, such as GatedRepo."""
        self.pause = pause
        """Seconds that the server asks to wait."""

    @property
    def may_pass(self) -> bool:
        """Whether the same request may succeed later."""
        return self.status in (0, 408, 429) or self.status >= 500


@dataclass(frozen=True)
class ResponseHead:
    """The beginning of an answer, before its content."""

    status: int
    headers: Mapping[str, str]


@dataclass(frozen=True)
class Hub:
    """A hub's address, how long it is waited for, and how often it is asked again."""

    endpoint: str
    """Its address, without a slash at the end."""
    policy: RetryPolicy

    def page(self, path: str) -> tuple[Any, str | None]:
        """(value of the JSON at a path of the hub, path of its next page). Raises HubProblemError."""
        content, headers, began = bytearray(), {}, time.monotonic()
        for part in self.read(path):
            if time.monotonic() - began > self.policy.stall * PAGE_STALLS:
                raise HubProblemError("its answer comes too slowly", "回答过慢")
            if isinstance(part, ResponseHead):
                headers = dict(part.headers)
                continue
            content += part
            if len(content) > MAX_ANSWER_BYTES:
                raise HubProblemError("its answer has no end", "回答过大")
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            raise HubProblemError(
                "its answer is not JSON, so it is no hub: a login page of the network, or a wrong HF_ENDPOINT",
                "回答不是 JSON，可能是上网登录页，或 HF_ENDPOINT 有误",
            ) from None
        return value, self._next_page(path, headers.get("link", ""))

    def read(self, path: str, start: int = 0) -> Iterator[ResponseHead | bytes]:
        """Yield the ResponseHead at a path of the hub, then its content from byte `start` on if the server can; raises HubProblemError.

        The status is 200, or 206 for a part.
        """
        parts: Queue[ResponseHead | bytes | Exception | None] = Queue(PARTS)
        left = Event()
        Thread(target=_fetch, args=(self.endpoint + path, start, self.policy.stall, parts, left), daemon=True).start()
        try:
            yield from self._taken(parts)
        finally:
            left.set()

    def _taken(self, parts: "Queue[ResponseHead | bytes | Exception | None]") -> Iterator[ResponseHead | bytes]:
        deadline, count = time.monotonic() + self.policy.stall, 0
        while True:
            try:
                part = parts.get(timeout=max(0.0, deadline - time.monotonic()))
            except Empty:
                seconds = f"{self.policy.stall:g}"
                raise HubProblemError(f"nothing came for {seconds} seconds", f"{seconds} 秒内没有数据") from None
            if part is None:
                return
            if isinstance(part, Exception):
                raise part
            count += len(part) if isinstance(part, bytes) else LEAST_BYTES
            if count >= LEAST_BYTES:
                deadline, count = time.monotonic() + self.policy.stall, 0
            if isinstance(part, ResponseHead) and part.status not in (200, 206):
                raise _refusal(part)
            yield part

    def _next_page(self, path: str, link: str) -> str | None:
        """The path of the next page that a header names; None for one of another host."""
        found = NEXT_PAGE.search(link)
        if found is None:
            return None
        target = urljoin(self.endpoint + path, found[1])
        base = urlsplit(self.endpoint)
        return target.removeprefix(self.endpoint) if target.startswith(f"{base.scheme}://{base.netloc}{base.path}/") else None


def open_hub() -> Hub:
    """The hub of HF_ENDPOINT, or huggingface.co. Raises UserError for an address that is none."""
    constants = _constants()
    endpoint = (os.environ.get("HF_ENDPOINT") or constants.ENDPOINT).strip().rstrip("/")
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.netloc:
        raise UserError(
            Bilingual(
                f"HF_ENDPOINT: must be an address such as https://hf-mirror.com, found {endpoint!r}. Correct the variable, or unset it.",
                f"HF_ENDPOINT 须为网址，如 https://hf-mirror.com，实际是 {endpoint!r}：请改正或取消该环境变量。",
            )
        )
    return Hub(endpoint, RetryPolicy(_seconds(os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT")) or float(constants.HF_HUB_DOWNLOAD_TIMEOUT)))


def is_offline() -> bool:
    """Whether the user has forbidden the network: HF_HUB_OFFLINE or TRANSFORMERS_OFFLINE."""
    constants = _constants()
    variables = (os.environ.get(name, "").lower() for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE"))
    return bool(constants.HF_HUB_OFFLINE) or any(value in ON for value in variables)


def cache_root() -> Path:
    """The folder of Hugging Face's cache: HF_HUB_CACHE, or `hub` in HF_HOME, by default ~/.cache/huggingface/hub."""
    constants = _constants()
    if chosen := os.environ.get("HF_HUB_CACHE"):
        return Path(os.path.expandvars(chosen)).expanduser().absolute()
    if home := os.environ.get("HF_HOME"):
        return Path(os.path.expandvars(home)).expanduser().absolute() / "hub"
    return Path(constants.HF_HUB_CACHE)


def _constants() -> ModuleType:
    """What huggingface_hub has read from the environment. Raises UserError for a variable that it cannot read."""
    try:
        from huggingface_hub import constants
    except ValueError as error:
        raise UserError(
            Bilingual(
                f"huggingface_hub cannot read one of the variables HF_*: {error}. Correct it, or unset it.",
                f"huggingface_hub 无法读取某个 HF_* 环境变量（{error}）：请改正或取消它。",
            )
        ) from error
    return constants


@contextmanager
def download_lock(file: Path, waiting: Bilingual) -> Iterator[None]:
    """Hold the lock of a download; prints `waiting` and waits while another process has it."""
    from huggingface_hub.utils import WeakFileLock  # type: ignore[attr-defined]  # in huggingface_hub 1 and 2, but not listed

    file.parent.mkdir(parents=True, exist_ok=True)
    with ExitStack() as held:
        try:
            held.enter_context(WeakFileLock(file, timeout=LOCK_SECONDS))
        except TimeoutError:
            say(waiting.line, stream=sys.stderr)
            held.enter_context(WeakFileLock(file))
        yield


def quoted(path: str) -> str:
    """A name as a part of an address."""
    return quote(path, safe="/")


def _seconds(text: str | None) -> float | None:
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if 0 < value < float("inf") else None


def _fetch(url: str, start: int, stall: float, parts: "Queue[ResponseHead | bytes | Exception | None]", left: Event) -> None:
    """Request an address and put what comes into the queue: ResponseHead, content, and None at the end, or an exception."""
    from huggingface_hub import get_session
    from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]  # in huggingface_hub 1 and 2, but not listed

    def put(part: ResponseHead | bytes | Exception | None) -> bool:
        while not left.is_set():
            try:
                parts.put(part, timeout=0.2)
            except Full:
                continue
            return True
        return False

    try:
        headers = {**build_hf_headers(library_name="imprint"), "accept-encoding": "identity"}
        if start:
            headers["range"] = f"bytes={start}-"
        with get_session().stream("GET", url, headers=headers, timeout=stall) as response:
            compressed = response.headers.get("content-encoding", "identity") != "identity"
            if not put(ResponseHead(416 if compressed and start else response.status_code, {**response.headers})):
                return
            if not all(put(chunk) for chunk in response.iter_bytes()):
                return
        put(None)
    except Exception as error:  # of the session, of whatever library it is, and of a proxy or a certificate
        put(HubProblemError(*_words(error)))


def _words(error: Exception) -> tuple[str, str]:
    """A failed request in a few words: what the libraries beneath say, without their names of classes where they have words."""
    kind = type(error).__name__
    detail = " ".join(str(error).split())[:MAX_REASON].rstrip(".") or kind
    if "Timeout" in kind:
        return "it did not answer in time", "等待超时"
    if kind in ("RemoteProtocolError", "ReadError", "IncompleteRead"):
        return f"the connection was cut ({detail})", "连接中断"
    return detail, f"{kind}：{detail}"


def _refusal(answer: ResponseHead) -> HubProblemError:
    pause = _seconds(answer.headers.get("retry-after"))
    return HubProblemError(
        f"it answers with HTTP status {answer.status}",
        f"返回 HTTP 状态 {answer.status}",
        status=answer.status,
        code=answer.headers.get("x-error-code", ""),
        pause=pause,
    )
