"""Translates the original's flags into a recipe for training and a section for evaluation."""

from collections.abc import Iterable
from pathlib import Path

from torch import Tensor

from imprint.compat.flags import OriginalFlags
from imprint.data.section import DataSection
from imprint.engine.section import EngineSection, OptimizerSection
from imprint.evaluate.section import EvaluateSection
from imprint.files.atomic import find_folder
from imprint.loading.base import EMBEDDED
from imprint.loading.hub.name import hub_name
from imprint.loading.section import ModelSection
from imprint.messages import Bilingual, UserError, join_lines
from imprint.models.checkpoint import PREFIX_PART, load_pickle, read_tensors, tensor_names
from imprint.training.recipe import Recipe, TrainSection
from imprint.tune.adapter import PrefixMetadata
from imprint.tune.adapter_folder import METADATA_FILE, ORIGINAL_FILE, holds_all_weights, read_adapter_metadata
from imprint.tune.prefix import TENSOR_PREFIX
from imprint.tune.section import FullSection, PrefixSection

DROPOUT, TOP_P, TEMPERATURE = 0.1, 0.7, 0.95
ALL_STATES = 1000
"""More states than any run saves."""
NO_CLIPPING = 1e9
SCHEDULES = {"cosine_with_restarts": "cosine", "polynomial": "linear", "constant_with_warmup": "constant"}
NO_FOLDER = Bilingual(
    "there is no such folder, and it is no name of a model of the hub (owner/name). Give the folder, or a name such as THUDM/chatglm-6b.",
    "没有这个目录，也不是模型站上的名字（owner/name）：请给出目录，或 THUDM/chatglm-6b 这样的名字。",
)


def check_flags(flags: OriginalFlags) -> None:
    """Raise one UserError with all problems of the flags, before anything is loaded."""
    problems = []
    if not (flags.do_train or evaluates(flags) or flags.do_predict):
        english = "there is nothing to do. Give --do_train, --do_eval or --do_predict."
        problems.append(Bilingual(english, "没有要做的事：请给出 --do_train、--do_eval 或 --do_predict。"))
    for is_wanted, action, name in (
        (flags.do_train, "do_train", "train_file"),
        (evaluates(flags), "do_eval", "validation_file"),
        (flags.do_predict, "do_predict", "test_file"),
    ):
        if is_wanted and getattr(flags, name) is None:
            problems.append(Bilingual(f"--{action} needs --{name}, a file of rows.", f"--{action} 需要数据文件 --{name}。"))
    problems += [
        Bilingual(f"--{name} is missing: which column of the rows?", f"缺少 --{name}：请给出数据中的列名。")
        for name in ("prompt_column", "response_column")
        if not getattr(flags, name)
    ]
    problems += _model_problems(flags)
    if flags.deepspeed is not None and not flags.deepspeed.is_file():
        english = f"--deepspeed {flags.deepspeed}: there is no such file. scripts/deepspeed.json is one."
        problems.append(Bilingual(english, f"--deepspeed {flags.deepspeed}：没有这个文件。可用 scripts/deepspeed.json。"))
    if flags.do_train and tunes_all_weights(flags) and flags.quantization_bit:
        english = "--quantization_bit: quantized weights cannot be tuned. Give --pre_seq_len, or take --quantization_bit out."
        problems.append(Bilingual(english, "--quantization_bit：量化后的权重不能微调。请给出 --pre_seq_len，或去掉 --quantization_bit。"))
    if (
        not problems
        and flags.pre_seq_len
        and (file := prefix_file(flags))
        and (length := _prefix_length(file)) not in (None, flags.pre_seq_len)
    ):
        english = f"--pre_seq_len {flags.pre_seq_len}: the prefix in {file} has {length} tokens. Give {length}, or take the flag out."
        problems.append(
            Bilingual(english, f"--pre_seq_len {flags.pre_seq_len}：{file} 中的前缀长 {length} 个词元。请改为 {length}，或去掉该参数。")
        )
    if problems:
        raise UserError(join_lines(problems))


def _model_problems(flags: OriginalFlags) -> list[Bilingual]:
    name = flags.model_name_or_path
    if name == EMBEDDED:
        return []
    if not Path(name).is_dir():
        known = hub_name(name) is not None
        return [] if known else [Bilingual(f"--model_name_or_path {name}: {NO_FOLDER.english}", NO_FOLDER.chinese)]
    if not _holds_prefix(Path(name), only=True):
        return []
    return [
        Bilingual(
            f"--model_name_or_path {name}: holds a prefix alone, a few MB. Give it as --ptuning_checkpoint, and the "
            "base it was trained on as --model_name_or_path.",
            "该目录只有前缀：请用 --ptuning_checkpoint 指定它，用 --model_name_or_path 指定底座。",
        )
    ]


def evaluates(flags: OriginalFlags) -> bool:
    """Whether there is an evaluation; an evaluation_strategy implies one, as in transformers."""
    return flags.do_eval or flags.evaluation_strategy != "no"


def tunes_all_weights(flags: OriginalFlags) -> bool:
    """Whether all parameters are tuned: no flag selects a prefix."""
    return flags.pre_seq_len is None and flags.ptuning_checkpoint is None


def recipe_from_flags(flags: OriginalFlags, *, cuda: bool, processes: int = 1) -> Recipe:
    """The recipe that trains as these flags did; `cuda`: whether there is a GPU, on which the original's base was float16.

    The batch size of the flags is that of each of the `processes`, as under DeepSpeed.
    """
    assert flags.train_file is not None, "check_flags() comes first"
    return Recipe(
        output=flags.output_dir,
        model=ModelSection(
            path=flags.model_name_or_path,
            quantize=flags.quantization_bit,
            dtype=_training_dtype(flags, cuda=cuda),
            device="cpu" if flags.no_cuda else None,
        ),
        data=_data(flags),
        tune=FullSection(method="full") if tunes_all_weights(flags) else _prefix(flags),
        optimizer=_optimizer(flags),
        train=_train(flags, processes),
        engine=EngineSection(deepspeed=None if flags.deepspeed is None else str(flags.deepspeed)),
    )


def _data(flags: OriginalFlags) -> DataSection:
    assert flags.train_file is not None
    assert flags.prompt_column is not None
    assert flags.response_column is not None
    has_dev = flags.evaluation_strategy != "no"
    return DataSection(
        train=flags.train_file,
        dev=flags.validation_file if has_dev else None,
        dev_rows=flags.max_eval_samples if has_dev else None,
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
            "clip": flags.max_grad_norm or NO_CLIPPING,
        }
    )


def _train(flags: OriginalFlags, processes: int) -> TrainSection:
    size, steps = flags.per_device_train_batch_size, flags.max_steps if flags.max_steps > 0 else None
    evaluate_every = flags.save_steps
    if flags.evaluation_strategy != "no":
        evaluate_every = flags.eval_steps or flags.logging_steps
    elif tunes_all_weights(flags) and steps is not None:
        evaluate_every = steps  # one copy of the full model beside its last checkpoint is enough
    return TrainSection(
        steps=steps,
        epochs=flags.num_train_epochs,
        batch_size=size * flags.gradient_accumulation_steps * processes,
        micro_batch_size=size,
        group_by_length=flags.group_by_length,
        loss_average="micro_batch",
        checkpointing=flags.gradient_checkpointing,
        seed=flags.seed,
        evaluate_every=evaluate_every,
        save_every=flags.save_steps,
        keep_states=flags.save_total_limit or (2 if tunes_all_weights(flags) else ALL_STATES),
    )


def _training_dtype(flags: OriginalFlags, *, cuda: bool) -> str | None:
    if flags.bf16:
        return "bfloat16"
    if tunes_all_weights(flags):
        return "float16" if flags.deepspeed is not None and flags.fp16 else "float32"
    return "float16" if cuda and not flags.no_cuda else "float32"


def evaluation_section(flags: OriginalFlags, *, cuda: bool) -> EvaluateSection:
    """How answers are generated and scored: by the original's protocol."""
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
    """The original's dtype: float16 with a prefix, float32 for all weights unless a flag selects 16 bits; float32 on the CPU."""
    if flags.bf16 or flags.bf16_full_eval:
        return "bfloat16"
    return "float16" if cuda and not flags.no_cuda and (flags.fp16_full_eval or not tunes_all_weights(flags)) else "float32"


def prefix_file(flags: OriginalFlags) -> Path | None:
    """The file or folder of a trained prefix: its checkpoint, or a checkpoint of all weights that holds it, as in the first version."""
    if flags.ptuning_checkpoint is not None or flags.pre_seq_len is None or flags.model_name_or_path == EMBEDDED:
        return flags.ptuning_checkpoint
    folder = Path(flags.model_name_or_path)
    return folder if folder.is_dir() and _holds_prefix(folder) else None


def _holds_prefix(folder: Path, *, only: bool = False) -> bool:
    """Whether a folder's weights contain a prefix, or `only` a prefix."""
    return (all if only else any)(PREFIX_PART in name for name in tensor_names(folder))


def _prefix_length(path: Path) -> int | None:
    """The length of a trained prefix in tokens; None if it cannot be read: loading it reports why."""
    folder = find_folder(path)
    if folder is not None and (folder / METADATA_FILE).is_file():
        metadata = read_adapter_metadata(folder).method_metadata
        return metadata.length if isinstance(metadata, PrefixMetadata) else None
    if folder is not None and holds_all_weights(folder):
        return _embedding_length(read_tensors(folder))
    file = path if folder is None else folder / ORIGINAL_FILE
    return _embedding_length(load_pickle(file).items()) if file.is_file() else None


def _embedding_length(tensors: Iterable[tuple[str, Tensor]]) -> int | None:
    return next((len(tensor) for name, tensor in tensors if name.endswith(f"{TENSOR_PREFIX}embedding.weight")), None)
