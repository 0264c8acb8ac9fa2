import io
import sys
from pathlib import Path
from typing import Any, cast

import peft
import pytest
import torch
from torch import Tensor, nn

import imprint
from imprint.cli import main
from imprint.engine.engine import Engine
from imprint.files.atomic import read_jsonl
from imprint.loading.load import load_model
from imprint.loading.source import resolve_source
from imprint.messages import UserError
from imprint.model import Model
from imprint.models.checkpoint import load_network, save_network
from imprint.pack import pack
from imprint.quant.fp8 import Fp8
from imprint.quant.linear import QuantizedLinear, QuantizedWeight
from imprint.quant.names import FORMAT_NAMES, FormatName
from imprint.runs import RunFolder
from imprint.tune.lora.lora import LORA_B, PEFT_PREFIX, Lora
from imprint.tune.lora.section import LoraSection
from imprint.tune.lora.shape import LoraShape, shape_from_section
from imprint.tune.tuner import Tuner, build_tuner
from tests import reference_models
from tests.cases import GOLDEN, Case, difference, quantized_folder, small_fields, small_network, write_config
from tests.tinyrun import described, tiny_recipe, tiny_run
from tests.tinyrun import losses as run_losses
from tests.tune.lora.steps import PRECISIONS, QKV, base, golden_batch, greedy, lora_of, losses, scattered, tuner

KINDS: list[dict[str, object]] = [{}, {"targets": "all", "rslora": True}, {"dora": True}, {"start": "pissa"}, {"start": "olora"}]


def learned(precision: str, knobs: dict[str, object]) -> Lora:
    """A LoRA that has learned a little."""
    one = tuner(base(precision), section=LoraSection.model_validate({"method": "lora", "rank": 4, **knobs}))
    losses(one, golden_batch(one.network), 3)
    return scattered(lora_of(one), size=0.05)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_off_it_is_the_base_bit_for_bit_with_the_bases_names(precision: str) -> None:
    network = base(precision)
    batch = golden_batch(network)
    before, state = network(batch), {name: tensor.clone() for name, tensor in network.state_dict().items()}
    lora = scattered(Lora(network, shape_from_section(LoraSection(method="lora"), network)))

    assert difference(network(batch), before) > 0.01
    with lora.off():
        assert torch.equal(network(batch), before)
        assert network.state_dict().keys() == state.keys()
        assert all(torch.equal(tensor, state[name]) for name, tensor in network.state_dict().items())
        with lora.on():
            assert difference(network(batch), before) > 0.01
        with lora.off():
            assert torch.equal(network(batch), before)
        assert torch.equal(network(batch), before)
    assert difference(network(batch), before) > 0.01


def test_an_error_inside_the_block_attaches_it_again() -> None:
    network = base()
    lora = Lora(network, shape_from_section(LoraSection(method="lora"), network))

    with pytest.raises(ZeroDivisionError), lora.off():
        raise ZeroDivisionError

    assert network.get_submodule(QKV) is lora.layers[QKV]


@pytest.mark.parametrize("knobs", KINDS, ids=str)
def test_merged_it_answers_the_same(knobs: dict[str, object], tmp_path: Path) -> None:
    lora = learned("float32", knobs)
    network = lora.network
    batch = golden_batch(network)
    with torch.no_grad():
        before, answers = network(batch), greedy(network)

    lora.merge()

    assert difference(network(batch), before) <= 1e-3
    assert greedy(network) == answers
    assert network.state_dict().keys() == base().state_dict().keys()
    assert all(not parameter.requires_grad for parameter in network.parameters())
    save_network(network, Case("chatglm1-base").folder, tmp_path / "merged")
    assert greedy(load_network(tmp_path / "merged", dtype=torch.float32, device=torch.device("cpu"))) == answers


def test_merging_keeps_16_bits() -> None:
    lora = learned("bfloat16", {"targets": "all"})
    expected = {name: layer.merged_weight(layer.linear.weight) for name, layer in lora.layers.items()}

    lora.merge()

    for name, weight in expected.items():
        assert torch.equal(lora.network.get_parameter(f"{name}.weight"), weight.bfloat16())


@pytest.mark.parametrize("precision", ["INT8", "INT4"])
def test_quantized_weights_are_merged_on_request_only(precision: str) -> None:
    lora = learned(precision, {})
    network = lora.network
    batch = golden_batch(network)
    with torch.no_grad():
        before, answers = network(batch), greedy(network)

    with pytest.raises(
        UserError, match=rf"merge: the base has its weights in {precision[3:]} bits, which cannot represent a merged LoRA exactly"
    ):
        lora.merge()
    lora.merge(dequantize=True)

    assert not any(isinstance(module, QuantizedLinear) for module in network.modules())
    assert network.weight_format is None
    assert difference(network(batch), before) <= 1e-3
    assert greedy(network) == answers
    assert all(isinstance(network.get_submodule(name), nn.Linear) for name in lora.layers)


def test_a_quantized_embedding_is_dequantized_too_and_the_folder_loads(tmp_path: Path) -> None:
    source = quantized_folder(tmp_path / "base", 8, embeddings=True)
    network = load_network(source, dtype=torch.float32, device=torch.device("cpu"))
    lora = scattered(Lora(network, shape_from_section(LoraSection(method="lora"), network)), size=0.05)
    batch = golden_batch(network)
    with torch.no_grad():
        before = network(batch)

    lora.merge(dequantize=True)
    save_network(network, source, tmp_path / "merged")

    again = load_network(tmp_path / "merged", dtype=torch.float32, device=torch.device("cpu"))
    assert not any(isinstance(module, QuantizedWeight) for module in again.modules())
    assert difference(again(batch), before) <= 1e-2


def test_it_stands_on_blocks_in_fp8_and_on_outer_ones_in_16_bits(tmp_path: Path) -> None:
    source = write_config(tmp_path / "base", small_fields(layers=6))
    torch.save(small_network(layers=6, std=0.2).state_dict(), source / "pytorch_model.bin")
    network = load_network(source, dtype=torch.float32, device=torch.device("cpu"), weight_format=Fp8())
    lora = lora_of(tuner(network, section=LoraSection(method="lora", rank=4)))
    batch = pack([[3, 4, 5, 37, 6, 7]], network)
    assert [isinstance(layer.linear, QuantizedLinear) for layer in lora.layers.values()] == [False, True, True, True, True, False]
    network(batch).sum().backward()
    assert all(layer.matrix_b.grad is not None and layer.matrix_b.grad.any() for layer in lora.layers.values())
    with torch.no_grad():
        before = network(batch)

        scattered(lora, size=0.05)
        moved = network(batch)
        lora.merge(dequantize=True)

        assert difference(moved, before) > 0.01
        assert difference(network(batch), moved) <= 1e-3
    assert not any(isinstance(module, QuantizedLinear) for module in network.modules())


@pytest.mark.parametrize("bits", [None, *FORMAT_NAMES])
@pytest.mark.parametrize("name", ["chatglm2-base", "glm4-base"])
def test_other_families_learn_are_saved_and_merged(name: str, bits: FormatName | None, tmp_path: Path) -> None:
    folder = GOLDEN / name
    network = imprint.load(folder, dtype="float32", quantize=bits, device="cpu").network
    rows = [[5, 6, 7, 8, 9, 10, 11], [9, 8, 7, 6]]
    batch = pack(rows, network, [[-100, -100, *row[2:]] for row in rows])
    one = tuner(network, section=LoraSection(method="lora", rank=4, targets="all"))

    values = losses(one, batch, 4)

    assert values[-1] < values[0] / 1.5
    one.save(tmp_path / "adapter", base="x", base_folder=folder, template="chatglm2", step=4, scores={})
    again = imprint.load(folder, adapter=tmp_path / "adapter", dtype="float32", quantize=bits, device="cpu")
    with torch.no_grad():
        expected = one.eval().network(batch)
        assert difference(again.network(batch), expected) <= 1e-4
        assert "transformer.output_layer" not in lora_of(one).layers
        again.merge(dequantize=True)
        assert difference(again.network(batch), expected) <= 1e-3
        if bits is None:
            theirs = peft.PeftModel.from_pretrained(imprint.load(folder, dtype="float32", device="cpu").network, str(tmp_path / "adapter"))
            assert difference(cast(Any, theirs.base_model.model)(batch), expected) <= 1e-4


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")  # peft asks transformers by an older name
@pytest.mark.parametrize("kind", ["qwen3", "llama"])
def test_it_learns_on_a_transformers_model_and_peft_loads_it(kind: str, tmp_path: Path) -> None:
    theirs = reference_models.random_model(kind, reference_models.FIELDS)
    folder = reference_models.saved(theirs, tmp_path / "base")
    network = load_network(folder, dtype=torch.float32, device=torch.device("cpu"))
    rows = [[5, 6, 7, 8, 9, 10, 11], [9, 8, 7, 6]]
    batch = pack(rows, network, [[-100, -100, *row[2:]] for row in rows])
    one = tuner(network, section=LoraSection(method="lora", rank=4, targets="all", dropout=0.5))

    values = losses(one, batch, 4)

    assert values[-1] < values[0]
    assert len({float(one.train()(batch).detach()) for _ in range(3)}) == 3
    assert len({float(one.eval()(batch).detach()) for _ in range(3)}) == 1
    one.save(tmp_path / "adapter", base="x", base_folder=folder, template="chatglm2", step=4, scores={})
    tuned = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "adapter")).eval()
    with torch.no_grad():
        ours = network.logits(network(pack(rows, network))).split([len(row) for row in rows])
        for row, logits in zip(rows, ours, strict=True):
            assert difference(logits, tuned(input_ids=torch.tensor([row])).logits[0]) <= 1e-4


def test_a_start_from_the_weight_is_saved_for_the_unchanged_base() -> None:
    lora = learned("float32", {"start": "pissa"})

    shape, tensors = lora.saved_form()

    assert (shape.rank, shape.alpha) == (8, 16.0)
    assert tensors[f"{PEFT_PREFIX}{QKV}.{LORA_B}"].shape[1] == 8
    plain = Lora(base(), shape)
    plain.load_tensors(tensors)
    batch = golden_batch(plain.network)
    with torch.no_grad():
        assert difference(plain.network(batch), lora.network(batch)) <= 1e-3


def test_a_linear_may_have_a_rank_of_its_own() -> None:
    shape = LoraShape(4, 8.0, False, False, (QKV, QKV.replace("0", "1")), {QKV: 2}, {QKV: 5.0})

    lora = Lora(base(), shape)

    assert (lora.layers[QKV].matrix_a.shape[0], lora.layers[QKV].scale) == (2, 2.5)
    assert (lora.layers[QKV.replace("0", "1")].matrix_a.shape[0], lora.layers[QKV.replace("0", "1")].scale) == (4, 2.0)


# Whole runs

LORA = ["tune={method: lora, rank: 4, targets: all}", "optimizer.learning_rate=0.02", "train.batch_size=8", "train.micro_batch_size=8"]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_recipe(tmp_path_factory.mktemp("lora"))


@pytest.fixture(scope="module")
def run(recipe: Path) -> RunFolder:
    return tiny_run(recipe, "run", *LORA, "train.steps=12", "train.save_every=4")


def test_a_run_learns_and_describes_its_result(run: RunFolder) -> None:
    values = [loss for loss in run_losses(run, "eval_loss") if loss is not None]
    description = described(run)

    assert values[-1] < values[0] - 0.3
    assert (description["method"], description["rank"], description["start"], description["format"]) == ("lora", 4, "standard", 1)
    assert description["targets"] == ["dense", "dense_4h_to_h", "dense_h_to_4h", "query_key_value"]
    assert description["scores"]["eval_loss"] == min(values[1:])
    assert len(read_jsonl(run.samples)) > 0


def test_a_lora_is_in_the_network_unless_it_is_off(recipe: Path, tmp_path: Path) -> None:
    folder = recipe.parent / "base"
    talker = imprint.load(folder, device="cpu")
    tuner = build_tuner(talker.network, LoraSection(method="lora", alpha=90.0), talker.tokenizer.encode, checkpointing=False)
    for parameter in tuner.trainable_parameters().values():
        torch.nn.init.normal_(parameter)
    tuner.save(tmp_path / "adapter", base="base", base_folder=folder, template="chatglm", step=1, scores={})
    tuned, plain = imprint.load(folder, adapter=tmp_path / "adapter", device="cpu"), imprint.load(folder, device="cpu")
    questions = ("你好", "上衣", "白色", "版型")

    def answers(model: Model) -> list[str]:
        return [model.chat(question, max_length=30, temperature=0)[0] for question in questions]

    changed, streams = answers(tuned), [tuned.stream_chat(question, max_length=30, temperature=0) for question in questions]
    with tuned.adapter_off():
        assert answers(tuned) == answers(plain) != changed
        assert tuned.network.state_dict().keys() == plain.network.state_dict().keys()
        assert [list(one)[-1][0] for one in streams] == changed  # the state at the call of stream_chat counts
        streams = [tuned.stream_chat(question, max_length=30, temperature=0) for question in questions]
    assert [list(one)[-1][0] for one in streams] == answers(plain)
    assert answers(tuned) == changed
    identity = tuned.identity
    assert identity == imprint.load(folder, adapter=tmp_path / "adapter", device="cpu").identity != plain.identity
    tuned.merge()
    assert answers(tuned) == changed
    assert (tuned.adapter, tuned.description, tuned.adapter_parameters()) == (None, None, {})
    with pytest.raises(UserError, match="has no LoRA that could be merged into its weights"):
        tuned.merge()


def test_checkpointing_changes_no_loss_of_a_run(recipe: Path, run: RunFolder) -> None:
    again = tiny_run(recipe, "checkpointing", *LORA, "train.steps=12", "train.checkpointing=true")

    assert run_losses(again) == pytest.approx(run_losses(run), abs=1e-5)


def test_a_run_continues_an_adapter(recipe: Path, run: RunFolder, capsys: pytest.CaptureFixture[str]) -> None:
    knobs = [*LORA[1:], f"tune={{method: lora, adapter: {run.adapter}}}", "train.evaluate_every=3"]
    again = tiny_run(recipe, "again", *knobs, "train.steps=3")
    before = run_losses(again, "eval_loss")[0]

    assert before == pytest.approx(described(run)["scores"]["eval_loss"], abs=1e-5)
    assert described(again)["start"] == "adapter"
    for knob, sentence in (
        ("rank: 8", "tune.rank: 8, but it is 4 in"),
        ("alpha: 4.0", "tune.alpha: 4.0, but it is 8.0 in"),
        ("dora: true", "tune.dora: true, but it is false in"),
        ("targets: attention", "tune.targets: attention, but it is"),
    ):
        other = f"tune={{method: lora, adapter: {run.adapter}, {knob}}}"
        assert main(["train", str(recipe), f"output={recipe.parent / 'other'}", other]) == 2
        assert sentence in capsys.readouterr().err
    assert main(["train", str(recipe), f"output={recipe.parent / 'other'}", f"tune={{method: prefix, adapter: {run.adapter}}}"]) == 2
    assert "is a lora, and tune.method is prefix" in capsys.readouterr().err


def test_a_run_that_runs_out_of_memory_continues_with_smaller_micro_batches(
    recipe: Path, run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    forward = Tuner.forward

    def narrow(one: Tuner, pack: Any) -> Tensor:
        if pack.num_seqs > 0 and len(pack.ids) > 70:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return forward(one, pack)

    monkeypatch.setattr(Tuner, "forward", narrow)
    again = tiny_run(recipe, "narrow", *LORA, "train.steps=12", "train.save_every=4")

    assert "tokens at once. Batch, loss and gradient stay the same" in capsys.readouterr().out
    assert run_losses(again) == pytest.approx(run_losses(run), abs=1e-4)


@pytest.mark.long
def test_a_run_that_explodes_goes_back(recipe: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    update = Engine.update

    def jolt(engine: Engine, step: int, **arguments: Any) -> tuple[float, bool]:
        done = update(engine, step, **arguments)
        if step == 8 and engine.rate_scale == 1:
            for parameter in engine.parameters.values():
                parameter.data += 100 * torch.randn_like(parameter)
        return done

    monkeypatch.setattr(Engine, "update", jolt)
    steps = ["train.steps=14", "train.save_every=1", "train.keep_states=9", "train.watch_prompts=0", "train.evaluate_every=7"]
    again = tiny_run(recipe, "jolted", *LORA, "model.path=embedded", *steps)

    assert [line["back_to"] > 0 for line in read_jsonl(again.rescues)] == [True]
    assert "finished: 14 of 14 steps are done" in capsys.readouterr().out


def test_the_other_commands_work_on_a_run(run: RunFolder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    rows = run.path.parent / "rows.jsonl"
    source = resolve_source(run.path)
    model = load_model(source)
    assert isinstance(model.adapter, Lora)
    assert load_model(source, base=True).adapter is None

    assert main(["evaluate", str(run.path), "--data", str(rows), "--limit", "4"]) == 0
    assert main(["compare", str(run.path), "--data", str(rows), "--limit", "4"]) == 0
    assert main(["score", str(next(run.evaluations.rglob("generated_predictions.txt")))]) == 0
    capsys.readouterr()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO("上衣\n/adapter off\n/retry\n".encode()), encoding="utf-8"))
    assert main(["chat", str(run.path), "temperature=0", "max_length=60"]) == 0
    output = capsys.readouterr()
    assert f"LoRA {run.path} (rank 4 on dense, dense_4h_to_h, dense_h_to_4h, query_key_value, step 12)" in output.err
    assert "the adapter is off: the base answers" in output.err
    plain = load_model(source, base=True).chat("上衣", temperature=0, max_length=60)[0]
    assert output.out.splitlines() == [model.chat("上衣", temperature=0, max_length=60)[0], plain]
