from pathlib import Path

from imprint.export.targets import METHODS, QUANTIZE_FORMATS, REFUSED, TARGETS, WRITTEN, possible_targets, refusal, targets_table


def test_the_table_has_a_row_for_each_target_and_a_cell_for_each_method() -> None:
    lines = targets_table().splitlines()

    assert [line.split("`")[1] for line in lines[2:]] == list(TARGETS)
    assert {line.count("|") for line in lines} == {len(METHODS) + 2}
    assert sum(line.count("refused: ") for line in lines) == len(REFUSED)


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


def test_the_page_of_the_docs_has_the_table() -> None:
    page = (Path(__file__).parents[2] / "docs" / "export.md").read_text(encoding="utf-8")

    assert targets_table() in page
