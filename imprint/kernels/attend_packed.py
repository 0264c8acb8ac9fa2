"""Attention over packed rows as an operation of PyTorch, with gradients, computed by Triton kernels.

Legend: T packed tokens, B sequences, P prefix length, H query heads, G heads of keys and values, D head size.
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, library

from imprint.kernels.current_device import on_device
from imprint.kernels.joint_heads import JointHeads
from imprint.kernels.tiles import power_of_two

PREFIX_PARTS = 4
"""Parts of the tokens, at least, whose gradients of the prefix are computed at a time and then added."""
PREFIX_PROGRAMS = 256
"""Programs that compute them, at least, while there are tokens for more parts: few heads of keys would leave most of a GPU idle."""
MAX_HEAD_DIM = 256
LOG2_E = 1.4426950408889634


@dataclass(frozen=True)
class Tiles:
    """How much of a problem one program of a kernel computes, and how."""

    tokens: int
    keys: int
    warps: int
    stages: int

    @property
    def options(self) -> dict[str, int]:
        """The arguments of a kernel."""
        return {"TILE": self.tokens, "KEYS": self.keys, "num_warps": self.warps, "num_stages": self.stages}


@cache
def choose_tiles(head_bytes: int, shared_memory: int) -> Tiles:
    """Tiles for heads of this many bytes on a card with this much shared memory for a program, in bytes."""
    if head_bytes <= 256 and shared_memory >= 160_000:
        return Tiles(64, 64, 4, 2)
    size = next((size for size in (64, 32) if 6 * size * head_bytes <= shared_memory), 16)
    return Tiles(size, size, 4, 1)


def _tiles_for(query: Tensor) -> Tiles:
    """Tiles for queries (T, H, D) on their device."""
    head_bytes = power_of_two(max(16, query.shape[-1])) * query.element_size()
    if not query.is_cuda:
        return choose_tiles(head_bytes, 0)
    return choose_tiles(head_bytes, torch.cuda.get_device_properties(query.device).shared_memory_per_block_optin)  # type: ignore[attr-defined]


@library.custom_op("imprint::attend_packed", mutates_args=())
def attend_packed(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor | None,
    prefix_value: Tensor | None,
    first: Tensor,
    end: Tensor,
    seq_end: Tensor,  # noqa: ARG001 - the gradients need it
    seq_ids: Tensor,
    masked: Tensor | None,
    offsets: Tensor | None,
    slopes: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """Query (T, H, D), key and value (T, G, D), prefix (P, G, D) each -> attended values (T, H, D), log-sum-exps (H, T) in log 2.

    `masked` (B, P): True where a sequence does not attend to a key of the prefix; `slopes` (G,): see `reference_attention.attend`; the
    other tensors are those of VisibleKeys.
    """
    from imprint.kernels.attend_packed_kernels import forward_kernel

    inputs = KernelInputs.prepare(query, key, value, prefix_key, prefix_value, masked, offsets, slopes)
    tokens, heads, size = query.shape
    out = torch.empty((tokens, heads, size), dtype=query.dtype, device=query.device)
    log_sums = torch.empty((heads, tokens), dtype=torch.float32, device=query.device)
    tiles = _tiles_for(query)
    with on_device(query):
        forward_kernel[(-(-tokens // tiles.tokens), heads)](
            *inputs.tensors, *inputs.prefix, inputs.slopes, first, end, seq_ids, out, log_sums,
            tokens, inputs.length, *inputs.strides, inputs.prefix_stride, inputs.scale,
            **inputs.constants, MASKED=masked is not None, **tiles.options,
        )  # fmt: skip
    return out, log_sums


@attend_packed.register_fake
def _(query: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    tokens, heads, size = query.shape
    return query.new_empty((tokens, heads, size)), query.new_empty((heads, tokens), dtype=torch.float32)


@library.custom_op("imprint::attend_packed_gradients", mutates_args=())
def attend_packed_gradients(
    grad: Tensor,
    out: Tensor,
    log_sums: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    prefix_key: Tensor | None,
    prefix_value: Tensor | None,
    first: Tensor,
    end: Tensor,
    seq_end: Tensor,
    seq_ids: Tensor,
    masked: Tensor | None,
    offsets: Tensor | None,
    slopes: Tensor | None,
) -> list[Tensor]:
    """The gradients of query, key and value, and of the prefix's keys and values where there is one.

    Where query, key and value are the parts of one tensor, their gradients are those of one tensor, which is in place of all three.
    """
    from imprint.kernels.attend_packed_kernels import key_gradient_kernel, prefix_gradient_kernel, query_gradient_kernel

    inputs = KernelInputs.prepare(query, key, value, prefix_key, prefix_value, masked, offsets, slopes)
    tokens, heads, size = query.shape
    tiles, grad = _tiles_for(query), grad.contiguous()
    found, grads = _empty_gradients(query, key, value)
    strides = [stride for tensor in grads for stride in tensor.stride()[:2]]
    deltas = torch.empty_like(log_sums)
    with on_device(query):
        query_gradient_kernel[(-(-tokens // tiles.tokens), heads)](
            *inputs.tensors, *inputs.prefix, inputs.slopes, first, end, seq_ids, out, log_sums, grad, deltas, grads[0],
            tokens, inputs.length, *inputs.strides, *strides[:2], inputs.prefix_stride, inputs.scale, inputs.factor,
            **inputs.constants, MASKED=masked is not None, **tiles.options,
        )  # fmt: skip
        groups = key.shape[1]
        key_gradient_kernel[(-(-tokens // tiles.keys), groups)](
            *inputs.tensors, inputs.slopes, first, end, seq_end, log_sums, grad, deltas, *grads[1:],
            tokens, *inputs.strides, *strides[2:], inputs.scale, inputs.factor, **inputs.constants, **tiles.options,
        )  # fmt: skip
        if prefix_key is None:
            return found
        blocks = max(1, -(-inputs.length // tiles.keys) * groups)
        part_tokens = -(-tokens // (max(PREFIX_PARTS, PREFIX_PROGRAMS // blocks) * tiles.tokens)) * tiles.tokens
        parts = -(-tokens // part_tokens)
        sums = torch.empty((2, parts, inputs.length, groups, size), dtype=torch.float32, device=query.device)
        prefix_gradient_kernel[(-(-inputs.length // tiles.keys), groups, parts)](
            inputs.tensors[0], *inputs.prefix, inputs.slopes, seq_ids, log_sums, grad, deltas, *sums,
            tokens, inputs.length, *inputs.strides[:2], inputs.prefix_stride, inputs.scale, inputs.factor, part_tokens,
            **inputs.constants, MASKED=masked is not None, **tiles.options,
        )  # fmt: skip
        return [*found, *(of_parts.sum(0).to(prefix_key.dtype) for of_parts in sums)]


@attend_packed_gradients.register_fake
def _(grad: Tensor, out: Tensor, log_sums: Tensor, query: Tensor, key: Tensor, value: Tensor, prefix_key: Tensor | None, *_: Any) -> Any:  # noqa: ARG001
    prefix = [] if prefix_key is None else [prefix_key, prefix_key]
    return [*_empty_gradients(query, key, value)[0], *(tensor.new_empty(tensor.shape) for tensor in prefix)]


def _empty_gradients(query: Tensor, key: Tensor, value: Tensor) -> tuple[list[Tensor], list[Tensor]]:
    """New tensors for their gradients, one or three; and those of each, which are parts of the one."""
    layout = JointHeads.of((query, key, value))
    if layout is None:
        grads = [torch.empty(tensor.shape, dtype=tensor.dtype, device=tensor.device) for tensor in (query, key, value)]
        return grads, grads
    joint = query.new_empty((len(query), layout.width))
    return [joint], list(layout.parts(joint))


def _save_inputs(ctx: Any, inputs: tuple[Tensor | None, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(*output, *inputs)


def _gradients(ctx: Any, grad: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    saved = ctx.saved_tensors  # asked for once: activation checkpointing recomputes them
    grads = attend_packed_gradients(grad, *saved)
    layout = JointHeads.of(saved[2:5])
    if layout is not None:
        grads = [*layout.parts(grads[0]), *grads[1:]]
    return (*grads, *[None] * (12 - len(grads)))


attend_packed.register_autograd(_gradients, setup_context=_save_inputs)


@dataclass(frozen=True)
class KernelInputs:
    """The arguments that the kernels share; a tensor that is not there is replaced by another one, which is not read."""

    tensors: tuple[Tensor, Tensor, Tensor]
    """Query, key, value, with heads and tokens of any stride."""
    prefix: tuple[Tensor, Tensor, Tensor, Tensor]
    """Keys, values, mask, offsets."""
    slopes: Tensor
    length: int
    """P."""
    strides: tuple[int, ...]
    """Of tokens and heads of each of `tensors`."""
    prefix_stride: int
    """Of the keys of the prefix."""
    scale: float
    """Of the scores, to units of log 2."""
    factor: float
    """The same without that unit."""
    constants: dict[str, Any]

    @classmethod
    def prepare(
        cls,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        prefix_key: Tensor | None,
        prefix_value: Tensor | None,
        masked: Tensor | None,
        offsets: Tensor | None,
        slopes: Tensor | None,
    ) -> "KernelInputs":
        """The arguments for tensors of any strides."""
        query, key, value = tensors = tuple(tensor if tensor.stride(-1) == 1 else tensor.contiguous() for tensor in (query, key, value))
        size = query.shape[-1]
        if prefix_key is None or prefix_value is None:
            prefix_key = prefix_value = key[:0]
        inner = (size, 1)
        if prefix_key.stride()[1:] != inner or prefix_value.stride() != prefix_key.stride():
            prefix_key, prefix_value = prefix_key.contiguous(), prefix_value.contiguous()
        return cls(
            tensors=(query, key, value),
            prefix=(
                prefix_key,
                prefix_value,
                prefix_key if masked is None else masked.contiguous().view(torch.uint8),
                prefix_key if offsets is None else offsets,
            ),
            slopes=query if slopes is None else slopes.float() * LOG2_E,
            length=len(prefix_key),
            strides=tuple(stride for tensor in tensors for stride in tensor.stride()[:2]),
            prefix_stride=prefix_key.stride(0),
            scale=LOG2_E / size**0.5,
            factor=size**-0.5,
            constants={
                "GROUP": query.shape[1] // key.shape[1],
                "D": size,
                "COLUMNS": power_of_two(max(16, size)),
                "ALIBI": slopes is not None,
            },
        )
