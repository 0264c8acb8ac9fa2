import errno
import json
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

import imprint
from imprint.engine.engine import Engine
from imprint.engine.section import OptimizerSection
from imprint.messages import UserError
from imprint.runtime import seed_everything
from imprint.training.state import OPTIMIZER, PROGRESS, RANDOM, TRAINED, DamagedStateError, TrainProgress, read_saved_state, save_state
from imprint.tune.section import PrefixSection
from imprint.tune.tuner import Tuner, build_tuner
from tests.tiny import tiny_base

FILES = (PROGRESS, TRAINED, OPTIMIZER, RANDOM)


def begin(base: Path, length: int = 4) -> tuple[Tuner, Engine]:
    """A prefix of random numbers on the tiny base, with its optimizer."""
    model = imprint.load(base, device="cpu")
    tuner = build_tuner(model.network, PrefixSection(length=length, start="random"), model.tokenizer.encode, checkpointing=False)
    engine = Engine.start(tuner, tuner.trainable_parameters(), OptimizerSection(), 10, device=model.device)
    return tuner, engine


def step(tuner: Tuner, engine: Engine, number: int) -> None:
    """Some update or other."""
    loss = torch.stack([(parameter * torch.randn_like(parameter)).sum() for parameter in tuner.trainable_parameters().values()]).sum()
    engine.backward(loss, last=True)
    engine.update(number, apply=True)


def values(tuner: Tuner) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in tuner.trainable_parameters().items()}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_base(tmp_path_factory.mktemp("state") / "base")


@pytest.fixture
def saved(base: Path, tmp_path: Path) -> Path:
    """A state after two updates."""
    seed_everything(3)
    tuner, engine = begin(base)
    step(tuner, engine, 1)
    step(tuner, engine, 2)
    save_state(tmp_path / "state-000002", engine, TrainProgress(step=2, best_step=1, best_loss=1.25, seconds=3.5, data="abc"))
    return tmp_path / "state-000002"


def test_a_state_brings_back_everything_that_decides_the_next_steps(saved: Path, base: Path) -> None:
    ends = []
    for seed in (11, 12):  # whatever was drawn before
        seed_everything(seed)
        tuner, engine = begin(base)
        step(tuner, engine, 1)
        progress = read_saved_state(saved).restore(engine)
        assert progress == TrainProgress(step=2, best_step=1, best_loss=1.25, seconds=3.5, data="abc")
        step(tuner, engine, 3)
        ends.append((values(tuner), torch.rand(3), random.random()))
    (one, numbers, number), (two, other_numbers, other_number) = ends
    assert all(torch.equal(tensor, two[name]) for name, tensor in one.items())
    assert torch.equal(numbers, other_numbers)
    assert number == other_number


def test_a_state_holds_what_is_learned_and_not_the_base(saved: Path) -> None:
    assert sorted(file.name for file in saved.iterdir()) == sorted(FILES)
    assert (saved / "trained.safetensors").stat().st_size < 8192
    assert [entry.name for entry in saved.parent.iterdir()] == [saved.name]


def test_a_state_that_cannot_be_finished_is_not_there(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tuner, engine = begin(base)

    def fail() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("imprint.training.state.rng_state", fail)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path / "state-000001", engine, TrainProgress(step=1))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [None, b"", b"{}", b"[1]", b"3", b"\x80\x02garbage"])
def test_any_damage_is_found_before_anything_is_changed(name: str, damage: bytes | None, saved: Path) -> None:
    (saved / name).unlink() if damage is None else (saved / name).write_bytes(damage)
    before = torch.get_rng_state()
    with pytest.raises(DamagedStateError, match=r"."):
        read_saved_state(saved)
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize("name", [TRAINED, OPTIMIZER, RANDOM])
def test_a_single_bit_that_fell_over_is_found(name: str, saved: Path) -> None:
    content = bytearray((saved / name).read_bytes())
    content[-40] ^= 4
    (saved / name).write_bytes(content)
    with pytest.raises(DamagedStateError, match=f"{name} is not what was written"):
        read_saved_state(saved)


@pytest.mark.parametrize("error", [OSError(errno.ENOMEM, "Cannot allocate memory"), RuntimeError("can't allocate memory: you tried")])
def test_a_state_for_which_there_is_no_memory_now_is_not_damaged(error: Exception, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_args: object, **_options: object) -> None:
        raise error

    monkeypatch.setattr("imprint.training.random_file.read_torch_file", refuse)
    with pytest.raises(MemoryError, match="allocate memory"):
        read_saved_state(saved)


@pytest.mark.parametrize("code", [errno.EACCES, errno.ESTALE, errno.EMFILE])
def test_a_state_that_may_not_be_read_now_is_not_damaged(code: int, saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, *_args: object, **_options: object) -> None:
        raise OSError(code, os.strerror(code), str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(UserError, match=rf"position\.json: cannot be read: {os.strerror(code)}\. Nothing was changed"):
        read_saved_state(saved)


def test_a_state_of_another_shape_is_a_sentence(saved: Path, base: Path) -> None:
    _tuner, engine = begin(base, length=5)
    with pytest.raises(
        UserError, match=r"the saved state does not fit: transformer\.prefix_encoder\.embedding\.weight must have the shape"
    ):
        read_saved_state(saved).restore(engine)


@pytest.mark.parametrize(
    ("field", "other"),
    [
        ("scalar_state", [1, "x"]),
        ("random", [{"python": 1, "torch": 2, "cuda": 3}]),
        ("random", [{"python": (3, (10**400,) * 625, None), "torch": 2, "cuda": 3}]),
    ],
)
def test_counters_and_random_states_of_another_form_are_a_sentence(field: str, other: Any, saved: Path, base: Path) -> None:
    _tuner, engine = begin(base)
    with pytest.raises(UserError, match=r"are not what Imprint wrote .* Delete this folder to resume from the state before it"):
        replace(read_saved_state(saved), **{field: other}).restore(engine)


def rewritten(folder: Path, **changes: object) -> None:
    """Write position.json with other values."""
    fields = json.loads((folder / PROGRESS).read_text()) | changes
    (folder / PROGRESS).write_text(json.dumps(fields))


@pytest.mark.parametrize(
    "changes",
    [
        {"rescues": "a"},
        {"rescues": None},
        {"best_loss": "low"},
        {"rate_scale": "1"},
        {"seconds": None},
        {"piece_tokens": [1]},
        {"step": 2.0},
        {"best_loss": {"a": {}}},
        {"best_loss": float("nan")},
        {"best_step": True},
        {"best_step": -1},
        {"best_step": 10**18},
        {"skipped": -1},
        {"seconds": -1.0},
        {"seconds": 1e308},
        {"rescues": -1},
        {"rescues": 10**400},
        {"rate_scale": 0.0},
        {"rate_scale": -1e308},
        {"rate_scale": 1e308},
        {"piece_tokens": 0},
        {"data": "\ud800"},
        {"unknown": 1},
        {"checksums": {"/dev/zero": 0}},
        {"checksums": {"../state-000002/random.pt": 0}},
        {"checksums": [1]},
        {"checksums": {}},
    ],
)
def test_a_position_that_imprint_did_not_write_is_damage(changes: dict[str, object], saved: Path) -> None:
    rewritten(saved, **changes)
    with pytest.raises(DamagedStateError):
        read_saved_state(saved)


@pytest.mark.parametrize("steps", [-1, 10**400, 1.5, "2", None, True])
def test_counters_with_which_no_step_can_be_made_are_refused(steps: object, saved: Path, base: Path) -> None:
    _tuner, engine = begin(base)
    rewritten(saved, counters={"steps": dict.fromkeys(engine.shapes, steps)})
    with pytest.raises(UserError, match=r"counters or random states in position\.json and random\.pt are not what Imprint wrote"):
        read_saved_state(saved).restore(engine)


@pytest.mark.parametrize("how", ["one moment", "no moment", "no counter"])
def test_moments_and_counters_that_do_not_belong_together_are_refused(how: str, saved: Path, base: Path) -> None:
    _tuner, engine = begin(base)
    moments = load_file(saved / OPTIMIZER)
    if how == "no counter":
        rewritten(saved, counters={"steps": {}})
    else:
        kept = {name: moments[name] for name in sorted(moments)[: how == "one moment"]}
        save_file(kept, saved / OPTIMIZER)
    with pytest.raises(UserError, match="are not what Imprint wrote"):
        read_saved_state(saved, verify=False).restore(engine)


def test_a_file_that_was_laid_beside_those_of_a_state_is_not_read(saved: Path) -> None:
    save_file({name: tensor * 7 for name, tensor in load_file(saved / TRAINED).items()}, saved / "z.safetensors")
    with pytest.raises(DamagedStateError, match=r"position\.json does not name the files of this state"):
        read_saved_state(saved)


@pytest.mark.parametrize(("file", "value"), [(TRAINED, "nan"), (OPTIMIZER, "inf"), (OPTIMIZER, "-1")])
def test_numbers_that_no_training_leaves_are_refused(file: str, value: str, saved: Path, base: Path) -> None:
    _tuner, engine = begin(base)
    save_file({name: tensor.clone().fill_(float(value)) for name, tensor in load_file(saved / file).items()}, saved / file)
    with pytest.raises(UserError, match=r"has numbers that no training leaves, such as NaN\. Delete this folder"):
        read_saved_state(saved, verify=False).restore(engine)


def test_moments_of_another_shape_are_refused(saved: Path, base: Path) -> None:
    _tuner, engine = begin(base)
    save_file({name: tensor[:1].clone() for name, tensor in load_file(saved / OPTIMIZER).items()}, saved / OPTIMIZER)
    with pytest.raises(UserError, match="the saved state does not fit"):
        read_saved_state(saved, verify=False).restore(engine)


@pytest.mark.parametrize("name", [TRAINED, OPTIMIZER])
def test_a_state_with_a_tensor_that_is_not_trained_is_refused_by_its_name(name: str, saved: Path, base: Path) -> None:
    save_file(load_file(saved / name) | {"zzz": torch.ones(1)}, saved / name)
    _tuner, engine = begin(base)

    with pytest.raises(UserError, match="it holds 'zzz', which is not trained here") as caught:
        read_saved_state(saved, verify=False).restore(engine)

    assert "其中的 'zzz' 不在此次训练之列" in str(caught.value)


def test_each_file_of_a_state_is_opened_once_for_all_its_tensors(saved: Path, base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _tuner, engine = begin(base)
    state, opened = read_saved_state(saved), list[Path]()

    def count(path: Path, framework: str) -> object:
        opened.append(path)
        return safe_open(path, framework=framework)

    monkeypatch.setattr("imprint.models.checkpoint.safe_open", count)
    state.restore(engine)

    assert sorted(file.name for file in opened) == sorted((TRAINED, OPTIMIZER))
