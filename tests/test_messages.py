from imprint.messages import Bilingual, UserError, closest, did_you_mean

MESSAGE = Bilingual("there is no such file", "没有这个文件")


def test_both_languages_stand_on_two_lines_or_on_one() -> None:
    assert str(MESSAGE) == "there is no such file\n没有这个文件"
    assert MESSAGE.line == "there is no such file / 没有这个文件"


def test_an_error_takes_a_message_in_both_languages() -> None:
    assert str(UserError(MESSAGE)) == str(MESSAGE)


def test_a_location_is_put_before_the_english_text() -> None:
    assert str(UserError(MESSAGE).prefixed("rows.jsonl:7: ")) == "rows.jsonl:7: there is no such file\nrows.jsonl:7：没有这个文件"
    assert str(UserError("no. ").prefixed("x: ")) == "x: no. "


def test_an_error_keeps_both_ends_of_what_it_quotes() -> None:
    long = str(UserError("file.jsonl:1: got " + "x" * 10_000_000 + ". Fix it."))
    assert len(long) < 2100
    assert long.startswith("file.jsonl:1: got xxx")
    assert long.endswith("xxx. Fix it.")
    lines = str(UserError("\n".join(f"line {number}" for number in range(100_000)))).split("\n")
    assert len(lines) == 201
    assert (lines[0], lines[-1]) == ("line 0", "line 99999")
    assert str(UserError("\n".join(["x" * 1999] * 150))).count("x") == 150 * 1999


def test_a_name_of_any_length_cuts_neither_language_nor_what_to_do() -> None:
    for name in ("x" * 3_000_000, "model." * 200):
        error = UserError(
            Bilingual(f"file: holds {name!r}. Take {name!r} out, or ask again.", f"file：有 {name!r}：请删去 {name!r} 后重试。")
        )
        for english, chinese in (str(error).split("\n"), (error.message.english, error.message.chinese)):
            assert english.startswith(f"file: holds '{name[:90]}")
            assert f"{name[-90:]}'. Take '" in english
            assert english.endswith(f"{name[-90:]}' out, or ask again.")
            assert f"{name[-90:]}'：请删去 '" in chinese
            assert chinese.endswith(f"{name[-90:]}' 后重试。")


def test_the_closest_names_ignore_case_and_are_few() -> None:
    assert closest("qwen/qwen3-4b", ["Qwen/Qwen3-4B", "Qwen/Qwen3-8B", "a/b"], count=3) == ["Qwen/Qwen3-4B", "Qwen/Qwen3-8B"]
    assert closest("LENGHT", ["method", "length"]) == ["length"]
    assert closest("a/b", []) == closest("xyz", ["length"]) == []


def test_what_was_meant_is_asked_in_both_languages() -> None:
    assert did_you_mean(["length", "method"]) == Bilingual("Did you mean length? ", "是否想写 length？")
    assert did_you_mean(["length"], "--{}", clause=True).english == "did you mean --length? "
    assert did_you_mean([]) == Bilingual("", "")


def test_a_long_chinese_sentence_keeps_its_advice_beside_a_long_name() -> None:
    sentence = "文件已损坏，或含有代码（从不运行）；请从官方来源重新下载，" * 40

    shown = UserError(Bilingual(f"{'n' * 3000} is damaged", f"{'n' * 3000}：{sentence}")).message.chinese

    assert shown.endswith(f"：{sentence}"), shown
    assert len(shown) < 2000
