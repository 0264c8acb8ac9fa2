from pathlib import Path

from imprint.export.targets import METHODS, QUANTIZE_FORMATS, REFUSED, TARGETS, WRITTEN, possible_targets, refusal


def test_a_word_on_the_command_line_means_one_weight_format() -> None:
    assert QUANTIZE_FORMATS == {"4": 4, "8": 8, "int4-g128": "int4-g128", "fp8": "fp8"}


def test_every_method_and_target_has_a_way_or_a_reason() -> None:
    assert WRITTEN.keys() | REFUSED.keys() == {(method, target) for method in METHODS for target in TARGETS}
    assert not WRITTEN.keys() & REFUSED.keys()


def test_what_is_refused_is_not_possible() -> None:
    assert possible_targets("prefix", "ChatGLM2") == ["official", "peft", "int8", "int4", "int4-g128", "bundle"]
    assert "peft" in possible_targets("lora", "ChatGLM2")
    assert "peft" not in possible_targets("full", "ChatGLM2")


def test_chatglm_6b_has_no_class_of_transformers() -> None:
    assert "transformers" in possible_targets("full", "ChatGLM2")
    assert "transformers" not in possible_targets("full", "ChatGLM")
    assert "has no ChatGLM-6B" in str(refusal("lora", "transformers", "ChatGLM"))
    assert "no place for a prefix" in str(refusal("prefix", "transformers", "ChatGLM"))


def test_the_page_of_the_docs_has_a_row_for_each_target_with_a_cell_for_each_method() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")
    lines = ["| `--to` | prefix | LoRA | full tuning |", "|---|---|---|---|"]
    for target in TARGETS:
        cells = [WRITTEN.get((method, target)) or f"refused: {REFUSED[method, target].english}" for method in METHODS]
        lines.append(f"| `{target}` | {' | '.join(cells)} |")

    assert "\n".join(lines) + "\n\n" in page
