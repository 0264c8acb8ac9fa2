import time

import pytest

from imprint.messages import UserError
from imprint.models.configs.limits import refuse_absurd

REAL: list[dict[str, object]] = [
    {"num_hidden_layers": 126, "hidden_size": 16384, "intermediate_size": 53248, "vocab_size": 152064, "max_position_embeddings": 10**7},
    {"num_layers": 28, "inner_hidden_size": 16384, "max_sequence_length": 2**20, "rope_theta": 10**10, "num_experts": 384},
    {
        "n_layer": 70,
        "n_embed": 14336,
        "seq_length": 2**21,
        "sliding_window": 10**9,
        "eos_token_id": 10**7,
        "layers_block_type": ["a"] * 500,
    },
    {"attention_types": [[["global", "local"], 16]], "intermediate_size": [8192] * 35, "no_rope_layers": [1, 1, 1, 0] * 12},
    {"text_config": {"original_max_position_embeddings": 10**7}, "num_hidden_layers": None, "use_cache": True},
]


@pytest.mark.parametrize("fields", REAL)
def test_fields_of_published_models_are_within_the_bounds(fields: dict[str, object]) -> None:
    refuse_absurd(fields)

    assert fields


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"num_hidden_layers": 301}, '"num_hidden_layers" is 301, which no model has; at most 300 is read'),
        ({"n_layer": 10**9}, '"n_layer" is 1000000000, which no model has'),
        ({"encoder_layers": 1e12}, '"encoder_layers" is 1000000000000.0'),
        ({"hidden_size": 10**12}, '"hidden_size" is 1000000000000, which no model has; at most 4194304 is read'),
        ({"ffn_hidden_size": 10**8}, '"ffn_hidden_size" is 100000000'),
        ({"padded_vocab_size": 10**10}, '"padded_vocab_size" is 10000000000'),
        ({"multi_query_group_num": 10**8}, '"multi_query_group_num" is 100000000'),
        ({"num_local_experts": 10**6}, '"num_local_experts" is 1000000, which no model has; at most 4096 is read'),
        ({"text_config": {"head_dim": 10**8}}, '"head_dim" is 100000000'),
        ({"vocab_size": 10**400}, '"vocab_size" is 1000000000000000..., which no model has'),
        ({"H_cycles": 10**6}, '"H_cycles" is 1000000, which no model has; at most 300 is read'),
        ({"num_layers_per_stack": 301}, '"num_layers_per_stack" is 301'),
        ({"encoder_hash_byte_group_nb_functions": 10**9}, '"encoder_hash_byte_group_nb_functions" is 1000000000'),
        ({"attention_types": [[["global", "local"], 10**9]]}, '"attention_types" is 1000000000'),
        ({"intermediate_size": [16384, 10**9]}, '"intermediate_size" is 1000000000'),
        ({"rms_norm_eps": float("nan")}, '"rms_norm_eps" is no number (NaN)'),
        ({"rope_scaling": {"factor": float("nan")}}, '"factor" is no number (NaN)'),
        ({"rope_scaling": {"type": "linear", "factor": -4.0}}, '"factor" is -4.0, which no positions have'),
        ({"rope_parameters": {"full_attention": {"rope_theta": float("inf")}}}, '"rope_theta" is inf'),
        ({"rope_ratio": -1}, '"rope_ratio" is -1'),
        ({"hidden_size": float("inf")}, '"hidden_size" is inf'),
    ],
)
def test_absurd_sizes_are_named(fields: dict[str, object], sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        refuse_absurd(fields)

    assert sentence in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize("name", ["layers_per_" * 20_000 + "!", "_sizepositio" * 20_000 + "\n"], ids=["layers", "sizes"])
def test_a_name_of_any_length_takes_no_time(name: str) -> None:
    began = time.process_time()
    refuse_absurd({name: 1})
    assert time.process_time() - began < 2  # matched with the names of sizes, it takes twenty seconds
