from imprint.loading.hub import refusals
from imprint.loading.hub.name import HubName
from imprint.loading.hub.transfer import HubProblemError


def test_the_way_by_hand_has_exact_commands_for_the_revision_that_was_asked_for() -> None:
    advice = refusals.by_hand(HubName("Qwen/Qwen3-4B", "v1"))
    for text in (advice.english, advice.chinese):
        assert "`hf download Qwen/Qwen3-4B --revision v1 --local-dir Qwen3-4B`" in text
        assert "model.path=./Qwen3-4B" in text


def test_a_mirror_is_not_advised_to_who_uses_it() -> None:
    problem = HubProblemError("it did not answer in time", "等待超时")
    there = str(refusals.unreachable(HubName("a/b"), "https://hf-mirror.com", problem))
    assert "set HF_ENDPOINT" not in there
    assert "set HF_ENDPOINT=https://hf-mirror.com" in str(refusals.unreachable(HubName("a/b"), "https://huggingface.co", problem))
