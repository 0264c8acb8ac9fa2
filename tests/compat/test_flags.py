import json
from pathlib import Path

import pytest

from imprint.compat.flags import OriginalFlags, read_flags
from imprint.compat.ignored_flags import IGNORED_FLAGS
from imprint.messages import UserError

NEEDED = ["--model_name_or_path", "base", "--output_dir", "out"]


def flags(*words: str) -> OriginalFlags:
    return read_flags([*NEEDED, *words])[0]


def refusal(*words: str) -> str:
    with pytest.raises(UserError) as caught:
        flags(*words)
    return str(caught.value)


def test_defaults_are_those_of_the_original() -> None:
    found = flags()
    assert (found.max_source_length, found.max_target_length, found.val_max_target_length) == (1024, 128, None)
    assert (found.per_device_train_batch_size, found.per_device_eval_batch_size, found.gradient_accumulation_steps) == (8, 8, 1)
    assert (found.learning_rate, found.lr_scheduler_type, found.warmup_steps, found.weight_decay) == (5e-5, "linear", 0, 0.0)
    assert (found.max_steps, found.num_train_epochs, found.logging_steps, found.save_steps) == (-1, 3.0, 500, 500)
    assert (found.seed, found.max_grad_norm, found.pre_seq_len, found.quantization_bit) == (42, 1.0, None, None)


@pytest.mark.parametrize(
    ("words", "name", "value"),
    [
        (["--do_train"], "do_train", True),
        (["--do_train", "True"], "do_train", True),
        (["--do_train=false"], "do_train", False),
        (["--do_train", "--no_do_train"], "do_train", False),
        (["--no_gradient_checkpointing"], "gradient_checkpointing", False),
        (["--pre_seq_len", "8"], "pre_seq_len", 8),
        (["--pre_seq_len=8"], "pre_seq_len", 8),
        (["--pre-seq-len", "8"], "pre_seq_len", 8),
        (["--pre_seq_len", "8", "--pre_seq_len", "16"], "pre_seq_len", 16),
        (["--learning_rate", "2e-2"], "learning_rate", 0.02),
        (["--max_steps", "-1"], "max_steps", -1),
        (["--quantization_bit", "4"], "quantization_bit", 4),
        (["--train_file", "AdvertiseGen/train.json"], "train_file", Path("AdvertiseGen/train.json")),
        (["--source_prefix", ""], "source_prefix", ""),
        (["--per_gpu_train_batch_size", "2"], "per_device_train_batch_size", 2),
        (["--eval_strategy", "steps"], "evaluation_strategy", "steps"),
        (["--use_cpu"], "no_cuda", True),
    ],
)
def test_a_flag_may_be_written_in_every_form_that_the_original_took(words: list[str], name: str, value: object) -> None:
    assert getattr(flags(*words), name) == value


def test_one_json_file_may_hold_all_arguments(tmp_path: Path) -> None:
    file = tmp_path / "arguments.json"
    given = {
        "model_name_or_path": "base",
        "output_dir": "out",
        "do_train": True,
        "pre_seq_len": 8,
        "learning_rate": "1e-2",
        "fp16_opt_level": "O1",
    }
    file.write_text(json.dumps({**given, "train_file": None}))
    found, notes = read_flags([str(file)])
    assert (found.do_train, found.pre_seq_len, found.learning_rate, found.train_file) == (True, 8, 0.01, None)
    assert [note.english.partition(":")[0] for note in notes] == ["--fp16_opt_level"]


@pytest.mark.parametrize(
    ("content", "sentence"), [(None, "there is no such file"), ("{", "cannot be read as JSON"), ("[1]", "must hold one JSON object")]
)
def test_a_json_file_that_holds_no_arguments_is_refused(content: str | None, sentence: str, tmp_path: Path) -> None:
    file = tmp_path / "arguments.json"
    if content is not None:
        file.write_text(content)
    with pytest.raises(UserError, match=sentence):
        read_flags([str(file)])


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--pre_seq_len", "0"], "--pre_seq_len must be at least 1, got 0"),
        (["--pre_seq_len", "long"], '--pre_seq_len must be an integer, got "long"'),
        (["--pre_seq_len", "8", "9"], '--pre_seq_len must be an integer, got ["8", "9"]'),
        (["--pre_seq_len"], "--pre_seq_len must be an integer, got true"),
        (["--learning_rate", "0"], "--learning_rate must be above 0, got 0.0"),
        (["--quantization_bit", "3"], "--quantization_bit must be one of 4, 8, got 3"),
        (["--do_train", "perhaps"], '--do_train must be true or false, got "perhaps"'),
        (["--lr_scheduler_type", "inverse_sqrt"], "--lr_scheduler_type must be one of linear, cosine"),
        (["--max_source_lenght", "64"], "--max_source_lenght is not a flag of the original main.py. Did you mean --max_source_length?"),
        (["--overwrite_cash"], "Did you mean --overwrite_cache?"),
        (["--train_file", ""], "--train_file is empty. Give a path; where it comes from a variable, set the variable."),
        (["--adam_beta1", "0.8"], "--adam_beta1 can only be 0.9 here, got 0.8"),
    ],
)
def test_what_cannot_be_is_a_sentence_that_names_the_flag(words: list[str], sentence: str) -> None:
    assert sentence in refusal(*words)


def test_all_problems_are_told_at_once() -> None:
    with pytest.raises(UserError) as caught:
        read_flags(["--pre_seq_len", "0", "--bogus", "1", "--seed", "x"])
    lines = str(caught.value).splitlines()
    assert len(lines) == 2 * 5, "in English, then in Chinese"
    assert {line.split()[0] for line in lines[:5]} == {"--pre_seq_len", "--bogus", "--seed", "--model_name_or_path", "--output_dir"}


@pytest.mark.parametrize("words", [["train"], ["-x"], ["--do_train", "-x"]])
def test_a_word_that_belongs_to_no_flag_is_refused(words: list[str]) -> None:
    with pytest.raises(UserError, match="belongs to no flag"):
        read_flags(words)


def test_no_flag_is_both_followed_and_retired() -> None:
    assert set(OriginalFlags.model_fields) & set(IGNORED_FLAGS) == set()
