from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hubserver import HubServer, Repository, hub_server

SHARD = bytes(range(256)) * 20_000
"""A file that takes several reads: 5.1 MB."""


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[HubServer]:
    """A hub with one model whose weights are no weights; the current folder is empty."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with hub_server(tmp_path / "cache") as server:
        server.repositories["Qwen/Qwen3-4B"] = Repository(
            {
                "config.json": b'{"model_type": "qwen3"}',
                "tokenizer.json": b"{}",
                "tokenizer_config.json": b"{}",
                "generation_config.json": b"{}",
                "chat_template.jinja": b"{{ messages }}",
                "additional_chat_templates/tools.jinja": b"{{ tools }}",
                "LICENSE": b"Apache",
                "model.safetensors": SHARD,
                "pytorch_model.bin": SHARD,
                "modeling_qwen.py": b"print()",
                "model.gguf": SHARD,
                "onnx/model.onnx": SHARD,
                "flax_model.msgpack": SHARD,
                "tf_model.h5": SHARD,
            }
        )
        yield server
