"""`imprint chat RUN|MODEL|BUNDLE`: load the model, print what was loaded, and start the chat."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path

from imprint.chat.answer import LocalModel
from imprint.chat.console import Chat, converse, standard_screen
from imprint.chat.conversation import Conversation
from imprint.chat.section import ChatSection, SamplingSection
from imprint.config import read_overrides
from imprint.loading.bundle import read_manifest
from imprint.loading.load import load_with
from imprint.loading.source import ModelSource, resolve_source
from imprint.messages import Bilingual
from imprint.model import Model


def chat_command(path: str | Path, overrides: Sequence[str]) -> None:
    """Talk to a run, a bundle of one, or a model folder.

    On a terminal there is a line editor; in a pipe each line is a question, and its answer is a line.
    """
    section = read_overrides(overrides, ChatSection)
    screen = standard_screen()
    screen.note(Bilingual(f"loading {path} ...", "正在加载").line)
    began = time.monotonic()
    source = resolve_source(path, section.base_path)
    if manifest := read_manifest(source.folder):
        screen.note(f"bundle 打包文件: {manifest.name} · {manifest.method} · base 底座 {manifest.base}, licence 许可: {manifest.licence}")
    model = load_with(source, section)
    _ = model.tokenizer  # raises UserError now, not at the first question
    screen.note(loaded_message(model, source, section, time.monotonic() - began))
    settings = SamplingSection(**{name: getattr(section, name) for name in SamplingSection.model_fields})
    converse(Chat(LocalModel(model), Conversation(settings, section.system, has_adapter=model.adapter is not None), screen), sys.stdin)


def loaded_message(model: Model, source: ModelSource, section: ChatSection, seconds: float) -> str:
    """The message after loading: base, adapter, precision, device, and seconds."""
    path, run = source.path, source.run
    base = run.model.path if run is not None else str(path)
    adapter = "no adapter 无适配器"
    if model.description is not None:
        adapter = model.description.summary(str(section.adapter or path))
        if section.adapter is not None and not section.base:
            base = str(path)
    elif run is not None and not section.base:
        base, adapter = model.name, f"all parameters tuned 全参数微调 (from {base})"
    quantized = model.network.weight_format
    precision = (f"{quantized.title}, " if quantized else "") + str(model.network.dtype).removeprefix("torch.")
    return f"loaded 已加载: base 底座 {base} · {adapter} · {precision} · {model.device} · {seconds:.1f} s"
