import io
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from imprint.chat.remote import RemoteModelInfo, Service
from imprint.chat.remote_command import KEY_VARIABLE, choose_model, connected_lines, find_key, is_near, is_service, service_address
from imprint.cli import main
from imprint.messages import UserError
from imprint.terminal import CONTROLS
from tests.chat.services import answering, listed, piece, streamed
from tests.serve.web.scripted import KEY, Running, serving

SERVICE = Service("http://127.0.0.1/v1", None, is_near=True)


@pytest.fixture(scope="module")
def running() -> Iterator[Running]:
    with serving() as found:
        yield found


def chat(monkeypatch: pytest.MonkeyPatch, text: str, *words: str) -> int:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode()), encoding="utf-8"))
    return main(["chat", *words])


def test_a_pipe_asks_a_service_with_the_key_of_the_environment(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    typed = "hello\n/adapter off\n/retry\n/model\n/model base\n/set max_tokens 2\nhello\n"
    assert chat(monkeypatch, typed, running.url, "temperature=0") == 0
    said = capsys.readouterr()
    assert said.out == "echo: hello\necho: hello\nec\n"
    assert f"connected 已连接: {running.url}/v1 · model 模型 tuned\n" in said.err
    assert "/model NAME asks another: base / 可用 /model 换一个\n" in said.err
    assert "model 模型: tuned\n/model NAME asks another: base" in said.err
    assert "base answers from now on" in said.err
    assert "the adapter is off: the base answers" in said.err
    assert KEY not in said.out + said.err


def test_commands_and_settings_that_a_service_has_not_say_so(
    running: Running, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text = "/set max_length 40\n/adapter off\n/model tund\nfull\n"
    assert chat(monkeypatch, text, running.url, f"key={KEY}", "model=base") == 2
    said = capsys.readouterr().err
    assert "error: /set max_length=40: is unknown; did you mean max_tokens?" in said
    assert "error: /adapter: there is no adapter to switch" in said
    assert "error: /model tund: the service listed no such model. Did you mean /model tuned? It has base, tuned." in said
    assert "Too many wait. Try again in 3 s." in said
    assert "licence 许可: MIT\n" in said
    assert "For tests. / 测试用。" in said


def test_nothing_a_service_sends_can_steer_the_terminal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    models = {"data": [{"id": "\x1b]0;x\x07", "note": "\x9b31m", "licence": "\u202e"}]}
    failing = streamed({"error": {"message": "\x1b[2J"}})
    with answering([listed(models), streamed(piece("\x1b[31m红\x9b", "stop")), failing]) as seen:
        chat(monkeypatch, "hi\nhi\n", seen.url)
    said = capsys.readouterr()
    assert "红" in said.out
    assert not CONTROLS.search(said.out + said.err)


def test_the_key_is_no_knob_that_an_error_could_quote(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["key=123456", "tempratur=1"], ["key=sk bad"], ["key=", "model="], ["key=123456", "key_file=x"]):
        assert chat(monkeypatch, "", "http://127.0.0.1:9", *words) == 2
    said = capsys.readouterr().err
    assert "override tempratur=1: is unknown; did you mean temperature?" in said
    assert "123456" not in said
    assert "sk bad" not in said
    assert chat(monkeypatch, "", "http://me:secret@127.0.0.1:9") == 2
    assert "secret" not in capsys.readouterr().err


def test_a_key_comes_from_the_command_a_file_or_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "key"
    file.write_text("sk-of-file\n", encoding="ascii")
    environment = {KEY_VARIABLE: "sk-of-environment"}
    assert find_key("sk-given", None, environment) == "sk-given"
    assert find_key(None, str(file), environment) == "sk-of-file"
    assert find_key(None, None, environment) == "sk-of-environment"
    assert find_key(None, None, {}) is None
    assert find_key(None, None, {KEY_VARIABLE: ""}) is None
    with pytest.raises(UserError, match="cannot be read"):
        find_key(None, str(tmp_path / "none"), {})
    with pytest.raises(UserError, match="there is no such home folder"):
        find_key(None, "~nobody-of-this-name/key", {})
    file.write_bytes(b"sk-1\nsk-2")
    with pytest.raises(UserError, match="must be one word"):
        find_key(None, str(file), {})


@pytest.mark.parametrize(
    ("given", "address"),
    [
        ("http://127.0.0.1:8504", "http://127.0.0.1:8504/v1"),
        ("https://chat.example.org/", "https://chat.example.org/v1"),
        ("https://api.example.org/v1/", "https://api.example.org/v1"),
        ("https://api.example.org/compatible-mode/v1", "https://api.example.org/compatible-mode/v1"),
        ("HTTP://[::1]:80", "http://[::1]:80/v1"),
    ],
)
def test_the_routes_stand_behind_v1_unless_the_address_says_where(given: str, address: str) -> None:
    assert is_service(given)
    assert service_address(given) == address


@pytest.mark.parametrize(
    "given", ["http://", "http://a b", "http://x:99999", "http://u:p@x", "http://x/?key=1", "http://x/#a", "http://[x"]
)
def test_what_is_no_address_of_a_service_is_refused(given: str) -> None:
    with pytest.raises(UserError, match=r"the address must be http://HOST:PORT"):
        service_address(given)


def test_a_run_folder_is_no_service() -> None:
    assert not any(map(is_service, ("runs/demo", "httpx", "owner/name", "http:")))


def test_only_this_machine_is_near() -> None:
    assert all(map(is_near, ("127.0.0.1", "::1", "localhost", "LOCALHOST.")))
    assert not any(map(is_near, ("10.0.0.1", "example.org", "localhost.example.org", "")))


def test_the_first_tuned_model_is_asked_or_the_one_that_is_named() -> None:
    models = [RemoteModelInfo(name, "", "") for name in ("base", "shop", "poet")]
    assert choose_model(SERVICE, models, None) == "shop"
    assert choose_model(SERVICE, models, "base") == "base"
    assert choose_model(SERVICE, models[:1], None) == "base"
    assert choose_model(SERVICE, [], "gpt") == "gpt"
    with pytest.raises(UserError, match=r"model=shops: .* Did you mean model=shop\? It has base, shop, poet\."):
        choose_model(SERVICE, models, "shops")
    with pytest.raises(UserError, match="lists no model"):
        choose_model(SERVICE, [], None)


def test_very_many_models_are_not_all_named() -> None:
    models = [RemoteModelInfo(f"m{number}", "", "") for number in range(99)]
    assert connected_lines(SERVICE, models, "m0")[1].count("m") < 30
    assert "(+78)" in connected_lines(SERVICE, models, "m0")[1]
