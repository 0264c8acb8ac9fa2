import pytest
import torch

from imprint.inference.decode_batch import DecodeBatch
from imprint.inference.generate import generate
from imprint.inference.sampling import Sampling
from imprint.messages import UserError
from imprint.models.network import Network
from tests.cases import difference, small_chatglm2, small_network
from tests.inference.reference import log_probabilities, prefix_for, short_prompts


class TestCache:
    @pytest.mark.parametrize("with_prefix", [False, True])
    def test_logits_of_each_step_are_those_of_the_whole_row(self, with_prefix: bool) -> None:  # noqa: FBT001
        network = small_network()
        prefix = prefix_for(network) if with_prefix else None
        prompts = short_prompts(network)
        torch.manual_seed(0)
        tokens = torch.randint(30, (8, len(prompts)))
        with torch.inference_mode():
            batch = DecodeBatch(network, prompts, 8)
            logits = batch.prefill(network, prefix)
            for step in range(9):
                for row, prompt in enumerate(prompts):
                    ids = [*prompt, *tokens[:step, row].tolist()]
                    assert difference(logits[row].log_softmax(-1), log_probabilities(network, ids, prefix)) < 1e-4
                if step < 8:
                    logits = batch.step(network, prefix, tokens[step])

    def test_rows_may_be_removed_and_reordered(self) -> None:
        network = small_network()
        prompts = short_prompts(network)
        with torch.inference_mode():
            batch = DecodeBatch(network, prompts, 4)
            batch.prefill(network, None)
            batch.select(torch.tensor([3, 0, 3]))
            logits = batch.step(network, None, torch.tensor([7, 8, 9]))

        for row_logits, (row, token) in zip(logits, [(3, 7), (0, 8), (3, 9)], strict=True):
            assert difference(row_logits.log_softmax(-1), log_probabilities(network, [*prompts[row], token])) < 1e-4


class TestRefusals:
    @pytest.mark.parametrize("sampling", [Sampling(3), Sampling(3, num_beams=2)], ids=["greedy", "beams"])
    def test_a_prompt_without_sop_is_a_user_error(self, sampling: Sampling) -> None:
        with pytest.raises(
            UserError, match=r"a prompt of 3 ids has no <sop>, after which the answer begins\. Append \[gMASK\] and <sop>\."
        ):
            generate(small_network(), [[1, 2, 3]], sampling)

    @pytest.mark.parametrize("sampling", [Sampling(3), Sampling(3, num_beams=2)], ids=["greedy", "beams"])
    @pytest.mark.parametrize("network", [small_network(), small_chatglm2()], ids=["ChatGLM-6B", "ChatGLM2-6B"])
    def test_an_empty_prompt_is_a_user_error_in_every_family(self, network: Network, sampling: Sampling) -> None:
        with pytest.raises(UserError, match=r"ids\[0\]: is empty\. Give at least one token id\."):
            generate(network, [[]], sampling)
