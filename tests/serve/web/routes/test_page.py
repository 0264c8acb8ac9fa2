import re
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from imprint.serve.web.app import create_app
from imprint.serve.web.routes.page import FOLDER, page_files
from imprint.serve.web.settings import WebSettings
from tests.serve.web.scripted import ScriptedBackend, ScriptedStore


@pytest.fixture(scope="module")
def visitor() -> Iterator[TestClient]:
    app = create_app(ScriptedBackend(), ScriptedStore().as_store(), WebSettings())
    with TestClient(app, base_url="http://localhost") as client:
        yield client


def test_all_that_the_page_loads_is_served_by_the_service_itself(visitor: TestClient) -> None:
    wanted = {"/"} | {f"/page/{path.name}" for path in FOLDER.iterdir()}
    found = {place: visitor.get(place) for place in wanted}
    assert {place: answer.status_code for place, answer in found.items()} == dict.fromkeys(wanted, 200)
    named = {path for answer in found.values() for path in re.findall(r'(?:src|href)="(/page/[^"]+)"', answer.text)}
    imported = {f"/page/{name}" for answer in found.values() for name in re.findall(r'from "\./([^"]+)"', answer.text)}
    assert named | imported <= wanted
    assert {"/page/app.js", "/page/style.css", "/page/words.js"} <= named | imported
    assert not [place for place, answer in found.items() if re.search(r"(?:src|href|import)\W+https?:", answer.text)]


def test_the_page_runs_no_markup_and_no_scripts_but_its_own(visitor: TestClient) -> None:
    answer = visitor.get("/")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'; script-src 'self'; style-src 'self'" in policy
    assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
    assert not re.search(r"<script(?![^>]*\bsrc=)|\bon\w+=|\bstyle=", answer.text)
    scripts = "".join(path.read_text(encoding="utf-8") for path in FOLDER.glob("*.js"))
    assert not re.search(r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|eval\(|new Function", scripts)


def test_a_browser_that_has_a_file_is_not_sent_it_again(visitor: TestClient) -> None:
    first = visitor.get("/page/app.js")
    assert first.headers["cache-control"] == "no-cache"
    assert visitor.get("/page/app.js", headers={"If-None-Match": f'"x", W/{first.headers["etag"]}'}).status_code == 304
    assert visitor.get("/page/app.js", headers={"If-None-Match": '"x"'}).status_code == 200


@pytest.mark.parametrize("name", ["no.js", "%2e%2e", "..%2fweb%2fapp.py", "style.css%00", "index.html/"])
def test_no_name_becomes_a_path(visitor: TestClient, name: str) -> None:
    assert visitor.get(f"/page/{name}").json()["error"]["code"] == "not_found"


def test_every_sentence_has_both_languages_and_the_same_values() -> None:
    text = page_files()["words.js"].content.decode()
    table = text[text.index("const WORDS") : text.index("\n};")]
    string = r'"((?:[^"\\]|\\.)*)"'
    pairs = re.findall(rf"^  (\w+): \[\s*{string},\s*{string},?\s*\],$", table, re.MULTILINE)
    assert len(pairs) == len(re.findall(r"^  \w+: \[", table, re.MULTILINE))
    assert [key for key, english, chinese in pairs if set(re.findall(r"\{\w+\}", english)) != set(re.findall(r"\{\w+\}", chinese))] == []
    assert [key for key, english, _ in pairs if re.search("[\u3400-\u9fff]", english)] == ["language", "languageLabel"]
