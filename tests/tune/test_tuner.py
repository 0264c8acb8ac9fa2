import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

import imprint
from imprint.engine.engine import Engine
from imprint.engine.section import OptimizerSection
from imprint.messages import UserError
from imprint.models.families import read_config
from imprint.models.network import Network
from imprint.pack import Pack, pack
from imprint.tokenizers import read_tokenizer
from imprint.tune.adapter import PrefixMetadata
from imprint.tune.prefix import PrefixEncoder, PrefixShape, init_prefix
from imprint.tune.section import FullSection, PrefixSection
from imprint.tune.tuner import Tuner, build_tuner
from tests.cases import CHATGLM2_TUNED, GOLDEN, TUNED, Case, difference, ends, prompt, small_network, without_padding
from tests.tiny import tiny_base
from tests.tune.lora.steps import no_text

CPU = torch.device("cpu")
PREFIX = PrefixSection(length=4, start="random")
FULL = FullSection(method="full")


def batch(network: Network) -> Pack:
    rows = [[*prompt(network, 1, 2, 3), 4, 5], [*prompt(network, 6), 7]]
    return pack(rows, network, [[-100] * (len(row) - 2) + row[-2:] for row in rows])


def prefix_tuner(network: Network, *, dropout: float = 0.0, checkpointing: bool = False, original_file: bool = False) -> Tuner:
    encoder = init_prefix(network, PrefixShape.from_network(network, 4, projection=False), "random", [])
    section = PrefixSection(length=4, start="random", prefix_dropout=dropout, original_file=original_file)
    return Tuner(network, section, encoder, checkpointing=checkpointing)


def full_tuner(network: Network) -> Tuner:
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    return Tuner(network, FULL, None, checkpointing=False)


def train(tuner: Tuner, packs: Iterable[Pack], section: OptimizerSection, steps: int) -> list[float]:
    """Optimizer steps on the mean over each pack's targets; the losses before each."""
    engine = Engine.start(tuner, tuner.trainable_parameters(), section, steps, device=CPU)
    losses = []
    for step, one in enumerate(packs, start=1):
        loss = tuner.train()(one) / one.target_tokens
        engine.backward(loss, last=True)
        losses.append(float(loss.detach()))
        engine.update(step, apply=True)
    return losses


class Products(TorchDispatchMode):
    """Records the shapes of all matrix products inside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.shapes: set[tuple[int, ...]] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        if "mm" in func.__name__:
            self.shapes.add(tuple(out.shape))
        return out


class TestTrajectory:
    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_twenty_steps_are_those_of_the_original(self, checkpointing: bool) -> None:  # noqa: FBT001
        case = Case("chatglm1-ptuning")
        expected = json.loads((case.folder / "trajectory.json").read_text())
        tensors = load_file(case.folder / "trajectory.safetensors")
        model = case.load()
        assert isinstance(model.adapter, PrefixEncoder)
        # in fp32, Adam turns the rounding of one tiny gradient into 1.3e-4 on some processors
        model.network.double(), model.adapter.double()
        tuner = Tuner(model.network, PrefixSection(length=4, start="random"), model.adapter, checkpointing=checkpointing)
        packs = [golden_pack(model.network, tensors[f"input_ids_{step}"], tensors[f"labels_{step}"]) for step in range(20)]

        losses = train(tuner, packs, OptimizerSection(learning_rate=0.02, schedule="linear", warmup_steps=0, clip=1.0), 20)

        assert difference(torch.tensor(losses), torch.tensor(expected["losses"])) <= 1e-4
        assert difference(model.adapter.embedding.weight, tensors["prefix"]) <= 1e-4


def golden_pack(network: Network, ids: Tensor, labels: Tensor) -> Pack:
    rows = without_padding(ids)
    return pack(rows, network, ends(labels, rows))


class TestPrefix:
    def test_frozen_weights_get_no_gradient_and_do_not_move(self) -> None:
        network = small_network()
        before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
        tuner = prefix_tuner(network)
        prefix = next(iter(tuner.trainable_parameters().values())).detach().clone()

        losses = train(tuner, [batch(network)] * 5, OptimizerSection(learning_rate=0.05, warmup_steps=0), 5)

        assert losses[-1] < losses[0]
        assert all(parameter.grad is None for parameter in network.parameters())
        assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
        assert difference(next(iter(tuner.trainable_parameters().values())), prefix) > 0.01

    def test_no_gradient_of_a_frozen_weight_is_computed(self) -> None:
        computed = []
        for trained in (prefix_tuner(small_network()), full_tuner(small_network())):
            sizes = {tuple(parameter.shape) for parameter in trained.network.parameters() if parameter.dim() == 2}
            with Products() as products:
                trained.train()(batch(trained.network)).backward()
            computed.append(bool(products.shapes & (sizes | {size[::-1] for size in sizes})))

        assert computed == [False, True]

    def test_only_the_prefix_is_trained(self) -> None:
        tuner = prefix_tuner(small_network())

        assert list(tuner.trainable_parameters()) == ["transformer.prefix_encoder.embedding.weight"]
        assert [name for name, parameter in tuner.named_parameters() if parameter.requires_grad] == ["adapter.embedding.weight"]

    def test_the_loss_is_a_sum_over_targets(self) -> None:
        network = small_network()
        tuner = prefix_tuner(network).eval()
        rows = [[*prompt(network, 1, 2, 3), 4, 5], [*prompt(network, 6), 7]]
        labels = [[-100] * 5 + [4, 5], [-100] * 3 + [7]]

        together = tuner(pack(rows, network, labels))
        alone = [tuner(pack([row], network, [label])) for row, label in zip(rows, labels, strict=True)]

        assert difference(together, alone[0] + alone[1]) < 1e-4

    def test_checkpointing_changes_no_gradient(self) -> None:
        gradients = []
        for checkpointing in (False, True):
            network = small_network()
            tuner = prefix_tuner(network, checkpointing=checkpointing).train()
            tuner(batch(network)).backward()
            gradients.append(tuner.trainable_parameters()["transformer.prefix_encoder.embedding.weight"].grad)

        assert gradients[0] is not None
        assert gradients[1] is not None
        assert difference(gradients[0], gradients[1]) <= 1e-6 * float(gradients[0].abs().max())

    def test_checkpointing_drops_the_same_prefix_in_both_passes(self) -> None:
        gradients = []
        for checkpointing in (False, True):
            network = small_network()
            tuner = prefix_tuner(network, dropout=0.5, checkpointing=checkpointing).train()
            torch.manual_seed(3)
            tuner(batch(network)).backward()
            gradients.append(tuner.trainable_parameters()["transformer.prefix_encoder.embedding.weight"].grad)

        assert gradients[0] is not None
        assert gradients[1] is not None
        assert (gradients[0] == 0).any()
        assert difference(gradients[0], gradients[1]) <= 1e-6 * float(gradients[0].abs().max())

    def test_dropout_acts_while_training_only(self) -> None:
        network = small_network()
        tuner = prefix_tuner(network, dropout=0.5)
        one = batch(network)

        assert len({float(tuner.train()(one).detach()) for _ in range(4)}) > 1
        assert len({float(tuner.eval()(one).detach()) for _ in range(4)}) == 1


class TestSaving:
    def test_the_originals_file_is_written_on_request_only(self, tmp_path: Path) -> None:
        case = Case("chatglm1-base")
        prefix_tuner(case.load().network).save(
            tmp_path / "adapter", base="", base_folder=case.folder, template="chatglm", step=1, scores={}
        )

        assert sorted(file.name for file in (tmp_path / "adapter").iterdir()) == ["adapter.json", "prefix.safetensors"]

    def test_a_prefix_is_saved_as_an_adapter_with_the_originals_file(self, tmp_path: Path) -> None:
        case = Case("chatglm1-base")
        model = case.load()
        tuner = prefix_tuner(model.network, original_file=True)

        tuner.save(tmp_path / "adapter", base="bases/tiny", base_folder=case.folder, template="chatglm", step=7, scores={"loss": 2.5})

        for adapter in (tmp_path / "adapter", tmp_path / "adapter" / "pytorch_model.bin"):
            tuned = imprint.load(case.folder, adapter=adapter, dtype="float32", device="cpu")
            assert isinstance(tuned.adapter, PrefixEncoder)
            assert torch.equal(tuned.adapter.embedding.weight, tuner.trainable_parameters()["transformer.prefix_encoder.embedding.weight"])
        description = imprint.load(case.folder, adapter=tmp_path / "adapter", device="cpu").description
        assert description is not None
        assert (description.base, description.step, description.scores, description.method_metadata) == (
            "bases/tiny",
            7,
            {"loss": 2.5},
            PrefixMetadata(4, False, "random"),
        )

    def test_full_tuning_saves_a_model_folder(self, tmp_path: Path) -> None:
        case = Case("chatglm1-base")
        network = case.load().network
        tuner = build_tuner(network, FULL, no_text, checkpointing=False)
        train(tuner, [golden_pack(network, case.expected["input_ids"], case.expected["labels"])] * 2, OptimizerSection(warmup_steps=0), 2)

        tuner.save(tmp_path / "model", base="base", base_folder=case.folder, template="chatglm", step=2, scores={})

        written = imprint.load(tmp_path / "model", dtype="float32", device="cpu").network
        assert all(torch.equal(tensor, written.state_dict()[name]) for name, tensor in network.state_dict().items())
        assert not torch.equal(written.head_weight, case.load().network.head_weight)


class TestStart:
    def test_a_text_start_reads_the_instruction(self, tmp_path: Path) -> None:
        folder = tiny_base(tmp_path / "base")
        network = imprint.load(folder, device="cpu").network
        tokenizer = read_tokenizer(folder, read_config(folder))
        assert tokenizer is not None

        tuner = build_tuner(network, PrefixSection(length=9, text="这件上衣"), tokenizer.encode, checkpointing=True)

        expected = init_prefix(network, PrefixShape.from_network(network, 9, projection=False), "text", tokenizer.encode("这件上衣"))
        assert isinstance(tuner.adapter, PrefixEncoder)
        assert torch.equal(tuner.adapter.embedding.weight, expected.embedding.weight)
        assert tuner.checkpointing

    @pytest.mark.parametrize("name", TUNED)
    def test_an_adapter_of_any_length_is_continued(self, name: str, tmp_path: Path) -> None:
        case = Case(name)
        assert case.adapter is not None
        expected = torch.load(case.adapter, weights_only=True)
        for adapter in (case.adapter, tmp_path / "again"):
            tuner = build_tuner(
                imprint.load(case.folder, device="cpu").network, PrefixSection(adapter=adapter), no_text, checkpointing=False
            )

            parameters = tuner.trainable_parameters()
            assert parameters.keys() == expected.keys()
            assert all(torch.equal(parameters[key], expected[key]) and parameters[key].requires_grad for key in parameters)
            tuner.save(tmp_path / "again", base="base", base_folder=case.folder, template="chatglm", step=0, scores={})
        description = imprint.load(case.folder, adapter=tmp_path / "again", device="cpu").description
        assert description is not None
        assert description.method_metadata.start == "adapter"

    @pytest.mark.parametrize(("knob", "sentence"), [("length", "9, but it is 4"), ("projection", "true, but it is false")])
    def test_an_adapter_that_differs_from_the_recipe_is_refused(self, knob: str, sentence: str) -> None:
        case = Case("chatglm1-ptuning")
        section = PrefixSection.model_validate({"adapter": case.adapter, knob: {"length": 9, "projection": True}[knob]})
        with pytest.raises(UserError, match=rf"tune\.{knob}: {sentence} in .*, which tune\.adapter names\. Leave tune\.{knob} out\."):
            build_tuner(case.load().network, section, no_text, checkpointing=False)

    def test_full_tuning_has_no_prefix(self) -> None:
        network = small_network()
        tuner = full_tuner(network)

        assert tuner.prefix() is None
        assert tuner.trainable_parameters().keys() == dict(network.named_parameters()).keys()

    def test_the_golden_folder_holds_both_kinds_of_prefix(self) -> None:
        assert sorted(path.parent.name for path in GOLDEN.glob("*/prefix_pytorch_model.bin")) == [*TUNED, *CHATGLM2_TUNED]
