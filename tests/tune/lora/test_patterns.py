import json
import time
from pathlib import Path
from typing import Any

import peft
import pytest
import torch
from peft.utils.other import get_pattern_key

from imprint.messages import UserError
from imprint.tune.lora.files import read_lora
from imprint.tune.lora.patterns import deadline, match_patterns
from imprint.tune.peft_files import CONFIG_FILE
from tests.cases import difference
from tests.tune.lora.steps import base, golden_batch

NAMES = [
    f"transformer.layers.{layer}.{linear}"
    for layer in range(12)
    for linear in ("attention.query_key_value", "attention.dense", "mlp.dense")
]
PATTERNS = [
    {},
    {"query_key_value": 2, "dense": 3},
    {"dense": 3, "mlp.dense": 4},
    {r"layers\.[0-2]\.attention\.query_key_value": 64},
    {".*query_key_value": 64, "query_key_value": 1},
    {r"transformer\.layers\.1": 5, r"layers.1.+": 6},
    {r"^transformer\.layers\.(0|11)\..*": 7, "^layers.*": 8},
    {"(attention|mlp).dense": 9},
    {"ense": 10, "d(?:ense)$": 11},
    {r"layers\.\d{2}\..*": 12, r".*\.\d{1}\.mlp.*": 13},
    {"base_model.model.transformer.layers.0.attention.dense": 14},
]


def matched(patterns: dict[str, float], names: list[str] | None = None) -> dict[str, float]:
    return match_patterns(Path("adapter_config.json"), "alpha_pattern", patterns, NAMES if names is None else names, deadline())


@pytest.mark.parametrize("patterns", PATTERNS, ids=str)
def test_a_pattern_matches_what_peft_matches(patterns: dict[str, float]) -> None:
    expected = {name: patterns[key] for name in NAMES if (key := get_pattern_key(list(patterns), name)) in patterns}

    assert matched(patterns) == expected


@pytest.mark.parametrize(
    "patterns",
    [
        {"alpha_pattern": {r"layers\.[01]\.attention\.query_key_value": 40, "dense": 3}},
        {"alpha_pattern": {".*query_key_value": 40, "query_key_value": 1}},
        {
            "rank_pattern": {r"layers\.0\..*": 2, r"layers\.\d+\.mlp.*": 3},
            "alpha_pattern": {"(query_key_value|dense)": 20},
            "use_rslora": True,
        },
        {"alpha_pattern": {r"^transformer\.layers\.1\..*": 40}},
    ],
    ids=str,
)
def test_a_lora_with_patterns_computes_what_peft_computes(patterns: dict[str, object], tmp_path: Path) -> None:
    torch.manual_seed(0)
    targets = ["query_key_value", "dense", "dense_4h_to_h"]
    config = peft.LoraConfig(r=4, target_modules=targets, init_lora_weights=False, **patterns)  # type: ignore[arg-type]
    theirs = peft.PeftModel(base(), config)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    network = base()
    batch = golden_batch(network)
    again: Any = peft.PeftModel.from_pretrained(base(), str(tmp_path / "theirs")).eval()

    with torch.no_grad():
        plain = network(batch)
        read_lora(tmp_path / "theirs", network)
        ours, expected = network(batch), again.base_model.model(batch)

    assert difference(ours, expected) <= 1e-4 * float(expected.abs().max())
    assert difference(ours, plain) > 0.01


@pytest.mark.parametrize(
    ("pattern", "problem"),
    [
        ("(.*a", "it is no regular expression of Python"),
        ("*", "it is no regular expression of Python"),
        ("[[:alpha:]]+", "it is no regular expression of Python"),
        ("(?R)", "it is no regular expression of Python"),
        ("a{1000}", "numbers above 99"),
        ("(((a{99}){99}){99}){99}", "more than two repetitions"),
        ("q{e<=3}", "more than two repetitions"),
        ("x" * 1001, "it has 1001 characters; 1000 are allowed"),
    ],
)
def test_a_pattern_beyond_the_bounds_is_refused_by_name(pattern: str, problem: str) -> None:
    with pytest.raises(UserError) as caught:
        matched({pattern: 1})

    assert f"adapter_config.json: the pattern {pattern[:80]!r} in 'alpha_pattern' cannot be used: " in str(caught.value)
    assert problem in str(caught.value)


def test_a_pattern_without_end_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.tune.lora.patterns.MAX_SECONDS", 0.2)
    started = time.monotonic()

    with pytest.raises(UserError, match=r"it takes more than 0\.2 s"):
        matched({r"(a|aa|a.*)+b": 1}, ["a" * 200 + "c"])

    assert time.monotonic() - started < 5


def test_many_patterns_that_take_long_to_read_are_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imprint.tune.lora.patterns.MAX_SECONDS", 0.1)
    patterns = dict.fromkeys(("(?i)" + "".join(f"[!-{chr(0xFF00 + number + place)}]" for place in range(60)) for number in range(40)), 1.0)
    began = time.process_time()

    with pytest.raises(UserError, match=r"it takes more than 0\.1 s"):
        matched(patterns)
    assert time.process_time() - began < 5  # all of them take half a minute


def test_a_pattern_that_cannot_be_used_is_named_with_its_file(tmp_path: Path) -> None:
    peft.PeftModel(base(), peft.LoraConfig(r=4, target_modules=["dense"])).save_pretrained(str(tmp_path))
    fields = json.loads((tmp_path / CONFIG_FILE).read_text())
    (tmp_path / CONFIG_FILE).write_text(json.dumps({**fields, "rank_pattern": {"(dense": 4}}))

    with pytest.raises(UserError) as caught:
        read_lora(tmp_path, base())

    assert str(caught.value).startswith(f"{tmp_path / CONFIG_FILE}: the pattern '(dense' in 'rank_pattern' cannot be used: it is no")


def test_all_patterns_of_a_file_share_one_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    peft.PeftModel(base(), peft.LoraConfig(r=4, target_modules=["dense"])).save_pretrained(str(tmp_path))
    fields = json.loads((tmp_path / CONFIG_FILE).read_text())
    many = {f"no{number}": 4 for number in range(3)}
    (tmp_path / CONFIG_FILE).write_text(json.dumps({**fields, "rank_pattern": many, "alpha_pattern": many, "layers_pattern": [*many]}))
    clock = iter(range(1000))
    monkeypatch.setattr("imprint.tune.lora.patterns.time.monotonic", lambda: float(next(clock)))  # a second for each look
    monkeypatch.setattr("imprint.tune.lora.patterns.MAX_SECONDS", 6.0)

    with pytest.raises(UserError, match="in 'rank_pattern' cannot be used: with those before it, it takes more than 6 s"):
        read_lora(tmp_path, base())
