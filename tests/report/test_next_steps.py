from imprint.report.next_steps import next_steps


def test_after_a_run_one_talks_to_it_scores_compares_and_exports() -> None:
    assert [one.command for one in next_steps("runs/x", "dev.jsonl", held_out=True)] == [
        "imprint chat runs/x",
        "imprint evaluate runs/x --data dev.jsonl",
        "imprint compare runs/x",
        "imprint export runs/x --to bundle",
    ]


def test_a_file_is_asked_for_only_where_the_run_holds_out_no_rows() -> None:
    drawn = [one.command for one in next_steps("runs/x", None, held_out=True)]
    assert drawn[1:3] == ["imprint evaluate runs/x", "imprint compare runs/x"]
    assert next_steps("runs/x", None, held_out=False)[1].command == "imprint evaluate runs/x --data FILE"
    assert next_steps("runs/x", None, held_out=False)[2].command == "imprint compare runs/x --data FILE"


def test_after_raw_text_the_next_is_its_perplexity_and_a_recipe_on_top() -> None:
    commands = [one.command for one in next_steps("runs/x", "dev.txt", "texts", held_out=True)]
    assert commands[:2] == ["imprint perplexity runs/x --data dev.txt", "model.path=runs/x"]


def test_a_path_with_blanks_can_be_pasted() -> None:
    assert next_steps("my runs/x", "a b.jsonl", held_out=True)[1].command == "imprint evaluate 'my runs/x' --data 'a b.jsonl'"


def test_every_step_is_told_in_both_languages() -> None:
    assert all(
        one.purpose.english and one.purpose.chinese for kind in ("rows", "texts") for one in next_steps("x", None, kind, held_out=True)
    )
