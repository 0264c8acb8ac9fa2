import json
import re
import shlex
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

import imprint.data.placeholders as placeholders_module
from imprint.config import read_overrides
from imprint.data.dataset import load_samples
from imprint.data.long_rows import MAX_TEXT
from imprint.data.placeholders import PLACEHOLDER, fill_placeholders, refuse_unused_fill, unfilled_notes
from imprint.data.readers.samples import read_samples
from imprint.data.sample import Sample
from imprint.data.section import DataSection
from imprint.evaluate.command import read_data
from imprint.evaluate.section import EvaluateSection
from imprint.messages import UserError
from imprint.templates import Message

TEXTS = {"name": "小墨", "author": "青竹工坊"}


def sample(query: str, answer: str, place: str = "rows.jsonl:1") -> Sample:
    return Sample(query, answer, None, place)


def published(shared: Path, name: str) -> list[Sample]:
    return read_samples(shared / "data" / "identity" / f"{name}.json", prompt_column="instruction", response_column="output")


@pytest.mark.parametrize(
    ("written", "filled"),
    [
        ("我是{name}，{author}做的", "我是小墨，青竹工坊做的"),
        ("{{name}} and {{ author }}", "小墨 and 青竹工坊"),
        ('{"name": 1} {} { name } {名字} {1}', '{"name": 1} {} { name } {名字} {1}'),
        ("<NAME>由[AUTHOR]开发，{{NAME}}", "小墨由青竹工坊开发，小墨"),
        ("<name> [Name] <BR> [MASK] < NAME >", "<name> [Name] <BR> [MASK] < NAME >"),
    ],
)
def test_a_placeholder_is_a_name_in_braces_or_one_that_is_asked_for_in_capitals(written: str, filled: str) -> None:
    assert [found.answer for found in fill_placeholders([sample("?", written)], TEXTS)] == [filled]


def test_every_text_of_a_row_is_filled() -> None:
    row = Sample("{name}?", "{name}", (("a {name}", "b {author}"),), "rows.jsonl:3", "be {name}")
    assert fill_placeholders([row], TEXTS) == [Sample("小墨?", "小墨", (("a 小墨", "b 青竹工坊"),), "rows.jsonl:3", "be 小墨")]


def test_a_text_is_put_in_as_it_is() -> None:
    assert (
        fill_placeholders([sample("?", r"{name}{author}")], {"name": r"\1{author}", "author": "{author}"})[0].answer
        == r"\1{author}{author}"
    )


def test_placeholders_without_a_text_are_reported_together_with_their_locations() -> None:
    rows = [sample("?", "{author}", f"rows.jsonl:{line}") for line in range(1, 9)] + [sample("{firm}", "x", "rows.jsonl:9")]
    with pytest.raises(UserError) as caught:
        fill_placeholders(rows, {"name": "小墨"})
    author, firm, _, chinese = str(caught.value).splitlines()
    assert author.startswith(
        "rows.jsonl:1, rows.jsonl:2, rows.jsonl:3, rows.jsonl:4, rows.jsonl:5 and 3 more: holds {author}, and data.fill"
    )
    keep = "'data.fill.author=\"{author}\"'"
    assert f"it has name. Add data.fill.author=..., or keep it as it is with {keep}." in author
    section = read_overrides(["train=rows.jsonl", *(word.removeprefix("data.") for word in shlex.split(keep))], DataSection)
    assert section.fill == {"author": "{author}"}
    assert firm.startswith("rows.jsonl:9: holds {firm}")
    assert "data.fill.firm=" in chinese
    assert f"data.fill.author=...；若要原样保留，请设 {keep}。" in str(caught.value)


def test_a_text_that_no_row_asks_for_is_a_typing_mistake() -> None:
    refuse_unused_fill([sample("{name}", "{author}")], TEXTS, Path("rows.jsonl"))
    with pytest.raises(UserError, match=r"data\.fill\.nmae: no row of rows\.jsonl holds \{nmae\}; found \{author\}, \{name\}\. Correct"):
        refuse_unused_fill([sample("{name}", "{author}")], {**TEXTS, "nmae": "小墨"}, Path("rows.jsonl"))
    with pytest.raises(UserError, match="found no placeholder at all"):
        refuse_unused_fill([sample("?", "!")], TEXTS, Path("rows.jsonl"))


def test_unfilled_identity_placeholders_are_reported_and_code_is_not() -> None:
    assert unfilled_notes([sample("print(f'{x}')", "{value}")], Path("rows.jsonl")) == []
    (sentence,) = unfilled_notes([sample("{name}", "a"), sample("b", "{author}{x}")], Path("rows.jsonl"))
    assert sentence.startswith("rows.jsonl: 2 rows hold {name} and {author}, which is learned as it is; data.fill.name=... replaces")


def test_names_are_case_insensitive(shared: Path) -> None:
    rows = published(shared, "self_cognition_80")
    refuse_unused_fill(rows, {"NAME": "小墨", "AUTHOR": "青竹工坊"}, Path("rows.json"))
    filled = fill_placeholders(rows, {"name": "小墨", "Author": "青竹工坊"})
    assert filled[0].answer == rows[0].answer.replace("<NAME>", "小墨").replace("<AUTHOR>", "青竹工坊")
    assert not any("<NAME>" in row.answer or "<AUTHOR>" in row.answer for row in filled)
    (sentence,) = unfilled_notes(rows, Path("rows.json"))
    assert sentence.startswith("rows.json: 74 rows hold {name} and {author}")
    (of_2023,) = unfilled_notes(published(shared, "self_cognition_18"), Path("rows.json"))
    assert of_2023.startswith("rows.json: 18 rows hold {name}, which")


def test_a_sample_names_each_of_its_placeholders_once() -> None:
    with pytest.raises(UserError, match=r"found \{author\}, \{name\}\. Correct"):
        refuse_unused_fill([sample("{name} {name}", "{{author}}")], {"nmae": "小墨"}, Path("rows.jsonl"))


def test_what_is_said_with_tools_is_filled_too() -> None:
    row = Sample(
        "{name}?", "{}", None, "", context=(Message("system", "{author}", tools=({"name": "{name}"},)), Message("user", "{name}?"))
    )
    (filled,) = fill_placeholders([row], TEXTS)
    assert filled.messages == [Message("system", "青竹工坊", tools=({"name": "{name}"},)), Message("user", "小墨?")]


def test_rows_that_filling_makes_too_long_are_refused_before_they_are_filled() -> None:
    rows = [sample("?", "{name}" * 20, f"rows.jsonl:{line}") for line in range(1, 8)] + [sample("?", "{name}", "rows.jsonl:8")]
    with pytest.raises(UserError) as caught:
        fill_placeholders(rows, {"name": "墨" * (MAX_TEXT // 10)})
    english, chinese = str(caught.value).splitlines()
    assert english.startswith(
        "rows.jsonl:1, rows.jsonl:2, rows.jsonl:3, rows.jsonl:4, rows.jsonl:5 and 2 more: has up to 4,000,001 characters"
    )
    assert "a row has at most 2,000,000, about a million tokens. Give data.fill shorter texts" in english
    assert chinese.startswith("rows.jsonl:1, rows.jsonl:2, rows.jsonl:3, rows.jsonl:4, rows.jsonl:5 等 7 处：用 data.fill 填写占位符后")
    beyond_memory = [sample("{a}" * (MAX_TEXT // 4), "!")]
    with pytest.raises(UserError, match=r"^rows.jsonl:1: has up to 999,999,500,001 characters"):
        fill_placeholders(beyond_memory, {"a": "墨" * (MAX_TEXT - 1)})


def test_the_texts_before_a_question_count_when_they_are_filled() -> None:
    part = "墨" * (MAX_TEXT // 2)
    for row in (
        Sample("?", "{name}", (("{name}", "!"),), "rows.jsonl:3"),
        Sample("{name}", "!", None, "rows.jsonl:3", "{name}"),
        Sample("?", "!", None, "rows.jsonl:3", context=(Message("system", "{name}"), Message("user", "{name}?"))),
        Sample("?", "{name}", None, "rows.jsonl:3", further_messages=(Message("assistant", "{name}", "天气"),)),
    ):
        with pytest.raises(UserError, match=r"rows.jsonl:3: has up to 2,000,0"):
            fill_placeholders([Sample("?", "!", None, "rows.jsonl:3"), row], {"name": part})


def test_samples_of_a_conversation_share_the_texts_that_are_filled() -> None:
    turn = ("{name}?", "{author}")
    first, second = fill_placeholders([Sample(*turn, None, "rows.jsonl:1"), Sample("?", "!", (turn,), "rows.jsonl:1")], TEXTS)
    assert second.history is not None
    assert second.history[0][0] is first.query


class CountedPattern:
    """PLACEHOLDER, which counts the texts that it searches."""

    def __init__(self) -> None:
        self.searched = 0

    def finditer(self, text: str) -> Iterator[re.Match[str]]:
        self.searched += 1
        return PLACEHOLDER.finditer(text)

    def sub(self, replaced: Callable[[re.Match[str]], str], text: str) -> str:
        self.searched += 1
        return PLACEHOLDER.sub(replaced, text)


def conversation(turns: int, answer: str = "a{name}", place: str = "rows.jsonl:1") -> list[Sample]:
    pairs = [(f"q{turn}{{author}}", f"{answer}{turn}") for turn in range(turns)]
    return [Sample(*pair, tuple(pairs[:turn]) or None, place, "be {name}") for turn, pair in enumerate(pairs)]


def test_each_text_of_a_long_conversation_is_searched_a_few_times_whatever_the_number_of_its_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    samples, pattern = conversation(200), CountedPattern()
    monkeypatch.setattr(placeholders_module, "PLACEHOLDER", pattern)
    fill_placeholders(samples, TEXTS)
    refuse_unused_fill(samples, TEXTS, Path("rows.jsonl"))
    (note,) = unfilled_notes(samples, Path("rows.jsonl"))
    assert note.startswith("rows.jsonl: 200 rows hold {name} and {author}")
    assert pattern.searched < 20 * 400, "all texts before each answer would be 40,000 for each search"
    pattern.searched = 0
    refuse_unused_fill(samples, {}, Path("rows.jsonl"))
    assert pattern.searched == 0


def test_a_note_counts_the_answers_from_the_first_placeholder_of_a_conversation_on() -> None:
    pairs = [("a", "b"), ("{name}", "c"), ("d", "e")]
    rows = [Sample(*pair, tuple(pairs[:turn]) or None, "rows.jsonl:1") for turn, pair in enumerate(pairs)]
    (note,) = unfilled_notes([*rows, sample("f", "g", "rows.jsonl:2")], Path("rows.jsonl"))
    assert note.startswith("rows.jsonl: 2 rows hold {name}, which")


def test_samples_of_a_conversation_share_their_filled_turns_and_keep_those_without_placeholders() -> None:
    _first, second, third = fill_placeholders(conversation(3), TEXTS)
    assert third.history == (("q0青竹工坊", "a小墨0"), ("q1青竹工坊", "a小墨1"))
    assert second.history is not None
    assert third.history[0] is second.history[0]
    plain = [replace(one, query="?", history=(("q", "a"), ("{x}", "b"))) for one in conversation(2)]
    assert all(filled.history is one.history for filled, one in zip(fill_placeholders(plain, {**TEXTS, "x": "{x}"}), plain, strict=True))


def test_equal_texts_of_all_rows_are_filled_once() -> None:
    first, second = fill_placeholders([sample("?", "{name}!", "rows.jsonl:1"), sample("?", "{name}!", "rows.jsonl:2")], TEXTS)
    assert first.answer is second.answer


def test_turns_of_a_row_that_do_not_continue_each_other_are_all_filled() -> None:
    rows = [Sample("?", "!", (("{name}", "1"), ("2", "3")), "rows.jsonl:1"), Sample("?", "!", (("{author}", "4"),), "rows.jsonl:1")]
    assert [found.history for found in fill_placeholders(rows, TEXTS)] == [(("小墨", "1"), ("2", "3")), (("青竹工坊", "4"),)]


def test_texts_that_would_fill_the_memory_together_are_refused_before_they_are_filled() -> None:
    rows = [sample(f"q{line}", f"{{name}}{line}", f"rows.jsonl:{line}") for line in range(1, 1501)]
    text = "墨" * (MAX_TEXT - 100)
    with pytest.raises(UserError) as caught:
        fill_placeholders(rows, {"name": text, "author": "青竹"})
    english, chinese = str(caught.value).splitlines()
    assert english.startswith(
        "data.fill: adds 2,999,841,000 characters to the rows, at most 200,000,000; its longest text, data.fill.name, "
    )
    assert english.endswith(" has 1,999,900. Give shorter texts, or fewer rows.")
    assert chinese.startswith(
        "data.fill：会给数据增加 2,999,841,000 个字符，最多 200,000,000 个；其中最长的 data.fill.name 有 1,999,900 个"
    )
    same = [replace(row, answer="{name}") for row in rows]
    assert len({id(row.answer) for row in fill_placeholders(same, {"name": text})}) == 1, "one text, in memory once"


def test_training_and_evaluation_refuse_rows_that_filling_makes_too_long(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(json.dumps({"content": "你是谁?", "summary": "{name}{name}"}), encoding="utf-8")
    fill = {"name": "墨" * MAX_TEXT}
    with pytest.raises(UserError, match=r"rows.jsonl:1: has up to 4,000,004 characters"):
        load_samples(DataSection(train=file, dev_share=0, fill=fill))
    with pytest.raises(UserError, match=r"rows.jsonl:1: has up to 4,000,004 characters"):
        read_data(EvaluateSection(prompt_column="content", response_column="summary", fill=fill), file, None)
