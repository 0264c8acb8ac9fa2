from pathlib import Path

import pytest

from imprint.config import read_overrides
from imprint.messages import UserError
from imprint.serve.user_section import AddUserSection, ApproveSection, ChangeUserSection, KeySection


def test_an_account_is_made_with_what_is_typed() -> None:
    section = read_overrides(["role=admin", "models=[base,ad-copy]", "tokens_a_day=50000", "data=service"], AddUserSection)
    assert (section.role, section.models, section.tokens_a_day) == ("admin", ("base", "ad-copy"), 50_000)
    assert Path(section.data) == Path("service")


def test_what_is_not_typed_has_a_default() -> None:
    assert (read_overrides([], AddUserSection).role, read_overrides([], AddUserSection).models) == ("user", None)
    assert read_overrides(["models=all"], ChangeUserSection).models == "all"
    assert read_overrides(["models=[]"], ChangeUserSection).models == ()
    assert read_overrides([], ApproveSection).name is None
    assert read_overrides(["days=30"], KeySection).days == 30.0


@pytest.mark.parametrize("word", ["role=guest", "role=root", "tokens_a_day=-1", "concurrency=0", "tokens=5", "models=base"])
def test_what_no_account_can_have_is_refused(word: str) -> None:
    with pytest.raises(UserError, match=word.partition("=")[0]):
        read_overrides([word], AddUserSection)
