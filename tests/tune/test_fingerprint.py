from pathlib import Path

import pytest

import imprint
from imprint.quant.names import FORMAT_NAMES, FormatName
from imprint.tune.fingerprint import fingerprint, same_base
from tests.cases import BITS, Bits, Case, quantized_folder, small_network


def test_it_has_one_number_per_weight_that_hardly_depends_on_precision() -> None:
    network = small_network()
    exact = fingerprint(network)

    assert len(exact) == len(list(network.parameters()))
    assert same_base(exact, exact)
    assert same_base(exact, fingerprint(network.bfloat16()))


def test_other_weights_and_other_lengths_differ() -> None:
    exact = fingerprint(small_network())

    assert not same_base(exact, fingerprint(small_network(seed=1)))
    assert not same_base(exact, exact[:8])
    changed = small_network()
    changed.get_parameter("transformer.layers.1.mlp.dense_4h_to_h.weight").zero_()
    assert not same_base(exact, fingerprint(changed))
    assert not same_base(exact, [])


@pytest.mark.parametrize("embeddings", [False, True])
@pytest.mark.parametrize("bits", BITS)
def test_a_quantized_base_is_still_the_same(tmp_path: Path, bits: Bits, embeddings: bool) -> None:  # noqa: FBT001
    case = Case("chatglm1-base")
    exact = fingerprint(case.load().network)
    folder = quantized_folder(tmp_path / "base", bits, embeddings=embeddings)

    quantized = fingerprint(imprint.load(folder, dtype="float16", device="cpu").network)

    assert len(quantized) == len(exact)
    assert same_base(exact, quantized)
    assert not same_base(fingerprint(small_network()), quantized)


@pytest.mark.parametrize("name", FORMAT_NAMES)
@pytest.mark.parametrize("case", ["chatglm1-base", "chatglm2-base"])
def test_so_it_is_in_every_format(case: str, name: FormatName) -> None:
    folder = Case(case).folder
    assert same_base(*(fingerprint(imprint.load(folder, quantize=quantize, device="cpu").network) for quantize in (None, name)))
