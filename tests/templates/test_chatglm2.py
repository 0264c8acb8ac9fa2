import json
from pathlib import Path

from imprint.templates import choose_template, make_messages, read_template
from imprint.templates.chatglm2 import ChatGLM2Template, format_rounds_from_one
from tests.families import SECOND, chatglm2_folder, fields_of


def tiny(folder: Path) -> ChatGLM2Template:
    chatglm2_folder(folder)
    template = read_template(folder, fields_of(folder))
    assert isinstance(template, ChatGLM2Template)
    return template


def test_known_prompts_of_another_implementation_hold(shared: Path) -> None:
    folder = shared / "tokenizers" / "chatglm2-6b"
    template = read_template(folder, SECOND)
    assert template is not None
    pairs = [pair for pair in json.loads((folder.parent / "known_pairs.json").read_text()) if pair["model"] == "chatglm2-6b"]
    greeting = "你好👋！我是人工智能助手 ChatGLM2-6B，很高兴见到你，欢迎问我任何问题。"
    for asked, pair in (
        (make_messages("你好"), pairs[1]),
        (make_messages("晚上睡不着应该怎么办", [("你好", greeting)]), pairs[2]),
    ):
        assert [token for segment in template.prompt(asked) for token in segment.ids] == pair["ids"]


def test_rounds_are_counted_from_one_also_for_a_first_question() -> None:
    assert format_rounds_from_one("你好", []) == "[Round 1]\n\n问：你好\n\n答："
    assert format_rounds_from_one("再见", [("你好", "你好！")]) == "[Round 1]\n\n问：你好\n\n答：你好！\n\n[Round 2]\n\n问：再见\n\n答："


def test_the_special_ids_stand_in_front_and_are_never_cut(tmp_path: Path) -> None:
    template = tiny(tmp_path)
    special_ids = template.tokenizer.controls
    start, text = template.prompt(make_messages("你好", system="你是店员。"), "写：")
    assert (start.ids, start.fixed) == ((special_ids["[gMASK]"], special_ids["sop"]), True)
    assert template.tokenizer.decode(text.ids) == "写：你是店员。\n\n[Round 1]\n\n问：你好\n\n答："
    assert not text.fixed


def test_an_answer_is_its_text_and_ends_as_a_text_does(tmp_path: Path) -> None:
    template = tiny(tmp_path)
    assert template.answer([], "好") == template.tokenizer.encode("好")
    assert (template.end_id, set(template.stop_ids)) == (2, {2})


def test_an_answer_is_shown_trimmed_and_dated(tmp_path: Path) -> None:
    template = tiny(tmp_path)
    assert template.display_text("\n在[[训练时间]],好 ") == "在2023年,好"
    assert (template.stable_prefix("在[[训练"), template.stable_prefix("在["), template.stable_prefix("在,")) == ("在", "在", "在,")


def test_the_role_tokens_may_be_wanted_all_the_same(tmp_path: Path) -> None:
    template = choose_template(tiny(tmp_path).tokenizer, tmp_path, "chatglm3")
    assert template.name == "chatglm3"
