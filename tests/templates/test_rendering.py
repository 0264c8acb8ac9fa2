from pathlib import Path

import pytest

from imprint.messages import UserError
from imprint.templates import Message
from imprint.templates.rendering import Rendering, escape_names
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
    assert (delimiters.end_name, delimiters.controls) == ("<|end|>", frozenset({"<|user|>", "<|assistant|>", "<|end|>"}))


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


def test_arguments_are_a_text_where_the_template_writes_no_object(tmp_path: Path) -> None:
    chat = CALLS.replace("{{ c.function.name }}", "{{ c.function.name + '(' + c.function.arguments + ')' }}")
    rendering = Rendering.of(tokenizer_of(tmp_path, chat))
    assert (rendering.writes_calls, rendering.text_arguments) == (True, True)
    assert 'look({"a": 1})' in rendering.render([Message("user", "?"), Message("assistant", '{"a": 1}', "look")], answering=False)
