"""What comes of a job: all events of its generation, whatever backend gives them."""

import asyncio
from dataclasses import dataclass, field

from imprint.serve.generation.job import Ended, Event, Generation, TextDelta, Waiting


@dataclass
class Outcome:
    """All events of a generation."""

    events: list[Event] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(event.text for event in self.events if isinstance(event, TextDelta))

    @property
    def ids(self) -> list[int]:
        return [token.id for event in self.events if isinstance(event, TextDelta) for token in event.tokens]

    @property
    def positions(self) -> list[int]:
        return [event.position for event in self.events if isinstance(event, Waiting)]

    @property
    def end(self) -> Ended:
        """The last event, of which there is one."""
        (end,) = (event for event in self.events if isinstance(event, Ended))
        assert self.events[-1] is end
        assert self.positions == sorted(self.positions, reverse=True)
        return end


async def outcome_of(generation: Generation, *, cancel_after: int | None = None) -> Outcome:
    """Read all events, exactly the last of which ends the answer; cancel after so many of them."""
    outcome = Outcome()
    if cancel_after == 0:
        generation.cancel()
    async with asyncio.timeout(60):
        async for event in generation:
            outcome.events.append(event)
            if len(outcome.events) == cancel_after:
                generation.cancel()
    assert outcome.end
    return outcome
