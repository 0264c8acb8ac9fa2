import io
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

import imprint
from imprint.chat.command import chat_command
from imprint.cli import main
from imprint.messages import UserError
from imprint.runs import RunFolder
from imprint.terminal import CONTROLS
from tests.chat.talkative import LENGTH, prefix_run
from tests.tiny import tiny_base
from tests.tinyrun import tiny_recipe, tiny_run

QUESTIONS = ("你好", "你是谁？")
LAZY = (
    "import sys; from imprint.cli import main; status = main(sys.argv[1:]); "
    "print('prompt_toolkit' in sys.modules, 'matplotlib' in sys.modules, 'jieba' in sys.modules); sys.exit(status)"
)


@dataclass(frozen=True)
class Said:
    """What a chat in a pipe left."""

    answers: str
    notes: str
    status: int


Piped = Callable[..., Said]


@pytest.fixture
def piped(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Piped:
    """`imprint chat` with the first argument as its input."""

    def chat(text: str | bytes, *arguments: str) -> Said:
        content = text.encode() if isinstance(text, str) else text
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
        status = main(["chat", *arguments])
        return Said(*capsys.readouterr(), status)

    return chat


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run whose prefix changes what the embedded base says."""
    return prefix_run(tmp_path_factory.mktemp("chat"))


def test_a_pipe_asks_one_question_a_line_gets_the_answers_alone_and_needs_no_line_editor() -> None:
    model = imprint.load("embedded", device="cpu")
    first, history = model.chat(QUESTIONS[0], temperature=0)
    second, _ = model.chat(QUESTIONS[1], history, temperature=0)
    command = [sys.executable, "-c", LAZY, "chat", "embedded", "temperature=0", "device=cpu"]
    result = subprocess.run(command, input=("\n\n".join(QUESTIONS) + "\n/quit\n再见").encode(), capture_output=True, check=True)
    assert result.stdout.decode() == f"{first}\n{second}\nFalse False False\n"
    assert "loaded 已加载: base 底座 embedded · no adapter 无适配器 · float32 · cpu · " in result.stderr.decode()


def test_the_prefix_of_a_run_switched_off_is_the_base_bit_for_bit(piped: Piped, run: RunFolder) -> None:
    base, tuned = imprint.load("embedded", device="cpu"), imprint.load("embedded", adapter=run.adapter, device="cpu")
    plain, changed = base.chat("谢谢", temperature=0)[0], tuned.chat("谢谢", temperature=0)[0]
    result = piped("谢谢\n/prefix off\n/retry\n/prefix on\n/retry\n", str(run.path), "temperature=0")
    assert result.answers == f"{changed}\n{plain}\n{changed}\n"
    assert changed != plain
    assert f"base 底座 embedded · prefix 前缀 {run.path} ({LENGTH} tokens, step 7) · float32 · cpu · " in result.notes


def test_a_trained_run_folder_is_enough(piped: Piped, tmp_path: Path) -> None:
    tuned = tiny_run(tiny_recipe(tmp_path), "run")
    result = piped("你好\n/system 你是诗人\n上衣\n", str(tuned.path), "max_length=40", "seed=1")
    assert (result.status, "prefix 前缀" in result.notes) == (0, True)
    assert "loaded 已加载: base 底座 " + str(tmp_path / "base") in result.notes
    assert "this is the system prompt from the next answer on" in result.notes


def test_a_run_that_tuned_all_parameters_and_the_base_of_a_run_say_so(piped: Piped, tmp_path: Path, run: RunFolder) -> None:
    whole = tiny_run(tiny_recipe(tmp_path), "run", "tune={method: full}", "train.steps=2", "train.evaluate_every=2")
    assert f"base 底座 {whole.model} · all parameters tuned 全参数微调" in piped("", str(whole.path)).notes
    result = piped("/prefix off", str(run.path), "base=true")
    assert "base 底座 embedded · no adapter 无适配器" in result.notes
    assert "error: /adapter: there is no adapter to switch" in result.notes


def test_an_adapter_on_a_model_folder_is_named(piped: Piped, run: RunFolder) -> None:
    said = piped("", "embedded", f"adapter={run.adapter}", "device=cpu").notes
    assert f"base 底座 embedded · prefix 前缀 {run.adapter} ({LENGTH} tokens, step 7)" in said


def test_no_text_of_an_adapters_description_can_steer_the_terminal(piped: Piped, run: RunFolder, tmp_path: Path) -> None:
    shutil.copytree(run.adapter, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter.json"
    fields = json.loads(file.read_text(encoding="utf-8"))
    for name in (*fields, "\x1b[31m"):
        file.write_text(json.dumps({**fields, name: "\x1b]0;title\x07\x9b"}), encoding="utf-8")
        said = piped("你好", "embedded", f"adapter={tmp_path / 'adapter'}", "device=cpu", "max_length=20")
        assert not CONTROLS.search(said.notes + said.answers), name


def test_a_pipe_in_which_something_failed_says_so_at_the_end_and_goes_on(piped: Piped) -> None:
    result = piped("/hlep\n你好\n".encode() + "你好".encode("gb18030"), "embedded", "temperature=0", "device=cpu")
    assert result.answers.count("\n") == 1
    said = result.notes
    assert "error: /hlep is not a command; did you mean /help?" in said
    assert said.endswith("error: 2 of the lines could not be answered; see above.\n       有 2 行未能处理，见上。\n")
    assert "Traceback" not in said
    assert result.status == 2


def test_a_reader_who_leaves_early_ends_the_chat(monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(io.StringIO):
        def write(self, _text: str, /) -> int:
            raise BrokenPipeError

    source = io.BytesIO("你好\n你好\n你好\n".encode())
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(source, encoding="utf-8"))
    monkeypatch.setattr(sys, "stdout", Gone())
    with pytest.raises(BrokenPipeError):  # which the command line takes as the end
        chat_command(Path("embedded"), ["device=cpu", "max_length=32"])
    assert source.tell() > 0


def test_knobs_are_checked_before_anything_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(UserError) as error:
        chat_command(tmp_path / "nowhere", ["temperature=-1", "tempratur=1"])
    assert str(error.value).splitlines()[0] == "override temperature=-1: must be at least 0, got -1"
    assert "override tempratur=1: is unknown; did you mean temperature? allowed here: temperature, top_p" in str(error.value)
    with pytest.raises(UserError, match=r"there is no such folder\. Give a run folder"):
        chat_command(tmp_path / "nowhere", [])


def test_a_folder_without_a_tokenizer_is_reported_before_the_first_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tiny_base(tmp_path / "base")
    (folder / "ice_text.model").unlink()
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(UserError, match="has no tokenizer"):
        chat_command(folder, ["device=cpu"])


def test_a_saved_conversation_has_its_system_text(piped: Piped, tmp_path: Path) -> None:
    piped(f"你好\n/save {tmp_path}/say", "embedded", "temperature=0", "device=cpu", "system=你是小印。")
    row = json.loads((tmp_path / "say.jsonl").read_text(encoding="utf-8"))
    assert [turn["role"] for turn in row["conversations"]] == ["system", "user", "assistant"]
