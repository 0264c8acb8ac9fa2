"""The slash commands of a chat: each returns the next conversation and a message."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Final

from imprint.chat.conversation import ChatRequest, Conversation, listed
from imprint.chat.section import ChatSettings, SamplingSection
from imprint.chat.transcript import save
from imprint.config import describe
from imprint.messages import Bilingual, UserError, closest, did_you_mean

SLASHES: Final = ("/", "／")
"""Characters that begin a command; the second is typed by a Chinese input method."""


SAME_ANSWER: Final = Bilingual(
    "at temperature 0 only other settings change an answer; /set temperature 0.95 draws others", "温度为 0：设置不变，回答不变"
)
NO_SYSTEM: Final = Bilingual("no system prompt; /system TEXT sets one", "没有系统提示；/system 文字 可设置")
SYSTEM_OFF: Final = Bilingual("no system prompt from the next answer on", "下一个回答起不用系统提示")
SYSTEM_SET: Final = Bilingual("this is the system prompt from the next answer on", "下一个回答起使用这段系统提示")
ADAPTER_ON: Final = Bilingual("the adapter is on: the tuned model answers", "适配器已开：由微调后的模型回答")
ADAPTER_OFF: Final = Bilingual("the adapter is off: the base answers", "适配器已关：由底座模型回答")


@dataclass(frozen=True)
class CommandOutcome:
    """Result of a command."""

    conversation: Conversation
    """The new conversation."""
    message: str = ""
    """Message to print."""
    request: ChatRequest | None = None
    """A question to answer next."""
    leave: bool = False
    """Whether the chat ends."""


@dataclass(frozen=True)
class SlashCommand:
    """A command and its line in /help."""

    arguments: str
    """Its arguments, as shown by /help."""
    help: Bilingual
    """What it does."""
    run: Callable[[Conversation, str], CommandOutcome]
    """Called with the conversation and the text after the name."""
    choices: tuple[str, ...] = ()
    """Possible arguments, for completion."""


def is_command(text: str) -> bool:
    """Whether a text is a command and no question; two slashes begin a question with one."""
    return text.startswith(SLASHES) and not text.startswith("//")


def question(text: str) -> str:
    """The question typed as this text: //... stands for /..."""
    return text[1:] if text.startswith("//") else text


def run(text: str, conversation: Conversation) -> CommandOutcome:
    """Run a command. Raises UserError if it fails."""
    name, *rest = text[1:].split(maxsplit=1) or [""]
    command = COMMANDS.get(name.lower())
    if command is None:
        meant = did_you_mean(closest(name, COMMANDS), "/{}", clause=True)
        raise UserError(
            Bilingual(
                f"/{name} is not a command; {meant.english}/help lists them. A question that begins with / is typed with //.",
                f"没有这个命令；{meant.chinese}/help 查看全部命令。",
            )
        )
    return command.run(conversation, "".join(rest).strip())


def _clear(conversation: Conversation, _argument: str) -> CommandOutcome:
    return CommandOutcome(conversation.clear(), Bilingual(f"{_turns(len(conversation.turns))} forgotten", "已清空对话").line)


def _retry(conversation: Conversation, _argument: str) -> CommandOutcome:
    request = conversation.retry()
    message = f"again / 重新回答: {_short(request.question)}"
    if request.tries and not conversation.settings.temperature:
        message += f"\n{SAME_ANSWER.line}"
    return CommandOutcome(conversation, message, request)


def _undo(conversation: Conversation, _argument: str) -> CommandOutcome:
    shortened, turn = conversation.undo()
    return CommandOutcome(
        shortened,
        f"taken back / 已撤回: {_short(turn.question)} ({_turns(len(shortened.turns))} left / 还剩 {len(shortened.turns)} 轮)",
    )


def _system(conversation: Conversation, argument: str) -> CommandOutcome:
    if not argument:
        return CommandOutcome(conversation, conversation.system or NO_SYSTEM.line)
    if argument.lower() == "off":
        return CommandOutcome(conversation.with_system(None), SYSTEM_OFF.line)
    return CommandOutcome(conversation.with_system(argument), SYSTEM_SET.line)


def _adapter(conversation: Conversation, argument: str) -> CommandOutcome:
    state = argument.lower()
    if state not in ("", "on", "off"):
        raise UserError(Bilingual(f'/adapter: must be on or off, got "{argument}".', "/adapter：请用 on 或 off。"))
    changed = conversation.with_adapter(on=state == "on" if state else conversation.adapter_on)
    if changed.adapter_on:
        return CommandOutcome(changed, ADAPTER_ON.line)
    return CommandOutcome(changed, ADAPTER_OFF.line)


def _model(conversation: Conversation, argument: str) -> CommandOutcome:
    if argument or conversation.model is None:
        changed = conversation.with_model(argument)
        return CommandOutcome(changed, Bilingual(f"{changed.model} answers from now on", "下一个回答起由它作答").line)
    others = [name for name in conversation.models if name != conversation.model]
    lines = [f"model 模型: {conversation.model}"]
    if others:
        lines.append(Bilingual(f"/model NAME asks another: {listed(others)}", "可用 /model 换一个").line)
    return CommandOutcome(conversation, "\n".join(lines))


def _set(conversation: Conversation, argument: str) -> CommandOutcome:
    name, _, value = argument.replace("=", " ", 1).partition(" ")
    shown = [knob for knob in describe(type(conversation.settings)) if not value.strip() and name in ("", knob.path)]
    if shown:
        settings = conversation.settings
        return CommandOutcome(conversation, "\n".join(f"{knob.path:20}{_value(settings, knob.path):8}{knob.description}" for knob in shown))
    changed = conversation.with_setting(name, value.strip())
    return CommandOutcome(changed, Bilingual(f"{name} is {_value(changed.settings, name)}", "已设置").line)


def _save(conversation: Conversation, argument: str) -> CommandOutcome:
    path, left_out = save(conversation, argument)
    saved = replace(conversation, saved=(*conversation.saved, path))
    note = f"; {_turns(left_out)} without an answer left out / 略去 {left_out} 轮没有回答的" if left_out else ""
    return CommandOutcome(saved, f"written to / 已写入 {path} ({_turns(len(conversation.turns) - left_out)}){note}")


def _help(conversation: Conversation, _argument: str) -> CommandOutcome:
    lines = [f"{f'/{name} {command.arguments}':20}{command.help.line}" for name, command in COMMANDS.items()]
    keys = (
        "Enter sends, Alt-Enter begins a new line, Ctrl-C stops an answer",
        "回车发送，Alt-Enter 换行，Ctrl-C 停止回答",
        "//... asks a question that begins with / / 以 // 开头，可以问以 / 开头的问题",
    )
    return CommandOutcome(conversation, "\n".join([*lines, *keys]))


def _quit(conversation: Conversation, _argument: str) -> CommandOutcome:
    return CommandOutcome(conversation, leave=True)


def _turns(count: int) -> str:
    return f"{count} turn{'' if count == 1 else 's'}"


def _value(settings: ChatSettings, name: str) -> str:
    value = getattr(settings, name)
    if value is None or isinstance(value, tuple):
        return " ".join(map(repr, value or ())) or "null"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _short(text: str) -> str:
    line = " ".join(text.split())
    return line if len(line) <= 40 else line[:39] + "…"


KNOBS: Final = tuple(describe(SamplingSection))
COMMANDS: Final[Mapping[str, SlashCommand]] = MappingProxyType(
    {
        "clear": SlashCommand("", Bilingual("forget the conversation", "清空对话"), _clear),
        "retry": SlashCommand("", Bilingual("answer the last question again", "重新回答上一个问题"), _retry),
        "undo": SlashCommand("", Bilingual("take the last turn back", "撤回上一轮"), _undo),
        "system": SlashCommand("[TEXT|off]", Bilingual("show, set or clear the system prompt", "系统提示"), _system, ("off",)),
        "adapter": SlashCommand("[on|off]", Bilingual("off: the base answers", "关闭适配器即由底座回答"), _adapter, ("on", "off")),
        "prefix": SlashCommand("[on|off]", Bilingual("the same, its older name", "同 /adapter"), _adapter, ("on", "off")),
        "model": SlashCommand("[NAME]", Bilingual("of a service: show or change the model", "查看或更换在线服务的模型"), _model),
        "set": SlashCommand("[NAME VALUE]", Bilingual("sampling settings", "采样设置"), _set, tuple(knob.path for knob in KNOBS)),
        "save": SlashCommand("FILE", Bilingual("save it: .jsonl to train on, .md to read", "保存对话"), _save),
        "help": SlashCommand("", Bilingual("list the commands", "列出命令"), _help),
        "quit": SlashCommand("", Bilingual("leave; Ctrl-D too", "退出"), _quit),
    }
)
