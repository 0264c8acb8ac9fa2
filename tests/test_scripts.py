"""The scripts, run as a person runs them."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest


def scores(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "scores.json").read_text(encoding="utf-8")))


@pytest.mark.long
def test_the_demo_keeps_its_promises_on_rows_it_never_saw(repo: Path, tmp_path: Path) -> None:
    for name in ("scripts", "recipes"):
        shutil.copytree(repo / name, tmp_path / name)
    said = subprocess.run(
        ["bash", "scripts/demo.sh"],
        cwd=tmp_path,
        env={"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "LANG": "C.UTF-8"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    base, tuned = scores(tmp_path / "runs/demo/evaluations/dev-base"), scores(tmp_path / "runs/demo/evaluations/dev")

    assert tuned["rows"] == base["rows"] >= 300
    assert tuned["bleu-4"]["value"] >= 3 * base["bleu-4"]["value"]
    assert tuned["rouge-l"]["value"] >= base["rouge-l"]["value"] + 15
    assert all(tuned[metric]["low"] > base[metric]["high"] for metric in ("bleu-4", "rouge-l"))
    assert tuned["copied_share"] <= 0.01
    assert tuned["empty"] == 0
    for name in ("compare.html", "compare.md", "loss.png", "adapter/adapter.json", "evaluations/dev/generated_predictions.txt"):
        assert (tmp_path / "runs/demo" / name).is_file()
    assert "runs/demo/compare.html" in said
