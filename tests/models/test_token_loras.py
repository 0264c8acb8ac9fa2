from concurrent.futures import ThreadPoolExecutor

import torch

from imprint.models.attention import NO_ADAPTER, RowAdapters
from imprint.models.token_loras import TokenLoras

SEQ_IDS = torch.tensor([0, 0, 1])


def test_tokens_have_the_lora_of_their_sequence_while_the_pass_runs() -> None:
    loras = TokenLoras()

    with loras.use(RowAdapters(loras=torch.tensor([4, 7])), SEQ_IDS):
        assert isinstance(loras.current, torch.Tensor)
        assert loras.current.tolist() == [[4], [4], [7]]

    assert loras.current == NO_ADAPTER


def test_a_pass_that_names_none_uses_the_default_and_one_number_counts_for_all() -> None:
    loras = TokenLoras()

    with loras.with_default(3):
        with loras.use(RowAdapters(), SEQ_IDS):
            assert loras.current == 3
        with loras.use(RowAdapters(loras=NO_ADAPTER), SEQ_IDS):
            assert loras.current == NO_ADAPTER

    assert loras.current == NO_ADAPTER


def test_a_pass_in_another_thread_has_its_own() -> None:
    loras = TokenLoras()

    with ThreadPoolExecutor(1) as other, loras.use(RowAdapters(loras=7), SEQ_IDS):
        assert other.submit(lambda: loras.current).result() == NO_ADAPTER
        assert loras.current == 7
