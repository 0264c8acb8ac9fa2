"""Training and generation speed on a quantized base of ChatGLM-6B's exact shape with random weights: 16 bit, and every weight format.

    python benchmarks/quantized.py [--out FILE] [--tiny] [--format 4]

Rows and steps are those of full_size.py. `--tiny`, the default without a GPU, only checks that the script runs.
Prints one JSON line per case.
"""

import argparse
import gc
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from full_size import CONFIG, answer, synchronize, timed, train_steps
from results import reporter

from imprint.kernels.quantize_rows import FP8, LARGEST
from imprint.models.chatglm import ChatGLM
from imprint.quant.formats import FORMATS
from imprint.quant.weight_format import SCALE, WeightFormat

CASES = ((16, True), (16, False), (1, True), (1, False))
"""(Micro-batch size, whether activations are recomputed)."""
TINY = replace(CONFIG, hidden_size=32, num_layers=2, num_attention_heads=2, inner_hidden_size=64)
STD = 0.02
"""Standard deviation of the random weights, in any format."""
FP8_STD = 100.0
"""Standard deviation of random numbers of FP8, of which each row has one near 448."""
PRECISIONS: dict[str, WeightFormat | None] = {"16": None, **{str(one.name): one for one in FORMATS}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="append the lines to this file too")
    parser.add_argument("--tiny", action="store_true", help="a tiny network, one step per case")
    parser.add_argument("--format", choices=PRECISIONS, action="append", help="only these; may be repeated")
    parser.add_argument("--dtype", choices=("float16", "bfloat16", "float32"), help="compute dtype; float16 on a GPU by default")
    arguments = parser.parse_args()
    gpu = torch.cuda.is_available()
    tiny, device = arguments.tiny or not gpu, torch.device("cuda" if gpu else "cpu")
    dtype = getattr(torch, arguments.dtype or ("float16" if gpu else "float32"))

    report = reporter(arguments.out)

    for name in arguments.format or PRECISIONS:
        weight_format = PRECISIONS[name]
        if weight_format:
            report(format=name, **conversion(weight_format, dtype, device, tiny=tiny))
        network = random_network(weight_format, dtype, device, tiny=tiny)
        weight_bytes = sum(tensor.nbytes for tensor in network.state_dict().values())
        report(format=name, case="weights in memory", gb=round(weight_bytes / 1e9, 3))
        for micro_batch, checkpointing in CASES:
            steps = 1 if tiny else 20 if micro_batch == 16 else 6
            report(format=name, **train_steps(network, micro_batch, checkpointing=checkpointing, warm_up=min(steps, 3), steps=steps))
        for batch in (1, 4 if tiny else 64):
            report(format=name, **answer(network, batch))
        del network
        gc.collect()
        torch.cuda.empty_cache()


def random_network(weight_format: WeightFormat | None, dtype: torch.dtype, device: torch.device, *, tiny: bool) -> ChatGLM:
    """A network with random weights, initialized on the device; quantized, random integers."""
    config = TINY if tiny else CONFIG
    with torch.device("meta"):
        network = ChatGLM(replace(config, weight_format=weight_format)).to(dtype)
    network = network.to_empty(device=device).requires_grad_(False).eval()
    torch.manual_seed(0)
    for name, tensor in network.state_dict().items():
        if tensor.dtype == torch.int8:
            tensor.random_(-128, 128)
        elif tensor.dtype == torch.uint8:
            tensor.copy_(torch.randn(tensor.shape, device=device).mul_(FP8_STD).clamp_(-LARGEST, LARGEST).to(FP8).view(torch.uint8))
        elif name.endswith(SCALE) and weight_format and weight_format.name == "fp8":
            tensor.fill_(STD / FP8_STD)
        elif name.endswith(SCALE):
            bits = 8 if weight_format and weight_format.name == 8 else 4
            tensor.fill_(STD * 12**0.5 / 2**bits)  # scale at which uniform integers of this many bits have this deviation
        elif tensor.dim() > 1:
            tensor.normal_(std=STD)
        else:
            tensor.fill_(1.0 if name.endswith("layernorm.weight") else 0.0)
    network.use_kernels("auto")
    return network


def _repeat(function: Callable[[], object], count: int) -> int:
    for _ in range(count):
        function()
    return count


def conversion(weight_format: WeightFormat, dtype: torch.dtype, device: torch.device, *, tiny: bool) -> dict[str, object]:
    """Time to quantize and to dequantize the largest weight of a block."""
    config = TINY if tiny else CONFIG
    weight = torch.randn(config.inner_hidden_size, config.hidden_size, device=device).to(dtype) * STD
    tensors = weight_format.quantize(weight)
    times = {}
    work: dict[str, Callable[[], object]] = {
        "quantize": lambda: weight_format.quantize(weight),
        "dequantize": lambda: weight_format.dequantize(tensors, slice(None), dtype),
    }
    for name, function in work.items():
        synchronize(device)
        count, seconds = timed(partial(_repeat, function, 10), device)
        times[f"{name}_us"] = round(1e6 * seconds / count, 1)
    return {"case": f"a weight of {weight.shape[0]} x {weight.shape[1]}", "dtype": str(dtype).removeprefix("torch."), **times}


if __name__ == "__main__":
    main()
