"""The embedded base: how it was made, what it is, and the abilities that tuning must not take from it."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

import imprint
from imprint.config import read_recipe
from imprint.demo.rows import rows
from imprint.demo.talk import read_topics
from imprint.loading.licence import read_licence
from imprint.model import Model
from imprint.templates.chatglm import process_response
from imprint.training.recipe import Recipe
from tests.prompts import encode_prompt
from tools.embedded.abilities import probe_rows
from tools.embedded.pretrain import RECIPE, configuration, pretrain

BASE = Path(imprint.__file__).parent / "embedded"


def test_the_recipe_beside_it_is_a_whole_recipe_of_full_tuning() -> None:
    recipe = read_recipe(RECIPE, [], Recipe)
    assert recipe.tune.method == "full"
    assert recipe.train.batch_size == recipe.train.micro_batch_size


def test_the_embedded_base_has_the_ids_of_its_own_vocabulary() -> None:
    fields = json.loads((BASE / "config.json").read_text())
    expected = configuration(BASE)
    assert {name: fields[name] for name in expected} == expected


@pytest.mark.long
def test_a_base_is_made_from_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tools.embedded.pretrain.HELD_OUT_DOCUMENTS", 16)
    base = pretrain(tmp_path / "out", texts=64, overrides=("train.steps=2", "train.batch_size=8", "train.micro_batch_size=8"))
    tensors = load_file(base / "model.safetensors")
    assert "lm_head.weight" not in tensors  # the head is the embedding, kept once
    assert {str(tensor.dtype) for tensor in tensors.values()} == {"torch.float16"}
    model = imprint.load(base, device="cpu")
    assert model.tokenizer.decode(model.tokenizer.encode("这件上衣")) == "这件上衣"
    assert read_licence(base) == read_licence(BASE) == "apache-2.0"


@pytest.fixture(scope="module")
def model() -> Model:
    return imprint.load("embedded", device="cpu")


def answers(model: Model, queries: list[str]) -> list[str]:
    prompts = [encode_prompt(model.template, query, None, max_source_length=96) for query in queries]
    return [process_response(model.tokenizer.decode(ids)) for ids in model.generate(prompts, max_new_tokens=96)]


def test_it_is_small_enough_to_commit_and_shaped_as_chatglm_6b(model: Model) -> None:
    assert sum(file.stat().st_size for file in BASE.iterdir()) < 15e6
    assert 5e6 < sum(parameter.numel() for parameter in model.network.parameters()) < 15e6
    fields = json.loads((BASE / "config.json").read_text())
    assert fields["model_type"] == "chatglm"
    assert fields["position_encoding_2d"] is True
    assert fields["vocab_size"] == len(model.tokenizer)


def test_it_knows_its_little_world_and_who_it_is(model: Model) -> None:
    asked = [(str(row["kind"]), str(row["question"]), tuple(row["answer"])) for row in probe_rows()]
    asked += [("identity", question, topic.answers) for topic in read_topics(identity=True) for question in topic.questions]
    right: dict[str, list[bool]] = {}
    for (kind, _, known), answer in zip(asked, answers(model, [question for _, question, _ in asked]), strict=True):
        right.setdefault(kind, []).append(answer in known)
    counts = {kind: (sum(found), len(found)) for kind, found in right.items()}
    assert counts.pop("sum")[0] >= 20  # of 40 that it never read; 24 are right, some by little
    assert counts == {"talk": (40, 40), "fact": (40, 40), "identity": (49, 49)}


def test_it_describes_an_attribute_list_flatly_and_never_in_ad_copy(model: Model) -> None:
    asked = list(rows(11, 40, "dev"))
    flat = answers(model, [row["content"] for row in asked])
    listed = [all(pair.split("#")[1] in answer for pair in row["content"].split("*")[1:]) for row, answer in zip(asked, flat, strict=True)]
    assert sum(listed) >= 30
    assert not any(answer == process_response(row["summary"]) for row, answer in zip(asked, flat, strict=True))
