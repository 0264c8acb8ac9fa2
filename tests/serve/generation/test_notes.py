from imprint.serve.generation.notes import note_of


def test_users_are_told_what_is_for_research_only_or_may_be() -> None:
    for licence, english, chinese in (
        ("MODEL_LICENSE: The ChatGLM-6B License", "For research only", "仅供研究"),
        (None, "For research only, as long as", "查明之前仅供研究"),
        ("llama3", "licence of its base says", "以底座的许可证为准"),
    ):
        note = note_of(licence)
        assert english in note.english
        assert chinese in note.chinese
    assert "research" not in note_of("apache-2.0").english
