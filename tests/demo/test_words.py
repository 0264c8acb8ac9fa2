import re
from pathlib import Path

from imprint import demo
from imprint.demo.words import read_sections

FOLDER = Path(demo.__path__[0])
NAMES = {file.stem for file in (FOLDER / "words").iterdir()}


def test_every_list_beside_the_code_is_read() -> None:
    texts = [file.read_text(encoding="utf-8") for file in FOLDER.glob("*.py")]
    assert {name for text in texts for name in re.findall(r'read_sections\("(\w+)"\)', text)} == NAMES


def test_a_section_holds_its_lines_and_no_comment() -> None:
    sections = read_sections("town")
    assert sections["店铺"][0][0] == "布朵坊"
    assert not any(entry[0].startswith("#") for entries in sections.values() for entry in entries)


def test_no_list_has_an_empty_field_or_a_line_twice_in_one_section() -> None:
    for name in NAMES:
        for head, entries in read_sections(name).items():
            assert all(field == field.strip() != "" for entry in entries for field in entry), (name, head)
            if name != "common":
                assert len({tuple(entry) for entry in entries}) == len(entries), (name, head)
