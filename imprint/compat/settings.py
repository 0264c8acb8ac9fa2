"""What the original's flags amount to: a recipe for training, knobs for evaluation."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from imprint.compat.flags import OriginalFlags
from imprint.data.section import DataSection
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.errors import UserError
from imprint.evaluate.section import EvaluateSection
from imprint.files import find_folder
from imprint.loading.base import EMBEDDED
from imprint.loading.section import ModelSection
from imprint.models.checkpoint import PREFIX_PART, load_pickle, read_tensors, tensor_names
from imprint.training.recipe import Recipe, TrainSection
from imprint.tune.adapter import PrefixFacts
from imprint.tune.adapter_folder import DESCRIPTION_FILE, ORIGINAL_FILE, holds_all_weights, read_description
from imprint.tune.prefix import TENSOR_PREFIX
from imprint.tune.section import FullSection, PrefixSection

DROPOUT, TOP_P, TEMPERATURE = 0.1, 0.7, 0.95
ALL = 1000
"""More states than a run saves."""
NO_LIMIT = 1e9
SCHEDULES = {"cosine_with_restarts": "cosine", "polynomial": "linear", "constant_with_warmup": "constant"}
DOWNLOAD = (
    "this version downloads nothing. Download it (https://huggingface.co/THUDM/chatglm-6b or "
    "https://modelscope.cn/models/ZhipuAI/ChatGLM-6B) and give its folder.\n"
    "请先下载模型，再给出本地目录，例如 MODEL=/data/chatglm-6b bash scripts/train.sh"
)


def check(flags: OriginalFlags) -> None:
    """Refuse, before anything is loaded, what cannot be done. Raises one UserError with all that is missing."""
    wrong = []
    if not (flags.do_train or evaluates(flags) or flags.do_predict):
        wrong.append("there is nothing to do. Give --do_train, --do_eval or --do_predict.")
    for asked, name in (("do_train", "train_file"), ("do_eval", "validation_file"), ("do_predict", "test_file")):
        asks = evaluates(flags) if asked == "do_eval" else getattr(flags, asked)
        if asks and getattr(flags, name) is None:
            wrong.append(f"--{asked} needs --{name}, a file of rows.")
    wrong += [
        f"--{name} is missing: which column of the rows?" for name in ("prompt_column", "response_column") if not getattr(flags, name)
    ]
    if flags.model_name_or_path != EMBEDDED and not Path(flags.model_name_or_path).is_dir():
        wrong.append(f"--model_name_or_path {flags.model_name_or_path}: there is no such folder, and {DOWNLOAD}")
    elif flags.model_name_or_path != EMBEDDED and _holds_prefix(Path(flags.model_name_or_path), alone=True):
        wrong.append(
            f"--model_name_or_path {flags.model_name_or_path}: holds a prefix alone, a few MB. Give it as --ptuning_checkpoint, and the "
            "base it was trained on as --model_name_or_path.\n"
            "该目录只有前缀：请用 --ptuning_checkpoint 指定它，用 --model_name_or_path 指定底座。"
        )
    if flags.deepspeed is not None and not flags.deepspeed.is_file():
        wrong.append(f"--deepspeed {flags.deepspeed}: there is no such file. scripts/deepspeed.json is one.")
    if flags.do_train and tunes_all(flags) and flags.quantization_bit:
        wrong.append("--quantization_bit: rounded weights cannot be tuned as a whole. Give --pre_seq_len, or take --quantization_bit out.")
    if not wrong and flags.pre_seq_len and (file := prefix_file(flags)) and (length := _length(file)) not in (None, flags.pre_seq_len):
        wrong.append(f"--pre_seq_len {flags.pre_seq_len}: the prefix in {file} has {length} tokens. Give {length}, or take the flag out.")
    if wrong:
        raise UserError("\n".join(wrong))


def evaluates(flags: OriginalFlags) -> bool:
    """Whether there is an evaluation; a strategy asks for one too, as in transformers."""
    return flags.do_eval or flags.evaluation_strategy != "no"


def tunes_all(flags: OriginalFlags) -> bool:
    """Whether all parameters are tuned: no prefix is asked for."""
    return flags.pre_seq_len is None and flags.ptuning_checkpoint is None


def recipe_of(flags: OriginalFlags, *, cuda: bool, processes: int = 1) -> Recipe:
    """The recipe that trains as these flags did; `cuda` says whether there is a GPU, where the original's base was float16.

    Each of the `processes` takes as many rows as the flags say, as under DeepSpeed.
    """
    assert flags.train_file is not None, "check() comes first"
    return Recipe(
        output=flags.output_dir,
        model=ModelSection(
            path=flags.model_name_or_path,
            quantize=flags.quantization_bit,
            dtype=_training_dtype(flags, cuda=cuda),
            device="cpu" if flags.no_cuda else None,
        ),
        data=_data(flags),
        tune=FullSection(method="full") if tunes_all(flags) else _prefix(flags),
        optimizer=_optimizer(flags),
        train=_train(flags, processes),
        engine=EngineSection(deepspeed=None if flags.deepspeed is None else str(flags.deepspeed)),
    )


def _data(flags: OriginalFlags) -> DataSection:
    assert flags.train_file is not None
    assert flags.prompt_column is not None
    assert flags.response_column is not None
    watched = flags.evaluation_strategy != "no"
    return DataSection(
        train=flags.train_file,
        dev=flags.validation_file if watched else None,
        dev_rows=flags.max_eval_samples if watched else None,
        dev_share=0.0,
        train_rows=flags.max_train_samples,
        prompt_column=flags.prompt_column,
        response_column=flags.response_column,
        history_column=flags.history_column,
        source_prefix=flags.source_prefix,
        max_source_length=flags.max_source_length,
        max_target_length=flags.max_target_length,
        truncation="original",
    )


def _prefix(flags: OriginalFlags) -> PrefixSection:
    return PrefixSection(
        adapter=prefix_file(flags),
        length=flags.pre_seq_len,
        projection=flags.prefix_projection or None,
        start="random",
        prefix_dropout=DROPOUT,
    )


def _optimizer(flags: OriginalFlags) -> OptimizerSection:
    constant = flags.lr_scheduler_type == "constant"
    return OptimizerSection.model_validate(
        {
            "learning_rate": flags.learning_rate,
            "schedule": SCHEDULES.get(flags.lr_scheduler_type, flags.lr_scheduler_type),
            "warmup_steps": 0 if constant else flags.warmup_steps,
            "warmup_share": None if constant or flags.warmup_steps else flags.warmup_ratio or None,
            "warmup_from_zero": True,
            "weight_decay": flags.weight_decay,
            "clip": flags.max_grad_norm or NO_LIMIT,
        }
    )


def _train(flags: OriginalFlags, processes: int) -> TrainSection:
    size, steps = flags.per_device_train_batch_size, flags.max_steps if flags.max_steps > 0 else None
    look = flags.save_steps
    if flags.evaluation_strategy != "no":
        look = flags.eval_steps or flags.logging_steps
    elif tunes_all(flags) and steps is not None:
        look = steps  # a copy of the whole model beside its last checkpoint is enough
    return TrainSection(
        steps=steps,
        epochs=flags.num_train_epochs,
        batch_size=size * flags.gradient_accumulation_steps * processes,
        micro_batch_size=size,
        group_by_length=flags.group_by_length,
        loss_average="micro_batch",
        checkpointing=flags.gradient_checkpointing,
        seed=flags.seed,
        evaluate_every=look,
        save_every=flags.save_steps,
        keep_states=flags.save_total_limit or (2 if tunes_all(flags) else ALL),
    )


def _training_dtype(flags: OriginalFlags, *, cuda: bool) -> str | None:
    if flags.bf16:
        return "bfloat16"
    if tunes_all(flags):
        return "float16" if flags.deepspeed is not None and flags.fp16 else "float32"
    return "float16" if cuda and not flags.no_cuda else "float32"


def asked_of(flags: OriginalFlags, *, cuda: bool) -> EvaluateSection:
    """How answers are made and scored: the original's own protocol."""
    beams = flags.num_beams or flags.generation_num_beams or 1
    return EvaluateSection(
        batch_size=flags.per_device_eval_batch_size,
        temperature=TEMPERATURE if beams == 1 else 0.0,
        top_p=TOP_P if beams == 1 else 1.0,
        num_beams=beams,
        seed=flags.seed,
        truncation="original",
        prompt_column=flags.prompt_column,
        response_column=flags.response_column,
        history_column=flags.history_column,
        source_prefix=flags.source_prefix,
        max_source_length=flags.max_source_length,
        max_target_length=flags.val_max_target_length or flags.max_target_length,
        max_length=flags.max_source_length + flags.max_target_length + 1,
        quantize=flags.quantization_bit,
        dtype=evaluation_dtype(flags, cuda=cuda),
        device="cpu" if flags.no_cuda else None,
    )


def evaluation_dtype(flags: OriginalFlags, *, cuda: bool) -> str:
    """What the original evaluates in: float16 with a prefix, float32 for all weights unless a flag says 16 bit; float32 on the CPU."""
    if flags.bf16 or flags.bf16_full_eval:
        return "bfloat16"
    return "float16" if cuda and not flags.no_cuda and (flags.fp16_full_eval or not tunes_all(flags)) else "float32"


def prefix_file(flags: OriginalFlags) -> Path | None:
    """Where a prefix that is already trained comes from: its checkpoint, or the checkpoint of all weights that holds it, as at first."""
    if flags.ptuning_checkpoint is not None or flags.pre_seq_len is None or flags.model_name_or_path == EMBEDDED:
        return flags.ptuning_checkpoint
    folder = Path(flags.model_name_or_path)
    return folder if folder.is_dir() and _holds_prefix(folder) else None


def _holds_prefix(folder: Path, *, alone: bool = False) -> bool:
    """Whether a prefix is among a folder's weights, or is all that is there."""
    inside = [PREFIX_PART in name for name in tensor_names(folder)]
    return (all if alone else any)(inside)


def _length(path: Path) -> int | None:
    """How many tokens a trained prefix has; None where it cannot be read: loading it says why."""
    folder = find_folder(path)
    if folder is not None and (folder / DESCRIPTION_FILE).is_file():
        facts = read_description(folder).facts
        return facts.length if isinstance(facts, PrefixFacts) else None
    if folder is not None and holds_all_weights(folder):
        return _first_length(read_tensors(folder))
    file = path if folder is None else folder / ORIGINAL_FILE
    return _first_length(load_pickle(file).items()) if file.is_file() else None


def _first_length(tensors: Iterable[tuple[str, Tensor]]) -> int | None:
    return next((len(tensor) for name, tensor in tensors if name.endswith(f"{TENSOR_PREFIX}embedding.weight")), None)
