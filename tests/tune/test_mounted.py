import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import imprint
from imprint.inference import Decoder, Request
from imprint.messages import UserError
from imprint.model import Model
from imprint.tune.prefix import TENSORS_FILE
from tests.bases import base_of
from tests.inference.schedules import adapters_of

TEXT = "这件上衣的颜色是白"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return base_of("ChatGLM-6B", tmp_path_factory.mktemp("mounted") / "base", std=0.3)


@pytest.fixture(scope="module")
def adapters(base: Path) -> dict[str, Path]:
    return adapters_of(base, base.with_name("adapters"))


def answer(model: Model, name: str | None = None) -> list[int]:
    return model.generate([model.prompt(TEXT)], 8, adapters=[name])[0]


@pytest.fixture(scope="module")
def alone(base: Path, adapters: dict[str, Path]) -> dict[str, list[int]]:
    """The answer of each adapter, loaded with the base alone; that of the base is called `base`."""
    models = {"base": imprint.load(base, device="cpu")} | {
        name: imprint.load(base, device="cpu", adapter=folder) for name, folder in adapters.items()
    }
    answers = {name: answer(model) for name, model in models.items()}
    assert len({tuple(ids) for ids in answers.values()}) == len(answers)  # so that a wrong adapter is seen
    return answers


class TestNames:
    def test_each_row_of_a_batch_has_its_own(self, base: Path, adapters: dict[str, Path], alone: dict[str, list[int]]) -> None:
        model = imprint.load(base, device="cpu")
        for name, folder in adapters.items():
            model.mount(name, folder)
        names = ["wide", "base", "short", None, "long", "narrow", "wide"]

        together = model.generate([model.prompt(TEXT)] * len(names), 8, adapters=names)

        assert together == [alone[name or "base"] for name in names]
        assert model.generate([model.prompt(TEXT)], 8) == [alone["base"]]

    @pytest.mark.parametrize(("value", "dtype"), [(float("inf"), "float32"), (3.4e38, "bfloat16")])
    def test_a_prefix_that_would_break_the_answers_of_all_others_is_refused(
        self, base: Path, adapters: dict[str, Path], tmp_path: Path, value: float, dtype: str
    ) -> None:
        """All rows see it by a weight of 0, and 0 times infinity is NaN; 3.4e38 is infinite in bfloat16."""
        shutil.copytree(adapters["short"], tmp_path / "broken")
        tensors = load_file(tmp_path / "broken" / TENSORS_FILE)
        next(iter(tensors.values())).view(-1)[-1] = value
        save_file(tensors, tmp_path / "broken" / TENSORS_FILE)
        model = imprint.load(base, device="cpu", dtype=dtype)
        with pytest.raises(UserError, match="holds NaN or infinite values"):
            model.mount("broken", tmp_path / "broken")
        assert not model.adapters.names

    @pytest.mark.parametrize(("part", "value"), [("lora_A", 3e38), ("lora_B", 3e38)])
    def test_a_lora_whose_products_are_infinite_breaks_no_other_answer(
        self, base: Path, adapters: dict[str, Path], alone: dict[str, list[int]], tmp_path: Path, part: str, value: float
    ) -> None:
        shutil.copytree(adapters["wide"], tmp_path / "broken")
        file = tmp_path / "broken" / "adapter_model.safetensors"
        save_file({name: tensor.fill_(value) if part in name else tensor for name, tensor in load_file(file).items()}, file)
        model = imprint.load(base, device="cpu")
        for name, folder in [*adapters.items(), ("broken", tmp_path / "broken")]:
            model.mount(name, folder)

        names = ["wide", "base", "short", "narrow"]

        assert model.generate([model.prompt(TEXT)] * len(names), 8, adapters=names) == [alone[name] for name in names]

    @pytest.mark.parametrize("own", ["short", "wide"])
    @pytest.mark.parametrize("on", [True, False])
    def test_the_models_own_adapter_stays_what_requests_without_a_name_get(
        self,
        base: Path,
        adapters: dict[str, Path],
        alone: dict[str, list[int]],
        own: str,
        on: bool,  # noqa: FBT001
    ) -> None:
        model = imprint.load(base, device="cpu", adapter=adapters[own])
        names = [None, "base", "narrow", "long"]
        with model.adapter_off() if not on else torch.no_grad():
            for name in names[2:]:
                assert name is not None
                model.mount(name, adapters[name])
            together = model.generate([model.prompt(TEXT)] * 4, 8, adapters=names)
            assert answer(model) == alone[own if on else "base"]

        assert together == [alone[own if on else "base"], alone["base"], alone["narrow"], alone["long"]]
        assert answer(model) == alone[own]
        with model.adapter_off():
            assert answer(model) == alone["base"]
        assert difference_of_logits(model, imprint.load(base, device="cpu", adapter=adapters[own])) < 1e-3

    def test_a_request_keeps_the_adapter_that_was_on_when_it_was_admitted(
        self, base: Path, adapters: dict[str, Path], alone: dict[str, list[int]]
    ) -> None:
        for own in ("short", "wide"):
            model = imprint.load(base, device="cpu", adapter=adapters[own])
            decoder = Decoder(model)
            ids = model.prompt(TEXT)
            first = decoder.admit(Request(ids, 8))
            tokens = decoder.step() + decoder.step()
            with model.adapter_off():
                tokens += decoder.step()
                second = decoder.admit(Request(ids, 8))
                tokens += decoder.step()
            while len(decoder):
                tokens += decoder.step()
            ends = model.network.stop_ids
            assert [token.id for token in tokens if token.request == first and token.id not in ends] == alone[own]
            assert [token.id for token in tokens if token.request == second and token.id not in ends] == alone["base"]

    def test_one_may_be_unmounted_and_its_name_used_again(self, base: Path, adapters: dict[str, Path], alone: dict[str, list[int]]) -> None:
        model = imprint.load(base, device="cpu")
        for name in ("wide", "short"):
            model.mount("it", adapters[name])
            assert answer(model, "it") == alone[name]
            model.unmount("it")
        assert answer(model) == alone["base"]


def difference_of_logits(model: Model, other: Model) -> float:
    ids = [model.prompt(TEXT)]
    return float((model.logits(ids)[0] - other.logits(ids)[0]).abs().max())


class TestRefusals:
    def test_names_that_are_taken_or_unknown(self, base: Path, adapters: dict[str, Path]) -> None:
        model = imprint.load(base, device="cpu")
        model.mount("one", adapters["short"])

        for name in ("one", "base"):
            with pytest.raises(UserError, match=rf'mount: the name "{name}" is taken\. Choose another one\.'):
                model.mount(name, adapters["long"])
        for act in (lambda: model.unmount("two"), lambda: answer(model, "two")):
            with pytest.raises(UserError, match=r'adapter: none is mounted as "two"\. Mounted: base, one\.'):
                act()
        with pytest.raises(UserError, match="adapters: must be a list of 1 names or None, one for each prompt, got list"):
            model.generate([model.prompt(TEXT)], 3, adapters=["one", None])

    def test_one_that_is_in_use_stays(self, base: Path, adapters: dict[str, Path]) -> None:
        model = imprint.load(base, device="cpu")
        model.mount("one", adapters["wide"])
        decoder = Decoder(model)
        number = decoder.admit(Request(model.prompt(TEXT), 8, adapter="one"))
        decoder.step()

        with pytest.raises(UserError, match=r'unmount: 1 requests use "one"\. Wait until they have ended, or cancel them\.'):
            model.unmount("one")
        decoder.cancel(number)
        model.unmount("one")

    def test_an_answer_that_fails_or_is_left_frees_its_adapter(self, base: Path, adapters: dict[str, Path]) -> None:
        model = imprint.load(base, device="cpu")
        model.mount("one", adapters["short"])

        with pytest.raises(UserError):
            model.generate([model.prompt(TEXT), [10**6]], 3, adapters=["one", "one"])
        with pytest.raises(UserError):
            model.generate([[10**6]], 3, num_beams=2, adapters=["one"])

        model.unmount("one")

    def test_a_lora_is_not_merged_while_others_are_mounted(
        self, base: Path, adapters: dict[str, Path], alone: dict[str, list[int]]
    ) -> None:
        model = imprint.load(base, device="cpu", adapter=adapters["wide"])
        model.mount("one", adapters["narrow"])

        with pytest.raises(UserError, match=r"merge: other adapters are mounted on the same weights \(one\). Unmount them first."):
            model.merge()
        model.unmount("one")
        model.merge()

        assert answer(model) == alone["wide"]
