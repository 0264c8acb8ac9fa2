"""The servers behind this one: which of them answer, with which models, and which has the least to do."""

import asyncio
import logging
import random
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final

from imprint.serve.generation.job import NOTE, ModelInfo
from imprint.serve.upstream.client import Client
from imprint.serve.upstream.faults import FaultError, fault_of_exception

MAX_MODELS: Final = 256
MAX_NAME: Final = 256
"""Most characters of a model's id, as in requests."""
MAX_LENGTH: Final = 2**31
SUSPICIOUS: Final = 3
"""After so many answers in a row that failed, a server is left out for a while, whatever its checks say."""
LONGEST_REST: Final = 5
"""For how many times `Timeouts.retry` a server is left in peace at most that takes no request now, whatever it says."""
COUNT_PATHS: Final = ("/tokenize", "/v1/tokenize")
"""Where servers count tokens: vLLM and SGLang; SGLang and this service."""
PROBE_MESSAGES: Final = ({"role": "user", "content": "1"},)
"""A conversation that shows whether a server counts tokens."""


@dataclass(frozen=True)
class UpstreamModel:
    """A model of a server."""

    max_length: int
    """Most tokens of prompt and answer."""
    root: str
    """What it is called, without folders."""
    parent: str | None
    """The id of the model on which it is an adapter."""


class Server:
    """One server, and what is known of it."""

    def __init__(self, address: str, max_length: int | None, clock: Callable[[], float] = time.monotonic) -> None:
        self.address = address
        self.models: dict[str, UpstreamModel] = {}
        """Its models by id, as they were when it last answered."""
        self.answers = False
        """Whether it answered when it was last checked."""
        self.count_path: str | None = None
        """Where it counts tokens; None if it does not."""
        self.running = 0
        """Answers that it writes for this service."""
        self._max_length = max_length
        self._clock = clock
        self._failed = 0
        """Answers in a row that failed."""
        self._owners: set[str] = set()
        """Two of their owners, or the only one."""
        self._left_out_until = self._avoided_until = self._rests_until = 0.0
        self._checks_failed = 0
        self._woken = asyncio.Event()
        self._log = logging.getLogger(__name__)

    @property
    def usable(self) -> bool:
        """Whether it is given work."""
        return self.answers and self._clock() >= self._left_out_until

    def answered(self) -> None:
        """Note that an answer of it was whole."""
        self._failed = 0
        self._owners.clear()

    def failed(self, error: FaultError, client: Client, owner: str) -> None:
        """Note that an owner's answer of it was not: it is checked soon, and left out after several.

        Where all were of one owner, whose requests may be the reason, it is left out for that one alone.
        """
        self._log_fault("an answer failed", error)
        if error.name == "busy":
            retry = client.timeouts.retry
            self._rests_until = self._clock() + min(max(error.retry_after or retry, retry), LONGEST_REST * retry)
        if error.fault.counts_against_server:
            self._woken.set()
        if not error.counts_against_server:
            return
        self._failed += 1
        if len(self._owners) < 2:
            self._owners.add(owner)
        if error.name == "unreachable":
            self.answers = False
        if self._failed >= SUSPICIOUS:
            self._avoided_until = self._clock() + _pause(client, self._failed - SUSPICIOUS)
            if len(self._owners) > 1:
                self._left_out_until = self._avoided_until

    @property
    def rests_for(self) -> float:
        """For how many seconds it gets no answer, as it said that it takes none now."""
        return max(0.0, self._rests_until - self._clock())

    def has_room(self, slots: int) -> bool:
        """Whether it may have another answer, of `slots`."""
        return self.running < slots and not self.rests_for

    def is_avoided_by(self, owner: str | None) -> bool:
        """Whether another server is better for this owner, all of whose answers failed of late, and nobody else's."""
        return self._owners == {owner} and self._clock() < self._avoided_until

    async def watch(self, client: Client, changed: Callable[[], None]) -> None:
        """Check it again and again; `changed` is called after each check."""
        while True:
            self._woken.clear()
            seconds = client.timeouts.check if await self.check(client) else _pause(client, self._checks_failed)
            changed()
            until_back = self._left_out_until - self._clock()
            if until_back > 0:
                seconds = min(seconds, until_back)
            try:
                async with asyncio.timeout(seconds):
                    await self._woken.wait()
                await asyncio.sleep(min(seconds, client.timeouts.retry))  # many answers may fail at once
            except TimeoutError:
                pass

    async def check(self, client: Client) -> bool:
        """Whether it answers now; its models are those that it names."""
        try:
            models = read_models(await client.ask(f"{self.address}/v1/models"), self._max_length)
            if models != self.models or not self.answers:
                self.count_path = await self._find_count_path(client, next(iter(models)))
        except Exception as error:  # nothing may end the watch
            fault = fault_of_exception(error)
            if self.answers or self._checks_failed == 0:
                self._log_fault("a server does not answer", fault)
            self.answers = False
            self._checks_failed += 1
            return False
        if not self.answers:
            self._log.info("a server answers", extra={"fields": {"server": self.address, "models": sorted(models)}})
        self.models, self.answers, self._checks_failed = models, True, 0
        return True

    @property
    def counts_tokens(self) -> bool:
        """Whether it counts tokens."""
        return self.count_path is not None

    async def count(self, client: Client, prompt: Mapping[str, Any]) -> int:
        """The tokens of a prompt, with its template. Raises FaultError."""
        return await self._count_at(self.count_path or COUNT_PATHS[0], client, prompt)

    async def _count_at(self, path: str, client: Client, prompt: Mapping[str, Any]) -> int:
        payload = await client.ask(self.address + path, prompt)
        number = payload.get("count") if isinstance(payload, dict) else None
        if type(number) is not int or not 0 < number < MAX_LENGTH:
            raise FaultError("invalid_response")
        return number

    async def _find_count_path(self, client: Client, model: str) -> str | None:
        for path in COUNT_PATHS:
            with suppress(FaultError):
                await self._count_at(path, client, {"model": model, "messages": PROBE_MESSAGES})
                return path
        return None

    def _log_fault(self, event: str, error: FaultError) -> None:
        fields = {"server": self.address, "fault": error.name, "status": error.status}
        self._log.warning(event, extra={"fields": fields})


def _pause(client: Client, failures: int) -> float:
    """Seconds until the next try, a little different each time, so that several services do not try together."""
    return min(client.timeouts.retry * 2.0 ** min(failures, 16), client.timeouts.longest_retry) * random.uniform(0.8, 1.0)


def read_models(payload: Any, max_length: int | None) -> dict[str, UpstreamModel]:
    """The models of a list of /v1/models, none longer than `max_length`. Raises FaultError for no list, and where lengths are not known."""
    entries = payload.get("data") if isinstance(payload, dict) else None
    if not isinstance(entries, list):
        raise FaultError("invalid_response")
    models = {}
    for entry in entries[:MAX_MODELS]:
        name = entry.get("id") if isinstance(entry, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= MAX_NAME or not name.isprintable():
            raise FaultError("invalid_response")
        lengths = [length for length in (entry.get("max_model_len"), max_length) if type(length) is int and 0 < length < MAX_LENGTH]
        if not lengths:
            raise FaultError("no_length")
        root, parent = entry.get("root"), entry.get("parent")
        models[name] = UpstreamModel(
            min(lengths),
            _last_part(root if isinstance(root, str) and root.isprintable() else name),
            parent if isinstance(parent, str) and parent != name else None,
        )
    if not models:
        raise FaultError("no_model")
    return models


def _last_part(path: str) -> str:
    """The name of a folder: where a server keeps its models is nobody's business."""
    return path.rstrip("/").rpartition("/")[2][:MAX_NAME] or path[:MAX_NAME]


class Servers:
    """All servers, and the names under which their models are served."""

    def __init__(self, servers: Sequence[Server], names: Mapping[str, str]) -> None:
        self.all = tuple(servers)
        self._names = dict(names)
        """Our name -> a server's id; empty where each model has the name that it has there."""

    def id_of(self, name: str) -> str:
        """What the servers call a model."""
        return self._names.get(name, name)

    def models(self) -> list[ModelInfo]:
        """The models that servers have or had, those that are no adapter first."""
        ids = {model: model for server in self.all for model in server.models}
        ours = {name: theirs for name, theirs in (self._names or ids).items() if theirs in ids}
        found = [self._info(name, theirs, {other: mine for mine, other in ours.items()}) for name, theirs in ours.items()]
        return sorted(found, key=lambda model: model.parent is not None)

    def _info(self, name: str, theirs: str, names: Mapping[str, str]) -> ModelInfo:
        having = [server for server in self.all if theirs in server.models]
        models = [server.models[theirs] for server in having]
        return ModelInfo(
            name,
            models[0].root,
            names.get(models[0].parent or ""),
            min(model.max_length for model in models),
            supports_tools=False,
            note=NOTE,
            counts_tokens=all(server.counts_tokens for server in having),
        )

    def least_loaded(self, name: str, slots: int | None, without: Collection[Server] = (), owner: str | None = None) -> Server | None:
        """The usable server with this model that has the fewest answers; None where there is none.

        `slots`: it must have fewer, and must not rest; None: whatever it has.

        One that fails for `owner` alone comes behind the others.
        """
        theirs = self.id_of(name)
        free = [
            server
            for server in self.all
            if server.usable and theirs in server.models and server not in without and (slots is None or server.has_room(slots))
        ]
        return min(free, key=lambda server: (server.is_avoided_by(owner), server.running), default=None)

    @property
    def usable(self) -> int:
        """How many servers are given work."""
        return sum(server.usable for server in self.all)
