"""Input, output and Ctrl-C of a chat, on a terminal or in a pipe."""

import sys
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, closing, nullcontext, suppress
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol, TextIO

from imprint.chat.answerer import Answerer
from imprint.chat.conversation import ChatRequest, Conversation
from imprint.chat.slash_commands import is_command, question, run
from imprint.messages import Bilingual, UserError
from imprint.terminal import Style, say, style_for

HOW_TO_LEAVE: Final = Bilingual("Ctrl-C again or Ctrl-D leaves", "再按一次 Ctrl-C 或按 Ctrl-D 退出")
STOPPED_EARLY: Final = Bilingual("stopped before anything came; /retry asks again", "还没有回答就停止了；/retry 重新提问")
EMPTY_ANSWER: Final = Bilingual("an empty answer", "空回答")
WELCOME: Final = Bilingual("/help lists the commands, Ctrl-D leaves", "输入 /help 查看命令，Ctrl-D 退出")


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
        """Print the new part of an answer whose text so far is `text`; a CR at its end waits for the LF that may follow."""
        text = text.removesuffix("\r")
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
    """What answers, a conversation and a screen."""

    model: Answerer
    """What answers."""
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
            with self.echo_off(), closing(self.model.answer(request)) as stream:
                for text in stream:
                    self.screen.grow(self.model.settled(text))
        except KeyboardInterrupt:
            if not self.screen.interactive:
                raise
            self._stopped(request, text)
            return
        except (UserError, RuntimeError):
            self.screen.end()
            raise
        self.screen.grow(text)
        self.screen.end()
        self.conversation = request.answered(text)
        seconds = time.monotonic() - began
        summary = self.model.summary(request, text)
        notes = summary.notes
        if self.screen.interactive and not text:
            notes = [EMPTY_ANSWER.line, *notes]
        elif self.screen.interactive and summary.tokens is not None:
            notes = [f"{summary.tokens} tokens 词元 · {summary.tokens / seconds:.0f} tokens/s", *notes]
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


def standard_screen() -> Screen:
    """The terminal; in a pipe, answers go to standard output and notes to standard error."""
    interactive = sys.stdin is not None and sys.stdin.isatty() and sys.stdout.isatty()
    return Screen(sys.stdout, sys.stdout if interactive else sys.stderr, interactive=interactive)


def converse(chat: Chat, source: TextIO | None) -> None:
    """Talk until the end: by a line editor on a terminal, else line by line. Raises UserError if some of these failed."""
    if chat.screen.interactive:
        _talk_on_terminal(chat)
    elif source is not None:
        chat.talk(PipeReader(source.buffer))
        if chat.failures:
            raise UserError(
                Bilingual(f"{chat.failures} of the lines could not be answered; see above.", f"有 {chat.failures} 行未能处理，见上。")
            )


def _talk_on_terminal(chat: Chat) -> None:
    from imprint.chat.editor import Editor, echo_off

    chat.echo_off = echo_off
    chat.screen.note(WELCOME.line)
    with suppress(KeyboardInterrupt):  # the second one at an empty line
        chat.talk(Editor(chat.conversation.models))
    chat.screen.note(Bilingual("bye", "再见").line)
