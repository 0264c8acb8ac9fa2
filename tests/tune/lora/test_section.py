import re
from pathlib import Path

import pytest
import torch

from imprint.config.recipe import read_overrides
from imprint.messages import UserError
from imprint.tune.adapter_folder import load_adapter
from imprint.tune.lora.section import LoraSection
from tests.cases import difference
from tests.tune.lora.steps import PRECISIONS, base, golden_batch, losses, saved, tuner

KINDS = {
    "LoRA": [],
    "rsLoRA": ["rslora=true"],
    "LoRA+": ["plus_ratio=16.0"],
    "dropout": ["dropout=0.1"],
    "targets: all": ["targets=all"],
    "start: gaussian": ["start=gaussian"],
    "start: orthogonal": ["start=orthogonal"],
    "start: olora": ["start=olora"],
    "start: pissa": ["start=pissa"],
    "start: pissa, fast": ["start=pissa", "pissa_iterations=4"],
    "start: mica": ["start=mica"],
    "DoRA": ["dora=true"],
    "DoRA and rsLoRA": ["dora=true", "rslora=true"],
    "DoRA, start: pissa, olora, mica": ["dora=true", "start=pissa"],
    "start: eva, corda, lora_ga, loftq": ["start=eva"],
}
"""Rows of the table in docs/lora.md."""


def read(*overrides: str) -> LoraSection:
    return read_overrides(["method=lora", *overrides], LoraSection)


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("start=eva", '"eva" starts from the activations of your rows, which are not collected here; use "pissa", or "standard"'),
        ("start=corda", '"corda" starts from the activations of sample rows'),
        ("start=lora_ga", '"lora_ga" starts from the gradients of your rows'),
        ("start=loftq", '"loftq" quantizes the base in a format of its own; use model.quantize with start "standard"'),
        ("start=best", "start"),
        ("rank=0", "rank"),
        ("alpha=0", "alpha"),
        ("dropout=1.0", "dropout"),
        ("plus_ratio=0.5", "plus_ratio"),
        ("targets=[]", 'must name linear layers, for instance ["query_key_value", "dense"]'),
        ('targets=["dense", " "]', "must name linear layers"),
        ("targets=head", "targets"),
        ("pissa_iterations=4", 'is only for the start "pissa"; remove it, or set tune.start to "pissa"'),
    ],
)
def test_an_impossible_value_is_a_user_error(override: str, sentence: str) -> None:
    with pytest.raises(UserError) as caught:
        read(override)
    assert sentence in str(caught.value)


def test_knobs_that_cannot_be_combined_are_named() -> None:
    for start in ("olora", "pissa", "mica"):
        with pytest.raises(UserError, match=f'"{start}" and tune.dora both decompose the weight'):
            read("dora=true", f"start={start}")
    with pytest.raises(UserError, match=r'"orthogonal" needs an even rank, and tune.rank is 5; use 6'):
        read("rank=5", "start=orthogonal")


def test_init_is_pefts_name_of_the_start() -> None:
    assert read().init is True
    assert read("start=gaussian").init == "gaussian"
    assert read("start=pissa").init == "pissa"
    assert read("start=pissa", "pissa_iterations=4").init == "pissa_niter_4"


def test_names_of_linears_are_a_list() -> None:
    assert read('targets=["query_key_value", "dense"]').targets == ("query_key_value", "dense")
    assert read("targets=all").targets == "all"


def cell(overrides: list[str], precision: str, folder: Path) -> str:
    """Whether a kind of LoRA learns on a base of this precision, is saved, and loaded again is the same; or is refused."""
    try:
        one = tuner(base(precision), section=read("rank=4", *overrides))
    except UserError:
        return "refused"
    batch = golden_batch(one.network)
    values = losses(one, batch, 4)
    again = base(precision)
    load_adapter(saved(one, folder), again)
    with torch.no_grad():
        same = difference(again(batch).float(), one.eval().network(batch).float())
    return "yes" if values[-1] < values[0] and same <= (0.5 if "float16" in precision else 1e-3) else f"{values} and {same}"


@pytest.mark.long
def test_the_table_in_the_docs_shows_what_works_at_each_precision(repo: Path, tmp_path: Path) -> None:
    table = ["| | " + " | ".join(PRECISIONS) + " |", "|---" * (len(PRECISIONS) + 1) + "|"]
    for kind, overrides in KINDS.items():
        cells = [cell(overrides, precision, tmp_path / f"{kind}-{precision}".replace(" ", "")) for precision in PRECISIONS]
        table.append(f"| {kind} | " + " | ".join(cells) + " |")

    page = (repo / "docs" / "lora.md").read_text(encoding="utf-8")
    shown = re.search(r"^\| \| float32 .*?(?=\n\n)", page, re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert shown[0] == "\n".join(table)
