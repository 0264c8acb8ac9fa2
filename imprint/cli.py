"""The command `imprint`: each command is a function that is imported when it is called."""

import argparse
import difflib
import errno
import io
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from imprint import __version__
from imprint.errors import UserError
from imprint.export.targets import TARGETS

Command = Callable[[argparse.Namespace], int | None]
DESCRIPTION = """\
Teach a Chinese chat model your own words, on the one machine you have.
思想钢印：用手边的一台机器，把你的话教给中文对话模型。
"""
OUT_OF_MEMORY = """\
the device ran out of memory. Compute fewer rows at once: train.micro_batch_size=1 (the batch stays the same) and
       train.checkpointing=true when training, batch_size=8 when evaluating; or take a smaller model.dtype. What was saved is kept.
       显存或内存不足：训练时减小 train.micro_batch_size、打开 train.checkpointing；评估时减小 batch_size。已保存的内容不受影响。"""
OUTPUT_REFUSED = """\
what the command says cannot be written where its output goes: {problem}. Free some space or send it elsewhere, then run the same
       command again; what was saved is kept. / 命令的输出无法写入：请清理磁盘或换一个位置，再运行同一命令；已保存的内容不受影响。"""
EPILOG = """\
first steps / 从这里开始:
  imprint recipe                                all knobs of a recipe / 配方的全部选项
  imprint train RECIPE.yaml train.steps=200     a recipe, and a knob set here / 配方，并在此改一个选项
  imprint evaluate RUN --data dev.jsonl         scores on held-out rows / 在留出数据上打分
  imprint compare RUN                           before and after, side by side / 微调前后并排对照
  imprint chat RUN                              talk to it / 与模型对话
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name.

    Returns its exit status: 0, 1 where `data check` found something, 2 for what the user can mend, 130 after Ctrl-C, 141 where who read
    the output has left.
    """
    # Before torch is imported: its threads shall sleep while they wait. On a machine that others use too, spinning made it 3 x slower.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _prepare_output()
    options = _read(sys.argv[1:] if arguments is None else arguments)
    command: Command = options.command
    try:
        status = command(options) or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        _tell(error)
        return 2
    except BrokenPipeError:
        _write_nothing_more()
        return 141
    except KeyboardInterrupt as stop:
        said = str(stop) or "stopped; the same command again goes on where it can / 已停止；再次运行同一命令即可继续"
        print("\n" + said, file=sys.stderr)
        return 130
    except (RuntimeError, MemoryError) as error:
        from imprint.runtime import out_of_memory

        if not out_of_memory(error):
            raise
        print(f"error: {OUT_OF_MEMORY}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) or error.filename is not None:
            raise
        _write_nothing_more()
        print(f"error: {OUTPUT_REFUSED.format(problem=error.strerror)}", file=sys.stderr)
        return 2


def _tell(error: UserError) -> None:
    """Print the sentence; of several processes the one that launched them prints it."""
    if "WORLD_SIZE" in os.environ:
        from imprint.engine.world import report_to_launcher

        if report_to_launcher(error):
            return
    print("error: " + str(error).replace("\n", "\n       "), file=sys.stderr)


def _prepare_output() -> None:
    r"""Let output that was closed go nowhere, and output that knows no Chinese, as under LC_ALL=POSIX, show \u4f60 for it."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if sys.stderr is None:
        sys.stderr = sys.stdout
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="backslashreplace")


def _write_nothing_more() -> None:
    """Lead the output away: what is still held back may not fail once more at the end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _read(words: Sequence[str]) -> argparse.Namespace:
    """What was typed; overrides may stand anywhere, and all that stands behind `main` is the old script's."""
    if words[:1] == ["main"] and words[1:] not in (["-h"], ["--help"]):
        words = ["main", "--", *words[1:]]
    parser = build_parser()
    if not words:
        parser.exit(2, parser.format_help())
    options, late = parser.parse_known_args(words)  # argparse gives up on overrides that come after an option
    if late and not (hasattr(options, "overrides") and all("=" in word and not word.startswith("-") for word in late)):
        options.parser.refuse(late, takes_knobs=hasattr(options, "overrides"))
    options.overrides = [*getattr(options, "overrides", []), *late]
    return options


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
    compare.add_argument("--prompts", type=Path, metavar="FILE", help="ask these questions, one a line / 改问这些问题，每行一个")
    compare.add_argument("--limit", type=_count, metavar="N", help="the first N rows only / 只用前 N 行")
    _add_overrides(compare)

    forgetting = _add(commands, "forgetting", _forgetting, "measure what a tuning took from its base / 评估微调造成的遗忘")
    forgetting.add_argument("run", type=Path, metavar="RUN", help="a run folder / 训练结果目录")
    _add_overrides(forgetting)

    report = _add(commands, "report", _report, "write the report of a run anew / 重新生成训练报告")
    report.add_argument("run", type=Path, metavar="RUN", help="a run folder / 训练结果目录")

    recipe = _add(commands, "recipe", _recipe, "list all knobs of a recipe / 列出配方的全部选项")
    recipe.add_argument("--evaluate", action="store_true", help="the knobs of evaluate and compare / 列出评估与对照的选项")
    recipe.add_argument("--markdown", action="store_true", help="as the page of the docs / 输出为文档页面")

    _add_perplexity(commands)
    _add_talking(commands)
    _add_data(commands)
    _add_conversion(commands)
    _add_demo(commands)
    return parser


def _train(options: argparse.Namespace) -> int:
    from imprint.training.run import train_command

    return train_command(options.recipe, options.overrides)


def _evaluate(options: argparse.Namespace) -> None:
    from imprint.evaluate.command import evaluate_command

    evaluate_command(options.folder, data=options.data, limit=options.limit, overrides=options.overrides)


def _perplexity(options: argparse.Namespace) -> None:
    from imprint.evaluate.perplexity import perplexity_command

    perplexity_command(options.folder, data=options.data, limit=options.limit, overrides=options.overrides)


def _compare(options: argparse.Namespace) -> None:
    from imprint.evaluate.compare import compare

    compare(options.run, data=options.data, prompts=options.prompts, limit=options.limit, overrides=options.overrides)


def _forgetting(options: argparse.Namespace) -> None:
    from imprint.evaluate.review import forgetting_command

    forgetting_command(options.run, options.overrides)


def _report(options: argparse.Namespace) -> None:
    from imprint.evaluate.review import report_command

    report_command(options.run)


def _score(options: argparse.Namespace) -> None:
    from imprint.evaluate.score import score_command

    score_command(options.file, protocols=options.protocol, output=options.output)


def _chat(options: argparse.Namespace) -> None:
    from imprint.chat.command import chat_command

    chat_command(options.folder, options.overrides)


def _check(options: argparse.Namespace) -> int:
    from imprint.check.command import check_command

    return check_command(options.files, dev=options.dev, model=options.model, fix=options.fix, overrides=options.overrides)


def _show(options: argparse.Namespace) -> None:
    from imprint.check.show import show_command

    show_command(options.file, model=options.model, limit=options.limit, overrides=options.overrides)


def _convert(options: argparse.Namespace) -> None:
    from imprint.check.convert import convert_command

    convert_command(options.file, options.output, overrides=options.overrides)


def _doctor(_options: argparse.Namespace) -> None:
    from imprint.check.machine import machine_command

    machine_command()


def _quantize(options: argparse.Namespace) -> None:
    from imprint.export.quantized import quantize

    quantize(options.folder, options.output, options.bits)


def _export(options: argparse.Namespace) -> None:
    from imprint.export.command import export_command

    export_command(options.run, options.to, options.output, prompts=options.prompts, overrides=options.overrides)


def _main(options: argparse.Namespace) -> int:
    from imprint.compat.run import run_original

    return run_original(options.flags)


def _migrate(options: argparse.Namespace) -> None:
    from imprint.compat.migrate import migrate_command

    migrate_command(options.script, options.output)


def _recipe(options: argparse.Namespace) -> None:
    from imprint.config import as_markdown, as_text, describe
    from imprint.evaluate.section import EvaluateSection
    from imprint.training.recipe import Recipe

    knobs = describe(EvaluateSection if options.evaluate else Recipe)
    print(as_markdown(knobs) if options.markdown else as_text(knobs), end="")


def _demo_rows(options: argparse.Namespace) -> None:
    from imprint.demo.rows import write_rows

    write_rows(options.folder, task=options.task)


def _demo_identity(options: argparse.Namespace) -> None:
    from imprint.demo.identity import write_identity

    write_identity(options.folder)


def _demo_domain_example(options: argparse.Namespace) -> None:
    from imprint.demo.domain_example.books import write_domain_example

    write_domain_example(options.folder)


def _demo_bloom(options: argparse.Namespace) -> None:
    from imprint.demo.bloom import make_bloom

    make_bloom(options.folder, overrides=tuple(options.overrides))


class _Parser(argparse.ArgumentParser):
    """Argparse whose complaint is one sentence that says what to do next."""

    def error(self, message: str) -> NoReturn:
        """Print what is wrong and where the help is; exit status 2."""
        self.exit(2, f"error: {message}. Run `{self.prog} --help` to see what can be given.\n")

    def refuse(self, words: Sequence[str], *, takes_knobs: bool) -> NoReturn:
        """Say of `words`, which mean nothing behind this command, what may have been meant."""
        flags = [word for word in words if word.startswith("-")]
        near = difflib.get_close_matches(flags[0], re.findall("--[a-z]+", self.format_usage()), n=1) if flags else []
        hint = f"; did you mean {near[0]}?" if near else "."
        if flags and takes_knobs and not near:
            hint = ". Knobs stand without dashes, as in tune.length=128; the flags of an old train.sh stand behind `imprint main`."
        self.exit(2, f"error: unrecognized arguments: {' '.join(words)}{hint} Run `{self.prog} --help` to see what can be given.\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            from imprint.config.problems import unknown_key

            raise argparse.ArgumentError(action, f'"{value}" {unknown_key(str(value), [str(choice) for choice in action.choices])}')


def _add(commands: "argparse._SubParsersAction[_Parser]", name: str, command: Command, sentence: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=sentence, description=sentence)
    parser.set_defaults(command=command, parser=parser)
    return parser


def _add_parts(commands: "argparse._SubParsersAction[_Parser]", name: str, sentence: str) -> "argparse._SubParsersAction[_Parser]":
    parser = commands.add_parser(name, help=sentence, description=sentence)
    return parser.add_subparsers(title="parts / 部分", metavar="PART", required=True)


def _add_overrides(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "overrides", nargs="*", default=[], metavar="a.b=c", help="knobs to set here; `imprint recipe` lists them / 在此修改选项"
    )


def _add_talking(commands: "argparse._SubParsersAction[_Parser]") -> None:
    chat = _add(commands, "chat", _chat, "talk to a run or a model / 与微调结果或模型对话")
    chat.add_argument(
        "folder", type=Path, metavar="RUN|MODEL", help="a run folder, a bundle of one, or a model folder / 训练结果、打包文件或模型目录"
    )
    _add_overrides(chat)

    score = _add(commands, "score", _score, "score a predictions file of any tool / 给任何工具的预测文件打分")
    score.add_argument("file", type=Path, metavar="PREDICTIONS", help="answers with their references / 预测与参考答案")
    score.add_argument("--protocol", action="append", metavar="NAME", help="how scores are counted; may be repeated / 计分方式，可重复")
    score.add_argument("--output", type=Path, metavar="FILE", help="write the scores there as JSON too / 另存为 JSON")


def _add_data(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parts = _add_parts(commands, "data", "check, show and convert data files / 检查、查看、转换数据")
    check = _add(parts, "check", _check, "find what is wrong with data files / 找出数据里的问题")
    check.add_argument(
        "files",
        type=str,
        nargs="+",
        metavar="FILE",
        help="files or folders of rows or raw text, FILE#500 takes 500 rows / 数据或纯文本的文件、目录",
    )
    check.add_argument("--dev", type=str, metavar="FILE", help="held-out rows, to find those in both / 留出数据，查找重复")
    check.add_argument("--fix", type=Path, metavar="OUT", help="write what can be mended there / 修好的数据写到这里")
    show = _add(parts, "show", _show, "show rows as the tokens that are learned / 显示每行的词元与学习部分")
    show.add_argument("file", type=str, metavar="FILE", help="a file or folder of rows or raw text / 数据或纯文本")
    show.add_argument("--limit", type=_count, default=3, metavar="N", help="how many rows / 显示几行")
    convert = _add(parts, "convert", _convert, "write any file as JSON lines / 转换为 JSON lines")
    convert.add_argument("file", type=str, metavar="FILE", help="a file or folder of rows / 数据文件或目录")
    convert.add_argument("output", type=Path, metavar="OUT", help="the file to write: .jsonl, .csv, .tsv, .xlsx, .parquet / 输出文件")
    for part in (check, show):
        part.add_argument("--model", metavar="RUN|MODEL", help="whose tokens are counted; the toy base if not given / 用谁的词表")
    for part in (check, show, convert):
        _add_overrides(part)
    _add(commands, "doctor", _doctor, "say what this machine has and what is used / 检查这台机器的环境")


def _add_perplexity(commands: "argparse._SubParsersAction[_Parser]") -> None:
    perplexity = _add(commands, "perplexity", _perplexity, "measure how sure a model is of texts / 测量模型对文本的困惑度")
    perplexity.add_argument("folder", type=Path, metavar="RUN|MODEL", help="a run folder, or a model folder / 训练结果或模型目录")
    perplexity.add_argument(
        "--data", type=Path, action="append", required=True, metavar="FILE", help="texts; may be repeated / 文本，可重复"
    )
    perplexity.add_argument("--limit", type=_count, metavar="N", help="the first N documents of each only / 各取前 N 篇")
    _add_overrides(perplexity)


def _add_conversion(commands: "argparse._SubParsersAction[_Parser]") -> None:
    quantize = _add(commands, "quantize", _quantize, "write a base in 4 or 8 bits / 把底座量化为 4 或 8 位")
    quantize.add_argument("folder", type=Path, metavar="MODEL", help="a model folder / 模型目录")
    quantize.add_argument("output", type=Path, metavar="OUT", help="the folder to write / 输出目录")
    quantize.add_argument("--bits", type=int, choices=(4, 8), default=4, help="bits of a weight; 4 if not given / 每个权重的位数")

    export = _add(commands, "export", _export, "write what was tuned in the files of other tools / 把微调结果导出给其他工具")
    export.add_argument("run", type=Path, metavar="RUN", help="a run folder / 训练结果目录")
    export.add_argument("output", type=Path, nargs="?", metavar="OUT", help="where to write; into the run folder if not given / 输出位置")
    export.add_argument("--to", required=True, choices=TARGETS, help="whose files / 导出格式")
    export.add_argument("--prompts", type=Path, metavar="FILE", help="prove it with these questions / 用这些问题验证导出前后一致")
    _add_overrides(export)

    original = _add(commands, "main", _main, "run with the flags of ChatGLM-6B's ptuning/main.py / 兼容原版 main.py 的参数")
    original.add_argument("flags", nargs=argparse.REMAINDER, metavar="--flag value", help="as in the original train.sh / 同原版 train.sh")

    migrate = _add(commands, "migrate", _migrate, "print the recipe that an old train.sh amounts to / 把旧 train.sh 转成配方")
    migrate.add_argument("script", type=Path, metavar="train.sh", help="the old script, or its JSON of arguments / 旧脚本或参数 JSON")
    migrate.add_argument("output", type=Path, nargs="?", metavar="RECIPE.yaml", help="write it there instead / 写入文件")


def _add_demo(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parts = _add_parts(commands, "demo", "make what the demo needs / 制作演示所需的数据与模型")
    rows = _add(parts, "rows", _demo_rows, "write question and answer rows of the toy world / 生成玩具世界的问答数据")
    rows.add_argument("folder", type=Path, metavar="OUT", help="the folder to write to / 输出目录")
    rows.add_argument("--task", default="ad_copy", metavar="NAME", help="ad_copy, summary, translation, classification ... / 任务")
    identity = _add(parts, "identity", _demo_identity, "write rows that give a model a new name / 生成改名换姓的问答数据")
    identity.add_argument("folder", type=Path, metavar="OUT", help="the folder to write to / 输出目录")
    kiln = _add(parts, "kiln", _demo_domain_example, "write books and questions of an invented craft / 生成虚构行业的书籍与问答")
    kiln.add_argument("folder", type=Path, metavar="OUT", help="the folder to write to / 输出目录")
    bloom = _add(parts, "bloom", _demo_bloom, "make a tiny BLOOM that knows the toy town / 制作一个小 BLOOM")
    bloom.add_argument("folder", type=Path, metavar="OUT", help="the folder to write to / 输出目录")
    _add_overrides(bloom)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be a whole number from 1 on, got "{text}"')
    return int(text)
