import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import imprint
from imprint.loading import bos
from imprint.loading.bos import TEXTS, mean_losses
from imprint.model import Model
from imprint.pack import pack
from imprint.terminal import say_once
from tests.families import folder_of, piece_json
from tests.reference_models import FIELDS, random_model, saved

BOS = 1


@pytest.fixture(autouse=True)
def new_process() -> None:
    """What was measured and said before is forgotten."""
    bos._measured.cache_clear()
    say_once.cache_clear()


def untrained(folder: Path, *, bos_token: str | None = "<s>") -> Path:
    """A random LLaMA whose vocabulary puts nothing before a text."""
    vocabulary = piece_json()
    folder_of(folder, {}, {"tokenizer.json": vocabulary, "tokenizer_config.json": {"eos_token": "</s>", "bos_token": bos_token}})
    return saved(random_model("llama", {**FIELDS, "vocab_size": 600}), folder)


def in_need_of_bos(folder: Path) -> Path:
    """The same, trained to know the texts behind BOS, and to expect <unk> everywhere without it."""
    model = imprint.load(untrained(folder), device="cpu")
    network, known = model.network, [[BOS, *model.tokenizer.encode(text)[:16]] for text in TEXTS]
    packed = pack([*known, *(row[1:] for row in known)], network)
    targets = torch.tensor([token for row in known for token in (*row[1:], 2)] + [0] * sum(len(row) - 1 for row in known))
    optimizer = torch.optim.Adam(network.requires_grad_().parameters(), lr=0.01)
    for _step in range(40):
        loss = torch.nn.functional.cross_entropy(network.logits(network(packed)), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    imprint.models.checkpoint.save_network(network, folder, folder.with_name("trained"))
    bos._measured.cache_clear()
    return folder.with_name("trained")


def test_a_base_that_needs_its_bos_is_told_once_with_the_command_that_puts_it_there(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = in_need_of_bos(tmp_path / "base")
    assert "puts no" not in capsys.readouterr().err
    model = imprint.load(folder, device="cpu")
    told = capsys.readouterr().err
    assert f"{folder / 'tokenizer.json'} puts no <s> before a text, and this base seems to need it: the loss of two" in told
    assert "该底座的分词器不在文本前加 <s>" in told
    without, with_bos = losses(model)
    assert f"is {without:.2f} without it and {with_bos:.2f} with it" in told
    assert with_bos < 0.5 * without
    imprint.load(folder, device="cpu")
    assert "puts no" not in capsys.readouterr().err

    code = told.split('python -c "')[1].split('" / ')[0]
    subprocess.run(["bash", "-c", f'"$0" -c "{code}"', sys.executable], check=True)
    bos._measured.cache_clear()
    say_once.cache_clear()
    mended = imprint.load(folder, device="cpu")
    assert mended.prompt("你好") == [BOS, *model.prompt("你好")]
    assert "puts no" not in capsys.readouterr().err

    from transformers import AutoTokenizer

    theirs = AutoTokenizer.from_pretrained(folder)
    assert theirs("你好").input_ids == [BOS, *mended.tokenizer.encode("你好")]
    assert theirs("a", "b").input_ids == [BOS, *mended.tokenizer.encode("a"), BOS, *mended.tokenizer.encode("b")]


def losses(model: Model) -> tuple[float, float]:
    return mean_losses(model, [model.tokenizer.encode(text)[:16] for text in TEXTS], BOS)


def test_the_losses_are_those_of_the_same_tokens_with_and_without_bos(tmp_path: Path) -> None:
    model = imprint.load(untrained(tmp_path / "base"), device="cpu")
    rows = [model.tokenizer.encode(text)[:16] for text in TEXTS]
    for found, before in zip(losses(model), ([], [BOS]), strict=True):
        single = [
            torch.nn.functional.cross_entropy(logits[len(before) : -1], torch.tensor(row[1:]), reduction="sum")
            for row, logits in zip(rows, model.logits([[*before, *row] for row in rows]), strict=True)
        ]
        assert found == pytest.approx(float(sum(single)) / sum(len(row) - 1 for row in rows), rel=1e-4)


def test_other_bases_are_not_told_or_not_even_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    imprint.load(untrained(tmp_path / "random"), device="cpu")
    assert "puts no" not in capsys.readouterr().err

    monkeypatch.setattr(bos, "mean_losses", lambda *_arguments: (5.0, 1.0))
    imprint.load("embedded", device="cpu")
    imprint.load(untrained(tmp_path / "without", bos_token=None), device="cpu")
    adds = untrained(tmp_path / "adds")
    fields = json.loads((adds / "tokenizer.json").read_text())
    piece = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    fields["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [piece, {"Sequence": {"id": "A", "type_id": 0}}],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 0}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [BOS], "tokens": ["<s>"]}},
    }
    (adds / "tokenizer.json").write_text(json.dumps(fields))
    imprint.load(adds, device="cpu")
    assert "puts no" not in capsys.readouterr().err
    imprint.load(untrained(tmp_path / "told"), device="cpu")
    assert "is 5.00 without it and 1.00 with it" in capsys.readouterr().err
