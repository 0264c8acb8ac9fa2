from copy import deepcopy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import imprint
from imprint.model import Model
from imprint.models.chatglm import rotary
from imprint.models.rotary import rotate
from imprint.pack import ContextSpan, pack
from tests.cases import BITS, CASES, TUNED, Bits, Case, difference, plain_twin, prompt, quantized_folder, small_network


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(str(request.param))


class TestAgainstTheOriginal:
    def test_logits_of_every_row(self, case: Case) -> None:
        actual = case.load().logits(case.rows)

        assert [len(logits) for logits in actual] == [len(row) for row in case.rows]
        for logits, expected in zip(actual, case.per_row("logits"), strict=True):
            assert difference(logits, expected) <= 1e-4

    def test_a_row_has_the_same_logits_alone_and_in_a_batch_of_any_order(self, case: Case) -> None:
        model = case.load()
        expected = case.per_row("logits")

        alone = [model.logits([row])[0] for row in case.rows]
        turned = model.logits(case.rows[::-1])[::-1]
        many = model.logits(case.rows * 3)[-3:]

        assert len({len(row) for row in case.rows}) > 1  # otherwise the batch is a grid and shows nothing
        for kind in (alone, turned, many):
            for logits, original in zip(kind, expected, strict=True):
                assert difference(logits, original) <= 1e-4

    def test_every_hidden_state(self, case: Case) -> None:
        actual = case.load().hidden_states(case.rows)

        assert {len(states) for states in actual} == {4}  # embeddings, two between three blocks, the last one
        for layer in range(4):
            for states, expected in zip(actual, case.per_row(f"hidden_{layer}"), strict=True):
                assert difference(states[layer], expected) <= 5e-4

    def test_the_loss(self, case: Case) -> None:
        loss = case.load().loss(case.rows, case.labels)

        assert difference(loss, case.expected["loss"]) <= 1e-4

    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("name", TUNED)
    def test_gradients_of_the_prefix(self, name: str, checkpointing: bool) -> None:  # noqa: FBT001
        tuned = Case(name)
        model = tuned.load()

        model.loss(tuned.rows, tuned.labels, checkpointing=checkpointing).backward()

        expected = {key.removeprefix("grad."): value for key, value in tuned.expected.items() if key.startswith("grad.")}
        assert model.prefix_parameters().keys() == expected.keys()
        for key, gradient in expected.items():
            actual = model.prefix_parameters()[key].grad
            assert actual is not None
            assert difference(actual, gradient) <= 1e-4 * float(gradient.abs().max())

    def test_positions_are_those_of_the_original(self, case: Case) -> None:
        ours = pack(case.rows, case.load().network).positions.split([len(row) for row in case.rows], dim=1)

        for actual, original, row in zip(ours, case.expected["position_ids"], case.rows, strict=True):
            unpadded = original[:, -len(row) :]
            assert torch.equal(actual[0] - actual[0, 0], unpadded[0] - unpadded[0, 0])  # rotary positions count from anywhere
            assert torch.equal(actual[1], unpadded[1])


class TestContextSpan:
    def test_context_ends_at_sop_and_counting_stops_at_gmask(self) -> None:
        network = small_network()

        assert network.context_span([1, 2, *prompt(network, 3), 4]) == ContextSpan(bidirectional_length=4, mask_position=3)

    def test_gmask_counts_before_mask_wherever_it_stands(self) -> None:
        network = small_network()
        special_ids = network.config.special_ids

        assert network.context_span([special_ids.mask, 1, special_ids.gmask, special_ids.sop]).mask_position == 2
        assert network.context_span([1, special_ids.mask, 2, special_ids.sop]).mask_position == 1

    def test_without_a_mask_counting_stops_at_the_end_of_the_context(self) -> None:
        network = small_network()

        assert network.context_span([1, 2, network.config.special_ids.sop, 5]) == ContextSpan(bidirectional_length=2, mask_position=1)

    def test_without_sop_the_whole_row_is_context(self) -> None:
        assert small_network().context_span([1, 2, 3]) == ContextSpan(bidirectional_length=3, mask_position=2)
        assert small_network().context_span([]) == ContextSpan(bidirectional_length=0, mask_position=0)

    def test_context_sees_itself_in_both_directions_and_the_answer_only_backwards(self) -> None:
        network = small_network()
        row = [*prompt(network, 1, 2, 3), 4, 5]

        def states(ids: list[int]) -> torch.Tensor:
            hidden: torch.Tensor = network(pack([ids], network))
            return hidden

        first, other = states(row), states([*row[:2], 9, *row[3:]])
        late, last = states([*row[:6], 8]), states([*row[:5], 8, 5])

        assert not torch.allclose(first[0], other[0], atol=1e-3)  # the first token sees the third
        assert torch.equal(first[:6], late[:6])  # nothing before sees the last
        assert torch.equal(first[:5], last[:5])
        assert not torch.allclose(first[6], last[6], atol=1e-3)


@pytest.mark.parametrize("bits", BITS)
class TestQuantized:
    @pytest.mark.parametrize("ready", [False, True])
    def test_logits_and_loss_are_those_of_the_original(self, tmp_path: Path, bits: Bits, ready: bool) -> None:  # noqa: FBT001
        case = Case("chatglm1-base")
        golden = load_file(case.folder / f"int{bits}.safetensors")
        folder = quantized_folder(tmp_path / "base", bits) if ready else case.folder

        model = imprint.load(folder, quantize=None if ready else bits, dtype="float32", device="cpu")

        for row, logits in enumerate(model.logits(case.rows)):
            assert difference(logits, golden["expected.logits"][row, -len(logits) :]) <= 1e-4
        assert difference(model.loss(case.rows, case.labels), golden["expected.loss"]) <= 1e-4

    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("embeddings", [False, True])
    @pytest.mark.parametrize("name", TUNED)
    def test_gradients_of_a_prefix_are_those_of_autograd_on_the_numbers(
        self, tmp_path: Path, *, bits: Bits, embeddings: bool, checkpointing: bool, name: str
    ) -> None:
        case = Case(name)
        folder = quantized_folder(tmp_path / "base", bits, embeddings=embeddings)
        ours = imprint.load(folder, adapter=case.adapter, dtype="float32", device="cpu")
        plain = Model(plain_twin(ours.network), None, "plain")
        plain.adapter = deepcopy(ours.adapter)

        losses = [model.loss(case.rows, case.labels, checkpointing=checkpointing) for model in (ours, plain)]
        for loss in losses:
            loss.backward()

        assert difference(*losses) <= 1e-5
        for key, parameter in ours.prefix_parameters().items():
            expected = plain.prefix_parameters()[key].grad
            assert parameter.grad is not None
            assert expected is not None
            assert difference(parameter.grad, expected) <= 1e-5 * float(expected.abs().max())

    @pytest.mark.parametrize("embeddings", [False, True])
    def test_it_answers_as_the_numbers_do(self, tmp_path: Path, bits: Bits, embeddings: bool) -> None:  # noqa: FBT001
        case = Case("chatglm1-base")
        ours = imprint.load(quantized_folder(tmp_path / "base", bits, embeddings=embeddings), dtype="float32", device="cpu")
        plain = Model(plain_twin(ours.network), None, "plain")

        assert ours.generate(case.prompts, max_new_tokens=10) == plain.generate(case.prompts, max_new_tokens=10)
        for actual, expected in zip(ours.logits(case.rows), plain.logits(case.rows), strict=True):
            assert difference(actual, expected) <= 1e-5

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    @pytest.mark.parametrize("embeddings", [False, True])
    def test_it_computes_in_the_type_that_was_asked_for(self, tmp_path: Path, *, bits: Bits, dtype: torch.dtype, embeddings: bool) -> None:
        model = imprint.load(quantized_folder(tmp_path / "base", bits, embeddings=embeddings), dtype=dtype, device="cpu")
        network, rows = model.network, Case("chatglm1-base").rows

        assert network.num_parameters == plain_twin(network).num_parameters == sum(map(torch.numel, plain_twin(network).parameters()))
        assert network.dtype is dtype
        assert network.device == network.new_cache(1, 4).keys[0].device == torch.device("cpu")
        assert network.head_weight.dtype is network.new_cache(1, 4).keys[0].dtype is dtype
        assert {logits.dtype for logits in model.logits(rows)} == {dtype}

    @pytest.mark.gpu
    def test_a_gpu_computes_the_same(self, tmp_path: Path, bits: Bits) -> None:
        case = Case(TUNED[0])
        folder = quantized_folder(tmp_path / "base", bits, embeddings=True)
        actual = []
        for device in ("cpu", "cuda"):
            model = imprint.load(folder, adapter=case.adapter, dtype="float32", device=device)
            loss = model.loss(case.rows, case.labels, checkpointing=True)
            loss.backward()
            gradient = next(iter(model.prefix_parameters().values())).grad
            assert gradient is not None
            actual.append((torch.cat(model.logits(case.rows)).cpu(), loss.detach().cpu(), gradient.cpu(), model.generate(case.prompts, 10)))

        (logits, loss, gradient, ids), (other_logits, other_loss, other_gradient, other_ids) = actual
        assert difference(other_logits, logits) <= 1e-4
        assert difference(other_loss, loss) <= 1e-4
        assert difference(other_gradient, gradient) <= 1e-4 * float(gradient.abs().max())
        assert other_ids == ids


class TestParts:
    def test_hidden_states_and_logits_are_two_calls(self) -> None:
        network = small_network()
        hidden = network(pack([prompt(network, 1, 2)], network))

        assert hidden.shape == (4, 32)
        assert torch.equal(network.logits(hidden[-1:])[0], network.head_weight @ hidden[-1])
        assert network.head_weight is network.transformer.word_embeddings.weight

    def test_rotation_depends_on_distances_only_on_both_axes(self) -> None:
        torch.manual_seed(0)
        query, key = torch.randn(1, 1, 16), torch.randn(1, 1, 16)

        def product(first: tuple[int, int], second: tuple[int, int]) -> torch.Tensor:
            turned = [rotate(x, *rotary(torch.tensor([[a], [b]]), 8, torch.float32), 4) for x, (a, b) in ((query, first), (key, second))]
            return (turned[0] * turned[1]).sum()

        assert difference(product((3, 1), (5, 9)), product((13, 21), (15, 29))) < 1e-2
        assert not torch.isclose(product((3, 1), (5, 9)), product((3, 1), (6, 9)), atol=1e-2)
        assert not torch.isclose(product((3, 1), (5, 9)), product((3, 1), (5, 8)), atol=1e-2)

    @pytest.mark.parametrize(("dtype", "share"), [(torch.float16, 0.03), (torch.bfloat16, 0.2)])
    def test_sixteen_bits_stay_near_thirty_two(self, dtype: torch.dtype, share: float) -> None:
        case = Case("chatglm1-base")
        model = case.load()
        exact = torch.cat(model.logits(case.rows))
        model.network.to(dtype)

        actual = torch.cat(model.logits(case.rows))

        assert actual.dtype is dtype
        assert (actual.float() - exact).abs().mean() < share * exact.abs().mean()
