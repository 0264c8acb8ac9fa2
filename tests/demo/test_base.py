"""The embedded base: what it is, and that it has the abilities that tuning must not take from it."""

import json
from pathlib import Path

import pytest

import imprint
from imprint.data.encode import encode_prompt
from imprint.demo.probes import probes
from imprint.demo.rows import rows
from imprint.model import Model, polish

BASE = Path(imprint.__file__).parent / "demo" / "base"


@pytest.fixture(scope="module")
def model() -> Model:
    return imprint.load("embedded", device="cpu")


def answers(model: Model, queries: list[str]) -> list[str]:
    prompts = [encode_prompt(model.tokenizer, query, None, max_source_length=96) for query in queries]
    return [polish(model.tokenizer.decode(ids)) for ids in model.generate(prompts, max_new_tokens=96)]


def test_it_is_small_enough_to_commit_and_shaped_as_chatglm_6b(model: Model) -> None:
    assert sum(file.stat().st_size for file in BASE.iterdir()) < 15e6
    assert 5e6 < sum(parameter.numel() for parameter in model.network.parameters()) < 15e6
    fields = json.loads((BASE / "config.json").read_text())
    assert fields["model_type"] == "chatglm"
    assert fields["position_encoding_2d"] is True
    assert fields["vocab_size"] == len(model.tokenizer)


def test_it_knows_its_little_world_and_who_it_is(model: Model) -> None:
    asked = probes(7, 120)
    right: dict[str, list[bool]] = {}
    for probe, answer in zip(asked, answers(model, [probe.query for probe in asked]), strict=True):
        right.setdefault(probe.kind, []).append(answer in probe.answers)
    shares = {kind: sum(found) / len(found) for kind, found in right.items()}
    assert min(shares["talk"], shares["identity"], shares["fact"]) >= 0.95
    assert shares["sum"] >= 0.4  # sums that it never read


def test_it_describes_an_attribute_list_flatly_and_never_in_ad_copy(model: Model) -> None:
    asked = list(rows(11, 40, "dev"))
    flat = answers(model, [row["content"] for row in asked])
    listed = [all(pair.split("#")[1] in answer for pair in row["content"].split("*")[1:]) for row, answer in zip(asked, flat, strict=True)]
    assert sum(listed) >= 30
    assert not any(answer == polish(row["summary"]) for row, answer in zip(asked, flat, strict=True))
