import json
import shutil
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

import imprint
from imprint.inference.request import Request
from imprint.loading.load import load_base, load_model
from imprint.loading.section import ModelSection
from imprint.loading.source import resolve_source
from imprint.messages import UserError
from imprint.model import Model
from imprint.quant.row_int import RowInt
from imprint.quant.weight_format import WeightFormat
from imprint.runs import RunFolder
from imprint.templates import make_messages
from imprint.templates.chatglm import process_response
from imprint.tokenizers import VOCABULARY_FILE
from imprint.tune.adapter import AdapterMetadata, PrefixMetadata
from imprint.tune.adapter_folder import save_adapter
from imprint.tune.fingerprint import fingerprint
from imprint.tune.prefix import PrefixShape, init_prefix
from tests.cases import CASES, TUNED, Bits, Case, as_chatglm, difference, prompt, small_model, small_network
from tests.families import FOLDERS, bloom_base, template_of
from tests.inference.reference import generate_ids
from tests.prompts import encode_prompt
from tests.tiny import tiny_base
from tests.tinyrun import losses, tiny_recipe, tiny_run


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model folder with a tokenizer."""
    return tiny_base(tmp_path_factory.mktemp("model") / "base")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run on a base that is quantized as it is read."""
    return tiny_run(tiny_recipe(tmp_path_factory.mktemp("quantized")), "run", "model.quantize=4")


@pytest.fixture
def talker(base: Path) -> Model:
    return imprint.load(base, device="cpu")


class TestLoad:
    def test_a_folder_is_given_as_text_or_as_a_path(self, base: Path) -> None:
        rows = [[1, 2, 3]]

        assert torch.equal(imprint.load(str(base), device="cpu").logits(rows)[0], imprint.load(base, device="cpu").logits(rows)[0])

    @pytest.mark.parametrize(
        ("name", "dtype"),
        [(None, torch.float32), ("float32", torch.float32), ("float16", torch.float16), ("bf16", torch.bfloat16), ("half", torch.float16)],
    )
    def test_dtypes_have_their_usual_names(self, base: Path, name: str | None, dtype: torch.dtype) -> None:
        model = imprint.load(base, dtype=name, device="cpu")

        assert {parameter.dtype for parameter in model.network.parameters()} == {dtype}

    def test_another_dtype_is_refused_with_the_allowed_ones(self, base: Path) -> None:
        with pytest.raises(UserError, match=r"int8.*float32"):
            imprint.load(base, dtype="int8", device="cpu")

    def test_a_torch_dtype_is_accepted_too(self, base: Path) -> None:
        assert imprint.load(base, dtype=torch.float16, device="cpu").network.head_weight.dtype == torch.float16

    @pytest.mark.parametrize("adapter", [".", "/"])
    def test_a_folder_without_a_name_holds_no_adapter(self, base: Path, adapter: str) -> None:
        with pytest.raises(UserError, match="holds no adapter"):
            imprint.load(base, adapter=adapter, device="cpu")

    def test_another_device_is_refused(self, base: Path) -> None:
        with pytest.raises(UserError, match="abacus"):
            imprint.load(base, device="abacus")

    @pytest.mark.parametrize("bits", [2, 16, "4", 0])
    def test_other_bits_than_the_originals_are_refused(self, base: Path, bits: Bits) -> None:
        with pytest.raises(UserError, match=rf"^quantize: must be 8, 4, int4-g128, fp8 or None, got {bits!r}\."):
            imprint.load(base, quantize=bits)

    def test_a_folder_without_tokenizer_computes_but_cannot_talk(self, tmp_path: Path) -> None:
        folder = tiny_base(tmp_path / "base")
        (folder / VOCABULARY_FILE).unlink()
        model = imprint.load(folder, device="cpu")

        assert model.logits([[1, 2, 3]])[0].shape[0] == 3
        with pytest.raises(UserError, match=r"has no tokenizer \(ice_text\.model\)\. Copy the official file into the folder\."):
            model.chat("你好")
        with pytest.raises(UserError, match="has no tokenizer"):  # at once, not at the first token
            model.stream_chat("你好")

    def test_the_embedded_base_is_in_the_package(self, monkeypatch: pytest.MonkeyPatch) -> None:
        class Found(Exception):  # noqa: N818
            pass

        def note(folder: Path, *, dtype: torch.dtype, device: torch.device, weight_format: WeightFormat | None) -> None:
            raise Found(folder)

        monkeypatch.setattr("imprint.loading.load.load_network", note)
        with pytest.raises(Found) as caught:
            imprint.load("embedded", device="cpu")

        assert caught.value.args == (Path(imprint.__file__).parent / "embedded",)

    def test_an_adapter_of_another_base_is_refused(self, base: Path) -> None:
        with pytest.raises(UserError, match=r"Load the prefix together with the base it was trained on\."):
            imprint.load(base, adapter=Case(TUNED[0]).adapter, device="cpu")

    def test_only_the_prefix_requires_gradients(self) -> None:
        model = Case(TUNED[0]).load()

        assert not any(parameter.requires_grad for parameter in model.network.parameters())
        assert all(parameter.requires_grad for parameter in model.prefix_parameters().values())
        assert small_model().prefix_parameters() == {}


class TestNumbers:
    def test_logits_and_hidden_states_are_one_tensor_per_row(self) -> None:
        model = small_model()
        rows = [prompt(model.network, 1, 2, 3), prompt(model.network, 4)]

        assert [logits.shape for logits in model.logits(rows)] == [(5, 40), (3, 40)]
        assert [[state.shape for state in row] for row in model.hidden_states(rows)] == [[(5, 32)] * 3, [(3, 32)] * 3]
        assert not model.logits(rows)[0].requires_grad

    def test_the_last_hidden_state_gives_the_logits(self) -> None:
        model = small_model()
        rows = [prompt(model.network, 1, 2, 3), prompt(model.network, 4)]

        for states, logits in zip(model.hidden_states(rows), model.logits(rows), strict=True):
            assert difference(model.network.logits(states[-1]), logits) < 1e-5

    def test_the_loss_is_the_mean_over_scored_tokens(self) -> None:
        model = small_model()
        rows = [[*prompt(model.network, 1, 2), 3, 4, 5], [*prompt(model.network, 4), 6]]
        labels = [[-100] * 4 + [3, 4, 5], [-100] * 3 + [6]]
        chances = [logits.log_softmax(-1) for logits in model.logits(rows)]
        expected = -(chances[0][3, 3] + chances[0][4, 4] + chances[0][5, 5] + chances[1][2, 6]) / 4

        assert difference(model.loss(rows, labels), expected) < 1e-5

    def test_the_first_label_of_a_row_is_never_scored(self) -> None:
        model = small_model()
        row = [*prompt(model.network, 1, 2), 3]

        assert torch.equal(model.loss([row], [row]), model.loss([row], [[-100, *row[1:]]]))

    @pytest.mark.parametrize("labels", [[-100] * 5, [7, -100, -100, -100, -100]])
    def test_labels_that_score_nothing_are_refused(self, labels: list[int]) -> None:
        model = small_model()

        with pytest.raises(UserError, match=r"^labels: no token is scored\. Give at least one label other than -100"):
            model.loss([[*prompt(model.network, 1, 2), 3]], [labels])

    def test_invalid_rows_are_user_errors(self) -> None:
        model = small_model()
        row = [*prompt(model.network, 1, 2), 3]
        wrong: list[tuple[list[list[int]], str]] = [([], "no row"), ([[]], r"ids\[0\]: is empty"), ([[40]], r"ids\[0\]: holds 40")]
        for rows, sentence in wrong:
            with pytest.raises(UserError, match=sentence):
                model.logits(rows)
            with pytest.raises(UserError, match=sentence):
                model.hidden_states(rows)
        for ids, labels, sentence in (([], [], "there is no row"), ([row], [row[1:]], r"labels\[0\]: 4 labels for 5 ids")):
            with pytest.raises(UserError, match=sentence):
                model.loss(ids, labels)
        with pytest.raises(UserError, match=r"ids\[0\]: holds 99"):
            model.generate([prompt(model.network, 99)], max_new_tokens=2)

    def test_generate_is_greedy_unless_a_temperature_is_given(self) -> None:
        model = small_model()
        ids = [prompt(model.network, 1, 2), prompt(model.network, 3)]

        assert model.generate(ids, max_new_tokens=5) == generate_ids(model.network, ids, 5)
        assert model.generate(ids, 5, 0.8, 0.9, seed=4) == generate_ids(model.network, ids, 5, 0.8, 0.9, seed=4)
        assert model.generate(ids, 5, num_beams=3) == generate_ids(model.network, ids, 5, num_beams=3)


class TestAdapterOff:
    def test_the_adapter_is_on_again_also_after_an_error(self) -> None:
        model = Case(TUNED[0]).load()
        with pytest.raises(ZeroDivisionError), model.adapter_off():
            assert model.prefix() is None
            raise ZeroDivisionError

        assert model.prefix() is not None

    def test_blocks_may_be_nested(self) -> None:
        model = Case(TUNED[0]).load()
        with model.adapter_off():
            with model.adapter_off():
                assert model.prefix() is None
            assert model.prefix() is None

        assert model.prefix() is not None


class TestChat:
    def test_the_history_grows_by_the_turn(self, talker: Model) -> None:
        history = [("你好", "你好！")]

        answer, longer = talker.chat("上衣是什么颜色？", history, max_length=40, seed=1)

        assert longer == [("你好", "你好！"), ("上衣是什么颜色？", answer)]
        assert history == [("你好", "你好！")]

    def test_an_empty_history_may_be_none(self, talker: Model) -> None:
        answer, longer = talker.chat("你好", None, max_length=40, seed=1)

        assert (answer, longer) == talker.chat("你好", [], max_length=40, seed=1)
        assert list(talker.stream_chat("你好", None, max_length=40, seed=1))[-1] == (answer, longer)

    def test_it_is_the_displayed_answer_to_the_prompt(self, talker: Model) -> None:
        history = [("你好", "你好！")]
        ids = encode_prompt(talker.template, "白色", history, max_source_length=75)

        answer, _ = talker.chat("白色", history, max_length=100, seed=5)

        (expected,) = talker.generate([ids], 100 - len(ids), 0.95, 0.7, seed=5)
        assert answer == process_response(talker.tokenizer.decode(expected))

    @pytest.mark.parametrize("seed", range(5))
    def test_a_stream_ends_with_the_answer_of_chat(self, talker: Model, seed: int) -> None:
        history = [("你好", "你好！")]

        *_, (text, longer) = talker.stream_chat("白色上衣", history, max_length=60, temperature=1.5, top_p=1.0, seed=seed)

        assert (text, longer) == talker.chat("白色上衣", history, max_length=60, temperature=1.5, top_p=1.0, seed=seed)

    def test_a_stream_shows_something_new_each_time(self, talker: Model) -> None:
        shown = [text for text, _ in talker.stream_chat("白色上衣", max_length=60, temperature=1.5, top_p=1.0, seed=1)]

        assert len(shown) > 5
        assert all(one != other for one, other in pairwise(shown))

    def test_an_answer_that_is_cut_inside_a_character_ends_before_it(self, talker: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        cut = talker.tokenizer.encode("好龘")[:-1]
        monkeypatch.setattr("imprint.model.stream", lambda *_args, **_named: iter(cut))
        monkeypatch.setattr("imprint.model.generate", lambda *_args, **_named: [cut])

        assert talker.tokenizer.decode(cut).endswith("\ufffd")
        assert [text for text, _ in talker.stream_chat("你好")] == ["好"]
        assert talker.chat("你好")[0] == "好"

    def test_an_empty_answer_is_yielded_once(self, talker: Model) -> None:
        as_chatglm(talker.network).transformer.final_layernorm.bias.copy_(100 * talker.network.head_weight[min(talker.network.stop_ids)])

        assert list(talker.stream_chat("你好", seed=1)) == [("", [("你好", "")])]
        assert talker.chat("你好", seed=1) == ("", [("你好", "")])

    def test_a_long_history_leaves_a_quarter_for_the_answer(self, talker: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        history = [("这件上衣的颜色是白色" * 3, "版型很宽松")] * 30
        requests: list[tuple[int, int]] = []

        def record(_model: Model, asked: list[Request], *, num_beams: int) -> list[list[int]]:
            assert num_beams == 1
            requests.append((len(asked[0].ids), asked[0].max_new_tokens))
            return [[]]

        monkeypatch.setattr("imprint.model.generate", record)
        talker.chat("你好", history, max_length=200)

        ((length, max_new_tokens),) = requests
        assert length + max_new_tokens == 200
        assert max_new_tokens >= 50

        monkeypatch.setattr(talker.network, "shape", replace(talker.network.shape, max_length=120))
        talker.chat("你好", history)
        assert sum(requests[-1]) == 120  # an answer never runs beyond the context of its base

    def test_beams_are_searched_without_sampling(self, talker: Model) -> None:
        first, second = (talker.chat("你好", max_length=20, num_beams=2, seed=seed)[0] for seed in (1, 2))

        assert first == second

    def test_the_adapter_answers_unless_it_is_off(self, base: Path, tmp_path: Path, talker: Model) -> None:
        encoder = init_prefix(talker.network, PrefixShape.from_network(talker.network, 4, projection=False), "random", [])
        encoder.embedding.weight.data *= 100
        save_adapter(
            tmp_path / "adapter",
            encoder,
            AdapterMetadata("base", fingerprint(talker.network), PrefixMetadata(4, False, "random"), "chatglm"),
        )
        tuned = imprint.load(base, adapter=tmp_path / "adapter", device="cpu")
        questions = ("你好", "上衣", "白色", "版型")

        plain = [talker.chat(question, max_length=30, temperature=0)[0] for question in questions]
        with tuned.adapter_off():
            off = [tuned.chat(question, max_length=30, temperature=0)[0] for question in questions]
            streams = [tuned.stream_chat(question, max_length=30, temperature=0) for question in questions]

        assert off == plain
        assert [list(one)[-1][0] for one in streams] == plain  # the state at the call of stream_chat counts
        assert [tuned.chat(question, max_length=30, temperature=0)[0] for question in questions] != plain

    @pytest.mark.parametrize("length", [-5, 0, 1, 2])
    def test_a_max_length_without_room_for_an_answer_is_a_user_error(self, talker: Model, length: int) -> None:
        with pytest.raises(UserError, match=rf"^max_length: must be at least 3.*, got {length}\."):
            talker.chat("你好", max_length=length)
        with pytest.raises(UserError, match="max_length"):
            talker.stream_chat("你好", max_length=length)

    @pytest.mark.parametrize("length", [3, 4, 9])
    def test_a_small_max_length_still_answers(self, talker: Model, length: int) -> None:
        answer, history = talker.chat("这件上衣的颜色是白色", max_length=length, seed=0)

        assert history == [("这件上衣的颜色是白色", answer)]


@pytest.fixture(params=FOLDERS)
def family(request: pytest.FixtureRequest, tmp_path: Path) -> Model:
    """A network of this name's template; it says what a test makes it say."""
    return Model(small_network(), template_of(request.param, tmp_path), "small")


class TestEveryFamily:
    def test_an_answer_ends_at_any_id_that_ends_one(self, family: Model) -> None:
        assert family.network.stop_ids >= family.template.stop_ids

    def test_a_chat_shows_the_answer_and_a_stream_only_appends(self, family: Model, monkeypatch: pytest.MonkeyPatch) -> None:
        answer = family.template.answer(make_messages("你好"), "在 2023 年,好。😀")
        monkeypatch.setattr("imprint.model.stream", lambda *_arguments, **_named: iter(answer))
        monkeypatch.setattr("imprint.model.generate", lambda *_arguments, **_named: [answer])

        shown = [text for text, _ in family.stream_chat("你好", [("在吗", "在")], system="你是店员。")]

        assert shown[-1] == family.chat("你好", [("在吗", "在")], system="你是店员。")[0]
        assert shown[-1].replace("，", ",") == "在 2023 年,好。😀"
        assert all(shown[-1].startswith(family.template.stable_prefix(text)) for text in shown)

    def test_a_prompt_is_that_of_the_template(self, family: Model) -> None:
        messages = make_messages("你好", [("在吗", "在")], "你是店员。")
        ids = [token for segment in family.template.prompt(messages) for token in segment.ids]

        assert family.prompt("你好", [("在吗", "在")], system="你是店员。") == family.prompt_of(messages) == ids

    def test_a_model_of_that_family_answers(self, tmp_path: Path) -> None:
        model = imprint.load(bloom_base(tmp_path), device="cpu")
        answer, history = model.chat("你好", [("在吗", "在")], max_length=120, seed=1)

        assert model.template.name == "own"
        assert history == [("在吗", "在"), ("你好", answer)]
        assert list(model.stream_chat("你好", [("在吗", "在")], max_length=120, seed=1))[-1][0] == answer
        assert imprint.load(tmp_path, device="cpu", template="plain").template.name == "plain"


class TestQuantizedRuns:
    """Saving, resuming and evaluating keep the precision a run began with."""

    def test_a_run_that_was_stopped_goes_on_in_its_precision(self, run: RunFolder) -> None:
        other = shutil.copytree(run.path, run.path.with_name("other"))
        for step in (4, 5, 6):
            shutil.rmtree(RunFolder(other).state(step))
        recipe = run.path.parent / "recipe.yaml"
        lines = run.config.read_text(encoding="utf-8").replace(str(run.path), str(other))
        (other / "config.yaml").write_text(lines, encoding="utf-8")

        resumed = tiny_run(recipe, "other", "model.quantize=4")

        one, two = (load_file(folder.state(6) / "trained.safetensors") for folder in (run, resumed))
        assert all(torch.equal(one[name], two[name]) for name in one)
        with pytest.raises(UserError, match="quantize"):
            tiny_run(recipe, "other", "model.quantize=8")

    def test_its_steps_differ_from_those_of_the_plain_base(self, run: RunFolder) -> None:
        plain = tiny_run(run.path.parent / "recipe.yaml", "plain")

        assert losses(plain) != losses(run)
        assert all(abs((one or 0) - (other or 0)) < 0.1 for one, other in zip(losses(plain), losses(run), strict=True))

    def test_it_is_evaluated_in_its_precision(self, run: RunFolder) -> None:
        model = load_model(resolve_source(run.path), device="cpu")

        assert model.network.weight_format == RowInt(4)
        assert model.adapter is not None
        assert model.identity == imprint.load(run.path.parent / "base", adapter=run.adapter, quantize=4, device="cpu").identity
        assert load_model(resolve_source(run.path), base=True).network.weight_format == RowInt(4)

    def test_its_adapter_may_be_put_on_the_plain_base(self, run: RunFolder) -> None:
        model = imprint.load(run.path.parent / "base", adapter=run.adapter, device="cpu")

        assert model.network.weight_format is None
        assert model.adapter is not None

    def test_a_folder_that_is_quantized_trains_the_same(self, run: RunFolder) -> None:
        imprint.quantize(run.path.parent / "base", run.path.parent / "int4", 4)

        other = tiny_run(run.path.parent / "recipe.yaml", "ready", f"model.path={run.path.parent / 'int4'}")

        assert losses(other) == losses(run)

    def test_full_tuning_of_it_is_refused(self, run: RunFolder) -> None:
        with pytest.raises(UserError, match="full tuning of a base quantized to 8 bits is not possible"):
            tiny_run(run.path.parent / "recipe.yaml", "full", "tune={method: full}", "model.quantize=8")


class TestSection:
    def test_only_the_folder_is_required(self) -> None:
        nothing = dict.fromkeys(("quantize", "dtype", "device", "date", "commit"))
        kept = {"quantize_head": False, "embedding_on_host": False, "template": "auto", "kernels": "auto"}
        assert ModelSection(path="base").model_dump() == {"path": "base", **nothing, **kept}

    @pytest.mark.parametrize("fields", [{}, {"path": ""}, {"path": "base", "quantized": 4}])
    def test_impossible_values_are_refused(self, fields: dict[str, object]) -> None:
        with pytest.raises(ValidationError):
            ModelSection.model_validate(fields)


def test_the_folder_of_a_saved_model_describes_itself(base: Path) -> None:
    assert json.loads((base / "config.json").read_text())["torch_dtype"] == "float32"


@pytest.mark.gpu
class TestOnAGpu:
    """The same results as on the CPU: the golden ones in float32, close to them in 16 bit."""

    @pytest.mark.parametrize("name", CASES)
    def test_logits_loss_gradients_and_greedy_ids_are_the_originals(self, name: str) -> None:
        case = Case(name)
        model = imprint.load(case.folder, adapter=case.adapter, dtype="float32", device="cuda")
        for logits, expected in zip(model.logits(case.rows), case.per_row("logits"), strict=True):
            assert difference(logits.cpu(), expected) < 1e-4
        loss = model.loss(case.rows, case.labels, checkpointing=True)
        assert abs(float(loss.detach()) - float(case.expected["loss"])) < 1e-4
        if case.adapter:
            loss.backward()
            for full_name, parameter in model.prefix_parameters().items():
                expected = case.expected[f"grad.{full_name}"]
                assert parameter.grad is not None
                assert difference(parameter.grad.cpu(), expected) < 1e-4 * float(expected.abs().max())
        on_cpu = case.load().generate(case.prompts, max_new_tokens=10)
        assert model.generate(case.prompts, max_new_tokens=10) == on_cpu

    @pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
    def test_in_16_bit_the_loss_is_close(self, dtype: str) -> None:
        case = Case("chatglm1-ptuning")
        model = imprint.load(case.folder, adapter=case.adapter, dtype=dtype, device="cuda")
        loss = model.loss(case.rows, case.labels)
        loss.backward()
        assert abs(float(loss.detach()) - float(case.expected["loss"])) < 0.05
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.prefix_parameters().values())


def test_the_public_names_exist_after_a_plain_import_that_loads_no_compiler() -> None:
    script = (
        "import sys, imprint as i; print(i.metrics.score.__name__, i.data.encode_original.__name__, i.load.__name__);"
        "import imprint.model; print('torch._dynamo' in sys.modules)"
    )
    output = subprocess.run([sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["score", "encode_original", "load", "False"]


# A run as the base of the next


def test_a_run_with_full_tuning_is_a_base(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    run = tiny_run(recipe, "whole", "tune={method: full}", "train.steps=2")
    on_top = tiny_run(recipe, "on-top", f"model.path={run.path}", "train.steps=2")
    assert load_model(resolve_source(on_top.path), base=True).identity == imprint.load(run.model, device="cpu").identity


def test_the_lora_of_a_run_is_merged_where_the_run_is_a_base(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    knobs = ["tune={method: lora, rank: 2}", "train.steps=3", "optimizer.learning_rate=0.05"]
    first = tiny_run(recipe, "first", *knobs)
    second = tiny_run(recipe, "second", f"model.path={first.path}", *knobs)
    beside = imprint.load(first.path)
    merged = load_base(first.path, device="cpu")
    ids = beside.tokenizer.encode("类型#上衣*颜色#白色")
    assert difference(merged.logits([ids])[0], beside.logits([ids])[0]) < 1e-4
    assert (merged.adapter, beside.adapter is None) == (None, False)
    twice, tuned = load_base(second.path, device="cpu"), imprint.load(second.path)
    assert difference(twice.logits([ids])[0], tuned.logits([ids])[0]) < 1e-4
    assert difference(twice.logits([ids])[0], merged.logits([ids])[0]) > 1e-3


def test_a_run_with_a_prefix_is_no_base_of_a_recipe(tmp_path: Path) -> None:
    recipe = tiny_recipe(tmp_path)
    run = tiny_run(recipe, "prefix", "train.steps=2")
    with pytest.raises(UserError, match="is a run with a prefix, which is no part of the weights"):
        tiny_run(recipe, "on-top", f"model.path={run.path}")
