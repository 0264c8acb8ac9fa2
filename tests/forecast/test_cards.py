import pytest

from imprint.forecast.cards import CARDS, find_card
from imprint.messages import UserError


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("RTX 4090", "RTX 4090"),
        ("4090", "RTX 4090"),
        ("NVIDIA GeForce RTX 4060 Ti", "RTX 4060 Ti"),
        ("NVIDIA GeForce RTX 4060", "RTX 4060"),
        ("a100-80gb", "A100 80GB"),
        ("NVIDIA H200", "H200"),
    ],
)
def test_a_card_is_found_as_people_and_drivers_write_it(asked: str, found: str) -> None:
    assert find_card(asked).name == found


@pytest.mark.parametrize(
    ("asked", "memory_gib", "as_fast_as"),
    [("8 GB", 8, "RTX 4060"), ("24GiB", 24, "RTX 3090"), ("6g", 6, "RTX 4060"), ("32gb", 32, "V100 32GB"), ("8192 MiB", 8, "RTX 4060")],
)
def test_a_size_of_memory_is_a_card_as_slow_as_those_next_to_it(asked: str, memory_gib: float, as_fast_as: str) -> None:
    card, known = find_card(asked), find_card(as_fast_as)
    assert (card.memory_gib, card.tflops, card.gb_per_second) == (memory_gib, known.tflops, known.gb_per_second)
    assert card.name == f"{asked} (as fast as {as_fast_as} / 速度按 {as_fast_as})"


@pytest.mark.parametrize("asked", ["8", "24", "0 GB", "2000 GB"])
def test_a_number_without_a_unit_and_a_size_that_no_card_has_are_refused(asked: str) -> None:
    with pytest.raises(UserError, match=rf"--card {asked}: must be the name of a card, such as 4090, or a size of memory with its unit"):
        find_card(asked)


def test_an_unknown_card_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match=r"(?s)--card Voodoo 2.*Known: RTX 3070 \(8 GiB\), .*H200 \(140 GiB\).*没有名为 Voodoo 2 的显卡"):
        find_card("Voodoo 2")


def test_cards_reach_from_8_gb_to_an_h200_and_name_their_sources() -> None:
    assert min(card.memory_gib for card in CARDS) == 8
    assert max(CARDS, key=lambda card: card.memory_gib).name == "H200"
    assert all(card.source and card.tflops > 20 and card.gb_per_second > 200 for card in CARDS)
