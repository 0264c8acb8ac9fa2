"""A backend that plays scripts: what it answers, and when, follows from the prompt."""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from imprint.messages import Bilingual
from imprint.serve.generation.job import (
    Ended,
    EndReason,
    Generation,
    Job,
    Piece,
    RefusalKind,
    RefusedError,
    ServedModel,
    Statistics,
    TokenPiece,
    Waiting,
)

ANSWER = ("这件", "上衣", "的颜色", "是白色", "。")
MODELS = (
    ServedModel("base", "tiny", None, 256, supports_tools=False, licence="apache-2.0"),
    ServedModel("flowers", "tiny", "base", 256, supports_tools=False),
)


def prompt_of(job: Job) -> str:
    """The text to continue, or the last message."""
    return job.text if job.text is not None else str((job.messages or ({},))[-1].get("content", ""))


@dataclass(frozen=True)
class Script:
    """How one job goes."""

    pieces: Sequence[str] = ANSWER
    """The parts of the answer, a token each."""
    positions: Sequence[int] = ()
    """Places in the queue before the answer begins."""
    delay: float = 0.0
    """Seconds before every event."""
    reason: EndReason = "stop"
    error: Bilingual | None = None
    kind: RefusalKind | None = None
    refusal: RefusedError | None = None
    """Raised at once, in place of a generation."""
    hangs: bool = False
    """Whether nothing comes after the parts until the generation is cancelled."""


@dataclass
class ScriptedBackend:
    """Plays a script for each job: the one of its prompt, else the default. `jobs` are all that were taken."""

    scripts: Mapping[str, Script] = field(default_factory=dict)
    default: Script = field(default_factory=Script)
    script_of: Callable[[Job], Script | None] = lambda _: None
    """A script that depends on more than the prompt; None leaves it to the others."""
    served: Sequence[ServedModel] = MODELS
    is_ready: bool = True
    jobs: list[Job] = field(default_factory=list)
    cancelled: int = 0
    tokens: int = 0
    """New tokens of all jobs."""
    tasks: dict[asyncio.Task[None], Generation] = field(default_factory=dict)

    def models(self) -> Sequence[ServedModel]:
        return self.served

    async def submit(self, job: Job) -> Generation:
        script = self.script_of(job) or self.scripts.get(prompt_of(job), self.default)
        if job.model not in {model.id for model in self.served}:
            raise RefusedError("model_not_found", Bilingual(f"there is no model {job.model!r}.", f"没有模型 {job.model!r}。"))
        if script.refusal is not None:
            raise script.refusal
        self.jobs.append(job)
        generation = Generation(len(prompt_of(job)), self._count_cancel)
        task = asyncio.create_task(self._play(job, script, generation))
        self.tasks[task] = generation
        task.add_done_callback(lambda done: self.tasks.pop(done, None) and None)
        return generation

    def ready(self) -> bool:
        return self.is_ready

    def statistics(self) -> Statistics:
        return Statistics(running=len(self.tasks), slots=64, cancelled=self.cancelled, new_tokens=self.tokens)

    async def close(self, grace: float) -> None:
        self.is_ready = False
        if self.tasks:
            await asyncio.wait([*self.tasks], timeout=grace)
        for task, generation in [*self.tasks.items()]:
            generation.cancel()
            task.cancel()

    def _count_cancel(self) -> None:
        self.cancelled += 1

    async def _play(self, job: Job, script: Script, generation: Generation) -> None:
        for position in script.positions:
            generation.push(Waiting(position))
            await asyncio.sleep(script.delay)
        pieces = script.pieces[: job.max_new_tokens]
        for index, text in enumerate(pieces):
            if generation.ended:
                return
            await asyncio.sleep(script.delay)
            self.tokens += 1
            generation.push(Piece(text, (TokenPiece(index + 100, text.encode(), -0.5, text),)))
        while script.hangs and not generation.ended:
            await asyncio.sleep(0.005)
        reason: EndReason = "length" if len(pieces) < len(script.pieces) else script.reason
        generation.push(Ended(reason, generation.prompt_tokens, len(pieces), script.error, script.kind))
