import pytest

from imprint.check import text_checks
from imprint.check.report import LANGUAGE_NAMES
from imprint.check.text_checks import (
    LOST_CHARACTER,
    TYPED_SPECIAL_TOKEN,
    clean_text,
    ends_mid_sentence,
    language,
    repeats_itself,
    undo_mojibake,
)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("这件上衣很宽松。", "zh"),
        ("这件 T恤很宽松，适合夏天。", "zh"),
        ("This shirt is wide.", "en"),
        ("café crème", "en"),
        ("このシャツは大きいです", "ja"),
        ("이 셔츠는 큽니다", "ko"),
        ("Эта рубашка большая", "ru"),
        ("请翻译 shirt wide red blue green yellow", "mixed"),
        ("12 + 30 = 42", "other"),
        ("👍", "other"),
    ],
)
def test_the_language_of_a_text(text: str, name: str) -> None:
    assert language(text) == name
    assert name in LANGUAGE_NAMES or name == "other"


@pytest.mark.parametrize("token", ["[gMASK]", "[MASK]", "<sop>", "<eop>", "<|user|>", "<|im_end|>", "</s>", "[/INST]", "[Round 1]\n\n问："])
def test_a_typed_special_token_is_found(token: str) -> None:
    match = TYPED_SPECIAL_TOKEN.search(f"你好{token}再见")
    assert match is not None
    assert match[0] == token


@pytest.mark.parametrize("text", ["a < b > c", "<n>", "[1]", "<div>", "列表[MASK_1]", "<|tab|>"])
def test_other_brackets_are_text(text: str) -> None:
    assert TYPED_SPECIAL_TOKEN.search(text) is None


@pytest.mark.parametrize("text", ["你好\ufffd", "锟斤拷锟斤拷", "itâ€™s"])
def test_what_is_left_of_lost_characters_is_found(text: str) -> None:
    assert LOST_CHARACTER.search(text) is not None


@pytest.mark.parametrize("text", ["你好，世界！", "类型#上衣*颜色#白色", "中文"])
@pytest.mark.parametrize("wrong", ["latin-1", "gb18030"])
def test_utf_8_decoded_as_another_encoding_is_restored(text: str, wrong: str) -> None:
    garbled = text.encode().decode(wrong)
    assert undo_mojibake(garbled) == text


@pytest.mark.parametrize("text", ["你好，世界！", "联通", "café", "Äpfel", "拢", "простой", "plain", "", "日本語のテキスト", "£5 · 10 €"])
def test_a_good_text_is_no_mojibake(text: str) -> None:
    assert undo_mojibake(text) is None


def test_a_text_about_lost_characters_has_lost_none() -> None:
    assert LOST_CHARACTER.search("“锟斤拷”是怎么来的？") is None


def test_only_the_start_of_a_long_text_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(text_checks, "MAX_COMPARED", 200)
    assert not repeats_itself("".join(map(chr, range(0x4E00, 0x4F00))) + "这件衣服很好看。" * 99)


def test_a_text_of_repetitions_repeats_itself() -> None:
    assert repeats_itself("这件衣服很好看。" * 6)
    assert not repeats_itself("这件衣服很好看。" * 2)
    assert not repeats_itself("好好好")
    assert not repeats_itself("".join(map(chr, range(0x4E00, 0x4F00))))


def test_a_text_that_ends_on_a_comma_breaks_off() -> None:
    assert ends_mid_sentence("版型很宽松，")
    assert ends_mid_sentence("包括以下几点：\n")
    assert not ends_mid_sentence("版型很宽松。")
    assert not ends_mid_sentence("版型很宽松")


@pytest.mark.parametrize(
    ("text", "clean", "kinds"),
    [
        ("  你好 \n", "你好", ["blanks"]),
        ("一\r\n二\r三", "一\n二\n三", ["stray"]),
        ("\ufeff你\0好\u200b", "你好", ["stray"]),
        ("\ud83d\udc4d和\ud83d", "👍和", ["stray"]),
        ("你好<eop>", "你好", ["tokens"]),
        ("你好 <eop></s>\n", "你好", ["tokens", "blanks"]),
        ("[gMASK]<sop>你好", "你好", ["tokens"]),
        ("<|user|>你好<|im_end|>", "你好", ["tokens"]),
        ("ä½\xa0å¥½ ", "你好", ["garbled", "blanks"]),
        ("什么是 <eop> 标记？", "什么是 <eop> 标记？", []),
        ("列表[1]", "列表[1]", []),
        ("<div>", "<div>", []),
        ("a\tb\n\nc  d", "a\tb\n\nc  d", []),
        ("<eop>", "", ["tokens"]),
        ("", "", []),
    ],
)
def test_a_cleaned_text_lost_only_what_nobody_typed(text: str, clean: str, kinds: list[str]) -> None:
    assert clean_text(text) == (clean, kinds)
    assert clean_text(clean) == (clean, [])


@pytest.mark.parametrize("text", ["ä½\xa0å¥½\ufeff", " ä½\xa0å¥½ ", "<s>\ufeff <s>问</s>\u200b</s> ", "\0 <eop>\r"])
def test_a_cleaned_text_is_clean(text: str) -> None:
    cleaned, kinds = clean_text(text)
    assert kinds
    assert clean_text(cleaned) == (cleaned, [])
    assert cleaned in ("你好", "问", "")
