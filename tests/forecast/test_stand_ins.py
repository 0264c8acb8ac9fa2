import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from imprint.forecast.stand_ins import FusedAttention, gpu_kernels
from imprint.forecast.trace import Trace
from imprint.models.attention import ForwardContext, RowAdapters
from imprint.models.loss import target_loss
from imprint.pack import pack
from tests.forecast.shapes import chatglm, texts


def saved_bytes(compute: object) -> int:
    """Bytes that autograd keeps of a computation."""
    sizes: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        sizes[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(keep, lambda tensor: tensor):
        assert callable(compute)
        compute()
    return sum(sizes.values())


def test_norm_and_dropout_keep_what_they_keep_on_a_gpu() -> None:
    norm = nn.RMSNorm(64).requires_grad_(requires_grad=False)
    x = torch.randn(10, 64, requires_grad=True)
    with gpu_kernels():
        assert saved_bytes(lambda: norm(x)) == x.nbytes + norm.weight.nbytes + 10 * 4
        assert saved_bytes(lambda: functional.dropout(x, 0.5, training=True)) == 10 * 64  # a mask of one byte an element
    assert functional.rms_norm.__module__ == "torch.nn.functional"


def test_fused_attention_keeps_queries_keys_values_output_and_one_number_a_head() -> None:
    network = chatglm()
    rows = texts(3)
    batch = pack([ids for ids, _ in rows], network)
    tokens, prefix_length = batch.ids.numel(), 8
    pair = torch.randn(prefix_length, 4, 32), torch.randn(prefix_length, 4, 32)
    context = ForwardContext(batch, (FusedAttention(),), RowAdapters([pair]))
    query, key, value = (torch.randn(tokens, 4, 32, requires_grad=True) for _ in range(3))
    size = 4 * 32 * 4
    expected = (4 * tokens + 2 * prefix_length) * size + tokens * 4 * 4
    assert saved_bytes(lambda: context.attend(0, query, key, value)) == expected
    context.attend(0, query, key, value).sum().backward()
    assert query.grad is not None
    assert query.grad.shape == query.shape


def test_a_fused_loss_takes_the_memory_of_its_logits_in_16_bits() -> None:
    rows, width, vocabulary = 512, 64, 100_000
    peaks = {}
    for fused in (False, True):
        hidden, head = (torch.empty(size, width, dtype=torch.bfloat16, device="meta") for size in (rows, vocabulary))
        hidden.requires_grad_()
        trace = Trace()
        trace.ignore([hidden, head])
        with gpu_kernels(fused_loss=fused), trace:
            target_loss(hidden, head, torch.empty(rows, dtype=torch.long, device="meta")).backward()
        peaks[fused] = sum(one.total() for one in trace.peaks.values())

    logits = 2 * rows * vocabulary
    assert peaks[True] < 1.02 * logits < 3 * logits <= peaks[False]
