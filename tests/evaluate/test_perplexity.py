import json
from pathlib import Path
from typing import Any

import pytest
import torch

import imprint
import imprint.evaluate.perplexity as measuring
from imprint.cli import main
from imprint.data.document_rows import Window, document_frame
from imprint.data.section import TextsSection
from imprint.evaluate.perplexity import perplexity_command, window_losses
from imprint.evaluate.section import PerplexitySection
from imprint.files.atomic import read_jsonl, write_jsonl
from imprint.inference.likelihood import row_losses
from imprint.messages import UserError
from imprint.models.attention import Prefix
from imprint.models.network import Network
from tests.tiny import tiny_base
from tests.tinyrun import tiny_recipe, tiny_run

TEXTS = ["这件上衣的颜色是白色，版型很宽松。", "长裙", "这件外套的颜色是红色。" * 9]


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("perplexity") / "base")


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS), encoding="utf-8")
    return file


def measured(path: Path, texts: Path, output: Path, *overrides: str) -> dict[str, Any]:
    report = perplexity_command(path, data=[texts], overrides=[f"output={output}", "device=cpu", *overrides])
    assert report == json.loads((output / "scores.json").read_text(encoding="utf-8"))
    return dict(report["texts"][0])


def by_hand(base: Path, text: str) -> tuple[int, float]:
    """Tokens and summed loss of a text, from the logits of its whole row."""
    model = imprint.load(base, device="cpu")
    ids, each = model.tokenizer.encode(text), document_frame(model.tokenizer).sequence_prefix
    (logits,) = model.logits([[*each, *ids]])
    losses = -logits.log_softmax(-1)[torch.arange(len(ids)) + len(each) - 1, torch.tensor(ids)]
    return len(ids), float(losses.double().sum())


def test_perplexity_is_the_mean_loss_of_every_token_of_the_texts(base: Path, texts: Path, tmp_path: Path) -> None:
    found = measured(base, texts, tmp_path / "out", "length=256")["base"]
    counts = [by_hand(base, text) for text in TEXTS]
    assert found["tokens"] == sum(tokens for tokens, _ in counts)
    assert found["characters"] == sum(map(len, TEXTS))
    assert found["token"]["nats"] == pytest.approx(sum(nats for _, nats in counts) / found["tokens"], rel=1e-5)
    assert found["character"]["nats"] == pytest.approx(sum(nats for _, nats in counts) / found["characters"], rel=1e-5)


def test_batches_and_windows_that_hold_all_change_nothing(base: Path, texts: Path, tmp_path: Path) -> None:
    whole = measured(base, texts, tmp_path / "whole", "length=256")["base"]
    single = measured(base, texts, tmp_path / "single", "length=256", "batch_tokens=1")["base"]
    assert single["token"]["nats"] == pytest.approx(whole["token"]["nats"], rel=1e-6)
    short = measured(base, texts, tmp_path / "short", "length=16", "stride=3")["base"]
    assert (short["tokens"], short["characters"]) == (whole["tokens"], whole["characters"])
    assert short["token"]["nats"] != whole["token"]["nats"]


def test_a_killed_command_goes_on_behind_the_documents_that_are_measured(
    base: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = measured(base, texts, tmp_path / "whole")
    computed: list[int] = []
    real = window_losses

    def dying(model: imprint.model.Model, windows: list[Window]) -> list[float]:
        if len(computed) == 2:
            raise KeyboardInterrupt
        computed.append(len(windows))
        return real(model, windows)

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(measuring, "window_losses", dying)
        measured(base, texts, tmp_path / "out", "batch_tokens=1")
    kept = tmp_path / "out" / "base" / "1-texts.jsonl"
    assert len(read_jsonl(kept)) == 3
    assert measured(base, texts, tmp_path / "out", "batch_tokens=1")["base"]["token"]["nats"] == pytest.approx(
        whole["base"]["token"]["nats"], rel=1e-6
    )
    monkeypatch.setattr(measuring, "window_losses", lambda *_: pytest.fail("was measured again"))
    assert measured(base, texts, tmp_path / "out")["base"] == measured(base, texts, tmp_path / "out")["base"]


def test_a_second_measurement_into_the_same_folder_is_refused_while_one_is_at_work(
    base: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = window_losses
    command = ["perplexity", str(base), "--data", str(texts), f"output={tmp_path / 'out'}", "device=cpu", "length=16", "stride=3"]

    def beside_another(model: imprint.model.Model, windows: list[Window]) -> list[float]:
        assert main(command) == 2
        return real(model, windows)

    monkeypatch.setattr(measuring, "window_losses", beside_another)
    measured(base, texts, tmp_path / "out", "length=256")
    assert "out: another process writes results into this folder, perhaps with other settings" in capsys.readouterr().err
    monkeypatch.undo()
    assert main(command) == 0


def test_documents_that_another_process_measured_behind_the_first_line_do_not_count(base: Path, texts: Path, tmp_path: Path) -> None:
    whole = measured(base, texts, tmp_path / "whole", "length=256")["base"]
    measured(base, texts, tmp_path / "other", "length=16", "stride=3")
    foreign = read_jsonl(tmp_path / "other" / "base" / "1-texts.jsonl")[1:]
    measured(base, texts, tmp_path / "out", "length=256")
    file = tmp_path / "out" / "base" / "1-texts.jsonl"
    first, *own = read_jsonl(file)
    write_jsonl(file, [first, own[0], *foreign[1:]])
    assert measured(base, texts, tmp_path / "out", "length=256")["base"] == whole


def test_documents_of_a_version_without_keys_still_count(base: Path, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = measured(base, texts, tmp_path / "out", "length=256")
    file = tmp_path / "out" / "base" / "1-texts.jsonl"
    first, *lines = read_jsonl(file)
    write_jsonl(file, [first, *({name: value for name, value in line.items() if name != "key"} for line in lines)])
    monkeypatch.setattr(measuring, "window_losses", lambda *_: pytest.fail("was measured again"))
    assert measured(base, texts, tmp_path / "out", "length=256") == whole


@pytest.mark.parametrize("line", ["5", "{}", '{"tokens": 1, "characters": 1, "nats": "x"}'])
def test_results_that_imprint_did_not_write_are_a_sentence(base: Path, texts: Path, tmp_path: Path, line: str) -> None:
    measured(base, texts, tmp_path / "out", "length=256")
    (file,) = (tmp_path / "out" / "base").glob("*.jsonl")
    key, *_lines = file.read_text(encoding="utf-8").splitlines()
    file.write_text(f"{key}\n{line}\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"{file.name}:2: is not what Imprint wrote .*Delete the file, and measure again"):
        measured(base, texts, tmp_path / "out", "length=256")


def test_other_texts_are_measured_anew(base: Path, texts: Path, tmp_path: Path) -> None:
    before = measured(base, texts, tmp_path / "out")
    texts.write_text('{"text": "长裙"}\n', encoding="utf-8")
    after = measured(base, texts, tmp_path / "out")
    assert (before["documents"], after["documents"]) == (3, 1)
    assert after["base"]["token"]["low"] is None


def test_a_limit_measures_the_first_documents_alone(base: Path, texts: Path, tmp_path: Path) -> None:
    report = perplexity_command(base, data=[texts], limit=2, overrides=[f"output={tmp_path / 'out'}", "device=cpu", "length=256"])
    counts = [by_hand(base, text) for text in TEXTS[:2]]
    found = report["texts"][0]
    assert (found["documents"], found["characters"]) == (2, sum(map(len, TEXTS[:2])))
    assert found["base"]["token"]["nats"] == pytest.approx(sum(nats for _, nats in counts) / sum(tokens for tokens, _ in counts), rel=1e-5)


def test_a_run_is_measured_before_and_after_its_tuning(tmp_path: Path, texts: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tiny_recipe(tmp_path)
    data = f"data={{kind: texts, train: {texts}, length: 64, dev_share: 0}}"
    run = tiny_run(recipe, "run", data, "tune={method: full}", "optimizer.learning_rate=0.01", "train.steps=12")
    assert main(["perplexity", str(run.path), "--data", str(texts), "--data", str(texts), "device=cpu"]) == 0
    report = json.loads((run.path / "perplexity" / "scores.json").read_text(encoding="utf-8"))
    first, second = report["texts"]
    assert first["tuned"]["token"]["nats"] < first["base"]["token"]["nats"] - 0.5
    assert second["tuned"] == first["tuned"]
    assert report["settings"]["length"] == 64
    shown = capsys.readouterr().out
    assert f"{texts}: 3 documents, {sum(map(len, TEXTS))} characters" in shown
    assert f"{first['tuned']['token']['perplexity']:.2f} (" in shown
    assert "before 微调前" in shown
    only = perplexity_command(run.path, data=[texts], overrides=["base=true", "device=cpu"])["texts"][0]
    assert "tuned" not in only
    assert only["base"]["token"] == first["base"]["token"]


def test_a_window_is_halved_where_memory_runs_out(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = imprint.load(base, device="cpu")
    windows = [Window((*range(20, 20 + size),), (-100, *range(21, 20 + size)), size - 1) for size in (5, 9, 4)]
    whole = window_losses(model, windows)
    sizes = []

    def narrow(network: Network, ids: list[list[int]], labels: list[list[int]], *, prefix: Prefix | None) -> list[float]:
        sizes.append(len(ids))
        if len(ids) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return row_losses(network, ids, labels, prefix=prefix)

    monkeypatch.setattr(measuring, "row_losses", narrow)
    assert window_losses(model, windows) == pytest.approx(whole, rel=1e-6)
    assert sizes == [3, 1, 2, 1, 1]


def test_what_cannot_be_measured_is_a_sentence(base: Path, texts: Path, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n")
    (tmp_path / "bad.jsonl").write_text('{"text": 3}\n')
    with pytest.raises(UserError, match=r"empty\.txt holds no text to measure"):
        measured(base, tmp_path / "empty.txt", tmp_path / "out")
    with pytest.raises(UserError, match=r'bad.jsonl:1: "text" must be a text, .* Fix this row; nothing was measured'):
        measured(base, tmp_path / "bad.jsonl", tmp_path / "out")
    with pytest.raises(UserError, match="stride: must be at most 30 with windows of 32 tokens"):
        measured(base, texts, tmp_path / "out", "length=32", "stride=31")
    assert PerplexitySection().stride is None


def test_the_page_about_texts_has_every_knob(repo: Path) -> None:
    page = (repo / "docs" / "domain.md").read_text(encoding="utf-8")
    assert [knob for knob in PerplexitySection.model_fields if f"`{knob}`" not in page] == []
    assert [knob for knob in TextsSection.model_fields if f"`{knob}`" not in page] == []
