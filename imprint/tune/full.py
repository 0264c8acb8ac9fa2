"""Tuning of all parameters."""

from imprint.messages import Bilingual, UserError
from imprint.models.network import Network
from imprint.models.vocabulary import refuse_missing_weights


def unfreeze(network: Network) -> None:
    """Make every parameter trainable, copied to memory of its own, since a frozen base may be mapped to its file.

    Raises UserError for a quantized base, whose rounded weights take no small updates.
    """
    if network.weight_format:
        label = network.weight_format.label
        raise UserError(
            Bilingual(
                f"tune.method: full tuning of a base quantized to {label.english} is not possible: rounded weights take no small "
                'updates. Set model.quantize to null with a model.path that is not quantized, or tune.method to "prefix".',
                f'已量化为{label.chinese}的底座不能做全参数微调：请换用未量化的底座并去掉 model.quantize，或把 tune.method 设为 "prefix"。',
            )
        )
    refuse_missing_weights(network)
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
