import pytest

from imprint.serve.store.errors import StoreError
from imprint.serve.store.names import (
    account_name,
    name_key,
    name_taken,
    new_one_time_password,
    refuse_weak_password,
    short_text,
)


@pytest.mark.parametrize(
    "name", ["小明", "Li.Lei", "han-meimei@example.com", "x", "José", "данил", "user_1+a", "ก้อง", "関ヶ原", "山田タロウ", "二〇", "〇〇"]
)
def test_names_of_people_are_allowed(name: str) -> None:
    assert account_name(name) == name


@pytest.mark.parametrize(
    "name",
    [
        *(
            "",
            " ",
            "a b",
            "a\tb",
            "a\x1b[31mb",
            "-x",
            "@x",
            ".x",
            "a/b",
            "a'b",
            'a"b',
            "a;b",
            "(command line)",
            "<b>",
            "a\u202eb",
            "a\u200bb",
            "admin\u3164",
            "admin\ufe0f",
            "ad\u034fmin",
            "admin\U000e0100",
        ),
        *("x" * 49, "a\0", "\ud800", "а" + "dmin", "αdmin", "\ua4eedmin", "\u13aadmin", "\u0301x"),
    ],
)
def test_what_could_be_taken_for_another_name_or_for_markup_is_refused(name: str) -> None:
    with pytest.raises(StoreError, match="name: must have 1 to 48 letters"):
        account_name(name)


def test_a_composed_and_a_decomposed_name_are_kept_alike() -> None:
    assert account_name("Jose\u0301") == "José"


@pytest.mark.parametrize("other", ["ADMIN", "Admin", "ａｄｍｉｎ", "ＡＤＭＩＮ"])
def test_names_are_the_same_whatever_their_case_and_width(other: str) -> None:
    assert name_key(other) == name_key("admin")


def test_names_that_differ_stay_apart() -> None:
    assert len({name_key(name) for name in ("小明", "小名", "admin", "admin1", "straße")}) == 5


def test_a_short_text_loses_the_space_around_it_and_has_bounds() -> None:
    assert short_text("  你好 \n", "reason", most=2) == "你好"
    with pytest.raises(StoreError, match="reason: must have 1 to 2 characters, got 3"):
        short_text("abc", "reason", most=2, least=1)
    for text in ("a\0b", "a\udfffb"):
        with pytest.raises(StoreError, match="reason: has a NUL character or half of a surrogate"):
            short_text(text, "reason", most=10)


@pytest.mark.parametrize(
    "password",
    ["", "          ", "short", "aaaaaaaaaaaa", "xiaoming12", "1" * 257, "abcd" * 64 + " ", "\ufdfa!?x" * 16, "e\u0301" * 5 + "abcd"],
)
def test_a_password_that_is_easily_guessed_is_refused(password: str) -> None:
    with pytest.raises(StoreError, match="password"):
        refuse_weak_password(password, "xiaoming")


@pytest.mark.parametrize("password", ["四个词就够长了好不好", "correct horse battery", "xiaoming likes noodles"])
def test_words_make_a_password(password: str) -> None:
    refuse_weak_password(password, "xiaoming")
    assert len(password) >= 10


def test_one_time_passwords_are_never_the_same_and_easy_to_read_out() -> None:
    made = {new_one_time_password() for _ in range(100)}
    assert len(made) == 100
    for one in made:
        refuse_weak_password(one, "xiaoming")
    assert all(len(one) == 23 and not set(one) & set("il1o0ABC") for one in made)


def test_a_taken_name_is_a_conflict() -> None:
    assert name_taken("小明").kind == "conflict"
