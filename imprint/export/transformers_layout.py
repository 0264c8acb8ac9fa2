"""A model folder that transformers and vLLM load without remote code; verified with transformers."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from imprint.data.sample import Sample
from imprint.export.glm_layout import glm_fields, glm_tensors
from imprint.export.verify import MAX_ANSWER_TOKENS, GreedyAnswer, encode_prompts
from imprint.export.vocabulary import (
    CHAT_TEMPLATES,
    CHATGLM2_CHAT_TEMPLATE,
    RENAMED,
    role_chat_template,
    sentencepiece_json,
    tiktoken_json,
    tokenizer_config,
)
from imprint.export.writers import AnswerFunction, ExportJob, merge, refuse_overflow
from imprint.files.atomic import write_json
from imprint.files.reading import read_json_object
from imprint.messages import Bilingual, UserError
from imprint.models.chatglm2 import ChatGLM2
from imprint.models.checkpoint import save_network, save_weights
from imprint.templates import Template
from imprint.tokenizers import ChatGLM2Tokenizer, GLM4Tokenizer, HFTokenizer
from imprint.tokenizers.glm4 import SPLIT

TOKENIZER_JSON, TOKENIZER_CONFIG, GENERATION_CONFIG = "tokenizer.json", "tokenizer_config.json", "generation_config.json"


def transformers_model(job: ExportJob) -> Iterator[AnswerFunction]:
    """The tuned weights in transformers' layout: ChatGLM2, ChatGLM3 and GLM-4-9B as `glm`, everything else unchanged."""
    model = job.open()
    network, template = model.network, model.template
    yield job.answer_function(model)
    merge(model)
    refuse_overflow(model, job.dtype)
    if isinstance(network, ChatGLM2):
        save_weights(job.temporary, dict(glm_tensors(network.state_dict().items(), network.config)), job.dtype)
        write_json(job.temporary / "config.json", glm_fields(network.config, job.dtype))
        _write_tokenizer(job.temporary, template, network.shape.max_length)
    else:
        save_network(network, job.source.network_folder, job.temporary, dtype=job.dtype)
        _complete_template(job.temporary, template)
    write_json(job.temporary / GENERATION_CONFIG, _generation_fields(job.source.network_folder, sorted(network.stop_ids)))
    answer_function = partial(_transformers_answers, job, template, network.dtype, network.device)
    del model, network
    yield answer_function


def _generation_fields(base: Path, ends: list[int]) -> dict[str, Any]:
    """The base's generation_config.json, from which vLLM and transformers take their defaults, with the ids that end an answer here."""
    file = base / GENERATION_CONFIG
    fields = {"do_sample": True, "pad_token_id": ends[0], **(read_json_object(file) if file.is_file() else {}), "eos_token_id": ends}
    return {**fields, "pad_token_id": ends[0]} if fields["pad_token_id"] is None else fields


def _transformers_answers(
    job: ExportJob, template: Template, dtype: torch.dtype, device: torch.device, samples: Sequence[Sample]
) -> list[GreedyAnswer]:
    """Answers of transformers from the written folder. Raises UserError if its tokenizer or chat template gives other ids than ours."""
    from imprint.models.reference import ReferenceModel

    reference = ReferenceModel(job.temporary, dtype=dtype, device=device)
    prompts = encode_prompts(template, job.run, samples)
    for sample, ids in zip(samples, prompts, strict=True):
        exported_ids = reference.encode(sample.query)
        if exported_ids != (expected := template.tokenizer.encode(sample.query)):
            raise _tokens_differ(sample.query, expected, exported_ids)
        complete = len(ids) < job.run.max_source_length and not job.run.data_section.source_prefix
        plain = ids if sample.context is None else encode_prompts(template, job.run, [replace(sample, context=None)])[0]  # without tools
        if complete and (exported_ids := reference.encode_chat(_messages(sample))) != plain:
            raise _tokens_differ(sample.query, plain, exported_ids)
    answers = [reference.generate(ids, MAX_ANSWER_TOKENS) for ids in prompts]
    return [GreedyAnswer(tuple(ids), template.tokenizer.decode(ids)) for ids in answers]


def _tokens_differ(text: str, expected: Sequence[int], exported_ids: Sequence[int]) -> UserError:
    return UserError(
        Bilingual(
            f'--to transformers: its tokenizer writes "{text}" as {list(exported_ids)[:12]}, ours as {list(expected)[:12]}, so '
            "nothing was written. A tokenizer.json finds special tokens in typed text: give questions without them (--prompts FILE).",
            "--to transformers：导出的分词器结果不同，因此没有写出任何文件；若问题中含有控制符号，请换用不含控制符号的问题。",
        )
    )


def _messages(sample: Sample) -> list[dict[str, str]]:
    messages = [] if sample.system is None else [("system", sample.system)]
    for question, answer in sample.history or ():
        messages += [("user", question), ("assistant", answer)]
    return [{"role": role, "content": text} for role, text in (*messages, ("user", sample.query))]


def _write_tokenizer(temporary: Path, template: Template, max_length: int) -> None:
    """A tokenizer.json with the ids of ChatGLM2, ChatGLM3 or GLM-4, and their chat template."""
    tokenizer = template.tokenizer
    if isinstance(tokenizer, GLM4Tokenizer):
        vocabulary, end, chat = tiktoken_json(tokenizer.pieces, SPLIT, tokenizer.controls), "<|endoftext|>", role_chat_template("\\n")
    else:
        assert isinstance(tokenizer, ChatGLM2Tokenizer), "ChatGLM2 networks have no other tokenizer"
        pieces, scores = tokenizer.scored_pieces()
        vocabulary, end = sentencepiece_json(pieces, scores, tokenizer.controls), "</s>"
        # "\\n ": with the space that the vocabulary adds before each text.
        chat = role_chat_template("\\n ") if template.name == "chatglm3" else CHATGLM2_CHAT_TEMPLATE
    write_json(temporary / TOKENIZER_JSON, vocabulary)
    special = [RENAMED.get(name, name) for name in tokenizer.controls]
    write_json(temporary / TOKENIZER_CONFIG, tokenizer_config(special, end_token=end, chat_template=chat, max_length=max_length))


def _complete_template(temporary: Path, template: Template) -> None:
    """Write the chat template of the training if the folder has none, and token objects as plain text."""
    if not (temporary / TOKENIZER_CONFIG).is_file():
        return
    assert isinstance(template.tokenizer, HFTokenizer), "other tokenizers have no tokenizer_config.json"
    fields: dict[str, Any] = json.loads((temporary / TOKENIZER_CONFIG).read_text(encoding="utf-8"))
    for name, token in fields.items():
        if name.endswith("_token") and isinstance(token, dict):
            fields[name] = token.get("content")
    if template.name in CHAT_TEMPLATES:
        fields["chat_template"] = ("{{- bos_token -}}" if template.tokenizer.special_tokens.bos_ids else "") + CHAT_TEMPLATES[template.name]
    write_json(temporary / TOKENIZER_CONFIG, fields)
