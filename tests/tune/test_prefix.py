from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor

from imprint.messages import UserError
from imprint.model import Model
from imprint.models.chatglm import Attention, ChatGLM, rotary
from imprint.models.rotary import rotate
from imprint.pack import pack
from imprint.tune.prefix import TENSOR_PREFIX, PrefixEncoder, PrefixShape, init_prefix, prefix_from_tensors
from tests.cases import TUNED, Case, difference, prompt, small_network

TEXT = [3, 1, 4, 1, 5, 9]


def start(network: ChatGLM, how: str, *, length: int = 6, projection: bool = False, text: list[int] | None = None) -> PrefixEncoder:
    return init_prefix(network, PrefixShape.from_network(network, length, projection=projection), how, TEXT if text is None else text)


@contextmanager
def projections(network: ChatGLM) -> Iterator[list[Tensor]]:
    """Collects the output (T, 3C) of each layer's fused projection."""
    outputs: list[Tensor] = []
    hooks = [
        module.query_key_value.register_forward_hook(lambda _module, _inputs, output: outputs.append(output))
        for module in network.modules()
        if isinstance(module, Attention)
    ]
    yield outputs
    for hook in hooks:
        hook.remove()


class TestTextStart:
    @pytest.mark.parametrize("length", [6, 3, 15])
    def test_it_has_the_keys_and_values_of_the_text(self, length: int) -> None:
        network = small_network()
        read = [TEXT[i % len(TEXT)] for i in range(length)]  # a shorter text repeats
        packed = pack([read], network)
        with projections(network) as outputs:
            network(packed)
        cos, sin = rotary(packed.positions, 8, torch.float32)

        prefix = start(network, "text", length=length).prefix(torch.float32)

        assert len(prefix) == len(outputs) == 2
        for (key, value), joint in zip(prefix, outputs, strict=True):
            _, expected_key, expected_value = joint.view(length, 2, 48).chunk(3, -1)
            assert difference(key, rotate(expected_key, cos, sin, 4)) < 1e-5
            assert difference(value, expected_value) < 1e-5

    def test_a_row_attends_to_the_text(self) -> None:
        network = small_network()
        row = pack([prompt(network, 7, 8)], network)

        read = network(row, prefix=start(network, "text").prefix(torch.float32))
        other = network(row, prefix=start(network, "text", text=[2, 7, 1, 8, 2, 8]).prefix(torch.float32))

        assert difference(read, network(row)) > 0.01
        assert difference(read, other) > 0.01

    def test_it_is_fp32_whatever_the_base_is(self) -> None:
        encoder = start(small_network().half(), "text")

        assert encoder.embedding.weight.dtype is torch.float32
        assert {tensor.dtype for pair in encoder.prefix(torch.float16) for tensor in pair} == {torch.float16}

    def test_it_is_refused_together_with_the_projection(self) -> None:
        with pytest.raises(UserError, match=r'tune\.start: "text" cannot start a prefix with a projection.*set tune\.start to "random"'):
            start(small_network(), "text", projection=True)

    def test_an_empty_text_is_refused(self) -> None:
        with pytest.raises(UserError, match=r"tune\.text: is empty\. Give the instruction"):
            start(small_network(), "text", text=[])


class TestOtherStarts:
    @pytest.mark.parametrize("projection", [False, True])
    def test_zeros_give_keys_and_values_of_zero(self, projection: bool) -> None:  # noqa: FBT001
        encoder = start(small_network(), "zeros", projection=projection)

        assert all(not tensor.any() for pair in encoder.prefix(torch.float32) for tensor in pair)

    def test_zeros_can_still_learn_through_the_projection(self) -> None:
        network = small_network()
        encoder = start(network, "zeros", projection=True)

        network(pack([prompt(network, 1)], network), prefix=encoder.prefix(torch.float32)).square().sum().backward()

        gradient = encoder.get_parameter("trans.2.weight").grad
        assert gradient is not None
        assert gradient.abs().max() > 0

    def test_random_values_are_distributed_as_in_the_original(self) -> None:
        torch.manual_seed(0)
        values = start(small_network(), "random", length=200).embedding.weight.detach()

        assert values.shape == (200, 2 * 2 * 32)
        assert abs(float(values.mean())) < 0.03
        assert abs(float(values.std()) - 1) < 0.03
        assert abs(float((values.abs() < 1).double().mean()) - 0.6827) < 0.02  # a normal distribution, not an even one

    def test_random_numbers_follow_the_seed(self) -> None:
        network = small_network()
        drawn = []
        for seed in (1, 1, 2):
            torch.manual_seed(seed)
            drawn.append(start(network, "random").embedding.weight)

        assert torch.equal(drawn[0], drawn[1])
        assert not torch.equal(drawn[0], drawn[2])


class TestEncoder:
    def test_parameters_have_the_originals_names(self) -> None:
        network = small_network()

        assert list(start(network, "zeros").named_tensors()) == ["transformer.prefix_encoder.embedding.weight"]
        assert list(start(network, "zeros", projection=True).named_tensors()) == [
            TENSOR_PREFIX + name for name in ("embedding.weight", "trans.0.weight", "trans.0.bias", "trans.2.weight", "trans.2.bias")
        ]

    def test_dropout_takes_a_share_and_scales_the_rest(self) -> None:
        encoder = start(small_network(), "random", length=200)
        encoder.set_dropout(0.25)
        torch.manual_seed(0)

        full = torch.stack([torch.stack(pair) for pair in encoder.prefix(torch.float32)])
        dropped = torch.stack([torch.stack(pair) for pair in encoder.prefix(torch.float32, training=True)])

        gone = dropped == 0
        assert abs(float(gone.double().mean()) - 0.25) < 0.02
        assert difference(dropped[~gone], full[~gone] / 0.75) < 1e-5

    def test_all_rows_of_a_batch_attend_to_the_same_prefix(self) -> None:
        network = small_network()
        prefix = start(network, "random").prefix(torch.float32)
        rows = [prompt(network, 1, 2, 3), prompt(network, 4), prompt(network, 5, 6)]

        together = network(pack(rows, network), prefix=prefix).split([len(row) for row in rows])

        for row, hidden in zip(rows, together, strict=True):
            assert difference(hidden, network(pack([row], network), prefix=prefix)) < 1e-5

    def test_with_the_adapter_off_the_model_is_its_base_bit_for_bit(self) -> None:
        case = Case(TUNED[0])
        tuned, rows = case.load(), case.rows
        base = Model(tuned.network, None, "base")

        with tuned.adapter_off():
            off = torch.cat(tuned.logits(rows))
            answers = tuned.generate(case.prompts, max_new_tokens=5)

        assert torch.equal(off, torch.cat(base.logits(rows)))
        assert answers == base.generate(case.prompts, max_new_tokens=5)
        assert difference(torch.cat(tuned.logits(rows)), off) > 0.01  # and on again behind the block


class TestReading:
    @pytest.mark.parametrize("projection", [False, True])
    @pytest.mark.parametrize("length", [1, 7])
    def test_length_and_projection_are_read_from_the_tensors(self, length: int, projection: bool) -> None:  # noqa: FBT001
        network = small_network()
        encoder = start(network, "random", length=length, projection=projection)

        loaded = prefix_from_tensors({name: tensor.detach() for name, tensor in encoder.named_tensors().items()}, network, "file.bin")

        assert loaded.shape == encoder.shape
        for ours, theirs in zip(loaded.prefix(torch.float32), encoder.prefix(torch.float32), strict=True):
            assert torch.equal(ours[0], theirs[0])
            assert torch.equal(ours[1], theirs[1])

    def test_a_file_without_a_prefix_says_what_it_holds(self) -> None:
        with pytest.raises(UserError, match=r"file\.bin: holds no prefix .*; found lm_head\.weight, other\. Give the prefix file"):
            prefix_from_tensors({"other": torch.zeros(1), "lm_head.weight": torch.zeros(1)}, small_network(), "file.bin")
        with pytest.raises(UserError, match="found nothing"):
            prefix_from_tensors({}, small_network(), "file.bin")

    def test_the_prefix_of_another_base_is_refused_by_its_shape(self) -> None:
        tensors = start(small_network(layers=3), "zeros").named_tensors()

        with pytest.raises(UserError) as caught:
            prefix_from_tensors(tensors, small_network(), "file.bin")

        message = str(caught.value)
        assert "file.bin: transformer.prefix_encoder.embedding.weight is (6, 192) of torch.float32" in message
        assert "this base needs (6, 128) (2 layers, hidden size 32)" in message

    def test_a_prefix_of_integers_is_refused(self) -> None:
        network = small_network()
        tensors = {name: tensor.detach().long() for name, tensor in start(network, "zeros").named_tensors().items()}

        with pytest.raises(UserError, match=r"embedding\.weight is \(\d+, 128\) of torch\.int64"):
            prefix_from_tensors(tensors, network, "file.bin")

    @pytest.mark.parametrize("name", ["trans.0.bias", "trans.2.weight"])
    def test_half_a_projection_is_named(self, name: str) -> None:
        network = small_network()
        tensors = start(network, "zeros", projection=True).named_tensors()
        del tensors[TENSOR_PREFIX + name]

        with pytest.raises(UserError, match=rf"{name} is nothing, this base needs"):
            prefix_from_tensors(tensors, network, "file.bin")

    @pytest.mark.parametrize("size", [(), (0, 128)])
    def test_a_prefix_of_no_length_is_refused(self, size: tuple[int, ...]) -> None:
        with pytest.raises(UserError, match=r"embedding\.weight is "):
            prefix_from_tensors({TENSOR_PREFIX + "embedding.weight": torch.zeros(size)}, small_network(), "file.bin")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (
            {f"{TENSOR_PREFIX}scale": torch.ones(1)},
            f"holds {TENSOR_PREFIX}scale, which is no part of a prefix of P-Tuning v2. Allowed",
        ),
        ({f"{TENSOR_PREFIX}trans.4.weight": torch.ones(1)}, f"holds {TENSOR_PREFIX}trans.4.weight, which is no part of a prefix"),
        ({"prefix_encoder.embedding.weight": torch.ones(5, 128)}, "holds prefix_encoder.embedding.weight twice with different values"),
    ],
)
def test_tensors_that_would_be_passed_over_are_told(more: dict[str, torch.Tensor], sentence: str) -> None:
    tensors = {f"{TENSOR_PREFIX}embedding.weight": torch.zeros(5, 128)}
    assert prefix_from_tensors({**tensors, "lm_head.weight": torch.ones(1)}, small_network(), "a.bin").shape.length == 5

    with pytest.raises(UserError) as caught:
        prefix_from_tensors({**tensors, **more}, small_network(), "a.bin")

    assert str(caught.value).startswith("a.bin: ")
    assert sentence in str(caught.value)
