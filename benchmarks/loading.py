"""Peak memory of loading a ChatGLM-6B-shaped folder of 2 GB, over the bytes of the weights in memory.

    python benchmarks/loading.py [FOLDER] [--gib 1.9] [--json]

Writes random fp16 weights in shards into FOLDER (a temporary one unless given), once as `.bin` and once as safetensors, and deletes them
again. Each is loaded in a new process: unchanged, converted to float32, and quantized while reading. The peak is the largest resident
memory, including mapped pages, while the process loads and then reads every weight once, minus its memory before.
"""

import argparse
import json
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

HIDDEN, VOCABULARY = 2048, 130528
KINDS = ("bin", "safetensors")
DTYPES = ("float16", "float32", "int8", "int4")
SHARDS = 5
LINE = "{kind:24} {shards} shards  weights {weights_gib:.2f} GiB  peak {peak_gib:.2f} GiB  {share:.3f} x  {seconds:.1f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, help="where the weights are written and deleted again")
    parser.add_argument("--gib", type=float, default=1.9, help="size of the weights in memory, at fp16")
    parser.add_argument("--json", action="store_true", help="print one JSON list")
    parser.add_argument("--write", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--measure", choices=DTYPES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.write:
        write(arguments.folder, arguments.gib)
    elif arguments.measure:
        print(json.dumps(measure(arguments.folder, arguments.measure)))
    else:
        compare(arguments.folder, gib=arguments.gib, as_json=arguments.json)


def compare(folder: Path | None, *, gib: float, as_json: bool) -> None:
    """Write, measure in new processes, print, delete; this process stays small, because a child's peak starts at its parent's size."""
    root = folder or Path(tempfile.mkdtemp(prefix="imprint-loading-"))
    rows = []
    try:
        run_script(root, "--write", "--gib", str(gib))
        for kind in KINDS:
            for dtype in DTYPES:
                rows.append({"kind": f"{kind} to {dtype}", **json.loads(run_script(root / kind, "--measure", dtype))})
                if not as_json:
                    print(LINE.format(**rows[-1]))
    finally:
        shutil.rmtree(root, ignore_errors=True)
    if as_json:
        print(json.dumps(rows))


def run_script(folder: Path, *arguments: str) -> str:
    """Run this script in a new process; returns its output."""
    return subprocess.run([sys.executable, __file__, str(folder), *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout


def write(folder: Path, gib: float) -> None:
    import torch

    from imprint.models.checkpoint import save_network
    from imprint.models.families import build_network

    layers = round((gib * 2**30 / 2 - VOCABULARY * HIDDEN) / (12 * HIDDEN**2))
    fields = {
        "model_type": "chatglm",
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "num_layers": layers,
        "num_attention_heads": 16,
        "inner_hidden_size": 4 * HIDDEN,
    }
    source = folder / "source"
    source.mkdir(parents=True)
    (source / "config.json").write_text(json.dumps(fields))
    with torch.device("meta"):
        network = build_network(fields, source).half()
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        parameter.data.uniform_(-0.1, 0.1)
    for kind in KINDS:
        save_network(network, source, folder / kind, as_bin=kind == "bin", shard_bytes=int(gib * 2**30 / SHARDS))


def measure(folder: Path, dtype: str) -> dict[str, float]:
    import torch

    from imprint.models.checkpoint import load_network
    from imprint.models.weight_files import weight_files
    from imprint.quant.formats import FORMATS

    torch.set_num_threads(1)
    torch.zeros(1).half().float().sum()  # the first operation loads libraries, which are not counted
    before, started = peak_bytes(), time.perf_counter()
    quantized = next((one for one in FORMATS if one.title == dtype), None)
    network = load_network(
        folder, dtype=getattr(torch, "float16" if quantized else dtype), device=torch.device("cpu"), weight_format=quantized
    )
    seconds = time.perf_counter() - started
    tensors = network.state_dict().values()
    for tensor in tensors:  # a mapped weight is in memory only once it is read
        tensor.view(torch.uint8).flatten()[::4096].sum()
    weights = sum(tensor.nbytes for tensor in tensors)
    peak = peak_bytes() - before
    return {
        "shards": len(weight_files(folder)),
        "weights_gib": weights / 2**30,
        "peak_gib": peak / 2**30,
        "share": peak / weights,
        "seconds": seconds,
    }


def peak_bytes() -> int:
    """The largest resident memory of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


if __name__ == "__main__":
    main()
