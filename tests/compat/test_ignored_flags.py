import pytest

from imprint.compat.flags import read_flags
from imprint.compat.ignored_flags import IGNORED_FLAGS
from imprint.compat.settings import recipe_from_flags
from imprint.messages import UserError

WORDS = ["--model_name_or_path", "base", "--output_dir", "out", "--train_file", "a.json", "--prompt_column", "a", "--response_column", "b"]
ANY = {"report_to": ["tensorboard", "wandb"], "local_rank": ["-1"], "overwrite_cache": []}


@pytest.mark.parametrize("name", IGNORED_FLAGS)
def test_a_flag_without_a_meaning_is_answered_with_one_sentence_and_changes_nothing(name: str) -> None:
    values = list(IGNORED_FLAGS[name].allowed[:1]) or ANY.get(name, ["1"])
    flags, notes = read_flags([*WORDS, f"--{name}", *values])

    assert notes == [IGNORED_FLAGS[name].note(name)]
    assert recipe_from_flags(flags, cuda=False) == recipe_from_flags(read_flags(WORDS)[0], cuda=False)


@pytest.mark.parametrize("name", [name for name, flag in IGNORED_FLAGS.items() if flag.allowed])
def test_a_value_that_would_change_the_numbers_is_refused(name: str) -> None:
    with pytest.raises(UserError, match=rf"--{name} can only be .* here, got 0\.123: .*Remove it"):
        read_flags([*WORDS, f"--{name}", "0.123"])
