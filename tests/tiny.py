"""A ChatGLM-6B of a few thousand random weights with a real tokenizer, and rows it can learn: everything a run needs, made in a moment."""

import json
from pathlib import Path

import torch

from imprint.models.checkpoint import save_network
from imprint.models.families import build_network
from imprint.tokenizers import VOCABULARY_FILE
from tests.vocabulary import CLOTHES, COLOURS, bare_pieces, configuration, vocabulary

SHAPE = {
    "model_type": "chatglm",
    "hidden_size": 32,
    "num_layers": 2,
    "num_attention_heads": 2,
    "inner_hidden_size": 64,
    "layernorm_epsilon": 1e-5,
    "max_sequence_length": 256,
    "position_encoding_2d": True,
}


def tiny_base(folder: Path, *, seed: int = 0) -> Path:
    """A complete model folder."""
    source = folder.with_name(f"{folder.name}-source")
    source.mkdir(parents=True)
    (source / "config.json").write_text(json.dumps({**configuration(pieces=bare_pieces()), **SHAPE}))
    (source / VOCABULARY_FILE).write_bytes(vocabulary())
    torch.manual_seed(seed)
    network = build_network(json.loads((source / "config.json").read_text()), source)
    for parameter in network.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    save_network(network, source, folder)
    return folder


def tiny_rows(file: Path, count: int = 24) -> Path:
    """Rows in ADGEN's columns, of different lengths."""
    lines = []
    for index in range(count):
        what, colour = CLOTHES[index % 4], COLOURS[index // 4 % 4]
        copy = f"这件{what}的颜色是{colour}" + "，版型很宽松" * (index % 3) + "。"
        lines.append(json.dumps({"content": f"类型#{what}*颜色#{colour}", "summary": copy}, ensure_ascii=False))
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return file


QUESTIONS = 9
QUESTION_TEXTS = [f"颜色{number}{'，版型' * (number % 3)}" for number in range(QUESTIONS)]


def tiny_questions(file: Path, count: int = QUESTIONS) -> Path:
    """Bare questions, one a line."""
    file.write_text("\n".join(QUESTION_TEXTS[:count]), encoding="utf-8")
    return file
