"""`imprint migrate train.sh`: the recipe of an old script, with a note for each flag that has no counterpart."""

import os
import shlex
from pathlib import Path

import torch

from imprint.compat.flags import OriginalFlags, read_flags
from imprint.compat.script import main_calls
from imprint.compat.settings import evaluation_section, recipe_from_flags
from imprint.config import dump
from imprint.evaluate.section import EvaluateSection
from imprint.files.atomic import write_text
from imprint.files.links import follow_link
from imprint.messages import Bilingual, UserError
from imprint.terminal import say

WITHOUT_KNOB = {
    "logging_steps": Bilingual(
        "log.jsonl has every step; trainer_state.json is written by `imprint main` alone",
        "log.jsonl 记录每一步；只有 `imprint main` 会写 trainer_state.json",
    ),
    "logging_first_step": Bilingual("log.jsonl has every step", "log.jsonl 记录每一步"),
    "overwrite_output_dir": Bilingual(
        "a stopped run resumes; another recipe needs another output", "中断的训练会接着训练；换了配方则需换 output"
    ),
    "predict_with_generate": Bilingual("`imprint evaluate` always answers", "`imprint evaluate` 总会生成回答"),
    "resume_from_checkpoint": Bilingual("the same command again resumes from the newest state", "再次运行同一命令即从最新的状态继续"),
}
"""Training flags that `imprint main` follows but a recipe has no knob for -> why."""

EVALUATION = Bilingual("evaluation", "评估").line


def migrate_command(script: Path, output: Path | None) -> None:
    """Print the recipe of a script or of a JSON file of arguments, or write it to `output`.

    Raises UserError for a script that calls no main.py, and for flags that are invalid.
    """
    calls = [[str(script)]] if script.suffix == ".json" else main_calls(script, os.environ)
    if not calls:
        raise UserError(
            Bilingual(
                f"{script}: calls no main.py. Give a script with a line such as `python3 main.py --do_train ...`.",
                f"{script}：没有调用 main.py。请给出含有 `python3 main.py --do_train ...` 这样一行的脚本。",
            )
        )
    parsed = [read_flags(call) for call in calls]
    trainings = sum(flags.do_train for flags, _ in parsed)
    if trainings > 1 and output is not None:
        raise UserError(
            Bilingual(
                f"{script}: trains {trainings} times, and a recipe is one training. Leave {output} out to see all of them.",
                f"{script}：训练了 {trainings} 次，而一个配方只对应一次训练。去掉 {output} 即可看到全部。",
            )
        )
    text = ("---\n" if trainings > 1 else "\n").join(migrate(*call, script=script) for call in parsed)
    if output is None:
        say(text, end="")
        return
    output = follow_link(output)
    _refuse_changed(output, text)
    write_text(output, text)
    say(
        f"{Bilingual('written', '已写入').line}: {output}",
        f"{Bilingual('next', '接下来').line}: {shlex.join(['imprint', 'train', str(output)])}",
    )


def _refuse_changed(output: Path, text: str) -> None:
    """Raise UserError if the file holds something else, such as this recipe with changes of the user."""
    if output.exists() and (output.is_dir() or output.read_bytes() != text.encode()):
        raise UserError(
            Bilingual(
                f"{output}: is there already, and nothing is overwritten. Give another name, or delete it.",
                f"{output}：已存在，不会覆盖。请换一个名字，或先删除它。",
            )
        )


def migrate(flags: OriginalFlags, flag_notes: list[Bilingual], *, script: Path) -> str:
    """A recipe in YAML, with comments on flags without a counterpart and the commands that evaluate."""
    cuda = torch.cuda.is_available()
    notes = [Bilingual(f"from {script.name}", f"由 {script.name} 转换"), *flag_notes]
    notes += [
        Bilingual(f"--{name}: {reason.english}", reason.chinese) for name, reason in WITHOUT_KNOB.items() if name in flags.model_fields_set
    ]
    text, evaluations = "", list[str]()
    if flags.do_train:
        if not (flags.train_file and flags.prompt_column and flags.response_column):
            raise UserError(
                Bilingual(
                    f"{script}: --do_train needs --train_file, --prompt_column and --response_column. Add them to the script.",
                    f"{script}：--do_train 需要 --train_file、--prompt_column 和 --response_column，请补上。",
                )
            )
        recipe = recipe_from_flags(flags, cuda=cuda)
        if recipe.model.dtype == "float32" and not cuda and flags.pre_seq_len:
            notes.append(
                Bilingual(
                    "there is no GPU here; on one the original computed in float16: model.dtype=float16",
                    "本机没有 GPU；原版在 GPU 上用 float16 计算：model.dtype=float16",
                )
            )
        if flags.deepspeed is not None:
            batch_size = recipe.train.batch_size
            notes.append(
                Bilingual(
                    f"train.batch_size is that of one process: multiply {batch_size} by the number of GPUs",
                    f"train.batch_size 是单个进程的：请把 {batch_size} 乘以 GPU 数",
                )
            )
        text = dump(recipe)
    is_dev = flags.evaluation_strategy != "no"  # then validation_file is data.dev
    for action, name, data, limit in (
        ("do_eval", "validation_file", flags.validation_file, flags.max_eval_samples),
        ("do_predict", "test_file", flags.test_file, flags.max_predict_samples),
    ):
        if data is None:
            continue
        if getattr(flags, action):
            evaluations.append(f"{EVALUATION}: {evaluation_command(flags, data, limit, cuda=cuda)}")
        elif flags.do_train and not (is_dev and name == "validation_file"):
            notes.append(_unused_rows(name, action, data))
    return "".join(f"# {note}\n" for note in [*(note.line for note in notes), *evaluations]) + text


def _unused_rows(name: str, action: str, data: Path) -> Bilingual:
    """What becomes of a file of rows that the script names and does not use."""
    keeps = name == "validation_file"
    english = f"; data.dev={data} would measure the loss on it and keep the best step" if keeps else ""
    chinese = f"；写 data.dev={data} 可在其上计算损失并保留最好的一步" if keeps else ""
    return Bilingual(
        f"--{name} {data}: is not in this recipe, because the script does not use it without --{action}{english}",
        f"脚本没有 --{action}，不使用该文件，配方中也没有{chinese}",
    )


def evaluation_command(flags: OriginalFlags, data: Path, limit: int | None, *, cuda: bool) -> str:
    """`imprint evaluate` with the original's protocol."""
    section = evaluation_section(flags, cuda=cuda)
    default = EvaluateSection().model_dump(mode="json")
    knobs = [f"{name}={value}" for name, value in section.model_dump(mode="json").items() if value != default[name]]
    if flags.ptuning_checkpoint is not None and not flags.do_train:
        knobs.append(f"adapter={flags.ptuning_checkpoint}")
    model = str(flags.output_dir) if flags.do_train else flags.model_name_or_path
    limit_words = ["--limit", str(limit)] if limit else []
    return shlex.join(["imprint", "evaluate", model, "--data", str(data), *limit_words, *knobs])
