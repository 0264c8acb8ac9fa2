import asyncio
import json
import shutil
from pathlib import Path

import pytest
import yaml

import imprint
from imprint.cli import main
from imprint.messages import UserError
from imprint.serve.generation.models import affordable_kv_tokens, open_models, open_worker
from imprint.serve.generation.notes import note_of
from imprint.serve.generation.section import ServedModelsSection
from tests.cases import small_network
from tests.families import CHAT, bloom_base
from tests.serve.generation.workers import job_of
from tests.serve.outcomes import outcome_of
from tests.tiny import tiny_base
from tests.tinyrun import tiny_recipe, tiny_run

CPU = ServedModelsSection(device="cpu")


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a prefix run, a LoRA run and a run of full tuning on one base."""
    folder = tmp_path_factory.mktemp("mounted")
    recipe = tiny_recipe(folder)
    quick = ("train.steps=1", "train.evaluate_every=1", "train.watch_every=9", "train.save_every=1")
    tiny_run(recipe, "prefix", *quick)
    tiny_run(recipe, "lora", *quick, "tune={method: lora, rank: 2}", "data.source_prefix=问：")
    tiny_run(recipe, "full", *quick, "tune={method: full}")
    return folder


def paths(folder: Path, *names: str) -> list[str]:
    return [str(folder / name) for name in names]


class TestModels:
    @pytest.mark.parametrize(("words", "taken"), [("{{ tool['name'] }}", ["base"]), ("", [])])
    def test_tools_are_supported_where_the_template_describes_them(self, tmp_path: Path, words: str, taken: list[str]) -> None:
        settings = bloom_base(tmp_path / "base") / "tokenizer_config.json"
        fields = json.loads(settings.read_text())
        settings.write_text(json.dumps(fields | {"chat_template": CHAT.replace("{{ tool['name'] }}", words)}))
        (model,) = open_models(paths(tmp_path, "base"), CPU)
        assert model.model.template.supports_tools
        assert [one.info.id for one in (model,) if one.info.supports_tools] == taken

    def test_runs_share_one_base_and_answer_as_if_they_were_alone(self, runs: Path) -> None:
        mounted = open_models(paths(runs, "lora", "prefix"), CPU)
        asked = [{"role": "user", "content": "颜色"}]

        assert [(one.info.id, one.info.parent, one.info.base_name) for one in mounted] == [
            ("base", None, "base"),
            ("lora", "base", "base"),
            ("prefix", "base", "base"),
        ]
        assert len({id(one.model.network) for one in mounted}) == 1
        for one, path in zip(mounted, paths(runs, "base", "lora", "prefix"), strict=True):
            alone = imprint.load(path, device="cpu")
            prompt = one.model.prompt_of(asked)
            assert prompt == alone.prompt_of(asked)
            assert one.model.generate([prompt], 8, adapters=[one.adapter]) == alone.generate([prompt], 8)

    def test_a_model_folder_or_a_run_of_full_tuning_is_the_base(self, runs: Path) -> None:
        folder = open_models(paths(runs, "base", "prefix"), CPU)
        full = open_models(paths(runs, "full"), CPU)

        assert [one.info.id for one in folder] == ["base", "prefix"]
        assert [(one.info.id, one.info.base_name, one.adapter) for one in full] == [("base", "full", "base"), ("full", "full", "base")]

    def test_a_bundle_is_served_by_the_name_of_its_run(self, runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        bundle = tmp_path / "shared.tar"
        assert main(["export", str(runs / "prefix"), str(bundle), "--to", "bundle", "questions=1"]) == 0

        assert [one.info.id for one in open_models([str(bundle), str(runs / "lora")], CPU)] == ["base", "prefix", "lora"]

    def test_a_run_named_run_is_called_as_its_parent(self, runs: Path, tmp_path: Path) -> None:
        shutil.copytree(runs / "prefix", tmp_path / "flowers" / "run")

        assert open_models(paths(tmp_path, "flowers/run"), CPU)[1].info.id == "flowers"

    def test_the_licence_is_that_of_the_base(self, runs: Path, tmp_path: Path) -> None:
        base = tmp_path / "base"
        shutil.copytree(runs / "base", base)
        (base / "README.md").write_text("---\nlicense: apache-2.0\n---\n", encoding="utf-8")

        (licensed,), (silent,) = open_models([str(base)], CPU), open_models(paths(runs, "base"), CPU)

        assert (licensed.info.licence, silent.info.licence) == ("apache-2.0", None)
        assert (licensed.info.note, silent.info.note) == (note_of("apache-2.0"), note_of(None))

    def test_a_base_from_a_gguf_file_is_called_as_the_file(self, runs: Path, tmp_path: Path) -> None:
        base = tmp_path / "base"
        shutil.copytree(runs / "base", base)
        (base / "import.json").write_text('{"file": "Smol.Q4_1.gguf", "licence": "gemma"}', encoding="utf-8")

        (imported,) = open_models([str(base)], CPU)

        assert (imported.info.base_name, imported.info.licence) == ("Smol.Q4_1", "gemma")


class TestRefusals:
    def test_two_bases(self, runs: Path) -> None:
        with pytest.raises(UserError, match=r"a service has one base, and .*base is one already"):
            open_models(paths(runs, "base", "full"), CPU)

    def test_a_run_of_another_base(self, runs: Path, tmp_path: Path) -> None:
        other = tiny_base(tmp_path / "other", seed=5)
        with pytest.raises(UserError, match=r"all models of a service share one base, here that of .*other"):
            open_models([str(other), str(runs / "prefix")], CPU)

    def test_a_run_without_its_weights_is_told_as_it_is(self, runs: Path, tmp_path: Path) -> None:
        shutil.copytree(runs / "prefix", tmp_path / "cut")
        (tmp_path / "cut" / "adapter" / "prefix.safetensors").unlink()
        with pytest.raises(UserError, match=r"^\S*/cut/adapter/prefix\.safetensors: cannot be read"):
            open_models([str(tmp_path / "cut")], CPU)

    def test_the_same_name_twice(self, runs: Path) -> None:
        with pytest.raises(UserError, match='another model of this service is called "prefix" already'):
            open_models(paths(runs, "prefix", "prefix"), CPU)

    def test_runs_on_weights_of_different_formats(self, runs: Path, tmp_path: Path) -> None:
        shutil.copytree(runs / "prefix", tmp_path / "rounded")
        config = tmp_path / "rounded" / "config.yaml"
        recipe = yaml.safe_load(config.read_text(encoding="utf-8"))
        recipe["model"]["quantize"] = 8
        config.write_text(yaml.safe_dump(recipe), encoding="utf-8")
        both = [str(tmp_path / "rounded"), str(runs / "prefix")]

        with pytest.raises(UserError, match="a service has one copy of the weights"):
            open_models(both, CPU)
        assert len(open_models(both, ServedModelsSection(device="cpu", quantize=8))) == 3


class TestWorker:
    def test_it_answers_within_the_limits_that_it_is_given(self, runs: Path) -> None:
        async def run() -> tuple[int, str]:
            worker = open_worker(paths(runs, "prefix"), ServedModelsSection(device="cpu", max_length=100, kv_tokens=60))
            outcome = await outcome_of(await worker.submit(job_of("颜色", model="prefix")))
            await worker.close(0)
            return worker.models()[0].max_length, outcome.end.reason

        length, reason = asyncio.run(run())

        assert length == 60
        assert reason in {"stop", "length"}

    def test_the_cache_takes_no_more_than_memory_has(self) -> None:
        assert 1 <= affordable_kv_tokens(small_network()) <= 2**20
