from importlib.resources import files

from imprint.demo.words import NAMES, read_sections


def test_every_list_beside_the_code_is_known() -> None:
    assert {file.name for file in (files("imprint.demo") / "words").iterdir()} == {f"{name}.txt" for name in NAMES}


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
