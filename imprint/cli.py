"""The command `imprint`: each command is a function that is imported when it is called."""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

from imprint import __version__
from imprint.errors import UserError

DESCRIPTION = """\
Teach a Chinese chat model your own words, on the one machine you have.
思想钢印：用手边的一台机器，把你的话教给中文对话模型。
"""
OUT_OF_MEMORY = """\
the device ran out of memory. Compute fewer rows at once: train.micro_batch_size=1 (the batch stays the same) and
       train.checkpointing=true when training, batch_size=8 when evaluating; or take a smaller model.dtype. What was saved is kept.
       显存或内存不足：训练时减小 train.micro_batch_size、打开 train.checkpointing；评测时减小 batch_size。已保存的内容不受影响。"""
EPILOG = """\
first steps / 从这里开始:
  imprint recipe                                all knobs of a recipe / 配方的全部选项
  imprint train recipe.yaml train.steps=200     a recipe, and a knob set here / 配方，并在此改一个选项
  imprint evaluate RUN --data dev.jsonl         scores on held-out rows / 在留出数据上打分
  imprint compare RUN                           before and after, side by side / 微调前后并排对照
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name and return its exit status: 0, 2 for what the user can mend, 130 after Ctrl-C."""
    # Before torch is imported: its threads shall sleep while they wait. On a machine that others use too, spinning made it 3 x slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parser = build_parser()
    options, late = parser.parse_known_args(arguments)  # argparse gives up on overrides that come after an option
    if late and not (hasattr(options, "overrides") and all("=" in word and not word.startswith("-") for word in late)):
        parser.error(f"unrecognized arguments: {' '.join(late)}")
    options.overrides = [*getattr(options, "overrides", []), *late]
    command: Callable[[argparse.Namespace], None] = options.command
    try:
        command(options)
    except UserError as error:
        print("error: " + str(error).replace("\n", "\n       "), file=sys.stderr)
        return 2
    except KeyboardInterrupt as stop:
        said = str(stop) or "stopped; the same command again goes on where it can / 已停止；再次运行同一命令即可继续"
        print("\n" + said, file=sys.stderr)
        return 130
    except (RuntimeError, MemoryError) as error:
        if not _out_of_memory(error):
            raise
        print(f"error: {OUT_OF_MEMORY}", file=sys.stderr)
        return 2
    return 0


def _out_of_memory(error: Exception) -> bool:
    """Whether it says so, in the words of CUDA, of cuBLAS or of the CPU."""
    return isinstance(error, MemoryError) or any(
        words in str(error) for words in ("out of memory", "can't allocate memory", "ALLOC_FAILED")
    )


def build_parser() -> argparse.ArgumentParser:
    """Everything that can be typed after `imprint`."""
    parser = _Parser(prog="imprint", description=DESCRIPTION, epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--version", action="version", version=f"imprint {__version__}")
    commands = parser.add_subparsers(title="commands / 命令", metavar="COMMAND", required=True)

    train = _add(commands, "train", _train, "tune a model by a recipe / 按配方微调模型")
    train.add_argument("recipe", type=Path, metavar="RECIPE.yaml", help="what to train, on what, and how / 训练配方")
    _add_overrides(train)

    evaluate = _add(commands, "evaluate", _evaluate, "answer held-out questions and score the answers / 回答留出的问题并打分")
    evaluate.add_argument(
        "folder", type=Path, metavar="RUN|MODEL", help="a run folder, or a model folder for the base alone / 训练结果或模型目录"
    )
    evaluate.add_argument("--data", type=Path, required=True, metavar="FILE", help="question and answer rows / 问答数据")
    evaluate.add_argument("--limit", type=_count, metavar="N", help="the first N rows only / 只用前 N 行")
    _add_overrides(evaluate)

    compare = _add(commands, "compare", _compare, "show base and tuned model side by side / 并排对照微调前后")
    compare.add_argument("run", type=Path, metavar="RUN", help="a run folder / 训练结果目录")
    compare.add_argument("--data", type=Path, metavar="FILE", help="ask these rows; the run's held-out rows if not given / 默认用留出数据")
    compare.add_argument("--limit", type=_count, metavar="N", help="the first N rows only / 只用前 N 行")
    _add_overrides(compare)

    recipe = _add(commands, "recipe", _recipe, "list all knobs of a recipe / 列出配方的全部选项")
    recipe.add_argument("--evaluate", action="store_true", help="the knobs of evaluate and compare / 列出评测与对照的选项")
    recipe.add_argument("--markdown", action="store_true", help="as the page of the docs / 输出为文档页面")

    _add_demo(commands)
    return parser


def _train(options: argparse.Namespace) -> None:
    from imprint.train import train

    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError("several processes in one run are not supported by this version. Run `imprint train` by itself, without torchrun.")
    train(options.recipe, options.overrides)


def _evaluate(options: argparse.Namespace) -> None:
    from imprint.evaluate import evaluate_command

    evaluate_command(options.folder, data=options.data, limit=options.limit, overrides=options.overrides)


def _compare(options: argparse.Namespace) -> None:
    from imprint.compare import compare

    compare(options.run, data=options.data, limit=options.limit, overrides=options.overrides)


def _recipe(options: argparse.Namespace) -> None:
    from imprint.config import as_markdown, as_text, describe
    from imprint.evaluate import EvaluateSection
    from imprint.recipe import Recipe

    knobs = describe(EvaluateSection if options.evaluate else Recipe)
    print(as_markdown(knobs) if options.markdown else as_text(knobs), end="")


def _demo_rows(options: argparse.Namespace) -> None:
    from imprint.demo.rows import write_rows

    write_rows(options.folder)


def _demo_pretrain(options: argparse.Namespace) -> None:
    from imprint.demo.pretrain import pretrain

    pretrain(options.folder)


class _Parser(argparse.ArgumentParser):
    """Argparse whose complaint is one sentence that says what to do next."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where the help is; exit status 2."""
        self.exit(2, f"error: {message}. Run `{self.prog} --help` to see what can be given.\n")


def _add(
    commands: "argparse._SubParsersAction[_Parser]", name: str, command: Callable[[argparse.Namespace], None], sentence: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=sentence, description=sentence)
    parser.set_defaults(command=command)
    return parser


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("overrides", nargs="*", metavar="a.b=c", help="knobs to set here; `imprint recipe` lists them / 在此修改选项")


def _add_demo(commands: "argparse._SubParsersAction[_Parser]") -> None:
    sentence = "make what the demo needs / 制作演示所需的数据与模型"
    parts = commands.add_parser("demo", help=sentence, description=sentence).add_subparsers(
        title="parts / 部分", metavar="PART", required=True
    )
    rows = _add(parts, "rows", _demo_rows, "write question and answer rows of the toy world / 生成玩具世界的问答数据")
    rows.add_argument("folder", type=Path, metavar="OUT", help="the folder to write to / 输出目录")
    pretrain = _add(parts, "pretrain", _demo_pretrain, "pre-train the toy base model anew / 重新预训练玩具底座模型")
    pretrain.add_argument("folder", type=Path, metavar="OUT", help="the folder to write to / 输出目录")


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number from 1 on, got "{text}"')
    return int(text)
