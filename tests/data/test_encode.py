import random
from dataclasses import replace
from pathlib import Path

import pytest

from imprint.data import encode
from imprint.data.encode import EncodedRow, encode_messages, encode_sample
from imprint.data.original import encode_evaluation_sample_original, encode_sample_original
from imprint.messages import UserError
from imprint.templates import Template, make_messages
from imprint.templates.chatglm import format_chatglm_prompt
from tests.data.official import TURNS, sample
from tests.families import FOLDERS, template_of
from tests.prompts import encode_prompt
from tests.vocabulary import tiny_template, tiny_tokenizer


def test_a_row_that_fits_is_whole() -> None:
    tokenizer = tiny_tokenizer()
    special = tokenizer.control
    prompt, answer = tokenizer.encode("类型#上衣"), tokenizer.encode("这件上衣的颜色是白色。")

    row = encode_sample(tiny_template(), sample(), max_source_length=len(prompt) + 2, max_target_length=len(answer) + 1)

    assert row.ids == (*prompt, special.gmask, special.sop, *answer, special.eop)
    assert row.labels == (*[-100] * (len(prompt) + 2), *answer, special.eop)
    assert not row.cut


def test_a_row_says_which_of_its_tokens_are_scored() -> None:
    row = EncodedRow.of([5, 6], [7, 8, 9])

    assert row == EncodedRow((5, 6, 7, 8, 9), (-100, -100, 7, 8, 9))
    assert row.scored == [False, False, True, True, True]


def test_a_long_prompt_loses_its_oldest_turns_first() -> None:
    tokenizer = tiny_tokenizer()
    room = len(tokenizer.encode(format_chatglm_prompt("类型#上衣", TURNS[1:])))

    row = encode_sample(tiny_template(), sample(history=TURNS), max_source_length=room + 2, max_target_length=64)

    assert row.dropped_turns == 1
    assert row.cut_prompt_tokens == 0
    assert tokenizer.decode(row.ids[:room]) == format_chatglm_prompt("类型#上衣", TURNS[1:]).replace("：", ":")


def test_no_more_turns_are_dropped_than_must_be() -> None:
    turns = tuple((f"问{number}" * (1 + number % 3), "白色。" * (1 + number % 5)) for number in range(23))
    lengths = [len(encode_prompt(tiny_template(), "类型#上衣", turns[dropped:], max_source_length=10**6)) for dropped in range(24)]
    assert lengths == sorted(lengths, reverse=True)
    for limit in range(lengths[-1], lengths[0] + 2):
        fewest = next(dropped for dropped, length in enumerate(lengths) if length <= limit)
        row = encode_sample(tiny_template(), sample(history=turns), max_source_length=limit, max_target_length=64)
        assert (row.dropped_turns, row.needed_prompt) == (fewest, lengths[0]), limit


def test_the_tokens_of_a_long_conversation_are_estimated_and_its_row_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    random.seed(0)
    turns = tuple((f"问{number}" * random.randint(1, 9), "白色。" * random.randint(1, 9)) for number in range(200))
    exact = encode_sample(tiny_template(), sample(history=turns), max_source_length=300, max_target_length=64)
    monkeypatch.setattr(encode, "LONG_CHARACTERS", 1000)
    monkeypatch.setattr(encode, "ESTIMATE_CHARACTERS", 500)
    row = encode_sample(tiny_template(), sample(history=turns), max_source_length=300, max_target_length=64)
    assert row == exact
    assert row.needed_prompt == pytest.approx(exact.needed_prompt, rel=0.1)
    whole = encode_sample(tiny_template(), sample(history=turns), max_source_length=10**6, max_target_length=64)
    assert (whole.needed_prompt, whole.cut) == (exact.needed_prompt, False)


def test_a_system_text_outlives_old_turns() -> None:
    tokenizer = tiny_tokenizer()
    room = len(tokenizer.encode(format_chatglm_prompt("类型#上衣", TURNS[2:], "颜色")))

    row = encode_sample(tiny_template(), replace(sample(history=TURNS), system="颜色"), max_source_length=room + 2, max_target_length=64)

    assert row.dropped_turns == 2
    assert list(row.ids[:room]) == tokenizer.encode(format_chatglm_prompt("类型#上衣", TURNS[2:], "颜色"))
    assert list(row.ids[: room + 2]) == encode_prompt(tiny_template(), "类型#上衣", TURNS, max_source_length=room + 2, system="颜色")


def test_all_turns_go_before_the_question_does() -> None:
    tokenizer = tiny_tokenizer()
    question = tokenizer.encode("类型#上衣")

    row = encode_sample(tiny_template(), sample(history=TURNS), max_source_length=len(question) + 2, max_target_length=64)

    assert row.dropped_turns == 3
    assert list(row.ids[: len(question)]) == question


def test_a_question_too_long_by_itself_keeps_its_beginning_and_its_end() -> None:
    tokenizer = tiny_tokenizer()
    query = "类型#上衣*颜色#白色*版型#宽松" * 3
    whole = tokenizer.encode(query)

    row = encode_sample(tiny_template(), sample(query=query, history=TURNS), max_source_length=13, max_target_length=64)

    assert list(row.ids[:11]) == whole[:5] + whole[-6:]
    assert (row.dropped_turns, row.cut_prompt_tokens) == (3, len(whole) - 11)


def test_an_answer_that_is_cut_keeps_its_end_token() -> None:
    tokenizer = tiny_tokenizer()
    answer = tokenizer.encode("好😀😀")

    row = encode_sample(tiny_template(), sample(answer="好😀😀"), max_source_length=64, max_target_length=5)

    assert list(row.labels[-5:]) == [*answer[:4], tokenizer.control.eop]
    assert row.cut_answer_tokens == len(answer) - 4


def test_generation_starts_from_exactly_what_training_does_not_score() -> None:
    for history in (None, (), TURNS):
        for limit in (8, 40, 200):
            row = encode_sample(tiny_template(), sample(history=history), max_source_length=limit, max_target_length=64)
            prompt = encode_prompt(tiny_template(), "类型#上衣", history, max_source_length=limit)

            assert row.ids[: len(prompt)] == tuple(prompt)
            assert row.labels.count(-100) == len(prompt)


def test_random_rows_keep_every_promise() -> None:
    tokenizer, generator = tiny_tokenizer(), random.Random(4)
    special = tokenizer.control
    words = ["[gMASK]", "<sop>", "<eop>", "上衣", "😀", " ", "\n", "hello", "[Round 0]", "问："]

    def text() -> str:
        return "x" + "".join(generator.choices(words, k=generator.randint(0, 12)))

    for _ in range(200):
        turns = tuple((text(), text()) for _ in range(generator.randint(0, 5)))
        source, target = generator.randint(4, 80), generator.randint(4, 20)
        row = encode_sample(tiny_template(), sample(text(), text(), turns), max_source_length=source, max_target_length=target)
        start = row.ids.index(special.sop) + 1

        assert len(row.ids) == len(row.labels)
        assert start <= source
        assert len(row.ids) - start <= target
        assert [token for token in row.ids if token in (special.mask, special.gmask, special.sop, special.eop)] == [
            special.gmask,
            special.sop,
            special.eop,
        ]
        assert row.ids[-1] == row.labels[-1] == special.eop
        assert row.labels[start:] == row.ids[start:]


@pytest.mark.parametrize("history", [None, (), TURNS])
def test_a_source_prefix_stands_before_the_whole_prompt(history: tuple[tuple[str, str], ...] | None) -> None:
    tokenizer, row = tiny_tokenizer(), sample(history=history)
    limits = {"max_source_length": 400, "max_target_length": 40}
    before = tokenizer.encode("写广告" + format_chatglm_prompt(row.query, history))
    ends = [tokenizer.control.gmask, tokenizer.control.sop]
    assert list(encode_sample(tiny_template(), row, **limits, source_prefix="写广告").ids)[: len(before) + 2] == [*before, *ends]
    assert encode_prompt(tiny_template(), row.query, history, max_source_length=400, source_prefix="写广告") == [*before, *ends]
    evaluated, _ = encode_evaluation_sample_original(tiny_template(), row, **limits, source_prefix="写广告")
    assert evaluated.ids == [*before, *ends]
    trained = encode_sample_original(tiny_template(), row, **limits, source_prefix="写广告").ids
    assert tokenizer.decode(trained).startswith("写广告[Round 0]" if history is not None else f"写广告{row.query}")


@pytest.fixture(params=FOLDERS)
def template(request: pytest.FixtureRequest, tmp_path: Path) -> Template:
    """Every family's template on a tiny vocabulary."""
    return template_of(request.param, tmp_path)


def shortest(template: Template) -> int:
    """Tokens of a prompt without a text."""
    return sum(len(segment.ids) for segment in template.prompt(make_messages("")) if segment.fixed)


def test_every_family_learns_the_answer_and_its_end_alone(template: Template) -> None:
    row = encode_sample(template, sample(history=TURNS), max_source_length=2000, max_target_length=200)
    learned = [label for label in row.labels if label != -100]

    assert not row.cut
    assert learned == [*template.answer(sample(history=TURNS).messages, sample().answer), template.end_id]
    assert row.ids[-len(learned) :] == tuple(learned)
    assert template.end_id in template.stop_ids
    assert not template.stop_ids & set(learned[:-1])
    assert template.scored_text(template.tokenizer.decode(learned)) == sample().answer


def test_every_family_keeps_its_frame_and_the_question_however_short_the_limit(template: Template) -> None:
    rng, special_ids = random.Random(5), set(template.tokenizer.controls.values())
    frame = [token for segment in template.prompt(make_messages("问")) for token in segment.ids if token in special_ids]
    long = "类型#上衣*颜色#白色" * 3
    whole = len(encode_prompt(template, long, max_source_length=10**6))
    for _ in range(40):
        turns = TURNS[: rng.randint(0, 3)]
        limit = rng.randint(shortest(template) + 1, whole + 20)
        row = encode_sample(template, sample(query=long, history=turns), max_source_length=limit, max_target_length=5)
        prompt = encode_prompt(template, long, turns, max_source_length=limit)

        assert len(prompt) <= limit
        assert row.ids[: len(prompt)] == tuple(prompt)
        assert row.labels.count(-100) == len(prompt)
        assert row.ids[-1] == template.end_id
        if limit < whole:
            assert [token for token in prompt if token in special_ids] == frame
            assert row.dropped_turns == len(turns)
            assert len(prompt) == limit


def test_every_family_drops_old_turns_and_never_what_the_system_says(template: Template) -> None:
    short = encode_prompt(template, "再见", TURNS[1:], max_source_length=2000, system="颜色")

    fitted = encode_messages(template, make_messages("再见", TURNS, "颜色"), max_source_length=len(short))

    assert (fitted.ids, fitted.dropped_turns, fitted.cut_tokens) == (short, 1, 0)


def test_no_family_takes_a_typed_special_token_for_its_own(template: Template) -> None:
    special_ids = template.tokenizer.controls
    typed = "".join(special_ids)
    plain = encode_sample(template, sample("好", "好", (("好", "好"),)), max_source_length=2000, max_target_length=200)
    row = encode_sample(template, sample(typed, typed, ((typed, typed),)), max_source_length=2000, max_target_length=200)

    assert [token for token in row.ids if token in special_ids.values()] == [token for token in plain.ids if token in special_ids.values()]


def test_a_limit_that_leaves_no_room_for_a_text_is_reported(template: Template) -> None:
    frame = shortest(template)
    assert frame == {"chatglm": 2, "chatglm2": 2, "plain": 0}.get(template.name, frame)
    if frame:
        with pytest.raises(
            UserError, match=rf"max_source_length: {frame - 1} is too short for this model, whose prompts have {frame} tokens"
        ):
            encode_prompt(template, "好", max_source_length=frame - 1)
