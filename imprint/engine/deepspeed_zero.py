"""DeepSpeed's ZeRO (Rajbhandari et al. 2020, arXiv 1910.02054): optimizer state, gradients and weights sharded over processes."""

import logging
import math
import os
import warnings
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from imprint.engine.strategy import LR_RATIO, MOMENTS, VALUE, ParameterState, UpdateArguments, blocks_of
from imprint.engine.world import World
from imprint.messages import Bilingual, UserError

SCALER_FIELDS = ("cur_scale", "cur_iter", "last_overflow_iter", "cur_hysteresis")
"""State of DeepSpeed's float16 loss scaler."""
NO_MODULE = -1
"""A module id that no module has, so that DeepSpeed does not release our gathered weights."""
HALF_DTYPES = {torch.bfloat16: "bfloat16", torch.float16: "float16"}
"""16-bit dtypes, which not every device supports -> their names in a recipe."""
MIN_LOSS_SCALE = 4.0
"""Smallest scale of a float16 loss at which a step is repeated; gradients that overflow even then are not finite."""


class DeepSpeedZero:
    """ZeRO stages 1 to 3; a float16 loss is scaled, and a step whose gradients overflow is repeated at a smaller scale."""

    independent_passes = False
    scales_loss = True
    discard_scale = math.nan

    def __init__(
        self,
        module: nn.Module,
        parameters: Mapping[str, nn.Parameter],
        groups: Sequence[dict[str, Any]],
        world: World,
        settings: dict[str, Any],
        *,
        rate: float,
        decay: float,
    ) -> None:
        deepspeed = _import_deepspeed(next(module.parameters()).device)
        self.world, self.parameters = world, dict(parameters)
        self.stage = int(settings["zero_optimization"]["stage"])
        self.replicated = self.stage < 3
        self.retry = self.any_gradient = False
        self.float16 = bool(settings["fp16"]["enabled"])
        optimizer = torch.optim.AdamW(list(groups), lr=rate, weight_decay=decay, fused=True)
        self.ds_engine, *_ = deepspeed.initialize(
            model=module, optimizer=optimizer, model_parameters=list(parameters.values()), config=settings, dist_init_required=False
        )
        self.module: nn.Module = self.ds_engine
        self.zero_optimizer = self.ds_engine.optimizer
        if self.float16:
            self.zero_optimizer.loss_scaler.raise_error_at_min_scale = False  # the guard has a better message
        self.flats = (
            self.zero_optimizer.fp32_partitioned_groups_flat if self.stage == 3 else self.zero_optimizer.single_partition_of_fp32_groups
        )
        for flat in self.flats:  # now, so that a saved state can be loaded before the first step
            self._states[flat] = {"step": torch.zeros((), device=flat.device)} | {kind: torch.zeros_like(flat) for kind in MOMENTS}
        if self.replicated:
            self.zero_optimizer._lazy_init_hp_params_optimizer_state()

    @property
    def _states(self) -> dict[Tensor, dict[str, Tensor]]:
        states: dict[Tensor, dict[str, Tensor]] = self.zero_optimizer.optimizer.state
        return states

    def backward(self, loss: Tensor, *, last: bool) -> None:
        """See Strategy. A loss that is not finite makes all gradients NaN, so that DeepSpeed skips the step."""
        self.ds_engine.set_gradient_accumulation_boundary(last)
        loss = loss * (1 + 0 * loss.detach())  # NaN if it is infinite
        self.ds_engine.backward(loss * self.world.size, scale_wrt_gas=False)  # DeepSpeed averages over processes
        self.any_gradient = True

    def update(self, arguments: UpdateArguments) -> tuple[float, bool]:
        """See Strategy; sets `retry` where only the float16 loss scale was too large."""
        arguments.meanwhile()
        apply = bool(arguments.apply)
        if not self.any_gradient:  # the step has no target token, and DeepSpeed needs gradients
            return 0.0, apply
        self.any_gradient = False
        for group in self.zero_optimizer.param_groups:
            group["lr"] = arguments.rate * group.get(LR_RATIO, 1.0)
        self.ds_engine.step()
        applied = bool(self.ds_engine.was_step_applied())
        self.retry = apply and not applied and self.float16 and self.zero_optimizer.loss_scaler.cur_scale > MIN_LOSS_SCALE
        norm = self.ds_engine.get_global_grad_norm()
        return (math.inf if norm is None else float(norm)), applied

    def discard_gradients(self) -> None:
        """See Strategy; they are NaN, from `discard_scale`."""
        saved, self.any_gradient = self._scaler(), False
        self.ds_engine.step()
        assert not self.ds_engine.was_step_applied(), "the gradients of a loss times `discard_scale` must not be applied"
        self._restore_scaler(saved)

    def full_state(self, name: str) -> dict[str, Tensor]:
        """See Strategy."""
        from deepspeed.utils import safe_get_full_fp32_param, safe_get_full_optimizer_state

        parameter = self.parameters[name]
        return {
            VALUE: safe_get_full_fp32_param(parameter),
            **{kind: safe_get_full_optimizer_state(parameter, kind) for kind in MOMENTS},
        }

    def load_state(self, name: str, saved: ParameterState) -> None:
        """See Strategy."""
        parameter: Any = self.parameters[name]
        kinds = {kind: saved.get(kind) for kind in (VALUE, *MOMENTS)}
        if self.stage < 3:
            for kind, tensor in kinds.items():
                value = torch.zeros_like(parameter, dtype=torch.float32) if tensor is None else tensor.float()
                parameter.set_full_hp_param(value, None if kind == VALUE else kind)
            parameter.data.copy_(saved[VALUE])
            return
        size = parameter.ds_tensor.ds_numel if hasattr(parameter.ds_tensor, "ds_numel") else parameter.ds_tensor.numel()
        for kind, tensor in kinds.items():
            local = torch.zeros(size)
            if tensor is not None:
                shard = tensor.flatten()[size * self.world.rank : size * (self.world.rank + 1)]
                local[: shard.numel()] = shard
            self.zero_optimizer.set_local_hp_param(local, parameter, None if kind == VALUE else kind)
            if kind == VALUE:
                parameter.ds_tensor.data.copy_(local.view_as(parameter.ds_tensor))

    def scalar_state(self) -> dict[str, Any]:
        """See Strategy: the step count, which is the same for all parameters, and the float16 loss scale."""
        steps = max(int(state["step"]) for state in self._states.values())
        return {"steps": dict.fromkeys(self.parameters, steps), "scaler": self._scaler()}

    def restore_scalar_state(self, scalar_state: Mapping[str, Any]) -> None:
        """See Strategy."""
        steps = max(scalar_state["steps"].values(), default=0)
        for state in self._states.values():
            state["step"].fill_(float(steps))
        self._restore_scaler(scalar_state.get("scaler", {}))

    def _scaler(self) -> dict[str, Any]:
        scaler = self.zero_optimizer.loss_scaler
        return {name: getattr(scaler, name) for name in SCALER_FIELDS if hasattr(scaler, name)}

    def _restore_scaler(self, saved: Mapping[str, Any]) -> None:
        for name in SCALER_FIELDS:
            if type(value := saved.get(name)) in (int, float):
                setattr(self.zero_optimizer.loss_scaler, name, value)

    def gather(self, tensor: Tensor) -> Tensor:
        """See Strategy."""
        if not hasattr(tensor, "ds_id"):
            return tensor
        with self._gathered([tensor]):
            return tensor.detach().to("cpu", copy=True) if self.world.is_main else torch.empty(0)

    @contextmanager
    def generation_mode(self) -> Iterator[None]:
        """See Strategy: parameters outside the blocks stay gathered; blocks gather their own."""
        outside: list[Any] = [] if self.replicated else parameters_outside_blocks(self.ds_engine.module)
        with self._gathered(outside) if outside else nullcontext():
            for parameter in outside:
                parameter.ds_active_sub_modules.add(NO_MODULE)  # else it is released after its module's forward pass
            try:
                yield
            finally:
                for parameter in outside:
                    parameter.ds_active_sub_modules.discard(NO_MODULE)

    @contextmanager
    def full_precision(self) -> Iterator[None]:
        """See Strategy."""
        if not self.replicated or next(iter(self.parameters.values())).dtype == torch.float32:
            yield
            return
        rounded = {name: parameter.data for name, parameter in self.parameters.items()}
        for name, parameter in self.parameters.items():
            parameter.data = self.full_state(name)[VALUE]
        try:
            yield
        finally:
            for name, parameter in self.parameters.items():
                parameter.data = rounded[name]

    def _gathered(self, tensors: Iterable[Tensor]) -> AbstractContextManager[None]:
        import deepspeed

        gathered: AbstractContextManager[None] = deepspeed.zero.GatheredParameters(list(tensors))
        return gathered


def parameters_outside_blocks(module: nn.Module) -> list[Any]:
    """The parameters that belong to no block: embedding, final norm, head."""
    inside = {parameter for block in blocks_of(module) for parameter in block.parameters()}
    return [parameter for parameter in module.parameters() if parameter not in inside]


def refuse_unsupported_dtype(device: torch.device, dtype: torch.dtype) -> None:
    """Raise UserError if DeepSpeed does not support this 16-bit dtype on this device."""
    if dtype not in HALF_DTYPES:
        return
    accelerator = _import_deepspeed(device).accelerator.get_accelerator()
    supports = {torch.float16: accelerator.is_fp16_supported, torch.bfloat16: accelerator.is_bf16_supported}
    if supports[dtype]():
        return
    allowed = [*(name for other, name in HALF_DTYPES.items() if other != dtype and supports[other]()), "float32"]
    name, flag = HALF_DTYPES[dtype], "--fp16" if dtype == torch.float16 else "--bf16"
    raise UserError(
        Bilingual(
            f'model.dtype: DeepSpeed says that it cannot compute in "{name}" on this device ({device.type}). Set it to '
            f"{' or '.join(allowed)}; on an old command line take {flag} out.",
            f"DeepSpeed 在本机设备（{device.type}）上不支持 {name}：请将 model.dtype 改为 {' 或 '.join(allowed)}；旧命令请去掉 {flag}。",
        )
    )


def _import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed, without compiled operators or log messages. Raises UserError if it is not installed."""
    os.environ["DS_ACCELERATOR"] = device.type  # what DeepSpeed finds by itself, or inherits, may be another device
    os.environ.setdefault("LOCAL_RANK", "0")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", message=".*is deprecated.*", category=FutureWarning)  # DeepSpeed calls deprecated functions of torch
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(
            Bilingual(
                "engine.deepspeed: DeepSpeed is not installed. Run `pip install --no-build-isolation deepspeed ninja`, or use "
                "engine.fsdp=true.",
                "engine.deepspeed：未安装 DeepSpeed：请运行上面的命令安装，或改用 engine.fsdp=true。",
            )
        ) from error
    for name in ("DeepSpeed", "deepspeed"):
        logging.getLogger(name).setLevel(logging.ERROR)
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False  # its CPU communication needs a compiler, gloo does not
    return deepspeed
