import asyncio
import threading
from dataclasses import replace

import pytest

from imprint.inference.decoder import Decoder
from imprint.inference.request import Request, Token
from imprint.model import Model
from imprint.serve.generation.answer import MountedModel
from imprint.serve.generation.warm_up import TOKENS, needs_warm_up, warm_up_requests
from imprint.serve.generation.worker import Limits
from tests.serve.generation.workers import alone, job_of, model_of, mounted_models, worker_of
from tests.serve.outcomes import outcome_of


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Model:
    return model_of("ChatGLM2-6B", tmp_path_factory.mktemp("worker"))


def test_each_model_answers_a_short_prompt_and_one_in_parts_and_both_fit(model: Model) -> None:
    (mounted,) = mounted_models(model, ())

    def of_length(max_length: int) -> MountedModel:
        return replace(mounted, info=replace(mounted.info, max_length=max_length))

    short, long = warm_up_requests([of_length(64)], 20)
    assert len(short.ids) <= 20 < len(long.ids) <= 40
    tight = warm_up_requests([of_length(len(short.ids) + TOKENS), replace(of_length(64), adapter="tuned")], 512)
    assert [one.adapter for one in tight] == ["base", "tuned", "tuned"]
    assert not needs_warm_up(model.network)


@pytest.mark.parametrize("error", [None, RuntimeError("no kernel")])
def test_a_service_is_ready_once_its_first_answers_are_written_or_have_failed(
    error: Exception | None, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ids, expected = alone(model, job_of())
    admitted: list[Request] = []
    errors = [error]
    may_step = threading.Event()
    admit, step = Decoder.admit, Decoder.step

    def admit_noted(decoder: Decoder, request: Request) -> int:
        admitted.append(request)
        return admit(decoder, request)

    def step_later(decoder: Decoder) -> list[Token]:
        may_step.wait()
        if (now := errors.pop() if errors else None) is not None:
            raise now
        return step(decoder)

    async def run() -> tuple[bool, str, bool]:
        async with worker_of(model, Limits(prefill_chunk_tokens=16)) as worker:
            before = worker.ready()
            may_step.set()
            text = (await outcome_of(await worker.submit(job_of()))).text
            return before, text, worker.ready()

    monkeypatch.setattr("imprint.serve.generation.worker.needs_warm_up", lambda _network: True)
    monkeypatch.setattr(Decoder, "admit", admit_noted)
    monkeypatch.setattr(Decoder, "step", step_later)
    assert asyncio.run(run()) == (False, expected, True)
    assert len(admitted) == (3 if error is None else 4)  # two of the warm-up, one of a user, and one of a new decoder
