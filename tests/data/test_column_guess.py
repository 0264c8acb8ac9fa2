from imprint.data.column_guess import guessed_columns, knob_words


def test_two_columns_of_text_are_guessed_to_be_question_and_answer() -> None:
    row = {"id": "17", "商品属性": "颜色#红", "文案": "这件红色的裙子很好看。", "price": "1,200.5", "note": ""}
    assert guessed_columns(row, "content", "summary") == {"prompt_column": "商品属性", "response_column": "文案"}
    assert guessed_columns(row, "商品属性", "文按", "data.") == {"data.prompt_column": "商品属性", "data.response_column": "文案"}


def test_nothing_is_guessed_where_more_or_fewer_columns_could_be_meant() -> None:
    assert guessed_columns({"a": "x", "b": "y", "c": "z"}, "content", "summary") == {}
    assert guessed_columns({"a": "x", "b": 2}, "content", "summary") == {}
    assert guessed_columns({"a": "x", "b": "y"}, "a", "b") == {}


def test_knobs_are_written_for_a_shell() -> None:
    assert knob_words({"prompt_column": "my question", "response_column": "..."}) == "'prompt_column=my question' response_column=..."
