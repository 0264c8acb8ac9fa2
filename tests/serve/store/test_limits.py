from imprint.serve.store.limits import Limits


def test_a_guest_has_less_than_a_user_and_an_address_less_than_all_its_guests_could_use() -> None:
    limits = Limits()
    assert limits.guest_tokens_a_day < limits.address_tokens_a_day < limits.guest_tokens_a_day * limits.guests_an_hour
    assert limits.guest_tokens_a_day < limits.user_tokens_a_day < limits.admin_tokens_a_day
    assert limits.guest_concurrency <= limits.user_concurrency


def test_sessions_and_wrong_passwords_are_bounded_as_the_docs_say() -> None:
    limits = Limits()
    assert (limits.idle_seconds, limits.session_seconds) == (12 * 3600, 7 * 86400)
    assert (limits.failures_a_minute, limits.address_failures_a_minute) == (5, 30)
