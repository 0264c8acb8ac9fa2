import json
from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import imprint
from imprint.engine.engine import Engine
from imprint.engine.section import OptimizerSection
from imprint.models import vocabulary
from imprint.models.network import Network
from imprint.models.vocabulary import reduce_vocabulary_memory
from imprint.pack import Pack, pack
from imprint.quant.linear import QuantizedLinear
from imprint.quant.names import FormatName
from imprint.training.graphs import Compute, GradientGraphs, graphs_for, refusal
from imprint.training.pack_sizes import rounded_up
from imprint.tune.lora.section import LoraSection
from imprint.tune.prefix import PrefixEncoder
from imprint.tune.section import AnySection, FullSection, PrefixSection
from imprint.tune.tuner import Tuner, build_tuner
from tests.cases import CHATGLM2_TUNED, TUNED, Case, difference, ends, small_chatglm2, small_network, without_padding
from tests.conftest import ROOT
from tests.exact import exact_loss, exact_twin

SECTIONS: list[AnySection] = [PrefixSection(length=3, prefix_dropout=0.0), LoraSection(method="lora", rank=2), FullSection(method="full")]
LENGTHS = ((9, 4), (6, 3), (12, 7))
"""Tokens and scored tokens of the rows."""


def tuner_of(section: AnySection, network: Network | None = None) -> Tuner:
    torch.manual_seed(0)
    return build_tuner(network or small_chatglm2(), section, lambda text: [1], checkpointing=False).train()


def batch(network: Network, seed: int, lengths: tuple[tuple[int, int], ...] = LENGTHS, weight: float | None = None) -> Pack:
    generator = torch.Generator().manual_seed(seed)
    rows = [torch.randint(3, 30, (tokens,), generator=generator).tolist() for tokens, _ in lengths]
    labels = [[-100] * (tokens - scored) + row[tokens - scored :] for (tokens, scored), row in zip(lengths, rows, strict=True)]
    return pack(rows, network, labels, None if weight is None else [weight] * len(rows))


def gradients(tuner: Tuner) -> list[Tensor]:
    return [torch.zeros_like(one) if one.grad is None else one.grad.clone() for one in tuner.trainable_parameters().values()]


def clear(tuner: Tuner) -> None:
    for parameter in tuner.trainable_parameters().values():
        parameter.grad = None


class Repeat:
    """In place of a CUDA graph: computes again over the same tensors."""

    def __call__(self, compute: Compute) -> Compute:
        return compute


class Fails:
    """A capture that is refused."""

    def __init__(self, message: str) -> None:
        self.message = message

    def __call__(self, compute: Compute) -> Compute:
        raise RuntimeError(f"{self.message}\nand more")


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: str(section.method))
@pytest.mark.parametrize("make", [small_network, small_chatglm2])
def test_rows_that_fill_a_pack_up_change_no_loss_and_no_gradient(section: AnySection, make: Callable[[], Network]) -> None:
    tuner = tuner_of(section, make())
    plain = batch(tuner.network, 1)

    losses, grads = [], []
    for one in (plain, plain.padded(64, 32)):
        clear(tuner)
        loss = tuner(one)
        loss.backward()
        losses.append(loss.detach())
        grads.append(gradients(tuner))

    assert difference(losses[0], losses[1]) < 1e-4
    assert all(difference(a, b) < 1e-5 * max(1.0, float(b.abs().max())) for a, b in zip(*grads, strict=True))


@pytest.mark.parametrize("section", SECTIONS, ids=lambda section: str(section.method))
def test_repeated_passes_add_the_gradients_of_every_batch(section: AnySection) -> None:
    tuner = tuner_of(section)
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)
    batches = [batch(tuner.network, seed, weight=weight) for seed, weight in enumerate((0.5, 2.0, None, 3.0))]
    assert graphs.add_gradients(batches[0]) is None  # the first of a size is computed as it is

    for step in ((0, 1), (2, 3)):
        clear(tuner)
        losses = [graphs.add_gradients(batches[number]) for number in step]
        found = gradients(tuner)
        clear(tuner)
        expected = [tuner(batches[number]) for number in step]
        torch.stack(expected).sum().backward()

        assert all(a is not None and difference(a, b) < 1e-4 for a, b in zip(losses, expected, strict=True))
        assert all(difference(a, b) < 1e-5 for a, b in zip(found, gradients(tuner), strict=True))
    assert graphs.captures == 1


def test_gradients_that_are_there_already_are_kept() -> None:
    tuner = tuner_of(SECTIONS[0])
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)
    first, second = (batch(tuner.network, seed) for seed in (1, 2))
    graphs.add_gradients(first)
    (tuner(first) + tuner(second)).backward()
    expected = gradients(tuner)
    clear(tuner)

    tuner(first).backward()
    graphs.add_gradients(second)

    assert all(difference(a, b) < 1e-5 for a, b in zip(gradients(tuner), expected, strict=True))


def test_a_larger_size_replaces_the_smaller_ones() -> None:
    tuner = tuner_of(SECTIONS[0])
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)
    small, large = batch(tuner.network, 1), batch(tuner.network, 1, ((200, 4),))

    for one in (small, small, large, large, small, small):
        graphs.add_gradients(one)

    assert graphs.captures == 3


def test_a_refused_capture_leaves_every_pass_as_it_is() -> None:
    tuner = tuner_of(SECTIONS[0])
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), lambda: Fails("operation not permitted when stream is capturing"))
    one = batch(tuner.network, 1)

    assert [graphs.add_gradients(one) for _ in range(3)] == [None] * 3
    assert graphs.failure == "operation not permitted when stream is capturing"
    assert graphs.captures == 0
    notice = graphs.failure_notice()
    assert notice is not None
    assert "not permitted when stream is capturing" in notice.english
    assert graphs.failure_notice() is None  # told once
    assert not any(gradient.any() for gradient in gradients(tuner))


class FailsLater:
    """A capture that is refused but for the first time, until `mended`."""

    def __init__(self) -> None:
        self.calls = 0
        self.mended = False

    def __call__(self, compute: Compute) -> Compute:
        self.calls += 1
        if self.calls > 1 and not self.mended:
            raise RuntimeError("operation not permitted when stream is capturing")
        return compute


def test_after_the_first_graph_the_first_pack_of_a_size_makes_its_own() -> None:
    tuner = tuner_of(SECTIONS[0])
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)
    large, small = batch(tuner.network, 1, ((200, 4),)), batch(tuner.network, 1)
    graphs.add_gradients(large)
    graphs.add_gradients(large)
    clear(tuner)

    loss = graphs.add_gradients(small)

    assert graphs.captures == 2
    assert loss is not None
    found = gradients(tuner)
    clear(tuner)
    expected = tuner(small)
    expected.backward()
    assert difference(loss, expected) < 1e-4
    assert all(difference(a, b) < 1e-5 for a, b in zip(found, gradients(tuner), strict=True))


def test_a_size_that_cannot_be_captured_at_once_is_captured_when_it_comes_again() -> None:
    tuner, capture = tuner_of(SECTIONS[0]), FailsLater()
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), lambda: capture)
    large, small = batch(tuner.network, 1, ((200, 4),)), batch(tuner.network, 1)
    graphs.add_gradients(large)
    graphs.add_gradients(large)

    assert graphs.add_gradients(small) is None  # computed as it is
    capture.mended = True
    assert graphs.add_gradients(small) is not None
    assert graphs.failure is None
    assert graphs.failure_notice() is None


def test_what_is_cached_is_freed_before_a_graph_and_its_tensors_are_made(monkeypatch: pytest.MonkeyPatch) -> None:
    tuner, order = tuner_of(SECTIONS[0]), list[str]()
    monkeypatch.setattr("imprint.training.graphs.free_cached_memory", lambda _: order.append("freed"))
    monkeypatch.setattr(GradientGraphs, "_keep_gradients", lambda _, writes: order.append("gradients"))

    def capture(compute: Compute) -> Compute:
        order.append("captured")
        return compute

    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), lambda: capture)
    for one in (batch(tuner.network, 1), batch(tuner.network, 2)):
        graphs.add_gradients(one)

    assert order == ["freed", "gradients", "captured"]


def test_a_lack_of_memory_is_told_to_the_caller() -> None:
    tuner = tuner_of(SECTIONS[0])
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), lambda: Fails("CUDA out of memory"))
    one = batch(tuner.network, 1)
    graphs.add_gradients(one)

    with pytest.raises(RuntimeError, match="out of memory"):
        graphs.add_gradients(one)


def test_a_cpu_repeats_nothing() -> None:
    assert graphs_for(tuner_of(SECTIONS[0])) is None


def test_every_parameter_keeps_its_gradient_tensor() -> None:
    tuner = tuner_of(SECTIONS[2])
    parameters: list[nn.Parameter] = list(tuner.trainable_parameters().values())
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)
    one = batch(tuner.network, 1)
    graphs.add_gradients(one)

    graphs.add_gradients(one)
    before = [parameter.grad for parameter in parameters]
    clear(tuner)
    graphs.add_gradients(one)

    assert all(parameter.grad is gradient for parameter, gradient in zip(parameters, before, strict=True))


def test_an_epoch_of_real_row_lengths_needs_few_graphs() -> None:
    lengths = json.loads((ROOT / "benchmarks" / "adgen_lengths.json").read_text(encoding="utf-8"))
    order = torch.randperm(len(lengths), generator=torch.Generator().manual_seed(0)).tolist()
    by_length = sorted(range(len(lengths)), key=lambda row: lengths[row][0])

    for rows, most in ((order, 16), (by_length, 30)):
        batches = [[lengths[row] for row in rows[start : start + 16]] for start in range(0, len(rows), 16)]
        sizes = {
            tuple(rounded_up(sum(row[kind] - kind for row in batch)) for kind in (0, 1)) for batch in batches
        }  # scored tokens but the first of a row

        assert len(sizes) <= most


def test_a_run_says_how_many_graphs_it_made() -> None:
    tuner = tuner_of(SECTIONS[0])
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)
    for _ in range(3):
        graphs.add_gradients(batch(tuner.network, 1))

    assert graphs.summary().english == "CUDA graphs made: 1; sizes of packs: 1"


def test_a_network_with_plain_attention_is_refused_with_the_reason() -> None:
    told = refusal(tuner_of(SECTIONS[0]))

    assert told is not None
    assert told.english == "attention is computed by PyTorch: there is no NVIDIA GPU"


def test_the_reason_is_the_one_that_keeps_the_kernel_from_running(monkeypatch: pytest.MonkeyPatch) -> None:
    tuner = tuner_of(SECTIONS[0])
    tuner.network.use_kernels("plain")
    assert "model.kernels is plain" in str(refusal(tuner))
    tuner.network.use_kernels("auto")
    monkeypatch.setattr(type(tuner.network), "device", property(lambda _network: torch.device("cuda", 0)))
    assert "the kernels compute in 16 bits, not in float32" in str(refusal(tuner))


def test_a_pass_that_is_all_of_its_step_writes_the_gradients_that_adding_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.training.graphs.WRITTEN_FROM_BYTES", 0)
    tuner = tuner_of(SECTIONS[2])
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)
    batches = [batch(tuner.network, seed) for seed in range(4)]
    graphs.add_gradients(batches[0])

    found = []
    for whole in (True, False):
        for one in batches[1:]:  # each is a step, in which what the step before it has left does not count
            clear(tuner)
            assert graphs.add_gradients(one, whole=whole) is not None
            found.append(gradients(tuner))

    for written, added in zip(found[:3], found[3:], strict=True):
        assert all(torch.equal(a, b) for a, b in zip(written, added, strict=True))
    assert graphs.captures == 2


def test_gradients_that_are_there_are_added_to_and_never_written_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.training.graphs.WRITTEN_FROM_BYTES", 0)
    tuner = tuner_of(SECTIONS[2])
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)
    one = batch(tuner.network, 1)
    for _ in range(2):
        graphs.add_gradients(one)
    clear(tuner)

    for _ in range(2):
        graphs.add_gradients(one, whole=True)
    twice = gradients(tuner)
    clear(tuner)
    graphs.add_gradients(one, whole=True)

    assert all(torch.allclose(a, 2 * b) for a, b in zip(twice, gradients(tuner), strict=True))


def test_where_writing_cannot_be_captured_the_pass_is_computed_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.training.graphs.WRITTEN_FROM_BYTES", 0)
    tuner = tuner_of(SECTIONS[2])
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), lambda: Fails("not permitted"))
    one = batch(tuner.network, 1)

    assert [graphs.add_gradients(one, whole=True) for _ in range(2)] == [None, None]
    assert graphs.failure == "not permitted"
    assert all(parameter.grad is None for parameter in tuner.trainable_parameters().values())


def test_rows_of_an_embedding_in_main_memory_are_placed_before_each_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "has_own_memory", lambda _: True)
    network, plain = small_chatglm2(), tuner_of(SECTIONS[0])
    reduce_vocabulary_memory(network, quantize_head=False, embedding_on_host=True)
    tuner = tuner_of(SECTIONS[0], network)
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)
    for seed in range(3):
        clear(tuner)
        clear(plain)
        one = batch(network, seed)
        loss = graphs.add_gradients(one)
        if loss is None:
            continue
        expected = plain(one)
        expected.backward()

        assert difference(loss, expected) < 1e-4
        assert all(difference(a, b) < 1e-5 for a, b in zip(gradients(tuner), gradients(plain), strict=True))
    assert graphs.captures == 1


@pytest.mark.long
@pytest.mark.parametrize("checkpointing", [False, True])
def test_twenty_captured_steps_are_those_of_the_original(checkpointing: bool) -> None:  # noqa: FBT001
    case = Case("chatglm1-ptuning")
    expected = json.loads((case.folder / "trajectory.json").read_text(encoding="utf-8"))
    tensors = load_file(case.folder / "trajectory.safetensors")
    model = case.load()
    assert isinstance(model.adapter, PrefixEncoder)
    model.network.double(), model.adapter.double()  # as the uncaptured steps are compared
    tuner = Tuner(model.network, SECTIONS[0], model.adapter, checkpointing=checkpointing).train()
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)
    section = OptimizerSection(learning_rate=0.02, schedule="linear", warmup_steps=0, clip=1.0)
    engine = Engine.start(tuner, tuner.trainable_parameters(), section, 20, device=torch.device("cpu"))

    losses, captured = [], 0
    for step in range(20):
        rows = without_padding(tensors[f"input_ids_{step}"])
        one = golden_rows(tuner.network, rows, ends(tensors[f"labels_{step}"], rows))
        loss = graphs.add_gradients(one)
        captured += loss is not None
        if loss is None:
            loss = tuner(one)
            engine.backward(loss, last=True)
        losses.append(float(loss.detach()))
        engine.update(step + 1, apply=True)

    assert captured >= 19
    assert difference(torch.tensor(losses), torch.tensor(expected["losses"])) <= 1e-4
    assert difference(model.adapter.embedding.weight, tensors["prefix"]) <= 1e-4


def golden_rows(network: Network, rows: list[list[int]], labels: list[list[int]]) -> Pack:
    """Rows whose loss is the mean over their targets."""
    targets = pack(rows, network, labels).target_tokens
    return pack(rows, network, labels, [1 / targets] * len(rows))


@pytest.mark.parametrize("name", [*TUNED, *CHATGLM2_TUNED])
def test_a_captured_pass_has_the_golden_gradients(name: str) -> None:
    case = Case(name)
    model = case.load()
    assert isinstance(model.adapter, PrefixEncoder)
    tuner = Tuner(model.network, SECTIONS[0], model.adapter, checkpointing=False).eval()
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)
    one = golden_rows(tuner.network, case.rows, case.labels)

    graphs.add_gradients(one)
    loss = graphs.add_gradients(one)

    assert loss is not None
    assert difference(loss, case.expected["loss"]) <= 1e-4
    for key, parameter in tuner.trainable_parameters().items():
        gradient = case.expected[f"grad.{key}"]
        assert parameter.grad is not None
        assert difference(parameter.grad, gradient) <= 1e-4 * float(gradient.abs().max())


@pytest.mark.parametrize("section", SECTIONS[:2], ids=lambda section: str(section.method))
@pytest.mark.parametrize("name", ["chatglm1-base", "chatglm2-base"])
@pytest.mark.parametrize(("quantize", "checkpointing"), [(4, False), (4, True), ("int4-g128", False)])
def test_gradients_of_a_whole_int4_pass_are_those_of_autograd_in_float64(
    name: str,
    quantize: FormatName,
    section: AnySection,
    checkpointing: bool,  # noqa: FBT001
) -> None:
    case = Case(name)
    tuner = build_tuner(
        imprint.load(case.folder, quantize=quantize, dtype="float32", device="cpu").network,
        section,
        lambda text: [1],
        checkpointing=checkpointing,
    ).train()
    assert any(isinstance(module, QuantizedLinear) for module in tuner.network.modules())
    for parameter in tuner.trainable_parameters().values():
        torch.nn.init.normal_(parameter, std=0.1)  # lora_b begins with zeros, which have no gradient for lora_a
    one = batch(tuner.network, 1)
    twin = exact_twin(tuner)
    expected_loss = exact_loss(twin, one)
    expected_loss.backward()
    graphs = GradientGraphs(tuner, tuner.trainable_parameters(), Repeat)

    graphs.add_gradients(one)
    loss = graphs.add_gradients(one)

    assert loss is not None
    assert difference(loss, expected_loss) <= 1e-5 * float(expected_loss.detach())
    for found, expected in zip(gradients(tuner), gradients(twin), strict=True):
        assert expected.abs().max() > 0
        assert difference(found, expected) <= 2e-4 * float(expected.abs().max())
