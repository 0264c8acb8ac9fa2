import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import imprint.compat.trainer_files as trainer_files
from imprint.compat.run import run_original
from imprint.files.atomic import read_jsonl
from imprint.messages import UserError
from imprint.report.run_list import describe_run
from imprint.runs import RunFolder
from tests.oldproject import PREFIX, old_project, predicting, said, training

TIMED = ("runtime", "per_second")


class KilledError(BaseException):
    """As if the process had ended here."""


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return old_project(tmp_path_factory.mktemp("folder"))


def begin(project: Path, name: str, *more: str) -> RunFolder:
    run_original(training(project, name, *PREFIX, *more))
    return RunFolder(project / "output" / name)


def untimed(value: object) -> object:
    """Figures without what depends on the clock."""
    if isinstance(value, dict):
        return {key: untimed(item) for key, item in value.items() if not key.endswith(TIMED)}
    return [untimed(item) for item in value] if isinstance(value, list) else value


def content(folder: Path) -> dict[str, object]:
    """Everything that the original wrote too, without times."""
    files = [file for file in sorted(folder.rglob("*")) if file.is_file() and "evaluations" not in file.parts]
    contents: dict[str, object] = {}
    for file in files:
        name = file.relative_to(folder).as_posix()
        if file.suffix == ".json" and "state-" not in name and "adapter" not in name:
            contents[name] = untimed(said(file))
        elif name.endswith("pytorch_model.bin"):
            contents[name] = {key: tensor.tolist() for key, tensor in torch.load(file, weights_only=True).items()}
        elif file.suffix in {".txt", ".yaml"}:
            contents[name] = file.read_text(encoding="utf-8")
    return contents


KILLS = [
    *(("write_checkpoint", call, moment) for call in (1, 2) for moment in ("before", "behind")),  # the second one ends the training
    *(("write_results", call, moment) for call in (1, 2) for moment in ("before", "behind")),  # of the training, of the prediction
    ("write_predictions", 1, "before"),
]
QUICK = [
    ("write_checkpoint", 1, "behind"),
    ("write_checkpoint", 2, "before"),
    ("write_results", 1, "before"),
    ("write_results", 2, "behind"),
]


@pytest.mark.parametrize(
    ("function", "call", "moment"), [pytest.param(*kill, marks=[] if kill in QUICK else pytest.mark.long) for kill in KILLS]
)
def test_a_killed_command_given_again_ends_with_the_same_files(
    function: str, call: int, moment: str, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"{function}-{call}-{moment}"
    words = [*training(project, name, *PREFIX, "--overwrite_output_dir"), *predicting(project, name)]
    whole = [*training(project, "unbroken", *PREFIX, "--overwrite_output_dir"), *predicting(project, "unbroken")]
    if not (project / "output" / "unbroken").exists():
        run_original(whole)
    real, calls = getattr(trainer_files, function), []

    def killing(*arguments: object, **named: object) -> object:
        calls.append(function)
        if len(calls) == call and moment == "before":
            raise KilledError
        result = real(*arguments, **named)
        if len(calls) == call:
            raise KilledError
        return result

    monkeypatch.setattr(trainer_files, function, killing)
    with pytest.raises(KilledError):
        run_original(words)
    monkeypatch.undo()
    run_original(words)
    expected = content(project / "output" / "unbroken")
    found = content(project / "output" / name)
    assert found.keys() == expected.keys()
    recipe = "config.yaml"
    assert str(found[recipe]).replace(name, "unbroken") == expected[recipe]
    assert {key: value for key, value in found.items() if key != recipe} == {k: v for k, v in expected.items() if k != recipe}


def test_an_unfinished_run_of_the_same_arguments_is_gone_on_with(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = trainer_files.write_checkpoint

    def killing(folder: Path, *rest: object) -> None:
        if folder.name == "checkpoint-4":
            raise KilledError
        real(folder, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(trainer_files, "write_checkpoint", killing)
    with pytest.raises(KilledError):
        begin(project, "stopped", "--overwrite_output_dir")
    monkeypatch.undo()
    capsys.readouterr()
    begin(project, "stopped", "--overwrite_output_dir")
    assert "an unfinished run of the same arguments is resumed after step 2" in capsys.readouterr().out


def test_another_run_is_begun_anew_where_the_flag_says_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin(project, "anew", "--save_steps", "1")
    (run.path / "notes.txt").write_text("mine")
    of_the_earlier = [
        run.path / name for name in ("generated_predictions.txt", "compare.html", "compare-prompts.md", "compare-confusion.png")
    ]
    of_the_earlier += [run.evaluations / "held-out" / "scores.json", run.path / "predict_results.json", run.report, run.verdict]
    for file in of_the_earlier:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("{}")
    before = load_file(run.adapter / "prefix.safetensors")
    begin(project, "anew", "--seed", "7", "--overwrite_output_dir")
    assert (
        "--overwrite_output_dir starts over; the files of the earlier training and its evaluations are removed" in capsys.readouterr().out
    )
    after = load_file(run.adapter / "prefix.safetensors")
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert sorted(entry.name for entry in run.path.glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    assert (run.path / "notes.txt").read_text() == "mine"
    assert not [file for file in of_the_earlier if file.exists()], "scores of other weights would stand beside the new run"
    assert describe_run(run).scores == {}
    assert [line["step"] for line in read_jsonl(run.log) if "loss" in line] == [1, 2, 3, 4]


def test_a_finished_run_is_trained_anew_only_where_the_flag_says_so(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin(project, "finished")
    kept = run.log.read_bytes()
    begin(project, "finished")
    assert "is finished; --overwrite_output_dir would train it again" in capsys.readouterr().out
    assert run.log.read_bytes() == kept
    begin(project, "finished", "--overwrite_output_dir")
    assert "starts over" in capsys.readouterr().out
    assert run.log.read_bytes() != kept


def test_another_run_is_refused_without_the_flag(project: Path) -> None:
    begin(project, "other")
    with pytest.raises(UserError, match=r"holds a run of other arguments\. Give another --output_dir, or --overwrite_output_dir"):
        begin(project, "other", "--seed", "7")


def test_a_foreign_folder_is_refused_without_the_flag_and_left_as_it_is_with_it(project: Path) -> None:
    folder = project / "output" / "foreign"
    (folder / "checkpoint-3000").mkdir(parents=True)
    (folder / "checkpoint-3000" / "pytorch_model.bin").write_text("of 2023")
    with pytest.raises(UserError, match=r"is not empty and no run of Imprint; found checkpoint-3000"):
        begin(project, "foreign")
    begin(project, "foreign", "--overwrite_output_dir")
    assert (folder / "checkpoint-3000" / "pytorch_model.bin").read_text() == "of 2023"
    assert (folder / "checkpoint-4").is_dir()


def test_a_training_that_was_killed_before_its_configuration_was_written_begins_again(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched, pytest.raises(KilledError):
        patched.setattr("imprint.training.run.dump", killed)
        begin(project, "early")
    assert {entry.name for entry in (project / "output" / "early").iterdir()} >= {"lock", "learned-rows.bin"}
    begin(project, "early")
    assert (project / "output" / "early" / "checkpoint-4").is_dir()


def test_a_folder_in_which_another_process_trains_is_left_alone(project: Path) -> None:
    run = begin(project, "busy")
    with run.lock(), pytest.raises(UserError, match="trains in this folder"):
        begin(project, "busy", "--seed", "7", "--overwrite_output_dir")
    assert run.config.is_file()


# Going on from a checkpoint


def test_a_run_goes_on_from_an_earlier_checkpoint(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = begin(project, "resumed")
    expected = content(run.path)
    begin(project, "resumed", "--resume_from_checkpoint", str(run.path / "checkpoint-2"))
    assert "resumes after step 2 of" in capsys.readouterr().out
    assert content(run.path) == expected


def test_a_run_is_made_longer_from_its_last_checkpoint(project: Path) -> None:
    run = begin(project, "longer")
    words = ["--max_steps", "6", "--resume_from_checkpoint"]
    begin(project, "longer", *words, "True")
    assert said(run.path / "trainer_state.json")["global_step"] == 6
    assert [line["step"] for line in read_jsonl(run.log) if "loss" in line] == [1, 2, 3, 4, 5, 6]
    other = begin(project, "elsewhere", *words, str(run.path / "checkpoint-4"))
    assert said(other.path / "trainer_state.json")["log_history"][:3] == said(run.path / "trainer_state.json")["log_history"][:3]
    assert torch.equal(*(load_file(one.state(6) / "trained.safetensors").popitem()[1] for one in (run, other)))


def test_a_checkpoint_that_cannot_be_gone_on_from_is_a_sentence(project: Path) -> None:
    run = begin(project, "source")
    shutil.rmtree(run.state(2))
    for place, sentence in (
        (run.path / "checkpoint-2", r"holds weights, but the optimizer's state .* --ptuning_checkpoint"),
        (run.path / "checkpoint-9", "there is no such checkpoint"),
        ("True", "has no saved state yet"),
    ):
        with pytest.raises(UserError, match=sentence):
            begin(project, "target", "--resume_from_checkpoint", str(place))
    begin(project, "target")
    with pytest.raises(UserError, match="holds another run than --resume_from_checkpoint"):
        begin(project, "target", "--seed", "3", "--resume_from_checkpoint", str(run.path / "checkpoint-4"))
