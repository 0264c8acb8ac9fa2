"""Named scoring protocols; only scores of the same protocol can be compared.

Each protocol scores every row with nltk's sentence BLEU (1- to 4-grams, equal weights, smoothing method 3) and ROUGE F over jieba words,
and averages the rows. The details in which they differ can halve or double BLEU-4 of the same answers.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final, Literal

from imprint.messages import Bilingual, UserError, closest, did_you_mean

ProtocolName = Literal["chatglm-6b", "words", "llamafactory", "swift"]


@dataclass(frozen=True)
class Protocol:
    """The details of one scoring protocol."""

    name: ProtocolName
    """Its name here."""
    bleu_tokens: Literal["characters", "words"]
    """The unit of BLEU's n-grams."""
    rouge: Literal["rouge-chinese", "rouge"]
    """The package that computes ROUGE: `rouge` splits sentences at the ASCII full stop, and its ROUGE-L counts distinct words."""
    empties: Literal["zero", "measured", "dropped"]
    """An empty answer or reference: scores 0; or 0 in ROUGE and nltk's value in BLEU; or is excluded from the mean."""
    decimals: int | None
    """Decimals to which a row's scores are rounded before averaging; None does not round."""
    references: Literal["cut", "whole"]
    """Whether the original tool truncates references to its length limit before it scores and writes them."""
    description: Bilingual
    """What it counts."""


_LISTED: Final = (
    Protocol(
        name="chatglm-6b",
        bleu_tokens="characters",
        rouge="rouge-chinese",
        empties="zero",
        decimals=4,
        references="cut",
        description=Bilingual(
            "BLEU-4 over characters, ROUGE over jieba words, an empty answer scores 0; as ChatGLM-6B's ptuning/main.py, "
            "which also samples its answers and cuts the references to its length limit before it writes and scores them.",
            "BLEU-4 按字，ROUGE 按 jieba 词，空回答计 0 分；同 ChatGLM-6B 的 ptuning/main.py，"
            "原版另外采样生成，并先按长度上限截断参考答案再打分。",
        ),
    ),
    Protocol(
        name="words",
        bleu_tokens="words",
        rouge="rouge-chinese",
        empties="zero",
        decimals=4,
        references="whole",
        description=Bilingual(
            "BLEU-4 and ROUGE over jieba words, an empty answer scores 0; as the demos of ChatGLM3 and GLM-4, "
            "whose BLEU-4 goes from 0 to 1: theirs times 100 is ours.",
            "BLEU-4 与 ROUGE 都按 jieba 词，空回答计 0 分；同 ChatGLM3、GLM-4 的微调示例，其 BLEU-4 范围是 0 到 1，乘以 100 即此处的数。",
        ),
    ),
    Protocol(
        name="llamafactory",
        bleu_tokens="characters",
        rouge="rouge-chinese",
        empties="measured",
        decimals=4,
        references="whole",
        description=Bilingual(
            "BLEU-4 over characters, ROUGE over jieba words, an empty answer scores 0; as LLaMA-Factory, "
            "equal to chatglm-6b on the same answers and references.",
            "BLEU-4 按字，ROUGE 按 jieba 词，空回答计 0 分；同 LLaMA-Factory，回答与参考答案相同时与 chatglm-6b 相等。",
        ),
    ),
    Protocol(
        name="swift",
        bleu_tokens="words",
        rouge="rouge",
        empties="dropped",
        decimals=None,
        references="whole",
        description=Bilingual(
            "BLEU-4 over jieba words without spaces, ROUGE of the package `rouge` over the same, ROUGE-L over distinct words, "
            "rows with an empty answer or reference are left out of the mean; as ms-swift.",
            "BLEU-4 按去掉空格的 jieba 词，ROUGE 用 rouge 包（ROUGE-L 按不重复的词），空回答或空参考答案的行不计入均值；同 ms-swift。",
        ),
    ),
)

PROTOCOLS: Final[Mapping[ProtocolName, Protocol]] = MappingProxyType({protocol.name: protocol for protocol in _LISTED})
"""Name -> protocol.

Sources:

* `chatglm-6b`: compute_metrics in ptuning/main.py, THUDM/ChatGLM-6B (its first version did not smooth). Where the
  original crashes, on an answer without words, a row scores 0.
* `words`: compute_metrics in finetune_demo/finetune_hf.py, THUDM/ChatGLM3, and in finetune_demo/finetune.py, THUDM/GLM-4.
* `llamafactory`: ComputeSimilarity in src/llamafactory/train/sft/metric.py and compute_metrics in scripts/eval_bleu_rouge.py,
  hiyouga/LLaMA-Factory, which do the same.
* `swift`: compute_rouge_bleu in swift/plugin/metric.py, later swift/metrics/nlg.py, modelscope/ms-swift. Releases before it counted words
  counted characters; its latest revision drops rows with an empty reference only and scores an empty answer 0.
"""


def get_protocol(name: str, *, also: Sequence[str] = ()) -> Protocol:
    """The protocol of this name. Raises UserError for an unknown one; its message lists the names in `also` too."""
    for protocol in PROTOCOLS.values():
        if protocol.name == name:
            return protocol
    meant = did_you_mean(closest(name, [*PROTOCOLS, *also]), '"{}"')
    allowed = ", ".join([*PROTOCOLS, *also])
    raise UserError(
        Bilingual(
            f'There is no metric protocol "{name}". {meant.english}Allowed: {allowed}.',
            f'没有评分协议 "{name}"。{meant.chinese}可用：{allowed}。',
        )
    )
