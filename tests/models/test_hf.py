import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from imprint.messages import UserError
from imprint.model import Model
from imprint.models.attention import ForwardContext
from imprint.models.checkpoint import load_network, save_network
from imprint.models.families import build_network
from imprint.models.hf import VERIFIED, TransformersNetwork, is_supported
from imprint.models.loss import token_losses
from imprint.models.network import Network
from imprint.models.quantized_layers import quantized_layers
from imprint.pack import pack
from imprint.quant.names import FORMAT_NAMES, FormatName
from imprint.quant.weight_format import SCALE
from tests import reference_models
from tests.bounded import cpu_time
from tests.cases import difference, format_of, write_config
from tests.inference.reference import generate_ids
from tests.reference_models import LABELS, ROWS, our_logits, our_loss, prefix_of

CPU = torch.device("cpu")


def loaded(folder: Path, *, bits: FormatName | None = None, dtype: torch.dtype = torch.float32) -> Network:
    return load_network(folder, dtype=dtype, device=CPU, weight_format=format_of(bits))


def pair(folder: Path, kind: str, **change: object) -> tuple[Any, Network]:
    """transformers' model and ours, read from the folder that it was saved to."""
    model = reference_models.random_model(kind, {**reference_models.FIELDS, **change})
    return model, loaded(reference_models.saved(model, folder))


def refusal(folder: Path, kind: str, **change: object) -> str:
    """The error for a config.json with these fields."""
    fields = {"model_type": kind, **reference_models.FIELDS, **change}
    with pytest.raises(UserError) as caught, torch.device("meta"):
        build_network({name: value for name, value in fields.items() if value is not None}, write_config(folder, fields))
    return str(caught.value)


@pytest.fixture(scope="module", params=sorted(VERIFIED))
def verified(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Network, Path]:
    folder = tmp_path_factory.mktemp("hf") / str(request.param)
    return *pair(folder, str(request.param)), folder


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("num_hidden_layers", 0, "config.json: it describes a model without layers"),
        ("max_position_embeddings", -1, '"max_position_embeddings" must be an integer of at least 1, got -1'),
    ],
)
def test_a_size_that_no_model_has_is_named(tmp_path: Path, field: str, value: int, sentence: str) -> None:
    assert sentence in refusal(tmp_path, "llama", **{field: value})


class TestAgainstTransformers:
    def test_logits_alone_packed_and_padded(self, verified: tuple[Any, Network, Path]) -> None:
        model, ours, _ = verified

        for row, logits in zip(ROWS, our_logits(ours, ROWS), strict=True):
            assert difference(logits, reference_models.logits(model, row)) <= 1e-4
            assert difference(our_logits(ours, [row])[0], logits) <= 1e-4
        for logits, padded in zip(our_logits(ours, ROWS[::-1])[::-1], reference_models.padded_logits(model, ROWS), strict=True):
            assert difference(logits, padded) <= 1e-4

    def test_every_hidden_state(self, verified: tuple[Any, Network, Path]) -> None:
        model, ours, _ = verified

        for row, states in zip(ROWS, Model(ours, None, "ours").hidden_states(ROWS), strict=True):
            expected = reference_models.run(model, row, output_hidden_states=True).hidden_states
            assert max(difference(a, b[0]) for a, b in zip(states, expected, strict=True)) <= 1e-4

    @pytest.mark.parametrize("checkpointing", [False, True])
    def test_gradients_of_a_prefix_are_those_of_a_past_that_shifts_no_position(
        self, verified: tuple[Any, Network, Path], *, checkpointing: bool
    ) -> None:
        model, ours, _ = verified
        prefix = prefix_of(ours)
        tensors = [tensor for layer in prefix for tensor in layer]

        loss, expected = our_loss(ours, prefix, checkpointing=checkpointing), reference_models.loss(model, ROWS, LABELS, prefix)

        assert difference(loss, expected) <= 1e-5
        for a, b in zip(torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, tensors), strict=True):
            assert difference(a, b) <= 1e-4 * max(1.0, float(b.abs().max()))

    def test_gradients_of_every_weight_with_checkpointing(self, verified: tuple[Any, Network, Path]) -> None:
        model, ours, _ = verified
        ours.train().requires_grad_(requires_grad=True)

        our_loss(ours, checkpointing=True).backward()
        model.zero_grad()
        reference_models.loss(model, ROWS, LABELS).backward()

        theirs = dict(model.named_parameters())
        for name, parameter in ours.named_parameters():
            assert parameter.grad is not None
            assert difference(parameter.grad, theirs[name].grad) <= 1e-4 * max(1.0, float(theirs[name].grad.abs().max())), name
        ours.eval().requires_grad_(requires_grad=False)

    def test_greedy_ids_from_a_cache_are_those_of_generate(self, verified: tuple[Any, Network, Path]) -> None:
        model, ours, _ = verified

        assert generate_ids(ours, ROWS, 10) == [reference_models.greedy(model, row, 10) for row in ROWS]

    def test_cached_steps_behind_a_prefix_are_one_pass(self, verified: tuple[Any, Network, Path]) -> None:
        _, ours, _ = verified
        prefix = [(keys.detach(), values.detach()) for keys, values in prefix_of(ours)]

        for row, answer in zip(ROWS, generate_ids(ours, ROWS, 6, prefix=prefix), strict=True):
            grown = list(row)
            for token in answer:
                assert int(ours.logits(ours(pack([grown], ours), prefix=prefix)[-1:]).argmax()) == token
                grown.append(token)

    def test_what_is_saved_loads_here_and_in_transformers(self, verified: tuple[Any, Network, Path], tmp_path: Path) -> None:
        model, ours, folder = verified

        save_network(ours, folder, tmp_path / "saved", shard_bytes=20_000)
        again = loaded(tmp_path / "saved")
        theirs = AutoModelForCausalLM.from_pretrained(tmp_path / "saved", attn_implementation="eager").eval()

        assert (tmp_path / "saved" / "model.safetensors.index.json").is_file()
        for row in ROWS:
            assert difference(our_logits(again, [row])[0], reference_models.logits(model, row)) <= 1e-4
            assert difference(reference_models.logits(theirs, row), reference_models.logits(model, row)) <= 1e-5

    @pytest.mark.parametrize("bits", [pytest.param(name, marks=[] if name == 4 else pytest.mark.long) for name in FORMAT_NAMES])
    def test_a_quantized_model_computes_with_its_dequantized_weights(
        self, verified: tuple[Any, Network, Path], tmp_path: Path, bits: FormatName
    ) -> None:
        kind = verified[0].config.model_type
        model, _ = pair(tmp_path / "base", kind)
        ours = loaded(tmp_path / "base", bits=bits)
        layers = quantized_layers(ours)

        plain = {name: tensor for name, tensor in ours.state_dict().items() if not name.endswith(SCALE)}
        model.load_state_dict({**plain, **{name: layer.dequantize(torch.float32) for name, layer in layers.items()}})
        save_network(ours, tmp_path / "base", tmp_path / "saved")

        prefix = prefix_of(ours)
        tensors = [tensor for layer in prefix for tensor in layer]
        gradients = torch.autograd.grad(our_loss(ours, prefix, checkpointing=True), tensors)
        for a, b in zip(gradients, torch.autograd.grad(reference_models.loss(model, ROWS, LABELS, prefix), tensors), strict=True):
            assert difference(a, b) <= 1e-4 * max(1.0, float(b.abs().max()))
        assert len(layers) >= 2 * 6
        assert torch.equal(our_logits(loaded(tmp_path / "saved"), ROWS[:1])[0], our_logits(ours, ROWS[:1])[0])


class TestFolders:
    def test_a_tied_head_is_stored_once(self, tmp_path: Path) -> None:
        model, ours = pair(tmp_path / "base", "qwen2", tie_word_embeddings=True)

        save_network(ours, tmp_path / "base", tmp_path / "saved")

        assert "lm_head.weight" not in load_file(tmp_path / "saved" / "model.safetensors")
        assert ours.head_weight is ours.get_parameter("model.embed_tokens.weight")
        assert difference(our_logits(ours, ROWS[:1])[0], reference_models.logits(model, ROWS[0])) <= 1e-4

    def test_nothing_stays_on_the_meta_device(self, tmp_path: Path) -> None:
        _, ours = pair(tmp_path / "base", "glm4")

        assert not any(tensor.is_meta for tensor in (*ours.parameters(), *ours.buffers()))

    def test_16_bit_weights_leave_rotary_frequencies_as_they_are(self, tmp_path: Path) -> None:
        model, _ = pair(tmp_path / "base", "llama")
        expected = reference_models.logits(model, ROWS[0]).detach()

        ours = loaded(tmp_path / "base", dtype=torch.bfloat16)

        assert ours.dtype == torch.bfloat16
        assert ours.get_buffer("model.rotary_emb.inv_freq").dtype == torch.float32
        assert difference(our_logits(ours, ROWS[:1])[0].float(), expected) <= 0.1 * float(expected.abs().max())

    def test_code_in_a_folder_is_never_run(self, tmp_path: Path) -> None:
        folder = reference_models.saved(reference_models.random_model("qwen2", reference_models.FIELDS), tmp_path / "base")
        fields = json.loads((folder / "config.json").read_text())
        write_config(folder, {**fields, "auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}})
        (folder / "modeling_own.py").write_text("raise SystemExit('ran')")

        assert our_logits(loaded(folder), ROWS)

    @pytest.mark.parametrize("section", [{"rope_type": "default", "rope_theta": 0}, {"rope_type": "linear", "factor": 0.0}])
    def test_positions_that_are_no_numbers_are_refused(self, section: dict[str, object], tmp_path: Path) -> None:
        folder = reference_models.saved(reference_models.random_model("qwen2", reference_models.FIELDS), tmp_path / "base")
        fields = json.loads((folder / "config.json").read_text())
        write_config(folder, {**fields, "rope_parameters": {"rope_theta": 1e4, **section}})

        with pytest.raises(UserError, match="the rotary positions are no numbers"):
            loaded(folder)

    def test_end_ids_are_those_of_both_files(self, tmp_path: Path) -> None:
        folder = reference_models.saved(reference_models.random_model("qwen2", reference_models.FIELDS), tmp_path / "base")
        (folder / "generation_config.json").write_text('{"eos_token_id": [5, 6]}')

        assert loaded(folder).stop_ids == {2, 5, 6}

        (folder / "generation_config.json").write_text("[")
        with pytest.raises(UserError, match=r"generation_config\.json: cannot be read as JSON"):
            loaded(folder)

    def test_names_without_the_base_model_are_read(self, tmp_path: Path) -> None:
        _, ours = pair(tmp_path / "base", "llama")

        assert ours.network_name("layers.0.mlp.up_proj.weight") == "model.layers.0.mlp.up_proj.weight"
        assert ours.network_name("lm_head.weight") == "lm_head.weight"
        assert ours.network_name("other.weight") == "other.weight"


class TestTraining:
    @pytest.mark.parametrize(("kind", "names"), [("qwen3", ("k_proj", "q_proj", "v_proj")), ("phi3", ("qkv_proj",))])
    def test_a_lora_adapts_the_linears_of_queries_keys_and_values(self, tmp_path: Path, kind: str, names: tuple[str, ...]) -> None:
        assert pair(tmp_path / "base", kind)[1].lora_targets == names

    @pytest.mark.parametrize(
        ("kind", "change"),
        [("llama", {"attention_dropout": 0.5}), ("opt", {"dropout": 0.5, "ffn_dim": 48})],  # in the attention, in the block itself
    )
    def test_dropout_of_the_base_stays_off(self, tmp_path: Path, kind: str, change: dict[str, object]) -> None:
        _, ours = pair(tmp_path / "base", kind, **change)
        prefix = prefix_of(ours.train())

        once, again = our_loss(ours, prefix, checkpointing=True), our_loss(ours, prefix)
        gradients = [torch.autograd.grad(loss, prefix[0][0])[0] for loss in (once, again)]

        assert torch.equal(once, again)
        assert difference(*gradients) <= 1e-6
        assert not any(child.training for child in ours.children())

    def test_two_passes_before_their_backward_passes_keep_their_prefixes(self, tmp_path: Path) -> None:
        _, ours = pair(tmp_path / "base", "qwen2")
        prefixes = [prefix_of(ours), prefix_of(ours)]
        for keys, values in prefixes[1]:
            keys.data.neg_(), values.data.neg_()
        alone = [torch.autograd.grad(our_loss(ours, one), one[0][0])[0] for one in prefixes]

        losses = [our_loss(ours, one, checkpointing=True) for one in prefixes]

        for loss, one, expected in zip(losses, prefixes, alone, strict=True):
            assert difference(torch.autograd.grad(loss, one[0][0])[0], expected) <= 1e-6


class TestUnverified:
    @pytest.mark.parametrize("kind", ["gemma3_text", "phi3", "granite"])
    def test_another_model_type_is_compared_when_it_is_loaded(self, tmp_path: Path, kind: str) -> None:
        model, ours = pair(tmp_path / "base", kind)

        assert kind not in VERIFIED
        assert difference(our_logits(ours, ROWS[:1])[0], reference_models.logits(model, ROWS[0])) <= 1e-4

    @pytest.mark.parametrize("share", [0.01, 0.5])
    def test_a_model_that_computes_more_is_refused_with_the_difference(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, share: float
    ) -> None:
        attend = ForwardContext.attend
        monkeypatch.setattr(ForwardContext, "attend", lambda *arguments: attend(*arguments) * (1 + share))

        with pytest.raises(
            UserError,
            match=r"'granite' of transformers cannot be used here: its logits over packed rows differ by .* from those with its own",
        ):
            pair(tmp_path / "base", "granite")


class TestBehindTheHead:
    @pytest.mark.parametrize(
        ("kind", "change", "scale", "cap"),
        [
            ("granite", {"logits_scaling": 8.0}, 0.125, None),
            ("cohere", {"logit_scale": 0.25}, 0.25, None),
            ("hyperclovax", {"logits_scaling": 3.0}, 3.0, None),
            ("gemma3_text", {"final_logit_softcapping": 5.0}, 1.0, 5.0),
            ("gemma3_text", {"final_logit_softcapping": None}, 1.0, None),
            ("nanochat", {"final_logit_softcapping": 2.0}, 1.0, 2.0),
            ("llama", {}, 1.0, None),
        ],
    )
    def test_scale_and_cap_of_the_logits_are_applied(
        self, tmp_path: Path, kind: str, change: dict[str, object], scale: float, cap: float | None
    ) -> None:
        if not is_supported(kind):
            pytest.skip(f"this transformers has no {kind}")
        model, ours = pair(tmp_path / "base", kind, **change)
        assert isinstance(ours, TransformersNetwork)
        prefix = prefix_of(ours)
        tensors = [tensor for layer in prefix for tensor in layer]

        loss, expected = our_loss(ours, prefix), reference_models.loss(model, ROWS, LABELS, prefix)

        assert ours.logit_scale == pytest.approx(scale, rel=1e-6)
        assert ours.logit_cap == (None if cap is None else pytest.approx(cap, rel=1e-6))
        for row, logits in zip(ROWS, our_logits(ours, ROWS), strict=True):
            assert difference(logits, reference_models.logits(model, row)) <= 1e-4
        assert difference(loss, expected) <= 1e-5
        for a, b in zip(torch.autograd.grad(loss, tensors), torch.autograd.grad(expected, tensors), strict=True):
            assert difference(a, b) <= 1e-4 * max(1.0, float(b.abs().max()))
        assert generate_ids(ours, ROWS, 5) == [reference_models.greedy(model, row, 5) for row in ROWS]
        batch = pack(ROWS, ours, LABELS)
        losses = token_losses(ours(batch)[batch.targets], ours.head_weight, batch.labels, ours.logit_cap)
        assert float(losses.mean()) == pytest.approx(float(reference_models.loss(model, ROWS, LABELS).detach()), rel=1e-5)


class TestRefusals:
    @pytest.mark.parametrize(
        ("kind", "change", "sentence"),
        [
            ("gemma2", {}, "its attention takes 'softcap', which ours does not support"),
            ("phi", {}, "its LM head is Linear(in_features=32, out_features=60, bias=True); only one linear without a bias"),
            ("qwen3_next", {}, "its layers are of the type linear_attention. Supported: full_attention, sliding_attention"),
            ("qwen3_moe", {"num_experts": 4, "moe_intermediate_size": 8}, "it is a mixture of experts"),
            ("falcon", {"head_dim": None}, "it cannot be built with another attention"),
            ("stablelm", {}, "keyword arguments do not reach the attention"),
            ("llama", {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}}, "positions are 'dynamic'"),
            (
                "llama",
                {"rope_parameters": {"rope_type": "su", "factor": 2.0, "rope_theta": 1e4}},
                "config.json: the rotary positions are 'su', a kind that transformers does not know for this model. Supported: default,",
            ),
            (
                "llama",
                {"rope_parameters": {"rope_type": "linear", "factor": "2", "rope_theta": 1e4}},
                "config.json: transformers cannot build a 'llama' from these fields (TypeError",
            ),
            ("llama", {"hidden_act": "nonsense"}, "transformers cannot build a 'llama' from these fields (KeyError: 'nonsense')"),
            ("llama", {"quantization_config": {"quant_method": "awq"}}, "the weights are quantized by 'awq', which is not supported"),
            ("llama", {"hidden_size": "many"}, "transformers cannot read it"),
            (
                "bamba",
                {"mamba_n_heads": 4, "mamba_d_head": 16, "time_step_limit": [0.0, {"__float__": "Infinity"}]},
                "its layers are of the type",
            ),
            (
                "gpt_bigcode",
                {"max_position_embeddings": 200_000},
                "what is computed of these fields has 37.3 GiB, such as a mask of all positions",
            ),
            ("llama", {"quantization_bit": 5}, '"quantization_bit" must be 8, 4 or null, got 5'),
        ],
    )
    def test_what_is_unsupported_is_named(self, tmp_path: Path, kind: str, change: dict[str, object], sentence: str) -> None:
        assert sentence in refusal(tmp_path, kind, **change)

    def test_labels_which_no_language_model_has_are_not_counted_to_a_billion(self, tmp_path: Path) -> None:
        base = reference_models.saved(reference_models.random_model("llama", reference_models.FIELDS), tmp_path)
        config = json.loads((base / "config.json").read_text(encoding="utf-8"))
        with cpu_time(at_most=30):
            assert build_network(config | {"num_labels": 10**9, "id2label": {"x": 1}}, base).shape.vocab_size == 60

    @pytest.mark.parametrize("kind", ["qwen2", "qwen3"])
    def test_layers_that_slide_without_a_window_are_refused(self, kind: str, tmp_path: Path) -> None:
        slides = {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 8}
        fields = {**reference_models.FIELDS, "model_type": kind, **slides}
        with torch.device("meta"):
            with pytest.raises(UserError, match='"layer_types" names layers of "sliding_attention", but "sliding_window" gives them none'):
                build_network(fields, write_config(tmp_path, fields))
            assert build_network({**fields, "use_sliding_window": True}, tmp_path)

    def test_a_row_beyond_a_sliding_window_is_refused(self, tmp_path: Path) -> None:
        model, ours = pair(tmp_path / "base", "mistral", sliding_window=8)

        assert ours.shape.max_length == 8
        assert difference(our_logits(ours, [ROWS[0][:8]])[0], reference_models.logits(model, ROWS[0][:8])) <= 1e-4
        with pytest.raises(UserError, match="a row of 9 tokens is longer than 8: beyond that, this base has no positions, or attends"):
            our_logits(ours, ROWS)
        with pytest.raises(UserError, match="a row of 9 tokens is longer than 8"):
            generate_ids(ours, [ROWS[0][:8]], 4)

    def test_a_row_beyond_the_positions_that_were_learned_is_refused(self, tmp_path: Path) -> None:
        _, ours = pair(tmp_path / "base", "opt", ffn_dim=48, max_position_embeddings=8)

        assert our_logits(ours, [ROWS[0][:8]])
        with pytest.raises(UserError, match="a row of 9 tokens is longer than 8"):
            our_logits(ours, ROWS)

    def test_only_causal_language_models_are_supported(self) -> None:
        assert is_supported("llama")
        assert not is_supported("chatglm")
        assert not is_supported(None)
