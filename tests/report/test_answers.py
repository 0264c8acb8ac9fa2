from imprint.report.answers import answer_box, prompt_box


def test_an_attribute_list_becomes_chips_and_any_other_prompt_stays_text() -> None:
    assert prompt_box("类型#上衣*颜色#白色").count("<dt>") == 2
    assert "<p" in prompt_box("你<是>谁")
    assert "&lt;是&gt;" in prompt_box("你<是>谁")


def test_what_an_answer_shares_with_its_label_is_marked_and_figures_stand_only_where_there_are_scores() -> None:
    box = answer_box("tuned", "白色的上衣", "白色的上衣很好", {}, {})
    assert "<mark>" in box
    assert "figures" not in box
    scored = answer_box("base", "白色", "白色", {"bleu-4": 3.0}, {"bleu-4": 1.0})
    assert '<div class="better"><dt>BLEU-4</dt><dd>3.0</dd></div>' in scored
    assert "(empty)" in answer_box("base", " ", "x", {}, {})
