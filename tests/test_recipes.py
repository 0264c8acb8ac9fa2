"""Every recipe that is shipped, for two steps on a tiny base of the family that it is written for."""

import json
from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType

import pytest
import torch

from imprint.config import read_recipe
from imprint.data.section import GENERAL_FILE, DataSection
from imprint.files.atomic import read_jsonl
from imprint.models.families import build_network
from imprint.training.recipe import Recipe
from imprint.training.run import train
from tests.bases import FAMILIES, base_of
from tests.vocabulary import CLOTHES, COLOURS

ROOT = Path(__file__).parents[1]
SHIPPED = sorted((ROOT / "recipes").glob("*.yaml"))
BASES: Mapping[str, str] = MappingProxyType(
    {
        "embedded": "ChatGLM-6B",
        "models/chatglm-6b": "ChatGLM-6B",
        "models/chatglm2-6b": "ChatGLM2-6B",
        "models/chatglm3-6b": "ChatGLM3-6B",
        "models/glm-4-9b": "GLM-4-9B",
        "models/bloomz-1b1": "BLOOM",
        "runs/bloom/base": "BLOOM",
        "runs/domain": "BLOOM",
        "models/glm-4-9b-0414": "GLM-4-0414",
        "models/qwen3-4b": "Qwen3",
        "models/smollm2-135m-instruct": "Qwen3",
    }
)
"""What a recipe names as its base -> the family that it is of, or a similar one."""
NATIVE = ("ChatGLM-6B", "ChatGLM2-6B, ChatGLM3-6B", "GLM-4-9B", "BLOOMZ-1b1", "BLOOMZ-7b1")
CHATGLM2 = {
    "model_type": "chatglm",
    "hidden_size": 4096,
    "num_layers": 28,
    "num_attention_heads": 32,
    "ffn_hidden_size": 13696,
    "kv_channels": 128,
}
CLASSES = {"num_attention_heads": 32, "head_dim": 128, "max_position_embeddings": 32768, "pad_token_id": 0}
QWEN = {**CLASSES, "model_type": "qwen3", "num_key_value_heads": 8, "num_hidden_layers": 36, "vocab_size": 151936}
SHAPES: Mapping[str, tuple[str, Mapping[str, object]]] = MappingProxyType(
    {
        "ChatGLM-6B": (
            "ChatGLM-6B",
            {"hidden_size": 4096, "num_layers": 28, "num_attention_heads": 32, "inner_hidden_size": 16384, "vocab_size": 130528},
        ),
        "ChatGLM2-6B, ChatGLM3-6B": ("ChatGLM2-6B", {**CHATGLM2, "padded_vocab_size": 65024}),
        "GLM-4-9B": ("GLM-4-9B", {**CHATGLM2, "num_layers": 40, "padded_vocab_size": 151552}),
        "BLOOMZ-1b1": ("BLOOM", {"hidden_size": 1536, "n_layer": 24, "n_head": 16, "vocab_size": 250880}),
        "BLOOMZ-7b1": ("BLOOM", {"hidden_size": 4096, "n_layer": 30, "n_head": 32, "vocab_size": 250880}),
        "GLM-4-9B-0414": (
            "GLM-4-0414",
            {**CLASSES, "hidden_size": 4096, "intermediate_size": 13696, "num_hidden_layers": 40, "vocab_size": 151552},
        ),
        "Qwen3-4B": ("Qwen3", {**QWEN, "hidden_size": 2560, "intermediate_size": 9728}),
        "Qwen3-8B": ("Qwen3", {**QWEN, "hidden_size": 4096, "intermediate_size": 12288, "tie_word_embeddings": False}),
    }
)
"""What the page calls a base -> its family, and the sizes that its config.json has."""
SHORT = ("model.dtype=float32", "model.device=cpu", "train.steps=2", "train.batch_size=2", "train.micro_batch_size=2")
QUIET = ("train.watch_prompts=0", "forgetting.measure=false")


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """What makes the base of a family, once, with general rows in its folder as the toy has them."""

    @cache
    def make(family: str) -> Path:
        folder = base_of(family, tmp_path_factory.mktemp("bases") / "base")
        (folder / GENERAL_FILE).write_text('{"question": "你好", "answer": "你好！"}\n', encoding="utf-8")
        return folder

    return make


def data_of(recipe: Recipe, folder: Path) -> list[str]:
    """Write what this recipe reads, and say where it lies."""
    if not isinstance(recipe.data, DataSection):
        lines = [f"这件{what}的颜色是{colour}。" for what in CLOTHES for colour in COLOURS]
        file = folder / "texts.txt"
        file.write_text("\n\n".join(lines), encoding="utf-8")
        return [f"data.train={file}", f"data.dev={file}"]
    labels = getattr(recipe.task, "labels", CLOTHES)
    columns = (recipe.data.prompt_column, recipe.data.response_column)
    filled = "".join(f"{{{name}}}" for name in recipe.data.fill)
    rows = [dict(zip(columns, (f"{colour}的{filled}是什么？", label), strict=True)) for colour in COLOURS for label in labels]
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    general = recipe.data.mix_general
    mixed = [f"data.mix_general.rows={file}"] if general and general.rows != "base" else []
    return [f"data.train={file}", f"data.dev={file}", "data.dev_rows=2", *mixed]


def weights_of(fields: Mapping[str, object], bits: int | None) -> tuple[int, int]:
    """How many numbers a network holds, and bytes in 16 bit with the linears of the blocks in so many bits."""
    quantized = {"quantization_bit": bits} if bits else {}
    with torch.device("meta"):
        network = build_network({**fields, "eos_token_id": 2, **quantized}, Path("nowhere"))
    tensors = set(network.state_dict(keep_vars=True).values())
    return sum(t.numel() for t in tensors), sum(t.numel() * (2 if t.is_floating_point() else t.element_size()) for t in tensors)


def test_every_family_has_a_recipe() -> None:
    assert {BASES[read_recipe(path, [], Recipe).model.path] for path in SHIPPED} == FAMILIES.keys()


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.stem))
def test_a_recipe_runs_two_steps_on_a_base_of_its_family(path: Path, base: Callable[[str], Path], tmp_path: Path) -> None:
    recipe = read_recipe(path, [], Recipe)
    place = [f"output={tmp_path / 'run'}", f"model.path={base(BASES[recipe.model.path])}", *data_of(recipe, tmp_path)]
    run = train(path, [*place, *SHORT, *QUIET])
    assert [line["step"] for line in read_jsonl(run.log) if line.get("loss")] == [1, 2]
    assert (run.model if recipe.tune.method == "full" else run.adapter).is_dir()


def test_the_page_about_families_names_every_recipe() -> None:
    page = (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
    assert [path.name for path in SHIPPED if f"recipes/{path.name}" not in page] == []


@pytest.mark.parametrize("name", [name if name in NATIVE else pytest.param(name, marks=pytest.mark.long) for name in SHAPES])
def test_the_page_about_families_says_what_the_weights_of_a_base_take(name: str) -> None:
    family, sizes = SHAPES[name]
    fields = {**FAMILIES[family][1], **sizes}
    parameters, plain = weights_of(fields, None)
    cells = [f"{parameters / 1e9:.2f} B", *(f"{size / 1e9:.2f}" for size in (plain, weights_of(fields, 8)[1], weights_of(fields, 4)[1]))]
    assert f"| {name} | {' | '.join(cells)} |" in (ROOT / "docs" / "families.md").read_text(encoding="utf-8")
