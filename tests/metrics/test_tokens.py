"""Words are what jieba cuts, undisturbed and without a trace."""

import logging
from pathlib import Path

import pytest

from imprint.metrics import tokens
from imprint.metrics.means import score
from imprint.metrics.tokens import segment


def test_words_joined_are_the_text_again() -> None:
    text = "这款BRAND 针织\n连衣裙。"

    assert "".join(segment(text)) == text
    assert "针织" in segment(text)


def test_scoring_says_nothing_and_leaves_no_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    tokens._tokenizer.cache_clear()

    with caplog.at_level(logging.DEBUG):
        score(["好"], ["好"])

    assert not list(tmp_path.iterdir())
    assert capsys.readouterr() == ("", "")
    assert not caplog.records
