from pathlib import Path
from typing import get_args

from imprint.export.targets import QUANTIZE_FORMATS, QUANTIZED, REFUSED, TARGETS, possible_targets, refusal
from imprint.quant.names import format_label
from imprint.tune.method import Method


def test_a_word_on_the_command_line_means_one_weight_format() -> None:
    assert QUANTIZE_FORMATS == {"4": 4, "8": 8, "int4-g128": "int4-g128", "fp8": "fp8"}


def test_what_is_refused_is_not_possible() -> None:
    assert possible_targets("prefix", "ChatGLM2") == ["official", "peft", "int8", "int4", "int4-g128", "bundle"]
    assert "peft" in possible_targets("lora", "ChatGLM2")
    assert "peft" not in possible_targets("full", "ChatGLM2")


def test_chatglm_6b_has_no_class_of_transformers() -> None:
    assert "transformers" in possible_targets("full", "ChatGLM2")
    assert "transformers" not in possible_targets("full", "ChatGLM")
    assert "has no ChatGLM-6B" in str(refusal("lora", "transformers", "ChatGLM"))
    assert "no place for a prefix" in str(refusal("prefix", "transformers", "ChatGLM"))


def test_the_page_of_the_docs_says_of_every_target_and_method_what_is_written_or_why_nothing_is() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    head, _, *rows = page[page.index("| `--to` |") :].partition("\n\n")[0].splitlines()
    cells = {target: row.strip("| ").split(" | ") for target, row in zip(TARGETS, rows, strict=True)}

    assert head == "| `--to` | prefix | LoRA | full tuning |"
    for target, (name, *texts) in cells.items():
        assert name == f"`{target}`"
        for method, text in zip(get_args(Method), texts, strict=True):
            reason = REFUSED.get((method, target))
            assert text.strip() if reason is None else text == f"refused: {reason.english}"
            assert text.startswith("refused") == (reason is not None)
            assert target not in QUANTIZED or f" in {format_label(QUANTIZED[target]).english}" in text
