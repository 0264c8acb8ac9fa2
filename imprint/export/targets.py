"""Which method can be exported to which target, and why the others cannot; used by the command, its errors and the docs.

A family is named by its network class: `ChatGLM` is ChatGLM-6B.
"""

from typing import Final, Literal, get_args

from imprint.messages import Bilingual
from imprint.quant.names import FORMAT_NAMES, FormatName, format_label
from imprint.tune.method import Method

Target = Literal["official", "peft", "merged", "transformers", "int8", "int4", "int4-g128", "bundle"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)
QUANTIZED: Final[dict[Target, FormatName]] = {"int8": 8, "int4": 4, "int4-g128": "int4-g128"}
"""The targets with quantized weights, and their weight formats."""
QUANTIZE_FORMATS: Final[dict[str, FormatName]] = {str(name): name for name in FORMAT_NAMES}
"""What `imprint quantize --format` takes, and the weight formats that it means."""
METHODS: Final[tuple[Method, ...]] = get_args(Method)

WRITTEN: Final[dict[tuple[Method, Target], str]] = {
    ("prefix", "official"): "the original's prefix file with the base's auxiliary files",
    (
        "prefix",
        "peft",
    ): "peft's PREFIX_TUNING in adapter_config.json and adapter_model.safetensors, keys turned by the positions that peft counts",
    **{("prefix", target): f"the base in {format_label(name).english}, the prefix beside it" for target, name in QUANTIZED.items()},
    ("prefix", "bundle"): "one archive: prefix, recipe, report, checksums",
    (
        "lora",
        "peft",
    ): "adapter_config.json and adapter_model.safetensors, for the base's own class: of ChatGLM to GLM-4-9B the original's, not `glm`",
    ("lora", "merged"): "16-bit safetensors under the official names",
    ("lora", "transformers"): "16-bit safetensors for transformers' own class, with its tokenizer; ChatGLM-6B has no such class",
    **{("lora", target): f"merged, then in {format_label(name).english}" for target, name in QUANTIZED.items()},
    ("lora", "bundle"): "one archive: adapter, recipe, report, checksums",
    ("full", "official"): "16-bit .bin files in the official layout",
    ("full", "merged"): "16-bit safetensors under the official names",
    ("full", "transformers"): "16-bit safetensors for transformers' own class, with its tokenizer; ChatGLM-6B has no such class",
    **{("full", target): f"the tuned model in {format_label(name).english}" for target, name in QUANTIZED.items()},
    ("full", "bundle"): "one archive: model, recipe, report, checksums",
}
"""What each possible combination writes."""
REFUSED: Final[dict[tuple[Method, Target], Bilingual]] = {
    ("prefix", "merged"): Bilingual(
        "a prefix is keys and values beside the weights, and no weights are equal to it",
        "前缀是权重之外的键和值，无法并入权重",
    ),
    ("prefix", "transformers"): Bilingual(
        "transformers and vLLM have no place for a prefix's keys and values",
        "transformers 与 vLLM 没有存放前缀键值的地方",
    ),
    ("lora", "official"): Bilingual(
        "the original's scripts know no LoRA",
        "原版脚本不认识 LoRA",
    ),
    ("full", "peft"): Bilingual(
        "all weights were tuned, and peft's files hold adapters only",
        "全参数微调没有适配器，peft 文件只能存适配器",
    ),
}
"""Why the other combinations are impossible."""
NO_CLASS: Final = Bilingual(
    "transformers has no ChatGLM-6B, and vLLM's class of that name is ChatGLM2's, which computes something else",
    "transformers 与 vLLM 都没有 ChatGLM-6B",
)
"""Why ChatGLM-6B cannot be exported to `transformers`."""


def refusal(method: Method, target: Target, family: str) -> Bilingual | None:
    """Why a run on a base of this family cannot be exported to a target; None if it can."""
    return REFUSED.get((method, target), NO_CLASS if target == "transformers" and family == "ChatGLM" else None)


def possible_targets(method: Method, family: str) -> list[Target]:
    """The targets of this method on a base of this family."""
    return [target for target in TARGETS if refusal(method, target, family) is None]
