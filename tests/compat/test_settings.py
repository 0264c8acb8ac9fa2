import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from imprint.compat.flags import OriginalFlags, read_flags
from imprint.compat.settings import check_flags, evaluation_section, prefix_file, recipe_from_flags
from imprint.engine.engine import Engine
from imprint.messages import UserError
from imprint.tune.prefix import PrefixShape, init_prefix
from tests.cases import TUNED, Case, small_network, write_config

WORDS = ["--model_name_or_path", "base", "--output_dir", "out", "--train_file", "a.json", "--prompt_column", "p", "--response_column", "r"]
TUNED_PREFIX = ["--pre_seq_len", "8"]
WATCHED = ["--validation_file", "dev.json", "--evaluation_strategy", "steps"]
CUDA = ["--cuda"]
"""No flag: says that the test shall pretend there is a GPU."""

RECIPE: dict[str, tuple[list[str], list[str], dict[str, object]]] = {
    # flag: what else is given, the flag, the knobs of the recipe that it changes
    "train_file": ([], ["b.csv"], {"data.train": "b.csv"}),
    "validation_file": (WATCHED, ["other.json"], {"data.dev": "other.json"}),
    "prompt_column": ([], ["question"], {"data.prompt_column": "question"}),
    "response_column": ([], ["answer"], {"data.response_column": "answer"}),
    "history_column": ([], ["history"], {"data.history_column": "history"}),
    "source_prefix": ([], ["写广告："], {"data.source_prefix": "写广告："}),
    "model_name_or_path": ([], ["other"], {"model.path": "other"}),
    "ptuning_checkpoint": (TUNED_PREFIX, ["old/checkpoint-1"], {"tune.adapter": "old/checkpoint-1"}),
    "output_dir": ([], ["elsewhere"], {"output": "elsewhere"}),
    "max_source_length": ([], ["64"], {"data.max_source_length": 64}),
    "max_target_length": ([], ["32"], {"data.max_target_length": 32}),
    "per_device_train_batch_size": ([], ["2"], {"train.batch_size": 2, "train.micro_batch_size": 2}),
    "gradient_accumulation_steps": ([], ["16"], {"train.batch_size": 128}),
    "max_steps": (TUNED_PREFIX, ["3000"], {"train.steps": 3000}),
    "num_train_epochs": ([], ["1.5"], {"train.epochs": 1.5}),
    "save_steps": ([], ["1000"], {"train.save_every": 1000, "train.evaluate_every": 1000}),
    "save_total_limit": (TUNED_PREFIX, ["3"], {"train.keep_states": 3}),
    "evaluation_strategy": (["--validation_file", "dev.json"], ["epoch"], {"data.dev": "dev.json"}),
    "eval_steps": (WATCHED, ["50"], {"train.evaluate_every": 50}),
    "logging_steps": (WATCHED, ["10"], {"train.evaluate_every": 10}),
    "max_eval_samples": (WATCHED, ["100"], {"data.dev_rows": 100}),
    "learning_rate": ([], ["2e-2"], {"optimizer.learning_rate": 0.02}),
    "lr_scheduler_type": ([], ["cosine_with_restarts"], {"optimizer.schedule": "cosine"}),
    "warmup_steps": ([], ["5"], {"optimizer.warmup_steps": 5}),
    "warmup_ratio": ([], ["0.1"], {"optimizer.warmup_share": 0.1}),
    "weight_decay": ([], ["0.1"], {"optimizer.weight_decay": 0.1}),
    "max_grad_norm": ([], ["0.5"], {"optimizer.clip": 0.5}),
    "pre_seq_len": (TUNED_PREFIX, ["128"], {"tune.length": 128}),
    "prefix_projection": (TUNED_PREFIX, [], {"tune.projection": True}),
    "quantization_bit": (TUNED_PREFIX, ["4"], {"model.quantize": 4}),
    "max_train_samples": ([], ["500"], {"data.train_rows": 500}),
    "bf16": (TUNED_PREFIX, [], {"model.dtype": "bfloat16"}),
    "seed": ([], ["7"], {"train.seed": 7}),
    "gradient_checkpointing": ([], ["false"], {"train.checkpointing": False}),
    "group_by_length": ([], [], {"train.group_by_length": True}),
    "no_cuda": ([*TUNED_PREFIX, *CUDA], [], {"model.device": "cpu", "model.dtype": "float32"}),
    "deepspeed": ([], ["ds.json"], {"engine.deepspeed": "ds.json"}),
    "fp16": (["--deepspeed", "ds.json"], [], {"model.dtype": "float16"}),
}
ASKED: dict[str, tuple[list[str], list[str], dict[str, object]]] = {
    # flag: what else is given, the flag, the knobs of the evaluation that it changes
    "prompt_column": ([], ["question"], {"prompt_column": "question"}),
    "response_column": ([], ["answer"], {"response_column": "answer"}),
    "history_column": ([], ["history"], {"history_column": "history"}),
    "source_prefix": ([], ["写广告："], {"source_prefix": "写广告："}),
    "max_source_length": ([], ["64"], {"max_source_length": 64, "max_length": 193}),
    "max_target_length": ([], ["64"], {"max_target_length": 64, "max_length": 1089}),
    "val_max_target_length": ([], ["64"], {"max_target_length": 64}),
    "per_device_eval_batch_size": ([], ["1"], {"batch_size": 1}),
    "num_beams": ([], ["4"], {"num_beams": 4, "temperature": 0.0, "top_p": 1.0}),
    "generation_num_beams": ([], ["4"], {"num_beams": 4, "temperature": 0.0, "top_p": 1.0}),
    "quantization_bit": ([], ["8"], {"quantize": 8}),
    "pre_seq_len": (CUDA, ["8"], {"dtype": "float16"}),
    "ptuning_checkpoint": (CUDA, ["old"], {"dtype": "float16"}),
    "bf16": ([], [], {"dtype": "bfloat16"}),
    "fp16_full_eval": (CUDA, [], {"dtype": "float16"}),
    "bf16_full_eval": ([], [], {"dtype": "bfloat16"}),
    "seed": ([], ["7"], {"seed": 7}),
    "no_cuda": ([*TUNED_PREFIX, *CUDA], [], {"device": "cpu", "dtype": "float32"}),
}

WRITTEN = {
    # flags whose effect is what is written, or not: the test that shows it
    "do_train": "each_checkpoint_holds_the_prefix_alone_as_the_original_saves_it",
    "do_eval": "do_train_do_eval_and_do_predict_in_one_command_write_all_figures",
    "do_predict": "a_prefix_checkpoint_is_evaluated_on_its_base",
    "test_file": "a_prefix_checkpoint_is_evaluated_on_its_base",
    "max_predict_samples": "do_train_do_eval_and_do_predict_in_one_command_write_all_figures",
    "predict_with_generate": "without_predict_with_generate_the_loss_alone_is_measured",
    "logging_first_step": "logging_steps_says_how_often_and_the_first_step_may_be_logged_too",
    "overwrite_output_dir": "another_run_is_begun_anew_where_the_flag_says_so",
    "resume_from_checkpoint": "a_run_goes_on_from_an_earlier_checkpoint",
}


def flags_of(*words: str) -> tuple[OriginalFlags, bool]:
    """The flags, and whether there is a GPU."""
    return read_flags([*WORDS, *(word for word in words if word != "--cuda")])[0], "--cuda" in words


def flat(values: dict[str, Any], before: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from flat(value, f"{before}{name}.")
        else:
            yield before + name, value


def changed(without: dict[str, Any], given: dict[str, Any]) -> dict[str, object]:
    before = dict(flat(without))
    return {name: value for name, value in flat(given) if before.get(name, "nothing") != value}


def recipe(*words: str) -> dict[str, Any]:
    flags, cuda = flags_of(*words)
    return recipe_from_flags(flags, cuda=cuda).model_dump(mode="json")


def asked(*words: str) -> dict[str, Any]:
    flags, cuda = flags_of(*words)
    return evaluation_section(flags, cuda=cuda).model_dump(mode="json")


@pytest.mark.parametrize("name", RECIPE)
def test_a_flag_changes_its_knobs_of_the_recipe_and_no_other(name: str) -> None:
    others, value, knobs = RECIPE[name]
    assert changed(recipe(*others), recipe(*others, f"--{name}", *value)) == knobs


@pytest.mark.parametrize("name", ASKED)
def test_a_flag_changes_its_knobs_of_the_evaluation_and_no_other(name: str) -> None:
    others, value, knobs = ASKED[name]
    assert changed(asked(*others), asked(*others, f"--{name}", *value)) == knobs


def test_each_process_takes_as_many_rows_as_the_flags_say() -> None:
    flags, _cuda = flags_of("--deepspeed", "ds.json", "--per_device_train_batch_size", "4", "--gradient_accumulation_steps", "4")
    assert recipe_from_flags(flags, cuda=False, processes=3).train.batch_size == 48


def test_every_flag_has_a_test_that_shows_its_effect() -> None:
    assert set(OriginalFlags.model_fields) - set(RECIPE) - set(ASKED) == set(WRITTEN)
    tests = "".join((Path(__file__).parent / name).read_text(encoding="utf-8") for name in ("test_run.py", "test_folder.py"))
    assert [test for test in WRITTEN.values() if f"def test_{test}(" not in tests] == []


def test_the_recipe_computes_what_the_original_computed() -> None:
    found = dict(flat(recipe("--pre_seq_len", "128", "--learning_rate", "2e-2", "--per_device_train_batch_size", "1", "--cuda")))
    assert (found["tune.method"], found["tune.start"], found["tune.prefix_dropout"]) == ("prefix", "random", 0.1)
    assert (found["train.loss_average"], found["train.group_by_length"], found["train.seed"]) == ("micro_batch", False, 42)
    assert (found["optimizer.schedule"], found["optimizer.warmup_steps"], found["optimizer.clip"]) == ("linear", 0, 1.0)
    assert (found["optimizer.weight_decay"], found["data.truncation"], found["data.dev_share"]) == (0.0, "original", 0.0)
    assert found["model.dtype"] == "float16"


def test_the_evaluation_is_the_originals_protocol() -> None:
    found = asked("--max_source_length", "64", "--max_target_length", "64", "--val_max_target_length", "32", *TUNED_PREFIX)
    assert (found["truncation"], found["top_p"], found["temperature"], found["protocol"]) == ("original", 0.7, 0.95, "chatglm-6b")
    assert (found["max_length"], found["max_target_length"], found["dtype"]) == (129, 32, "float32")


def test_without_a_prefix_all_parameters_are_tuned_in_float32() -> None:
    found = recipe("--cuda", "--fp16", "--max_steps", "5000")
    assert (found["tune"], found["model"]["dtype"], found["train"]["evaluate_every"]) == ({"method": "full"}, "float32", 5000)
    assert found["train"]["keep_states"] == 2


@pytest.mark.parametrize(("kind", "schedule", "warmup"), [("constant", "constant", 0), ("constant_with_warmup", "constant", 9)])
def test_a_constant_rate_has_a_warm_up_only_where_its_name_says_so(kind: str, schedule: str, warmup: int) -> None:
    found = recipe("--lr_scheduler_type", kind, "--warmup_steps", "9")["optimizer"]
    assert (found["schedule"], found["warmup_steps"]) == (schedule, warmup)


def test_a_warm_up_counted_in_steps_wins_over_one_by_share() -> None:
    found = recipe("--warmup_ratio", "0.1", "--warmup_steps", "9")["optimizer"]
    assert (found["warmup_steps"], found["warmup_share"], found["warmup_from_zero"]) == (9, None, True)
    assert recipe("--lr_scheduler_type", "constant", "--warmup_ratio", "0.1")["optimizer"]["warmup_share"] is None


@pytest.mark.parametrize("kind", ["linear", "cosine", "constant_with_warmup"])
@pytest.mark.parametrize("warmup", [["--warmup_steps", "4"], ["--warmup_ratio", "0.37"], ["--warmup_steps", "40"], []])
def test_every_step_has_the_rate_that_transformers_gives_it(kind: str, warmup: list[str]) -> None:
    steps = 10
    weight = torch.nn.Parameter(torch.zeros(1))
    section = recipe_from_flags(flags_of("--lr_scheduler_type", kind, "--learning_rate", "2e-2", *warmup)[0], cuda=False).optimizer
    engine = Engine.start(torch.nn.ParameterList([weight]), {"weight": weight}, section, steps, device=torch.device("cpu"))
    before = int(warmup[1]) if warmup[:1] == ["--warmup_steps"] else 4 if warmup else 0
    past = [(done - before) / max(steps - before, 1) for done in range(steps)]
    falls = {"linear": [1 - share for share in past], "cosine": [0.5 + 0.5 * math.cos(math.pi * share) for share in past]}
    expected = [done / before if done < before else falls.get(kind, [1.0] * steps)[done] for done in range(steps)]
    assert [engine.learning_rate(step) / 2e-2 for step in range(1, steps + 1)] == pytest.approx(expected)


def test_no_limit_of_the_gradient_is_one_that_is_never_reached() -> None:
    assert recipe("--max_grad_norm", "0")["optimizer"]["clip"] >= 1e9


# What is refused before anything is loaded


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        ([], "there is nothing to do. Give --do_train, --do_eval or --do_predict."),
        (["--do_eval"], "--do_eval needs --validation_file"),
        (["--do_predict"], "--do_predict needs --test_file"),
        (["--do_train", "--evaluation_strategy", "steps"], "--do_eval needs --validation_file"),
        (["--do_train"], "--model_name_or_path base: there is no such folder, and it is no name of a model of the hub (owner/name)."),
        (["--do_train", "--quantization_bit", "4"], "--quantization_bit: quantized weights cannot be tuned. Give --pre_seq_len"),
    ],
)
def test_what_cannot_be_done_is_a_sentence(words: list[str], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        check_flags(flags_of(*words)[0])
    assert sentence in str(caught.value)


def test_a_missing_file_and_missing_columns_are_told_together() -> None:
    flags = read_flags(["--model_name_or_path", "embedded", "--output_dir", "out", "--do_train"])[0]
    with pytest.raises(UserError) as caught:
        check_flags(flags)
    english = str(caught.value).splitlines()[:3]
    assert [line.split()[0] for line in english] == ["--do_train", "--prompt_column", "--response_column"]


@pytest.mark.parametrize("name", TUNED)
def test_a_prefix_of_another_length_than_asked_for_is_told_with_its_length(name: str, tmp_path: Path) -> None:
    case = Case(name)
    assert case.adapter is not None
    length = {"chatglm1-ptuning": 4, "chatglm1-ptuning-projection": 6}[name]
    (tmp_path / "checkpoint-7").mkdir()
    (tmp_path / "checkpoint-7" / "pytorch_model.bin").write_bytes(case.adapter.read_bytes())
    given = ["--do_train", "--model_name_or_path", str(case.folder), "--ptuning_checkpoint", str(tmp_path / "checkpoint-7")]
    check_flags(flags_of(*given, "--pre_seq_len", str(length))[0])
    check_flags(flags_of(*given)[0])
    with pytest.raises(UserError, match=rf"--pre_seq_len 128: the prefix in .*checkpoint-7 has {length} tokens\. Give {length}, or"):
        check_flags(flags_of(*given, "--pre_seq_len", "128")[0])


def test_a_checkpoint_that_holds_a_prefix_alone_is_no_model(tmp_path: Path) -> None:
    case = Case("chatglm1-ptuning")
    assert case.adapter is not None
    folder = write_config(tmp_path / "checkpoint-3000", {})
    (folder / "pytorch_model.bin").write_bytes(case.adapter.read_bytes())
    with pytest.raises(UserError, match=r"holds a prefix alone, a few MB\. Give it as --ptuning_checkpoint, and the base"):
        check_flags(flags_of("--do_train", "--model_name_or_path", str(folder), "--pre_seq_len", "4")[0])


def test_a_base_that_was_copied_half_is_a_sentence(tmp_path: Path) -> None:
    folder = write_config(tmp_path / "base", {})
    (folder / "model.safetensors").write_bytes((Case("chatglm1-base").folder / "model.safetensors").read_bytes()[:5000])
    with pytest.raises(UserError, match=r"model\.safetensors: is damaged or not a safetensors file"):
        check_flags(flags_of("--do_train", "--model_name_or_path", str(folder), "--pre_seq_len", "4")[0])


# Checkpoints of all weights, as the original saved before April 2023


def old_checkpoint(folder: Path, how: str) -> Path:
    network = small_network()
    encoder = init_prefix(network, PrefixShape.from_network(network, 5, projection=False), "random", [])
    write_config(folder, {})
    tensors = {"lm_head.weight": torch.zeros(2), **{name: tensor.detach() for name, tensor in encoder.named_tensors().items()}}
    if how == "one":
        torch.save(tensors, folder / "pytorch_model.bin")
    elif how == "safetensors":
        save_file(tensors, folder / "model.safetensors")
    else:
        for number, (name, tensor) in enumerate(tensors.items()):
            torch.save({name: tensor}, folder / f"{number}.bin")
        weight_map = {name: f"{number}.bin" for number, name in enumerate(tensors)}
        (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"weight_map": weight_map}))
    return folder


@pytest.mark.parametrize("how", ["one", "shards", "safetensors"])
def test_the_prefix_inside_a_checkpoint_of_all_weights_is_found(how: str, tmp_path: Path) -> None:
    folder = old_checkpoint(tmp_path / "checkpoint-3000", how)
    flags = flags_of("--model_name_or_path", str(folder), "--pre_seq_len", "5")[0]
    assert prefix_file(flags) == folder
    assert prefix_file(flags_of("--model_name_or_path", str(folder))[0]) is None
    assert prefix_file(flags_of("--model_name_or_path", str(Case("chatglm1-base").folder), "--pre_seq_len", "5")[0]) is None


def test_a_length_that_is_not_that_of_the_prefix_inside_shards_is_told(tmp_path: Path) -> None:
    folder = old_checkpoint(tmp_path / "checkpoint-3000", "shards")
    with pytest.raises(UserError, match="has 5 tokens"):
        check_flags(flags_of("--do_train", "--model_name_or_path", str(folder), "--pre_seq_len", "8")[0])
