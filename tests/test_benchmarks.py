import json
import subprocess
import sys
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent.parent / "benchmarks"
SMALL = {
    "forecast.py": "--tiny",
    "training.py": "--tiny --case prefix --case int4 --case fp8-lora",
    "lora.py": "--tiny",
    "decode.py": "--tiny --format 8",
    "quantized.py": "--tiny --format 4",
    "opponents.py": "--tiny",
    "update.py": "",
    "serving.py": "--full-size --tiny --users 3 --tokens 8",
    "streams.py": "--streams 3 --events 4",
    "company.py": "--requests 3 --dtypes float32",
    "peers.py": "--case peft-lora --case answers",
}
"""Benchmarks -> what makes each a matter of seconds on a CPU."""


@pytest.mark.long
@pytest.mark.parametrize("name", SMALL)
def test_a_benchmark_runs_without_a_gpu_and_writes_json(name: str) -> None:
    command = [sys.executable, str(FOLDER / name), *SMALL[name].split()]

    process = subprocess.run(command, capture_output=True, encoding="utf-8", check=False, timeout=900)

    assert process.returncode == 0, process.stderr[-2000:]
    assert all(isinstance(json.loads(line), dict) for line in process.stdout.splitlines() if line.startswith("{"))
    assert "{" in process.stdout
