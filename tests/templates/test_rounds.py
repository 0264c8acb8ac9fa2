"""Prompts of long conversations: the same ids as in one piece, in time linear in the conversation."""

import random
from pathlib import Path
from typing import Final

import pytest

from imprint.data.original import encode_evaluation_sample_original, encode_sample_original
from imprint.data.sample import Sample
from imprint.templates.chatglm import ChatGLMTemplate, format_round, format_rounds, with_system
from imprint.templates.chatglm2 import ChatGLM2Template, format_rounds_from_one
from imprint.templates.rounds import LONG_CHARACTERS, LatestConversation, is_long
from tests.families import template_of
from tests.vocabulary import tiny_template

WORDS: Final = ("上衣", "好看", "显瘦。", "aaaa", "😀", "é", "[Round 3]\n", "问：")
PARTS: Final = (*WORDS, "\n", "\n\n", " ", "   ", "\t", "[", "]", "<n>", "[gMASK]", "<", ">")
Old = ChatGLMTemplate | ChatGLM2Template


@pytest.fixture(params=["chatglm", "chatglm2"])
def template(request: pytest.FixtureRequest, tmp_path: Path) -> Old:
    found = tiny_template() if request.param == "chatglm" else template_of("chatglm2", tmp_path)
    assert isinstance(found, Old)
    return found


def conversation(rng: random.Random, turns: int, parts: int) -> tuple[tuple[str, str], ...]:
    def text() -> str:
        return "".join(rng.choices(PARTS, k=rng.randrange(parts)))

    return tuple((text(), text()) for _ in range(turns))


def in_one_piece(template: Old, sample: Sample, before: str) -> list[int]:
    history = sample.history or ()
    rounds = format_rounds if isinstance(template, ChatGLMTemplate) else format_rounds_from_one
    return template.tokenizer.encode(before + with_system(rounds(sample.query, history), sample.system))


@pytest.mark.parametrize("limit", [16, 300, 5000, 10**9])
def test_each_answer_of_a_long_conversation_has_the_ids_of_its_whole_prompt(template: Old, limit: int) -> None:
    rng = random.Random(limit)
    for before, system in (("", None), ("写 ", " 系统")):
        turns = conversation(rng, 60, 60)
        for index in (1, 2, 30, 31, 58, 59, 40):
            sample = Sample(*turns[index], turns[:index], "rows.jsonl:1", system)
            whole = in_one_piece(template, sample, before)
            row = encode_sample_original(template, sample, max_source_length=limit, max_target_length=16, source_prefix=before)
            source = limit - (1 if isinstance(template, ChatGLMTemplate) else 2)
            start = 0 if isinstance(template, ChatGLMTemplate) else 2
            assert list(row.ids[start:][: min(source, len(whole))]) == whole[:source]
            assert row.cut_prompt_tokens == max(len(whole) - source, 0)
            prompt, _ = encode_evaluation_sample_original(
                template, sample, max_source_length=limit, max_target_length=16, source_prefix=before
            )
            assert prompt.cut_tokens == max(len(whole) - (limit - 2), 0)


def test_the_time_of_a_conversation_is_linear_in_its_text(template: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    encoded = 0
    encode = type(template.tokenizer).encode

    def counted(tokenizer: object, text: str) -> list[int]:
        nonlocal encoded
        encoded += len(text)
        return encode(tokenizer, text)  # type: ignore[arg-type]

    monkeypatch.setattr(type(template.tokenizer), "encode", counted)
    turns = conversation(random.Random(1), 300, 80)
    assert is_long(turns)
    for index, turn in enumerate(turns):
        encode_sample_original(template, Sample(*turn, turns[:index], "rows.jsonl:1"), max_source_length=128, max_target_length=16)
    characters = len(format_rounds("", turns))
    assert encoded < 4 * characters + len(turns) * 100


def test_a_vocabulary_whose_tokens_reach_over_newlines_is_encoded_in_one_piece(template: Old, monkeypatch: pytest.MonkeyPatch) -> None:
    assert template.tokenizer.divides_after_newline("[")
    monkeypatch.setattr(type(template.tokenizer), "divides_after_newline", lambda *_: False)
    monkeypatch.setattr(LatestConversation, "first_ids", None)
    turns = conversation(random.Random(2), 60, 60)
    sample = Sample("问", "答", turns, "rows.jsonl:1")
    assert encode_sample_original(template, sample, max_source_length=64, max_target_length=16).cut_prompt_tokens


def test_short_conversations_are_encoded_as_they_are() -> None:
    assert not is_long(())
    assert not is_long((("问" * LONG_CHARACTERS, "答"),))
    assert not is_long((("问", "答"),) * 10)
    assert is_long((("问", "答" * LONG_CHARACTERS),) * 2)
    assert format_round(3, "问", "答") == "[Round 3]\n问：问\n答：答\n"
