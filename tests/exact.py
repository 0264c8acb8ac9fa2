"""The loss of a tuner in float64, over the numbers that its weights stand for, by PyTorch's own autograd alone.

Legend: T packed tokens, P prefix length, H query heads, G heads of keys and values, D head size.
"""

from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn import functional

from imprint.models.attention import ForwardContext
from imprint.pack import Pack
from imprint.quant.linear import QuantizedLinear
from imprint.tune.tuner import Tuner


class AutogradAttention:
    """Attention with all scores at once, in a few lines and without a gradient of its own."""

    rotates = False

    def supports(self, context: ForwardContext) -> bool:
        return context.cache is None

    def attend(
        self,
        layer: int,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        context: ForwardContext,
        *,
        score_scale: float,
        slopes: Tensor | None,
    ) -> Tensor:
        """See AttentionBackend."""
        assert slopes is None
        pack, prefix = context.pack, context.adapters.prefix
        visible = (pack.seq_ids[:, None] == pack.seq_ids) & (pack.offsets < pack.num_visible[:, None])
        if prefix is not None:
            key, value = torch.cat((prefix[layer][0], key)), torch.cat((prefix[layer][1], value))
            visible = torch.cat((visible.new_ones(len(visible), len(prefix[layer][0])), visible), 1)
        share = query.shape[1] // key.shape[1]
        key, value = key.repeat_interleave(share, 1), value.repeat_interleave(share, 1)
        scores = torch.einsum("thd,khd->htk", query, key) / query.shape[-1] ** 0.5
        return torch.einsum("htk,khd->thd", scores.masked_fill(~visible, float("-inf")).softmax(-1), value)


def exact_twin(tuner: Tuner) -> Tuner:
    """A copy of a tuner that computes in float64: every quantized linear is a plain one of the numbers that it stands for."""
    twin = deepcopy(tuner)
    for name, module in [*twin.network.named_modules()]:
        if isinstance(module, QuantizedLinear):
            plain = nn.Linear(module.columns, module.rows, bias=module.bias is not None, dtype=torch.float64)
            plain.weight.data = module.dequantize(torch.float64)
            if module.bias is not None:
                plain.bias.data = module.bias.double()
            twin.network.set_submodule(name, plain.requires_grad_(requires_grad=False))
    twin.network.attention_backends = (AutogradAttention(),)
    return twin.double()


def exact_loss(twin: Tuner, pack: Pack) -> Tensor:
    """The summed loss of a pack, with all logits at once."""
    hidden = twin.network(pack, prefix=twin.prefix())
    losses = functional.cross_entropy(twin.network.logits(hidden[pack.targets]), pack.labels, reduction="none")
    return (losses if pack.weights is None else losses * pack.weights).sum()
