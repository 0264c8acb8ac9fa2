"""`imprint.load`: a model folder becomes a model that can be talked to."""

from pathlib import Path
from typing import Literal

import torch

from imprint.config import read_recipe
from imprint.errors import UserError
from imprint.files import find_folder
from imprint.loading.base import EMBEDDED, _OfRun, base_folder
from imprint.loading.run import RunConfig, existing_base, network_folder, tuned_parts
from imprint.messages import Bilingual
from imprint.model import Model
from imprint.models.checkpoint import load_network
from imprint.models.families import read_config
from imprint.quant.formats import BITS
from imprint.runs import RunFolder
from imprint.runtime import choose_device, choose_dtype
from imprint.templates import Template, TemplateName, read_template
from imprint.tokenizers import Tokenizer, missing_tokenizer, tokenizer_file
from imprint.tune.adapter import load_adapter, read_description


def _merge_own(model: "Model", path: str | Path, quantize: int | None) -> None:
    """Make the LoRA of a run that serves as a base a part of the weights, and before it those of the runs below."""
    run = RunFolder(Path(path))
    if str(path) == EMBEDDED or not run.config.is_file() or find_folder(run.model) is not None:
        return
    if quantize is not None:
        raise UserError(
            Bilingual(
                f"model.quantize: {quantize}, but {path} is a run with a LoRA, which is merged into its base before it is tuned "
                "further, and "
                "bits cannot take it up. Leave model.quantize out, or export the merged model first.",
                "以 LoRA 结果作底座时要先合并权重，不能同时量化：请去掉 model.quantize，或先导出合并后的模型。",
            )
        )
    _merge_own(model, read_recipe(run.config, [], _OfRun).model.path, quantize)
    model.put_on(*load_adapter(run.adapter, model.network))
    if model.lora is None:
        raise UserError(
            Bilingual(
                f"model.path: {path} is a run with a prefix, which is no part of the weights and cannot be tuned upon. Tune it further "
                f"with tune.adapter={run.adapter} and the base's own model.path, or tune with lora or full first.",
                "前缀不是权重的一部分，不能作为底座：请用 tune.adapter 继续训练它，或先用 lora、full 微调。",
            )
        )
    model.merge()


def load(
    folder: str | Path,
    *,
    adapter: str | Path | None = None,
    quantize: int | None = None,
    dtype: str | torch.dtype | None = None,
    device: str | None = None,
    template: TemplateName = "auto",
) -> "Model":
    """Load a model folder, with or without tokenizer files, and an adapter on top.

    `adapter`: one of our adapter folders, a LoRA folder of peft, an original prefix file of any name, or its folder. `quantize`, 8 or 4,
    rounds the weights of the blocks to so many bits as they are read; a folder that is quantised already says so itself. `dtype`, torch's
    or its name, is what is computed in: float32 on the CPU and bfloat16 or float16 on a GPU unless said. `template` says how a conversation
    is written where the folder does not. Raises UserError for whatever is wrong with a folder.
    """
    if quantize not in (None, *BITS):
        raise UserError(f"quantize: must be 8, 4 or None, got {quantize!r}.")
    path, folder = folder, base_folder(folder)
    place = choose_device(device)
    network = load_network(folder, dtype=choose_dtype(dtype, place), device=place, bits=quantize)
    fields = read_config(folder)
    model = Model(network, read_template(folder, fields, template), str(folder), tokenizer_file=tokenizer_file(fields))
    _merge_own(model, path, quantize)
    if adapter is not None:
        model.put_on(*load_adapter(Path(adapter), network))
    return model


def open_template(path: Path, run: RunConfig | None, template: TemplateName | None = None) -> Template:
    """How the conversations of a run or a model folder are written; no weights are read. UserError where there is no tokenizer.

    `template` None takes the run's own.
    """
    folder = base_folder(path) if run is None else network_folder(path, run)
    fields = read_config(folder)
    found = read_template(folder, fields, template or (run.model.template if run is not None else "auto"))
    if found is None:
        raise missing_tokenizer(folder, tokenizer_file(fields))
    return found


def open_tokenizer(path: Path, run: RunConfig | None) -> Tokenizer:
    """The tokenizer of a run or a model folder, as `open_template`."""
    return open_template(path, run).tokenizer


def load_run(
    path: Path,
    run: RunConfig | None,
    *,
    base: bool = False,
    adapter: Path | None = None,
    quantize: int | None = None,
    dtype: str | None = None,
    device: str | None = None,
    template: TemplateName | None = None,
) -> Model:
    """The model of a run, with what was tuned on top unless the `base` is asked for; or a model folder as it is.

    What is left open is taken from the run. Raises UserError where there is nothing to load.
    """
    if run is None:
        return load(path, adapter=adapter, quantize=quantize, dtype=dtype, device=device, template=template or "auto")
    if adapter is not None:
        raise UserError(f"adapter: {path} is a run, which has its own. Give a model folder to put {adapter} on it.")
    home = RunFolder(path)
    folder, own = (run.model.path, None) if base else tuned_parts(home, run)
    if folder == run.model.path:
        existing_base(path, run)
    model = load(
        folder,
        adapter=own,
        quantize=quantize or run.model.quantize,
        dtype=dtype or run.model.dtype,
        device=device or run.model.device,
        template=template or run.model.template,
    )
    model.source_prefix = run.rows.source_prefix
    return model


def tuning_method(home: RunFolder) -> Literal["prefix", "lora", "full"] | None:
    """How a run was tuned, by what its folder holds; None before its first result."""
    if find_folder(home.model) is not None:
        return "full"
    adapter = find_folder(home.adapter)
    return None if adapter is None else read_description(adapter).method
