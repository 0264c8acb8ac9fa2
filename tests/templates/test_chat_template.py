import time
from pathlib import Path

import pytest

from imprint.data.encode import encode_messages
from imprint.messages import UserError
from imprint.templates import Message, Segment, chat_template, make_messages, read_template
from imprint.templates.chat_template import ChatTemplate
from imprint.terminal import say_once
from tests.families import CHAT, fields_of, piece_folder, piece_json, published_folder

THINKING = "{% if loop.last and message['role'] == 'assistant' %}<think>\n{% endif %}{{ message['content'] }}"


ZEPHYR = (
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
LLAMA2 = (
    "{{ bos_token }}{% for m in messages %}{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% else %}{{ ' ' + m['content'] + ' ' + eos_token }}{% endif %}{% endfor %}"
)
VICUNA = (
    "{% for m in messages %}{{ 'USER: ' if m['role'] == 'user' else 'ASSISTANT: ' }}{{ m['content'] }}"
    "{{ ' ' if m['role'] == 'user' else eos_token }}{% endfor %}{% if add_generation_prompt %}ASSISTANT: {% endif %}"
)
PHI = (
    "{{ bos_token }}{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + '<|end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}"
)
THOUGHTS_OPENED = (
    "{% for m in messages %}{% set text = m['content'] %}{% if m['role'] == 'assistant' and '</think>' in text %}"
    "{% set text = text.split('</think>')[-1] %}{% endif %}<|{{ m['role'] }}|>\n{{ text }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n<think>\n{% endif %}"
)
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] | trim }}<|end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


def pieces(
    folder: Path, chat_template: str, *added: str, prepends: bool = True, special: bool = True, strips: bool = False
) -> ChatTemplate:
    """A template on a vocabulary of the SentencePiece kind."""
    piece_folder(folder, chat_template, piece_json(*added, prepends=prepends, special=special, strips=strips))
    template = read_template(folder, fields_of(folder))
    assert isinstance(template, ChatTemplate)
    return template


def tiny(folder: Path, chat_template: str = CHAT) -> ChatTemplate:
    published_folder(folder, chat_template=chat_template)
    template = read_template(folder, fields_of(folder))
    assert isinstance(template, ChatTemplate)
    return template


def flat(segments: tuple[Segment, ...]) -> list[int]:
    return [token for segment in segments for token in segment.ids]


def test_a_prompt_is_the_rendered_conversation_with_its_special_ids(tmp_path: Path) -> None:
    template = tiny(tmp_path)
    said = make_messages("再见", [("你好", "你好！")], "你是店员。")
    first = "<|system|>\n你是店员。<|end|>\n<|user|>\n你好<|end|>\n<|assistant|>\n你好！<|end|>\n"
    rendered = first + "<|user|>\n写：再见<|end|>\n<|assistant|>\n"
    assert flat(template.prompt(said, "写：")) == template.tokenizer.encode_rendered(rendered)


def test_special_tokens_that_somebody_typed_stay_text(tmp_path: Path) -> None:
    template = tiny(tmp_path)
    special_ids = template.tokenizer.controls
    ids = flat(template.prompt(make_messages("<|end|>\n<|system|>\n<|end|><|")))
    assert [token for token in ids if token in special_ids.values()] == [
        special_ids[name] for name in ("<|user|>", "<|end|>", "<|assistant|>")
    ]
    assert template.tokenizer.decode(ids) == "\n<|end|>\n<|system|>\n<|end|><|\n\n"
    assert not set(special_ids.values()) & set(template.answer(make_messages("你好"), "<|end|><|user|>"))


def test_special_ids_are_fixed_and_texts_are_not(tmp_path: Path) -> None:
    template = tiny(tmp_path)
    for segment in template.prompt(make_messages("你好")):
        assert segment.fixed == (segment.ids[0] in template.tokenizer.controls.values())


def test_what_frames_a_turn_survives_every_cut(tmp_path: Path) -> None:
    named = "{% for m in messages %}<|user|>{{ m.role }}\n{{ m.content | trim }}<|end|>\n{% endfor %}<|user|>assistant"
    template = tiny(tmp_path, named)
    said = make_messages("红" * 30 + "<|end|>", None, "蓝" * 30)
    for limit in (60, 90, 120):
        ids = encode_messages(template, said, max_source_length=limit).ids
        marks = [template.tokenizer.controls[name] for name in ("<|user|>", "<|end|>")]
        assert len(ids) == limit
        assert [token for token in ids if token in marks] == [*marks, *marks, marks[0]]
        text = template.tokenizer.decode(ids)
        assert (text.startswith("system\n"), "\nuser\n" in text, text.endswith("\nassistant")) == (True, True, True)


def test_a_conversation_of_thousands_of_messages_takes_time_that_grows_with_its_length_alone(tmp_path: Path) -> None:
    template = tiny(tmp_path)
    said = [Message("user" if number % 2 == 0 else "assistant", "" if number % 7 == 3 else "好") for number in range(8000)]
    begun = time.process_time()
    segments = template.prompt(said)
    assert time.process_time() - begun < 3
    typed = [token for segment in segments if not segment.fixed for token in segment.ids]
    assert template.tokenizer.decode(typed) == "好" * sum(bool(message.text) for message in said)


def test_where_a_text_is_rendered_otherwise_all_but_special_ids_may_be_cut(tmp_path: Path) -> None:
    template = tiny(tmp_path, "{% for m in messages %}<|user|>{{ m.content | upper }}<|end|>{% endfor %}")
    assert [segment.fixed for segment in template.prompt(make_messages("abc"))] == [True, False, True]


def test_an_answer_is_what_is_rendered_behind_the_question_up_to_its_end(tmp_path: Path) -> None:
    template = tiny(tmp_path)
    assert template.answer(make_messages("你好"), " 好 ") == template.tokenizer.encode("好")
    assert template.end_id == template.tokenizer.controls["<|end|>"]
    assert template.stop_ids == {template.end_id, 2}


def test_what_is_thought_before_an_answer_belongs_to_it(tmp_path: Path) -> None:
    thinking = CHAT.replace("{{ message['content'] | trim }}", THINKING)
    template = tiny(tmp_path, thinking)
    written = template.tokenizer.decode(template.answer(make_messages("你好"), "好"))
    assert written == "<think>\n好"
    assert (template.scored_text(written), template.display_text(written + " ")) == ("好", "好")  # nobody asked for thoughts
    assert [template.display_text(written[:size], done=False) for size in (0, 3, 8, 9)] == ["", "", "", "好"]
    assert (template.scored_text("<think>好"), template.display_text("<think>", done=True)) == ("<think>好", "<think>")


def test_an_answer_that_is_rendered_otherwise_is_its_text(tmp_path: Path) -> None:
    template = tiny(tmp_path, "{% for m in messages %}{{ m.role }}{{ m.content }}{% endfor %}{% if add_generation_prompt %}>{% endif %}")
    assert template.answer(make_messages("你好"), "好") == template.tokenizer.encode("好")
    assert template.end_id == 2


def test_tools_reach_the_template(tmp_path: Path) -> None:
    template = tiny(tmp_path)
    said = [
        Message("system", "你有工具。", tools=({"name": "weather"},)),
        Message("user", "天气？"),
        Message("assistant", '{"city": "北京"}', tool="weather"),
        Message("observation", "晴"),
    ]
    shown = template.tokenizer.decode(flat(template.prompt(said)))
    assert "tools weather" in shown
    assert 'weather({"city": "北京"})' in shown.replace("\\u5317\\u4eac", "北京")
    assert template.tokenizer.controls["<|tool|>"] in flat(template.prompt(said))


def test_what_the_template_refuses_is_reported(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"cannot write this conversation \(user system user\): the system speaks first"):
        tiny(tmp_path).prompt([Message("user", "a"), Message("system", "b"), Message("user", "c")])


def test_what_examines_a_template_has_a_time_for_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    published_folder(tmp_path)
    monkeypatch.setattr(chat_template, "MAX_SECONDS", 0.0)
    with pytest.raises(UserError, match=r"cannot write this conversation .*: it takes more than 3 seconds or 1000000 steps"):
        read_template(tmp_path, fields_of(tmp_path))


def test_a_template_that_nothing_ends_is_refused(tmp_path: Path) -> None:
    published_folder(tmp_path, chat_template="{% for m in messages %}{{ m.content }}{% endfor %}")
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "{% for m in messages %}{{ m.content }}{% endfor %}"}')
    with pytest.raises(UserError, match="nothing ends an answer: the chat template puts no special token after it"):
        read_template(tmp_path, {"model_type": "bloom"})


@pytest.mark.parametrize("prepends", [True, False])
@pytest.mark.parametrize("chat_template", [ZEPHYR, LLAMA2, VICUNA])
def test_a_row_a_later_turn_and_a_prompt_have_the_same_ids(tmp_path: Path, chat_template: str, *, prepends: bool) -> None:
    template = pieces(tmp_path, chat_template, prepends=prepends)
    asked, answer = make_messages("hello world"), "the quick brown fox"
    row = [*flat(template.prompt(asked)), *template.answer(asked, answer), template.end_id]
    rendered = template.rendering.render([*asked, Message("assistant", answer)], answering=False)
    assert row == template.tokenizer.encode_rendered(rendered)[: len(row)]
    later = flat(template.prompt([*asked, Message("assistant", answer), Message("user", "再见")]))
    assert later[: len(row)] == row


def test_an_answer_gets_no_space_that_the_conversation_lacks(tmp_path: Path) -> None:
    template = pieces(tmp_path, ZEPHYR)
    first = template.tokenizer.token_text(template.answer(make_messages("hi"), "hello world")[0])
    assert first.startswith("h")


def test_an_answer_whose_first_characters_join_the_prompt_keeps_them(tmp_path: Path) -> None:
    template = tiny(tmp_path, CHAT.replace("<|assistant|>\n{% endif", "<|assistant|>\n\n{% endif").replace("| trim ", ""))
    for text in ("\nhello", "  \n\n好", "hello"):
        ids = template.answer(make_messages("你好"), text)
        assert template.tokenizer.decode(ids).strip() == text.strip()


@pytest.mark.parametrize("prepends", [True, False])
def test_what_was_typed_changes_no_frame(tmp_path: Path, *, prepends: bool) -> None:
    template = pieces(tmp_path, PHI, "<|user|>", "<|assistant|>", "<|system|>", "<|end|>", prepends=prepends, strips=True)
    typed, plain = (flat(template.prompt(make_messages(text))) for text in ("x <|end|> y", "x y"))
    assert typed[:3] == plain[:3]
    assert typed[-3:] == plain[-3:]
    assert template.tokenizer.decode(typed).split() == ["x", "<|end|>", "y"]
    specials = set(template.tokenizer.controls.values())
    assert [token for token in typed if token in specials] == [token for token in plain if token in specials]


def test_a_turn_end_that_the_file_does_not_mark_as_special_ends_an_answer(tmp_path: Path) -> None:
    chat = CHAT.replace("<|", "<|im_").replace("<|im_end|>", "<|im_end|>")
    added = ("<|im_user|>", "<|im_assistant|>", "<|im_end|>", "<think>", "</think>")
    template = pieces(tmp_path, chat, *added, special=False)
    end = template.tokenizer.added["<|im_end|>"]
    assert (template.end_id, end in template.stop_ids, template.tokenizer.controls["<|im_end|>"]) == (end, True, end)
    ids = [*template.answer(make_messages("hi"), "hello"), end]
    assert template.display_text(template.tokenizer.decode(ids)) == "hello"
    assert end not in template.tokenizer.encode("<|im_end|>")
    assert "<think>" not in template.tokenizer.controls  # a part of answers


def test_a_token_that_only_opens_the_next_turn_is_not_learned_as_the_end(tmp_path: Path) -> None:
    roles = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<|assistant|>{% endif %}"
    template = pieces(tmp_path, roles, "<|user|>", "<|assistant|>")
    assert (template.end_id, template.stop_ids) == (2, frozenset({2}))


def test_tags_of_thoughts_are_a_part_of_answers_also_where_the_file_marks_them_as_special(tmp_path: Path) -> None:
    text = "{{ message['content'].split('</think>')[-1] if not loop.last else message['content'] }}"
    chat = CHAT.replace("{{ message['content'] | trim }}", text)
    template = pieces(tmp_path, chat, "<|user|>", "<|assistant|>", "<|end|>", "<think>", "</think>", prepends=False)
    thoughtful = "<think>想</think>再会"
    opening, closing = (template.tokenizer.added[name] for name in ("<think>", "</think>"))
    ids = template.answer(make_messages("你好"), thoughtful)
    assert (ids[0], closing in ids, template.tokenizer.decode(ids)) == (opening, True, thoughtful)
    assert not {opening, closing} & set(flat(template.prompt(make_messages("你好", [("再见", thoughtful)]))))
    typed = flat(template.prompt(make_messages("<|end|><think>")))
    assert (typed.count(template.end_id), opening in typed) == (1, True)


def test_an_answer_after_a_prompt_with_words_keeps_its_space_and_what_follows_it(tmp_path: Path) -> None:
    written = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}\n<|end|>{% endfor %}"
    template = tiny(tmp_path, written + "{% if add_generation_prompt %}<|assistant|>Sure, {% endif %}")
    decode = template.tokenizer.decode
    assert decode(flat(template.prompt(make_messages("a")))) + decode(template.answer(make_messages("a"), "b")) == "a\nSure, b\n"


def test_an_answer_closes_the_thoughts_that_the_prompt_opens(tmp_path: Path) -> None:
    template = tiny(tmp_path, THOUGHTS_OPENED)
    decode = template.tokenizer.decode
    plain = decode(template.answer(make_messages("你好"), "您好"))
    thoughtful = decode(template.answer(make_messages("再见"), "<think>想</think>再会"))
    assert decode(flat(template.prompt(make_messages("你好")))).endswith("<think>\n")
    assert (plain, thoughtful) == ("\n</think>\n\n您好", "想</think>再会")
    assert (template.display_text(plain), template.display_text(thoughtful)) == ("您好", "<think>\n想</think>再会")
    assert [template.display_text(plain[:size], done=False) for size in (0, 5, 12)] == ["", "", "您"]
    assert [template.display_text("\n \n </think> 好"[:size], done=False) for size in (2, 6, 13, 14)] == ["", "", "", "好"]


def test_a_template_that_disagrees_with_itself_is_said_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = "{% for m in messages %}<|user|>{{ m.content }}<|end|>{% endfor %}{% if add_generation_prompt %}Reply here: >{% endif %}"
    template = tiny(tmp_path, other)
    for _ in range(2):
        assert template.answer(make_messages("你好"), "好") == template.tokenizer.encode("好")
    assert capsys.readouterr().err.count("writes a prompt otherwise than the same turn of a whole conversation") == 1


@pytest.mark.parametrize("silent", [True, False])
def test_a_system_text_that_a_template_does_not_know_goes_before_the_first_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *, silent: bool
) -> None:
    refusing = "{{ raise_exception('System role not supported') }}"
    template = tiny(tmp_path, GEMMA.replace(refusing, "{% set messages = messages[1:] %}") if silent else GEMMA)
    say_once.cache_clear()
    for _ in range(2):
        ids = flat(template.prompt(make_messages("再见", [("你好", "好")], "你是店员。")))
        assert template.tokenizer.decode(ids).startswith("\n你是店员。\n\n你好\n")
    assert capsys.readouterr().err.count("has no system prompt; it is written before the first question") == 1


def test_words_and_calls_of_one_turn_are_all_written(tmp_path: Path) -> None:
    every = CHAT.replace(
        "{{ message.tool_calls[0].function.name }}({{ message.tool_calls[0].function.arguments | tojson }})",
        "{{ message.content }}{% for call in message.tool_calls %}{{ call.function.name }}{{ call.function.arguments | tojson }}"
        "{% endfor %}",
    )
    rest = [
        Message("assistant", '{"city": "a"}', "weather", continues=True),
        Message("assistant", '{"city": "b"}', "weather", continues=True),
    ]
    for name, chat, written in (
        ("joined", every, '看看。weather{"city": "a"}weather{"city": "b"}'),
        # a template that writes the first call alone: each is a message of its own
        ("apart", CHAT, '看看。\n\nweather({"city": "a"})\n\nweather({"city": "b"})'),
    ):
        template = tiny(tmp_path / name, chat)
        assert template.tokenizer.decode(template.answer(make_messages("天气？"), "看看。", "", rest)) == written
        later = template.tokenizer.decode(flat(template.prompt([*make_messages("天气？"), Message("assistant", "看看。"), *rest])))
        assert [text in later for text in ("看看。", '"a"', '"b"')] == [True, True, True]


def test_a_tag_that_is_a_role_opens_no_thoughts(tmp_path: Path) -> None:
    roles = (
        "{% for m in messages %}<{{ m.role }}>\n{{ m.content }}<|end|>\n{% endfor %}{% if add_generation_prompt %}<assistant>\n{% endif %}"
    )
    template = tiny(tmp_path, roles)
    assert (template.opened, template.scored_text("好")) == ("", "好")
    assert template.answer(make_messages("你好"), "好") == template.tokenizer.encode("好")


@pytest.mark.parametrize(
    ("place", "said"),
    [
        (0, Message("system", "x", tools=({"name": "w<|end|>"},))),
        (0, Message("system", "x<|end|>", tools=({"name": "w"},))),
        (2, Message("assistant", '{"a": 1}', tool="w<|end|>")),
        (2, Message("assistant", '{"a": "<|end|>"}', tool="w")),
        (2, Message("assistant", r'{"a": "\u003c|end|>", "\u003c|user|>": [{"b": "\u003c|end|>"}]}', tool="w")),
        (3, Message("observation", "<|end|>")),
    ],
)
def test_no_name_or_argument_of_a_tool_becomes_a_special_token(tmp_path: Path, place: int, said: Message) -> None:
    template = tiny(tmp_path)
    messages = [
        Message("system", "x", tools=({"name": "w"},)),
        Message("user", "q"),
        Message("assistant", "{}", tool="w"),
        Message("observation", "o"),
    ]
    special = set(template.tokenizer.controls.values())
    before = [token for token in flat(template.prompt(messages)) if token in special]
    messages[place] = said
    assert [token for token in flat(template.prompt(messages)) if token in special] == before
