import json
from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import imprint
from imprint.inference.decode_batch import DecodeBatch, SinglePrefixAdapters
from imprint.model import Model
from imprint.models.attention import Prefix
from imprint.models.chatglm2 import Attention, ChatGLM2, rotary
from imprint.models.checkpoint import load_network, save_network
from imprint.models.configs.chatglm2 import ChatGLM2Config
from imprint.models.loss import target_loss
from imprint.models.quantized_layers import quantized_layers
from imprint.models.rotary import rotate
from imprint.pack import pack
from imprint.quant.linear import QuantizedLinear
from imprint.quant.names import FormatName
from imprint.quant.weight_format import SCALE
from imprint.tune.prefix import PrefixEncoder, PrefixShape, init_prefix
from tests.cases import (
    BITS,
    CHATGLM2_CASES,
    CHATGLM2_TUNED,
    Bits,
    Case,
    chatglm2_fields,
    difference,
    drawn,
    small_chatglm2,
    write_config,
)
from tests.inference.reference import generate_ids

ROWS = [[3, 1, 4, 1, 5, 9, 2, 6], [5], [3, 5, 8]]
EMBEDDING = "transformer.embedding.word_embeddings.weight"
LINEARS = ("self_attention.query_key_value", "self_attention.dense", "mlp.dense_h_to_4h", "mlp.dense_4h_to_h")


@pytest.fixture(scope="module", params=CHATGLM2_CASES)
def case(request: pytest.FixtureRequest) -> Case:
    return Case(str(request.param))


def prefix_of(network: ChatGLM2, *, length: int = 5) -> Prefix:
    torch.manual_seed(1)
    return init_prefix(network, PrefixShape.from_network(network, length, projection=False), "random", []).prefix(torch.float32)


class TestAgainstTheOriginal:
    def test_logits_of_every_row_alone_and_in_a_batch_of_any_order(self, case: Case) -> None:
        model = case.load()
        expected = case.per_row("logits")

        whole = model.logits(case.rows)
        alone = [model.logits([row])[0] for row in case.rows]
        turned = model.logits(case.rows[::-1])[::-1]
        many = model.logits(case.rows * 3)[-3:]

        assert len({len(row) for row in case.rows}) > 1  # otherwise the batch is a grid and shows nothing
        for kind in (whole, alone, turned, many):
            assert [len(logits) for logits in kind] == [len(row) for row in case.rows]
            for logits, original in zip(kind, expected, strict=True):
                assert difference(logits, original) <= 1e-4

    def test_the_loss_together_and_row_by_row(self, case: Case) -> None:
        model = case.load()
        scored = [sum(label != -100 for label in row[1:]) for row in case.labels]

        loss = model.loss(case.rows, case.labels)
        single = [model.loss([row], [labels]).item() for row, labels in zip(case.rows, case.labels, strict=True)]

        assert difference(loss, case.expected["loss"]) <= 1e-4
        mean = sum(one * count for one, count in zip(single, scored, strict=True)) / sum(scored)
        assert abs(mean - float(case.expected["loss"])) <= 1e-4

    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("name", CHATGLM2_TUNED)
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
            unpadded = original[-len(row) :]
            assert torch.equal(actual[0], unpadded - unpadded[0])  # rotary positions count from anywhere

    def test_greedy_ids(self, case: Case) -> None:
        model = case.load()
        (end,) = model.network.stop_ids

        actual = model.generate(case.prompts, max_new_tokens=10)

        expected: list[list[int]] = case.expected["greedy_ids"].tolist()
        assert actual == [row[: row.index(end)] if end in row else row for row in expected]

    def test_hidden_states_are_the_embeddings_then_what_enters_each_block_and_the_last(self, case: Case) -> None:
        model = case.load()
        actual = model.hidden_states(case.rows)

        assert {len(states) for states in actual} == {model.network.shape.num_layers + 1}
        for states, logits, row in zip(actual, case.per_row("logits"), case.rows, strict=True):
            assert torch.equal(states[0], model.network.state_dict()[EMBEDDING][torch.tensor(row)])
            assert difference(model.network.logits(states[-1]), logits) <= 1e-4

    def test_names_are_the_official_ones(self, case: Case) -> None:
        stored = set(load_file(case.folder / "model.safetensors"))

        assert set(case.load().network.state_dict()) == stored - {"transformer.rotary_pos_emb.inv_freq"}


class TestCache:
    @pytest.mark.parametrize("with_prefix", [False, True])
    def test_logits_of_each_step_are_those_of_the_whole_row(self, with_prefix: bool) -> None:  # noqa: FBT001
        network = small_chatglm2()
        prefix = prefix_of(network) if with_prefix else None
        new = [[7, 8, 9, 10], [11, 12, 13, 14], [15, 16, 17, 18]]
        whole = [[*row, *more] for row, more in zip(ROWS, new, strict=True)]
        expected = network.logits(network(pack(whole, network), prefix=prefix)).split([len(row) for row in whole])
        batch = DecodeBatch(network, SinglePrefixAdapters(prefix))

        steps = [batch.join(ROWS, 4)]
        steps += [batch.step(torch.tensor(tokens)) for tokens in zip(*new, strict=True)]

        for index, row in enumerate(ROWS):
            assert difference(torch.stack([step[index] for step in steps]), expected[index][len(row) - 1 :]) < 1e-4

    def test_it_holds_grouped_keys_only(self) -> None:
        network = small_chatglm2()

        assert network.new_cache(3, 7).keys[0].shape == (3, 2, 7, 12)

    @pytest.mark.parametrize("with_prefix", [False, True])
    def test_a_batch_answers_as_each_row_does_alone_without_a_cache(self, with_prefix: bool) -> None:  # noqa: FBT001
        network = small_chatglm2()
        prefix = prefix_of(network) if with_prefix else None

        together = generate_ids(network, ROWS, 12, prefix=prefix)

        for row, answer in zip(ROWS, together, strict=True):
            actual: list[int] = []
            for _ in range(12):
                token = int(network.logits(network(pack([[*row, *actual]], network), prefix=prefix)[-1:]).argmax())
                if token in network.stop_ids:
                    break
                actual.append(token)
            assert answer == actual

    def test_an_answer_ends_with_any_of_the_ends(self) -> None:
        plain = small_chatglm2(fields={"eos_token_id": None})
        (long,) = generate_ids(plain, ROWS[:1], 12)
        index = next(index for index, token in enumerate(long) if index and token not in long[:index])
        ending = small_chatglm2(fields={"eos_token_id": [39, long[index]]})

        assert len(long) == 12
        assert generate_ids(ending, ROWS[:1], 12) == [long[:index]]


class TestTraining:
    def test_every_weight_has_the_same_gradient_with_and_without_checkpointing(self) -> None:
        actual = []
        for checkpointing in (False, True):
            network = small_chatglm2().requires_grad_(requires_grad=True).train()
            batch = pack(ROWS, network, ROWS)
            hidden = network(batch, checkpointing=checkpointing)
            target_loss(hidden[batch.targets], network.head_weight, batch.labels).backward()
            actual.append({name: parameter.grad for name, parameter in network.named_parameters()})

        for name, gradient in actual[0].items():
            again = actual[1][name]
            assert gradient is not None
            assert again is not None
            assert gradient.abs().max() > 0, name
            assert difference(again, gradient) <= 1e-6 * float(gradient.abs().max())

    def test_its_linears_are_plain_ones_that_any_method_can_wrap(self) -> None:
        network = small_chatglm2()

        linears = {name for name, module in network.named_modules() if type(module) is nn.Linear}

        assert linears == {f"transformer.encoder.layers.{i}.{name}" for i in range(2) for name in LINEARS} | {"transformer.output_layer"}


class TestPrefix:
    def test_a_text_start_holds_what_the_base_computes_for_the_text(self) -> None:
        network = small_chatglm2()
        text = pack([[3, 1, 4, 1, 5, 9]], network)
        joint: list[Tensor] = []
        for layer in (0, 1):
            projection = network.get_submodule(f"transformer.encoder.layers.{layer}.self_attention.query_key_value")
            projection.register_forward_hook(lambda _module, _inputs, output: joint.append(output))
        network(text)
        cos, sin = rotary(text.positions[0], network.config, torch.float32)

        prefix = init_prefix(network, PrefixShape.from_network(network, 6, projection=False), "text", [3, 1, 4, 1, 5, 9]).prefix(
            torch.float32
        )

        for (key, value), both in zip(prefix, joint, strict=False):
            expected_key, expected_value = both[:, 48:].view(6, 2, 2, 12).unbind(1)  # behind 4 x 12 columns of queries
            assert difference(key, rotate(expected_key, cos, sin, 1)) < 1e-5
            assert difference(value, expected_value) < 1e-5

    def test_the_table_of_a_projection_is_as_wide_as_keys_and_values(self) -> None:
        network = small_chatglm2()

        encoder = init_prefix(network, PrefixShape.from_network(network, 3, projection=True), "zeros", [])

        assert {name: tuple(tensor.shape) for name, tensor in encoder.state_dict().items()} == {
            "embedding.weight": (3, 96),
            "trans.0.weight": (32, 96),
            "trans.0.bias": (32,),
            "trans.2.weight": (96, 32),
            "trans.2.bias": (96,),
        }

    @pytest.mark.parametrize("name", CHATGLM2_TUNED)
    def test_the_originals_file_loads_without_being_told_anything(self, tmp_path: Path, name: str) -> None:
        case = Case(name)
        assert case.adapter is not None
        (tmp_path / "checkpoint").mkdir()
        (tmp_path / "checkpoint" / "pytorch_model.bin").write_bytes(case.adapter.read_bytes())

        model = imprint.load(case.folder, adapter=tmp_path / "checkpoint", dtype="float32", device="cpu")

        assert isinstance(model.adapter, PrefixEncoder)
        assert model.adapter.shape.projection is name.endswith("projection")
        assert difference(model.logits(case.rows)[0], case.per_row("logits")[0]) <= 1e-4
        with model.adapter_off():
            assert difference(model.logits(case.rows)[0], case.per_row("logits")[0]) > 0.01


def quantized_twin(network: ChatGLM2) -> ChatGLM2:
    """A network of plain fp32 weights, equal to the dequantized weights of a quantized one."""
    twin = ChatGLM2(replace(network.config, weight_format=None))
    dequantized = {name: layer.dequantize(torch.float32) for name, layer in quantized_layers(network).items()}
    twin.load_state_dict({name: tensor for name, tensor in network.state_dict().items() if not name.endswith(SCALE)} | dequantized)
    return twin.requires_grad_(requires_grad=False).eval()


def stored_base(folder: Path, dtype: torch.dtype) -> Path:
    """The golden base in another type."""
    case = Case("chatglm2-base")
    write_config(folder, json.loads((case.folder / "config.json").read_text()))
    tensors = load_file(case.folder / "model.safetensors")
    save_file({name: tensor.to(dtype) for name, tensor in tensors.items()}, folder / "model.safetensors")
    return folder


@pytest.mark.parametrize("bits", BITS)
class TestQuantized:
    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
    def test_a_folder_in_the_originals_format_is_written_read_and_written_again(
        self, tmp_path: Path, bits: Bits, dtype: torch.dtype
    ) -> None:
        base = stored_base(tmp_path / "base", dtype)
        stored = load_file(base / "model.safetensors")

        imprint.quantize(base, tmp_path / "quantized", bits)
        written = load_file(tmp_path / "quantized" / "model.safetensors")
        network = load_network(tmp_path / "quantized", dtype=torch.float32, device=torch.device("cpu"))
        save_network(network, tmp_path / "quantized", tmp_path / "again", dtype=dtype)
        again = load_file(tmp_path / "again" / "model.safetensors")

        blocks = [f"transformer.encoder.layers.{i}.{name}" for i in range(2) for name in LINEARS]
        for name in blocks:  # as quantization.py of ChatGLM2-6B computes them, in the weights' own type; bf16 would wrap around at 128
            weight = stored[f"{name}.weight"]
            scale = weight.abs().max(dim=-1).values / (2 ** (bits - 1) - 1)
            weight = weight.float() if dtype is torch.bfloat16 else weight
            whole = torch.round(weight / scale[:, None]).to(torch.int8)
            packed = whole if bits == 8 else (whole[:, ::2] << 4) | (whole[:, 1::2] & 15)
            assert written[f"{name}.{SCALE}"].dtype is dtype
            assert torch.equal(written[f"{name}.{SCALE}"], scale)
            assert torch.equal(written[f"{name}.weight"], packed)
        others = stored.keys() - {f"{name}.weight" for name in blocks} - {"transformer.rotary_pos_emb.inv_freq"}
        assert all(torch.equal(written[name], stored[name]) for name in others)
        assert written.keys() == others | {f"{name}.{last}" for name in blocks for last in ("weight", SCALE)}
        assert written.keys() == again.keys()
        assert all(torch.equal(again[name], written[name]) for name in written)

    def test_as_it_is_read_it_becomes_what_the_command_writes(self, tmp_path: Path, bits: Bits) -> None:
        base = stored_base(tmp_path / "base", torch.float16)
        imprint.quantize(base, tmp_path / "quantized", bits)
        rows = Case("chatglm2-base").rows

        one = imprint.load(base, quantize=bits, dtype="float32", device="cpu")
        other = imprint.load(tmp_path / "quantized", dtype="float32", device="cpu")

        assert all(torch.equal(a, b) for a, b in zip(one.logits(rows), other.logits(rows), strict=True))
        assert one.generate(rows, 8) == other.generate(rows, 8)

    def test_the_four_linears_of_a_block_are_quantized_and_nothing_else(self, bits: Bits) -> None:
        network = small_chatglm2(fields={"quantization_bit": bits})

        layers = {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLinear)}

        assert set(layers) == {f"transformer.encoder.layers.{i}.{name}" for i in range(2) for name in LINEARS}
        assert {name for name, module in layers.items() if module.bias is not None} == {name for name in layers if "query_key" in name}
        assert type(network.transformer.output_layer) is nn.Linear

    @pytest.mark.parametrize("checkpointing", [False, True])
    @pytest.mark.parametrize("name", CHATGLM2_TUNED)
    def test_a_prefix_learns_on_it_as_on_the_numbers(self, bits: Bits, checkpointing: bool, name: str) -> None:  # noqa: FBT001
        case = Case(name)
        ours = imprint.load(case.folder, adapter=case.adapter, quantize=bits, dtype="float32", device="cpu")
        assert isinstance(ours.network, ChatGLM2)
        plain = Model(quantized_twin(ours.network), None, "plain")
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


class TestRotary:
    def test_neighbours_turn_together_in_the_first_half_of_a_head_and_the_second_stays(self) -> None:
        config = ChatGLM2Config.read({**chatglm2_fields(), "kv_channels": 8})
        x = torch.randn(1, 1, 8)

        turned = rotate(x, *rotary(torch.tensor([3]), config, torch.float32), 1)

        pairs = torch.view_as_complex(x[..., :4].view(2, 2)) * torch.polar(torch.ones(2), torch.tensor([3.0, 3.0 / 100]))
        assert difference(turned[0, 0, :4], torch.view_as_real(pairs).flatten()) < 1e-6
        assert torch.equal(turned[..., 4:], x[..., 4:])

    def test_a_stretched_position_is_that_of_a_shorter_row(self) -> None:
        config = ChatGLM2Config.read(chatglm2_fields())
        positions = torch.arange(0, 64, 16)

        stretched = rotary(positions, replace(config, rope_factor=16.0), torch.float32)

        assert all(torch.equal(a, b) for a, b in zip(stretched, rotary(positions // 16, config, torch.float32), strict=True))


class TestParts:
    def test_queries_and_keys_may_have_no_bias(self) -> None:
        names = set(small_chatglm2(fields={"add_qkv_bias": False}).state_dict())

        assert [name for name in names if name.endswith("bias")] == []

    def test_the_scale_of_the_scores_is_set_by_the_config_and_changes_no_result(self) -> None:
        plain = small_chatglm2(fields={"apply_query_key_layer_scaling": False})
        scaled = small_chatglm2()

        one, other = (network(pack(ROWS, network)) for network in (plain, scaled))

        actual = [[module.score_scale for module in network.modules() if isinstance(module, Attention)] for network in (plain, scaled)]
        assert actual == [[1, 1], [1, 2]]
        assert difference(one, other) < 1e-4

    def test_what_is_saved_loads_equal(self, tmp_path: Path) -> None:
        network = small_chatglm2()
        source = write_config(tmp_path / "source", chatglm2_fields())

        save_network(network, source, tmp_path / "saved")
        read = load_network(tmp_path / "saved", dtype=torch.float32, device=torch.device("cpu"))

        assert read.state_dict().keys() == network.state_dict().keys()
        assert all(torch.equal(tensor, network.state_dict()[name]) for name, tensor in read.state_dict().items())
        assert read.num_parameters == sum(map(torch.numel, network.parameters()))

    @pytest.mark.parametrize(("dtype", "share"), [(torch.float16, 0.03), (torch.bfloat16, 0.2)])
    def test_sixteen_bits_stay_near_thirty_two(self, dtype: torch.dtype, share: float) -> None:
        case = Case("chatglm2-base")
        model = case.load()
        exact = torch.cat(model.logits(case.rows))
        model.network.to(dtype)

        actual = torch.cat(model.logits(case.rows))

        assert actual.dtype is dtype
        assert (actual.float() - exact).abs().mean() < share * exact.abs().mean()

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    def test_the_norm_is_computed_in_fp32_and_rounded_once(self, dtype: torch.dtype) -> None:
        norm = drawn(small_chatglm2(), seed=0, std=0.4).transformer.encoder.final_layernorm.to(dtype)
        x = (3 * torch.randn(50, 32)).to(dtype)

        actual = norm(x)

        scaled = x.float() * torch.rsqrt(x.float().pow(2).mean(-1, keepdim=True) + 1e-5)
        assert torch.equal(actual, (norm.weight.float() * scaled).to(dtype))

    @pytest.mark.gpu
    @pytest.mark.parametrize("name", CHATGLM2_CASES)
    def test_a_gpu_computes_the_same(self, name: str) -> None:
        case = Case(name)
        actual = []
        for device in ("cpu", "cuda"):
            model = imprint.load(case.folder, adapter=case.adapter, dtype="float32", device=device)
            actual.append((torch.cat(model.logits(case.rows)).cpu(), model.loss(case.rows, case.labels, checkpointing=True).detach().cpu()))

        assert difference(actual[1][0], actual[0][0]) <= 1e-4
        assert difference(actual[1][1], actual[0][1]) <= 1e-4

    @pytest.mark.gpu
    @pytest.mark.parametrize("bits", [None, *BITS])
    @pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
    def test_a_gpu_in_sixteen_bits_stays_near_and_learns(self, dtype: str, bits: FormatName | None) -> None:
        case = Case(CHATGLM2_TUNED[0])
        exact = imprint.load(case.folder, adapter=case.adapter, quantize=bits, dtype="float32", device="cpu")
        model = imprint.load(case.folder, adapter=case.adapter, quantize=bits, dtype=dtype, device="cuda")

        logits, expected = torch.cat(model.logits(case.rows)).float().cpu(), torch.cat(exact.logits(case.rows))
        loss = model.loss(case.rows, case.labels, checkpointing=True)
        loss.backward()

        assert (logits - expected).abs().mean() < (0.03 if dtype == "float16" else 0.2) * expected.abs().mean()
        assert all(parameter.grad is not None and parameter.grad.isfinite().all() for parameter in model.prefix_parameters().values())
        assert model.generate(case.prompts, 4)
