from imprint.serve.generation.job import Statistics
from imprint.serve.web.hints import hint_for


def test_short_waits_need_no_hint() -> None:
    assert hint_for(Statistics(wait_p95_seconds=10.0)) is None


def test_a_cache_that_is_often_full_is_said_too() -> None:
    hint = hint_for(Statistics(full_share=0.37))
    assert hint is not None
    assert "For 37% of the last ten minutes the cache" in hint.english
    assert "kv_tokens=" in hint.chinese
    assert "waited" not in hint.english
    assert hint_for(Statistics(full_share=0.2)) is None


def test_long_waits_say_where_more_room_is() -> None:
    own, servers = hint_for(Statistics(wait_p95_seconds=12.4)), hint_for(Statistics(wait_p95_seconds=12.4, servers=2))
    assert own is not None
    assert servers is not None
    assert "waited 12 seconds or longer" in own.english
    assert "vLLM" in own.english
    assert "docs/serving.md" in own.chinese
    assert "add a server to upstream" in servers.english
