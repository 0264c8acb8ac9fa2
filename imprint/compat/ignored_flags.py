"""Flags of the original that have no effect here, each with the reason."""

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from imprint.messages import Bilingual


@dataclass(frozen=True)
class IgnoredFlag:
    """A flag that has no effect."""

    reason: Bilingual
    """Why it has none."""
    allowed: tuple[str, ...] = ()
    """The values that are accepted, in lower case; empty if all are."""

    def note(self, flag: str) -> Bilingual:
        """The reason behind the name of the flag."""
        return Bilingual(f"--{flag}: {self.reason.english}", self.reason.chinese)

    def refusal(self, value: object) -> Bilingual | None:
        """What is wrong with a value that would change the results; None if it would not."""
        if not self.allowed or str(value).lower() in self.allowed or _same_number(value, self.allowed[0]):
            return None
        return Bilingual(
            f"can only be {' or '.join(self.allowed)} here, got {value}: {self.reason.english}. Remove it.",
            f"在这里只能是 {' 或 '.join(self.allowed)}，实际是 {value}：{self.reason.chinese}。请去掉它，效果与不写时相同。",
        )


def _same_number(value: object, other: str) -> bool:
    try:
        return float(str(value)) == float(other)
    except ValueError:
        return False


def _same_reason(english: str, chinese: str, *names: str) -> dict[str, IgnoredFlag]:
    return {name: IgnoredFlag(Bilingual(english, chinese)) for name in names}


IGNORED_FLAGS: Final[Mapping[str, IgnoredFlag]] = MappingProxyType(
    _same_reason("rows are read each time, nothing is cached", "每次重新读取数据，没有缓存", "overwrite_cache", "cache_dir")
    | _same_reason(
        "one process reads the rows fast enough",
        "单个进程读取已经够快",
        *("preprocessing_num_workers", "dataloader_num_workers", "dataloader_pin_memory", "remove_unused_columns", "label_names"),
        *("group_by_modality", "length_column_name", "sortish_sampler"),
    )
    | _same_reason("rows are computed without padding", "计算中没有填充", "pad_to_max_length", "past_index")
    | _same_reason(
        "it had no effect in the original either",
        "原脚本中也不起作用",
        *("lang", "dataset_name", "dataset_config_name", "config_name", "tokenizer_name", "use_fast_tokenizer", "model_revision"),
        *("use_auth_token", "resize_position_embeddings", "forced_bos_token", "generation_max_length", "generation_config"),
    )
    | _same_reason(
        "a frozen base is float16 on a GPU as it was, and what is trained is float32",
        "与原版相同：底座 float16，训练部分 float32",
        *("fp16_opt_level", "fp16_backend", "half_precision_backend", "tf32"),
    )
    | _same_reason(
        "in a recipe it is engine.fsdp=true; here every process holds all weights, or --deepspeed shards them",
        "请在配方中使用 engine.fsdp",
        *("sharded_ddp", "fsdp", "fsdp_config", "fsdp_min_num_params", "fsdp_transformer_layer_cls_to_wrap"),
    )
    | _same_reason(
        "the launcher decides it, and the gradients are always reduced in the same way",
        "由启动方式决定，梯度汇总方式固定",
        *("local_rank", "ddp_find_unused_parameters", "ddp_bucket_cap_mb", "ddp_timeout", "ddp_backend", "ddp_broadcast_buffers"),
        *("xpu_backend", "tpu_num_cores", "tpu_metrics_debug", "mp_parameters", "ray_scope", "dispatch_batches", "split_batches"),
        *("use_mps_device", "use_ipex"),
    )
    | _same_reason(
        "every run writes log.jsonl, loss.png and events/ for TensorBoard into output_dir",
        "日志与曲线总在 output_dir",
        *("report_to", "logging_dir", "run_name", "logging_strategy", "logging_nan_inf_filter", "log_level", "log_level_replica"),
        *("log_on_each_node", "disable_tqdm", "debug", "skip_memory_metrics", "include_inputs_for_metrics"),
    )
    | _same_reason(
        "nothing is uploaded",
        "不会上传任何内容",
        *("push_to_hub", "hub_model_id", "hub_strategy", "hub_token", "hub_private_repo"),
        *("push_to_hub_model_id", "push_to_hub_organization", "push_to_hub_token"),
    )
    | _same_reason("one seed governs everything: --seed", "只有一个种子：--seed", "data_seed", "full_determinism")
    | _same_reason(
        "checkpoints are saved every --save_steps, and a run resumes at its position in the data",
        "按 --save_steps 保存",
        *("save_strategy", "save_on_each_node", "save_safetensors", "save_only_model", "ignore_data_skip"),
    )
    | _same_reason(
        "adapter/ (or model/) holds the best by evaluation loss, checkpoint-N each step saved",
        "adapter/ 总是验证损失最低的一步",
        *("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    )
    | _same_reason(
        "answers are generated and written batch by batch",
        "逐批生成并写出答案",
        *("eval_accumulation_steps", "eval_delay", "prediction_loss_only", "use_legacy_prediction_loop", "dataloader_drop_last"),
    )
    | _same_reason(
        "it changes speed only, and this implementation differs",
        "只影响速度，此处实现不同",
        *("jit_mode_eval", "torch_compile", "torch_compile_backend", "torch_compile_mode", "torchdynamo", "auto_find_batch_size"),
    )
    | {
        "adam_beta1": IgnoredFlag(Bilingual("the optimizer is AdamW with its default parameters", "优化器为默认参数的 AdamW"), ("0.9",)),
        "adam_beta2": IgnoredFlag(Bilingual("the optimizer is AdamW with its default parameters", "优化器为默认参数的 AdamW"), ("0.999",)),
        "adam_epsilon": IgnoredFlag(Bilingual("the optimizer is AdamW with its default parameters", "优化器为默认参数的 AdamW"), ("1e-8",)),
        "optim": IgnoredFlag(
            Bilingual("the optimizer is AdamW", "优化器为 AdamW"), ("adamw_hf", "adamw_torch", "adamw_torch_fused", "adamw_apex_fused")
        ),
        "optim_args": IgnoredFlag(
            Bilingual("the optimizer is AdamW with its default parameters", "优化器为默认参数的 AdamW"), ("none", "")
        ),
        "adafactor": IgnoredFlag(Bilingual("the optimizer is AdamW", "优化器为 AdamW"), ("false", "0", "no")),
        "label_smoothing_factor": IgnoredFlag(Bilingual("labels are not smoothed", "不做标签平滑"), ("0.0",)),
        "ignore_pad_token_for_loss": IgnoredFlag(
            Bilingual("there is no padding that could be scored", "没有可计入损失的填充"), ("true", "1", "yes")
        ),
    }
)
