import json
from pathlib import Path

import pytest

from imprint.data.readers.samples import read_samples
from imprint.data.readers.sources import FORMATS, FORMATS_CHINESE
from imprint.data.sample import Sample
from imprint.messages import UserError

GOOD = '{"content": "类型#上衣", "summary": "这件上衣很好看。"}'


def read(file: Path, *, history_column: str | None = None, limit: int | None = None) -> list[Sample]:
    return read_samples(file, prompt_column="content", response_column="summary", history_column=history_column, limit=limit)


FIX = "请修正这些数据；没有读入任何内容。"


def refusal(file: Path, text: str | bytes, *, history_column: str | None = None) -> str:
    """What is said about a file with this text, its path left out."""
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(UserError) as error:
        read(file, history_column=history_column)
    return str(error.value).replace(str(file.parent) + "/", "")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "train.json"


def test_json_lines_are_read_whatever_the_file_is_called(file: Path) -> None:
    file.write_text(f"{GOOD}\n\n{GOOD}\n{GOOD}")

    assert read(file) == [Sample("类型#上衣", "这件上衣很好看。", None, f"{file}:{line}") for line in (1, 3, 4)]


def test_an_array_is_read_with_the_line_where_each_element_starts(file: Path) -> None:
    file.write_text(json.dumps([json.loads(GOOD)] * 3, indent=2, ensure_ascii=False))

    assert [sample.location for sample in read(file)] == [f"{file}:{line}" for line in (2, 6, 10)]


@pytest.mark.parametrize("start", ["\ufeff", "\ufeff\n  "])
def test_a_byte_order_mark_and_blanks_in_front_are_no_text(file: Path, start: str) -> None:
    file.write_bytes(f"{start}{GOOD}\r\n{GOOD}\r\n".encode())

    assert [sample.query for sample in read(file)] == ["类型#上衣"] * 2


def test_other_line_separators_of_unicode_do_not_end_a_row(file: Path) -> None:
    file.write_text('{"content": "a\u2028b\x85c", "summary": "d"}\n')

    assert read(file)[0].query == "a\u2028b\x85c"


def test_a_limit_reads_so_many_rows_and_does_not_look_further(file: Path) -> None:
    file.write_text(f"{GOOD}\n{GOOD}\nbroken")

    assert len(read(file, limit=2)) == 2


def test_a_history_is_turns_and_null_is_none(file: Path) -> None:
    rows = [{"content": "q", "summary": "a", "history": history} for history in ([["你", "好"], ["再", ""]], [], None)]
    file.write_text("\n".join(json.dumps(row) for row in rows))

    assert [sample.history for sample in read(file, history_column="history")] == [(("你", "好"), ("再", "")), (), None]


@pytest.mark.parametrize(
    ("row", "sentence"),
    [
        (
            '{"content": "q"',
            'is not JSON: Expecting \',\' delimiter at column 16, in "{"content": "q"". Each line must be one JSON object.',
        ),
        ('["q", "a"]', 'must be a JSON object with columns, got a list (["q", "a"]).'),
        ('"q"', 'must be a JSON object with columns, got a string ("q").'),
        (
            '{"Content": "q", "summary": "a"}',
            'there is no column "content", which prompt_column names; the columns are: "Content", "summary". Did you mean "Content"?',
        ),
        ('{"content": "q"}', 'there is no column "summary", which response_column names; the columns are: "content".'),
        ("{}", 'there is no column "content", which prompt_column names; the columns are: none.'),
        ('{"content": 7, "summary": "a"}', '"content" must be a text, got a number (7).'),
        ('{"content": "q", "summary": null}', '"summary" must be a text, got null.'),
        ('{"content": "q", "summary": true}', '"summary" must be a text, got a boolean (true).'),
        ('{"content": {"a": 1}, "summary": "a"}', '"content" must be a text, got an object ({"a": 1}).'),
        ('{"content": "q", "summary": " \\n"}', '"summary" must not be empty, got a string (" \\n").'),
        (
            '{"content": "好\\ud83d", "summary": "a"}',
            '"content" holds half a character, \\ud83d, without its other half. Write the whole character.',
        ),
        (
            '{"content": "q", "summary": ' + "1" * 5000 + "}",
            'is not JSON that can be read, too deep or with too long a number: "{"content": "q", "summary": 111111111111...".',
        ),
    ],
)
def test_a_bad_line_is_named_with_its_number(file: Path, row: str, sentence: str) -> None:
    english, chinese = refusal(file, f"{GOOD}\n{row}\n{GOOD}").splitlines()
    assert (english, chinese[-len(FIX) :]) == (f"train.json:2: {sentence} Fix this row; nothing was read.", FIX)


@pytest.mark.parametrize(
    ("history", "sentence"),
    [
        ("你好", '"history" must be a list of [question, answer] pairs, got a string ("你好").'),
        ([["问", "答"], ["问"]], 'turn 2 of "history" must be a [question, answer] pair of texts, got a list (["问"]).'),
        ([["问", 1]], 'turn 1 of "history" must be a [question, answer] pair of texts, got a list (["问", 1]).'),
        ([{"q": "a"}], 'turn 1 of "history" must be a [question, answer] pair of texts, got an object ({"q": "a"}).'),
        (["ab"], 'turn 1 of "history" must be a [question, answer] pair of texts, got a string ("ab").'),
        ([["\ud800", "答"]], '"history" holds half a character, \\ud800, without its other half. Write the whole character.'),
    ],
)
def test_a_history_of_another_shape_is_named(file: Path, history: object, sentence: str) -> None:
    row = json.dumps({"content": "q", "summary": "a", "history": history})

    english, chinese = refusal(file, row, history_column="history").splitlines()
    assert (english, chinese[-len(FIX) :]) == (f"train.json:1: {sentence} Fix this row; nothing was read.", FIX)


def test_all_bad_rows_are_reported_at_once_and_the_list_ends_somewhere(file: Path) -> None:
    text = refusal(file, f"{GOOD}\n" + '{"content": "q", "summary": 1.5}\n' * 13)

    assert text.splitlines() == [
        "train.json: 13 of 14 rows are bad. Fix them; nothing was read.",
        *[f'train.json:{line}: "summary" must be a text, got a number (1.5).' for line in range(2, 12)],
        'and 3 more: 3 × "summary" must be a text',
        f"13 行有问题。{FIX}",
        *[f'train.json:{line}："summary" 须为文本，实际为数字（1.5）。' for line in range(2, 12)],
        '另有 3 行：3 × "summary" 须为文本',
    ]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (f"[{GOOD},\n{GOOD}", "train.json:2: after an element of the array there must be a comma or `]`, but the file ends."),
        (f"[{GOOD}\n{GOOD}]", 'train.json:2: after an element of the array there must be a comma or `]`, but got "' + GOOD[:40]),
        (f"[{GOOD},\n\n oops]", "train.json:3: the array is not JSON from here on: Expecting value at column 2."),
        (f"[{GOOD}]\n{GOOD}", 'train.json:2: nothing may follow the `]` of the array, got "' + GOOD[:40]),
        (f"[{GOOD},\n{{}}]", 'train.json:2: there is no column "content"'),
        ("[", "train.json:1: the array is not JSON from here on: Expecting value at column 2."),
        ("[" * 100_000, "train.json:1: is not JSON that can be read, too deep or with too long a number."),
    ],
)
def test_a_broken_array_is_reported_with_its_line(file: Path, text: str, sentence: str) -> None:
    assert refusal(file, text).startswith(sentence)


@pytest.mark.parametrize("text", ["", "\n \n", "[]", "[ ]\n"])
def test_a_file_without_rows_is_refused(file: Path, text: str) -> None:
    assert (
        refusal(file, text).splitlines()[0]
        == 'train.json holds no rows. It needs at least one, such as {"content": "...", "summary": "..."}.'
    )


@pytest.mark.parametrize("codec", ["gb18030", "gbk", "utf-16", "utf-16-le", "utf-8-sig"])
def test_a_file_in_another_encoding_is_read_as_the_same_rows(file: Path, codec: str) -> None:
    file.write_bytes(GOOD.encode(codec))

    assert read(file) == [Sample("类型#上衣", "这件上衣很好看。", None, f"{file}:1")]


def test_damaged_bytes_in_utf_8_are_named_with_their_lines(file: Path) -> None:
    assert refusal(file, f"{GOOD}\n{GOOD}\n".encode() + b'{"content": "\xff').splitlines()[0] == (
        "train.json:3: byte 0xFF at column 14 is not UTF-8, as the rest of the file is. Fix this row; nothing was read."
    )


def test_a_file_that_is_not_there_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        read(tmp_path / "none.jsonl")

    english, chinese = str(error.value).splitlines()
    assert english == f"{tmp_path}/none.jsonl: there is no such file. Give a file of rows ({FORMATS}), or a folder of such files."
    assert chinese == f"{tmp_path}/none.jsonl：没有这个文件：请给出数据文件（{FORMATS_CHINESE}）或其目录。"


def test_a_folder_without_data_is_reported(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("no rows")

    with pytest.raises(UserError) as error:
        read(tmp_path)

    assert (
        str(error.value).splitlines()[0]
        == f"{tmp_path} is a folder without a data file. Give a file, or a folder with files of rows: {FORMATS}."
    )


def test_a_folder_is_all_its_files_each_in_its_own_shape(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text(GOOD)
    (tmp_path / "b.csv").write_text("question,answer\nq,a\n")

    assert [(sample.query, sample.location) for sample in read(tmp_path)] == [
        ("类型#上衣", f"{tmp_path}/a.jsonl:1"),
        ("q", f"{tmp_path}/b.csv:2"),
    ]


def test_a_conversation_is_a_sample_for_each_answer_and_one_row_of_a_limit(file: Path) -> None:
    turns = [{"role": role, "content": text} for role, text in (("user", "q1"), ("assistant", "a1"), ("user", "q2"), ("assistant", "a2"))]
    file.write_text(json.dumps([{"messages": turns}] * 3))

    assert [(sample.query, sample.history) for sample in read(file, limit=1)] == [("q1", None), ("q2", (("q1", "a1"),))]


def test_a_column_that_somebody_named_is_not_replaced_by_a_shape_that_fits(file: Path) -> None:
    file.write_text('{"prompt": "q", "response": "a"}')

    with pytest.raises(UserError) as error:
        read_samples(file, prompt_column="ask", response_column="response")

    assert str(error.value).splitlines()[0] == (
        f'{file}:1: there is no column "ask", which prompt_column names; the columns are: "prompt", "response". '
        'The row has a known shape ("prompt" is the question, "response" the answer): leave prompt_column out to read it. '
        "Fix this row; nothing was read."
    )


def test_real_rows_are_read_in_every_encoding_and_shape_they_come_in(shared: Path) -> None:
    counts = {"adgen/dev.jsonl": 1070, "adgen/dev.gb18030.json": 200, "identity": 98, "instruct/oasst_zh.json": 689}

    assert {name: len(read(shared / "data" / name)) for name in counts} == counts
    assert [sample.query for sample in read(shared / "data" / "adgen" / "dev.gb18030.json")] == [
        sample.query for sample in read(shared / "data" / "adgen" / "dev.jsonl", limit=200)
    ]


def test_a_path_through_a_file_is_reported(file: Path) -> None:
    file.write_text(GOOD)

    with pytest.raises(UserError, match="cannot be read: Not a directory"):
        read(file / "train.jsonl")
