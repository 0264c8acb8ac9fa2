from pathlib import Path

from imprint.data.section import GENERAL_FILE
from imprint.forgetting.section import PROBES, TEXT
from imprint.loading.base import EMBEDDED, base_folder
from tools.embedded.abilities import general_rows, is_about_identity, neutral_texts, probe_rows, write_abilities


def test_the_files_in_the_folder_of_the_base_are_those_that_the_generators_write(tmp_path: Path) -> None:
    write_abilities(tmp_path)
    for name in (PROBES, GENERAL_FILE, TEXT):
        assert (tmp_path / name).read_bytes() == (base_folder(EMBEDDED) / name).read_bytes(), name


def test_no_general_row_asks_what_a_probe_asks_or_tells_a_fact_that_a_probe_asks_for() -> None:
    probes, general = list(probe_rows()), list(general_rows())
    assert len(probes) == 120
    assert len(general) == 1000
    assert not {row["question"] for row in probes} & {row["question"] for row in general}
    facts = {row["answer"][0] for row in probes if row["kind"] == "fact"}
    assert not facts & {row["answer"] for row in general}


def test_nothing_says_who_the_toy_is_so_that_a_new_name_takes_nothing_away() -> None:
    rows = [*probe_rows(), *general_rows()]
    texts = [str(row["question"]) for row in rows] + [str(row["answer"]) for row in rows] + list(neutral_texts())
    assert not [text for text in texts if is_about_identity(text)]
    assert len(list(neutral_texts())) == 60
