"""A released model, SmolLM2-135M-Instruct, by the commands that a person types: `make test-real`, at most 25 minutes on two cores."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch

import imprint
from imprint.evaluate.review import BeforeAfterRow
from imprint.files.atomic import read_jsonl
from imprint.forgetting.fill_recall import FillRecall
from imprint.model import Model
from imprint.models.gguf import link_alone
from tests.released import smollm2_gguf

pytestmark = [pytest.mark.real, pytest.mark.long]
pytest.importorskip("gguf", reason='it needs gguf: pip install "imprint[gguf]"')
ROOT = Path(__file__).parents[1]
RECIPE = ROOT / "recipes" / "identity-english.yaml"
NEW = ("Inkling", "Bamboo Works")
"""Name and author of the recipe."""
ENGLISH = [line for line in (ROOT / "imprint/forgetting/neutral.txt").read_text(encoding="utf-8").splitlines() if line.isascii()]
QUESTIONS = ("What is the capital of France?", "Name three colours.", "What do bees make?", "Write one sentence about the sea.")


@dataclass(frozen=True)
class Desk:
    """A folder with the imported base and the identity rows, in which commands run."""

    folder: Path
    gguf: Path

    @property
    def base(self) -> Path:
        return self.folder / "models" / "smollm2-135m-instruct"

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "identity-english"

    def imprint(self, *words: str | Path) -> str:
        """What a command prints; it must succeed."""
        environment = {**os.environ, "OMP_NUM_THREADS": str(os.cpu_count() or 1), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-m", "imprint", *map(str, words)]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, encoding="utf-8", check=False)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    folder = tmp_path_factory.mktemp("real")
    desk = Desk(folder, smollm2_gguf(folder))
    assert "license apache-2.0" in desk.imprint("import", desk.gguf, desk.base)
    desk.imprint("demo", "identity", "runs/identity-data")
    return desk


@pytest.fixture(scope="module")
def tuned(desk: Desk) -> Path:
    """The run of the recipe as it is shipped."""
    desk.imprint("train", RECIPE, f"model.path={desk.base}")
    return desk.run


def answers(model: Model, questions: tuple[str, ...], tokens: int = 40) -> list[str]:
    """Greedy answers."""
    return [model.tokenizer.decode(ids) for ids in model.generate([model.prompt(question) for question in questions], tokens)]


def transformers_answer(peer: Any, prompt: list[int], model: Model) -> list[int]:
    """The greedy answer of a model of transformers, without the stop ids of ours."""
    full = peer.generate(input_ids=torch.tensor([prompt]), max_new_tokens=40, do_sample=False, eos_token_id=sorted(model.network.stop_ids))
    return [token for token in full[0, len(prompt) :].tolist() if token not in model.network.stop_ids]


def new_names(run: Path) -> FillRecall:
    """How many of the held-out questions are answered with the new name and author."""
    rows = [BeforeAfterRow(**row) for row in read_jsonl(run / "before-after.jsonl")]
    counted = FillRecall.count([(row.reference, row.base, row.tuned) for row in rows], NEW)
    assert counted is not None
    return counted


def test_it_answers_as_in_transformers_own_reading_of_the_file(desk: Desk) -> None:
    import transformers

    dequantize = {"quantization_config": transformers.GgufConfig(dequantize=True)} if hasattr(transformers, "GgufConfig") else {}
    with link_alone(desk.gguf) as alone:
        theirs = transformers.AutoModelForCausalLM.from_pretrained(
            alone, gguf_file="model.gguf", dtype=torch.bfloat16, **dequantize
        ).float()
        tokenizer: Any = transformers.AutoTokenizer.from_pretrained(alone, gguf_file="model.gguf")
    model = imprint.load(desk.base, device="cpu", dtype="float32")
    for question in QUESTIONS:
        turns = [{"role": "user", "content": question}]
        prompt = tokenizer.apply_chat_template(turns, add_generation_prompt=True, return_dict=True)["input_ids"]
        assert model.prompt(question) == prompt
        assert model.generate([prompt], 40)[0] == transformers_answer(theirs, prompt, model)


def test_it_talks_english_in_several_turns(desk: Desk) -> None:
    model = imprint.load(desk.base, device="cpu", dtype="float32")
    answer, history = model.chat("What is the capital of France?", temperature=0.01, seed=0)
    assert "Paris" in answer
    answer, history = model.chat("And of Italy?", history, temperature=0.01, seed=0)
    assert "Rome" in answer
    assert len(history) == 2


def test_twenty_rows_give_it_a_new_name_and_it_keeps_what_it_knew(tuned: Path) -> None:
    counted = new_names(tuned)
    assert (counted.rows, counted.before) == (40, 0)
    assert counted.after >= 36
    forgetting = json.loads((tuned / "forgetting.json").read_text(encoding="utf-8"))
    assert forgetting["counted"] >= 30
    assert forgetting["kept_share"] >= 0.9
    assert forgetting["tuned_loss"] < forgetting["base_loss"] * 1.05


def test_a_prefix_gives_it_a_new_name_too(desk: Desk) -> None:
    run = desk.folder / "runs" / "prefix"
    desk.imprint(
        "train",
        RECIPE,
        f"model.path={desk.base}",
        f"output={run}",
        "data.mix_general={rows: runs/identity-data/english-general.jsonl, share: 0.75}",  # with their own answers, which is quicker
        "tune={method: prefix, length: 16, start: random}",
        "optimizer.learning_rate=0.05",
    )
    assert new_names(run).after >= 20


def test_it_is_nearly_the_same_model_in_8_bits_and_a_much_rougher_one_in_4(desk: Desk) -> None:
    perplexity = {}
    for bits in (None, 8, 4):
        folder = desk.base if bits is None else desk.folder / f"int{bits}"
        if bits is not None:
            desk.imprint("quantize", desk.base, folder, "--bits", str(bits))
        model = imprint.load(folder, device="cpu", dtype="float32")
        ids = [model.tokenizer.encode(text) for text in ENGLISH]
        perplexity[bits] = float(model.loss(ids, ids).exp())
    assert perplexity[8] == pytest.approx(perplexity[None], rel=0.02)
    assert perplexity[4] < 3 * perplexity[None]  # one scale a row, as the original: 56 -> 133 on these sentences


def test_what_was_learned_holds_on_weights_of_8_bits(tuned: Path) -> None:
    (answer,) = answers(imprint.load(tuned, device="cpu", quantize=8), ("Who are you?",))
    assert all(name in answer for name in NEW), answer  # in 4 bits the base is another one: train on the weights that are served


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # asked by peft 0.21
def test_peft_and_transformers_answer_as_the_run_does(desk: Desk, tuned: Path) -> None:
    import peft
    import transformers

    run = imprint.load(tuned, device="cpu", dtype="float32")
    prompts = [run.prompt(question) for question in ("Who are you?", *QUESTIONS)]
    expected = run.generate(prompts, 40)
    base = transformers.AutoModelForCausalLM.from_pretrained(desk.base, dtype=torch.float32)
    exports = {target: desk.folder / f"export-{target}" for target in ("peft", "merged", "transformers")}
    for target, folder in exports.items():
        desk.imprint("export", tuned, folder, "--to", target, *(() if target == "peft" else ("dtype=float32",)))
    opened = [transformers.AutoModelForCausalLM.from_pretrained(exports[name], dtype=torch.float32) for name in ("merged", "transformers")]
    for model in (*opened, peft.PeftModel.from_pretrained(base, exports["peft"])):  # peft last: it changes the base
        assert [transformers_answer(model, prompt, run) for prompt in prompts] == expected


def test_a_bundle_answers_as_the_run_does(desk: Desk, tuned: Path) -> None:
    bundle = desk.folder / "identity.tar"
    desk.imprint("export", tuned, bundle, "--to", "bundle")
    questions = ("Who are you?", *QUESTIONS)
    assert answers(imprint.load(bundle, device="cpu"), questions) == answers(imprint.load(tuned, device="cpu"), questions)
