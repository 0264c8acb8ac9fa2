"""`imprint chat RUN|MODEL|BUNDLE`: load the model, print what was loaded, and start the chat."""

import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from imprint.chat.console import Chat, LineReader, PipeReader, Screen
from imprint.chat.conversation import Conversation
from imprint.chat.section import ChatSection, SamplingSection
from imprint.config import read_overrides
from imprint.loading.bundle import read_manifest
from imprint.loading.load import load_with
from imprint.loading.source import ModelSource, resolve_source
from imprint.messages import Bilingual, UserError
from imprint.model import Model

WELCOME: Final = Bilingual("/help lists the commands, Ctrl-D leaves", "输入 /help 查看命令，Ctrl-D 退出")


def chat_command(path: str | Path, overrides: Sequence[str]) -> None:
    """Talk to a run, a bundle of one, or a model folder.

    On a terminal there is a line editor; in a pipe each line is a question, and its answer is a line.
    """
    section = read_overrides(overrides, ChatSection)
    interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    screen = Screen(sys.stdout, sys.stdout if interactive else sys.stderr, interactive=interactive)
    screen.note(Bilingual(f"loading {path} ...", "正在加载").line)
    began = time.monotonic()
    source = resolve_source(path, section.base_path)
    if manifest := read_manifest(source.folder):
        screen.note(f"bundle 打包文件: {manifest.name} · {manifest.method} · base 底座 {manifest.base}, licence 许可: {manifest.licence}")
    model = load_with(source, section)
    _ = model.tokenizer  # raises UserError now, not at the first question
    screen.note(loaded_message(model, source, section, time.monotonic() - began))
    settings = SamplingSection(**{name: getattr(section, name) for name in SamplingSection.model_fields})
    chat = Chat(model, Conversation(settings, section.system, has_adapter=model.adapter is not None), screen)
    if interactive:
        _talk_on_terminal(chat)
    elif sys.stdin is not None:
        _answer_lines(chat, PipeReader(sys.stdin.buffer))


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


def _talk_on_terminal(chat: Chat) -> None:
    from imprint.chat.editor import Editor, echo_off

    chat.echo_off = echo_off
    chat.screen.note(WELCOME.line)
    with suppress(KeyboardInterrupt):  # the second one at an empty line
        chat.talk(Editor())
    chat.screen.note(Bilingual("bye", "再见").line)


def _answer_lines(chat: Chat, reader: LineReader) -> None:
    chat.talk(reader)
    if chat.failures:
        raise UserError(
            Bilingual(f"{chat.failures} of the lines could not be answered; see above.", f"有 {chat.failures} 行未能处理，见上。")
        )
