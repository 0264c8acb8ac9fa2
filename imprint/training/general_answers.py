"""The base's own answers to the general questions, given before training begins and kept in the run folder.

Rows from elsewhere teach the base somebody else's answers. Its own hold it where it is: their loss is lowest for the base itself.
"""

import hashlib
import json
import math
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import torch

from imprint.data.batches import longest_first_batches
from imprint.data.dataset import DataSplits
from imprint.data.general_rows import answered_row, prompt_ids
from imprint.data.section import TextsSection
from imprint.engine.world import World
from imprint.files.atomic import append_jsonl, read_jsonl, write_jsonl
from imprint.inference.generate import generate
from imprint.inference.request import Request
from imprint.inference.sampling import NotFiniteError, row_seed
from imprint.messages import Bilingual, UserError
from imprint.model import Model
from imprint.progress import Progress
from imprint.runs import RunFolder
from imprint.runtime import is_out_of_memory
from imprint.training.job import build_batches
from imprint.training.recipe import Recipe
from imprint.tune.fingerprint import fingerprint, same_base

BATCH_ROWS: Final = 32
"""Questions that are answered at once; fewer where memory runs out."""


@dataclass(frozen=True)
class Answer:
    """An answer of the base."""

    ids: tuple[int, ...]
    """Its ids, without the end id."""
    finished: bool
    """Whether it ended within the limit."""


@dataclass(frozen=True)
class Questions:
    """The general questions of a run, and how the base answers them."""

    prompts: Sequence[Sequence[int]]
    """The ids of every prompt, in file order; not all of them need be asked."""
    wanted: int
    """How many of them the steps of the run take."""
    max_new_tokens: int
    """One token less than the length limit, which counts the end."""
    temperature: float
    """How tokens are chosen; 0 is greedy."""
    seed: int
    """Seed of which questions are asked, and of sampling."""


def with_base_answers(split: DataSplits, recipe: Recipe, run: RunFolder, model: Model, world: World) -> DataSplits:
    """The splits whose general rows have the answers of the base, if the recipe says so: call it before anything is tuned or sharded.

    The main process answers, and writes each batch into the run folder at once: a stopped run goes on after it, and a resumed one learns
    the same answers. Only as many questions are asked as the run takes, a random part of the rest. Raises UserError for answers in the
    folder that do not belong to these questions, and NotFiniteError where the base cannot answer.
    """
    data = recipe.data
    if isinstance(data, TextsSection) or data.mix_general is None or not data.mix_general.asks_base:
        return split
    assert split.limits is not None, "the rows are encoded"
    batches = build_batches(recipe, split)
    epochs = math.ceil(batches.epochs_at(recipe.train.steps or batches.total_steps(recipe.train.epochs)))
    limit, seed = split.limits.answer, recipe.train.seed
    questions = Questions(
        [prompt_ids(row) for row in split.general],
        min(len(split.general), epochs * split.general_per_epoch),
        limit - 1,
        data.mix_general.temperature,
        seed,
    )
    answers = world.on_main(lambda: answer_questions(questions, run, model), slow=True)
    end = model.template.end_id
    rows = [answered_row(questions.prompts[row], one.ids, end if one.finished else None) for row, one in answers.items()]
    return replace(split, general=rows, sources=(*split.sources, _note(answers.values(), run, limit).line))


def answer_questions(questions: Questions, run: RunFolder, model: Model) -> dict[int, Answer]:
    """The answers by the index of their question, in file order: those in the run folder, and new ones to what is missing there."""
    file, begun = run.general_answers, bool(run.states())
    settings = _settings(questions, model)
    kept = _read_answers(run, settings, questions, model)
    order = list(range(len(questions.prompts)))
    random.Random(f"{questions.seed}/questions").shuffle(order)
    selected = sorted(order[: len(kept) if begun and kept else questions.wanted])  # a run that has begun goes on with its rows
    pending = [row for row in selected if row not in kept]
    if not pending and len(kept) == len(selected):
        return {row: kept[row] for row in selected}
    if not kept:
        write_jsonl(file, [settings])
    title = Bilingual("the base answers general questions", "底座回答通用问题")
    with Progress(title, len(selected), "row", start=len(selected) - len(pending)) as progress:
        for batch in longest_first_batches([len(questions.prompts[row]) for row in pending], BATCH_ROWS):
            for row, answer in _answer([pending[index] for index in batch], questions, model):
                append_jsonl(file, _line(row, answer, questions, model))
                kept[row] = answer
            progress.advance(len(batch))
    answers = {row: kept[row] for row in selected}
    write_jsonl(file, [settings, *(_line(row, answer, questions, model) for row, answer in answers.items())])
    return answers


def _answer(rows: Sequence[int], questions: Questions, model: Model) -> Iterator[tuple[int, Answer]]:
    """(row, its answer) of each of these questions; a batch that runs out of memory is halved."""
    limit, temperature, seed = questions.max_new_tokens, questions.temperature, questions.seed
    try:
        answers = generate(model, [Request(questions.prompts[row], limit, temperature, seed=row_seed(seed, row)) for row in rows])
    except NotFiniteError as error:
        raise error.prefixed(f"data.mix_general.answers, general row {rows[error.row] + 1}: ") from error
    except (RuntimeError, MemoryError) as error:
        if not is_out_of_memory(error) or len(rows) == 1:
            raise
    else:
        for row, ids in zip(rows, answers, strict=True):
            yield row, Answer(tuple(ids), len(ids) < limit)
        return
    if model.device.type == "cuda":
        torch.cuda.empty_cache()
    for half in (rows[: len(rows) // 2], rows[len(rows) // 2 :]):
        yield from _answer(half, questions, model)


def _settings(questions: Questions, model: Model) -> dict[str, Any]:
    """What an answer depends on, the first line of the file."""
    weight_format = model.network.weight_format
    return {
        "base": fingerprint(model.network),
        "bits": weight_format and weight_format.name,
        "questions": hashlib.sha256(json.dumps([list(prompt) for prompt in questions.prompts]).encode()).hexdigest()[:16],
        "max_new_tokens": questions.max_new_tokens,
        "temperature": questions.temperature,
        "seed": questions.seed if questions.temperature else None,
    }


def _read_answers(run: RunFolder, settings: Mapping[str, Any], questions: Questions, model: Model) -> dict[int, Answer]:
    """The answers that a stopped run has kept; none if they are to other questions, of another base or with other settings.

    Raises UserError for such answers if the run has learned from them.
    """
    lines = read_jsonl(run.general_answers)
    if not lines:
        return {}
    head = lines[0] if isinstance(lines[0], dict) else {}
    if _agree(head, settings):
        return {line["row"]: Answer(tuple(line["ids"]), line["finished"]) for line in lines[1:] if _is_answer(line, questions, model)}
    if run.states():
        raise UserError(
            Bilingual(
                f"{run.general_answers}: these answers, from which this run learns, are to other general questions or of another base. Put "
                "back the file of data.mix_general.rows or the base, or choose another folder (output=...).",
                f"{run.general_answers}：该训练所学的通用回答与现在的通用问题或底座不符：请放回原来的通用数据或底座，或换一个目录（output=...）。",
            )
        )
    return {}


def _agree(kept: Mapping[str, Any], settings: Mapping[str, Any]) -> bool:
    """Whether answers were given under these settings; the base's fingerprint may differ as far as its precision does."""
    match kept.get("base"):
        case [*numbers] if all(isinstance(number, float | int) for number in numbers):
            return {**kept, "base": settings["base"]} == settings and same_base(numbers, settings["base"])
    return False


def _is_answer(line: object, questions: Questions, model: Model) -> bool:
    """Whether a line holds an answer to one of the questions, in ids of this vocabulary."""
    match line:
        case {"row": int(row), "ids": [*ids], "finished": bool()}:
            known = all(type(token) is int and 0 <= token < model.network.vocab_size for token in ids)
            return known and 0 <= row < len(questions.prompts) and len(ids) <= questions.max_new_tokens
    return False


def _line(row: int, answer: Answer, questions: Questions, model: Model) -> dict[str, Any]:
    """An answer as a line of the file: its ids, which are learned, and both texts, for a person who reads it."""
    prompt, text = (model.tokenizer.decode(list(ids)) for ids in (questions.prompts[row], answer.ids))
    return {"row": row, "prompt": prompt, "answer": text, "ids": list(answer.ids), "finished": answer.finished}


def _note(answers: Collection[Answer], run: RunFolder, limit: int) -> Bilingual:
    """What came of it, for the screen."""
    cut, empty = sum(not answer.finished for answer in answers), sum(not answer.ids for answer in answers)
    english = f"{len(answers)} general questions are answered by the base itself ({run.general_answers})"
    chinese = f"{len(answers)} 个通用问题由底座自己回答"
    if cut:
        english += f"; {cut} answers are cut at data.max_target_length={limit} and learned without an end"
        chinese += f"，其中 {cut} 个回答到达长度上限，按无结尾学习"
    if empty:
        english, chinese = f"{english}; {empty} are empty", f"{chinese}，{empty} 个为空"
    return Bilingual(english, chinese)
