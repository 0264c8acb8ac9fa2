from imprint.data.templates import chatglm_prompt, rounds


def test_a_first_question_is_the_bare_query() -> None:
    assert chatglm_prompt("你好", None) == "你好"
    assert chatglm_prompt("你好", []) == "你好"


def test_earlier_turns_are_numbered_rounds() -> None:
    assert chatglm_prompt("再见", [("你好", "你好！"), ("天气", "晴")]) == (
        "[Round 0]\n问：你好\n答：你好！\n[Round 1]\n问：天气\n答：晴\n[Round 2]\n问：再见\n答："
    )


def test_rounds_of_an_empty_history_start_at_zero() -> None:
    assert rounds("你好", []) == "[Round 0]\n问：你好\n答："


def test_braces_in_a_question_are_text() -> None:
    assert rounds("{query} {0}", []) == "[Round 0]\n问：{query} {0}\n答："


def test_a_system_text_is_a_paragraph_before_everything_else() -> None:
    assert chatglm_prompt("你好", None, "你是店员。") == "你是店员。\n\n你好"
    assert chatglm_prompt("再见", [("你好", "你好！")], "你是店员。").startswith("你是店员。\n\n[Round 0]\n问：你好")
    assert chatglm_prompt("你好", None, "") == "你好"
