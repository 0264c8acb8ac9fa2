import json

import pytest

from imprint.forgetting.result import Forgetting, ProbeResult, forgetting_messages, lost_rows, parse_forgetting
from imprint.messages import UserError


def found(*fates: tuple[str, str, tuple[str, ...]], kl: float | None = 0.25) -> Forgetting:
    rows = tuple(ProbeResult.compare("?", keys, base, tuned) for base, tuned, keys in fates)
    return Forgetting(rows, kl, 100, "probes.jsonl", "neutral.txt", 1.5, 3.0, 3.5)


@pytest.mark.parametrize(
    ("base", "tuned", "keys", "fate"),
    [
        ("北京。", "北京。", (), "same"),
        ("北京。", "是北京", ("北京",), "right"),
        ("北京。", "是北京", (), "lost"),
        ("北京。", "上海", ("北京",), "lost"),
        ("上海", "上海", ("北京",), "never"),
        ("上海", "北京", ("北京",), "never"),
    ],
)
def test_an_answer_is_kept_where_it_is_the_same_or_still_right(base: str, tuned: str, keys: tuple[str, ...], fate: str) -> None:
    assert ProbeResult.compare("?", keys, base, tuned).fate == fate


def test_what_the_base_never_had_is_not_counted() -> None:
    score = found(("对", "对", ()), ("对", "嗯，对", ("对",)), ("对", "错", ("对",)), ("错", "错", ("对",)))
    assert (score.counted, score.kept, score.share) == (3, 2, 2 / 3)
    assert [row.tuned for row in lost_rows(score.rows)] == ["错"]
    assert found(("错", "错", ("对",))).share is None


def test_it_comes_back_from_its_file_as_it_was() -> None:
    score = found(("对", "对", ()), ("对", "错", ("对",)))
    values = json.loads(json.dumps(score.as_json()))
    assert parse_forgetting(values, "forgetting.json") == score
    assert [values[name] for name in ("kept_share", "kept", "counted", "asked")] == [0.5, 1, 2, 2]
    for broken in ({}, {**values, "rows": [{"question": "?"}]}, {**values, "rows": [3]}):
        with pytest.raises(UserError, match=r"forgetting\.json: is not what Imprint wrote"):
            parse_forgetting(broken, "forgetting.json")


def test_it_is_told_in_two_languages_and_much_loss_with_what_helps() -> None:
    (message,) = forgetting_messages(found(*[("对", "对", ())] * 9, ("对", "错", ())), mixed=False)
    assert message.english.startswith(
        "forgetting: 9 of 10 answers of the base are kept (90.0%); on 100 tokens of neutral text KL divergence 0.2500 nats a token, "
        "loss 3.0000 -> 3.5000"
    )
    assert "原有回答保留 9/10（90.0%）" in message.chinese
    _, advice = forgetting_messages(found(("对", "对", ()), ("对", "错", ())), mixed=False)
    assert "mix general rows in, which helps most (data.mix_general={}" in advice.english
    _, advice = forgetting_messages(found(("对", "对", ()), ("对", "错", ())), mixed=True)
    assert advice.english.startswith("much was lost: take more general rows (data.mix_general.share), answered by the base itself")


def test_a_base_that_answers_few_questions_is_judged_by_text_instead() -> None:
    none, instead = forgetting_messages(found(("错", "错", ("对",)), kl=None), mixed=False)
    assert "answers none of 1 questions correctly" in none.english
    assert "KL divergence not finite nats a token, loss 3.0000 -> 3.5000" in none.english
    assert "Judge by KL divergence and by the loss of the text" in instead.english
    assert "forgetting.probes=FILE" in instead.english
    assert "forgetting.probes=FILE" in instead.chinese
    few = forgetting_messages(found(*[("错", "错", ("对",))] * 9, ("对", "对", ("对",))), mixed=False)
    assert "answers only 1 of 10 questions" in few[1].english


def test_a_file_without_the_losses_is_still_read() -> None:
    values = found(("对", "对", ())).as_json()
    old = {name: value for name, value in values.items() if name not in {"base_loss", "tuned_loss"}}
    assert parse_forgetting(old, "forgetting.json").base_loss is None
