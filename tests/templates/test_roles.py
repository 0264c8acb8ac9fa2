import json
from pathlib import Path

import pytest

from imprint.templates import Message, make_messages, read_template
from imprint.templates.conversation import Template
from imprint.templates.roles import RoleTemplate
from tests.families import SECOND, chatglm2_folder, fields_of, glm4_folder

WEATHER = {"name": "weather", "parameters": {"city": "城市"}}
TALK = [
    Message("system", "你有工具。", tools=(WEATHER,)),
    Message("user", "北京的天气？"),
    Message("assistant", '{"city": "北京"}', tool="weather"),
    Message("observation", "晴"),
]


@pytest.fixture(params=["chatglm3", "glm4"])
def template(request: pytest.FixtureRequest, tmp_path: Path) -> RoleTemplate:
    folder = glm4_folder(tmp_path) if request.param == "glm4" else chatglm2_folder(tmp_path, roles=True)
    found = read_template(folder, fields_of(folder))
    assert isinstance(found, RoleTemplate)
    assert found.name == request.param
    return found


def ids_of(template: Template, messages: list[Message], before: str = "") -> list[int]:
    return [token for segment in template.prompt(messages, before) for token in segment.ids]


def written(template: RoleTemplate, messages: list[Message], before: str = "") -> str:
    """A prompt with the names of its control ids."""
    names = {token: name for name, token in template.tokenizer.controls.items()}
    text, part = "", list[int]()
    for token in ids_of(template, messages, before):
        if token in names:
            text, part = text + template.tokenizer.decode(part) + names[token], []
        else:
            part.append(token)
    return text + template.tokenizer.decode(part)


@pytest.mark.parametrize("model", ["chatglm3-6b", "glm-4-9b"])
def test_known_conversations_of_another_implementation_hold(shared: Path, model: str) -> None:
    folder = shared / "tokenizers" / model
    template = read_template(folder, SECOND)
    assert template is not None
    pairs = json.loads((folder.parent / "known_pairs.json").read_text())
    talks = [pair for pair in pairs if pair["model"] == model and "messages" in pair]
    assert len(talks) == 2
    for pair in talks:
        assert ids_of(template, [Message(one["role"], one["content"]) for one in pair["messages"]]) == pair["ids"]


def test_each_who_speaks_has_a_special_id(template: RoleTemplate) -> None:
    sop = "<sop>" if template.name == "glm4" else "sop"
    space = "" if template.name == "glm4" else " "  # SentencePiece starts each text with one
    said = make_messages("再见", [("你好", "你好！")], "你是店员。")
    assert written(template, said, "写：").replace(" ", "") == (
        f"[gMASK]{sop}<|system|>\n你是店员。<|user|>\n你好<|assistant|>\n你好！<|user|>\n写：再见<|assistant|>"
    )
    assert space in written(template, said)


def test_tools_are_offered_called_and_answered(template: RoleTemplate) -> None:
    shown = written(template, TALK)
    assert "<|assistant|>weather\n" in shown.replace("\u2581", "").replace("<|assistant|> ", "<|assistant|>")
    assert "<|observation|>\n" in shown
    offered = json.dumps([WEATHER] if template.name == "chatglm3" else WEATHER, ensure_ascii=False, indent=4)
    assert offered in shown
    assert shown.count("<|system|>") == (2 if template.name == "glm4" else 1)
    assert ("\n\n## weather\n\n" in shown) == (template.name == "glm4")


def test_tools_without_a_text_are_introduced(template: RoleTemplate) -> None:
    shown = written(template, [Message("system", "", tools=({"type": "function", "function": WEATHER},)), Message("user", "你好")])
    assert ("# 可用工具" in shown) == (template.name == "glm4")
    assert ("You have access to the following tools:\n" in shown) == (template.name == "chatglm3")
    assert shown.count("<|system|>") == 1


def test_an_empty_system_text_is_not_said(template: RoleTemplate) -> None:
    assert "<|system|>" not in written(template, [Message("system", ""), Message("user", "你好")])


def test_what_frames_a_turn_is_fixed_and_the_texts_are_not(template: RoleTemplate) -> None:
    special = set(template.tokenizer.controls.values())
    for segment in template.prompt(TALK):
        assert segment.fixed or not special & set(segment.ids)


def test_an_answer_begins_with_the_line_of_the_tool(template: RoleTemplate) -> None:
    encode = template.tokenizer.encode
    assert template.answer(TALK, "晴。") == [*encode("\n"), *encode("晴。")]
    assert template.answer(TALK, "[1]", "weather") == [*encode("weather\n"), *encode("[1]")]


def test_arguments_are_python_code_in_chatglm3_and_an_object_in_glm4(template: RoleTemplate) -> None:
    encode = template.tokenizer.encode
    arguments = '{"city": "北京", "days": 2}'
    code = arguments if template.name == "glm4" else "```python\ntool_call(city='北京', days=2)\n```"
    assert template.answer(TALK, arguments, "weather") == [*encode("weather\n"), *encode(code)]
    assert template.answer(TALK, '{"a b": 1}', "weather") == [*encode("weather\n"), *encode('{"a b": 1}')]
    assert template.answer(TALK, arguments) == [*encode("\n"), *encode(arguments)]


def test_an_answer_ends_with_the_text_or_with_the_next_who_speaks(template: RoleTemplate) -> None:
    special_ids = template.tokenizer.controls
    whole = "<|endoftext|>" if template.name == "glm4" else "</s>"
    assert template.end_id == special_ids["<|user|>" if template.name == "glm4" else "</s>"]
    assert template.stop_ids == {special_ids[whole], special_ids["<|user|>"], special_ids["<|observation|>"]}


def test_an_answer_is_shown_without_its_empty_line_and_a_call_with_its_name(template: RoleTemplate) -> None:
    assert template.display_text(" \n 你好 ") == "你好"
    assert template.display_text("weather\n{} ") == "weather\n{}"
    assert template.display_text("你好 ") == "你好"
    assert (template.display_text("weath", done=False), template.display_text("weather\n{", done=False)) == ("", "weather\n{")
    assert template.stable_prefix("在[[训练") == "在"


def test_an_answer_is_measured_without_what_frames_it(template: RoleTemplate) -> None:
    decode = template.tokenizer.decode
    assert template.scored_text(decode(template.answer(TALK, "晴。 \n好"))) == "晴。 \n好"
    assert template.scored_text(decode(template.answer(TALK, "[1]", "weather"))).replace("\n ", "\n") == "weather\n[1]"
    assert template.scored_text("好") == "好"


def test_words_and_calls_of_one_turn_follow_each_other_as_in_a_conversation(template: RoleTemplate) -> None:
    rest = [Message("assistant", "[1]", "weather", continues=True), Message("assistant", "[2]", "weather", continues=True)]
    asked = [Message("user", "天气？")]
    row = [*ids_of(template, asked), *template.answer(asked, "我查一下。", "", rest)]
    later = ids_of(
        template, [*asked, Message("assistant", "我查一下。"), *rest, Message("observation", "晴"), Message("observation", "雨")]
    )
    assert later[: len(row)] == row
    assert later.count(template.tokenizer.controls["<|observation|>"]) == 2


def test_tools_given_as_texts_are_written_as_they_are(template: RoleTemplate) -> None:
    told = written(template, [Message("system", "", tools=("getWeather: 查天气。",)), Message("user", "天气？")])
    expected = '[\n    "getWeather: 查天气。"\n]' if template.name == "chatglm3" else "\n\ngetWeather: 查天气。\n在调用上述函数时"
    assert expected in told.replace("\n ", "\n ")


def test_arguments_that_are_nested_very_deep_are_written_as_they_are(template: RoleTemplate) -> None:
    deep = "[" * 5000
    assert template.answer(TALK, deep, "weather") == [*template.tokenizer.encode("weather\n"), *template.tokenizer.encode(deep)]
