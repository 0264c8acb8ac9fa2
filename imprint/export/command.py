"""`imprint export RUN --to TARGET`: write to a temporary folder, verify that the export answers as before, then rename."""

from collections.abc import Sequence
from pathlib import Path

import torch

from imprint.config import read_overrides
from imprint.data.readers.questions import read_questions
from imprint.data.sample import Sample
from imprint.export.destination import refuse_destination, with_file_name
from imprint.export.section import ExportSection
from imprint.export.targets import QUANTIZED, Target, possible_targets, refusal
from imprint.export.transformers_layout import transformers_model
from imprint.export.verify import refuse_changed_answers, verification_samples
from imprint.export.writers import (
    ExportJob,
    Writer,
    base_name,
    bundle,
    merged,
    official_model,
    official_prefix,
    peft_adapter,
    quantized_base_with_adapter,
    quantized_merge,
    quantized_model,
)
from imprint.files.atomic import atomic_file, atomic_folder, find_folder, write_json
from imprint.files.disk_errors import refuse_unwritable
from imprint.files.links import resolved
from imprint.loading.base import base_folder, run_of_base
from imprint.loading.bundle import SUFFIX, is_bundle
from imprint.loading.licence import read_licence
from imprint.loading.load import open_template
from imprint.loading.run import RunConfig
from imprint.loading.source import ModelSource, resolve_source
from imprint.messages import Bilingual, UserError
from imprint.models.checkpoint import without_stale_quantization_config
from imprint.models.families import build_network, read_config
from imprint.runtime import DTYPES, is_out_of_memory
from imprint.terminal import clip_columns, say
from imprint.tune.method import Method

RECORD = "export.json"
MAX_PREFIX = 200
"""Columns of the run's source_prefix that are printed."""
NOTHING_TO_EXPORT = Bilingual(
    "there is no tuned model to export. Give a run folder; `imprint quantize` takes models.",
    "没有可导出的微调结果，请给出训练结果目录；量化模型请用 imprint quantize。",
)
WRITERS: dict[tuple[Method, Target], Writer] = {
    ("prefix", "official"): official_prefix,
    ("prefix", "peft"): peft_adapter,
    **{("prefix", target): quantized_base_with_adapter(name) for target, name in QUANTIZED.items()},
    ("prefix", "bundle"): bundle,
    ("lora", "peft"): peft_adapter,
    ("lora", "merged"): merged,
    ("lora", "transformers"): transformers_model,
    **{("lora", target): quantized_merge(name) for target, name in QUANTIZED.items()},
    ("lora", "bundle"): bundle,
    ("full", "official"): official_model,
    ("full", "merged"): merged,
    ("full", "transformers"): transformers_model,
    **{("full", target): quantized_model(name) for target, name in QUANTIZED.items()},
    ("full", "bundle"): bundle,
}
"""The writer of each method and target."""
ROUNDING = {("lora", "merged"), ("lora", "transformers"), ("full", "transformers")}
"""Exports whose answers before and after are computed by different code, which rounds 16 bits differently."""
WITHOUT_BASE = {("prefix", "official"), ("prefix", "peft"), *(("prefix", target) for target in QUANTIZED), ("lora", "peft")}
"""Exports of the adapter without the weights it was tuned on, or with those of the base's folder."""
OWN_DTYPE = {*WITHOUT_BASE, ("prefix", "bundle"), ("lora", "bundle"), ("full", "bundle"), *(("full", target) for target in QUANTIZED)}
"""Exports that write each tensor in the type that it is stored in."""


def export_command(path: Path, target: Target, out: Path | None, *, prompts: Path | None = None, overrides: Sequence[str] = ()) -> Path:
    """Export a run in the format of `target`; returns the folder or archive, which appears verified or not at all."""
    section = read_overrides(overrides, ExportSection)
    source = resolve_source(path, section.base_path).with_template(section.template)
    run = source.require_run(NOTHING_TO_EXPORT)
    method = source.require_result()
    out = with_file_name(out or default_destination(source, target))
    _refuse_output(out, source, target, [path])  # before the base is looked for
    refuse_impossible(source, run, method, target)
    refuse_unused_dtype(section, method, target)
    _refuse_output(out, source, target, [path, source.folder, source.network_folder, base_folder(run.model.location)])
    if prompts is None:
        samples = verification_samples(run, section.questions, tools=open_template(source).supports_tools)
    else:
        samples = read_questions(prompts, prompt_column="content", limit=section.questions)
    with atomic_file(out) if target == "bundle" else atomic_folder(out) as temporary:
        proof_dtype = section.proof_dtype or ("float32" if (method, target) in ROUNDING else None)
        job = ExportJob(source, run, temporary, out, written_dtype(source, section), section.device, proof_dtype)
        refused = {"dtype"} if (method, target) in OWN_DTYPE else set()
        _write_and_verify(job, WRITERS[method, target], samples, rounding=[knob for knob in _rounding_knobs(job) if knob not in refused])
        if target != "bundle":
            licence = read_licence(base_folder(run.model.location))
            record = {"from": str(path), "method": method, "target": target, "base": run.model.path, "base_licence": licence}
            write_json(temporary / RECORD, {**record, "questions_answered_as_before": len(samples)})
    count = len(samples)
    say(f"{out}: written; {count} questions are answered as before, token for token / 已导出，{count} 个问题的回答与导出前逐词元相同")
    for line in next_steps(method, target, out, run):
        say(line)
    return out


def refuse_impossible(source: ModelSource, run: RunConfig, method: Method, target: Target) -> None:
    """Raise UserError, with the reason, if this method or this base cannot be exported to the target."""
    path, folder = source.path, source.network_folder
    fields = without_stale_quantization_config(read_config(folder), folder)
    with torch.device("meta"):
        family = type(build_network(fields, folder)).__name__
    if reason := refusal(method, target, family):
        raise UserError(
            Bilingual(
                f"--to {target}: {path} was tuned with the method {method!r}, and {reason.english}. "
                f"It can go to: {', '.join(possible_targets(method, family))}.",
                f"--to {target}：{path} 的微调方法是 {method!r}，{reason.chinese}。"
                f"可导出为：{'、'.join(possible_targets(method, family))}。",
            )
        )
    base_run = run_of_base(run.model.location)
    if (method, target) in WITHOUT_BASE and base_run is not None and find_folder(base_run.model) is None:
        raise UserError(
            Bilingual(
                f"--to {target}: the base of {path} is the run {base_run.path}, whose LoRA is not merged. Export that one with "
                "--to merged, then this one with base_path=THAT FOLDER.",
                f"--to {target}：底座是一个 LoRA 结果：请先用 --to merged 导出它，再用 base_path=目录 导出。",
            )
        )


def refuse_unused_dtype(section: ExportSection, method: Method, target: Target) -> None:
    """Raise UserError for a `dtype` that this export would not write."""
    if section.dtype is not None and (method, target) in OWN_DTYPE:
        raise UserError(
            Bilingual(
                f"dtype: would be ignored: --to {target} writes the tensors of a {method} run in the type that they are stored in. "
                "Leave it out.",
                f"dtype：不会起作用：--to {target} 按原有精度写出。请去掉该项。",
            )
        )


def default_destination(source: ModelSource, target: Target) -> Path:
    """Default location of an export: in the run folder, or beside it for a bundle and for the export of a bundle."""
    path = source.path
    if target == "bundle":
        return path.with_name(f"{resolved(path).name}{SUFFIX}")
    return path.with_name(f"{path.stem}-{target}") if source.kind == "bundle" else path / f"export-{target}"


def _refuse_output(out: Path, source: ModelSource, target: Target, inputs: Sequence[Path]) -> None:
    """Raise UserError for a place that the export may not be written to; `inputs` are the folders that are read."""
    refuse_own_name(out, source)
    if target == "bundle":
        refuse_bundle_destination(out)
    else:
        refuse_destination(out, inputs, written_before=_is_export, otherwise="is not an export")


def refuse_own_name(out: Path, source: ModelSource) -> None:
    """Raise UserError for a name in the run folder under which the run itself looks for something else, such as its result."""
    run = source.run_folder.path
    if source.kind == "run" and resolved(out.parent) == resolved(run) and source.run_folder.uses(out.name):
        raise UserError(
            Bilingual(
                f"{out}: is a name that the run itself uses. Give another one, or leave it out: {run / 'export-...'} is written then.",
                f"{out}：这是训练结果目录自己使用的名字：请换一个名字，或不写输出位置（则写入 {run / 'export-...'}）。",
            )
        )


def refuse_bundle_destination(out: Path) -> None:
    """Raise UserError if a bundle's name has another suffix, or would replace something else."""
    if out.suffix != SUFFIX:
        raise UserError(
            Bilingual(
                f"{out}: a bundle's name must end in {SUFFIX}. Give {out}{SUFFIX}.",
                f"打包文件名须以 {SUFFIX} 结尾：请写 {out}{SUFFIX}。",
            )
        )
    refuse_unwritable(out.parent)
    if out.exists() and not is_bundle(out):
        raise UserError(
            Bilingual(
                f"{out}: exists already and is not a bundle, so it is not replaced. Give a new name.",
                f"{out}：文件已存在且不是打包文件，不会覆盖：请换一个名字。",
            )
        )


def written_dtype(source: ModelSource, section: ExportSection) -> torch.dtype:
    """Type of the written weights: as given, else the recipe's 16-bit type, else the base's."""
    if section.dtype is not None:
        return DTYPES[section.dtype]
    run = source.require_run(NOTHING_TO_EXPORT)
    stored = [read_config(folder) for folder in (source.network_folder, base_folder(run.model.location)) if folder.is_dir()]
    names = [run.model.dtype, *(fields.get(name) for fields in stored for name in ("dtype", "torch_dtype"))]
    dtypes = (DTYPES.get(str(name).removeprefix("torch.").lower()) for name in names)
    return next((dtype for dtype in dtypes if dtype in (torch.float16, torch.bfloat16)), torch.float16)


def next_steps(method: Method, target: Target, out: Path, run: RunConfig) -> list[str]:
    """How to use what was written."""
    if target == "bundle":
        return [f"next: `imprint chat {out}`; the base, {run.model.path}, is not in it: elsewhere base_path=FOLDER says where it is"]
    template_option = "" if run.model.template == "auto" else f" template={run.model.template}"
    with_base = (
        f"`imprint chat {base_name(run)} adapter={out}{template_option}{f' quantize={run.model.quantize}' if run.model.quantize else ''}`"
    )
    lines = [f"next: `imprint chat {out}{template_option}`, or model.path={out} in a recipe"]
    if target == "official" and method == "prefix":
        lines = [f"next: {with_base}; in the original's scripts --ptuning_checkpoint {out}"]
    elif target == "peft":
        lines = [f'next: PeftModel.from_pretrained(base, "{out}"), or {with_base}']
    elif target == "transformers":
        lines = [f"next: vllm serve {out}, AutoModelForCausalLM.from_pretrained, or `imprint chat {out}`"]
    elif method == "prefix":
        lines = [f"next: `imprint chat {out} adapter={out / 'adapter'}{template_option}`"]
    if prefix := run.data_section.source_prefix:
        shown = clip_columns(prefix, MAX_PREFIX)
        lines.append(f'"{shown}" is put before every question of this run, but is not in these files: add it yourself / 提问时须自行加上')
    return lines


def _rounding_knobs(job: ExportJob) -> list[str]:
    """The knobs whose type is not float32 in this export."""
    dtypes = {"dtype": str(job.dtype), "proof_dtype": str(job.proof_dtype)}
    return [knob for knob, dtype in dtypes.items() if dtype.removeprefix("torch.") != "float32"]


def _write_and_verify(job: ExportJob, write: Writer, samples: Sequence[Sample], *, rounding: Sequence[str]) -> None:
    """Answer, write, and answer again. Raises UserError if an answer differs, or if memory runs out; `rounding`: knobs that round."""
    writer = write(job)
    try:
        say(f"{job.source.path}: answers {len(samples)} questions / 正在用训练结果回答问题")
        before = next(writer)(samples)
        say(f"{job.out}: is being written, then answers the same / 正在写出，随后回答同样的问题")
        after = next(writer)(samples)
        next(writer, None)  # lets it clean up
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error):
            raise
        raise UserError(
            Bilingual(
                f"{job.out}: memory ran out while computing in {job.proof_dtype or 'the type of the run'}; nothing was written. Give "
                "device=cpu, or proof_dtype=bfloat16, which needs half the memory and rounds.",
                f"{job.out}：显存或内存不足：请用 device=cpu 或 proof_dtype=bfloat16。",
            )
        ) from error
    refuse_changed_answers(samples, before, after, rounding=rounding)


def _is_export(folder: Path) -> bool:
    return (folder / RECORD).is_file()
