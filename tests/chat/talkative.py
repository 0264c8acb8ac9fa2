"""A run on the embedded base, made without training: its prefix is what the base reads in a text of other words."""

from pathlib import Path

import torch

import imprint
from imprint.runs import RunFolder
from imprint.tune.adapter import AdapterMetadata, PrefixMetadata
from imprint.tune.adapter_folder import save_adapter
from imprint.tune.fingerprint import fingerprint
from imprint.tune.prefix import PrefixShape, init_prefix

TEXT = "晚安！明天见。"
LENGTH = 16


def prefix_run(folder: Path) -> RunFolder:
    """A run folder as training leaves it, as far as a chat needs it."""
    run = RunFolder(folder / "run")
    run.path.mkdir()
    run.config.write_text(f"model: {{path: embedded, device: cpu}}\ndata: {{train: {folder}/rows.jsonl}}\n", encoding="utf-8")
    model = imprint.load("embedded", device="cpu")
    torch.manual_seed(0)
    shape = PrefixShape.from_network(model.network, LENGTH, projection=False)
    encoder = init_prefix(model.network, shape, "text", model.tokenizer.encode(TEXT))
    save_adapter(
        run.adapter,
        encoder,
        AdapterMetadata("embedded", fingerprint(model.network), PrefixMetadata(LENGTH, False, "text"), "chatglm", step=7),
    )
    return run
