from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from imprint.forecast.dry_run import Setting, _run, base_size, dry_run
from imprint.forecast.stand_ins import gpu_kernels
from imprint.models.network import Network
from imprint.pack import pack
from imprint.quant.fp8 import Fp8
from imprint.quant.row_int import RowInt
from imprint.tune.lora.section import LoraSection
from imprint.tune.section import AnySection, FullSection, PrefixSection
from imprint.tune.tuner import build_tuner
from tests.forecast.shapes import DEPTH, FAMILIES, chatglm, texts

METHODS: dict[str, AnySection] = {
    "prefix": PrefixSection(length=16, start="random", prefix_dropout=0.1),
    "lora": LoraSection(method="lora", rank=4, dropout=0.1),
    "full": FullSection(method="full"),
}


def kept_by_autograd(setting: Setting, rows: int) -> int:
    """Bytes that autograd really keeps on the CPU up to the head, and those of the hidden states; each storage counts once."""
    torch.manual_seed(0)
    network = setting.build().requires_grad_(requires_grad=False).eval()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.normal_(std=0.02)
    tuner = build_tuner(network, setting.tune, lambda _: [0], checkpointing=setting.checkpointing).train()
    own = {tensor.untyped_storage().data_ptr() for tensor in (*tuner.parameters(), *tuner.buffers())}
    own |= {parameter.untyped_storage().data_ptr() for parameter in tuner.trainable_parameters().values()}
    sizes: dict[int, int] = {}
    batch = pack([ids for ids, _ in texts(rows)], network, [labels for _, labels in texts(rows)])
    own |= {tensor.untyped_storage().data_ptr() for tensor in vars(batch).values() if isinstance(tensor, Tensor)}

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    prefix = None if tuner.adapter is None else tuner.adapter.prefix
    with gpu_kernels(), saved_tensors_hooks(keep, lambda tensor: tensor):
        pairs = None if prefix is None else prefix(network.dtype, training=True)
        hidden = network(batch, prefix=pairs, checkpointing=setting.checkpointing)
    keep(hidden)
    for pair in pairs or ():
        for tensor in pair:
            keep(tensor)
    return sum(size for pointer, size in sizes.items() if pointer not in own)


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_activations_are_those_that_autograd_keeps(family: str, method: str, *, checkpointing: bool) -> None:
    setting = Setting(FAMILIES[family], METHODS[method], checkpointing)
    # transformers holds the tables of its rotary embedding outside of autograd while blocks are recomputed
    tolerance = 0.1 if family == "Qwen3" and checkpointing else 0.03
    assert dry_run(setting, DEPTH, texts(8)).kept == pytest.approx(kept_by_autograd(setting, 8), rel=tolerance)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("bits", [None, 4, 8])
def test_dtype_and_weight_format_count(bits: int | None, dtype: torch.dtype) -> None:
    weight_format = None if bits is None else RowInt(bits)  # type: ignore[arg-type]
    build: Callable[[], Network] = partial(chatglm, weight_format, dtype)
    setting = Setting(build, METHODS["prefix"], checkpointing=False)
    if bits is None:
        assert dry_run(setting, DEPTH, texts(8)).kept == pytest.approx(kept_by_autograd(setting, 8), rel=0.03)
    assert base_size(build).depth == DEPTH
    assert base_size(build).weights == sum(tensor.nbytes for tensor in build().state_dict().values())


def test_few_blocks_tell_what_many_take() -> None:
    """The peak of a deep network, computed whole, is that which follows from two and four blocks."""
    for method in METHODS.values():
        for checkpointing in (False, True):
            setting = Setting(chatglm, method, checkpointing, accumulates=True)
            whole = _run(setting, texts(8), DEPTH)
            derived = dry_run(setting, DEPTH, texts(8))
            assert derived.peak.total() == pytest.approx(whole.peak.total(), rel=0.01)
            assert derived.kernels.total() == pytest.approx(whole.kernels.total(), rel=0.01)
            assert (derived.trained, derived.trained_bytes) == (whole.trained, whole.trained_bytes)


def test_blocks_that_a_weight_format_leaves_plain_count_as_such() -> None:
    setting = Setting(partial(chatglm, Fp8(), torch.bfloat16), METHODS["lora"], checkpointing=False, fused_attention=True, fp8=True)

    whole, derived = _run(setting, texts(8), DEPTH), dry_run(setting, DEPTH, texts(8))

    assert derived.kernels == whole.kernels
    assert derived.peak.total() == pytest.approx(whole.peak.total(), rel=0.01)


def test_checkpointing_keeps_less_with_any_attention() -> None:
    kept = {
        (checkpointing, fused): dry_run(Setting(chatglm, METHODS["prefix"], checkpointing, fused_attention=fused), DEPTH, texts(8)).kept
        for checkpointing in (False, True)
        for fused in (False, True)
    }
    assert kept[True, False] < kept[False, False] / 2
    assert kept[True, True] < kept[False, True] / 2
    assert kept[True, True] == pytest.approx(kept[True, False], rel=0.1)
