from imprint.cli.parser import find_section
from imprint.cli.user_subcommands import USER_SUBCOMMANDS
from imprint.serve.section import DataFolderSection


def test_every_part_takes_the_folder_of_the_service() -> None:
    assert USER_SUBCOMMANDS
    assert all(issubclass(find_section(subcommand.section), DataFolderSection) for subcommand in USER_SUBCOMMANDS)


def test_no_part_is_named_twice_and_each_is_told_in_both_languages() -> None:
    assert len({subcommand.name for subcommand in USER_SUBCOMMANDS}) == len(USER_SUBCOMMANDS)
    assert all(subcommand.does.english.isascii() and not subcommand.does.chinese.isascii() for subcommand in USER_SUBCOMMANDS)
