import pytest

from imprint.messages import UserError
from imprint.models.configs.chatglm2 import ChatGLM2Config
from tests.cases import chatglm2_fields


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden_size": None}, '"hidden_size" must be an integer of at least 1, got None'),
        ({"ffn_hidden_size": 0}, '"ffn_hidden_size" must be an integer of at least 1, got 0'),
        ({"padded_vocab_size": "40"}, "\"padded_vocab_size\" must be an integer of at least 1, got '40'"),
        ({"multi_query_group_num": 3}, '"num_attention_heads" 4 must be a multiple of "multi_query_group_num" 3'),
        ({"kv_channels": 6}, '"kv_channels" must be a multiple of 4, since half of a head is rotated in pairs, got 6'),
        ({"kv_channels": 0}, '"kv_channels" must be an integer of at least 1, got 0'),
        ({"layernorm_epsilon": 0}, '"layernorm_epsilon" must be a number above 0, got 0'),
        ({"rope_ratio": 0}, '"rope_ratio" must be a number above 0, got 0'),
        ({"rmsnorm": False}, '"rmsnorm" is False, which no released ChatGLM2, ChatGLM3 or GLM-4-9B has; only True is supported'),
        ({"post_layer_norm": False}, '"post_layer_norm" is False'),
        ({"add_bias_linear": True}, '"add_bias_linear" is True, which no released'),
        ({"multi_query_attention": False}, '"multi_query_attention" is False'),
        ({"apply_residual_connection_post_layernorm": True}, '"apply_residual_connection_post_layernorm" is True'),
        ({"fp32_residual_connection": True}, '"fp32_residual_connection" is True'),
        ({"tie_word_embeddings": True}, '"tie_word_embeddings" is True'),
        ({"hidden_dropout": 0.1}, '"hidden_dropout" is 0.1'),
        ({"attention_dropout": 0.1}, '"attention_dropout" is 0.1'),
        ({"eos_token_id": "2"}, '"eos_token_id" must be an id or a list of ids'),
    ],
)
def test_an_impossible_or_unknown_field_is_named(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        ChatGLM2Config.read({**chatglm2_fields(), **change})

    assert sentence in str(caught.value)
    assert "Take config.json from the official folder." in str(caught.value)


def test_an_odd_width_cannot_share_bytes() -> None:
    with pytest.raises(UserError, match='"ffn_hidden_size" 23 is odd, but at 4 bits'):
        ChatGLM2Config.read({**chatglm2_fields(), "ffn_hidden_size": 23, "quantization_bit": 4})


def test_what_is_missing_takes_the_published_default() -> None:
    config = ChatGLM2Config.read({name: value for name, value in chatglm2_fields().items() if name not in {"seq_length", "kv_channels"}})

    assert (config.seq_length, config.kv_channels) == (2048, 8)


@pytest.mark.parametrize(
    ("vocabulary", "ratio", "theta", "factor"),
    [
        (65024, None, 1e4, 1.0),  # ChatGLM2-6B, ChatGLM3-6B
        (65024, 16, 1e4, 16.0),  # ChatGLM2-6B-32k
        (65024, 50, 5e5, 1.0),  # ChatGLM3-6B-32k
        (65024, 500, 5e6, 1.0),
        (151552, None, 1e4, 1.0),  # GLM-4-9B
        (151552, 500, 5e6, 1.0),  # GLM-4-9B-chat
        (151552, 10000, 1e8, 1.0),  # GLM-4-9B-chat-1m
        (151552, 16, 1.6e5, 1.0),
    ],
)
def test_the_two_meanings_of_the_rope_ratio_are_told_apart(vocabulary: int, ratio: int | None, theta: float, factor: float) -> None:
    fields = {**chatglm2_fields(), "padded_vocab_size": vocabulary, **({} if ratio is None else {"rope_ratio": ratio})}

    config = ChatGLM2Config.read(fields)

    assert (config.rope_theta, config.rope_factor) == (theta, factor)


def test_a_rope_ratio_that_could_mean_either_is_refused() -> None:
    with pytest.raises(UserError, match=r'"rope_ratio" is 8, .* which of the two another value means is unknown\. Take config\.json'):
        ChatGLM2Config.read({**chatglm2_fields(), "padded_vocab_size": 65024, "rope_ratio": 8})
