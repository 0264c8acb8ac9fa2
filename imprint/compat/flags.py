"""The flags of ChatGLM-6B's ptuning/main.py that have an effect here, and their parser.

Names and defaults: ptuning/arguments.py and main.py of THUDM/ChatGLM-6B, TrainingArguments of transformers 4.27.
"""

import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, get_args

from pydantic import ValidationError

from imprint.compat.ignored_flags import IGNORED_FLAGS
from imprint.config import Field, Section
from imprint.config.problems import explain_errors
from imprint.config.section import union_members
from imprint.files.reading import read_json
from imprint.messages import Bilingual, UserError, closest, did_you_mean, join_lines

TRUE, FALSE = ("true", "yes", "t", "y", "1"), ("false", "no", "f", "n", "0")
NUMBER = re.compile(r"-\.?\d")


class OriginalFlags(Section):
    """The flags of an old command line."""

    do_train: bool = Field(False, description="Train on `train_file`.")
    do_eval: bool = Field(False, description="Evaluate on `validation_file`, after training with do_train.")
    do_predict: bool = Field(False, description="Answer `test_file`, write generated_predictions.txt and score it.")
    train_file: Path | None = Field(None, description="Rows to train on.")
    validation_file: Path | None = Field(None, description="Rows for do_eval.")
    test_file: Path | None = Field(None, description="Rows for do_predict.")
    prompt_column: str | None = Field(None, min_length=1, description="Column of the question.")
    response_column: str | None = Field(None, min_length=1, description="Column of the answer.")
    history_column: str | None = Field(None, min_length=1, description="Column of the earlier turns of a chat.")
    source_prefix: str = Field("", description="Text put before every prompt.")
    model_name_or_path: str = Field(min_length=1, description='Folder of the base, or "embedded"; also a checkpoint of all weights.')
    ptuning_checkpoint: Path | None = Field(None, description="A prefix to evaluate or to train further: checkpoint folder or file.")
    output_dir: Path = Field(description="Folder to write to; the other commands take it as a run folder.")
    overwrite_output_dir: bool = Field(False, description="Start over if output_dir holds another run or a finished one.")
    max_source_length: int = Field(1024, ge=4, description="Maximum tokens of a prompt.")
    max_target_length: int = Field(128, ge=4, description="Maximum tokens of an answer in training.")
    val_max_target_length: int | None = Field(None, ge=4, description="Maximum tokens of a reference; max_target_length if not given.")
    per_device_train_batch_size: int = Field(8, ge=1, description="Rows of a forward pass in training.")
    per_device_eval_batch_size: int = Field(8, ge=1, description="Prompts per batch.")
    gradient_accumulation_steps: int = Field(1, ge=1, description="Forward passes of an optimizer step.")
    predict_with_generate: bool = Field(False, description="Generate answers and score them; otherwise only the loss is computed.")
    num_beams: int | None = Field(None, ge=1, description="Number of beams; more than one means beam search instead of sampling.")
    generation_num_beams: int | None = Field(None, ge=1, description="Used if num_beams is not given.")
    max_steps: int = Field(-1, ge=-1, description="Optimizer steps; -1 uses num_train_epochs.")
    num_train_epochs: float = Field(3.0, gt=0, description="Epochs, if max_steps is not given.")
    logging_steps: int = Field(500, ge=1, description="Steps between logged losses in trainer_state.json.")
    logging_first_step: bool = Field(False, description="Log the loss of the first step too.")
    save_steps: int = Field(500, ge=1, description="Steps between checkpoints; the last step always has one.")
    save_total_limit: int | None = Field(None, ge=0, description="Checkpoints to keep; all if not given or 0.")
    evaluation_strategy: Literal["no", "steps", "epoch"] = Field(
        "no",
        description="steps or epoch: measure the loss on validation_file every eval_steps; adapter/ keeps the best, and do_eval follows.",
    )
    eval_steps: int | None = Field(None, ge=1, description="Steps between these losses; logging_steps if not given.")
    learning_rate: float = Field(5e-5, gt=0, le=10, description="Learning rate of the first step.")
    lr_scheduler_type: Literal["linear", "cosine", "cosine_with_restarts", "polynomial", "constant", "constant_with_warmup"] = Field(
        "linear", description="How the rate decays: restarts (one cycle) is cosine, polynomial (power 1) is linear."
    )
    warmup_steps: int = Field(0, ge=0, description="Steps of linear warm-up.")
    warmup_ratio: float = Field(0.0, ge=0, le=1, description="Warm-up as a share of the run.")
    weight_decay: float = Field(0.0, ge=0, description="Decoupled weight decay.")
    max_grad_norm: float = Field(1.0, ge=0, description="Gradient norm to clip to; 0 does not clip.")
    pre_seq_len: int | None = Field(None, ge=1, le=2048, description="Length of the prefix; without it all parameters are tuned.")
    prefix_projection: bool = Field(False, description="Compute the prefix by a two-layer MLP.")
    quantization_bit: Literal[4, 8] | None = Field(None, description="Quantize the frozen base to this many bits.")
    max_train_samples: int | None = Field(None, ge=1, description="Train on the first N rows.")
    max_eval_samples: int | None = Field(None, ge=1, description="Evaluate the first N rows.")
    max_predict_samples: int | None = Field(None, ge=1, description="Answer the first N rows.")
    bf16: bool = Field(False, description="Compute in bfloat16.")
    fp16_full_eval: bool = Field(False, description="Evaluate all weights in float16 on a GPU.")
    bf16_full_eval: bool = Field(False, description="Evaluate in bfloat16.")
    resume_from_checkpoint: str | None = Field(None, min_length=1, description="Resume from this checkpoint-N of an Imprint run.")
    seed: int = Field(42, ge=0, lt=2**32, description="Seed of initial weights, row order, dropout and sampling.")
    gradient_checkpointing: bool | None = Field(
        None, description="Recompute activations, as the original always did; not given, only where this GPU's memory asks for it."
    )
    group_by_length: bool = Field(False, description="Batch rows of similar length together.")
    deepspeed: Path | None = Field(
        None, description="A DeepSpeed JSON file: one process per GPU tunes all weights, and DeepSpeed shards the training state over them."
    )
    fp16: bool = Field(
        False, description="With `deepspeed`: compute all weights in float16. Otherwise a frozen base is float16 on a GPU anyway."
    )
    no_cuda: bool = Field(False, description="Compute on the CPU.")


def read_flags(arguments: Sequence[str]) -> tuple[OriginalFlags, list[Bilingual]]:
    """The flags of a command line, and a note for each flag on it that has no effect here.

    `arguments` are `--flag value`, `--flag=value`, `--flag` and `--no_flag`, the last one winning, or one JSON file. Raises UserError with
    all problems at once: unknown flags, values out of bounds, missing flags.
    """
    is_file = len(arguments) == 1 and arguments[0].endswith(".json")
    given = _parse_file(Path(arguments[0])) if is_file else _parse_words(arguments)
    problems = [unknown for name in given if name not in OriginalFlags.model_fields if (unknown := _unknown_flag(name))]
    notes = []
    for name in sorted(given.keys() & IGNORED_FLAGS.keys()):
        if refusal := IGNORED_FLAGS[name].refusal(given[name]):
            problems.append(Bilingual(f"--{name} {refusal.english}", f"--{name} {refusal.chinese}"))
        notes.append(IGNORED_FLAGS[name].note(name))
    values = {name: _convert(name, value) for name, value in given.items() if name in OriginalFlags.model_fields and value is not None}
    problems += [
        Bilingual(
            f"--{name} is empty. Give a path; where it comes from a variable, set the variable.",
            f"--{name} 为空：请给出路径；如果来自变量，请先设置该变量。",
        )
        for name, value in values.items()
        if value == "" and Path in union_members(OriginalFlags.model_fields[name].annotation)
    ]
    try:
        flags = OriginalFlags.model_validate_json(json.dumps(values))
    except ValidationError as error:
        problems += [
            Bilingual(f"--{problem.path} {problem.text.english}", f"--{problem.path} {problem.text.chinese}")
            if problem.path
            else problem.text
            for problem in explain_errors(error.errors(include_url=False), OriginalFlags)
        ]
    if problems:
        raise UserError(join_lines(problems))
    return flags, notes


def _parse_file(path: Path) -> dict[str, object]:
    try:
        fields = read_json(path, "utf-8-sig")
    except FileNotFoundError:
        raise UserError(
            Bilingual(
                f"{path}: there is no such file. Give a JSON file of arguments, or the flags themselves.",
                f"{path}：没有这个文件。请给出参数的 JSON 文件，或直接给出参数。",
            )
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(
            Bilingual(
                f"{path}: cannot be read as JSON ({error}). It must hold one object of flags and values.",
                f"{path}：无法按 JSON 读取（{error}）。文件应是一个由参数名和值组成的对象。",
            )
        ) from error
    if not isinstance(fields, dict):
        kind = type(fields).__name__
        raise UserError(
            Bilingual(
                f'{path}: must hold one JSON object of flags and values, such as {{"do_train": true}}, got {kind}.',
                f'{path}：应是一个由参数名和值组成的 JSON 对象，例如 {{"do_train": true}}，实际是 {kind}。',
            )
        )
    return {_flag_name(name): value for name, value in fields.items()}


def _parse_words(arguments: Sequence[str]) -> dict[str, object]:
    """The flags with their values as text; a flag without a value is true, several values are a list."""
    given: dict[str, object] = {}
    name = ""
    for word in arguments:
        if word.startswith("--") and len(word) > 2:
            flag, equals, value = word[2:].partition("=")
            name = _flag_name(flag)
            if name.startswith("no_") and name not in (*OriginalFlags.model_fields, *IGNORED_FLAGS):
                name, equals, value = name.removeprefix("no_"), "=", "false"
            given[name] = value if equals else True
        elif not name or (word.startswith("-") and len(word) > 1 and not NUMBER.match(word)):
            raise UserError(
                Bilingual(
                    f'"{word}" belongs to no flag. Write --flag value, as in the old train.sh, or give one JSON file of arguments.',
                    f'"{word}" 不属于任何参数。请像旧 train.sh 那样写 --flag value，或给出一个参数 JSON 文件。',
                )
            )
        else:
            previous = given[name]
            given[name] = word if previous is True else [*previous, word] if isinstance(previous, list) else [previous, word]
    return given


def _flag_name(flag: str) -> str:
    """A flag's name in Python: transformers takes dashes too, and renamed some flags."""
    name = flag.replace("-", "_").replace("per_gpu_", "per_device_")
    return {"eval_strategy": "evaluation_strategy", "use_cpu": "no_cuda"}.get(name, name)


def _unknown_flag(name: str) -> Bilingual | None:
    """The problem with an unknown flag; None for a known one."""
    if name in IGNORED_FLAGS:
        return None
    near = closest(name, [*OriginalFlags.model_fields, *IGNORED_FLAGS])
    advice = did_you_mean(near, "--{}") if near else Bilingual("Take it out. ", "请去掉它。")
    return Bilingual(
        f"--{name} is not a flag of the original main.py. {advice.english}`imprint main` lists those that have an effect.",
        f"--{name} 不是原版 main.py 的参数。{advice.chinese}`imprint main` 会列出有效的参数。",
    )


def _convert(name: str, value: object) -> object:
    """A value in the type of its flag; text that cannot be converted stays, and validation refuses it."""
    types = union_members(OriginalFlags.model_fields[name].annotation)
    choices = [choice for member in types for choice in get_args(member)]
    if not isinstance(value, str):
        return value
    if bool in types:
        return _parse_bool(value)
    for number_type in (int, float):
        if number_type in types or any(isinstance(choice, number_type) for choice in choices):
            return _parse_number(value, number_type)
    return value


def _parse_bool(text: str) -> object:
    lowered = text.lower()
    return lowered in TRUE if lowered in (*TRUE, *FALSE) else text


def _parse_number(text: str, number_type: type[int] | type[float]) -> object:
    try:
        return number_type(text)
    except ValueError:
        return text
