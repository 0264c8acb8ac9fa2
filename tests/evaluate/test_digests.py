from imprint.evaluate.digests import settings_digest, text_digest


def test_digests_are_those_of_answers_that_were_written_before() -> None:
    assert text_digest("你好") == "670d9743542cae3e"
    assert settings_digest({"b": 1, "a": "好"}) == settings_digest({"a": "好", "b": 1}) == "415a856b14a2a2bc"
    assert settings_digest({"a": "坏", "b": 1}) != settings_digest({"a": "好", "b": 1})
