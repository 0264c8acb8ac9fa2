from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from imprint.data.encode import EncodedRow
from imprint.data.sample import Sample
from imprint.forgetting.measure import BatchOutput, RunPrompts, adapter_pair, kl_divergence, measure, model_pair, text_output
from imprint.forgetting.section import ForgettingSection
from imprint.loading.base import EMBEDDED
from imprint.loading.load import load
from imprint.model import Model
from imprint.pack import IGNORE_INDEX
from imprint.tune.prefix import PrefixShape, init_prefix

SMALL = ForgettingSection(limit=6, text_tokens=120, max_new_tokens=24, batch_size=4)


@pytest.fixture(scope="module")
def tuned() -> Model:
    """The toy base with a prefix of random numbers."""
    model = load(EMBEDDED, device="cpu")
    torch.manual_seed(0)
    encoder = init_prefix(model.network, PrefixShape.from_network(model.network, 64, projection=False), "random", [])
    model.adapter = encoder
    encoder.embedding.weight.data.mul_(3)
    return model


def test_the_divergence_is_that_of_torch() -> None:
    torch.manual_seed(1)
    base, moved = torch.randn(2, 7, 30).log_softmax(-1)
    wanted = torch.nn.functional.kl_div(moved, base, log_target=True, reduction="sum")
    assert kl_divergence(base, moved) == pytest.approx(float(wanted), rel=1e-5)
    assert kl_divergence(base, base) == 0


def test_a_base_without_an_adapter_has_forgotten_nothing() -> None:
    found, _ = measure(adapter_pair(load(EMBEDDED, device="cpu")), SMALL, RunPrompts())
    assert {row.fate for row in found.rows} <= {"same", "never"}
    assert found.share == 1
    assert found.kl == 0
    assert 100 < found.tokens < 250


def test_the_loss_of_the_text_is_that_of_cross_entropy(tuned: Model) -> None:
    output = text_output(tuned, [EncodedRow((5, 6, 7, 8), (IGNORE_INDEX, 6, 7, 8))])
    assert output.log_probs is not None
    wanted = torch.nn.functional.nll_loss(output.log_probs, torch.tensor([6, 7, 8]), reduction="sum")
    assert output.text_loss() == pytest.approx(float(wanted), rel=1e-5)
    assert BatchOutput(["text"]).text_loss() == 0


def test_two_models_one_after_the_other_give_what_one_pass_gives(tuned: Model) -> None:
    own = RunPrompts([Sample("你好", "", None, "")], 64, 8)
    together, answers = measure(adapter_pair(tuned), SMALL, own)
    apart, same = measure(model_pair(tuned.name, lambda: load(EMBEDDED, device="cpu"), lambda: tuned), SMALL, own)
    assert apart.rows == together.rows
    assert apart.kl == pytest.approx(together.kl, rel=1e-5)
    assert answers == same != []
    assert together.kl is not None
    assert together.kl > 0.01
    assert apart.base_loss == pytest.approx(together.base_loss, rel=1e-5)
    assert apart.tuned_loss == pytest.approx(together.tuned_loss, rel=1e-5)
    assert "lost" in {row.fate for row in together.rows}


def test_the_adapter_is_off_only_while_the_base_reads(tuned: Model) -> None:
    def read(model: Model) -> Iterator[BatchOutput]:
        for _ in range(2):
            yield BatchOutput([str(model.prefix() is None)])

    assert [(before.answers, after.answers) for before, after in adapter_pair(tuned).run_both(read)] == [(["True"], ["False"])] * 2
    assert tuned.prefix() is not None


def test_a_persons_own_questions_and_text_are_read(tuned: Model, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("你好\n谢谢\n", encoding="utf-8")
    (tmp_path / "text.txt").write_text("今天的天气很好。\n", encoding="utf-8")
    section = ForgettingSection(probes=tmp_path / "mine.txt", text=tmp_path / "text.txt", max_new_tokens=8)
    found, _ = measure(adapter_pair(tuned), section, RunPrompts())
    assert [row.question for row in found.rows] == ["你好", "谢谢"]
    assert (found.probes_from, found.text_from) == (str(tmp_path / "mine.txt"), str(tmp_path / "text.txt"))
    assert found.tokens == len(tuned.tokenizer.encode("今天的天气很好。")) + 1
