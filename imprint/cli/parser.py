"""The parser of the command line."""

import argparse
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NoReturn

from imprint import __version__
from imprint.cli import commands as run
from imprint.cli.problems import parser_problem, unknown_words
from imprint.cli.user_subcommands import USER_SUBCOMMANDS
from imprint.export.targets import QUANTIZE_FORMATS, TARGETS
from imprint.messages import Bilingual
from imprint.terminal import say, terminal_columns

if TYPE_CHECKING:
    from imprint.config import Section

RECIPE = "imprint.training.recipe:Recipe"
Command = Callable[[argparse.Namespace], int | None]
DESCRIPTION = Bilingual(
    "Teach a Chinese chat model your own words, on the one machine you have.",
    "思想钢印：用手边的一台机器，把你的话教给中文对话模型。",
)
FIRST_STEPS = (
    ("imprint init", Bilingual("recipes to start from", "从哪个配方开始")),
    ("imprint recipe", Bilingual("all knobs of a recipe", "配方的全部选项")),
    ("imprint train RECIPE.yaml train.steps=200", Bilingual("a recipe, and a knob set here", "配方，并在此改一个选项")),
    ("imprint evaluate RUN --data dev.jsonl", Bilingual("scores on held-out rows", "在留出数据上打分")),
    ("imprint compare RUN", Bilingual("before and after, side by side", "微调前后并排对照")),
    ("imprint chat RUN", Bilingual("talk to it", "与模型对话")),
)
"""Command -> what it does, at the end of `imprint --help`."""
USAGE: Final = f"{Bilingual('usage', '用法').line}: "


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse the command line; overrides may be anywhere, and everything after `main` belongs to the old script."""
    if words[:1] == ["main"] and words[1:] not in (["-h"], ["--help"]):
        words = ["main", "--", *words[1:]]
    parser = build_parser()
    if words[:1] == ["help"]:
        words = [*words[1:], "--help"]
    if not words:
        parser.exit(2, parser.format_help())
    options, rest = parser.parse_known_args(words)  # argparse rejects overrides after an option
    if rest and not (hasattr(options, "overrides") and all("=" in word and not word.startswith("-") for word in rest)):
        options.parser.reject(rest, takes_knobs=hasattr(options, "overrides"))
    options.overrides = [*getattr(options, "overrides", []), *rest]
    options.parse = parse
    return options


@cache
def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole command line; parsing does not change it."""
    epilog = f"{Bilingual('first steps', '从这里开始').line}:\n" + "".join(f"  {command:<46}{text.line}\n" for command, text in FIRST_STEPS)
    parser = _Parser(prog="imprint", description=f"{DESCRIPTION}\n", epilog=epilog, formatter_class=_RawHelp, add_help=False)
    _translate(parser)
    parser.add_argument(
        "--version", action="version", version=f"imprint {__version__}", help=Bilingual("show the version", "显示版本").line
    )
    commands = parser.add_subparsers(title=Bilingual("commands", "命令").line, metavar="COMMAND", required=True)

    init = _add_command(commands, "init", run.init, Bilingual("write a commented recipe to start from", "生成带注释的配方和示例数据").line)
    init.add_argument(
        "name", nargs="?", metavar="NAME", help=Bilingual("what for; without it, all names are listed", "任务名，不写则列出全部").line
    )
    init.add_argument(
        "folder", nargs="?", type=Path, metavar="FOLDER", help=Bilingual("where to write; NAME if not given", "输出目录").line
    )
    train = _add_command(commands, "train", run.train, Bilingual("tune a model by a recipe", "按配方微调模型").line)
    train.add_argument(
        "recipe",
        type=Path,
        metavar="RECIPE.yaml",
        help=Bilingual("a file, or the name of a recipe that comes along, such as demo", "训练配方，或自带配方的名字").line,
    )
    _add_overrides(train, RECIPE, checked=False)  # read together with the file
    _add_fit(commands)

    _add_evaluation(commands)
    _add_reports(commands)
    recipe = _add_command(commands, "recipe", run.recipe, Bilingual("list all knobs of a recipe", "列出配方的全部选项").line)
    recipe.add_argument("--evaluate", action="store_true", help=Bilingual("the knobs of evaluate and compare", "列出评估与对照的选项").line)
    recipe.add_argument("--markdown", action="store_true", help=Bilingual("as Markdown, as in the docs", "输出为文档页面").line)
    _add_perplexity(commands)
    _add_chat_and_score(commands)
    _add_data(commands)
    _add_conversion(commands)
    _add_demo(commands)
    _add_user(commands)
    return parser


def _add_fit(commands: "argparse._SubParsersAction[_Parser]") -> None:
    fit = _add_command(
        commands, "fit", run.fit, Bilingual("forecast the memory, time and disk of a recipe", "预测配方所需的显存、时间和磁盘").line
    )
    fit.add_argument(
        "recipe",
        type=Path,
        metavar="RECIPE.yaml",
        help=Bilingual("a file, or the name of a recipe that comes along", "训练配方，或自带配方的名字").line,
    )
    fit.add_argument(
        "--card",
        metavar="NAME",
        help=Bilingual(
            "a GPU, such as 4090, A100 or 8GB, or all; by default the one of this machine, if there is one",
            "显卡或显存大小，或 all；默认为本机显卡",
        ).line,
    )
    fit.add_argument(
        "--probe",
        action="store_true",
        help=Bilingual("load the base on this GPU and measure the longest rows", "在本机显卡上加载底座，实测最长的几行").line,
    )
    fit.add_argument(
        "--output",
        type=Path,
        metavar="FILE.html",
        help=Bilingual("draw speed against memory of all settings", "画出全部设置的速度与显存").line,
    )
    _add_overrides(fit, RECIPE, checked=False)  # read together with the file


class _Help(argparse.HelpFormatter):
    """Help whose first word is in both languages, too."""

    def add_usage(
        self,
        usage: str | None,
        actions: Iterable[argparse.Action],
        groups: Iterable[Any],
        prefix: str | None = None,
    ) -> None:
        """Begin with the usage."""
        super().add_usage(usage, actions, groups, USAGE if prefix is None else prefix)


class _RawHelp(_Help, argparse.RawDescriptionHelpFormatter):
    """The same, with line breaks as they are."""


class _Parser(argparse.ArgumentParser):
    """An ArgumentParser whose error message says what to do next, and which prints through `say`."""

    knobs: str | None = None
    """The `MODULE:CLASS` of the section whose knobs the command takes, which its help lists."""
    knob_prefix = ""
    """What is typed before the name of a knob."""

    def format_help(self) -> str:
        """The help, with a line for each knob that the command takes."""
        return super().format_help() + ("" if self.knobs is None else _knob_lines(self.knobs, self.knob_prefix))

    def _print_message(self, message: str, file: Any = None) -> None:
        say(message, stream=sys.stderr if file is None or file is sys.stderr else sys.stdout, end="")

    def error(self, message: str) -> NoReturn:
        """Print the error and how to get help; exit status 2."""
        self._refuse(parser_problem(message, self.prog))

    def reject(self, words: Sequence[str], *, takes_knobs: bool) -> NoReturn:
        """Exit with an error about unknown `words`, suggesting what may have been meant."""
        options = re.findall("--[a-z]+", self.format_usage())
        positionals = {action.dest: str(action.metavar) for action in self._actions if not action.option_strings}
        self._refuse(unknown_words(words, self.prog, options, takes_knobs=takes_knobs, positionals=positionals))

    def _refuse(self, problem: Bilingual) -> NoReturn:
        self.exit(2, f"error: {problem.english}\n       {problem.chinese}\n")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            from imprint.config.problems import unknown_key

            raise argparse.ArgumentError(action, f'"{value}" {unknown_key(str(value), [str(choice) for choice in action.choices]).english}')


def find_section(name: str) -> "type[Section]":
    """The section at `MODULE:CLASS`."""
    module, _, attribute = name.partition(":")
    section: type[Section] = getattr(import_module(module), attribute)
    return section


def _knob_lines(section: str, prefix: str) -> str:
    """The knobs of a section, as the last part of a help."""
    from imprint.config import as_lines, describe

    columns = terminal_columns(sys.stdout) if sys.stdout.isatty() else None
    title = (
        Bilingual("flags, with their defaults", "参数与默认值")
        if prefix
        else Bilingual("knobs, set as a.b=c, with their defaults", "选项与默认值")
    )
    lines = as_lines(describe(find_section(section)), before=prefix, columns=columns)
    return "\n".join(["", f"{title.line}:", *lines, ""])


def _translate(parser: argparse.ArgumentParser) -> None:
    """Give a parser without `-h` its headings and that option in both languages; argparse has them in English."""
    parser._positionals.title, parser._optionals.title = Bilingual("arguments", "参数").line, Bilingual("options", "选项").line
    parser.add_argument("-h", "--help", action="help", help=Bilingual("show this help", "显示本帮助").line)


def _add_parser(commands: "argparse._SubParsersAction[_Parser]", name: str, description: str) -> _Parser:
    parser = commands.add_parser(name, help=description, description=description, formatter_class=_Help, add_help=False)
    _translate(parser)
    return parser


def _add_command(commands: "argparse._SubParsersAction[_Parser]", name: str, command: Command, description: str) -> _Parser:
    parser = _add_parser(commands, name, description)
    parser.set_defaults(command=command, parser=parser)
    return parser


def _add_subcommands(commands: "argparse._SubParsersAction[_Parser]", name: str, description: str) -> "argparse._SubParsersAction[_Parser]":
    parser = _add_parser(commands, name, description)
    return parser.add_subparsers(title=Bilingual("parts", "部分").line, metavar="PART", required=True)


def _add_overrides(parser: _Parser, section: str, *, checked: bool = True) -> None:
    """Let a command take overrides; `section` is the `MODULE:CLASS` that declares them. `checked`: at once, before the command."""
    parser.set_defaults(section=section if checked else None)
    parser.knobs = section
    parser.add_argument(
        "overrides",
        nargs="*",
        default=[],
        metavar="a.b=c",
        help=Bilingual("knobs to set here, listed below", "在此修改选项，见下").line,
    )


def _add_evaluation(commands: "argparse._SubParsersAction[_Parser]") -> None:
    evaluate = _add_command(
        commands,
        "evaluate",
        run.evaluate,
        Bilingual("answer held-out questions and score the answers", "回答留出的问题并打分").line,
    )
    evaluate.add_argument(
        "folder",
        metavar="RUN|MODEL",
        help=Bilingual("a run folder; for a base alone a model folder, or owner/name of the hub", "训练结果、模型目录或 owner/name").line,
    )
    evaluate.add_argument(
        "--data",
        type=Path,
        metavar="FILE",
        help=Bilingual("question and answer rows; the run's held-out rows if not given", "问答数据；默认用留出数据").line,
    )
    evaluate.add_argument("--limit", type=_count, metavar="N", help=Bilingual("the first N rows only", "只用前 N 行").line)
    _add_overrides(evaluate, "imprint.evaluate.section:EvaluateSection")

    compare = _add_command(commands, "compare", run.compare, Bilingual("show base and tuned model side by side", "并排对照微调前后").line)
    compare.add_argument("run", type=Path, metavar="RUN", help=Bilingual("a run folder", "训练结果目录").line)
    compare.add_argument(
        "--data", type=Path, metavar="FILE", help=Bilingual("ask these rows; the run's held-out rows if not given", "默认用留出数据").line
    )
    compare.add_argument(
        "--prompts", type=Path, metavar="FILE", help=Bilingual("ask these questions, one a line", "改问这些问题，每行一个").line
    )
    compare.add_argument("--limit", type=_count, metavar="N", help=Bilingual("the first N rows only", "只用前 N 行").line)
    _add_overrides(compare, "imprint.evaluate.section:EvaluateSection")

    forgetting = _add_command(
        commands, "forgetting", run.forgetting, Bilingual("measure what the base has forgotten in a run", "评估微调造成的遗忘").line
    )
    forgetting.add_argument("run", type=Path, metavar="RUN", help=Bilingual("a run folder", "训练结果目录").line)
    _add_overrides(forgetting, "imprint.evaluate.section:ForgettingCommandSection")


def _add_reports(commands: "argparse._SubParsersAction[_Parser]") -> None:
    report = _add_command(commands, "report", run.report, Bilingual("write the report of a run again", "重新生成训练报告").line)
    report.add_argument("run", type=Path, metavar="RUN", help=Bilingual("a run folder", "训练结果目录").line)

    runs = _add_command(commands, "runs", run.runs, Bilingual("list runs: state, step, loss, scores", "列出训练结果及其状态").line)
    folder_help = Bilingual("search this folder and below; the working directory if not given", "查找的目录，默认为当前目录").line
    runs.add_argument("folder", type=Path, nargs="?", default=Path(), metavar="FOLDER", help=folder_help)
    runs.add_argument("--json", action="store_true", help=Bilingual("for scripts", "供脚本读取").line)


def _add_chat_and_score(commands: "argparse._SubParsersAction[_Parser]") -> None:
    chat = _add_command(commands, "chat", run.chat, Bilingual("talk to a run or a model", "与微调结果或模型对话").line)
    chat.add_argument(
        "folder",
        metavar="RUN|MODEL|URL",
        help=Bilingual(
            "a run folder, a bundle of one, a model folder, owner/name of the hub, or the address of a service, http://HOST:PORT, "
            "which takes model=, key_file=, max_tokens= (docs/chat.md)",
            "训练结果、打包文件、模型目录、owner/name，或在线服务的地址 http://主机:端口",
        ).line,
    )
    _add_overrides(chat, "imprint.chat.section:ChatSection", checked=False)  # a service has others
    serve = _add_command(commands, "serve", run.serve, Bilingual("answer over HTTP, with accounts", "启动在线服务").line)
    serve.add_argument(
        "words",
        nargs="+",
        metavar="RUN|MODEL|BUNDLE",
        help=Bilingual("runs and bundles of one base, or a model folder", "同一底座的训练结果、打包文件，或模型目录").line,
    )
    _add_overrides(serve, "imprint.serve.section:ServeSection", checked=False)  # they stand among the models

    score = _add_command(commands, "score", run.score, Bilingual("score a predictions file of any tool", "给任何工具的预测文件打分").line)
    score.add_argument("file", type=Path, metavar="PREDICTIONS", help=Bilingual("answers with their references", "预测与参考答案").line)
    score.add_argument(
        "--protocol", action="append", metavar="NAME", help=Bilingual("how scores are counted; may be repeated", "计分方式，可重复").line
    )
    score.add_argument("--output", type=Path, metavar="FILE", help=Bilingual("write the scores there as JSON too", "另存为 JSON").line)


def _add_data(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parts = _add_subcommands(commands, "data", Bilingual("check, show and convert data files", "检查、查看、转换数据").line)
    check = _add_command(parts, "check", run.check, Bilingual("find what is wrong with data files", "找出数据里的问题").line)
    check.add_argument(
        "files",
        type=str,
        nargs="+",
        metavar="FILE",
        help=Bilingual("files or folders of rows or raw text, FILE#500 takes 500 rows", "数据或纯文本的文件、目录").line,
    )
    check.add_argument("--dev", type=str, metavar="FILE", help=Bilingual("held-out rows, to find those in both", "留出数据，查找重复").line)
    check.add_argument("--fix", type=Path, metavar="OUT", help=Bilingual("write the repaired rows to this file", "修好的数据写到这里").line)
    show = _add_command(parts, "show", run.show, Bilingual("show rows as the tokens that are learned", "显示每行的词元与学习部分").line)
    show.add_argument("file", type=str, metavar="FILE", help=Bilingual("a file or folder of rows or raw text", "数据或纯文本").line)
    show.add_argument("--limit", type=_count, default=3, metavar="N", help=Bilingual("how many rows", "显示几行").line)
    convert = _add_command(parts, "convert", run.convert, Bilingual("write any file as JSON lines", "转换为 JSON lines").line)
    convert.add_argument("file", type=str, metavar="FILE", help=Bilingual("a file or folder of rows", "数据文件或目录").line)
    convert.add_argument(
        "output", type=Path, metavar="OUT", help=Bilingual("the file to write: .jsonl, .csv, .tsv, .xlsx, .parquet", "输出文件").line
    )
    for part in (check, show):
        part.add_argument(
            "--model", metavar="RUN|MODEL", help=Bilingual("whose tokenizer to use; the toy base if not given", "用谁的词表").line
        )
    for part in (check, show):
        _add_overrides(part, "imprint.check.section:CheckSection", checked=False)  # also in the form of a recipe's, and files among them
    _add_overrides(convert, "imprint.check.section:ConvertSection", checked=False)
    _add_command(commands, "doctor", run.doctor, Bilingual("show the hardware and libraries of this machine", "检查这台机器的环境").line)


def _add_perplexity(commands: "argparse._SubParsersAction[_Parser]") -> None:
    perplexity = _add_command(
        commands,
        "perplexity",
        run.perplexity,
        Bilingual("measure the perplexity of texts under a model", "测量模型对文本的困惑度").line,
    )
    perplexity.add_argument(
        "folder",
        metavar="RUN|MODEL",
        help=Bilingual("a run folder, a model folder, or owner/name of the hub", "训练结果、模型目录或 owner/name").line,
    )
    perplexity.add_argument(
        "--data", type=Path, action="append", required=True, metavar="FILE", help=Bilingual("texts; may be repeated", "文本，可重复").line
    )
    perplexity.add_argument("--limit", type=_count, metavar="N", help=Bilingual("the first N documents of each only", "各取前 N 篇").line)
    _add_overrides(perplexity, "imprint.evaluate.section:PerplexitySection")


def _add_quantize(commands: "argparse._SubParsersAction[_Parser]") -> None:
    quantize = _add_command(commands, "quantize", run.quantize, Bilingual("write a base with quantized weights", "量化底座").line)
    quantize.add_argument(
        "folder", metavar="MODEL", help=Bilingual("a model folder, or owner/name of the hub", "模型目录或 owner/name").line
    )
    quantize.add_argument("output", type=Path, metavar="OUT", help=Bilingual("the folder to write", "输出目录").line)
    precision = quantize.add_mutually_exclusive_group()
    precision.add_argument(
        "--format",
        choices=list(QUANTIZE_FORMATS),
        default="4",
        help=Bilingual(
            "4 and 8 bits are the original's formats, int4-g128 is closer to the base; it and fp8 are read by Imprint only; 4 if not given",
            "4、8 为原版格式；int4-g128 误差更小，它与 fp8 只有 Imprint 能读",
        ).line,
    )
    precision.add_argument(
        "--bits", dest="format", type=int, choices=(4, 8), help=Bilingual("the same for 4 and 8", "同上，只有 4 和 8").line
    )


def _add_conversion(commands: "argparse._SubParsersAction[_Parser]") -> None:
    imported = _add_command(
        commands, "import", run.import_model, Bilingual("write a GGUF file as a model folder", "把 GGUF 文件转为模型目录").line
    )
    imported.add_argument(
        "file", type=Path, metavar="FILE.gguf", help=Bilingual("a model in llama.cpp's format", "llama.cpp 格式的模型").line
    )
    imported.add_argument("output", type=Path, metavar="OUT", help=Bilingual("the folder to write", "输出目录").line)
    _add_quantize(commands)
    export = _add_command(
        commands,
        "export",
        run.export,
        Bilingual("export a run to the file formats of other tools", "把微调结果导出给其他工具").line,
    )
    export.add_argument("run", type=Path, metavar="RUN", help=Bilingual("a run folder", "训练结果目录").line)
    export.add_argument(
        "output", type=Path, nargs="?", metavar="OUT", help=Bilingual("where to write; into the run folder if not given", "输出位置").line
    )
    export.add_argument("--to", required=True, choices=TARGETS, help=Bilingual("target format", "导出格式").line)
    export.add_argument(
        "--prompts", type=Path, metavar="FILE", help=Bilingual("verify the export with these questions", "用这些问题验证导出前后一致").line
    )
    _add_overrides(export, "imprint.export.section:ExportSection")

    original = _add_command(
        commands,
        "main",
        run.original_main,
        Bilingual("run with the flags of ChatGLM-6B's ptuning/main.py", "兼容原版 main.py 的参数").line,
    )
    original.add_argument(
        "flags", nargs=argparse.REMAINDER, metavar="--flag value", help=Bilingual("as in the original train.sh", "同原版 train.sh").line
    )

    original.knobs, original.knob_prefix = "imprint.compat.flags:OriginalFlags", "--"

    migrate = _add_command(
        commands,
        "migrate",
        run.migrate,
        Bilingual("print the recipe that an old train.sh amounts to", "把旧 train.sh 转成配方").line,
    )
    migrate.add_argument(
        "script", type=Path, metavar="train.sh", help=Bilingual("the old script, or its JSON of arguments", "旧脚本或参数 JSON").line
    )
    migrate.add_argument("output", type=Path, nargs="?", metavar="RECIPE.yaml", help=Bilingual("write it there instead", "写入文件").line)


def _add_demo(commands: "argparse._SubParsersAction[_Parser]") -> None:
    parts = _add_subcommands(commands, "demo", Bilingual("make what the demo needs", "制作演示所需的数据与模型").line)
    rows = _add_command(
        parts, "rows", run.demo_rows, Bilingual("write question and answer rows of the toy world", "生成玩具世界的问答数据").line
    )
    rows.add_argument("folder", type=Path, metavar="OUT", help=Bilingual("the folder to write to", "输出目录").line)
    rows.add_argument(
        "--task", default="ad_copy", metavar="NAME", help=Bilingual("ad_copy, summary, translation, classification ...", "任务").line
    )
    identity = _add_command(
        parts, "identity", run.demo_identity, Bilingual("write rows that give a model a new name", "生成改名换姓的问答数据").line
    )
    identity.add_argument("folder", type=Path, metavar="OUT", help=Bilingual("the folder to write to", "输出目录").line)
    kiln = _add_command(
        parts,
        "kiln",
        run.demo_domain_example,
        Bilingual("write books and questions of an invented craft", "生成虚构行业的书籍与问答").line,
    )
    kiln.add_argument("folder", type=Path, metavar="OUT", help=Bilingual("the folder to write to", "输出目录").line)
    bloom = _add_command(parts, "bloom", run.demo_bloom, Bilingual("make a tiny BLOOM that knows the toy town", "制作一个小 BLOOM").line)
    bloom.add_argument("folder", type=Path, metavar="OUT", help=Bilingual("the folder to write to", "输出目录").line)
    _add_overrides(bloom, RECIPE, checked=False)


def _add_user(commands: "argparse._SubParsersAction[_Parser]") -> None:
    subcommands = _add_subcommands(commands, "user", Bilingual("manage the accounts of the online service", "管理在线服务的账号").line)
    for subcommand in USER_SUBCOMMANDS:
        parser = _add_command(subcommands, subcommand.name, run.user, subcommand.does.line)
        parser.set_defaults(subcommand=subcommand.name, subject="", json=False)
        if subcommand.metavar is not None:
            parser.add_argument("subject", metavar=subcommand.metavar, help=subcommand.subject.line)
        if subcommand.is_list:
            parser.add_argument(
                "--json", action="store_true", help=Bilingual("for scripts, one line for each", "供脚本读取，每项一行").line
            )
        _add_overrides(parser, subcommand.section)


def _count(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f'must be an integer of at least 1, got "{text}"')
    return int(text)
