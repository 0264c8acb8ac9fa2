"""Rows of token ids as the original scripts make them, id by id: ptuning/main.py of ChatGLM-6B and of ChatGLM2-6B, their padding left out.

Both cut the end of a prompt that is too long, and with it perhaps the question. Other families have no script of this kind.
"""

from collections.abc import Sequence

from imprint.data.encode import EncodedPrompt, EncodedRow
from imprint.data.sample import Sample
from imprint.errors import UserError
from imprint.messages import Bilingual
from imprint.pack import IGNORE_INDEX
from imprint.templates import Template, Turns
from imprint.templates.chatglm import ChatGLMTemplate, format_rounds, with_system
from imprint.templates.chatglm2 import ChatGLM2Template, format_rounds_from_one
from imprint.tokenizers import ChatGLMTokenizer, Tokenizer


def encode_sample_original(
    template: Template, sample: Sample, *, max_source_length: int, max_target_length: int, source_prefix: str = ""
) -> EncodedRow:
    """Encode a training row exactly as the original does; `source_prefix` is put before the prompt.

    ChatGLM-6B: the prompt keeps `max_source_length - 1` ids, the answer `max_target_length - 2`, and the `<sop>` is scored too. A history
    that is there but empty is trained as `[Round 0]`. ChatGLM2-6B: the prompt keeps `max_source_length` ids, `[gMASK] sop` among them, the
    answer `max_target_length` and its end besides. Raises UserError for other families.

    Source: preprocess_function_train in ptuning/main.py, THUDM/ChatGLM-6B and THUDM/ChatGLM2-6B.
    """
    whole, answer = _prompt(template, sample, source_prefix, trained=True), template.tokenizer.encode(sample.answer)
    first = isinstance(template, ChatGLMTemplate)
    source, target = (max_source_length - 1, max_target_length - 2) if first else (max_source_length - 2, max_target_length)
    prompt = _framed(template, whole[:source])
    scored = [*(prompt[-1:] if first else ()), *answer[:target], template.end_id]
    read = prompt[:-1] if first else prompt
    return EncodedRow(
        ids=(*read, *scored),
        labels=(*[IGNORE_INDEX] * len(read), *scored),
        cut_prompt_tokens=max(len(whole) - source, 0),
        cut_answer_tokens=max(len(answer) - target, 0),
    )


def encode_evaluation_original(
    template: Template, sample: Sample, *, max_source_length: int, max_target_length: int, source_prefix: str = ""
) -> tuple[EncodedPrompt, str]:
    """The prompt and the reference text as the original evaluates them.

    The prompt has at most `max_source_length` ids with the two of its frame, its end is cut. The reference is the answer's first
    `max_target_length - 2` ids turned back into text. An empty history is the bare query of ChatGLM-6B here, unlike in its training.
    Raises UserError for other families.

    Source: preprocess_function_eval in ptuning/main.py, THUDM/ChatGLM-6B and THUDM/ChatGLM2-6B.
    """
    whole = _prompt(template, sample, source_prefix, trained=False)
    room = max_source_length - 2
    reference = template.tokenizer.decode(template.tokenizer.encode(sample.answer)[: max_target_length - 2])
    return EncodedPrompt(_framed(template, whole[:room]), cut_tokens=max(len(whole) - room, 0)), reference


def encode_original(
    tokenizer: Tokenizer, query: str, answer: str, history: Turns | None, max_source_length: int, max_target_length: int
) -> tuple[list[int], list[int]]:
    """The (ids, labels) of a training row as ChatGLM-6B's script makes them: see `encode_sample_original`.

    `history` None is the bare query, a list (also an empty one) is rounds.
    """
    sample = Sample(query, answer, None if history is None else tuple(history), location="")
    row = encode_sample_original(_chatglm(tokenizer), sample, max_source_length=max_source_length, max_target_length=max_target_length)
    return list(row.ids), list(row.labels)


def encode_original_evaluation(
    tokenizer: Tokenizer, query: str, answer: str, history: Turns | None, max_source_length: int, max_target_length: int
) -> tuple[list[int], str]:
    """The (ids, reference) of a row as ChatGLM-6B's script evaluates it: see `encode_evaluation_original`."""
    sample = Sample(query, answer, None if history is None else tuple(history), location="")
    prompt, reference = encode_evaluation_original(
        _chatglm(tokenizer), sample, max_source_length=max_source_length, max_target_length=max_target_length
    )
    return prompt.ids, reference


def _chatglm(tokenizer: Tokenizer) -> ChatGLMTemplate:
    if not isinstance(tokenizer, ChatGLMTokenizer):
        raise UserError("tokenizer: must be that of ChatGLM-6B, whose script this follows. Use `encode_sample` with the model's template.")
    return ChatGLMTemplate(tokenizer)


def _prompt(template: Template, sample: Sample, source_prefix: str, *, trained: bool) -> list[int]:
    """Ids of the text that a sample asks with, whole and without its frame."""
    if isinstance(template, ChatGLM2Template):
        text = format_rounds_from_one(sample.query, sample.history or ())
    elif not isinstance(template, ChatGLMTemplate):
        raise UserError(
            Bilingual(
                "truncation: original is what ptuning/main.py of ChatGLM-6B and ChatGLM2-6B does, and this model's template is "
                f"{template.name}. Set it to oldest_first.",
                "该模型没有对应的官方脚本：请改为 oldest_first。",
            )
        )
    else:
        text = format_rounds(sample.query, sample.history) if sample.history or (trained and sample.history is not None) else sample.query
    return template.tokenizer.encode(source_prefix + with_system(text, sample.system))


def _framed(template: Template, prompt: Sequence[int]) -> list[int]:
    """The prompt with its two control ids, behind it in ChatGLM-6B, before it in ChatGLM2-6B."""
    if isinstance(template, ChatGLMTemplate):
        return [*prompt, template.tokenizer.special.gmask, template.tokenizer.special.sop]
    assert isinstance(template, ChatGLM2Template)
    return [*template.start_ids, *prompt]
