"""The golden cases as rows without padding, and networks small enough to search every answer."""

import json
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Final, Literal, TypeVar

import torch
from safetensors.torch import load_file
from torch import Tensor

import imprint
from imprint.model import Model
from imprint.models.chatglm import ChatGLM
from imprint.models.chatglm2 import ChatGLM2
from imprint.models.configs.chatglm import ChatGLMConfig
from imprint.models.configs.chatglm2 import ChatGLM2Config
from imprint.models.network import Network
from imprint.models.quantized_layers import quantized_layers
from imprint.quant.formats import find_format
from imprint.quant.names import FormatName
from imprint.quant.row_int import RowInt
from imprint.quant.weight_format import SCALE, WEIGHT, WeightFormat

N = TypeVar("N", bound=Network)
Bits = Literal[8, 4]
BITS: Final[tuple[Bits, ...]] = (8, 4)
"""Names of the original's weight formats."""
GOLDEN = Path(__file__).parent / "golden"
CASES = ("chatglm1-base", "chatglm1-ptuning", "chatglm1-ptuning-projection")
TUNED = CASES[1:]
CHATGLM2_CASES = ("chatglm2-base", "chatglm2-ptuning", "chatglm2-ptuning-projection", "glm4-base")
CHATGLM2_TUNED = CHATGLM2_CASES[1:3]


@dataclass(frozen=True)
class Case:
    """A tiny random model and what the original computes from it."""

    name: str

    @property
    def folder(self) -> Path:
        return GOLDEN / self.name

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        return load_file(self.folder / "expected.safetensors")

    @property
    def adapter(self) -> Path | None:
        file = self.folder / "prefix_pytorch_model.bin"
        return file if file.is_file() else None

    def load(self) -> Model:
        return imprint.load(self.folder, adapter=self.adapter, dtype="float32", device="cpu")

    @property
    def pad(self) -> int:
        return int(json.loads((self.folder / "config.json").read_text())["pad_token_id"])

    @property
    def rows(self) -> list[list[int]]:
        return without_padding(self.expected["input_ids"], self.pad)

    @property
    def labels(self) -> list[list[int]]:
        return ends(self.expected["labels"], self.rows)

    @property
    def prompts(self) -> list[list[int]]:
        return without_padding(self.expected["prompt_ids"], self.pad)

    def per_row(self, name: str) -> list[Tensor]:
        """An expected tensor (B, T, ...) as one tensor a row, without what stands at the padding."""
        return [tensor[-len(row) :] for tensor, row in zip(self.expected[name], self.rows, strict=True)]


def without_padding(ids: Tensor, pad: int = 3) -> list[list[int]]:
    """Rows of a left-padded batch."""
    rows: list[list[int]] = ids.tolist()
    return [row[next(place for place, token in enumerate(row) if token != pad) :] for row in rows]


def ends(tensor: Tensor, rows: list[list[int]]) -> list[list[int]]:
    """The last numbers of each line, as many as its row has."""
    lines: list[list[int]] = tensor.tolist()
    return [line[-len(row) :] for line, row in zip(lines, rows, strict=True)]


def small_fields(*, vocabulary: int = 40, layers: int = 2) -> dict[str, object]:
    """A config.json; the last five ids are [MASK] [gMASK] <sop> <eop> <pad>."""
    names = ("mask_token_id", "gmask_token_id", "bos_token_id", "eos_token_id", "pad_token_id")
    return {
        "model_type": "chatglm",
        "vocab_size": vocabulary,
        "hidden_size": 32,
        "num_layers": layers,
        "num_attention_heads": 2,
        "inner_hidden_size": 48,
        "layernorm_epsilon": 1e-5,
        "max_sequence_length": 64,
        **{name: vocabulary - 5 + place for place, name in enumerate(names)},
    }


def small_network(*, seed: int = 0, vocabulary: int = 40, layers: int = 2, std: float = 0.6) -> ChatGLM:
    """A frozen network of random weights, large enough that every part of it matters to the result."""
    network = ChatGLM(ChatGLMConfig.read(small_fields(vocabulary=vocabulary, layers=layers)))
    return drawn(network, seed=seed, std=std)


def chatglm2_fields() -> dict[str, object]:
    """A config.json of ChatGLM2's kind: four query heads share two heads of keys and values, whose width is not the hidden size's."""
    return {
        "model_type": "chatglm",
        "padded_vocab_size": 40,
        "hidden_size": 32,
        "num_layers": 2,
        "num_attention_heads": 4,
        "multi_query_group_num": 2,
        "multi_query_attention": True,
        "kv_channels": 12,
        "ffn_hidden_size": 24,
        "seq_length": 64,
        "layernorm_epsilon": 1e-5,
        "add_qkv_bias": True,
        "add_bias_linear": False,
        "rmsnorm": True,
        "post_layer_norm": True,
        "apply_query_key_layer_scaling": True,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "torch_dtype": "float32",
    }


def small_chatglm2(*, seed: int = 0, std: float = 0.4, fields: dict[str, object] | None = None) -> ChatGLM2:
    """A frozen network of random weights of that kind."""
    return drawn(ChatGLM2(ChatGLM2Config.read({**chatglm2_fields(), **(fields or {})})), seed=seed, std=std)


def drawn(network: N, *, seed: int, std: float) -> N:
    """The network with random weights, frozen."""
    torch.manual_seed(seed)
    for name, parameter in network.named_parameters():
        torch.nn.init.normal_(parameter, mean=float(name.endswith("layernorm.weight")), std=std if parameter.dim() > 1 else 0.1)
        parameter.requires_grad_(False)
    return network.eval()


def small_model(*, seed: int = 0, vocabulary: int = 40) -> Model:
    """That network behind the public API, without a tokenizer."""
    return Model(small_network(seed=seed, vocabulary=vocabulary), None, "small")


def as_chatglm(network: Network) -> ChatGLM:
    """The same network, known to be a ChatGLM-6B."""
    assert isinstance(network, ChatGLM)
    return network


def prompt(network: Network, *text: int) -> list[int]:
    """Text ids with [gMASK] <sop> behind them."""
    special_ids = as_chatglm(network).config.special_ids
    return [*text, special_ids.gmask, special_ids.sop]


def format_of(name: FormatName | None) -> WeightFormat | None:
    """The weight format of this name; None for none."""
    return None if name is None else find_format(name)


def quantize(weight: Tensor, bits: Bits, scale_dtype: torch.dtype | None = torch.float16) -> tuple[Tensor, Tensor]:
    """Integers and scales of the original's formats."""
    tensors = RowInt(bits, scale_dtype).quantize(weight)
    return tensors[WEIGHT], tensors[SCALE]


def quantized_folder(folder: Path, bits: Bits, *, embeddings: bool = False) -> Path:
    """The golden base as the original's quantized folders are: packed integers and scales in a pytorch_model.bin, the head stored too."""
    base = Case("chatglm1-base").folder
    tensors = load_file(base / "model.safetensors")
    tensors |= {name: tensor for name, tensor in load_file(base / f"int{bits}.safetensors").items() if not name.startswith("expected")}
    if embeddings:
        for name in ("transformer.word_embeddings.weight", "lm_head.weight"):
            tensors[name], tensors[f"{name}_scale"] = quantize(tensors[name], bits)
    fields = json.loads((base / "config.json").read_text())
    write_config(folder, {**fields, "quantization_bit": bits, "quantization_embeddings": embeddings})
    torch.save(tensors, folder / "pytorch_model.bin")
    return folder


def plain_twin(network: Network) -> ChatGLM:
    """A network of plain fp32 weights, equal to the numbers that a quantized one stands for."""
    twin = ChatGLM(replace(as_chatglm(network).config, weight_format=None, quantization_embeddings=False))
    numbers = {name: layer.dequantize(torch.float32) for name, layer in quantized_layers(network).items()}
    twin.load_state_dict({name: tensor for name, tensor in network.state_dict().items() if not name.endswith(SCALE)} | numbers)
    return twin.requires_grad_(requires_grad=False).eval()


def write_config(folder: Path, fields: dict[str, object]) -> Path:
    """A model folder with nothing but its config.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields), encoding="utf-8")
    return folder


def difference(found: Tensor, expected: Tensor) -> float:
    """The largest absolute difference; infinite where shapes differ or a number is not finite."""
    if found.shape != expected.shape:
        return float("inf")
    apart = (found.detach().double() - expected.detach().double()).abs()
    return float(apart.max()) if apart.isfinite().all() else float("inf")
