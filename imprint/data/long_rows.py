"""The longest row of questions and answers: a longer one is refused before it is encoded, which takes up to 250 bytes a character."""

from collections.abc import Sequence
from typing import Final

from imprint.data.readers.bad_rows import BadRowError
from imprint.data.sample import Sample
from imprint.messages import Bilingual

MAX_TEXT: Final = 2_000_000
"""Maximum characters of the texts of a row: about a million tokens of Chinese."""


def refuse_long_row(samples: Sequence[Sample]) -> None:
    """Raise BadRowError for the samples of a row whose texts have more than MAX_TEXT characters; the last one has all of them."""
    for sample in samples[-1:]:
        if (length := text_length(sample)) > MAX_TEXT:
            raise BadRowError(
                Bilingual(
                    f"has {length:,} characters of text; a row has at most {MAX_TEXT:,}, about a million tokens. Divide it into several "
                    "rows, or train on it as raw text.",
                    f"有 {length:,} 个字符，而一行最多 {MAX_TEXT:,} 个（约一百万词元）：请拆成几行，或作为纯文本训练。",
                )
            )


def text_length(sample: Sample) -> int:
    """Characters of a sample's texts and of those before them."""
    length = len(sample.query) + len(sample.answer) + len(sample.system or "")
    if sample.context is not None or sample.further_messages:
        messages = (*sample.messages, *sample.further_messages)
        return len(sample.answer) + sum(len(message.text) + len(str(message.tools or "")) for message in messages)
    return length + sum(len(question) + len(answer) for question, answer in sample.history or ())
