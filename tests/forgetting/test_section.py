from pathlib import Path

from imprint.forgetting.probes import read_probes, read_texts
from imprint.forgetting.section import PROBES, TEXT, ForgettingSection


def test_what_a_person_names_comes_first_then_what_the_base_brings_then_what_is_built_in(tmp_path: Path) -> None:
    section = ForgettingSection()
    built_in = section.probes_path(tmp_path), section.text_path(tmp_path)
    assert [path.parent.name for path in built_in] == ["forgetting", "forgetting"]
    for name in (PROBES, TEXT):
        (tmp_path / name).touch()
    assert (section.probes_path(tmp_path), section.text_path(tmp_path)) == (tmp_path / PROBES, tmp_path / TEXT)
    mine = ForgettingSection(probes=Path("mine.jsonl"), text=Path("mine.txt"))
    assert (mine.probes_path(tmp_path), mine.text_path(tmp_path)) == (Path("mine.jsonl"), Path("mine.txt"))


def test_the_built_in_probes_are_of_both_languages_and_each_says_what_is_right(tmp_path: Path) -> None:
    probes = read_probes(ForgettingSection().probes_path(tmp_path))
    assert len({probe.question for probe in probes}) == len(probes) == 97
    assert all(probe.accepted for probe in probes)
    assert sum(probe.question.isascii() for probe in probes) >= 50
    texts = read_texts(ForgettingSection().text_path(tmp_path))
    assert len(set(texts)) == len(texts) >= 20
    assert {text.isascii() for text in texts} == {True, False}
