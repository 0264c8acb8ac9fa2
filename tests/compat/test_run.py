import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional

import imprint
import imprint.compat.run as compat
from imprint.compat.flags import OriginalFlags, read_flags
from imprint.compat.run import open_original, run_original
from imprint.compat.settings import evaluation_section
from imprint.config import read_recipe
from imprint.data.batches import BatchSampler
from imprint.data.dataset import load_splits
from imprint.data.section import DataSection
from imprint.files.atomic import read_jsonl
from imprint.loading.load import load_model
from imprint.loading.source import resolve_source
from imprint.messages import UserError
from imprint.models.families import read_config
from imprint.pack import pack
from imprint.runs import RunFolder
from imprint.tokenizers import VOCABULARY_FILE
from imprint.training.recipe import Recipe
from imprint.tune.prefix import PrefixShape, init_prefix
from tests.cases import TUNED, Case, difference
from tests.hubserver import COMMIT, NEXT_COMMIT, Repository, hub_server, model_files
from tests.oldproject import PREFIX, old_project, predicting, said, training

SCORES = ("bleu-4", "rouge-1", "rouge-2", "rouge-l")


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return old_project(tmp_path_factory.mktemp("old"))


@pytest.fixture(scope="module")
def tuned(project: Path) -> RunFolder:
    """P-Tuning v2, four steps."""
    run_original(training(project, "tuned", *PREFIX))
    return RunFolder(project / "output" / "tuned")


@pytest.fixture(scope="module")
def whole(project: Path) -> RunFolder:
    """All parameters, four steps."""
    run_original(training(project, "whole", "--learning_rate", "1e-3"))
    return RunFolder(project / "output" / "whole")


def prefix_of(checkpoint: Path) -> Tensor:
    tensors: dict[str, Tensor] = torch.load(checkpoint / "pytorch_model.bin", weights_only=True)
    assert list(tensors) == ["transformer.prefix_encoder.embedding.weight"]
    return tensors["transformer.prefix_encoder.embedding.weight"]


def answers(folder: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in (folder / "generated_predictions.txt").read_text(encoding="utf-8").splitlines()]


# What training writes, and where


def test_each_checkpoint_holds_the_prefix_alone_as_the_original_saves_it(tuned: RunFolder, project: Path) -> None:
    assert sorted(entry.name for entry in tuned.path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    for step in (2, 4):
        checkpoint = tuned.path / f"checkpoint-{step}"
        kept = load_file(tuned.state(step) / "trained.safetensors")
        assert torch.equal(prefix_of(checkpoint), kept["transformer.prefix_encoder.embedding.weight"])
        assert prefix_of(checkpoint).dtype == torch.float32
        assert said(checkpoint / "config.json") == read_config(project / "chatglm-6b") | {"pre_seq_len": 4, "prefix_projection": False}
        assert (checkpoint / VOCABULARY_FILE).is_file()
        assert said(checkpoint / "trainer_state.json")["global_step"] == step


def test_trainer_state_has_the_history_of_the_loss(tuned: RunFolder) -> None:
    losses = [line["loss"] for line in read_jsonl(tuned.log) if "loss" in line]
    state = said(tuned.path / "trainer_state.json")
    first, second, last = state["log_history"]
    assert (first["step"], first["loss"]) == (2, round(sum(losses[:2]) / 2, 4))
    assert (second["step"], second["loss"]) == (4, round(sum(losses[2:]) / 2, 4))
    assert (first["learning_rate"], second["learning_rate"]) == (pytest.approx(0.01), 0.0)
    assert (first["epoch"], second["epoch"]) == (0.6, 1.2)
    assert last["train_loss"] == pytest.approx(sum(losses) / 4)
    assert {"train_runtime", "train_samples_per_second", "train_steps_per_second", "epoch", "step"} <= set(last)
    assert (state["global_step"], state["max_steps"], state["num_train_epochs"]) == (4, 4, 2)


def test_the_figures_stand_in_their_own_file_and_among_all(tuned: RunFolder) -> None:
    figures = said(tuned.path / "train_results.json")
    assert figures["train_samples"] == 10
    assert figures.items() <= said(tuned.path / "all_results.json").items()


def test_the_output_dir_is_a_run_folder_for_every_other_command(tuned: RunFolder) -> None:
    model = load_model(resolve_source(tuned.path))
    assert torch.equal(model.prefix_parameters()["transformer.prefix_encoder.embedding.weight"], prefix_of(tuned.path / "checkpoint-4"))


def test_the_base_may_be_a_model_of_the_hub(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = training(project, "hub", *PREFIX, "--max_steps", "2")
    words[words.index("--model_name_or_path") + 1] = "THUDM/chatglm-6b"
    with hub_server(tmp_path / "cache") as hub:
        hub.repositories["THUDM/chatglm-6b"] = Repository(model_files(project / "chatglm-6b"))
        run_original(words)
        flags = read_flags([*words, "--do_predict", "--test_file", words[words.index("--train_file") + 1]])[0]
        hub.repositories["THUDM/chatglm-6b"].refs["main"] = NEXT_COMMIT
        hub.asked.clear()
        assert Path(open_original(flags, evaluation_section(flags, cuda=False)).name).name == COMMIT
        assert hub.asked == []


def test_full_tuning_writes_whole_model_folders(whole: RunFolder, project: Path) -> None:
    base = imprint.load(project / "chatglm-6b", device="cpu").network.state_dict()
    for step in (2, 4):
        checkpoint = whole.path / f"checkpoint-{step}"
        tensors = torch.load(checkpoint / "pytorch_model.bin", weights_only=True)
        assert set(tensors) == {*base, "lm_head.weight"}
        assert not torch.equal(tensors["lm_head.weight"], base["transformer.word_embeddings.weight"])
        assert imprint.load(checkpoint, device="cpu").tokenizer.encode("上衣")
        assert said(checkpoint / "trainer_state.json")["global_step"] == step


# What each flag of the run itself does


def test_logging_steps_says_how_often_and_the_first_step_may_be_logged_too(project: Path) -> None:
    run_original(training(project, "logged", *PREFIX, "--logging_steps", "3", "--logging_first_step", "--save_steps", "4"))
    history = said(project / "output" / "logged" / "trainer_state.json")["log_history"]
    losses = [line["loss"] for line in read_jsonl(project / "output" / "logged" / "log.jsonl") if "loss" in line]
    assert [entry["step"] for entry in history] == [1, 3, 4]
    assert [entry.get("loss") for entry in history] == [round(losses[0], 4), round(sum(losses[1:3]) / 2, 4), None]


def test_save_total_limit_keeps_the_newest_checkpoints(project: Path) -> None:
    run_original(training(project, "few", *PREFIX, "--save_steps", "1", "--save_total_limit", "2"))
    folder = project / "output" / "few"
    assert sorted(entry.name for entry in folder.iterdir() if entry.name.startswith(("checkpoint", "state"))) == [
        *("checkpoint-3", "checkpoint-4"),
        *("state-000003", "state-000004"),
    ]


def test_the_last_step_has_a_checkpoint_whatever_save_steps_is(project: Path) -> None:
    run_original(training(project, "odd", *PREFIX, "--save_steps", "3"))
    assert sorted(entry.name for entry in (project / "output" / "odd").glob("checkpoint-*")) == ["checkpoint-3", "checkpoint-4"]


def test_epochs_are_as_many_steps_as_the_trainer_counted(project: Path) -> None:
    run_original(training(project, "epochs", *PREFIX, "--max_steps", "-1", "--num_train_epochs", "1.5", "--save_steps", "4"))
    folder = project / "output" / "epochs"
    state = said(folder / "trainer_state.json")
    assert (state["global_step"], state["max_steps"], state["num_train_epochs"]) == (5, 5, 2), "1.5 times the 3 whole steps of 10 rows"
    assert sorted(entry.name for entry in folder.glob("checkpoint-*")) == ["checkpoint-4", "checkpoint-5"]
    assert said(folder / "train_results.json")["epoch"] == 1.5


def test_do_train_do_eval_and_do_predict_in_one_command_write_all_figures(project: Path) -> None:
    held_out = ["--do_eval", "--validation_file", str(project / "AdvertiseGen" / "dev.json"), "--max_eval_samples", "3"]
    run_original(training(project, "all", *PREFIX, *held_out, *predicting(project, "all", "--max_predict_samples", "2")))
    folder = project / "output" / "all"
    figures = said(folder / "all_results.json")
    assert {f"{split}_{name}" for split in ("eval", "predict") for name in SCORES} <= set(figures)
    assert (figures["eval_samples"], figures["predict_samples"], figures["train_samples"]) == (3, 2, 10)
    assert len(answers(folder)) == 2
    for split in ("train", "eval", "predict"):
        own = said(folder / f"{split}_results.json")
        assert own.items() <= figures.items()
        assert {f"{split}_runtime", f"{split}_samples_per_second", f"{split}_steps_per_second"} <= set(own)


def test_an_evaluation_strategy_measures_the_loss_while_training_and_evaluates_after_it(project: Path) -> None:
    watched = ["--evaluation_strategy", "steps", "--eval_steps", "2", "--validation_file", str(project / "AdvertiseGen" / "dev.json")]
    run_original(training(project, "watched", *PREFIX, *watched))
    folder = project / "output" / "watched"
    history = said(folder / "trainer_state.json")["log_history"]
    assert [entry["step"] for entry in history if "eval_loss" in entry] == [2, 4]
    assert said(folder / "eval_results.json")["eval_loss"] > 0


def test_without_predict_with_generate_the_loss_alone_is_measured(tuned: RunFolder, project: Path) -> None:
    words = predicting(project, "loss", "--ptuning_checkpoint", str(tuned.path / "checkpoint-4"), "--no_predict_with_generate")
    run_original(words)
    figures = said(project / "output" / "loss" / "predict_results.json")
    assert not (project / "output" / "loss" / "generated_predictions.txt").exists()
    assert {name for name in figures if "bleu" in name or "rouge" in name} == set()

    model = imprint.load(project / "chatglm-6b", adapter=tuned.path / "checkpoint-4", device="cpu")
    losses = []
    for row in answers_of(project / "AdvertiseGen" / "dev.json"):
        ids, labels = imprint.data.encode_original(model.tokenizer, row["content"], row["summary"], None, 32, 12)
        scored = sum(label != -100 for label in labels[1:])
        losses.append((float(model.loss([ids], [labels]).detach()) * scored, scored))
    pairs = [(losses[start], losses[start + 1]) for start in (0, 2)]
    expected = sum((one[0] + two[0]) / (one[1] + two[1]) for one, two in pairs) / 2
    assert figures["predict_loss"] == pytest.approx(expected, abs=1e-5)


def answers_of(file: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_the_flags_are_listed_where_none_is_given(capsys: pytest.CaptureFixture[str]) -> None:
    run_original([])
    printed = capsys.readouterr().out
    assert all(name in printed for name in OriginalFlags.model_fields)


def test_a_retired_flag_is_answered_on_the_screen(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_original(["--", *training(project, "told", *PREFIX, "--fsdp", "full_shard", "--overwrite_cache")])
    printed = capsys.readouterr().out
    assert "--fsdp: in a recipe it is engine.fsdp=true" in printed
    assert "--overwrite_cache: rows are read each time" in printed


# It computes what the original computed


def test_losses_are_those_of_a_plain_loop_over_micro_batches(tuned: RunFolder, project: Path) -> None:
    recipe = read_recipe(tuned.config, [], Recipe)
    model = imprint.load(project / "chatglm-6b", dtype="float32", device="cpu")
    assert isinstance(recipe.data, DataSection)
    rows = load_splits(recipe.data, model.template).train
    batches = BatchSampler([len(row.ids) for row in rows], 3, seed=42, group_by_length=False, micro_size=1)
    torch.manual_seed(42)
    encoder = init_prefix(model.network, PrefixShape.from_network(model.network, 4, projection=False), "random", [])
    encoder.set_dropout(0.1)
    optimizer = torch.optim.AdamW(encoder.parameters(), lr=2e-2, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 - step / 4)
    expected = []
    for step in range(1, 5):
        micro = []
        for row in [rows[number] for number in batches.batch(step)]:
            hidden = model.network(pack([row.ids], model.network), prefix=encoder.prefix(torch.float32, training=True))
            logits = model.network.logits(hidden)
            micro.append(functional.cross_entropy(logits[:-1], torch.tensor(row.labels[1:])))
        loss = torch.stack(micro).mean()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(encoder.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        expected.append(float(loss.detach()))
    found = [line["loss"] for line in read_jsonl(tuned.log) if "loss" in line]
    assert found == pytest.approx(expected, abs=1e-5)
    assert difference(prefix_of(tuned.path / "checkpoint-4"), encoder.embedding.weight) < 1e-4


@pytest.mark.parametrize("name", TUNED)
def test_an_old_prefix_gives_the_golden_logits_and_answers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case(name)
    assert case.adapter is not None
    checkpoint = tmp_path / "checkpoint-3000"
    checkpoint.mkdir()
    shutil.copyfile(case.adapter, checkpoint / "pytorch_model.bin")
    monkeypatch.setattr(compat, "with_tokenizer_of", lambda folder, model, fields: model)  # its folder has none
    words = ["--do_predict", "--model_name_or_path", str(case.folder), "--ptuning_checkpoint", str(checkpoint), "--output_dir", "out"]
    flags = read_flags([*words, "--no_cuda"])[0]
    model = open_original(flags, evaluation_section(flags, cuda=False))
    expected = case.per_row("logits")
    assert max(difference(found, wanted) for found, wanted in zip(model.logits(case.rows), expected, strict=True)) < 1e-4
    greedy = case.expected["greedy_ids"].tolist()
    found = model.generate(case.prompts, 10)
    assert all(row[: len(ids)] == ids for ids, row in zip(found, greedy, strict=True))


# Evaluating what was trained before


def test_a_prefix_checkpoint_is_evaluated_on_its_base(tuned: RunFolder, project: Path) -> None:
    run_original(predicting(project, "tuned", *PREFIX, "--ptuning_checkpoint", str(tuned.path / "checkpoint-2")))
    rows = answers(tuned.path)
    assert [sorted(row) for row in rows] == [["labels", "predict"]] * 4
    tokenizer = imprint.load(project / "chatglm-6b", device="cpu").tokenizer
    wanted = [row["summary"] for row in answers_of(project / "AdvertiseGen" / "dev.json")]
    assert [row["labels"] for row in rows] == [tokenizer.decode(tokenizer.encode(text)[:10]).strip() for text in wanted]
    figures = said(tuned.path / "predict_results.json")
    assert {f"predict_{name}" for name in SCORES} <= set(figures)
    assert said(tuned.path / "all_results.json")["train_samples"] == 10, "figures of training stay beside those of the evaluation"


def test_the_same_evaluation_again_writes_the_same_answers(tuned: RunFolder, project: Path) -> None:
    words = [*PREFIX, "--ptuning_checkpoint", str(tuned.path / "checkpoint-4")]
    run_original(predicting(project, "one", *words))
    run_original(predicting(project, "two", *words))
    run_original(predicting(project, "seven", *words, "--seed", "7"))
    run_original(predicting(project, "beams", *words, "--num_beams", "2"))
    one, two, seven, beams = (answers(project / "output" / name) for name in ("one", "two", "seven", "beams"))
    assert one == two
    assert [row["labels"] for row in one] == [row["labels"] for row in seven]
    assert one != seven, "sampled, with the seed"
    assert one != beams


def test_a_checkpoint_of_all_weights_is_evaluated_as_the_model(whole: RunFolder, project: Path) -> None:
    words = predicting(project, "whole", "--fp16_full_eval")
    words[words.index("--model_name_or_path") + 1] = str(whole.path / "checkpoint-4")
    run_original(words)
    assert len(answers(whole.path)) == 4


@pytest.mark.parametrize("sharded", [False, True])
def test_an_old_checkpoint_of_base_and_prefix_is_evaluated_with_its_prefix(
    sharded: bool,  # noqa: FBT001
    tuned: RunFolder,
    project: Path,
    tmp_path: Path,
) -> None:
    folder = tmp_path / "checkpoint-3000"
    shutil.copytree(project / "chatglm-6b", folder)
    tensors = load_file(folder / "model.safetensors") | torch.load(tuned.path / "checkpoint-4" / "pytorch_model.bin", weights_only=True)
    (folder / "model.safetensors").unlink()
    if sharded:
        names = {key: f"pytorch_model-{number % 2}.bin" for number, key in enumerate(tensors)}
        for name in set(names.values()):
            torch.save({key: tensors[key].clone() for key in tensors if names[key] == name}, folder / name)
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": names}))
    else:
        torch.save({key: tensor.clone() for key, tensor in tensors.items()}, folder / "pytorch_model.bin")
    words = ["--do_predict", "--model_name_or_path", str(folder), "--output_dir", "out", "--no_cuda"]
    for more, prefix in ((PREFIX, prefix_of(tuned.path / "checkpoint-4")), ([], None)):
        flags = read_flags([*words, *more])[0]
        model = open_original(flags, evaluation_section(flags, cuda=False))
        assert (model.prefix() is None) == (prefix is None)
        if prefix is not None:
            assert torch.equal(model.prefix_parameters()["transformer.prefix_encoder.embedding.weight"], prefix)


def test_a_prefix_that_is_nowhere_is_a_sentence(project: Path) -> None:
    with pytest.raises(UserError, match=r"--pre_seq_len 4: .* holds no prefix\. Give --ptuning_checkpoint output_dir/checkpoint-N"):
        run_original(predicting(project, "none", *PREFIX))


def test_a_checkpoint_without_tokenizer_files_takes_those_of_its_base(whole: RunFolder, project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint-4"
    shutil.copytree(whole.path / "checkpoint-4", folder)
    (folder / VOCABULARY_FILE).unlink()
    fields = said(folder / "config.json")
    words = ["--do_predict", "--model_name_or_path", str(folder), "--output_dir", "out", "--no_cuda"]
    flags = read_flags(words)[0]
    (folder / "config.json").write_text(json.dumps(fields | {"_name_or_path": str(project / "chatglm-6b")}))
    assert open_original(flags, evaluation_section(flags, cuda=False)).tokenizer.encode("上衣")
    (folder / "config.json").write_text(json.dumps(fields | {"_name_or_path": "THUDM/chatglm-6b"}))
    with pytest.raises(UserError, match=r"has no tokenizer .* 'THUDM/chatglm-6b', which it was made from, is not here\."):
        open_original(flags, evaluation_section(flags, cuda=False))


def test_training_goes_on_from_a_prefix_checkpoint(tuned: RunFolder, project: Path) -> None:
    start = str(tuned.path / "checkpoint-2")
    run_original(training(project, "further", "--ptuning_checkpoint", start, "--max_steps", "1", "--learning_rate", "1e-6"))
    assert difference(prefix_of(project / "output" / "further" / "checkpoint-1"), prefix_of(Path(start))) < 1e-5


def test_the_toy_base_needs_no_folder(project: Path) -> None:
    words = training(project, "toy", *PREFIX, "--max_steps", "1", "--max_train_samples", "2", "--gradient_accumulation_steps", "1")
    words[words.index("--model_name_or_path") + 1] = "embedded"
    run_original(words)
    assert prefix_of(project / "output" / "toy" / "checkpoint-1").shape[0] == 4


# What the machine has


def test_one_of_several_gpus_is_used_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    notes: Any = compat.device_notes(read_flags(["--model_name_or_path", "a", "--output_dir", "b"])[0])
    assert notes[0].english.startswith("2 GPUs are visible, one is used: cuda:0")
    assert compat.device_notes(read_flags(["--model_name_or_path", "a", "--output_dir", "b", "--no_cuda"])[0]) == []


def test_the_verdict_names_flags_and_no_knobs_of_a_recipe(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_original(training(project, "verdict", *PREFIX))
    printed = capsys.readouterr().out
    assert "nothing is known about new ones. Set --validation_file FILE --evaluation_strategy steps." in printed
    assert "data.dev" not in printed
