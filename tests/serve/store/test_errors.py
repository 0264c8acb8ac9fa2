from imprint.messages import Bilingual, UserError
from imprint.serve.store.errors import StoreError, invalid, not_found


def test_a_refusal_has_a_kind_a_time_and_both_languages() -> None:
    refusal = StoreError("throttled", Bilingual("too many tries", "尝试过多"), retry_after=12.5)
    assert isinstance(refusal, UserError)
    assert (refusal.kind, refusal.retry_after, refusal.message) == ("throttled", 12.5, Bilingual("too many tries", "尝试过多"))


def test_kinds_that_waiting_does_not_mend_have_no_time() -> None:
    assert [(one.kind, one.retry_after) for one in (invalid("a", "甲"), not_found("b", "乙"))] == [("invalid", None), ("not_found", None)]
