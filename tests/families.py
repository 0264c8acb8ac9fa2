"""Tiny vocabularies of every family, made when asked for: folders with a config.json and tokenizer files, no weights."""

import base64
import json
from collections.abc import Callable, Mapping
from functools import cache
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import torch
from safetensors.torch import save_file
from sentencepiece import SentencePieceProcessor, SentencePieceTrainer

from imprint.export.vocabulary import sentencepiece_json
from imprint.models.families import build_network
from imprint.templates import Template, read_template
from imprint.tokenizers import SPACE, VOCABULARY_FILE, ChatGLM2Tokenizer
from tests.vocabulary import LINES, bare_pieces, configuration, vocabulary

SECOND = {"model_type": "chatglm", "multi_query_group_num": 2}
"""What says in config.json that a folder is ChatGLM2, ChatGLM3 or GLM-4."""
ROLES = "{% for message in messages %}<|{{ message['role'] }}|>{% endfor %}"
"""A chat template as ChatGLM3's tokenizer_config.json has one."""
CHAT = (
    "{% if tools %}<|system|>tools{% for tool in tools %} {{ tool['name'] }}{% endfor %}{% endif %}"
    "{% for message in messages %}{% if message['role'] == 'system' and not loop.first %}{{ raise_exception('the system speaks first') }}"
    "{% endif %}<|{{ message['role'] }}|>\n"
    "{% if message.tool_calls %}{{ message.tool_calls[0].function.name }}({{ message.tool_calls[0].function.arguments | tojson }})"
    "{% else %}{{ message['content'] | trim }}{% endif %}<|end|>\n{% endfor %}{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
"""A chat template of the common kind."""


def folder_of(folder: Path, config: Mapping[str, object], files: Mapping[str, bytes | object]) -> Path:
    """A model folder with these files; what is no bytes is written as JSON."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in {"config.json": dict(config), **files}.items():
        (folder / name).write_bytes(content if isinstance(content, bytes) else json.dumps(content, ensure_ascii=False).encode())
    return folder


@cache
def chatglm2_vocabulary(*, byte_fallback: bool = True) -> bytes:
    """A SentencePiece file with the flags of ChatGLM2's."""
    written = BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(LINES * 4),
        model_writer=written,
        model_type="bpe",
        vocab_size=450,
        character_coverage=1.0,
        byte_fallback=byte_fallback,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        split_digits=True,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
    )
    return written.getvalue()


@cache
def ranks() -> bytes:
    """A file of ranks: the single bytes, and what a few joins make of them."""
    joined = [b"he", b"ll", b"hell", b" w", b"or", "你".encode(), "好".encode(), "你好".encode(), b"\n\n", b"  ", b" a", "衣".encode()[:2]]
    pieces = [bytes([value]) for value in range(256)] + joined
    return b"".join(base64.b64encode(piece) + b" %d\n" % rank for rank, piece in enumerate(pieces))


@cache
def tokenizer_json(*, prefix: bool = False) -> bytes:
    """A byte-level tokenizer.json as BLOOM and Qwen have them; with `prefix` it puts `<s>` before every text, as others do."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    rust.decoder = decoders.ByteLevel()
    control = ["<unk>", "<s>", "</s>", "<pad>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|end|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=control, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    rust.train_from_iterator(LINES * 4, trainer)
    rust.add_tokens([AddedToken("<think>", special=False)])
    if prefix:
        rust.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    return rust.to_str().encode()


def piece_json(*added: str, prepends: bool = True, special: bool = True, strips: bool = False) -> dict[str, object]:
    """A tokenizer.json of the SentencePiece kind: LLaMA's, which puts a space before every text, or one that does so before the first."""
    tokenizer = read_chatglm2_bytes(chatglm2_vocabulary())
    fields = sentencepiece_json(*tokenizer.scored_pieces(), tokenizer.controls)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    first = [{"id": place, "content": name, **flags, "special": True} for place, name in enumerate(("<unk>", "<s>", "</s>"))]
    others = [
        {"id": len(tokenizer) + place, "content": name, **flags, "rstrip": strips, "special": special} for place, name in enumerate(added)
    ]
    fields |= {"added_tokens": [*first, *others], "post_processor": None}
    if not prepends:
        fields |= {
            "normalizer": None,
            "pre_tokenizer": {"type": "Metaspace", "replacement": SPACE, "prepend_scheme": "first", "split": False},
        }
    return fields


def piece_folder(folder: Path, chat_template: str | None, vocabulary: Mapping[str, object]) -> Path:
    """A folder with such a vocabulary."""
    settings = {"eos_token": "</s>", "bos_token": "<s>", "chat_template": chat_template}
    return folder_of(folder, {"model_type": "llama", "eos_token_id": 2}, {"tokenizer.json": vocabulary, "tokenizer_config.json": settings})


def read_chatglm2_bytes(content: bytes) -> ChatGLM2Tokenizer:
    """The tokenizer of a SentencePiece file."""
    return ChatGLM2Tokenizer(SentencePieceProcessor(model_proto=content))


def chatglm2_folder(folder: Path, *, roles: bool = False) -> Path:
    """ChatGLM2's files, or with `roles` ChatGLM3's."""
    settings = {"chat_template": ROLES} if roles else {}
    config = {**SECOND, "padded_vocab_size": 600, "eos_token_id": 2}
    return folder_of(folder, config, {"tokenizer.model": chatglm2_vocabulary(), "tokenizer_config.json": settings})


def glm4_folder(folder: Path) -> Path:
    """The files of GLM-4-9B's original layout."""
    first = ranks().count(b"\n")
    config = {**SECOND, "padded_vocab_size": 300, "eos_token_id": [first, first + 7, first + 9]}
    return folder_of(folder, config, {"tokenizer.model": ranks()})


def published_folder(folder: Path, *, chat_template: str | None = CHAT, prefix: bool = False) -> Path:
    """The files of a model that transformers knows."""
    settings = {"eos_token": {"content": "</s>"}, "bos_token": "<s>", "unk_token": None, "chat_template": chat_template}
    config = {"model_type": "bloom", "vocab_size": 512, "eos_token_id": 2}
    return folder_of(folder, config, {"tokenizer.json": tokenizer_json(prefix=prefix), "tokenizer_config.json": settings})


def fields_of(folder: Path) -> dict[str, object]:
    """What its config.json says."""
    fields: dict[str, object] = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return fields


def bloom_base(folder: Path) -> Path:
    """A complete BLOOM of random weights with a chat template."""
    published_folder(folder)
    fields = {**fields_of(folder), "hidden_size": 16, "n_layer": 1, "n_head": 2}
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    torch.manual_seed(0)
    network = build_network(fields, folder)
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    save_file({name: tensor.contiguous() for name, tensor in network.state_dict().items()}, folder / "model.safetensors")
    return folder


FOLDERS: Mapping[str, Callable[[Path], Path]] = MappingProxyType(
    {
        "chatglm": lambda folder: folder_of(folder, configuration(pieces=bare_pieces()), {VOCABULARY_FILE: vocabulary()}),
        "chatglm2": chatglm2_folder,
        "chatglm3": lambda folder: chatglm2_folder(folder, roles=True),
        "glm4": glm4_folder,
        "own": published_folder,
        "plain": lambda folder: published_folder(folder, chat_template=None),
    }
)
"""Name of each template -> what makes a folder that wants it."""


def template_of(name: str, folder: Path) -> Template:
    """The template of that name, read from a folder that is made for it."""
    FOLDERS[name](folder)
    template = read_template(folder, fields_of(folder))
    assert template is not None
    assert template.name == name
    return template
