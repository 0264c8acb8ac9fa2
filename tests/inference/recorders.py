"""A recorder for tests on the CPU: it computes each step again, over the tensors that graphs have."""

from collections.abc import Callable

import pytest
from torch import Tensor

from imprint.inference import decode_memory
from imprint.models.network import Network


class PlainRecorder:
    """Counts what is recorded and repeated."""

    def __init__(self) -> None:
        self.recorded = self.replayed = 0

    def record(self, step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        self.recorded += 1
        step()  # as a capture does, which warms up first

        def replay() -> Tensor:
            self.replayed += 1
            return step()

        return replay

    def restart(self) -> None:
        """There is nothing to drop."""


def use_plain_recorder(monkeypatch: pytest.MonkeyPatch) -> PlainRecorder:
    """Let every Decoder repeat its steps, by one recorder."""
    recorder = PlainRecorder()

    def recorder_for(network: Network) -> PlainRecorder | None:
        return recorder if network.replays_steps else None

    monkeypatch.setattr(decode_memory, "recorder_for", recorder_for)
    return recorder
