"""Which method can be exported to which target, and why the others cannot; docs/export.md says what is written.

A family is named by its network class: `ChatGLM` is ChatGLM-6B.
"""

from typing import Final, Literal, get_args

from imprint.messages import Bilingual
from imprint.quant.names import FORMAT_NAMES, FormatName
from imprint.tune.method import Method

Target = Literal["official", "peft", "merged", "transformers", "int8", "int4", "int4-g128", "bundle"]
TARGETS: Final[tuple[Target, ...]] = get_args(Target)
QUANTIZED: Final[dict[Target, FormatName]] = {"int8": 8, "int4": 4, "int4-g128": "int4-g128"}
"""The targets with quantized weights, and their weight formats."""
QUANTIZE_FORMATS: Final[dict[str, FormatName]] = {str(name): name for name in FORMAT_NAMES}
"""What `imprint quantize --format` takes, and the weight formats that it means."""
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
"""The combinations that are impossible, and why."""
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
