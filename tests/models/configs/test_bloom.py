import math

import pytest

from imprint.messages import UserError
from imprint.models.configs.bloom import BloomConfig

FIELDS: dict[str, object] = {"vocab_size": 60, "hidden_size": 24, "n_layer": 2, "n_head": 3}


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"hidden_size": None}, '"n_embed" or "hidden_size" must be an integer of at least 1, got None'),
        ({"n_layer": 0}, '"n_layer" or "num_hidden_layers" must be an integer of at least 1, got 0'),
        ({"n_head": True}, '"n_head" or "num_attention_heads" must be an integer of at least 1, got True'),
        ({"hidden_size": 25}, '"hidden_size" 25 must be a multiple of "n_head" 3'),
        ({"layer_norm_epsilon": "small"}, "\"layer_norm_epsilon\" must be a number above 0, got 'small'"),
        ({"eos_token_id": "</s>"}, "\"eos_token_id\" must be an id or a list of ids, got '</s>'"),
        ({"quantization_bit": 3}, '"quantization_bit" must be 8, 4 or null, got 3'),
        ({"quantization_bit": 4, "hidden_size": 27}, '"hidden_size" 27 is odd'),
    ],
)
def test_an_impossible_field_is_named(change: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        BloomConfig.read({**FIELDS, **change})

    assert sentence in str(caught.value)


def test_older_and_newer_names_are_read() -> None:
    old = BloomConfig.read({"vocab_size": 60, "n_embed": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "seq_length": 64})
    new = BloomConfig.read(FIELDS)

    assert (old.hidden_size, old.num_layers, old.num_heads) == (new.hidden_size, new.num_layers, new.num_heads)
    assert (old.max_length, new.max_length) == (64, 2048)
    assert old.stop_ids == {2}
    assert BloomConfig.read({**FIELDS, "eos_token_id": [2, 3]}).stop_ids == {2, 3}
    assert math.isclose(old.layer_norm_epsilon, 1e-5)


def test_partial_products_that_leave_out_biases_are_refused() -> None:
    with pytest.raises(UserError, match=r'"slow_but_exact" is true with "pretraining_tp" 4: .*leaves out two biases of each block'):
        BloomConfig.read({**FIELDS, "slow_but_exact": True, "pretraining_tp": 4})

    for harmless in (
        {"slow_but_exact": True},
        {"slow_but_exact": True, "pretraining_tp": 1},
        {"slow_but_exact": False, "pretraining_tp": 4},
    ):
        assert BloomConfig.read({**FIELDS, **harmless}) == BloomConfig.read(FIELDS)


def test_attention_to_later_tokens_is_refused() -> None:
    with pytest.raises(UserError, match='"is_causal" is false: transformers then attends to later tokens, too'):
        BloomConfig.read({**FIELDS, "is_causal": False})
    assert BloomConfig.read({**FIELDS, "is_causal": True}) == BloomConfig.read(FIELDS)
