from pathlib import Path

import pytest

from imprint.config import read_overrides
from imprint.messages import UserError
from imprint.serve.section import ServeSection
from imprint.serve.served import open_served
from tests.bases import base_of
from tests.serve.tiny_runs import tiny_run

SECTION = read_overrides(["device=cpu"], ServeSection)


def test_a_base_is_served_alone_with_its_licence() -> None:
    (base,) = open_served(["embedded"], SECTION)
    assert (base.info.id, base.info.parent, base.adapter) == ("base", None, "base")
    assert base.info.licence
    assert base.info.max_length == base.model.network.shape.max_length


def test_runs_of_one_base_share_its_weights_and_keep_their_prefixes(tmp_path: Path) -> None:
    first, second = tiny_run(tmp_path / "first", "source_prefix"), tiny_run(tmp_path / "second")
    base, one, two = open_served([str(first), str(second)], SECTION)
    assert [(served.info.id, served.info.parent, served.adapter) for served in (base, one, two)] == [
        ("base", None, "base"),
        ("first", "base", "first"),
        ("second", "base", "second"),
    ]
    assert base.model.network is one.model.network is two.model.network
    assert (base.model.source_prefix, one.model.source_prefix, two.model.source_prefix) == ("", "source_prefix", "")
    assert base.model.adapters.names == ("first", "second")


def test_a_longest_answer_may_be_set(tmp_path: Path) -> None:
    section = read_overrides(["device=cpu", "max_length=32"], ServeSection)
    assert open_served(["embedded"], section)[0].info.max_length == 32


def test_models_without_a_common_base_are_refused_with_both_names(tmp_path: Path) -> None:
    other = base_of("ChatGLM2-6B", tmp_path / "other")
    with pytest.raises(UserError, match="One service has one base") as caught:
        open_served([str(tiny_run(tmp_path / "run")), str(other)], SECTION)
    assert "other" in str(caught.value)


def test_two_models_of_one_name_are_refused(tmp_path: Path) -> None:
    runs = [str(tiny_run(tmp_path / folder / "same")) for folder in ("a", "b")]
    with pytest.raises(UserError, match='the name "same" is taken'):
        open_served(runs, SECTION)
    with pytest.raises(UserError, match='the name "base" is taken'):
        open_served([str(tiny_run(tmp_path / "base"))], SECTION)
