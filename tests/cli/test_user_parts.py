from imprint.cli.parser import find_section
from imprint.cli.user_parts import USER_PARTS
from imprint.serve.section import DataFolderSection


def test_every_part_takes_the_folder_of_the_service() -> None:
    assert USER_PARTS
    assert all(issubclass(find_section(part.section), DataFolderSection) for part in USER_PARTS)


def test_no_part_is_named_twice_and_each_is_told_in_both_languages() -> None:
    assert len({part.name for part in USER_PARTS}) == len(USER_PARTS)
    assert all(part.does.english.isascii() and not part.does.chinese.isascii() for part in USER_PARTS)
