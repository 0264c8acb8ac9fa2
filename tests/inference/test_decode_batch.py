import pytest
import torch

from imprint.inference import decode_batch
from imprint.inference.decode_batch import SPARE_TOKENS, DecodeBatch, SinglePrefixAdapters
from imprint.messages import UserError
from imprint.models.network import Network
from tests.cases import difference, prompt, small_chatglm2, small_network
from tests.inference.reference import generate_ids, log_probabilities, prefix_for, short_prompts


class TestCache:
    @pytest.mark.parametrize("with_prefix", [False, True])
    def test_logits_of_each_step_are_those_of_the_whole_row(self, with_prefix: bool) -> None:  # noqa: FBT001
        network = small_network()
        prefix = prefix_for(network) if with_prefix else None
        prompts = short_prompts(network)
        torch.manual_seed(0)
        tokens = torch.randint(30, (8, len(prompts)))
        with torch.inference_mode():
            batch = DecodeBatch(network, SinglePrefixAdapters(prefix))
            logits = batch.join(prompts, 8)
            for step in range(9):
                for row, prompt in enumerate(prompts):
                    ids = [*prompt, *tokens[:step, row].tolist()]
                    assert difference(logits[row].log_softmax(-1), log_probabilities(network, ids, prefix)) < 1e-4
                if step < 8:
                    logits = batch.step(tokens[step])

    def test_rows_may_be_removed_and_reordered(self) -> None:
        network = small_network()
        prompts = short_prompts(network)
        with torch.inference_mode():
            batch = DecodeBatch(network)
            batch.join(prompts, 4)
            batch.select(torch.tensor([3, 0, 3]))
            logits = batch.step(torch.tensor([7, 8, 9]))

        for row_logits, (row, token) in zip(logits, [(3, 7), (0, 8), (3, 9)], strict=True):
            assert difference(row_logits.log_softmax(-1), log_probabilities(network, [*prompts[row], token])) < 1e-4

    def test_sequences_join_and_leave_between_steps(self) -> None:
        network = small_network()
        prompts = short_prompts(network)
        with torch.inference_mode():
            batch = DecodeBatch(network)
            batch.join(prompts[:3], 4)
            batch.step(torch.tensor([7, 8, 9]))
            assert batch.remove([0]) == [2, 1]  # the last one moves into the free slot
            joined = batch.join([prompts[3]], 40)  # more room than there was
            logits = batch.step(torch.tensor([10, 11, 12]))

        assert difference(joined[0].log_softmax(-1), log_probabilities(network, prompts[3])) < 1e-4
        rows = [[*prompts[2], 9, 10], [*prompts[1], 8, 11], [*prompts[3], 12]]
        for row_logits, row in zip(logits, rows, strict=True):
            assert difference(row_logits.log_softmax(-1), log_probabilities(network, row)) < 1e-4

    def test_short_sequences_stand_close_together_and_long_ones_get_all_their_room(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(decode_batch, "DENSE_TOKENS", 12)
        network = small_network()
        prompts = short_prompts(network)
        longest = max(map(len, prompts))
        tokens = torch.arange(7, 7 + len(prompts))
        with torch.inference_mode():
            batch = DecodeBatch(network)
            batch.join(prompts, 40)
            while longest < 12:
                assert longest <= batch.cache.capacity <= longest + SPARE_TOKENS
                batch.step(tokens)
                longest += 1
            while batch.cache.capacity < 40:
                batch.step(tokens)
            assert batch.cache.capacity == max(map(len, prompts)) + 40

    def test_what_is_not_finite_in_a_slot_reaches_no_later_sequence(self) -> None:
        network = small_network()
        prompts = short_prompts(network)
        with torch.inference_mode():
            batch = DecodeBatch(network)
            batch.join(prompts[:2], 8)
            for values in batch.cache.values:
                values[0] = float("nan")
            batch.remove([0], clear=[0])
            logits = batch.join([prompts[1]], 8)

        assert difference(logits[0].log_softmax(-1), log_probabilities(network, prompts[1])) < 1e-4


class TestRefusals:
    @pytest.mark.parametrize("num_beams", [1, 2], ids=["greedy", "beams"])
    def test_a_prompt_without_sop_is_a_user_error(self, num_beams: int) -> None:
        with pytest.raises(
            UserError, match=r"a prompt of 3 ids has no <sop>, after which the answer begins\. Append \[gMASK\] and <sop>\."
        ):
            generate_ids(small_network(), [[1, 2, 3]], 3, num_beams=num_beams)

    @pytest.mark.parametrize("num_beams", [1, 2], ids=["greedy", "beams"])
    @pytest.mark.parametrize("network", [small_network(), small_chatglm2()], ids=["ChatGLM-6B", "ChatGLM2-6B"])
    def test_an_empty_prompt_is_a_user_error_in_every_family(self, network: Network, num_beams: int) -> None:
        with pytest.raises(UserError, match=r"ids\[0\]: is empty\. Give at least one token id\."):
            generate_ids(network, [[]], 3, num_beams=num_beams)


def test_room_is_for_the_longest_sequence_not_for_the_longest_prompt_with_the_longest_answer() -> None:
    network = small_network()
    batch = DecodeBatch(network)
    long, short = prompt(network, 8, 6), prompt(network, 2, 1)

    batch.join([long, short], [1, 9])

    assert batch.longest == max(len(long) + 1, len(short) + 9)
    batch.remove([0] if len(long) > len(short) + 8 else [1])
    assert batch.longest == min(len(long) + 1, len(short) + 9)
