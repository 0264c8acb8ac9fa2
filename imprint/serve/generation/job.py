"""What the service asks of a backend, and what it gets: a job for one answer, and its events until the answer has ended.

`Worker` (worker.py) is the backend that owns a model; `UpstreamBackend` (serve/upstream) asks other servers.
"""

import asyncio
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal, Protocol

from imprint.messages import Bilingual, UserError

RefusalKind = Literal["queue_full", "context_length_exceeded", "model_not_found", "unavailable", "invalid"]
"""Why there is no answer: too many wait; the prompt is too long; no such model; the backend restarts or closes; impossible settings."""
STOPPING: Final = Bilingual("the service is being stopped. Send the request again in a moment.", "服务正在停止：请稍后再发一次请求。")
NOTE: Final = Bilingual(
    "A language model writes the answers, and they may be wrong. The licence of its base says what it may be used for.",
    "回答由语言模型生成，可能有误；可用于何种用途，以底座的许可证为准。",
)
"""What users of any model are told."""
NOTHING_TO_ANSWER: Final = Bilingual("give either messages or a text to continue.", "请给出 messages 或要续写的文本，二者之一。")
BROKEN_TEXT: Final = Bilingual(
    "the text holds a half of a surrogate pair, which is no character.", "文本含有单独的代理码位，不是完整字符。"
)
EndReason = Literal["stop", "length", "cancelled", "error"]
"""Why an answer ended: at a stop id or a stop text, at its longest, by `Generation.cancel`, or because of an error."""


@dataclass(frozen=True)
class Job:
    """One answer that somebody wants: a conversation or a text to continue, and how."""

    model: str
    """`base`, or the name of a run."""
    owner: str
    """Whose it is."""
    messages: tuple[Mapping[str, object], ...] | None = None
    """A conversation, each message with `role` and `content`; either this or `text`."""
    text: str | None = None
    """A text to continue, without a template. No text becomes a special token, whatever it says."""
    concurrency: int = 1
    """Most answers of this owner at a time; more wait."""
    queue_share: float = 1.0
    """Share of the queue, 0 to 1, beyond which it is refused: so those who matter less leave room for the others."""
    sender: str | None = None
    """Who has one turn for all such jobs, as all guests from one address have; None: its owner. Those who have a turn take them in turn."""
    max_new_tokens: int | None = None
    """Most new tokens; None, and more than fits, means as many as fit into the context."""
    may_be_shorter: bool = False
    """Whether what is left of a quota lowers that, as it does where it is None: the user asked for no length."""
    temperature: float = 0.0
    """0 takes the most probable token."""
    top_p: float = 1.0
    """Sample from the smallest set of tokens that together have this probability."""
    top_k: int = 0
    """Sample from this many most probable tokens; 0 from all."""
    repetition_penalty: float = 1.0
    """Divides the logits of tokens that stand in the prompt or the answer."""
    seed: int | None = None
    """Seed of sampling; None draws one."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer and are no part of it."""
    top_logprobs: int | None = None
    """Most probable tokens to name at every place of the answer; None and 0 name the chosen one alone."""

    @property
    def turn(self) -> str:
        """Whose turn it takes."""
        return self.sender or self.owner

    @property
    def gives_way(self) -> bool:
        """Whether it leaves room for those who matter more."""
        return self.queue_share < 1.0


@dataclass(frozen=True)
class Alternative:
    """A token that could have stood at a place of the answer."""

    id: int
    """The token's id."""
    utf8: bytes
    """Its text, which may be a part of a character; empty for a special token."""
    log_prob: float
    """Its log-probability under the model, before temperature, penalty and truncation."""


@dataclass(frozen=True)
class TokenPiece(Alternative):
    """A token of the answer."""

    text: str = ""
    """The characters that are complete with it; empty in the middle of a character."""
    top: tuple[Alternative, ...] = ()
    """The most probable tokens at this place, as many as `Job.top_logprobs` asks for, the most probable first."""


@dataclass(frozen=True)
class Waiting:
    """The answer has not begun."""

    position: int
    """Its place in the queue, 1 for the next; never larger than it was before."""


@dataclass(frozen=True)
class TextDelta:
    """The next part of the answer's text; all parts joined are the answer."""

    text: str
    """Complete characters, none of them of a stop text; empty only in a last part, whose tokens complete none."""
    tokens: tuple[TokenPiece, ...] = ()
    """The tokens since the part before, without stop ids. Their texts are as decoded, with a stop text and what a template hides."""
    unnamed: int = 0
    """Further tokens since the part before, of which only the number is known."""

    @property
    def new_tokens(self) -> int:
        """How many tokens it has."""
        return len(self.tokens) + self.unnamed


@dataclass(frozen=True)
class Ended:
    """The last event of every generation."""

    reason: EndReason
    """Why the answer ended."""
    prompt_tokens: int
    """Tokens of the prompt; 0 where it was never run."""
    new_tokens: int
    """Tokens of the answer that were computed, also those whose text was held back; without a stop id."""
    error: Bilingual | None = None
    """What happened; None unless the reason is "error"."""
    kind: RefusalKind | None = None
    """What sort of error; None for one of our own, or where numbers were not finite."""


Event = Waiting | TextDelta | Ended


class RefusedError(UserError):
    """Raised where a job is not taken: it has no generation and no events."""

    def __init__(self, kind: RefusalKind, message: Bilingual, *, retry_after: float | None = None, fitting: float | None = None) -> None:
        super().__init__(message)
        self.kind: RefusalKind = kind
        self.retry_after = retry_after
        """Seconds after which another try is worth it; None where none is."""
        self.fitting = fitting
        """The share of a prompt that is too long that would about fit; None where that is unknown."""


def context_exceeded(tokens: int, limit: int, *, about: int | None = None) -> RefusedError:
    """The refusal of a prompt that leaves no room for a token; `about`: of one that was not counted, about how many it has at least."""
    least = Bilingual("", "") if about is None else Bilingual("at least ", "至少")
    message = Bilingual(
        f"the prompt has {least.english}{tokens} tokens, and prompt and answer together may have {limit}. Shorten it, or leave out "
        "the oldest messages.",
        f"提示{least.chinese}有 {tokens} 个词元，而提示与回答合计最多 {limit} 个：请缩短提示，或去掉最早的消息。",
    )
    return RefusedError("context_length_exceeded", message, fitting=limit / max(tokens if about is None else about, 1))


def no_such_model(name: str, known: Iterable[str]) -> RefusedError:
    """The refusal of a job for a model that is not served."""
    names = ", ".join(known)
    return RefusedError(
        "model_not_found", Bilingual(f"there is no model {name}. There are: {names}.", f"没有名为 {name} 的模型；现有：{names}。")
    )


def refuse_no_prompt(job: Job) -> None:
    """Raise RefusedError unless a job has either messages or a text, all of whole characters."""
    if (job.messages is None) == (job.text is None):
        raise RefusedError("invalid", NOTHING_TO_ANSWER)
    try:
        for text in (job.text, *(value for message in job.messages or () for value in message.values())):
            if isinstance(text, str):
                text.encode()  # raises UnicodeEncodeError for what is no character; not every tokenizer does
    except UnicodeError as error:
        raise RefusedError("invalid", BROKEN_TEXT) from error


class Generation:
    """The events of one job, for one reader: `async for event in generation`. All of it belongs to the event loop.

    A reader that is slow gets the parts that came in the meantime as one, so what waits is never more than the answer.
    """

    def __init__(
        self,
        prompt_tokens: int,
        cancel: Callable[[], "Ended | None"] = lambda: None,
        begin: Callable[[], object] | None = None,
        drop: Callable[[], None] = lambda: None,
    ) -> None:
        self.prompt_tokens = prompt_tokens
        """Tokens of the prompt."""
        self._cancel = cancel
        """What ends it in the backend, and returns what was computed; None: what was sent, no more."""
        self._begin = begin
        """What lets the answer begin; None once it has."""
        self._drop = drop
        """What is called where it is cancelled before."""
        self.seconds_a_token: float | None = None
        """The mean of the tokens behind the first part, once the answer has ended; None where no part came after the first."""
        self.spacing = 0.0
        """Least seconds between two parts: what comes sooner is in the next one. An answer's end waits for nothing."""
        self._events: deque[Event] = deque()
        self._readable = asyncio.Event()
        self._not_before = 0.0
        """When the next part may be read, by the clock of the event loop."""
        self._timer: asyncio.TimerHandle | None = None
        """Until then."""
        self._new_tokens = 0
        self._first_part: tuple[float, int] | None = None
        """When it came, by a monotonic clock, and its tokens."""
        self._closed = False
        self._read_end = False

    @property
    def ended(self) -> bool:
        """Whether the last event is there, read or not."""
        return self._closed

    def begin(self) -> None:
        """Let the answer begin, in its turn; nothing happens where it has or was cancelled. Raises RefusedError where it may not wait."""
        if self._begin is not None and not self._closed:
            self._begin()
            self._begin = None

    def push(self, event: Event) -> None:
        """Add an event; called by the backend on the event loop. What comes after the last one is dropped."""
        if self._closed:
            return
        if isinstance(event, TextDelta):
            self._new_tokens += event.new_tokens
            self._first_part = self._first_part or (time.monotonic(), self._new_tokens)
        elif isinstance(event, Ended) and self._first_part is not None and event.new_tokens > self._first_part[1]:
            self.seconds_a_token = (time.monotonic() - self._first_part[0]) / (event.new_tokens - self._first_part[1])
        last = self._events[-1] if self._events else None
        if isinstance(last, TextDelta) and isinstance(event, TextDelta):
            self._events[-1] = TextDelta(last.text + event.text, last.tokens + event.tokens, last.unnamed + event.unnamed)
        elif isinstance(last, Waiting) and isinstance(event, Waiting):
            self._events[-1] = replace(event, position=min(last.position, event.position))
        else:
            self._events.append(event)
        self._closed = isinstance(event, Ended)
        if self.spacing and isinstance(event, TextDelta):
            self._show_later()
        else:
            self._show()

    def cancel(self) -> None:
        """End the answer where it is, also before it has begun; nothing happens where it has ended."""
        if not self._closed:
            if self._begin is None:
                self.push(self._cancel() or Ended("cancelled", self.prompt_tokens, self._new_tokens))
            else:
                self._drop()
                self.push(Ended("cancelled", 0, 0))

    def __aiter__(self) -> "Generation":
        return self

    async def __anext__(self) -> Event:
        """The next event; ends after `Ended`."""
        if self._read_end:
            raise StopAsyncIteration
        await self._readable.wait()
        event = self._events.popleft()
        if not self._events:
            self._readable.clear()
        if self.spacing and isinstance(event, TextDelta):
            self._not_before = asyncio.get_running_loop().time() + self.spacing
        self._read_end = isinstance(event, Ended)
        return event

    def _show_later(self) -> None:
        """Let the reader have what is there as soon as the next part may be read."""
        loop = asyncio.get_running_loop()
        if loop.time() >= self._not_before:
            self._show()
        elif self._timer is None:
            self._timer = loop.call_at(self._not_before, self._show)

    def _show(self) -> None:
        """Let the reader have what is there."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._readable.set()


@dataclass(frozen=True)
class ModelInfo:
    """What users see of a model that a job may name."""

    id: str
    """`base`, or the name of a run."""
    base_name: str
    """What the base is called: the name of its folder."""
    parent: str | None
    """The model whose weights it shares: `base` for a run, None for the base."""
    max_length: int
    """Most tokens of prompt and answer."""
    supports_tools: bool
    """Whether its template has tools, calls and results."""
    licence: str | None = None
    """The licence of the base, if its folder names one."""
    note: Bilingual | None = None
    """What a user of it must know, such as that it is for research only."""
    counts_tokens: bool = True
    """Whether `Backend.count` is exact; where it is not, it is an estimate."""


@dataclass(frozen=True)
class Statistics:
    """What a backend does now, and has done."""

    waiting: int = 0
    """Jobs in the queue."""
    running: int = 0
    """Answers that are being written."""
    slots: int = 0
    """Most answers at a time."""
    kv_tokens: int = 0
    """Tokens that are reserved for the prompts and the longest answers of what runs."""
    max_kv_tokens: int = 0
    """Most of them."""
    prompt_tokens: int = 0
    """Tokens of all prompts that were run."""
    new_tokens: int = 0
    """Tokens of all answers."""
    cancelled: int = 0
    """Answers that were cancelled."""
    failed: int = 0
    """Answers that ended by an error."""
    restarts: int = 0
    """How often the decoder was made anew after an error."""
    stalled_seconds: float = 0.0
    """Seconds since the last sign of life, where there is work."""
    wait_p95_seconds: float = 0.0
    """The 95th percentile of the seconds that answers waited in the last ten minutes; 0 where there were few."""
    full_share: float = 0.0
    """Share of the last ten minutes, 0 to 1, for which an answer waited because the cache had no room for it."""
    servers: int = 0
    """Servers behind this one that answer; 0 for a backend that owns its model."""


class Backend(Protocol):
    """Where answers come from. All of it is called on the event loop."""

    def models(self) -> Sequence[ModelInfo]:
        """The models that jobs may name, `base` first."""

    async def submit(self, job: Job, *, held: bool = False) -> Generation:
        """Take a job. Raises RefusedError at once where it is not taken, before any event.

        Asynchronous because the prompt is encoded first, in another thread: a long text must not stop the event loop. `held`: no model
        works for it before `Generation.begin`, so that it can be paid for once it is known how long its prompt is.
        """

    async def count(self, job: Job) -> int:
        """The tokens of a job's prompt, whether it fits or not. Raises RefusedError for no such model and no such prompt."""

    def ready(self) -> bool:
        """Whether it answers: false while it loads, restarts, hangs or closes."""

    def statistics(self) -> Statistics:
        """What it does now, and has done."""

    async def close(self, grace: float) -> None:
        """Take no further job, end those that wait, and let the others go on for up to `grace` seconds.

        What has not ended by then ends as "unavailable"; every generation has ended afterwards.
        """
