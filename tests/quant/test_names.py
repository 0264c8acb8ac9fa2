from imprint.quant.names import FORMAT_NAMES, format_label, format_title


def test_every_name_has_a_title_and_a_label_in_both_languages() -> None:
    assert [format_title(name) for name in FORMAT_NAMES] == ["int4", "int8", "int4-g128", "fp8"]
    assert [format_label(name).english for name in FORMAT_NAMES] == ["4 bits", "8 bits", "int4-g128", "fp8"]
    assert [format_label(name).chinese.strip() for name in FORMAT_NAMES] == ["4 位", "8 位", "int4-g128", "fp8"]
