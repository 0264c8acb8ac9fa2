"""Pre-trains the embedded base from scratch: vocabulary, random weights, then `imprint train`'s own loop over all parameters.

python -m tools.embedded.pretrain FOLDER
"""

import math
import shutil
import sys
from itertools import islice
from pathlib import Path
from typing import Any, Final

import torch

from imprint.config import read_recipe
from imprint.data.dataset import DataSplits, encode_samples
from imprint.data.limits import limits_of
from imprint.data.section import DataSection
from imprint.data.truncation import TruncationReport
from imprint.demo.corpus import documents
from imprint.files.atomic import atomic_folder, find_folder, write_json
from imprint.loading.base import EMBEDDED, base_folder
from imprint.loading.load import load
from imprint.models.checkpoint import save_network
from imprint.models.families import build_network
from imprint.runtime import seed_everything
from imprint.tokenizers import SPECIAL_PIECES
from imprint.training.recipe import Recipe
from imprint.training.run import train_recipe
from tools.embedded.abilities import write_abilities
from tools.embedded.vocabulary import train_vocabulary

RECIPE: Final = Path(__file__).with_name("pretrain.yaml")
CARD: Final = base_folder(EMBEDDED) / "README.md"
SIZES: Final = {"hidden_size": 256, "num_layers": 6, "num_attention_heads": 8, "inner_hidden_size": 1024}
HELD_OUT_DOCUMENTS: Final = 2_000
HELD_OUT_SEED: Final = 1


def pretrain(folder: Path, *, texts: int = 600_000, overrides: tuple[str, ...] = ()) -> Path:
    """Write a pre-trained base of about six million parameters to `folder`/base; takes minutes on a GPU, hours without one.

    `texts` documents are trained on; `overrides` change the recipe beside this file. A stopped run resumes.
    """
    start, run = folder / "start", folder / "run"
    if find_folder(start) is None:
        start_base(start)
    recipe = read_recipe(RECIPE, [f"model.path={start}", f"output={run}", *overrides], Recipe)
    assert isinstance(recipe.data, DataSection), "the recipe beside this file learns from rows"
    template = load(start, device="cpu").template
    limits = limits_of(recipe.data)
    train = encode_samples(recipe.data, template, islice(documents(0), texts), limits)
    held_out = list(islice(documents(HELD_OUT_SEED), HELD_OUT_DOCUMENTS))
    dev = encode_samples(recipe.data, template, held_out, limits)
    train_recipe(recipe, split=DataSplits(train, dev, held_out, TruncationReport.from_rows(train)))
    tuned = load(run / "model", device="cpu")
    save_network(tuned.network, run / "model", folder / "base", dtype=torch.float16, tied_once=True)
    write_abilities(folder / "base")
    return folder / "base"


def start_base(folder: Path) -> None:
    """Write the untrained base: its vocabulary, and random weights scaled so that all sublayers contribute about equally."""
    scratch = folder.with_name(f"{folder.name}-scratch")
    with atomic_folder(scratch):
        pass
    train_vocabulary(scratch)
    shutil.copyfile(CARD, scratch / CARD.name)
    fields = configuration(scratch)
    write_json(scratch / "config.json", fields)
    seed_everything(0)
    network = build_network(fields, scratch)
    for name, parameter in network.named_parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.02 if "embeddings" in name else math.sqrt(1 / parameter.shape[1]))
        elif name.endswith("bias"):
            torch.nn.init.zeros_(parameter)
    save_network(network, scratch, folder, tied_once=True)
    shutil.rmtree(scratch)


def configuration(folder: Path) -> dict[str, Any]:
    """The fields of config.json, with ids from the vocabulary."""
    from sentencepiece import SentencePieceProcessor

    pieces = SentencePieceProcessor(model_file=str(folder / "ice_text.model"))
    mask, gmask, _, _, sop, eop, *_ = (pieces.piece_to_id(piece) for piece in SPECIAL_PIECES)
    return {
        "architectures": ["ChatGLMModel"],
        "model_type": "chatglm",
        "position_encoding_2d": True,
        "layernorm_epsilon": 1e-5,
        "max_sequence_length": 512,
        "vocab_size": len(pieces),
        "mask_token_id": mask,
        "gmask_token_id": gmask,
        "bos_token_id": sop,
        "eos_token_id": eop,
        "pad_token_id": 3,
        **SIZES,
    }


if __name__ == "__main__":
    pretrain(Path(sys.argv[1]))
