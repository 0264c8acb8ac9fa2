import time

import pytest

from imprint.tokenizers.backtracking import may_backtrack

PUBLISHED = (
    r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}|\s*[\r\n]+|\s+",
    r"[!\"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+",
    r" ?[^(\s|[.,!?…。，、।۔،])]+",
    r"[一-龥぀-ゟ゠-ヿ]+",
    r"\d{3}(?!\d)|\p{N}{1,3}+|\s++$",
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{M}]+(?i:'s|'t|'ll)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)",
    r"\s?\p{L}+|[\r\n]|[0-9][0-9][0-9]",
)


@pytest.mark.parametrize("pattern", PUBLISHED)
def test_patterns_of_published_vocabularies_need_no_trial(pattern: str) -> None:
    assert not may_backtrack(pattern)


@pytest.mark.parametrize(
    "pattern",
    [
        r"(a+)+$",
        r"(?:a|a){40}",
        r"\p{L}*\p{L}*\p{N}",
        r"\p{L}{0,99}\p{L}{0,99}\p{L}{0,99}\p{N}",
        r"x|a*a*(?=b)",
        r"[^\]|]*\w+(?:[0-9])",
        r"a{50}a{2,}b+",
        r"[a-z]?" * 18 + r"\d",
        r"(?:[a-z])?" * 18 + r"\d",
        r"[a-z]{0,9}" * 3 + r"\d",
        r"\w?" * 4 + r"\w*\d",
        r"(?:[a-z]|[a-y])" * 18 + r"\d",
        r"(?:[a-z]*|x)" * 3 + r"\d",
        r"[a-z]{1,3}+\d",
        r"[a-z]*{3}\d",
        r"(?i:a|b|c|a)" * 18 + r"\d",
        r"[a-z]?" * 18 + r"(?!b?)",
        r"(?<a>[a-z]*)\g<a>\g<a>\d",
        r"[a-z[0-9]]*[a-z[0-9]]*x",
    ],
)
def test_patterns_that_may_divide_a_run_in_many_ways_need_one(pattern: str) -> None:
    assert may_backtrack(pattern)


@pytest.mark.parametrize("part", [r"\p{", r"\p{L", r"[\a", "(?i:a", "a{1,2", "("])
def test_a_pattern_of_any_length_takes_no_time(part: str) -> None:
    began = time.process_time()
    assert may_backtrack(part * 100_000)
    assert time.process_time() - began < 2  # the first took half a minute
