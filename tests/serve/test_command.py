import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import httpx2
import openai
import pytest

from imprint.messages import UserError
from imprint.serve.command import bind_or_say, refuse_unsafe, serve_command, tell_first_password, web_settings
from imprint.serve.section import ServeSection
from imprint.serve.store import COMMAND_LINE, Store
from imprint.serve.web.settings import WebSettings
from tests.serve.stores import HOME, PASSWORD, open_store
from tests.serve.tiny_runs import tiny_run

ROOT = Path(__file__).parents[2]


def test_a_run_is_served_from_the_command_line_until_the_signal(tmp_path: Path) -> None:
    run, data = tiny_run(tmp_path / "mine"), tmp_path / "data"
    words = [sys.executable, "-m", "imprint", "serve", str(run), "port=0", f"data={data}", "legacy=true", "device=cpu", "grace=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        words, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, encoding="utf-8"
    ) as started:
        try:
            assert started.stdout is not None
            first, ready = started.stdout.readline(), started.stdout.readline()
            assert first.startswith('account "admin", one-time password: ')
            assert "models: base, mine" in ready
            url = ready.split()[1].rstrip("/")
            assert httpx2.get(f"{url}/health/ready").status_code == 200
            with Store.open(data) as store:  # as `imprint user` does while the service runs
                account = store.accounts.create("ada", actor=COMMAND_LINE).account
                key = store.keys.create(account.id, actor=COMMAND_LINE).key
            with openai.OpenAI(base_url=f"{url}/v1", api_key=key, max_retries=0) as client:
                answers = {
                    name: client.chat.completions.create(
                        model=name, messages=[{"role": "user", "content": "你好"}], temperature=0, max_tokens=8
                    )
                    for name in ("base", "mine")
                }
            assert all(answer.choices[0].message.content for answer in answers.values())
            old = httpx2.post(f"{url}/", json={"prompt": "你好", "history": [], "temperature": 0, "max_length": 40}, timeout=30)
            assert old.json()["status"] == 200
            started.send_signal(signal.SIGTERM)
            assert started.wait(10) == 0
            assert started.stderr is not None
            assert key not in started.stderr.read()
        finally:
            started.kill()


def test_a_public_service_waits_for_the_first_password_to_be_changed(tmp_path: Path) -> None:
    with open_store(tmp_path, now=time.time) as store:
        refuse_unsafe(store, WebSettings())
        for settings in (WebSettings("0.0.0.0"), WebSettings(proxies=("127.0.0.1",)), WebSettings(hosts=("chat.example",))):
            with pytest.raises(UserError, match="password of admin was not changed"):
                refuse_unsafe(store, settings)
        assert store.first_password is not None
        principal = store.sessions.login("admin", store.first_password, HOME).principal
        store.sessions.change_password(principal, store.first_password, PASSWORD, HOME)
        refuse_unsafe(store, WebSettings("0.0.0.0"))


def test_the_first_password_is_told_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_store(tmp_path) as store:
        tell_first_password(store)
        assert str(store.first_password) in capsys.readouterr().out
    with open_store(tmp_path) as store:
        tell_first_password(store)
        assert capsys.readouterr().out == ""


def test_an_address_that_cannot_be_listened_on_is_said() -> None:
    with bind_or_say("127.0.0.1", 0) as taken, pytest.raises(UserError, match="cannot be listened on"):
        bind_or_say("127.0.0.1", taken.getsockname()[1])
    with pytest.raises(UserError, match=r"host=203\.0\.113\.1"):
        bind_or_say("203.0.113.1", 0)


def test_a_command_without_a_model_says_what_to_name() -> None:
    with pytest.raises(UserError, match="imprint serve runs/demo"):
        serve_command([], ServeSection())
    assert web_settings(ServeSection(legacy=True)).legacy
