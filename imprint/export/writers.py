"""One writer per export target: a generator that yields the answer function of the run, writes the files, and yields that of the files."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from imprint.data.sample import Sample
from imprint.export.quantized import QuantizationPlan, write_quantized
from imprint.export.verify import GreedyAnswer, greedy_answers
from imprint.files.atomic import find_folder, write_json
from imprint.files.links import refuse_outside_links
from imprint.loading.base import base_folder, run_of_base
from imprint.loading.bundle import BundleManifest, extract_bundle, write_bundle
from imprint.loading.hub.name import parse_name
from imprint.loading.licence import read_licence
from imprint.loading.load import load, load_model
from imprint.loading.run import RunConfig
from imprint.loading.source import ModelSource, resolve_source
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.models.auxiliary_files import copy_auxiliary_files
from imprint.models.checkpoint import save_network
from imprint.models.families import read_config
from imprint.quant.formats import find_format
from imprint.quant.names import FormatName
from imprint.tune.adapter import Adapter
from imprint.tune.adapter_folder import save_original
from imprint.tune.peft_prefix import write_peft_prefix
from imprint.tune.prefix import PrefixEncoder

AnswerFunction = Callable[[Sequence[Sample]], list[GreedyAnswer]]
"""Answers samples greedily."""


@dataclass(frozen=True)
class ExportJob:
    """The arguments of one export."""

    source: ModelSource
    """The run, or a bundle of one."""
    run: RunConfig
    """Its recipe."""
    temporary: Path
    """Temporary folder or archive to write to."""
    out: Path
    """The final name."""
    dtype: torch.dtype
    """Type of the written weights."""
    device: str | None
    """Device to compute on; None takes the recipe's, else a GPU if there is one."""
    proof_dtype: str | None
    """Type used for verification; None takes the run's."""

    @property
    def base(self) -> Path:
        """The folder of the base."""
        return self.source.base_folder

    @property
    def adapter(self) -> Path:
        """The folder of the adapter."""
        folder = find_folder(self.source.run_folder.adapter)
        assert folder is not None, "the method of the run was read from it"
        return folder

    @property
    def tuned(self) -> Path:
        """The model folder of full tuning."""
        folder = find_folder(self.source.run_folder.model)
        assert folder is not None, "the method of the run was read from it"
        return folder

    def open(self, *, quantize: FormatName | None = None) -> Model:
        """The tuned model of the run, with the head and the embedding that its base has."""
        return load_model(
            self.source, quantize=quantize, quantize_head=False, embedding_on_host=False, dtype=self.proof_dtype, device=self.device
        )

    def load_export(self, folder: Path, *, adapter: Path | None = None, quantize: FormatName | None = None) -> Model:
        """Load the written files as other tools will, in the precision of `open`."""
        section = self.run.model
        dtype, device = self.proof_dtype or section.dtype, self.device or section.device
        model = load(
            folder, adapter=adapter, quantize=quantize, dtype=dtype, device=device, kernels=section.kernels, template=section.template
        )
        model.source_prefix = self.run.data_section.source_prefix
        return model

    def answer_function(self, model: Model) -> AnswerFunction:
        """Answer function of a loaded model."""
        return partial(greedy_answers, model, self.run)


Writer = Callable[[ExportJob], Iterator[AnswerFunction]]


def base_name(run: RunConfig) -> str:
    """The base as other tools find it: the recipe's path or the name at the hub, or the model folder below it if that is a run."""
    path = run.model.path
    if run.model.commit is not None and (name := parse_name(path)) is not None:
        return name.repository
    return path if run_of_base(path) is None else str(base_folder(Path(path)))


def write_official_prefix(temporary: Path, base: Path, prefix: Adapter) -> None:
    """Write a prefix checkpoint in the official layout: the base's auxiliary files, and the prefix in pytorch_model.bin."""
    copy_auxiliary_files(base, temporary)
    settings = prefix.settings()
    fields = {"pre_seq_len": settings["length"], "prefix_projection": settings["projection"]}
    write_json(temporary / "config.json", read_config(base) | fields)
    save_original(temporary, prefix)


def official_prefix(job: ExportJob) -> Iterator[AnswerFunction]:
    """A prefix checkpoint in the official layout."""
    model = job.open()
    yield job.answer_function(model)
    assert model.adapter is not None
    write_official_prefix(job.temporary, job.base, model.adapter)
    del model
    yield job.answer_function(job.load_export(job.base, adapter=job.temporary, quantize=job.run.model.quantize))


def official_model(job: ExportJob) -> Iterator[AnswerFunction]:
    """The tuned model in the official layout, as `.bin` files."""
    yield from _model(job, as_bin=True)


def merged(job: ExportJob) -> Iterator[AnswerFunction]:
    """The tuned weights, a LoRA merged, as safetensors under the official names."""
    yield from _model(job, as_bin=False)


def _model(job: ExportJob, *, as_bin: bool) -> Iterator[AnswerFunction]:
    model = job.open()
    yield job.answer_function(model)
    _save_merged(job, model, job.temporary, as_bin=as_bin)
    del model
    yield job.answer_function(job.load_export(job.temporary))


def _save_merged(job: ExportJob, model: Model, folder: Path, *, as_bin: bool = False) -> None:
    merge(model)
    refuse_overflow(model, job.dtype)
    save_network(model.network, job.source.network_folder, folder, dtype=job.dtype, as_bin=as_bin)


def merge(model: Model) -> None:
    """Merge a LoRA into the weights; quantized weights are dequantized."""
    if model.adapter is not None and model.adapter.mergeable:
        model.merge(dequantize=True)


def refuse_overflow(model: Model, dtype: torch.dtype) -> None:
    """Raise UserError if a weight does not fit into the type that will be written."""
    largest = torch.finfo(dtype).max
    for name, tensor in model.network.state_dict().items():
        if tensor.is_floating_point() and not bool((tensor.abs() <= largest).all()):
            raise UserError(
                Bilingual(
                    f"dtype: {name!r} holds values that {dtype} cannot represent (its largest is {largest:.4g}) or that are not finite. "
                    "Set dtype=bfloat16 or dtype=float32.",
                    "有数值超出该精度的范围；请用 dtype=bfloat16 或 dtype=float32。",
                )
            )


def peft_adapter(job: ExportJob) -> Iterator[AnswerFunction]:
    """A LoRA or a prefix in peft's own files, without ours."""
    model = job.open()
    yield job.answer_function(model)
    assert model.adapter is not None
    if isinstance(model.adapter, PrefixEncoder):
        write_peft_prefix(job.temporary, model.adapter, model.network, base_name(job.run))
    else:
        model.adapter.save_files(job.temporary, base_name(job.run))
    del model
    yield job.answer_function(job.load_export(job.base, adapter=job.temporary, quantize=job.run.model.quantize))


def quantized_base_with_adapter(name: FormatName) -> Writer:
    """The quantized base with the adapter's folder in it."""

    def write(job: ExportJob) -> Iterator[AnswerFunction]:
        model = job.open(quantize=name)
        yield job.answer_function(model)
        del model
        write_quantized(QuantizationPlan.from_folder(job.base, find_format(name)), job.temporary, job.out)
        refuse_outside_links(job.adapter, job.adapter.rglob("*"))
        shutil.copytree(job.adapter, job.temporary / "adapter")
        yield job.answer_function(job.load_export(job.temporary, adapter=job.temporary / "adapter"))

    return write


def quantized_model(name: FormatName) -> Writer:
    """The tuned model, quantized; verified against the same rounding at loading."""

    def write(job: ExportJob) -> Iterator[AnswerFunction]:
        yield job.answer_function(job.load_export(job.tuned, quantize=name))
        write_quantized(QuantizationPlan.from_folder(job.tuned, find_format(name)), job.temporary, job.out)
        yield job.answer_function(job.load_export(job.temporary))

    return write


def quantized_merge(name: FormatName) -> Writer:
    """A LoRA merged into the weights, which are then quantized."""

    def write(job: ExportJob) -> Iterator[AnswerFunction]:
        merged_folder = job.temporary / "merged"
        model = job.open()
        _save_merged(job, model, merged_folder)
        del model
        yield job.answer_function(job.load_export(merged_folder, quantize=name))
        write_quantized(QuantizationPlan.from_folder(merged_folder, find_format(name)), job.temporary, job.out)
        shutil.rmtree(merged_folder)
        yield job.answer_function(job.load_export(job.temporary))

    return write


def bundle(job: ExportJob) -> Iterator[AnswerFunction]:
    """One archive of the result, recipe, log and report; verified by unpacking it."""
    model = job.open()
    yield job.answer_function(model)
    del model
    run = job.source.run_folder
    result = find_folder(run.model) or job.adapter
    if result not in (run.model, run.adapter):
        raise UserError(
            Bilingual(
                f"{run.path}: its result is being replaced. Wait for the run to end, then export again.",
                f"{run.path}：该结果正在被更新：请等训练结束后再导出。",
            )
        )
    documents = (run.config, run.log, run.samples, run.curve, run.report, run.forgetting)
    names = [file.relative_to(run.path).as_posix() for file in (*documents, *sorted(result.rglob("*"))) if file.is_file()]
    refuse_outside_links(run.path, [run.path / name for name in names])
    licence = read_licence(base_folder(job.run.model.location))
    manifest = BundleManifest(run.path.resolve().name, job.source.require_result(), job.run.model.path, licence)
    write_bundle(job.temporary, run.path, names, manifest)
    folder = job.temporary.with_name(f"{job.temporary.name}-run")  # one name: what a killed export left there is replaced
    try:
        extract_bundle(job.temporary, folder)
        unpacked_run = resolve_source(folder, job.run.model.location).with_template(job.run.model.template)
        yield job.answer_function(
            load_model(unpacked_run, quantize_head=False, embedding_on_host=False, dtype=job.proof_dtype, device=job.device)
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
