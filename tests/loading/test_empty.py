from pathlib import Path

import pytest
import torch

from imprint.loading.empty import empty_network, is_quantized, open_folder_template
from imprint.messages import UserError
from tests.tiny import tiny_base


def test_a_network_needs_no_weights_and_has_the_dtype_and_format_that_are_asked_for(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    for file in (*base.glob("*.safetensors"), *base.glob("*.bin")):
        file.unlink()
    network = empty_network(base, torch.bfloat16, 4)
    assert network.dtype == torch.bfloat16
    assert network.weight_format is not None
    assert network.weight_format.name == 4
    assert network.device.type == "meta"
    assert not is_quantized(base)
    assert open_folder_template(base, "auto", date=None).tokenizer.encode("你好")


def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path) -> None:
    base = tiny_base(tmp_path / "base")
    (base / "ice_text.model").unlink()
    with pytest.raises(UserError, match=r"ice_text\.model"):
        open_folder_template(base, "auto", date=None)
