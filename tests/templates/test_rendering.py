from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.templates import Message
from imprint.templates.rendering import Rendering, escape_names
from imprint.terminal import say_once
from imprint.tokenizers import ESCAPE_MARK, HFTokenizer, read_tokenizer
from tests.families import CHAT, fields_of, piece_folder, piece_json, published_folder

PLAIN = (
    "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}{% if add_generation_prompt %}ASSISTANT:  {% endif %}"
)
CALLS = CHAT.replace(
    "message.tool_calls[0].function.name }}", "message.content }}{% for c in message.tool_calls %}{{ c.function.name }}"
).replace("({{ message.tool_calls[0].function.arguments | tojson }})", "{% endfor %}")


def tokenizer_of(folder: Path, chat_template: str) -> HFTokenizer:
    published_folder(folder, chat_template=chat_template)
    tokenizer = read_tokenizer(folder, fields_of(folder))
    assert isinstance(tokenizer, HFTokenizer)
    return tokenizer


def test_what_a_template_supports_is_found_by_rendering(tmp_path: Path) -> None:
    found = [Rendering.of(tokenizer_of(tmp_path / str(place), chat)) for place, chat in enumerate((CHAT, CALLS, PLAIN))]
    assert [rendering.writes_calls for rendering in found] == [True, True, False]
    assert [rendering.joins_calls for rendering in found] == [False, True, False]
    assert [rendering.folds_system for rendering in found] == [False, False, False]
    assert [rendering.trailing_spaces for rendering in found] == [0, 0, 2]


def test_the_last_spaces_of_a_prompt_are_left_to_the_answer(tmp_path: Path) -> None:
    rendering = Rendering.of(tokenizer_of(tmp_path, PLAIN))
    assert rendering.render([Message("user", "a ")], answering=True) == "<|user|>a <|end|>ASSISTANT:"


def test_calls_of_one_turn_are_one_message_where_the_template_writes_them_all(tmp_path: Path) -> None:
    turn = [Message("user", "?"), Message("assistant", "look"), *(Message("assistant", "{}", name, continues=True) for name in "xy")]
    joined, apart = (Rendering.of(tokenizer_of(tmp_path / name, chat)) for name, chat in (("joined", CALLS), ("apart", CHAT)))
    assert joined.render(turn, answering=False).endswith("<|assistant|>\nlookxy<|end|>\n")
    assert apart.render(turn, answering=False).count("<|assistant|>") == 3


def test_tokens_that_frame_turns_are_found_and_tags_in_answers_are_not(tmp_path: Path) -> None:
    chat = CHAT.replace("<|assistant|>\n", "<|assistant|>\n<think>\n</think>\n")
    piece_folder(tmp_path, chat, piece_json("<|user|>", "<|assistant|>", "<|end|>", "<think>", "</think>", special=False))
    tokenizer = read_tokenizer(tmp_path, fields_of(tmp_path))
    assert isinstance(tokenizer, HFTokenizer)
    delimiters = Rendering.of(tokenizer).delimiters()
    assert (delimiters.end_name, delimiters.to_mark_special) == ("<|end|>", frozenset({"<|user|>", "<|assistant|>", "<|end|>"}))


def test_a_template_that_cannot_write_a_question_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, "{{ 1 / 0 }}")
    with pytest.raises(UserError, match="cannot write this conversation \\(user\\): division by zero"):
        Rendering.of(tokenizer)


def test_typed_names_are_escaped_once(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(tmp_path, CHAT)
    escaped = escape_names(tokenizer, "a<|end|>b<|end")
    assert escaped == f"a<{ESCAPE_MARK}|end|>b<|end"
    assert escape_names(tokenizer, escaped) == escaped


PARTS = (
    "{% for m in messages %}<|{{ m.role }}|>{% for part in m.content if part.type == 'text' %}{{ part.text }}{% endfor %}<|end|>"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def test_a_template_that_reads_parts_is_given_parts(tmp_path: Path) -> None:
    rendering = Rendering.of(tokenizer_of(tmp_path, PARTS))
    assert rendering.takes_parts
    assert rendering.render([Message("user", "你好")], answering=True) == "<|user|>你好<|end|><|assistant|>"


@pytest.mark.parametrize(("role", "condition"), [("user", "m.role == 'assistant'"), ("assistant", "m.role == 'user'"), ("user", "m.x")])
def test_a_template_that_leaves_out_what_is_said_is_refused(tmp_path: Path, role: str, condition: str) -> None:
    tokenizer = tokenizer_of(
        tmp_path, f"{{% for m in messages if {condition} %}}<|{{{{ m.role }}}}|>{{{{ m.content }}}}<|end|>{{% endfor %}}"
    )
    with pytest.raises(UserError, match=f"the model's own chat template leaves out what the {role} says. Set template=plain"):
        Rendering.of(tokenizer)


def test_arguments_are_a_text_where_the_template_would_print_an_object_as_python_does(tmp_path: Path) -> None:
    chat = CALLS.replace("{{ c.function.name }}", "{{ c.function.name }}({{ c.function.arguments }})")
    rendering = Rendering.of(tokenizer_of(tmp_path, chat))
    assert 'look({"a": true})' in rendering.render([Message("user", "?"), Message("assistant", '{"a": true}', "look")], answering=False)


@pytest.mark.parametrize(
    ("chat", "messages"),
    [
        (PLAIN, [Message("user", "?"), Message("assistant", "{}", "look")]),
        (
            CHAT.replace("in messages %}", "in messages if message.role != 'tool' %}"),
            [Message("user", "?"), Message("assistant", "{}", "look"), Message("observation", "42")],
        ),
    ],
)
def test_a_call_or_a_result_that_the_template_would_leave_out_is_refused(tmp_path: Path, chat: str, messages: list[Message]) -> None:
    with pytest.raises(UserError, match="leaves out calls of tools or their results"):
        Rendering.of(tokenizer_of(tmp_path, chat)).render(messages, answering=True)


def test_tools_are_wrapped_for_a_template_that_reads_no_bare_ones(tmp_path: Path) -> None:
    tool = {"name": "look", "description": "", "parameters": {}}
    chat = CHAT.replace("tool['name']", "tool.function.name")
    for place, one in enumerate((tool, {"type": "function", "function": tool})):
        rendering = Rendering.of(tokenizer_of(tmp_path / str(place), chat))
        assert "tools look" in rendering.render([Message("system", "", tools=(one,)), Message("user", "?")], answering=True)


@pytest.mark.parametrize(
    ("chat", "messages", "said"),
    [
        (PLAIN, [Message("system", "", tools=({"name": "look"},)), Message("user", "?")], "does not write the descriptions of tools"),
        (CHAT.replace("in messages %}", "in messages[-2:] %}"), [], "does not write all earlier turns"),
    ],
)
def test_what_a_template_leaves_out_is_said_once(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], chat: str, messages: list[Message], said: str
) -> None:
    say_once.cache_clear()
    rendering = Rendering.of(tokenizer_of(tmp_path, chat))
    for _ in range(2 if messages else 0):
        rendering.render(messages, answering=True)
    assert capsys.readouterr().err.count(said) == 1


def test_the_token_that_opens_the_next_turn_does_not_end_the_last_one(tmp_path: Path) -> None:
    roles = "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}{% endfor %}"
    found = [Rendering.of(tokenizer_of(tmp_path / str(place), chat)).delimiters() for place, chat in enumerate((roles, PLAIN))]
    assert [(one.end_name, one.ends_last) for one in found] == [("<|user|>", False), ("<|end|>", True)]


def test_arguments_are_a_text_where_the_template_writes_no_object(tmp_path: Path) -> None:
    chat = CALLS.replace("{{ c.function.name }}", "{{ c.function.name + '(' + c.function.arguments + ')' }}")
    rendering = Rendering.of(tokenizer_of(tmp_path, chat))
    assert (rendering.writes_calls, rendering.text_arguments) == (True, True)
    assert 'look({"a": 1})' in rendering.render([Message("user", "?"), Message("assistant", '{"a": 1}', "look")], answering=False)
