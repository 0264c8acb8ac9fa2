from dataclasses import replace

import pytest
import torch

from imprint.forecast.cards import find_card
from imprint.forecast.estimate import Choice, Estimate, Sharding, estimate
from imprint.forecast.stand_ins import ComputePath
from imprint.quant.names import FormatName
from imprint.tune.lora.section import LoraSection
from imprint.tune.section import AnySection, FullSection, PrefixSection
from tests.forecast.full_shape import plan

H200 = find_card("H200")
PREFIX = PrefixSection(length=128, start="random", prefix_dropout=0.1)
LORA = LoraSection(method="lora", rank=8, dropout=0.1)
FULL = FullSection(method="full")
MEASURED = [
    # those that are as they were: without checkpointing, 16 rows at once take less since they were measured
    # tune, format, checkpointing, micro-batch, rows a step, GB and ms on an H200 (docs/performance.md)
    (PREFIX, None, True, 16, 16, 14.4, 174.8),
    (PREFIX, None, False, 1, 16, 13.4, 1191.4),
    (PREFIX, 8, True, 1, 16, 7.6, 2728.1),
    (PREFIX, 4, True, 16, 16, 5.9, 242.4),
    (PREFIX, 4, False, 1, 16, 5.0, 2243.0),
    (LORA, None, True, 16, 16, 14.0, 176.4),
    (LORA, 4, True, 4, 4, 4.4, 215.6),
    (FULL, None, False, 16, 16, 101.0, 256.8),
]


@pytest.mark.parametrize(("tune", "quantize", "checkpointing", "micro_batch", "rows", "gigabytes", "milliseconds"), MEASURED)
def test_the_peak_is_within_8_percent_of_what_was_measured(
    tune: AnySection,
    quantize: FormatName | None,
    checkpointing: bool,  # noqa: FBT001
    micro_batch: int,
    rows: int,
    gigabytes: float,
    milliseconds: float,
) -> None:
    dtype = torch.bfloat16 if quantize is None else torch.float16
    forecast = estimate(plan(rows, dtype), Choice(tune, quantize, checkpointing, micro_batch))
    assert forecast.allocated_bytes(H200) / 1e9 == pytest.approx(gigabytes, rel=0.08)
    assert 0.5 < forecast.step_seconds(H200) * 1e3 / milliseconds < 1.5
    assert forecast.needed_bytes(H200) > forecast.allocated_bytes(H200) > forecast.peak_bytes


def names(forecast: Estimate) -> dict[str, int]:
    """The terms by their English names."""
    return {term.name.english: term.nbytes for term in forecast.terms}


def test_every_term_of_a_full_tuning_is_named() -> None:
    terms = names(estimate(plan(), Choice(FULL, None, checkpointing=False, micro_batch=16)))
    parameters = 6_173_286_400
    assert terms["weights"] == pytest.approx(2 * parameters, rel=1e-3)
    assert terms["fp32 copies of trained weights"] == pytest.approx(4 * parameters, rel=1e-3)
    assert terms["AdamW's moments, fp32"] == pytest.approx(8 * parameters, rel=1e-3)
    assert {"gradients", "activations kept for the backward pass", "working memory of the backward pass"} & terms.keys()


def test_split_masters_take_half_of_their_memory_and_less_time() -> None:
    choice = Choice(FULL, None, checkpointing=True, micro_batch=1)
    whole, split = (estimate(replace(plan(1), path=ComputePath(split_masters=on)), choice) for on in (False, True))
    assert names(split)["lower halves of the fp32 values of trained weights"] == names(whole)["fp32 copies of trained weights"] // 2
    assert split.peak_bytes == whole.peak_bytes - 2 * 6_173_286_400
    assert split.step_seconds(H200) < whole.step_seconds(H200)


def test_sharding_divides_what_it_shards() -> None:
    choice = Choice(FULL, None, checkpointing=True, micro_batch=16)
    alone = names(estimate(plan(), choice))
    stage2 = names(estimate(replace(plan(), sharding=Sharding(2, 4)), choice))
    stage3 = names(estimate(replace(plan(), sharding=Sharding(3, 4)), choice))
    offloaded = names(estimate(replace(plan(), sharding=Sharding(2, 4, offload=True)), choice))
    moments = "AdamW's moments, fp32"
    assert stage2[moments] == alone[moments] // 4
    assert stage2["weights"] == alone["weights"]
    assert stage3["weights"] == alone["weights"] // 4
    assert moments not in offloaded


def test_the_cache_of_watched_answers_counts_where_it_is_larger_than_a_step() -> None:
    cached = replace(plan(), cache_bytes=10**11)
    assert names(estimate(cached, Choice(LORA, None, checkpointing=True, micro_batch=16)))["cache of the watched answers"] == 10**11


@pytest.mark.parametrize(("processes", "of_full"), [(1, True), (2, False)])
def test_several_processes_repeat_the_passes_of_an_adapter_alone_as_graphs(processes: int, of_full: bool) -> None:  # noqa: FBT001
    shared = replace(plan(), sharding=Sharding(processes=processes), path=ComputePath(graphs=True))
    tunes = (PrefixSection(method="prefix"), LoraSection(method="lora"), FullSection(method="full"))

    found = [shared.has_graphs(Choice(tune, None, checkpointing=False, micro_batch=1)) for tune in tunes]

    assert found == [True, True, of_full]
