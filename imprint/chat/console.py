"""The person's side of a chat: what is read, what is shown, and what Ctrl-C does. Terminals and pipes differ here only."""

import os
import time
import unicodedata
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import dataclass
from typing import BinaryIO, Final, Protocol, TextIO

from imprint.chat.answer import Fit, answer, fit
from imprint.chat.conversation import ChatRequest, Conversation
from imprint.chat.slash_commands import is_command, question, run
from imprint.errors import UserError
from imprint.model import Model
from imprint.runtime import out_of_memory

HOW_TO_LEAVE: Final = "Ctrl-C again or Ctrl-D leaves / 再按一次 Ctrl-C 或按 Ctrl-D 退出"
NOT_KEPT: Final = "stopped before anything came; /retry asks again / 还没有回答就停止了；/retry 重新提问"
OUT_OF_MEMORY: Final = (
    "the device ran out of memory; the conversation is kept. /undo or /clear makes it shorter, /set max_length 512 bounds it; or start the "
    "chat with quantize=8. / 显存或内存不足：可用 /undo、/clear 或 /set max_length 512 缩短对话，或以 quantize=8 启动。"
)


class Reader(Protocol):
    """Where questions come from."""

    def read(self, mark: str, /) -> str:
        """The next one, typed behind `mark`; EOFError where there are no more, KeyboardInterrupt where the person wants to leave."""


class Lines:
    """Questions from a pipe or a file, one a line."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._number = 0

    def read(self, _mark: str, /) -> str:
        """The next line; UserError where it is not UTF-8."""
        line = self._source.readline()
        if not line:
            raise EOFError
        self._number += 1
        try:
            return line.decode("utf-8-sig" if self._number == 1 else "utf-8")
        except UnicodeDecodeError:
            raise UserError(
                f"line {self._number} of the input is not UTF-8 text. Convert it, for instance with iconv -f GB18030 -t UTF-8. "
                "/ 输入不是 UTF-8 编码。"
            ) from None


class Screen:
    """Where a chat is shown: answers as they come, and notes about them."""

    def __init__(self, answers: TextIO, notes: TextIO, *, live: bool) -> None:
        self.live = live
        self._answers = answers
        self._notes = notes
        self._shown = ""

    def grow(self, text: str) -> None:
        """Show what is new in an answer of which `text` is known by now."""
        self._answers.write(self._safe(text[len(self._shown) :]))
        self._answers.flush()
        self._shown = text

    def end(self, mark: str = "") -> None:
        """End the line of an answer; a pipe gets a line for each, also an empty one."""
        if self._shown or not self.live:
            self._answers.write(f"{mark}\n")
            self._answers.flush()
        self._shown = ""

    def note(self, text: str) -> None:
        """Say something that is no answer, dimmed where colours are wanted."""
        dim = self.live and coloured(self._notes, os.environ)
        lines = [f"\x1b[2m{line}\x1b[0m" if dim and line else line for line in self._safe(text).split("\n")]
        print(*lines, sep="\n", file=self._notes, flush=True)

    def problem(self, error: UserError | str) -> None:
        """Say what went wrong, as the command line does."""
        print("error: " + self._safe(str(error)).replace("\n", "\n       "), file=self._notes, flush=True)

    def _safe(self, text: str) -> str:
        """The text without what would steer a terminal; a pipe gets it as it is."""
        if not self.live or text.isprintable():
            return text
        return "".join(letter if letter in "\n\t" or unicodedata.category(letter) != "Cc" else "\ufffd" for letter in text)


def coloured(stream: TextIO, environment: Mapping[str, str]) -> bool:
    """Whether colours are wanted: on a terminal that has some, unless NO_COLOR (https://no-color.org) is set."""
    return stream.isatty() and not environment.get("NO_COLOR") and environment.get("TERM") != "dumb"


@dataclass
class Chat:
    """A model, a conversation with it, and a screen that shows it."""

    model: Model
    """Who answers."""
    conversation: Conversation
    """What was said so far."""
    screen: Screen
    """Where it is shown."""
    hidden_keys: Callable[[], AbstractContextManager[None]] = nullcontext
    """Keeps what is typed while an answer comes out of it."""
    failures: int = 0
    """How many lines ended in an error."""

    def talk(self, reader: Reader) -> None:
        """Take line after line until there are no more, or the person leaves; Ctrl-C leaves a chat only at a second empty line."""
        leaving = False
        while True:
            try:
                text = reader.read("> " if self.conversation.adapter_on else "base> ")
                leaving = False
                if not self.take(text):
                    return
            except EOFError:
                return
            except KeyboardInterrupt:
                if not self.screen.live or leaving:
                    raise
                leaving = True
                self.screen.note(HOW_TO_LEAVE)
            except UserError as error:
                self.failures += 1
                self.screen.problem(error)

    def take(self, text: str) -> bool:
        """Answer a question or do a command; whether the chat goes on. Raises UserError for what cannot be done."""
        text = text.strip().encode(errors="replace").decode()  # a terminal hands on bytes that are no UTF-8 as halves of characters
        if is_command(text):
            outcome = run(text, self.conversation)
            self.conversation = outcome.conversation
            if outcome.said:
                self.screen.note(outcome.said)
            if outcome.request:
                self._answer(outcome.request)
            return not outcome.leave
        if text:
            self._answer(self.conversation.ask(question(text)))
        return True

    def _answer(self, request: ChatRequest) -> None:
        """Show the answer as it comes and add it to the conversation, also where Ctrl-C stops it."""
        self.conversation = request.otherwise
        text, began = "", time.monotonic()
        try:
            fitted = fit(self.model, request)
            with self.hidden_keys(), closing(answer(self.model, request)) as growing:
                for text in growing:
                    self.screen.grow(self.model.template.stable_prefix(text))
        except KeyboardInterrupt:
            if not self.screen.live:
                raise
            self._stopped(request, text)
            return
        except (UserError, RuntimeError, MemoryError) as error:
            self.screen.end()
            if isinstance(error, UserError):
                raise
            if not out_of_memory(error):
                raise
            raise UserError(OUT_OF_MEMORY) from error
        self.screen.grow(text)
        self.screen.end()
        self.conversation = request.answered(text)
        tokens = len(self.model.tokenizer.encode(text))
        told = losses(fitted, tokens)
        if self.screen.live:
            pace = f"{tokens} tokens 词元 · {tokens / (time.monotonic() - began):.0f} tokens/s" if text else "an empty answer / 空回答"
            told = [pace, *told]
        if told:
            self.screen.note(" · ".join(told) + "\n" * self.screen.live)

    def _stopped(self, request: ChatRequest, text: str) -> None:
        """Keep what came of an answer before Ctrl-C; nothing where nothing came."""
        if not text:
            self.screen.note(NOT_KEPT)
            return
        self.screen.grow(text)
        self.screen.end(" [stopped / 已停止]\n")
        self.conversation = request.answered(text, stopped=True)


def losses(fitted: Fit, tokens: int) -> list[str]:
    """What the context was too short for, if anything."""
    told = []
    if fitted.dropped_turns:
        told.append(f"{fitted.dropped_turns} old turns no longer seen / 已略去最早 {fitted.dropped_turns} 轮")
    if fitted.cut_tokens:
        told.append(f"the question lost {fitted.cut_tokens} tokens of its middle / 问题过长，中间略去 {fitted.cut_tokens} 个词元")
    if fitted.prompt_tokens + tokens >= fitted.max_length:
        told.append(f"ended by max_length={fitted.max_length} / 达到长度上限")
    return told
