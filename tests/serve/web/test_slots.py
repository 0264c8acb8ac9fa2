from collections import Counter

import pytest

from imprint.messages import Bilingual
from imprint.serve.web.errors import ApiError
from imprint.serve.web.slots import slot

MANY = Bilingual("too many", "过多")


def test_each_key_has_its_own_and_an_error_gives_one_back() -> None:
    counts = Counter[str]()
    with slot(counts, "ann", 1, MANY), slot(counts, "bob", 1, MANY):
        with pytest.raises(ApiError, match="too many"), slot(counts, "ann", 1, MANY):
            pass
        assert counts == {"ann": 1, "bob": 1}
    with pytest.raises(ValueError, match="broken"), slot(counts, "ann", 1, MANY):
        raise ValueError("broken")
    assert not counts
