"""Token ids of rows exactly as in the original scripts, without padding: ptuning/main.py of ChatGLM-6B and of ChatGLM2-6B.

Both truncate the end of a long prompt, perhaps the question with it. Other families have no such script.
"""

from collections.abc import Sequence

from imprint import arguments
from imprint.data.encode import EncodedPrompt, EncodedRow
from imprint.data.sample import Sample
from imprint.messages import Bilingual, UserError
from imprint.pack import IGNORE_INDEX
from imprint.templates import Template, Turns, read_pairs
from imprint.templates.chatglm import ChatGLMTemplate, format_question, format_round, with_system
from imprint.templates.chatglm2 import ChatGLM2Template, format_question_from_one, format_round_from_one
from imprint.templates.rounds import ROUND_START, RoundText, is_long
from imprint.tokenizers import ChatGLMTokenizer, Tokenizer


def encode_sample_original(
    template: Template, sample: Sample, *, max_source_length: int, max_target_length: int, source_prefix: str = ""
) -> EncodedRow:
    """Encode a training row exactly as the original does; `source_prefix` is put before the prompt.

    ChatGLM-6B: the prompt keeps `max_source_length - 1` ids, the answer `max_target_length - 2`, and the `<sop>` is scored too. An empty
    history is trained as `[Round 0]`. ChatGLM2-6B: the prompt keeps `max_source_length` ids, `[gMASK] sop` among them, the
    answer `max_target_length` plus its end id. Raises UserError for other families.

    Source: preprocess_function_train in ptuning/main.py, THUDM/ChatGLM-6B and THUDM/ChatGLM2-6B.
    """
    chatglm1 = isinstance(template, ChatGLMTemplate)
    source, target = (max_source_length - 1, max_target_length - 2) if chatglm1 else (max_source_length - 2, max_target_length)
    (kept, whole), answer = _prompt(template, sample, source_prefix, source, training=True), template.tokenizer.encode(sample.answer)
    prompt = _with_special_ids(template, kept)
    scored = [*(prompt[-1:] if chatglm1 else ()), *answer[:target], template.end_id]
    unscored = prompt[:-1] if chatglm1 else prompt
    return EncodedRow(
        ids=(*unscored, *scored),
        labels=(*[IGNORE_INDEX] * len(unscored), *scored),
        cut_prompt_tokens=max(whole - source, 0),
        cut_answer_tokens=max(len(answer) - target, 0),
        needed_prompt=whole + max_source_length - source,
        needed_answer=len(answer) + max_target_length - target,
    )


def encode_evaluation_sample_original(
    template: Template, sample: Sample, *, max_source_length: int, max_target_length: int, source_prefix: str = ""
) -> tuple[EncodedPrompt, str]:
    """The prompt and the reference text as in the original's evaluation.

    The prompt has at most `max_source_length` ids, special ids included; its end is truncated. The reference is the text of the first
    `max_target_length - 2` answer ids. With an empty history ChatGLM-6B's prompt is the bare query, unlike in its training.
    Raises UserError for other families.

    Source: preprocess_function_eval in ptuning/main.py, THUDM/ChatGLM-6B and THUDM/ChatGLM2-6B.
    """
    limit = max_source_length - 2
    kept, whole = _prompt(template, sample, source_prefix, limit, training=False)
    reference = template.tokenizer.decode(template.tokenizer.encode(sample.answer)[: max_target_length - 2])
    return EncodedPrompt(_with_special_ids(template, kept), cut_tokens=max(whole - limit, 0)), reference


def encode_original(
    tokenizer: Tokenizer, query: str, answer: str, history: Turns | None, max_source_length: int, max_target_length: int
) -> tuple[list[int], list[int]]:
    """The (ids, labels) of a training row as in ChatGLM-6B's script: see `encode_sample_original`.

    `history` None is the bare query, a list (also an empty one) is rounds. Raises UserError for arguments of another type.
    """
    sample, source, target = _arguments(query, answer, history, max_source_length, max_target_length)
    row = encode_sample_original(_chatglm(tokenizer), sample, max_source_length=source, max_target_length=target)
    return list(row.ids), list(row.labels)


def encode_original_evaluation(
    tokenizer: Tokenizer, query: str, answer: str, history: Turns | None, max_source_length: int, max_target_length: int
) -> tuple[list[int], str]:
    """The (ids, reference) of a row as in the evaluation of ChatGLM-6B's script: see `encode_evaluation_sample_original`."""
    sample, source, target = _arguments(query, answer, history, max_source_length, max_target_length)
    prompt, reference = encode_evaluation_sample_original(_chatglm(tokenizer), sample, max_source_length=source, max_target_length=target)
    return prompt.ids, reference


def _arguments(
    query: object, answer: object, history: object, max_source_length: object, max_target_length: object
) -> tuple[Sample, int, int]:
    """The sample and the two lengths. Raises UserError for arguments of another type, and for lengths without room for a token."""
    sample = Sample(arguments.text("query", query), arguments.text("answer", answer), read_pairs(history, "history"), location="")
    source = arguments.integer("max_source_length", max_source_length, at_least=3)
    return sample, source, arguments.integer("max_target_length", max_target_length, at_least=3)


def _chatglm(tokenizer: Tokenizer) -> ChatGLMTemplate:
    if not isinstance(tokenizer, ChatGLMTokenizer):
        raise UserError(
            Bilingual(
                "tokenizer: must be that of ChatGLM-6B, whose script this follows. Use `encode_sample` with the model's template.",
                "tokenizer：分词器须为 ChatGLM-6B 的：其他模型请用 encode_sample。",
            )
        )
    return ChatGLMTemplate(tokenizer)


def _prompt(template: Template, sample: Sample, source_prefix: str, limit: int, *, training: bool) -> tuple[list[int], int]:
    """(the first `limit` ids of a sample's prompt text, without special ids, and how many it has; about that of a long one that is cut).

    With an empty history ChatGLM-6B writes `[Round 0]` in `training` only.
    """
    history = sample.history or ()
    round_text: RoundText
    if isinstance(template, ChatGLM2Template):
        question, round_text = format_question_from_one(len(history), sample.query), format_round_from_one
    elif not isinstance(template, ChatGLMTemplate):
        raise UserError(
            Bilingual(
                "truncation: original is what ptuning/main.py of ChatGLM-6B and ChatGLM2-6B does, and this model's template is "
                f"{template.name}. Set it to oldest_first.",
                "truncation：该模型没有对应的官方脚本：请改为 oldest_first。",
            )
        )
    else:
        rounds = history or (training and sample.history is not None)
        question, round_text = format_question(len(history), sample.query) if rounds else sample.query, format_round
    tokenizer, before = template.tokenizer, source_prefix + with_system("", sample.system)
    if is_long(history) and tokenizer.divides_after_newline(ROUND_START):
        return template.latest.first_ids(tokenizer, before, history, question, round_text, limit)
    ids = tokenizer.encode(before + "".join(round_text(index, *turn) for index, turn in enumerate(history)) + question)
    return ids[:limit], len(ids)


def _with_special_ids(template: Template, prompt: Sequence[int]) -> list[int]:
    """The prompt with its two special ids, after it in ChatGLM-6B, before it in ChatGLM2-6B."""
    if isinstance(template, ChatGLMTemplate):
        return [*prompt, template.tokenizer.control.gmask, template.tokenizer.control.sop]
    assert isinstance(template, ChatGLM2Template)
    return [*template.start_ids, *prompt]
