"""`imprint export RUN --to TARGET`: refuse what cannot be, write aside, prove that it answers as before, give it its name."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from imprint.bundle import Facts, licence_of, pack
from imprint.config import Field, Section, read_overrides
from imprint.data.questions import read_questions
from imprint.data.sample import Sample
from imprint.errors import UserError
from imprint.export.proof import questions, refuse_other_answers
from imprint.export.transformers_layout import transformers_model
from imprint.export.ways import REFUSED, Method, Target, possible
from imprint.export.writers import (
    Job,
    Writer,
    merged,
    official_model,
    official_prefix,
    peft_adapter,
    quantized_beside,
    quantized_merge,
    quantized_model,
)
from imprint.files import find_folder, new_folder, write_json
from imprint.model import base_folder
from imprint.models.families import read_config
from imprint.progress import say
from imprint.runs import RunFolder
from imprint.trained import Trained, read_run
from imprint.tune.adapter import read_description

RECORD = "export.json"
WRITERS: dict[tuple[Method, Target], Writer] = {
    ("prefix", "official"): official_prefix,
    ("prefix", "int8"): quantized_beside(8),
    ("prefix", "int4"): quantized_beside(4),
    ("lora", "peft"): peft_adapter,
    ("lora", "merged"): merged,
    ("lora", "transformers"): transformers_model,
    ("lora", "int8"): quantized_merge(8),
    ("lora", "int4"): quantized_merge(4),
    ("full", "official"): official_model,
    ("full", "merged"): merged,
    ("full", "transformers"): transformers_model,
    ("full", "int8"): quantized_model(8),
    ("full", "int4"): quantized_model(4),
}
"""Who writes what; a bundle is packed as it is."""


class ExportSection(Section):
    """How an export is written and proven."""

    dtype: Literal["float16", "bfloat16", "float32"] | None = Field(
        None, description="Type of the weights that are written; null takes bfloat16 where the run was computed in it, else float16."
    )
    device: str | None = Field(None, description="Where to compute; null takes a GPU where there is one.")
    questions: int = Field(8, ge=1, le=1000, description="How many questions are asked before and after.")


def export_command(path: Path, target: Target, out: Path | None, *, prompts: Path | None = None, overrides: Sequence[str] = ()) -> Path:
    """Write what a run has learned in the files of `target`; returns the folder or the archive, which appears proven or not at all."""
    section = read_overrides(overrides, ExportSection)
    run = read_run(path)
    if run is None:
        raise UserError(
            f"{path}: is a model folder, and there is nothing tuned to export. Give a run folder; `imprint quantize` takes models."
        )
    method = method_of(path)
    refuse_impossible(path, method, target)
    home = RunFolder(path).path
    if target == "bundle":
        return _bundle(path, run, method, out or home.with_name(f"{home.resolve().name}.tar"))
    out = out or home / f"export-{target}"
    _refuse_place(out)
    asked = (
        questions(run, section.questions) if prompts is None else read_questions(prompts, prompt_column="content", limit=section.questions)
    )
    with new_folder(out) as part:
        count = _prove(Job(path, run, part, out, _dtype(section, run), section.device), method, target, asked)
        licence = licence_of(base_folder(run.model.path))
        record = {"from": str(path), "method": method, "target": target, "base": str(run.model.path), "base_licence": licence}
        write_json(part / RECORD, {**record, "questions_answered_as_before": count})
    say(f"{out}: written; {count} questions are answered as before, token for token / 已导出，{count} 个问题的回答与导出前逐词元相同")
    for line in next_steps(method, target, out, run):
        say(line)
    return out


def method_of(path: Path) -> Method:
    """How a run was tuned, by what its folder holds."""
    home = RunFolder(path)
    if find_folder(home.model) is not None:
        return "full"
    folder = find_folder(home.adapter)
    if folder is None:
        raise UserError(f"{path}: has no adapter yet. Let `imprint train` run to its first evaluation, or further.")
    return "lora" if read_description(folder).method == "lora" else "prefix"


def refuse_impossible(path: Path, method: Method, target: Target) -> None:
    """Raise UserError, with the reason, where this method cannot leave to that target."""
    if (method, target) in REFUSED:
        english, chinese = REFUSED[method, target]
        raise UserError(
            f"--to {target}: {path} was tuned with the method {method!r}, and {english}. "
            f"It can go to: {', '.join(possible(method))}.\n{chinese}。"
        )


def next_steps(method: Method, target: Target, out: Path, run: Trained) -> list[str]:
    """What to do with what was written."""
    base = run.model.path
    if target == "official" and method == "prefix":
        return [f"next: `imprint chat {base} adapter={out}`; in the original's scripts --ptuning_checkpoint {out}"]
    if target == "peft":
        return [f'next: PeftModel.from_pretrained(base, "{out}"), or `imprint chat {base} adapter={out}`']
    if target == "transformers":
        return [f"next: vllm serve {out}, AutoModelForCausalLM.from_pretrained, or `imprint chat {out}`"]
    if target in ("int8", "int4") and method == "prefix":
        return [f"next: `imprint chat {out} adapter={out / 'adapter'}`"]
    return [f"next: `imprint chat {out}`, or model.path={out} in a recipe"]


def _prove(job: Job, method: Method, target: Target, asked: Sequence[Sample]) -> int:
    """Ask, write, ask again; returns how many questions were answered as before."""
    writer = WRITERS[method, target](job)
    before = next(writer)(asked)
    after = next(writer)(asked)
    refuse_other_answers(asked, before, after)
    return len(asked)


def _bundle(path: Path, run: Trained, method: Method, out: Path) -> Path:
    """Pack the run's result with what tells of it."""
    home = RunFolder(path)
    result = find_folder(home.model if method == "full" else home.adapter)
    assert result is not None, "the method of the run was read from it"
    if result.name not in (home.model.name, home.adapter.name):
        raise UserError(f"{path}: its result is just being replaced. Wait for the run to end, then export again.")
    told = (home.config, home.log, home.samples, home.curve, home.path / "report.html", home.path / "forgetting.json")
    names = [file.relative_to(path).as_posix() for file in (*told, *sorted(result.rglob("*"))) if file.is_file()]
    facts = Facts(path.resolve().name, method, str(run.model.path), licence_of(base_folder(run.model.path)))
    pack(out, path, names, facts)
    say(f"{out}: {len(names)} files and their checksums; the base {facts.base} is not in it ({facts.licence}) / 已打包，不含底座")
    say(f"next: `imprint chat {out}`")
    return out


def _refuse_place(out: Path) -> None:
    """Only a new folder, an empty one, or what this command wrote before may be written."""
    if out.is_file():
        raise UserError(f"{out}: is a file. Give the name of a folder to write to.")
    if out.is_dir() and any(out.iterdir()) and not (out / RECORD).is_file():
        raise UserError(f"{out}: is there already and is no export, so it is not replaced. Give a new folder to write to.")


def _dtype(section: ExportSection, run: Trained) -> torch.dtype:
    asked = section.dtype
    if asked is None:
        computed = run.model.dtype or read_config(base_folder(run.model.path)).get("torch_dtype")
        asked = "bfloat16" if computed == "bfloat16" else "float16"
    return {"float16": torch.float16, "bfloat16": torch.bfloat16, "float32": torch.float32}[asked]
