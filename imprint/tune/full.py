"""Tuning of all parameters."""

from imprint.errors import UserError
from imprint.models.network import Network


def unfreeze(network: Network) -> None:
    """Make every parameter trainable, each in memory of its own: a frozen base may still be mapped to its file.

    Raises UserError for a quantised base, whose integers cannot be moved by small steps.
    """
    if network.quantization_bit:
        raise UserError(
            f"tune.method: a base quantised to {network.quantization_bit} bits cannot be tuned as a whole: integers take no small "
            'steps. Set model.quantize to null with a model.path that is not quantised, or tune.method to "prefix".'
        )
    for parameter in network.parameters():
        parameter.data = parameter.data.clone()
        parameter.requires_grad_(True)
