import importlib.util
from typing import Any

import pytest
import torch

from imprint.engine.deepspeed_config import deepspeed_settings
from imprint.engine.deepspeed_fields import KNOWN
from imprint.engine.deepspeed_zero import _import_deepspeed
from imprint.engine.section import EngineSection, OptimizerSection


class Asked(dict[str, Any]):
    """Settings that note the names that are looked up in them."""

    names: set[str]

    def get(self, name: str, default: Any = None) -> Any:
        self.names.add(name)
        return super().get(name, default)

    def __contains__(self, name: object) -> bool:
        self.names.add(str(name))
        return super().__contains__(name)


@pytest.mark.skipif(importlib.util.find_spec("deepspeed") is None, reason="DeepSpeed is not installed")
def test_every_field_that_deepspeed_asks_for_is_known() -> None:
    _import_deepspeed(torch.device("cpu"))
    from deepspeed.runtime.config import DeepSpeedConfig

    settings = Asked(deepspeed_settings(EngineSection(deepspeed="zero2"), OptimizerSection(), torch.float32, 1))
    settings.names = set()
    DeepSpeedConfig(settings)

    assert {"prescale_gradients", "gradient_allreduce_op"} <= settings.names
    assert settings.names - KNOWN == set()
