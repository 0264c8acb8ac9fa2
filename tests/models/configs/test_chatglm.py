import pytest

from imprint.messages import UserError
from imprint.models.configs.chatglm import ChatGLMConfig
from tests.cases import small_fields


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden_size": None}, '"hidden_size" must be an integer of at least 1, got None'),
        ({"num_layers": 0}, '"num_layers" must be an integer of at least 1, got 0'),
        ({"num_layers": True}, '"num_layers" must be an integer of at least 1, got True'),
        ({"vocab_size": "40"}, "\"vocab_size\" must be an integer of at least 1, got '40'"),
        ({"hidden_size": 36}, '"hidden_size" 36 must be a multiple of 4 x "num_attention_heads" (2)'),
        ({"position_encoding_2d": False}, '"position_encoding_2d" is false'),
        ({"layernorm_epsilon": "small"}, "\"layernorm_epsilon\" must be a number above 0, got 'small'"),
        ({"layernorm_epsilon": 0}, '"layernorm_epsilon" must be a number above 0, got 0'),
    ],
)
def test_an_impossible_field_is_named(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        ChatGLMConfig.read({**small_fields(), **change})

    assert sentence in str(caught.value)
    assert "official folder" in str(caught.value)


def test_a_missing_length_takes_the_published_one() -> None:
    fields = small_fields()
    del fields["max_sequence_length"]

    assert ChatGLMConfig.read(fields).max_sequence_length == 2048


@pytest.mark.parametrize(("size", "gmask", "eop"), [(130528, 130001, 130005), (150528, 150001, 150005)])
def test_a_released_vocabulary_needs_no_special_ids(size: int, gmask: int, eop: int) -> None:
    fields = {key: value for key, value in small_fields().items() if not key.endswith("token_id")}

    special_ids = ChatGLMConfig.read({**fields, "vocab_size": size}).special_ids

    assert (special_ids.gmask, special_ids.eop) == (gmask, eop)
