from dataclasses import replace

from imprint.serve.store.principal import COMMAND_LINE, Actor, Principal

SOMEBODY = Principal(3, "小明", "user", "account:3", None, 1000, 2, "5e55", None, must_change_password=False)


def test_an_account_without_a_list_of_models_may_use_all_of_them() -> None:
    assert SOMEBODY.may_use("base")
    assert SOMEBODY.may_use("ad-copy")


def test_an_account_with_a_list_of_models_may_use_no_other() -> None:
    limited = replace(SOMEBODY, models=frozenset({"ad-copy"}))
    assert limited.may_use("ad-copy")
    assert not limited.may_use("base")
    assert not replace(SOMEBODY, models=frozenset()).may_use("base")


def test_who_acts_is_the_account_from_its_address_or_the_command_line() -> None:
    assert Actor.of(SOMEBODY, "10.0.0.7") == Actor("小明", "10.0.0.7")
    assert COMMAND_LINE.address is None


def test_a_model_is_the_same_however_its_name_is_composed_on_the_disk() -> None:
    limited = replace(SOMEBODY, models=frozenset({"caf\u00e9"}))
    assert limited.may_use("cafe\u0301")
    assert limited.may_use("caf\u00e9")
