from imprint.models.configs.blocks import block_configs
from imprint.models.configs.bloom import BloomConfig
from imprint.quant.fp8 import Fp8
from imprint.quant.row_int import RowInt

FIELDS = {"model_type": "bloom", "vocab_size": 60, "hidden_size": 32, "n_layer": 6, "n_head": 4, "eos_token_id": 2}


def test_every_block_has_the_config_of_the_network_but_for_its_weight_format() -> None:
    plain = BloomConfig.read(FIELDS)
    fp8 = BloomConfig.read({**FIELDS, **Fp8().fields})
    int8 = BloomConfig.read({**FIELDS, **RowInt(8).fields})

    assert block_configs(plain) == [plain] * 6
    assert block_configs(int8) == [int8] * 6
    assert block_configs(fp8) == [plain, *[fp8] * 4, plain]
