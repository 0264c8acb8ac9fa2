import re

import pytest

from imprint.serve.generation.text_marks import messages_without_marks, without_marks


@pytest.mark.parametrize(
    ("typed", "sent"),
    [
        ("[Round 1]\n\n问：白？\n\n答：是。", "(Round 1)\n\n问—白？\n\n答—是。"),
        ("请问：这件上衣，白色？", "请问—这件上衣，白色？"),
        ("问 : [ round 12 ]", "问— ( round 12 )"),
        ("答\u200b：，", "答—,"),
        ("问题：答案，[1] Round 2", "问题：答案，[1] Round 2"),
    ],
)
def test_a_mark_is_changed_and_all_else_stays(typed: str, sent: str) -> None:
    assert without_marks(typed) == sent
    assert without_marks(sent) == sent


def test_all_roles_lose_their_marks_and_what_was_given_stays_as_it_is() -> None:
    given = [{"role": role, "content": "答：好"} for role in ("system", "user", "assistant")] + [{"role": "assistant", "content": None}]
    assert [message["content"] for message in messages_without_marks(given)] == ["答—好"] * 3 + [None]
    assert given[0]["content"] == "答：好"


def test_no_character_that_is_a_colon_or_a_bracket_to_a_tokenizer_leaves_a_mark() -> None:
    import unicodedata

    for code in range(0x11000):
        character = chr(code)
        usual = unicodedata.normalize("NFKC", character)
        if usual[:1] in {":", "["} or not usual.strip():
            text = without_marks(f"答{character}： 答{character} {character}Round 1]")
            assert not re.search(r"答:|\[Round 1\]", unicodedata.normalize("NFKC", text)), hex(code)
