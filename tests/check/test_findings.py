from imprint.check.findings import EXAMPLES, KINDS, FindingTally
from imprint.check.text_checks import CLEANERS


def test_every_kind_is_reported_in_both_languages() -> None:
    assert all(any("\u4e00" <= letter <= "\u9fff" for letter in kind.label.chinese) for kind in KINDS.values())
    assert all(kind.label.english.isascii() for kind in KINDS.values())


def test_the_most_severe_come_first() -> None:
    severities = [kind.severity for kind in KINDS.values()]
    assert severities == sorted(severities)


def test_whatever_is_repaired_in_a_text_is_a_finding_that_says_so() -> None:
    assert all(KINDS[name].fix for name in CLEANERS)


def test_all_are_counted_and_the_first_are_shown() -> None:
    tally = FindingTally()
    for number in range(9):
        tally.add(f"a:{number}", "x")
    assert tally.count == 9
    assert [location for location, _text in tally.examples] == ["a:0", "a:1", "a:2"][:EXAMPLES]
