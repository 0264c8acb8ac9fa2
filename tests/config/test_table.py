from imprint.config import Knob, as_lines, as_markdown, as_text

KNOBS = [
    Knob("data", "path", "required", "", "The rows."),
    Knob("tune", "section", "", "", "What is trained."),
    Knob("tune.method", "prefix | full", "prefix", "", "How."),
    Knob("tune.length", "integer", "128", "≥ 1", "How many.", "tune.method = prefix"),
]


def test_the_terminal_gets_full_paths_to_copy() -> None:
    assert as_text(KNOBS).splitlines() == [
        "  data         path, required",
        "               The rows.",
        "",
        "tune: What is trained.",
        "  tune.method  prefix | full, default prefix",
        "               How.",
        "  tune.length  integer (≥ 1), default 128, only with tune.method = prefix",
        "               How many.",
    ]


def test_the_docs_get_a_table_for_each_section() -> None:
    assert as_markdown(KNOBS).splitlines() == [
        "| knob | type | default | what it does |",
        "| --- | --- | --- | --- |",
        "| `data` | path | required | The rows. |",
        "",
        "## `tune`",
        "",
        "What is trained.",
        "",
        "| knob | type | default | what it does |",
        "| --- | --- | --- | --- |",
        "| `tune.method` | prefix \\| full | prefix | How. |",
        "| `tune.length` | integer, ≥ 1 | 128 | How many. *Only with `tune.method = prefix`.* |",
    ]


def test_a_help_gets_a_line_for_each_knob() -> None:
    assert as_lines(KNOBS, before="--") == [
        "  --data         required  The rows.",
        "  --tune.method  prefix    How.",
        "  --tune.length  128       How many. (with tune.method = prefix)",
    ]
    assert as_lines(KNOBS, columns=40)[2] == "  tune.length  128       How many. (wit…"
