"""Every command with every kind of path that names a model: it works, or a sentence says why it does not."""

import shutil
import sys
from io import BytesIO, TextIOWrapper
from pathlib import Path

import pytest

import imprint
from imprint.cli import main
from imprint.export.command import export_command
from tests.tinyrun import tiny_recipe, tiny_run

SOURCES = ("embedded", "base", "prefix", "lora", "full", "prefix.tar", "lora.tar", "full.tar")
COMMANDS: dict[str, list[str]] = {
    "chat": ["chat", "{source}", "max_length=24", "temperature=0"],
    "evaluate": ["evaluate", "{source}", "--data", "rows.jsonl", "--limit", "2", "max_new_tokens=2"],
    "perplexity": ["perplexity", "{source}", "--data", "texts.txt", "--limit", "1"],
    "compare": ["compare", "{source}", "--data", "rows.jsonl", "--limit", "2", "max_new_tokens=2"],
    "forgetting": ["forgetting", "{source}", "limit=2", "max_new_tokens=2", "text_tokens=20", "shown_rows=2"],
    "report": ["report", "{source}"],
    "export": ["export", "{source}", "out.tar", "--to", "bundle", "questions=1"],
    "export int8": ["export", "{source}", "--to", "int8", "questions=1"],
    "quantize": ["quantize", "{source}", "out", "--bits", "8"],
    "data check": ["data", "check", "rows.jsonl", "--model", "{source}"],
    "data show": ["data", "show", "rows.jsonl", "--limit", "1", "--model", "{source}"],
    "score": ["score", "predictions.jsonl", "--protocol", "chatglm-6b:64:{source}"],
    "train": ["train", "recipe.yaml", "output=next", "train.steps=1", "model.path={source}"],
    "adapter of chat": ["chat", "base", "adapter={source}", "max_length=24"],
}
NO_RUN = "is a model folder, and "
TO_UNPACK = "is a bundle, and this command writes into a run folder. Unpack it"
BESIDE_BASE = "is a run whose adapter is beside its base, and the base alone would be written"
REFUSED: dict[tuple[str, str], str] = {
    **{(name, source): NO_RUN for name in ("compare", "forgetting", "report", "export", "export int8") for source in ("embedded", "base")},
    **{(name, f"{method}.tar"): TO_UNPACK for name in ("forgetting", "report") for method in ("prefix", "lora", "full")},
    **{("quantize", source): BESIDE_BASE for source in ("prefix", "lora", "prefix.tar", "lora.tar")},
    **{("train", source): "is a run with a prefix, which is no part of the weights" for source in ("prefix", "prefix.tar")},
    **{("adapter of chat", source): "has no adapter. Give it instead of the model folder" for source in ("full", "full.tar")},
    ("adapter of chat", "base"): "holds no prefix",
    ("adapter of chat", "embedded"): "there is no such file or folder",
}
"""Command and kind of path -> why this command does not take it."""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a base, a run of each method, bundles of them, and data."""
    folder = tmp_path_factory.mktemp("sources")
    recipe = tiny_recipe(folder)
    methods = {"prefix": "tune.length=4", "lora": "tune={method: lora, rank: 2}", "full": "tune={method: full}"}
    for method, knob in methods.items():
        run = tiny_run(recipe, method, knob, "train.steps=1")
        export_command(run.path, "bundle", folder / f"{method}.tar", overrides=["questions=1"])
    (folder / "texts.txt").write_text("这件上衣的颜色是白色，版型很宽松。\n", encoding="utf-8")
    (folder / "predictions.jsonl").write_text('{"labels": "上衣", "predict": "上衣"}\n', encoding="utf-8")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that folder as the working directory."""
    shutil.copytree(made, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(sys, "stdin", TextIOWrapper(BytesIO("你好\n".encode()), encoding="utf-8"))
    return tmp_path / "here"


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_command_takes_a_source_or_says_why_not(command: str, source: str, here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    status = main([word.format(source=source) for word in COMMANDS[command]])
    said = capsys.readouterr().err
    expected = REFUSED.get((command, source))
    if expected is None:
        assert (status, said if "error" in said else "") == (0, "")
        assert here.is_dir()
    else:
        assert (status, "error: " in said, expected in said) == (2, True, True), said


@pytest.mark.parametrize("source", SOURCES)
def test_python_takes_what_the_commands_take(source: str, here: Path) -> None:
    model = imprint.load(source, device="cpu")
    assert (model.adapter is not None) == source.startswith(("prefix", "lora"))
    assert here.is_dir()


@pytest.mark.parametrize("knob", ["base=true", "quantize=8", "dtype=float32", "device=cpu", "template=chatglm", "base_path=base"])
@pytest.mark.parametrize(
    ("command", "refused"),
    [
        ("chat", ()),
        ("evaluate", ()),
        ("perplexity", ()),
        ("compare", ("base",)),
        ("forgetting", ("base",)),
        ("export", ("base", "quantize", "dtype")),
        ("data show", ("base", "quantize", "dtype", "device")),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_knob_that_opens_a_model_is_honoured_or_refused_by_name(
    command: str, refused: tuple[str, ...], knob: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    status = main([*(word.format(source="lora") for word in COMMANDS[command]), knob])
    said, name = capsys.readouterr().err, knob.partition("=")[0]
    assert here.is_dir()
    assert status == (2 if name in refused else 0), said
    refusals = (f"{name}: is set by", f"override {knob}: is unknown", f"{name}: would be ignored")
    assert any(refusal in said for refusal in refusals) == (name in refused)
