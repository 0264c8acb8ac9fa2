import json
import shutil
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

import imprint
from imprint.export.command import export_command
from imprint.loading.load import load_model
from imprint.loading.source import resolve_source
from imprint.messages import UserError
from imprint.models.checkpoint import read_tensors
from imprint.runs import RunFolder
from tests.bases import base_of
from tests.tiny import tiny_rows
from tests.tinyrun import tiny_run

RECIPE = """\
output: {folder}/run
model: {{path: {folder}/base, device: cpu}}
data: {{train: {folder}/rows.jsonl, dev_share: 0.2, max_source_length: 96, max_target_length: 24}}
tune: {{method: lora, rank: 4}}
optimizer: {{learning_rate: 0.02, warmup_steps: 2}}
train: {{steps: 12, batch_size: 8, watch_prompts: 0, evaluate_every: 12, save_every: 12, report: false}}
forgetting: {{measure: false}}
"""
RunOf = Callable[[str], RunFolder]
EXACT = "dtype=float32"
"""Rounding to 16 bit lets a model that has learned little choose another of two tokens that are all but equally likely."""
LEAVING = ("ChatGLM2-6B", "ChatGLM3-6B", "GLM-4-9B", "BLOOM", "Qwen3")
MESSAGES = [
    {"role": "system", "content": "你是诗人。"},
    {"role": "user", "content": "白色上衣"},
    {"role": "assistant", "content": "好的。"},
    {"role": "user", "content": "hello world"},
]


@pytest.fixture(scope="module")
def run_of(tmp_path_factory: pytest.TempPathFactory) -> RunOf:
    """A run on the base of a family, made once."""

    @cache
    def made(family: str) -> RunFolder:
        folder = tmp_path_factory.mktemp("leaving")
        base_of(family, folder / "base")
        tiny_rows(folder / "rows.jsonl")
        recipe = folder / "recipe.yaml"
        recipe.write_text(RECIPE.format(folder=folder), encoding="utf-8")
        return tiny_run(recipe, "run")

    return made


@pytest.mark.parametrize("family", ["ChatGLM3-6B", "GLM-4-9B"])
def test_rows_with_tools_verify_an_export(run_of: RunOf, family: str, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    shutil.copytree(run_of(family).path, run.path)
    turns = [{"role": "user", "content": "冷吗？"}, {"role": "assistant", "metadata": "天气", "content": "{}"}]
    turns += [{"role": "observation", "content": "冷"}, {"role": "assistant", "content": "冷。"}]
    rows = tmp_path / "tools.jsonl"
    rows.write_text(json.dumps({"tools": [{"name": "天气"}], "messages": turns}) + "\n", encoding="utf-8")
    config = run.config.read_text(encoding="utf-8")
    assert "  dev: null\n" in config
    run.config.write_text(config.replace("  dev: null\n", f"  dev: {rows}\n"), encoding="utf-8")

    out = export_command(run.path, "transformers", tmp_path / "out", overrides=[EXACT])

    assert json.loads((out / "export.json").read_text())["questions_answered_as_before"] == 2


@pytest.mark.parametrize("family", LEAVING)
def test_transformers_itself_answers_from_the_folder_as_the_run_does(run_of: RunOf, family: str, tmp_path: Path) -> None:
    run = run_of(family)

    out = export_command(run.path, "transformers", tmp_path / "out", overrides=["questions=3", EXACT])

    assert json.loads((out / "export.json").read_text())["questions_answered_as_before"] == 3
    assert not list(out.glob("*.py"))
    assert not list(out.glob("tokenizer.model"))
    assert {tensor.dtype for _name, tensor in read_tensors(out)} == {torch.float32}
    model = load_model(resolve_source(run.path))
    tokenizer = AutoTokenizer.from_pretrained(out, local_files_only=True)
    prompt = model.prompt("hello world", [("白色上衣", "好的。")], system="你是诗人。")
    assert (
        tokenizer.encode(tokenizer.apply_chat_template(MESSAGES, tokenize=False, add_generation_prompt=True), add_special_tokens=False)
        == prompt
    )
    peer = AutoModelForCausalLM.from_pretrained(out, local_files_only=True, dtype=torch.float32)
    with torch.no_grad():
        theirs = peer(torch.tensor([prompt])).logits[0]
    assert torch.allclose(model.logits([prompt])[0], theirs, atol=1e-3)
    assert set(peer.generation_config.eos_token_id) == model.network.stop_ids


@pytest.mark.parametrize("family", ["ChatGLM2-6B", "BLOOM"])
def test_what_was_written_is_a_base_like_any_other(run_of: RunOf, family: str, tmp_path: Path) -> None:
    run = run_of(family)
    out = export_command(run.path, "transformers", tmp_path / "out", overrides=["questions=2", EXACT])

    before, after = load_model(resolve_source(run.path)), imprint.load(out, device="cpu", dtype="float32")

    prompts = [before.prompt(text) for text in ("白色上衣", "hello")]
    assert [after.prompt(text) for text in ("白色上衣", "hello")] == prompts
    assert after.generate(prompts, max_new_tokens=12) == before.generate(prompts, max_new_tokens=12)


@pytest.mark.parametrize("family", ["ChatGLM3-6B", "Qwen3"])
def test_the_sampling_defaults_of_the_base_are_kept(run_of: RunOf, family: str, tmp_path: Path) -> None:
    run = run_of(family)
    base = load_model(resolve_source(run.path)).network
    file = resolve_source(run.path).base_folder / "generation_config.json"
    before = file.read_text() if file.is_file() else None
    defaults = {"temperature": 0.7, "top_p": 0.8, "top_k": 20, "repetition_penalty": 1.05, "pad_token_id": 3, "eos_token_id": 2}
    file.write_text(json.dumps(defaults))

    out = export_command(run.path, "transformers", tmp_path / "out", overrides=["questions=1", EXACT])
    file.unlink() if before is None else file.write_text(before)

    written = json.loads((out / "generation_config.json").read_text())
    assert written == {**defaults, "do_sample": True, "eos_token_id": written["eos_token_id"]}
    assert set(written["eos_token_id"]) >= base.stop_ids


def test_two_programs_are_compared_without_rounding_unless_it_is_asked_for(
    run_of: RunOf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, types = run_of("ChatGLM2-6B"), []

    def witness(_folder: Path, *, dtype: torch.dtype, device: torch.device) -> None:
        types.append(dtype)
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr("imprint.models.reference.ReferenceModel", witness)
    for more in ([], ["proof_dtype=bfloat16"]):
        with pytest.raises(UserError, match=r"memory ran out while computing in \w+; nothing was written\. Give device=cpu"):
            export_command(run.path, "transformers", tmp_path / "out", overrides=["questions=1", *more])
    assert types == [torch.float32, torch.bfloat16]


def test_chatglm_6b_has_no_class_there(run_of: RunOf, tmp_path: Path) -> None:
    run = run_of("ChatGLM-6B")

    with pytest.raises(UserError, match="transformers has no ChatGLM-6B"):
        export_command(run.path, "transformers", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_other_tokens_than_ours_end_the_export(run_of: RunOf, tmp_path: Path) -> None:
    run = run_of("GLM-4-9B")
    (tmp_path / "asked.txt").write_text("<|user|>是什么\n", encoding="utf-8")

    with pytest.raises(UserError, match="finds special tokens in typed text: give questions without them"):
        export_command(run.path, "transformers", tmp_path / "out", prompts=tmp_path / "asked.txt")
    assert not (tmp_path / "out").exists()
