"""Warns the user of a base that reads texts better after its BOS, which its tokenizer does not put there."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Final

from torch.nn import functional

from imprint.data.encode import EncodedRow
from imprint.messages import Bilingual
from imprint.model import Model
from imprint.terminal import say_once
from imprint.tokenizers import TOKENIZER_JSON, HFTokenizer

TEXTS: Final = (
    "早上下了一场小雨，路上的行人都撑着伞，公共汽车比平时晚了十分钟。",
    "The library opens at nine in the morning, and most of the seats are taken before ten.",
)
"""What is read with and without BOS."""
MAX_TOKENS: Final = 16
"""Tokens of a text that are read."""
SHARE: Final = 0.9
"""The loss with BOS is at most this share of the loss without it where the user is told."""
FIRST, SECOND = r"\x24A", r"\x24B"
"""The texts in a post_processor; a shell would read a dollar sign between double quotes."""


def warn_of_missing_bos(model: Model, folder: Path) -> None:
    """Measure a base, once in a process, whose tokenizer names a BOS and adds none, and print what to do where its loss falls with it."""
    tokenizer = model.tokenizer if model.has_tokenizer else None
    if not isinstance(tokenizer, HFTokenizer) or tokenizer.special_tokens.bos_ids or str(folder) in _measured():
        return
    name = tokenizer.special_tokens.names.get("bos_token", "")
    bos = tokenizer.controls.get(name)
    if bos is None or bos >= model.network.vocab_size:
        return
    _measured().add(str(folder))
    length = min(MAX_TOKENS, model.network.shape.max_length - 1)
    rows = [ids for text in TEXTS if len(ids := tokenizer.encode(text)[:length]) > 1]
    if not rows:
        return
    without, with_bos = mean_losses(model, rows, bos)
    if with_bos < SHARE * without:
        say_once(_notice(folder / TOKENIZER_JSON, name, bos, (without, with_bos)).line)


def mean_losses(model: Model, rows: Sequence[Sequence[int]], bos: int) -> tuple[float, float]:
    """The mean losses, in nats, of all tokens but the first of each row: without BOS before the rows, and with it."""
    plain = [EncodedRow.of(row[:1], row[1:]) for row in rows]
    after_bos = [EncodedRow.of([bos, row[0]], row[1:]) for row in rows]
    logits, tokens = model.target_logits([*plain, *after_bos])
    without, with_bos = functional.cross_entropy(logits.float(), tokens, reduction="none").chunk(2)
    return float(without.mean()), float(with_bos.mean())


def _notice(file: Path, name: str, bos: int, losses: tuple[float, float]) -> Bilingual:
    """What was found, and the command after which transformers and vLLM add BOS, too: they read it in tokenizer.json alone."""
    without, with_bos = (f"{loss:.2f}" for loss in losses)
    code = (
        f"from tokenizers import Tokenizer as T, processors as P; f={str(file)!r}; t=T.from_file(f); t.post_processor="
        f"P.TemplateProcessing(single=[{name!r}, '{FIRST}'], pair=[{name!r}, '{FIRST}', {name!r}, '{SECOND}:1'], "
        f"special_tokens=[({name!r}, {bos})]); t.save(f)"
    )
    return Bilingual(
        f"{file} puts no {name} before a text, and this base seems to need it: the loss of two sentences is {without} without it and "
        f"{with_bos} with it. Put it into the file's post_processor before you train or measure (add_bos_token in tokenizer_config.json "
        f'has no effect beside a tokenizer.json): python -c "{code}"',
        f"该底座的分词器不在文本前加 {name}，但它似乎需要：两个句子的损失不加为 {without}，加上为 {with_bos}。"
        "请先用上面的命令把它写入 tokenizer.json 的 post_processor，再训练或评测。",
    )


@cache
def _measured() -> set[str]:
    """The folders that were measured in this process."""
    return set()
