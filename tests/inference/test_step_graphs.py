import random
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from imprint.inference import Decoder, Request
from imprint.inference.decoder import PrefixedNetwork
from imprint.inference.step_graphs import bucket_of, recorder_for, refusal, rounded_capacity
from imprint.models.network import Network
from tests.bases import FAMILIES
from tests.cases import prompt, small_network
from tests.inference.recorders import use_plain_recorder
from tests.inference.reference import ending_network, generate_ids, greedy, prefix_for, short_prompts
from tests.inference.schedules import pool_of, run_schedule

QUICK = ("ChatGLM-6B", "GLM-4-9B", "BLOOM", "Qwen3")
"""Families of each kind of position: of two parts, rotary, slopes, and those of transformers."""


def answers(decoder: Decoder, stop_ids: frozenset[int]) -> dict[int, list[int]]:
    found: dict[int, list[int]] = {}
    while len(decoder):
        for token in decoder.step():
            found.setdefault(token.request, []).extend([] if token.id in stop_ids else [token.id])
    return found


@pytest.mark.parametrize("with_prefix", [False, True])
def test_answers_are_those_of_steps_as_they_are(monkeypatch: pytest.MonkeyPatch, with_prefix: bool) -> None:  # noqa: FBT001
    network = ending_network(1)
    prefix = prefix_for(network) if with_prefix else None
    prompts = short_prompts(network)
    recorder = use_plain_recorder(monkeypatch)

    found = generate_ids(network, prompts, 12, prefix=prefix)

    assert found == [greedy(network, row, 12, prefix) for row in prompts]
    assert recorder.replayed > 5


@pytest.mark.parametrize("repeated", [False, True])
def test_answers_go_on_where_the_cache_is_shrunk_under_them(monkeypatch: pytest.MonkeyPatch, *, repeated: bool) -> None:
    network = ending_network(1)
    if repeated:
        use_plain_recorder(monkeypatch)
    rows = short_prompts(network)[:3]
    decoder = Decoder(PrefixedNetwork(network))
    long = decoder.admit(Request(rows[0], 300))
    others = [decoder.admit(Request(row, 12)) for row in rows[1:]]
    before = [token for _ in range(4) for token in decoder.step()]
    room = decoder.cache_tokens(1, 1)

    decoder.cancel(long)
    decoder.shrink_cache()
    found = answers(decoder, network.stop_ids)

    for token in reversed(before):
        if token.request in found:
            found[token.request].insert(0, token.id)
    assert [found[one] for one in others] == [greedy(network, row, 12) for row in rows[1:]]
    assert decoder.cache_tokens(1, 1) < room


@pytest.mark.parametrize("family", [pytest.param(name, marks=[] if name in QUICK else pytest.mark.long) for name in FAMILIES])
def test_nor_do_they_depend_on_who_joins_and_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, family: str) -> None:
    pool = pool_of(family, tmp_path)
    recorder = use_plain_recorder(monkeypatch)

    assert sum(run_schedule(pool, random.Random(seed)) for seed in range(8)) > 25
    assert recorder.replayed > 30


def test_a_later_decoder_has_the_steps_of_an_earlier_one(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    recorder = use_plain_recorder(monkeypatch)
    row = prompt(network, 1, 2)
    expected = greedy(network, row, 9)

    assert [generate_ids(network, [row], 9) for _ in range(3)] == [[expected]] * 3

    assert recorder.recorded == 1


@pytest.mark.parametrize(
    "change", [lambda network: network.train().eval(), lambda network: network.double().float()], ids=["train", "move"]
)
def test_training_and_moving_free_what_was_kept(monkeypatch: pytest.MonkeyPatch, change: Callable[[torch.nn.Module], object]) -> None:
    network = small_network()
    recorder = use_plain_recorder(monkeypatch)
    row = prompt(network, 1, 2)
    generate_ids(network, [row], 9)
    assert network.decode_memory is not None

    change(network)

    assert network.decode_memory is None
    assert generate_ids(network, [row], 9) == [greedy(network, row, 9)]
    assert recorder.recorded == 2


def test_a_change_of_modules_between_two_steps_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    recorder = use_plain_recorder(monkeypatch)
    row = prompt(network, 1, 2)
    decoder = Decoder(PrefixedNetwork(network))
    decoder.admit(Request(row, 30))
    for _ in range(6):
        decoder.step()
    assert recorder.recorded == 1

    network.changed()
    for _ in range(6):
        decoder.step()

    assert recorder.recorded == 2


def test_a_cache_that_grows_loses_no_token_and_its_steps_are_recorded_again(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    recorder = use_plain_recorder(monkeypatch)
    rows = [prompt(network, token) for token in range(3)]
    decoder = Decoder(PrefixedNetwork(network), slots=3)
    numbers = [decoder.admit(Request(rows[0], 20))]
    tokens = [token for _ in range(4) for token in decoder.step()]
    numbers += [decoder.admit(Request(row, 70)) for row in rows[1:]]
    tokens += [token for _ in range(90) for token in decoder.step()]

    for number, row, count in zip(numbers, rows, (20, 70, 70), strict=True):
        ids = [token.id for token in tokens if token.request == number and token.id not in network.stop_ids]
        assert ids == greedy(network, row, count)
    assert recorder.recorded >= 2


def test_sizes_that_come_and_go_are_computed_in_a_larger_one_and_one_that_stays_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    network.stop_ids = frozenset()
    recorder = use_plain_recorder(monkeypatch)
    row = prompt(network, 1, 2)
    expected = greedy(network, row, 24)
    assert generate_ids(network, [row] * 4, 24) == [expected] * 4
    assert recorder.recorded == 1

    for _ in range(5):  # a few steps of two rows, then a few of one
        assert generate_ids(network, [row] * 2, 24, limits=[3, 5]) == [expected[:3], expected[:5]]
    assert recorder.recorded == 1

    assert generate_ids(network, [row], 24) == [expected]
    assert recorder.recorded == 2


def test_a_step_that_cannot_be_recorded_is_computed_as_it_is_and_one_sentence_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    network = small_network()
    recorder = use_plain_recorder(monkeypatch)

    def refuse(_step: Callable[[], Tensor]) -> Callable[[], Tensor]:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(recorder, "record", refuse)
    row = prompt(network, 1, 2)

    assert generate_ids(network, [row, row], 9) == [greedy(network, row, 9)] * 2

    message = capsys.readouterr().err
    assert (
        message.count("without CUDA graphs, which is slower: capturing one failed (operation not permitted when stream is capturing)") == 1
    )


def test_a_cancelled_request_gives_no_token_of_the_step_that_ran_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    use_plain_recorder(monkeypatch)
    rows = [prompt(network, token) for token in range(3)]
    decoder = Decoder(PrefixedNetwork(network))
    numbers = [decoder.admit(Request(row, 9)) for row in rows]
    tokens = decoder.step() + decoder.step()
    assert decoder._ahead is not None
    decoder.cancel(numbers[0])
    tokens += [token for _ in range(12) for token in decoder.step()]

    assert sum(token.request == numbers[0] for token in tokens) == 2
    for number, row in zip(numbers[1:], rows[1:], strict=True):
        assert [token.id for token in tokens if token.request == number and token.id not in network.stop_ids] == greedy(network, row, 9)


def test_switched_off_nothing_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    network = small_network()
    recorder = use_plain_recorder(monkeypatch)
    network.replays_steps = False

    generate_ids(network, [prompt(network, 1)], 9)

    assert recorder.recorded == 0
    assert network.decode_memory is None


def test_there_is_no_recorder_on_the_cpu() -> None:
    assert recorder_for(small_network()) is None


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda network: network.use_kernels("plain"), "model.kernels is plain"),
        (lambda network: network.train(), "training mode"),
        (lambda network: setattr(network, "replays_steps", False), "model.embedding_on_host"),
        (lambda network: setattr(next(network.parameters()), "data", torch.empty(0)), "sharded over processes"),
        (lambda _network: None, None),
    ],
)
def test_a_network_on_a_gpu_has_its_steps_repeated_or_a_reason_why_not(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[Network], object], why: str | None
) -> None:
    network = small_network()
    change(network)
    monkeypatch.setattr(type(network), "device", property(lambda _network: torch.device("cuda", 0)))

    told = refusal(network)

    assert (told is None) == (why is None) == (recorder_for(network) is not None)
    assert why is None or (told is not None and why in told.english)


def test_buckets_and_capacities_waste_little() -> None:
    assert [bucket_of(rows) for rows in (1, 2, 3, 9, 64, 65, 96)] == [1, 2, 4, 16, 64, 96, 96]
    for tokens in (1, 64, 65, 300, 5000):
        assert tokens <= rounded_capacity(tokens) < tokens + max(64, tokens * 0.25 + 1)
