from typing import Any

import pytest

from imprint.inference.request import MAX_STOPS, Request, stop_texts
from imprint.messages import UserError


class TestRefusals:
    @pytest.mark.parametrize(
        ("values", "sentence"),
        [
            ({"max_new_tokens": 0}, "max_new_tokens: must be at least 1, got 0."),
            ({"temperature": -0.1}, "temperature: must be 0 or more, got -0.1."),
            ({"temperature": float("nan")}, "temperature: must be 0 or more, got nan."),
            ({"temperature": float("inf")}, "temperature: must be 0 or more, got inf."),
            ({"top_p": 0.0}, "top_p: must be above 0 and at most 1, got 0.0."),
            ({"top_p": 1.5}, "top_p: must be above 0 and at most 1, got 1.5."),
            ({"top_k": -1}, "top_k: must be 0 or more, got -1."),
            ({"top_k": 1.5}, "top_k: must be an integer, got float 1.5."),
            ({"top_logprobs": 21}, "top_logprobs: must be 0 to 20, got 21."),
            ({"repetition_penalty": 0}, "repetition_penalty: must be above 0, got 0."),
            ({"seed": 2**64}, "seed: must be an integer of at most 64 bits, got int 18446744073709551616."),
            ({"stop": [""]}, "stop: a stop text is empty. Give texts of at least one character."),
            ({"stop": ["."] * (MAX_STOPS + 1)}, "stop: has 65 texts, allowed are 64."),
            ({"stop": [3]}, "stop[0]: must be a text, got int 3."),
            ({"stop_ids": ["a"]}, "stop_ids[0]: must be an integer, got str 'a'."),
            ({"adapter": 3}, "adapter: must be a text, got int 3."),
        ],
    )
    def test_impossible_values_are_user_errors(self, values: dict[str, Any], sentence: str) -> None:
        with pytest.raises(UserError) as caught:
            Request([1], **{"max_new_tokens": 5, **values})

        assert str(caught.value).splitlines()[0] == sentence


def test_one_stop_text_is_a_list_of_one() -> None:
    assert stop_texts("。") == stop_texts(["。"]) == ("。",)
    assert stop_texts(None) == ()
