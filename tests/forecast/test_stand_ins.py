from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks
from torch.nn import functional

from imprint.forecast.cards import find_card
from imprint.forecast.estimate import Choice, estimate
from imprint.forecast.stand_ins import ComputePath, FusedAttention, gpu_kernels
from imprint.forecast.trace import Trace
from imprint.models.attention import ForwardContext, RowAdapters
from imprint.models.loss import target_loss
from imprint.models.network import Network
from imprint.models.vocabulary import reduce_vocabulary_memory
from imprint.pack import pack
from imprint.quant.fp8 import Fp8
from imprint.quant.linear import QuantizedLinear, prepare_backward
from imprint.quant.names import FormatName
from imprint.quant.row_int import RowInt
from imprint.tune.section import PrefixSection
from tests.forecast.full_shape import plan
from tests.forecast.shapes import chatglm, texts

FAST = ComputePath(fused_attention=True, triton=True, graphs=True, fp8=True)


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


def test_a_triton_takes_the_memory_of_its_logits_in_16_bits() -> None:
    rows, width, vocabulary = 512, 64, 100_000
    peaks = {}
    for fused in (False, True):
        hidden, head = (torch.empty(size, width, dtype=torch.bfloat16, device="meta") for size in (rows, vocabulary))
        hidden.requires_grad_()
        trace = Trace()
        trace.ignore([hidden, head])
        with gpu_kernels(triton=fused), trace:
            target_loss(hidden, head, torch.empty(rows, dtype=torch.long, device="meta")).backward()
        peaks[fused] = sum(one.total() for one in trace.peaks.values())

    logits = 2 * rows * vocabulary
    assert peaks[True] < 1.02 * logits < 3 * logits <= peaks[False]


def test_a_weight_that_triton_dequantizes_takes_its_own_memory_alone() -> None:
    peaks = {}
    for triton in (False, True):
        with torch.device("meta"):
            layer = QuantizedLinear(1024, 2048, RowInt(4), bias=False)
        x, trace = torch.empty(8, 1024, dtype=torch.bfloat16, device="meta"), Trace()
        trace.ignore([x, *layer.buffers()])
        with gpu_kernels(triton=triton), trace:
            layer(x)
        peaks[triton] = trace.peaks["forward"].total()

    weight = 2 * 1024 * 2048
    assert weight <= peaks[True] < 1.02 * weight < peaks[False]


def test_a_product_of_fp8_takes_its_rounded_numbers_beside_its_result() -> None:
    with torch.device("meta"), gpu_kernels(fp8=True):
        layer = QuantizedLinear(1024, 2048, Fp8(), bias=False)
        prepare_backward(layer, torch.bfloat16)
    x, trace = torch.empty(8, 1024, dtype=torch.bfloat16, device="meta", requires_grad=True), Trace()
    trace.ignore([x, *layer.buffers(), *layer.backward_tensors.values()])

    with gpu_kernels(fp8=True), trace:
        out = layer(x)
        out.sum().backward()

    assert x.grad is not None
    assert trace.peaks["forward"].total() < 2**17  # nothing is dequantized
    assert sum(operations > 0 for operations, _ in trace.kernels.elements()) == 2


def test_fp8_takes_as_much_memory_as_16_bits_and_less_time() -> None:
    choices = [Choice(PrefixSection(length=128, start="random"), name, checkpointing=False, micro_batch=16) for name in (None, "fp8")]

    plain, fp8 = (estimate(replace(plan(), path=FAST), choice) for choice in choices)

    card = find_card("H200")
    assert 0.95 < fp8.allocated_bytes(card) / plain.allocated_bytes(card) < 1.05
    assert 0.6 < fp8.step_seconds(card) / plain.step_seconds(card) < 0.85


def test_the_head_quantized_and_the_embedding_on_the_host_leave_4_bits_under_4_5_gb() -> None:
    whole = plan()

    def build(quantize: FormatName | None) -> Network:
        network = whole.build(quantize)
        reduce_vocabulary_memory(network, quantize_head=True, embedding_on_host=True)
        return network

    section = PrefixSection(length=128, start="random", prefix_dropout=0.1)
    choice = Choice(section, 4, checkpointing=True, micro_batch=1)
    peaks = [estimate(replace(whole, build=one, path=FAST), choice).allocated_bytes(find_card("H200")) for one in (whole.build, build)]

    assert peaks[1] < 4.5e9 < peaks[0]
