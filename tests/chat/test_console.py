import io
from collections.abc import Callable, Iterator

import pytest

import imprint
from imprint.chat.answer import LocalModel
from imprint.chat.console import HOW_TO_LEAVE, Chat, PipeReader, Screen
from imprint.chat.conversation import Conversation
from imprint.chat.section import SamplingSection
from imprint.inference.sampling import NotFiniteError
from imprint.model import Model

Says = Callable[..., None]
PIECES = ("你", "你好", "你好！")


class Typed:
    """Reads these lines one after another; an exception among them is raised."""

    def __init__(self, *lines: str | BaseException) -> None:
        self.lines = list(lines)
        self.prompts: list[str] = []

    def read(self, prompt: str, /) -> str:
        self.prompts.append(prompt)
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return line


class Room:
    """A chat whose model says what a test wants, and what is seen of it."""

    def __init__(self, model: Model, *, interactive: bool) -> None:
        self.answers, self.notes = io.StringIO(), io.StringIO()
        conversation = Conversation(SamplingSection(temperature=0.0), has_adapter=True)
        self.chat = Chat(LocalModel(model), conversation, Screen(self.answers, self.notes, interactive=interactive))

    def talk(self, *lines: str | BaseException) -> Typed:
        """Type these lines."""
        typed = Typed(*lines)
        self.chat.talk(typed)
        return typed


@pytest.fixture(scope="module")
def embedded() -> Model:
    return imprint.load("embedded", device="cpu")


@pytest.fixture
def says(embedded: Model, monkeypatch: pytest.MonkeyPatch) -> Says:
    """Let the model say these pieces, and raise those that are exceptions."""

    def put(*pieces: str | BaseException) -> None:
        def stream(*_arguments: object, **_settings: object) -> Iterator[tuple[str, list[object]]]:
            for piece in pieces:
                if isinstance(piece, BaseException):
                    raise piece
                yield piece, []

        monkeypatch.setattr(embedded, "stream_chat", stream)

    return put


@pytest.fixture
def room(embedded: Model, says: Says) -> Room:
    """A terminal."""
    says(*PIECES)
    return Room(embedded, interactive=True)


@pytest.fixture
def pipe(embedded: Model, says: Says) -> Room:
    """A pipe."""
    says(*PIECES)
    return Room(embedded, interactive=False)


def test_an_answer_is_shown_once_as_it_comes_with_its_tokens_and_their_speed(room: Room, embedded: Model) -> None:
    room.talk("你好", "", "  ")
    assert room.answers.getvalue() == "你好！\n"
    assert room.notes.getvalue().endswith(" tokens/s\n\n")
    assert room.notes.getvalue().startswith(f"{len(embedded.tokenizer.encode('你好！'))} tokens 词元 · ")
    assert room.chat.conversation.history == [("你好", "你好！")]


def test_a_pipe_gets_the_answers_alone_one_a_line(pipe: Room, says: Says) -> None:
    pipe.talk("你好")
    says("")
    pipe.talk("嗯")
    assert pipe.answers.getvalue() == "你好！\n\n"
    assert pipe.notes.getvalue() == ""


def test_ctrl_c_stops_an_answer_and_keeps_what_came(room: Room, says: Says) -> None:
    says("从", "从前,", KeyboardInterrupt())
    room.talk("讲个故事", "/retry")
    assert room.answers.getvalue() == "从前, [stopped / 已停止]\n\n" * 2
    (turn,) = room.chat.conversation.turns
    assert (turn.answer, turn.stopped, turn.tries) == ("从前,", True, 1)


def test_ctrl_c_before_anything_came_keeps_the_conversation_as_it_was(room: Room, says: Says) -> None:
    room.talk("你好")
    says(KeyboardInterrupt())
    room.talk("/retry")
    assert room.chat.conversation.history == [("你好", "你好！")]
    room.talk("你是谁？")
    assert room.chat.conversation.history == [("你好", "你好！")]
    assert room.notes.getvalue().endswith("stopped before anything came; /retry asks again / 还没有回答就停止了；/retry 重新提问\n")
    says(*PIECES)
    room.talk("/retry")
    assert room.chat.conversation.history == [("你好", "你好！"), ("你是谁？", "你好！")]


def test_ctrl_c_in_a_pipe_ends_the_command(pipe: Room, says: Says) -> None:
    says("你", KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        pipe.talk("你好")


def test_ctrl_c_at_an_empty_line_says_how_to_leave_and_leaves_the_second_time(room: Room) -> None:
    typed = Typed(KeyboardInterrupt(), "你好", KeyboardInterrupt(), KeyboardInterrupt(), "never read")
    with pytest.raises(KeyboardInterrupt):
        room.chat.talk(typed)
    assert typed.lines == ["never read"]
    assert room.notes.getvalue().count(HOW_TO_LEAVE.line) == 2
    assert room.chat.conversation.history == [("你好", "你好！")]


@pytest.mark.parametrize(
    ("failure", "sentence"),
    [
        (NotFiniteError(0, 1), "error: prompt 1 of 1: the network computes numbers that are not finite"),
        (RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"), "error: the device ran out of memory; the conversation is kept."),
        (MemoryError(), "error: the device ran out of memory"),
    ],
)
def test_an_answer_that_fails_is_a_sentence_and_the_chat_goes_on(room: Room, says: Says, failure: Exception, sentence: str) -> None:
    says("你", failure)
    room.talk("你好")
    assert room.answers.getvalue() == "你\n"
    assert room.notes.getvalue().startswith(sentence)
    assert room.chat.conversation.history == []
    says(*PIECES)
    room.talk("/retry")
    assert room.chat.conversation.history == [("你好", "你好！")]
    assert room.chat.failures == 1


def test_a_mistake_of_ours_is_not_hidden(room: Room, says: Says) -> None:
    says(RuntimeError("shapes differ"))
    with pytest.raises(RuntimeError, match="shapes differ"):
        room.talk("你好")


def test_a_command_that_cannot_be_done_is_a_sentence_and_counted(room: Room) -> None:
    room.talk("/hlep", "/set temperature hot", "你好")
    first, _chinese, second, *_ = room.notes.getvalue().splitlines()
    assert first.startswith("error: /hlep is not a command; did you mean /help?")
    assert second == 'error: /set temperature=hot: must be a number, got "hot"'
    assert room.chat.failures == 2
    assert room.answers.getvalue() == "你好！\n"


def test_the_prompt_says_when_the_base_answers_and_quit_ends_the_chat(room: Room) -> None:
    typed = room.talk("/prefix off", "/prefix on", "/quit", "never read")
    assert typed.prompts == ["> ", "base> ", "> "]
    assert typed.lines == ["never read"]


def test_two_slashes_ask_what_begins_with_one(room: Room) -> None:
    room.talk("//etc 是什么")
    assert room.chat.conversation.history == [("/etc 是什么", "你好！")]


def test_an_answer_cannot_steer_the_terminal_and_an_empty_one_is_reported(room: Room, pipe: Room, says: Says) -> None:
    says("红\x1b[31m\n\t色\x9b")
    room.talk("你好")
    pipe.talk("你好")
    assert room.answers.getvalue() == "红\ufffd[31m\n\t色\ufffd\n"
    assert pipe.answers.getvalue() == "红\ufffd[31m\n\t色\ufffd\n"
    says("")
    room.talk("嗯")
    assert room.answers.getvalue().endswith("色\ufffd\n")
    assert room.notes.getvalue().endswith("an empty answer / 空回答\n\n")


def test_a_line_end_of_windows_that_comes_in_two_parts_is_a_line_end() -> None:
    answers = io.StringIO()
    screen = Screen(answers, io.StringIO(), interactive=True)
    for text in ("一\r", "一\r\n", "一\r\n二"):
        screen.grow(text)
    assert answers.getvalue() == "一\n二"


def test_lone_surrogates_do_not_get_into_the_conversation(room: Room) -> None:
    room.talk("你\udce4好")
    assert room.chat.conversation.history == [("你?好", "你好！")]


def test_lines_of_a_pipe_are_utf8_and_a_line_that_is_not_is_reported_by_its_number(pipe: Room) -> None:
    lines = PipeReader(io.BytesIO("\ufeff你好\r\n".encode() + "你好\n".encode("gb18030") + "再见".encode()))
    pipe.chat.talk(lines)
    assert [question for question, _answer in pipe.chat.conversation.history] == ["你好", "再见"]
    assert pipe.notes.getvalue().startswith("error: line 2 of the input is not UTF-8 text. Convert it, for instance with iconv")


def test_dropped_turns_are_reported_in_a_pipe_too(pipe: Room) -> None:
    pipe.talk("/set max_length 40", *["白色的长裙很好看"] * 4)
    assert "old turns no longer seen" in pipe.notes.getvalue()


def test_colours_are_for_terminals_whose_reader_wants_them() -> None:
    class Tty(io.StringIO):
        def isatty(self) -> bool:
            return True

    notes = Tty()
    Screen(io.StringIO(), notes, interactive=True).note("一\n\n二")
    assert notes.getvalue() in ("\x1b[2m一\x1b[0m\n\n\x1b[2m二\x1b[0m\n", "一\n\n二\n")
