import pytest

from imprint.check.repair import RepairedRow, repair_row
from imprint.data.readers.bad_rows import BadRowError
from imprint.data.shapes import Columns, RowShape, detect_shape
from imprint.messages import Bilingual
from tests.check.rows import row

NAMED = detect_shape({"content": "", "summary": ""}, Columns())
TURNS = RowShape("conversation", "messages")


def repair(value: object, shape: RowShape = NAMED) -> RepairedRow:
    return repair_row(value, shape, "a:1")


def reason(repaired: RepairedRow) -> str:
    assert repaired.problem is not None
    return repaired.problem.english


def unreadable(line: str) -> BadRowError:
    problem = BadRowError(Bilingual("is not JSON.", "不是 JSON。"))
    problem.text = line
    return problem


def turns(*said: tuple[str, str]) -> dict[str, object]:
    return {"messages": [{"role": role, "content": content} for role, content in said]}


def test_a_good_row_is_unchanged() -> None:
    repaired = repair(row("问", "答"))
    assert (repaired.row, repaired.repairs, repaired.problem) == (row("问", "答"), frozenset(), None)


@pytest.mark.parametrize(
    ("value", "expected", "repairs"),
    [
        (row(" 问 ", "答\n"), row("问", "答"), {"blanks"}),
        (row("问\0", "答\ufeff"), row("问", "答"), {"stray"}),
        (row("问", "答<eop>"), row("问", "答"), {"tokens"}),
        (row("ä½\xa0å¥½", "答"), row("你好", "答"), {"garbled"}),
        (row(42, 3.5), row("42", "3.5"), {"numbers"}),
        ({" content": "问", "Summary": "答"}, row("问", "答"), {"columns"}),
        ({"\ufeffcontent": "问", "summary": "答"}, row("问", "答"), {"columns"}),
        (unreadable('{"content": "问", "summary": "答"},'), row("问", "答"), {"json"}),
        (unreadable('{"content": "问,}", "summary": "\\",]\\\\",}'), row("问,}", '",]\\'), {"json"}),
        (unreadable("{'content': '问', 'summary': '答'}"), row("问", "答"), {"json"}),
        (unreadable('{"content": "问", "summary": "一\t二"}'), row("问", "一\t二"), {"json"}),
        (
            unreadable('{"content": "问题", "summary": "答"}'.encode("gb18030").decode("utf-8", "surrogateescape")),
            row("问题", "答"),
            {"encoding"},
        ),
    ],
)
def test_what_leaves_no_doubt_is_repair(value: object, expected: dict[str, object], repairs: set[str]) -> None:
    repaired = repair(value)
    assert repaired.row == expected
    assert repaired.repairs == repairs
    assert repaired.samples


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        (row("问", " "), '"summary" must not be empty'),
        (row("<eop>", "答"), '"content" must not be empty'),
        (row(None, "答"), '"content" must be a text'),
        (row(True, "答"), '"content" must be a text'),
        (row("问", "丢\ufffd了"), 'has lost a character, in "丢\ufffd了"'),
        ({"summary": "答"}, 'there is no column "content"'),
        ({"Content": "一", "CONTENT": "二", "summary": "答"}, 'there is no column "content"'),
        (unreadable('{"content": "问'), "is not JSON."),
        (unreadable('{"content": "a", "content": "b", "summary": "c"}'), "is not JSON."),
        (unreadable('{"content": "中文中文中\udcff", "summary": "答"}'), "is not JSON."),
        (unreadable("[1]"), "is not JSON."),
        (unreadable("{1: 2}"), "is not JSON."),
        (unreadable("{'a': __import__('os')}"), "is not JSON."),
        (unreadable("{" * 5000), "is not JSON."),
    ],
)
def test_an_ambiguous_row_stays_bad_with_a_reason(value: object, problem: str) -> None:
    repaired = repair(value)
    assert not repaired.samples
    assert reason(repaired).startswith(problem)


def test_a_last_question_without_an_answer_is_dropped() -> None:
    repaired = repair(turns(("user", "问"), ("assistant", "答 "), ("user", "再问")), TURNS)
    assert repaired.row == turns(("user", "问"), ("assistant", "答"))
    assert repaired.repairs == {"unanswered", "blanks"}
    assert reason(repair(turns(("user", "问")), TURNS)).startswith('"messages" ends with the user')


def test_a_conversation_in_which_nothing_is_learned_is_no_row() -> None:
    said = [{"role": "user", "content": "问"}, {"role": "assistant", "content": "答", "loss": False}]
    assert reason(repair({"messages": said}, TURNS)) == "has no answer to learn from."


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None, True, ["a"]])
def test_what_is_no_text_becomes_no_text(value: object) -> None:
    assert reason(repair(row("问", value))).startswith('"summary" must be a text, got')
    assert reason(repair(row(value, "答"))).startswith('"content" must be a text, got')


def test_a_number_as_input_is_its_text_and_nan_is_none() -> None:
    shape = detect_shape({"instruction": "", "input": "", "output": ""}, Columns())

    for more, query, repairs in ((3, "介绍\n3", {"numbers"}), (float("nan"), "介绍", set())):
        found = repair_row({"instruction": "介绍", "input": more, "output": "好"}, shape, "f:1")
        assert (found.samples[0].query, found.repairs) == (query, frozenset(repairs))


@pytest.mark.parametrize("line", ['{"content": "q", "summary": "a", "x": %s}', "{'content': 'q', 'summary': 'a', 'x': %s}"])
def test_a_line_that_is_nested_too_deeply_stays_bad(line: str) -> None:
    assert reason(repair(unreadable(line % ("[" * 150 + "]" * 150)))) == "is not JSON."
