"""LoRA training steps on a base of ChatGLM-6B's exact shape with random weights: fp16, bf16, INT8 and INT4.

    python benchmarks/lora.py [--out FILE] [--tiny]

Rank 8 on the queries, keys and values, as in the 2023 demonstrations; rows are those of full_size.py. `minutes` is the time of 20 rows x 50
epochs at that batch size. `--tiny`, the default without a GPU, only checks that the script runs. Prints one JSON line per case.
"""

import argparse
import gc
import math
import random
import statistics
import time
from pathlib import Path

import torch
from full_size import random_rows, reset_peak_memory, step_figures, synchronize
from quantized import random_network
from results import reporter

from imprint.engine.engine import Engine
from imprint.engine.section import OptimizerSection
from imprint.models.network import Network
from imprint.pack import pack
from imprint.quant.row_int import RowInt
from imprint.tune.lora.lora import Lora
from imprint.tune.lora.section import LoraSection
from imprint.tune.lora.shape import shape_from_section
from imprint.tune.tuner import Tuner

ROWS, EPOCHS = 20, 50
WARM_UP, STEPS = 3, 12
CASES = (
    (None, torch.float16, ((4, False, "attention"), (4, True, "attention"))),
    (RowInt(8), torch.float16, ((4, False, "attention"), (4, True, "attention"))),
    (RowInt(4), torch.float16, ((4, False, "attention"), (4, True, "attention"))),
    (None, torch.bfloat16, ((4, False, "attention"), (16, False, "attention"), (16, True, "attention"), (16, False, "all"))),
)
"""(Weight format of the base, compute dtype, cases); a case is (batch size, whether activations are recomputed, LoRA targets)."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, one step per case")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    tiny, device = arguments.tiny or not gpu, torch.device("cuda" if gpu else "cpu")
    report = reporter(arguments.out)
    for weight_format, dtype, cases in CASES:
        network = random_network(weight_format, dtype if gpu else torch.float32, device, tiny=tiny)
        for batch, checkpointing, targets in cases:
            result = lora_steps(network, batch, checkpointing=checkpointing, targets=targets, steps=1 if tiny else STEPS)
            precision = weight_format.title if weight_format else "16 bit"
            report(format=precision, **result)
        del network
        gc.collect()
        torch.cuda.empty_cache()


def lora_steps(network: Network, batch: int, *, checkpointing: bool, targets: str, steps: int) -> dict[str, object]:
    """Steps of `batch` rows: milliseconds, rows per second, peak memory; LoRA is removed from the network afterwards."""
    section = LoraSection.model_validate({"method": "lora", "rank": 8, "alpha": 32.0, "dropout": 0.1, "targets": targets})
    lora = Lora(network, shape_from_section(section, network))
    lora.set_dropout(section.dropout)
    tuner = Tuner(network, section, lora, checkpointing=checkpointing).train()
    engine = Engine.start(tuner, tuner.trainable_parameters(), OptimizerSection(learning_rate=1e-4), WARM_UP + steps, device=network.device)
    rng = random.Random(0)

    def step(number: int) -> float:
        rows, labels = random_rows(network, batch, rng)
        synchronize(network.device)
        started = time.perf_counter()
        engine.backward(tuner(pack(rows, network, labels).to(network.device)) / (batch * 64), last=True)
        engine.update(number, apply=True)
        synchronize(network.device)
        return time.perf_counter() - started

    reset_peak_memory(network.device)
    median = statistics.median([step(number) for number in range(1, WARM_UP + steps + 1)][WARM_UP:])
    result = {
        "case": f"LoRA r8 step of {batch} rows on {targets}",
        "dtype": str(network.dtype).removeprefix("torch."),
        "checkpointing": checkpointing,
        "trained_millions": round(sum(parameter.numel() for parameter in tuner.trainable_parameters().values()) / 1e6, 2),
        **step_figures(median, batch, network.device),
        "minutes": round(median * math.ceil(ROWS / batch) * EPOCHS / 60, 2),
    }
    for name, layer in lora.layers.items():
        network.set_submodule(name, layer.linear)
    return result


if __name__ == "__main__":
    main()
