"""Input, output and Ctrl-C of a chat, on a terminal or in a pipe."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol, TextIO

from imprint.chat.answer import ContextFit, answer, fit_context
from imprint.chat.conversation import ChatRequest, Conversation
from imprint.chat.slash_commands import is_command, question, run
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.runtime import is_out_of_memory
from imprint.terminal import Style, say, style_for

HOW_TO_LEAVE: Final = Bilingual("Ctrl-C again or Ctrl-D leaves", "再按一次 Ctrl-C 或按 Ctrl-D 退出")
STOPPED_EARLY: Final = Bilingual("stopped before anything came; /retry asks again", "还没有回答就停止了；/retry 重新提问")
EMPTY_ANSWER: Final = Bilingual("an empty answer", "空回答")
OUT_OF_MEMORY: Final = Bilingual(
    "the device ran out of memory; the conversation is kept. /undo or /clear makes it shorter, /set max_length 512 bounds it; or start the "
    "chat with quantize=8.",
    "显存或内存不足：可用 /undo、/clear 或 /set max_length 512 缩短对话，或以 quantize=8 启动。",
)


class LineReader(Protocol):
    """Reads questions."""

    def read(self, prompt: str, /) -> str:
        """The next line, typed after `prompt`. Raises EOFError at the end, KeyboardInterrupt to leave."""


class PipeReader:
    """Reads questions from a pipe or a file, one per line."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._number = 0

    def read(self, _prompt: str, /) -> str:
        """The next line; UserError where it is not UTF-8."""
        line = self._source.readline()
        if not line:
            raise EOFError
        self._number += 1
        try:
            return line.decode("utf-8-sig" if self._number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(
                Bilingual(
                    f"line {self._number} of the input is not UTF-8 text. Convert it, for instance with iconv -f GB18030 -t UTF-8.",
                    "输入不是 UTF-8 编码：请先转换编码。",
                )
            ) from None


class Screen:
    """Prints answers as they stream, and notes about them."""

    def __init__(self, answers: TextIO, notes: TextIO, *, interactive: bool) -> None:
        self.interactive = interactive
        self._answers = answers
        self._notes = notes
        self._shown = ""

    def grow(self, text: str) -> None:
        """Print the new part of an answer whose text so far is `text`."""
        say(text[len(self._shown) :], stream=self._answers, end="")
        self._shown = text

    def end(self, mark: str = "") -> None:
        """End the line of an answer; a pipe gets a line for each, also an empty one."""
        if self._shown or not self.interactive:
            say(mark, stream=self._answers)
        self._shown = ""

    def note(self, text: str) -> None:
        """Print a message that is no answer, dimmed on a color terminal."""
        style = style_for(self._notes) if self.interactive else Style(coloured=False)
        say(*(style(line, "dim") for line in text.split("\n")), stream=self._notes)

    def problem(self, error: UserError | str) -> None:
        """Print an error, as the command line does."""
        say("error: " + str(error).replace("\n", "\n       "), stream=self._notes)


@dataclass
class Chat:
    """A model, a conversation and a screen."""

    model: Model
    """The model that answers."""
    conversation: Conversation
    """The conversation so far."""
    screen: Screen
    """Where it is printed."""
    echo_off: Callable[[], AbstractContextManager[None]] = nullcontext
    """Context in which typed keys are not echoed, used while an answer streams."""
    failures: int = 0
    """Number of lines that ended in an error."""

    def talk(self, reader: LineReader) -> None:
        """Handle lines until the end of the input or /quit; only a second Ctrl-C on an empty line leaves."""
        leaving = False
        while True:
            try:
                text = reader.read("> " if self.conversation.adapter_on else "base> ")
                leaving = False
                if not self.handle(text):
                    return
            except EOFError:
                return
            except KeyboardInterrupt:
                if not self.screen.interactive or leaving:
                    raise
                leaving = True
                self.screen.note(HOW_TO_LEAVE.line)
            except UserError as error:
                self.failures += 1
                self.screen.problem(error)

    def handle(self, text: str) -> bool:
        """Answer a question or run a command; returns whether the chat continues. Raises UserError if that fails."""
        text = text.strip().encode(errors="replace").decode()  # a terminal passes invalid UTF-8 as lone surrogates
        if is_command(text):
            outcome = run(text, self.conversation)
            self.conversation = outcome.conversation
            if outcome.message:
                self.screen.note(outcome.message)
            if outcome.request:
                self._answer(outcome.request)
            return not outcome.leave
        if text:
            self._answer(self.conversation.ask(question(text)))
        return True

    def _answer(self, request: ChatRequest) -> None:
        """Stream the answer and add it to the conversation, also if Ctrl-C stops it."""
        self.conversation = request.without_answer
        text, began = "", time.monotonic()
        try:
            fitted = fit_context(self.model, request)
            with self.echo_off(), closing(answer(self.model, request)) as stream:
                for text in stream:
                    self.screen.grow(self.model.template.stable_prefix(text))
        except KeyboardInterrupt:
            if not self.screen.interactive:
                raise
            self._stopped(request, text)
            return
        except (UserError, RuntimeError, MemoryError) as error:
            self.screen.end()
            if isinstance(error, UserError):
                raise
            if not is_out_of_memory(error):
                raise
            raise UserError(OUT_OF_MEMORY) from error
        self.screen.grow(text)
        self.screen.end()
        self.conversation = request.answered(text)
        tokens = len(self.model.tokenizer.encode(text))
        notes = truncation_notes(fitted, tokens)
        if self.screen.interactive:
            seconds = time.monotonic() - began
            speed = f"{tokens} tokens 词元 · {tokens / seconds:.0f} tokens/s" if text else EMPTY_ANSWER.line
            notes = [speed, *notes]
        if notes:
            self.screen.note(" · ".join(notes) + "\n" * self.screen.interactive)

    def _stopped(self, request: ChatRequest, text: str) -> None:
        """Keep the part of an answer that was streamed before Ctrl-C."""
        if not text:
            self.screen.note(STOPPED_EARLY.line)
            return
        self.screen.grow(text)
        self.screen.end(" [stopped / 已停止]\n")
        self.conversation = request.answered(text, stopped=True)


def truncation_notes(fitted: ContextFit, tokens: int) -> list[str]:
    """Notes about turns and tokens that did not fit into the context."""
    notes = []
    if fitted.dropped_turns:
        notes.append(Bilingual(f"{fitted.dropped_turns} old turns no longer seen", f"已略去最早 {fitted.dropped_turns} 轮").line)
    if fitted.cut_tokens:
        cut = fitted.cut_tokens
        notes.append(Bilingual(f"the question lost {cut} tokens of its middle", f"问题过长，中间略去 {cut} 个词元").line)
    if fitted.prompt_tokens + tokens >= fitted.max_length:
        notes.append(Bilingual(f"ended by max_length={fitted.max_length}", "达到长度上限").line)
    return notes
