import json
from pathlib import Path

import pytest

from imprint.data import encode_original, encode_original_evaluation
from imprint.data.original import encode_evaluation_sample_original, encode_sample_original
from imprint.messages import UserError
from imprint.templates.chatglm import format_chatglm_prompt
from imprint.templates.chatglm2 import format_rounds_from_one
from tests.data.official import SHARED, TURNS, golden, official, official_tokenizer, sample
from tests.families import template_of
from tests.vocabulary import tiny_template, tiny_tokenizer


@pytest.mark.shared
@official
@pytest.mark.parametrize(("part", "rows"), [("preprocess", 50), ("history", 10)])
def test_training_rows_equal_the_original(part: str, rows: int) -> None:
    assert len(golden(part)) == rows
    for row in golden(part):
        ids, labels = encode_original(
            official_tokenizer(),
            row.get("query", row["prompt"]),
            row["response"],
            row.get("history"),
            row["max_source_length"],
            row["max_target_length"],
        )
        padding = len(row["input_ids"]) - len(ids)

        assert ids + [3] * padding == row["input_ids"]
        assert labels + [-100] * padding == row["labels"]


@pytest.mark.shared
@official
def test_evaluation_rows_equal_the_original() -> None:
    lengths = [(row["max_source_length"], row["max_target_length"]) for row in golden("evaluation")]
    found = [
        encode_original_evaluation(official_tokenizer(), row["query"], row["response"], None, source, target)
        for row, (source, target) in zip(golden("evaluation"), lengths, strict=True)
    ]

    assert len(found) == 25
    assert found == [(row["input_ids"], row["reference"]) for row in golden("evaluation")]


def test_the_original_trains_an_empty_history_as_a_round_and_evaluates_it_as_the_bare_query() -> None:
    tokenizer = tiny_tokenizer()
    special = tokenizer.control

    trained, _ = encode_original(tokenizer, "你好", "好", [], 64, 64)
    evaluated, _ = encode_original_evaluation(tokenizer, "你好", "好", [], 64, 64)

    assert tokenizer.decode(trained[: trained.index(special.gmask)]) == "[Round 0]\n问:你好\n答:"
    assert evaluated == [*tokenizer.encode("你好"), special.gmask, special.sop]


def test_the_original_scores_the_start_of_the_answer_too() -> None:
    tokenizer = tiny_tokenizer()
    special = tokenizer.control

    ids, labels = encode_original(tokenizer, "你好", "好", None, 64, 64)

    assert ids == [*tokenizer.encode("你好"), special.gmask, special.sop, *tokenizer.encode("好"), special.eop]
    assert labels == [-100] * (len(tokenizer.encode("你好")) + 1) + [special.sop, *tokenizer.encode("好"), special.eop]


def test_the_original_cuts_the_end_of_the_prompt_and_says_so_here() -> None:
    tokenizer = tiny_tokenizer()
    long = sample(answer="好😀😀", history=TURNS)
    whole = tokenizer.encode(format_chatglm_prompt(long.query, TURNS))

    row = encode_sample_original(tiny_template(), long, max_source_length=20, max_target_length=6)

    assert row.ids[:19] == tuple(whole[:19])
    assert (row.cut_prompt_tokens, row.cut_answer_tokens) == (len(whole) - 19, len(tokenizer.encode(long.answer)) - 4)
    assert row.cut


@pytest.mark.shared
@official
def test_a_row_of_somebody_elses_training_log_holds() -> None:
    pairs = json.loads((SHARED / "tokenizers" / "known_pairs.json").read_text(encoding="utf-8"))
    (pair,) = (pair for pair in pairs if "response" in pair)

    ids, labels = encode_original(official_tokenizer(), pair["text"], pair["response"], None, 64, 64)

    assert ids + [3] * (128 - len(ids)) == pair["ids"]
    assert labels == [-100] * 22 + ids[22:]


def test_chatglm2_cuts_the_text_behind_its_frame_and_keeps_the_whole_target_length(tmp_path: Path) -> None:
    template = template_of("chatglm2", tmp_path)
    start = [template.tokenizer.controls["[gMASK]"], template.tokenizer.controls["sop"]]
    long = sample(answer="好😀😀", history=TURNS)
    whole, answer = template.tokenizer.encode(format_rounds_from_one(long.query, TURNS)), template.tokenizer.encode(long.answer)

    row = encode_sample_original(template, long, max_source_length=20, max_target_length=6)
    prompt, reference = encode_evaluation_sample_original(template, long, max_source_length=20, max_target_length=6)

    assert list(row.ids) == [*start, *whole[:18], *answer[:6], 2]
    assert list(row.labels) == [-100] * 20 + [*answer[:6], 2]
    assert (row.cut_prompt_tokens, row.cut_answer_tokens) == (len(whole) - 18, len(answer) - 6)
    assert prompt.ids == [*start, *whole[:18]]
    assert reference == template.tokenizer.decode(answer[:4])


def test_chatglm2_trains_no_history_as_it_trains_an_empty_one(tmp_path: Path) -> None:
    template = template_of("chatglm2", tmp_path)
    limits = {"max_source_length": 64, "max_target_length": 64}
    one, other = (encode_sample_original(template, sample(history=history), **limits) for history in (None, ()))  # type: ignore[arg-type]
    assert one == other
    assert not one.cut


@pytest.mark.parametrize("name", ["chatglm3", "glm4", "own", "plain"])
def test_families_without_such_a_script_refuse_it(tmp_path: Path, name: str) -> None:
    template = template_of(name, tmp_path)
    with pytest.raises(UserError, match=f"what ptuning/main.py of ChatGLM-6B and ChatGLM2-6B does, and this model's template is {name}"):
        encode_sample_original(template, sample(), max_source_length=64, max_target_length=64)
    with pytest.raises(UserError, match="tokenizer: must be that of ChatGLM-6B"):
        encode_original(template.tokenizer, "你好", "好", None, 64, 64)
