"""The flags of ChatGLM-6B's ptuning/main.py that decide something here, each said once, and reading them.

Names and defaults: ptuning/arguments.py and main.py of THUDM/ChatGLM-6B, TrainingArguments of transformers 4.27.
"""

import difflib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from imprint.compat.retired import RETIRED
from imprint.config import Field, Section
from imprint.config.problems import explain_errors
from imprint.config.section import union_members
from imprint.errors import UserError

TRUE, FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")
NUMBER = re.compile(r"-\.?\d")


class OriginalFlags(Section):
    """What an old command line asks for."""

    do_train: bool = Field(False, description="Train on `train_file`.")
    do_eval: bool = Field(False, description="Evaluate on `validation_file`, after training if there is any.")
    do_predict: bool = Field(False, description="Answer `test_file`, write generated_predictions.txt and score it.")
    train_file: Path | None = Field(None, description="Rows to learn from.")
    validation_file: Path | None = Field(None, description="Rows for do_eval.")
    test_file: Path | None = Field(None, description="Rows for do_predict.")
    prompt_column: str | None = Field(None, min_length=1, description="Column of the question.")
    response_column: str | None = Field(None, min_length=1, description="Column of the answer.")
    history_column: str | None = Field(None, min_length=1, description="Column of the earlier turns of a chat.")
    source_prefix: str = Field("", description="Text put before every prompt.")
    model_name_or_path: str = Field(min_length=1, description='Folder of the base, or "embedded"; also a checkpoint of all weights.')
    ptuning_checkpoint: Path | None = Field(None, description="A prefix to evaluate or to go on from: checkpoint folder or file.")
    output_dir: Path = Field(description="Where everything is written; a run folder for the other commands too.")
    overwrite_output_dir: bool = Field(False, description="Begin anew where output_dir holds another run or a finished one.")
    max_source_length: int = Field(1024, ge=4, description="Most tokens of a prompt.")
    max_target_length: int = Field(128, ge=4, description="Most tokens of an answer that is learned.")
    val_max_target_length: int | None = Field(None, ge=4, description="Most tokens of a reference; as max_target_length if not given.")
    per_device_train_batch_size: int = Field(8, ge=1, description="Rows computed at once in training.")
    per_device_eval_batch_size: int = Field(8, ge=1, description="Prompts answered at once.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="How many such batches make one optimizer step.")
    predict_with_generate: bool = Field(False, description="Evaluate by answers and their scores; otherwise by the loss alone.")
    num_beams: int | None = Field(None, ge=1, description="More than one searches beams instead of sampling.")
    generation_num_beams: int | None = Field(None, ge=1, description="As num_beams, where that is not given.")
    max_steps: int = Field(-1, ge=-1, description="Optimizer steps; -1 goes by num_train_epochs.")
    num_train_epochs: float = Field(3.0, gt=0, description="Times through the rows, where max_steps is not given.")
    logging_steps: int = Field(500, ge=1, description="Steps between two losses in trainer_state.json.")
    logging_first_step: bool = Field(False, description="Put the loss of the first step there too.")
    save_steps: int = Field(500, ge=1, description="Steps between two checkpoints; the last step has one in any case.")
    save_total_limit: int | None = Field(None, ge=0, description="How many checkpoints are kept; all if not given or 0.")
    evaluation_strategy: Literal["no", "steps", "epoch"] = Field(
        "no",
        description="steps or epoch: measure the loss on validation_file every eval_steps; adapter/ keeps the best, and do_eval follows.",
    )
    eval_steps: int | None = Field(None, ge=1, description="Steps between these losses; as logging_steps if not given.")
    learning_rate: float = Field(5e-5, gt=0, le=10, description="Learning rate of the first step.")
    lr_scheduler_type: Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"] = Field(
        "linear", description="How the rate falls: restarts (one cycle) is cosine, polynomial (power 1) is linear."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps over which the rate rises.")
    warmup_ratio: float = Field(0.0, ge=0, le=1, description="The same as a share of the run.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Largest norm of the gradient; 0 sets no limit.")
    pre_seq_len: int | None = Field(None, ge=1, le=2048, description="Length of the prefix; without it all parameters are tuned.")
    prefix_projection: bool = Field(False, description="Compute the prefix through two linear layers.")
    quantization_bit: Literal[4, 8] | None = Field(None, description="Round the frozen base to so many bits.")
    max_train_samples: int | None = Field(None, ge=1, description="Learn from the first so many rows.")
    max_eval_samples: int | None = Field(None, ge=1, description="Evaluate the first so many rows.")
    max_predict_samples: int | None = Field(None, ge=1, description="Answer the first so many rows.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    fp16_full_eval: bool = Field(False, description="Evaluate all weights in float16 on a GPU.")
    bf16_full_eval: bool = Field(False, description="Evaluate in bfloat16.")
    resume_from_checkpoint: str | None = Field(None, min_length=1, description="Go on from this checkpoint-N of a run of Imprint.")
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of the start, of the order of rows, of dropout and of sampling.")
    gradient_checkpointing: bool = Field(True, description="Compute activations again, as the original always did; false is faster.")
    group_by_length: bool = Field(False, description="Put rows of similar length into one batch.")
    deepspeed: Path | None = Field(
        None, description="A DeepSpeed JSON file: all weights are tuned by one process for each GPU, which DeepSpeed lets share the memory."
    )
    fp16: bool = Field(
        False, description="With `deepspeed`: compute all weights in float16. Otherwise a frozen base is float16 on a GPU anyway."
    )
    no_cuda: bool = Field(False, description="Compute on the CPU.")


def read_flags(arguments: Sequence[str]) -> tuple[OriginalFlags, list[str]]:
    """What a command line asks for, and a sentence for each flag on it that decides nothing here.

    `arguments` are `--flag value`, `--flag=value`, `--flag` and `--no_flag`, the last one winning, or one JSON file. Raises UserError with
    all problems at once: unknown flags, values out of bounds, flags that are missing.
    """
    alone = len(arguments) == 1 and arguments[0].endswith(".json")
    given = _from_file(Path(arguments[0])) if alone else _from_words(arguments)
    wrong = [unknown for name in given if name not in OriginalFlags.model_fields if (unknown := _unknown(name))]
    said = []
    for name in given.keys() & RETIRED.keys():
        refusal = RETIRED[name].refusal(given[name])
        wrong += [f"--{name} {refusal}"] if refusal else []
        said.append(f"--{name}: {RETIRED[name].reason}")
    values = {name: _typed(name, value) for name, value in given.items() if name in OriginalFlags.model_fields and value is not None}
    empty = [name for name in values if values[name] == "" and Path in union_members(OriginalFlags.model_fields[name].annotation)]
    wrong += [f"--{name} is empty. Give a path; where it comes from a variable, set the variable." for name in empty]
    try:
        flags = OriginalFlags.model_validate_json(json.dumps(values))
    except ValidationError as error:
        wrong += [f"--{problem.path} {problem.text}" for problem in explain_errors(error.errors(include_url=False), OriginalFlags)]
    if wrong:
        raise UserError("\n".join(wrong))
    return flags, sorted(said)


def _from_file(path: Path) -> dict[str, object]:
    try:
        fields = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: there is no such file. Give a JSON file of arguments, or the flags themselves.") from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{path}: cannot be read as JSON ({error}). It must hold one object of flags and values.") from error
    if not isinstance(fields, dict):
        raise UserError(
            f'{path}: must hold one JSON object of flags and values, such as {{"do_train": true}}, got {type(fields).__name__}.'
        )
    return {_name(name): value for name, value in fields.items()}


def _from_words(arguments: Sequence[str]) -> dict[str, object]:
    """The flags with their values as text; a flag without a value is true, several values are a list."""
    given: dict[str, object] = {}
    name = ""
    for word in arguments:
        if word.startswith("--") and len(word) > 2:
            flag, equals, value = word[2:].partition("=")
            name = _name(flag)
            if name.startswith("no_") and name not in (*OriginalFlags.model_fields, *RETIRED):
                name, equals, value = name.removeprefix("no_"), "=", "false"
            given[name] = value if equals else True
        elif not name or (word.startswith("-") and len(word) > 1 and not NUMBER.match(word)):
            raise UserError(f'"{word}" belongs to no flag. Write --flag value, as in the old train.sh, or give one JSON file of arguments.')
        else:
            held = given[name]
            given[name] = word if held is True else [*held, word] if isinstance(held, list) else [held, word]
    return given


def _name(flag: str) -> str:
    """A flag's name as Python writes it: transformers takes dashes too, and renamed some flags."""
    name = flag.replace("-", "_").replace("per_gpu_", "per_device_")
    return {"eval_strategy": "evaluation_strategy", "use_cpu": "no_cuda"}.get(name, name)


def _unknown(name: str) -> str:
    """What to say about a flag that nobody knows; nothing about one that is known."""
    if name in RETIRED:
        return ""
    near = difflib.get_close_matches(name, [*OriginalFlags.model_fields, *RETIRED], n=1)
    hint = f"Did you mean --{near[0]}?" if near else "Take it out."
    return f"--{name} is no flag of the original main.py. {hint} `imprint main` lists those that decide something."


def _typed(name: str, value: object) -> object:
    """A value as its flag holds it; what cannot be one stays as it is, for the sentence that refuses it."""
    kinds = union_members(OriginalFlags.model_fields[name].annotation)
    words = [word for kind in kinds for word in get_args(kind)]
    if not isinstance(value, str):
        return value
    if bool in kinds:
        return _truth(value)
    for kind in (int, float):
        if kind in kinds or any(isinstance(word, kind) for word in words):
            return _number(value, kind)
    return value


def _truth(text: str) -> object:
    lowered = text.lower()
    return lowered in TRUE if lowered in (*TRUE, *FALSE) else text


def _number(text: str, kind: type[int] | type[float]) -> object:
    try:
        return kind(text)
    except ValueError:
        return text
