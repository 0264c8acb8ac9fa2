"""The cases of opponents.py that are parts of a training step: loss, norms, rotation, and linears in FP8.

Each function `measure_*` takes a library and a variant and returns its numbers; with `once` it only computes once, which compiles kernels.
Legend: T tokens, C hidden size, H heads, D head size, N targets, V vocabulary size.
"""

import statistics
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

import torch
from kernels import HEAD, HEAD_SIZE, HEADS, LAYER, LAYERS, error_of, graph_us
from torch import Tensor, nn
from torch.nn import functional

from imprint.kernels import scaled
from imprint.kernels.joint_heads import JointHeads, RotateHeads
from imprint.kernels.norms import AddNorm, ResidualScale
from imprint.models.chatglm import RESIDUAL_SCALE
from imprint.models.loss import target_loss
from imprint.quant.fp8 import ONES, TRANSPOSED, Fp8
from imprint.quant.weight_format import SCALE, WEIGHT

BF16 = torch.bfloat16
TOKENS, TARGETS, WIDTH = 1536, 925, 4096
"""Of a training step: tokens, targets of the loss, hidden size."""
LINKS, EPS = 8, 1e-5
"""Norms of a chain."""
ROTATIONS = 4
"""Copies of queries and keys."""
IGNORED = -100
"""The label of a row without a loss, in every library."""
FASTEST = 6e6
"""Bytes of memory that no GPU of today moves in a microsecond: a graph that is faster has captured nothing."""


def believable(us: float, moved: float) -> float:
    """The microseconds, unless so many bytes cannot have moved in them."""
    if us * FASTEST < moved:
        raise RuntimeError(f"{us:.2f} us is less than memory takes: the graph is empty")
    return us


# ---------------------------------------------------------------------------------------------------------------------- loss

LossAndGradient = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
"""Hidden states (N, C), head (V, C), labels (N,) -> the sum of the losses, and its gradient for the hidden states."""


def differentiated(sum_of_losses: Callable[[Tensor, Tensor, Tensor], Tensor]) -> LossAndGradient:
    """The same with the gradient, by autograd."""

    def compute(hidden: Tensor, head: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        loss = sum_of_losses(hidden, head, labels)
        return loss.detach(), torch.autograd.grad(loss, hidden)[0]

    return compute


def torch_loss(hidden: Tensor, head: Tensor, labels: Tensor, rows: int = 256) -> tuple[Tensor, Tensor]:
    """Plain PyTorch, some rows at a time."""
    losses, grads = [], []
    for part, targets in zip(hidden.detach().split(rows), labels.split(rows), strict=True):
        part.requires_grad_()
        loss = functional.cross_entropy(functional.linear(part, head).float(), targets, reduction="sum")
        grads.append(torch.autograd.grad(loss, part)[0])
        losses.append(loss.detach())
    return torch.stack(losses).sum(), torch.cat(grads)


def liger_loss() -> LossAndGradient:
    loss = import_module("liger_kernel.transformers").LigerFusedLinearCrossEntropyLoss(reduction="sum")
    return differentiated(lambda hidden, head, labels: loss(head, hidden, labels))


def liger_one_chunk_loss() -> LossAndGradient:
    """All rows of logits at a time, which takes as much memory as Imprint."""
    function = import_module("liger_kernel.ops").LigerFusedLinearCrossEntropyFunction
    settings = (None, None, IGNORED, 0.0, 0.0, "sum", None, False, None, False, False, False, None, None, HEAD[0] // WIDTH + 1)
    return differentiated(lambda hidden, head, labels: function.apply(hidden, head, labels, *settings)[0])


def cut_cross_entropy_loss() -> LossAndGradient:
    compute = import_module("cut_cross_entropy").linear_cross_entropy
    return differentiated(lambda hidden, head, labels: compute(hidden, head, labels, reduction="sum"))


def quack_loss() -> LossAndGradient:
    """Of a multiple of 8 rows, which it needs."""
    compute = import_module("quack.linear_cross_entropy").chunked_linear_cross_entropy

    def loss(hidden: Tensor, head: Tensor, labels: Tensor) -> Tensor:
        more = -len(hidden) % 8
        rows, targets = functional.pad(hidden, (0, 0, 0, more)), functional.pad(labels, (0, more), value=IGNORED)
        out: Tensor = compute(rows, head, targets, chunk_size=1024, reduction="sum", tuned=False)
        return out

    return differentiated(loss)


LOSSES: dict[str, Callable[[], LossAndGradient]] = {
    "imprint": lambda: differentiated(target_loss),
    "torch": lambda: torch_loss,
    "liger": liger_loss,
    "liger-one-chunk": liger_one_chunk_loss,
    "cut-cross-entropy": cut_cross_entropy_loss,
    "quack": quack_loss,
}


def measure_loss(library: str, variant: str, *, once: bool) -> dict[str, float]:  # noqa: ARG001
    """Milliseconds and memory of one loss, without a graph."""
    head = torch.randn(HEAD, device="cuda", dtype=BF16) * 0.02
    hidden = torch.randn(TARGETS, WIDTH, device="cuda", dtype=BF16).requires_grad_()
    labels = torch.randint(HEAD[0], (TARGETS,), device="cuda")
    compute = LOSSES[library]()
    loss, grad = compute(hidden, head, labels)
    torch.cuda.synchronize()
    if once:
        return {}
    exact_loss, exact_grad = torch_loss(hidden.float(), head.float(), labels)
    error = max(error_of(loss, exact_loss.double()), error_of(grad, exact_grad.double()))
    del loss, grad, exact_grad
    times = []
    for _ in range(8):
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        compute(hidden, head, labels)
        end.record()
        torch.cuda.synchronize()
        times.append(start.elapsed_time(end))
        peak = torch.cuda.max_memory_allocated() - before
    return {"ms": statistics.median(times[2:]), "peak_gib": peak / 2**30, "error": error}


# --------------------------------------------------------------------------------------------------------------------- norms

Chain = Callable[[Tensor, Sequence[Tensor], Tensor, Tensor | None], list[Tensor]]
"""x (T, C), what is added before each norm, weight and bias -> the norms; without a bias they are RMS norms."""


def imprint_norms(x: Tensor, added: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    found: list[Tensor] = []
    before: ResidualScale | None = None
    for y in added:
        later = ResidualScale()
        if bias is None:
            x, out, _ = AddNorm.apply(x, 1.0, y, weight, None, EPS, 0.0, False, None, later)  # type: ignore[no-untyped-call]
        else:
            _, out, x = AddNorm.apply(x, RESIDUAL_SCALE, y, weight, bias, EPS, 0.0, True, before, later)  # type: ignore[no-untyped-call]
            before = later
        found.append(out)
    return found


def chain_of(norm: Callable[[Tensor, Tensor, Tensor | None], Tensor]) -> Chain:
    """Of norms that do not add: PyTorch does. The norm is the next residual, scaled; but the sum itself is that of RMS norms."""

    def compute(x: Tensor, added: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
        found: list[Tensor] = []
        for y in added:
            x = torch.add(y, x, alpha=1.0 if bias is None else RESIDUAL_SCALE)
            found.append(norm(x, weight, bias))
            x = x if bias is None else found[-1]
        return found

    return compute


def torch_norm(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    if bias is None:
        return functional.rms_norm(x, weight.shape, weight, EPS)
    return functional.layer_norm(x, weight.shape, weight, bias, EPS)


def liger_norms(x: Tensor, added: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    library = import_module("liger_kernel.ops")
    if bias is not None:
        layer_norm = library.LigerLayerNormFunction.apply
        return chain_of(lambda x, weight, bias: layer_norm(x, weight, bias, EPS))(x, added, weight, bias)
    found: list[Tensor] = []
    for y in added:
        out, x = library.LigerFusedAddRMSNormFunction.apply(y, x, weight, EPS, 0.0, "llama", False)
        found.append(out)
    return found


class QuackLayerNorm(torch.autograd.Function):
    """Its layer norm, whose weight and bias are in fp32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        out, rstd, mean = import_module("quack.rmsnorm").layernorm_fwd(x, weight, bias, EPS, return_rstd=True, return_mean=True)
        ctx.save_for_backward(x, weight, rstd, mean)
        found: Tensor = out
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        x, weight, rstd, mean = ctx.saved_tensors
        return import_module("quack.rmsnorm").layernorm_bwd(x, weight, grads[0].contiguous(), rstd, mean, has_bias=False)[0], None, None


def quack_norms(x: Tensor, added: Sequence[Tensor], weight: Tensor, bias: Tensor | None) -> list[Tensor]:
    if bias is not None:
        numbers = weight.float(), bias.float()
        return chain_of(lambda x, *_: QuackLayerNorm.apply(x, *numbers))(x, added, weight, bias)  # type: ignore[no-untyped-call]
    rms_norm = import_module("quack").rmsnorm
    found: list[Tensor] = []
    for y in added:
        out, x = rms_norm(y, weight, residual=x, eps=EPS, prenorm=True)
        found.append(out)
    return found


CHAINS: dict[str, Chain] = {"imprint": imprint_norms, "torch": chain_of(torch_norm), "liger": liger_norms, "quack": quack_norms}


def measure_norms(library: str, variant: str, *, once: bool) -> dict[str, float]:
    """Microseconds of one norm of a chain, forward and backward."""
    inputs = [torch.randn(TOKENS, WIDTH, device="cuda", dtype=BF16).requires_grad_() for _ in range(1 + LINKS)]
    grads = [torch.randn(TOKENS, WIDTH, device="cuda", dtype=BF16) for _ in range(LINKS)]
    weight = torch.rand(WIDTH, device="cuda", dtype=BF16) + 0.5
    bias = torch.randn(WIDTH, device="cuda", dtype=BF16) if variant == "layer" else None

    def step() -> tuple[Tensor, Tensor]:
        found = CHAINS[library](inputs[0], inputs[1:], weight, bias)
        return found[-1].detach(), torch.autograd.grad(found, inputs, grads)[0]

    out, grad = step()
    torch.cuda.synchronize()
    if once:
        return {}
    wide = [one.detach().float().requires_grad_() for one in inputs]
    exact = chain_of(torch_norm)(wide[0], wide[1:], weight.float(), None if bias is None else bias.float())
    exact_grad = torch.autograd.grad(exact, wide, [one.float() for one in grads])[0]
    error = max(error_of(out, exact[-1].detach().double()), error_of(grad, exact_grad.double()))
    return {"us": believable(graph_us([step]) / LINKS, 4 * TOKENS * WIDTH), "error": error}


# ---------------------------------------------------------------------------------------------------------------------- rope

Rotate = Callable[[], tuple[Tensor, Tensor]]
"""Rotates queries and keys, (T, H, D), and the gradients back."""


def imprint_rotation(joint: Tensor, grad: Tensor, cos: Tensor, sin: Tensor) -> Rotate:
    """Of queries, keys and values in one tensor (T, 3, H, D), as they come out of a projection."""
    layout, half = JointHeads.of(joint.unbind(1)), HEAD_SIZE // 2
    assert layout is not None
    flat, signed = joint.view(TOKENS, -1).requires_grad_(), torch.cat((-sin[:, :half], sin[:, half:]), -1)

    def step() -> tuple[Tensor, Tensor]:
        query, key, value = RotateHeads.apply(flat, layout, cos, signed, half)  # type: ignore[no-untyped-call]
        torch.autograd.grad((query, key, value), flat, grad.unbind(1))
        return query.detach(), key.detach()

    return step


def liger_rotation(joint: Tensor, grad: Tensor, cos: Tensor, sin: Tensor) -> Rotate:
    rotate = import_module("liger_kernel.transformers").liger_rotary_pos_emb
    leaves = [joint[:, part].clone().requires_grad_() for part in (0, 1)]
    grads = [grad[:, part].clone()[None].transpose(1, 2) for part in (0, 1)]

    def step() -> tuple[Tensor, Tensor]:
        query, key = rotate(*(one[None].transpose(1, 2) for one in leaves), cos[None], sin[None])
        torch.autograd.grad((query, key), leaves, grads)
        return query.detach()[0].transpose(0, 1), key.detach()[0].transpose(0, 1)

    return step


ROTATIONS_OF: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor], Rotate]] = {"imprint": imprint_rotation, "liger": liger_rotation}


def measure_rope(library: str, variant: str, *, once: bool) -> dict[str, float]:  # noqa: ARG001
    """Microseconds of a rotation forward and backward, in place in both libraries."""
    half = HEAD_SIZE // 2
    angles = torch.arange(TOKENS, device="cuda")[:, None] / 10_000 ** (torch.arange(half, device="cuda") / half)
    cos, sin = (torch.cat((one, one), -1).to(BF16) for one in (angles.cos(), angles.sin()))
    steps, error = [], 0.0
    for _ in range(1 if once else ROTATIONS):
        joint, grad = (torch.randn(TOKENS, 3, HEADS, HEAD_SIZE, device="cuda", dtype=BF16) for _ in range(2))
        query = joint[:, 0].double()
        turned = torch.cat((-query[..., half:], query[..., :half]), -1)
        exact = query * cos.double()[:, None] + turned * sin.double()[:, None]
        step = ROTATIONS_OF[library](joint, grad, cos, sin)
        error = max(error, error_of(step()[0], exact))
        torch.cuda.synchronize()
        steps.append(step)
    return {} if once else {"us": graph_us(list(steps)), "error": error}


# ----------------------------------------------------------------------------------------------------------------------- fp8

Block = Callable[[list[Tensor]], list[Tensor]]
"""The inputs of four linears -> their outputs."""


def imprint_fp8(weights: list[Tensor]) -> Block:
    stored = []
    for weight in weights:
        tensors = Fp8().quantize(weight)
        others = Fp8().backward_tensors(tensors)
        stored.append(scaled.ScaledWeight(tensors[WEIGHT], tensors[SCALE], others[TRANSPOSED], others[ONES], None))
    return lambda inputs: [scaled.scaled_linear(x, weight) for x, weight in zip(inputs, stored, strict=True)]


def torch_fp8(weights: list[Tensor]) -> Block:
    """In bf16, without FP8."""
    return lambda inputs: [functional.linear(x, weight) for x, weight in zip(inputs, weights, strict=True)]


def torchao_fp8(weights: list[Tensor]) -> Block:
    library = import_module("torchao.float8")
    layers = nn.ModuleList()
    for weight in weights:
        layer = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device="meta", dtype=BF16)
        layer.weight = nn.Parameter(weight, requires_grad=False)
        layers.append(layer)
    layers = library.convert_to_float8_training(layers, config=library.Float8LinearConfig.from_recipe_name("rowwise"))
    return lambda inputs: [layer(x) for x, layer in zip(inputs, layers, strict=True)]


BLOCKS: dict[str, Callable[[list[Tensor]], Block]] = {
    "imprint": imprint_fp8,
    "torch": torch_fp8,
    "torchao": torchao_fp8,
    "torchao-compiled": lambda weights: torch.compile(torchao_fp8(weights), dynamic=False),
}


def measure_fp8(library: str, variant: str, *, once: bool) -> dict[str, float]:  # noqa: ARG001
    """Milliseconds of the linears of all layers and the gradients of their inputs."""
    weights = [torch.randn(shape, device="cuda", dtype=BF16) * 0.02 for shape in LAYER]
    inputs = [torch.randn(TOKENS, columns, device="cuda", dtype=BF16).requires_grad_() for _, columns in LAYER]
    grads = [torch.randn(TOKENS, rows, device="cuda", dtype=BF16) for rows, _ in LAYER]
    block = BLOCKS[library](weights)

    def step() -> tuple[list[Tensor], tuple[Tensor, ...]]:
        found = block(inputs)
        return [one.detach() for one in found], torch.autograd.grad(found, inputs, grads)

    outs, input_grads = step()
    torch.cuda.synchronize()
    if once:
        return {}
    errors = []
    for x, weight, grad, out, input_grad in zip(inputs, weights, grads, outs, input_grads, strict=True):
        errors.append(error_of(out, (x.detach().float() @ weight.float().t()).double()))
        errors.append(error_of(input_grad, (grad.float() @ weight.float()).double()))
    return {"ms": LAYERS * graph_us([step]) / 1e3, "error": max(errors)}
