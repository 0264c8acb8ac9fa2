from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import imprint
from imprint.inference.decode_batch import DecodeBatch
from imprint.kernels import available
from imprint.models import rotary, step_fusion
from imprint.models.attention import ForwardContext
from imprint.models.decode_attention import DecodeAttention
from imprint.models.network import Network
from imprint.models.packed_attention import PackedAttention
from imprint.models.step_fusion import FusedStep, computed
from imprint.pack import pack
from imprint.quant import dense, scaled_matmul
from imprint.quant.dense import choose_kernels
from imprint.quant.fp8 import Fp8
from imprint.quant.linear import QuantizedLinear, prepare_backward
from tests.bases import FAMILIES, base_of
from tests.cases import difference, small_chatglm2, small_network
from tests.inference.reference import short_prompts
from tests.interpreted import use_interpreter


@pytest.fixture(autouse=True)
def _interpreter() -> None:
    use_interpreter()


def logits(network: Network, prompts: list[list[int]], mode: FusedStep | None) -> torch.Tensor:
    """Those of a step after these prompts."""
    with torch.inference_mode():
        batch = DecodeBatch(network)
        batch.join(prompts, 4)
        tokens = torch.arange(len(prompts)) + 1
        if mode is None:
            return batch.step(tokens)
        with mode:
            return batch.step(tokens)


class PackedRows(PackedAttention):
    """The kernels, on any device."""

    def supports(self, context: ForwardContext) -> bool:
        return context.cache is None

    @staticmethod
    def computes(head_dim: int, device: torch.device, dtype: torch.dtype) -> bool:
        return True


def gradients(
    network: Network, trained: Sequence[Tensor] = (), *, fused: bool, checkpointing: bool = False
) -> tuple[list[Tensor], FusedStep | None]:
    """Hidden states of two rows, and the gradients of a prefix and of what else is trained; and the mode that computed them."""
    torch.manual_seed(0)
    shape = (3, network.shape.num_kv_heads, network.shape.head_dim)
    prefix = [(torch.randn(shape, requires_grad=True), torch.randn(shape, requires_grad=True)) for _ in range(network.shape.num_layers)]
    mode = FusedStep(everywhere=True, gates=network.gates) if fused else None
    network.fusion = lambda *_: mode  # type: ignore[method-assign]
    hidden = network(pack([[1, 2, 3, 4, 5], [3, 1, 2]], network), prefix=prefix, checkpointing=checkpointing)
    wanted = [tensor for pair in prefix for tensor in pair] + list(trained)
    return [hidden.detach(), *torch.autograd.grad(hidden, wanted, torch.randn_like(hidden))], mode


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_step_gives_the_same_logits(tmp_path: Path, family: str, rows: int) -> None:
    network = imprint.load(base_of(family, tmp_path / "base", std=0.3), device="cpu").network
    prompts = [imprint.load(tmp_path / "base", device="cpu").prompt("这件上衣的颜色是白"[: 3 + row]) for row in range(rows)]
    mode = FusedStep(everywhere=True)

    assert difference(logits(network, prompts, mode), logits(network, prompts, None)) < 1e-4


@pytest.mark.parametrize(("network", "fused"), [(small_network(), 2 * 2), (small_chatglm2(), 2 * 2 + 2)], ids=["1", "2"])
def test_norms_behind_sums_and_gates_are_one_kernel_each(network: Network, fused: int) -> None:
    mode = FusedStep(everywhere=True)
    prompts = short_prompts(small_network())[:2]

    logits(network, prompts, mode)

    assert mode.fused == fused


@pytest.mark.parametrize(("make", "fused"), [(small_network, 2), (small_chatglm2, 0)])
def test_products_of_one_token_that_wait_for_a_gelu_give_the_same_logits(
    make: Callable[[], Network], fused: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, prompts = make(), short_prompts(small_network())[:1]
    expected = logits(network, prompts, None)
    choose_kernels(network, "auto")
    monkeypatch.setattr(available, "usable", lambda *_, **__: True)
    monkeypatch.setattr(dense, "_on_gpu", lambda _: True)
    modes = []
    for on in (True, False):
        monkeypatch.setattr(step_fusion, "PRODUCTS_WITH_GELU", on)
        modes.append(FusedStep(everywhere=True))
        assert difference(computed(logits(network, prompts, modes[-1])), expected) < 1e-4

    assert modes[0].fused - modes[1].fused == fused


class TestTraining:
    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("family", FAMILIES)
    def test_a_pass_gives_the_same_hidden_states_and_gradients(self, tmp_path: Path, family: str, checkpointing: bool) -> None:  # noqa: FBT001
        network = imprint.load(base_of(family, tmp_path / "base", std=0.3), device="cpu").network.requires_grad_(requires_grad=False)
        expected, _ = gradients(network, fused=False, checkpointing=checkpointing)

        found, mode = gradients(network, fused=True, checkpointing=checkpointing)

        assert all(difference(one, other) < 1e-4 for one, other in zip(found, expected, strict=True))
        assert mode is not None
        assert mode.fused >= network.shape.num_layers

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_two_products_of_fp8_and_gelu_are_one_operation(self, monkeypatch: pytest.MonkeyPatch, *, checkpointing: bool) -> None:
        monkeypatch.setattr(scaled_matmul, "_usable", lambda _: True)
        monkeypatch.setattr(scaled_matmul, "DTYPES", {torch.float32})
        network = small_network()
        _, plain = gradients(network, fused=True, checkpointing=checkpointing)
        for name, linear in [*network.named_modules()]:
            if isinstance(linear, nn.Linear):
                fp8 = QuantizedLinear(linear.in_features, linear.out_features, Fp8())
                fp8.tensors, fp8.bias = Fp8().quantize(linear.weight), linear.bias
                network.set_submodule(name, fp8)
        prepare_backward(network, torch.float32)
        expected, _ = gradients(network, fused=False, checkpointing=checkpointing)

        found, mode = gradients(network, fused=True, checkpointing=checkpointing)

        assert mode is not None
        assert plain is not None
        assert mode.fused == plain.fused + 2
        assert all(difference(one, other) < 0.05 * float(other.abs().max()) for one, other in zip(found, expected, strict=True))

    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize(("make", "fused"), [(small_network, 2 * 3), (small_chatglm2, 2 * 4)])
    def test_attention_by_kernels_takes_and_gives_the_parts_of_one_tensor(
        self, make: Callable[[], Network], fused: int, *, checkpointing: bool
    ) -> None:
        network = make()
        network.attention_backends = (PackedRows(), *network.attention_backends)
        expected, _ = gradients(network, fused=False, checkpointing=checkpointing)

        found, mode = gradients(network, fused=True, checkpointing=checkpointing)

        assert all(difference(one, other) < 1e-4 for one, other in zip(found, expected, strict=True))
        assert mode is not None
        assert mode.fused == (fused - 1 if checkpointing else fused)  # the sum at the end of a block is then computed there

    @pytest.mark.parametrize("make", [small_network, small_chatglm2])
    def test_trained_norms_get_their_gradients(self, make: Callable[[], Network]) -> None:
        network = make()
        for module in network.modules():
            if isinstance(module, torch.nn.LayerNorm | torch.nn.RMSNorm):
                module.requires_grad_(requires_grad=True)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        expected, _ = gradients(network, trained, fused=False)

        found, _ = gradients(network, trained, fused=True)

        assert all(difference(one, other) < 1e-4 for one, other in zip(found, expected, strict=True))

    def test_only_passes_with_gradients_of_a_network_that_asks_for_it_are_computed_so(self) -> None:
        network = small_network()
        assert network.fusion(None, None) is None
        network.fuses_training = True
        assert network.fusion(None, None) is not None
        assert network.fusion(None, []) is None
        with torch.no_grad():
            assert network.fusion(None, None) is None
        network.use_kernels("plain")
        assert network.fusion(None, None) is None


@pytest.mark.parametrize("network", [small_network(), small_chatglm2()], ids=["1", "2"])
def test_attention_rotates_queries_and_keys_itself(monkeypatch: pytest.MonkeyPatch, network: Network) -> None:
    prompts = short_prompts(small_network())[:3]
    wanted = logits(network, prompts, None)
    monkeypatch.setattr(DecodeAttention, "supports", lambda self, context: context.cache is not None and len(context.pack.ids) == 3)
    monkeypatch.setattr(rotary.PendingRotation, "_compute", lambda self: pytest.fail("they are rotated alone"))

    assert difference(logits(network, prompts, FusedStep(everywhere=True)), wanted) < 1e-4


def test_heads_are_rotated_where_no_attention_does_it() -> None:
    x, cos, sin = torch.randn(3, 2, 8), *torch.randn(2, 3, 8)
    wanted = rotary.rotate(x, cos, sin, 2)
    with torch.no_grad(), FusedStep(everywhere=True):
        turned = rotary.rotate(x, cos, sin, 2)
        assert "PendingRotation" in repr(type(turned))
        x += 1

        assert difference(turned.flatten(1), wanted.flatten(1)) == 0


class TestSums:
    def test_they_are_computed_where_no_norm_follows(self) -> None:
        x, y = torch.randn(2, 3, 4).unbind(0)
        with FusedStep(everywhere=True):
            total = x * 2.0 + y
            assert difference(torch.cat([total, y]), torch.cat([x * 2 + y, y])) < 1e-6
            assert difference(total[0] + total.mean(), (x * 2 + y)[0] + (x * 2 + y).mean()) < 1e-6

    def test_a_tensor_that_changes_later_does_not_change_them(self) -> None:
        x, y = torch.randn(2, 3, 4).unbind(0)
        expected = x + y
        with FusedStep(everywhere=True):
            total = x + y
            y += 1

            assert difference(total.clone(), expected) == 0
