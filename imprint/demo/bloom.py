"""Pre-trains a tiny BLOOM on texts of the toy town: official folder layout, random weights, then `imprint train` on raw text."""

import math
import shutil
from itertools import islice
from pathlib import Path
from typing import Final

import torch

from imprint.config import read_recipe
from imprint.demo.domain_example.books import general_texts
from imprint.files.atomic import atomic_folder, find_folder, write_json, write_text
from imprint.models.checkpoint import save_network
from imprint.models.families import build_network
from imprint.training.recipe import Recipe
from imprint.training.run import train_recipe

RECIPE: Final = Path(__file__).with_name("bloom.yaml")
SPECIAL_TOKENS: Final = ("<unk>", "<s>", "</s>", "<pad>")
"""The special tokens of the official vocabulary, whose ids are 0, 1, 2 and 3."""
PRE_TOKENIZER_PATTERN: Final = r" ?[^(\s|[.,!?…。，、।۔،])]+"
"""How the official tokenizer splits a text before byte-level BPE. Source: tokenizer.json of bigscience/bloom-560m."""
VOCAB_SIZE: Final = 2048
CONFIG: Final = {
    "architectures": ["BloomForCausalLM"],
    "model_type": "bloom",
    "apply_residual_connection_post_layernorm": False,
    "attention_dropout": 0.0,
    "hidden_dropout": 0.0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 3,
    "unk_token_id": 0,
    "layer_norm_epsilon": 1e-5,
    "initializer_range": 0.02,
    "hidden_size": 128,
    "n_head": 4,
    "n_layer": 4,
    "seq_length": 512,
    "vocab_size": VOCAB_SIZE,
}
TOKENIZER_CONFIG: Final = {
    "tokenizer_class": "BloomTokenizerFast",
    "add_prefix_space": False,
    "clean_up_tokenization_spaces": False,
    "model_max_length": 512,
    **dict(zip(("unk_token", "bos_token", "eos_token", "pad_token"), SPECIAL_TOKENS, strict=True)),
}


def make_bloom(folder: Path, *, texts: int = 12_000, overrides: tuple[str, ...] = ()) -> Path:
    """Write a pre-trained BLOOM of about a million parameters to `folder`/base; takes some minutes on a CPU.

    `texts` documents about the toy town are trained on; `overrides` change the recipe beside this file. A stopped run resumes.
    """
    start, run, base = folder / "start", folder / "run", folder / "base"
    if find_folder(start) is None:
        write_untrained_bloom(start, texts)
    source = folder / "general.txt"
    write_text(source, "\n\n".join(islice(general_texts(0), texts)) + "\n")
    recipe = read_recipe(RECIPE, [f"model.path={start}", f"data.train={source}", f"output={run}", *overrides], Recipe)
    train_recipe(recipe)
    if find_folder(base) is None:
        with atomic_folder(base) as part:
            shutil.copytree(run / "model", part, dirs_exist_ok=True)
    return base


def write_untrained_bloom(folder: Path, texts: int) -> None:
    """Write the untrained base: a vocabulary trained on texts about the toy town, and random weights."""
    scratch = folder.with_name(f"{folder.name}-scratch")
    with atomic_folder(scratch):
        pass
    train_byte_bpe(scratch, texts)
    write_json(scratch / "config.json", CONFIG)
    torch.manual_seed(0)
    network = build_network(dict(CONFIG), scratch)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02 if "embeddings" in name else math.sqrt(1 / parameter.shape[1]))
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    save_network(network, scratch, folder)
    shutil.rmtree(scratch)


def train_byte_bpe(folder: Path, texts: int) -> None:
    """Write tokenizer.json and tokenizer_config.json into an existing folder: byte-level BPE, as the official tokenizer."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(PRE_TOKENIZER_PATTERN), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB_SIZE,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
        max_token_length=12,
    )
    tokenizer.train_from_iterator(islice(general_texts(0), texts), trainer)
    tokenizer.save(str(folder / "tokenizer.json"))
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
