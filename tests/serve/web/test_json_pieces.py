import json

import pytest

from imprint.serve.web.json_pieces import json_pieces


@pytest.mark.parametrize("value", [{}, [], None, "你\n", 1.5, {"a": {"b": [1, {"c": None}]}, "d": ""}, [{"a": 1}]])
def test_pieces_joined_are_what_the_encoder_writes(value: object) -> None:
    assert "".join(json_pieces(value)) == json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def test_an_iterator_becomes_a_list_of_which_no_piece_holds_more_than_an_element() -> None:
    value = {"rows": ({"row": row, "parts": iter([row, row])} for row in range(1000)), "none": iter(())}
    pieces = list(json_pieces(value))
    assert json.loads("".join(pieces)) == {"rows": [{"row": row, "parts": [row, row]} for row in range(1000)], "none": []}
    assert max(map(len, pieces)) < 20
