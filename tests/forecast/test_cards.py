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


def test_an_unknown_card_is_refused_with_those_that_are_known() -> None:
    with pytest.raises(UserError, match=r"(?s)--card Voodoo 2.*Known: RTX 3070 \(8 GiB\), .*H200 \(140 GiB\).*没有名为 Voodoo 2 的显卡"):
        find_card("Voodoo 2")


def test_cards_reach_from_8_gb_to_an_h200_and_name_their_sources() -> None:
    assert min(card.memory_gib for card in CARDS) == 8
    assert max(CARDS, key=lambda card: card.memory_gib).name == "H200"
    assert all(card.source and card.tflops > 20 and card.gb_per_second > 200 for card in CARDS)
