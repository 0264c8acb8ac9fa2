"""The commands: each imports what it needs when it is called, so that the others start sooner."""

import argparse
import gc
import os
import sys
from collections.abc import Callable

from imprint.messages import Bilingual, UserError
from imprint.terminal import say


def announce(english: str, chinese: str) -> None:
    """Say on the error stream what the command does, before it imports PyTorch, which takes seconds."""
    if "torch" not in sys.modules and "WORLD_SIZE" not in os.environ:  # of several processes, the launching one has said it
        message = Bilingual(f"{english} (loading PyTorch first) ...", f"{chinese}（先加载 PyTorch）……")
        say(message.line, stream=sys.stderr)


def load_torch_for(english: str, chinese: str) -> None:
    """Say what the command does and import PyTorch.

    Python's garbage collector rests meanwhile, and never looks at what the import has made, which stays until the end: both the import and
    the end of the process take less time.
    """
    announce(english, chinese)
    if "torch" in sys.modules:
        return
    gc.disable()
    try:
        import torch  # noqa: F401

        gc.freeze()
    finally:
        gc.enable()


def train(options: argparse.Namespace) -> int:
    """`imprint train`."""
    from imprint.config import read_recipe
    from imprint.starters.shipped import demo_command, find_recipe
    from imprint.training.recipe import Recipe

    path = find_recipe(options.recipe)
    recipe = read_recipe(path, options.overrides, Recipe)  # a mistake is told before PyTorch is imported, which takes seconds
    if not recipe.data.train.exists() and (words := demo_command(path.absolute(), recipe.data.train)) is not None:
        make_demo(words, options.parse)
    load_torch_for(f"tuning by {path}", f"按 {path} 微调")
    from imprint.training.run import train_command

    return train_command(recipe, [str(options.recipe), *options.overrides])


def fit(options: argparse.Namespace) -> None:
    """`imprint fit`."""
    from imprint.config import read_recipe
    from imprint.starters.shipped import demo_command, find_recipe
    from imprint.training.recipe import Recipe

    path = find_recipe(options.recipe)
    recipe = read_recipe(path, options.overrides, Recipe)
    if not recipe.data.train.exists() and (words := demo_command(path.absolute(), recipe.data.train)) is not None:
        make_demo(words, options.parse)
    load_torch_for(f"computing what {path} will take", f"预测 {path} 所需的显存、时间和磁盘")
    from imprint.training.fit_command import fit_command

    fit_command(recipe, str(options.recipe), card=options.card, output=options.output, probes=options.probe)


def make_demo(words: list[str], parse: Callable[[list[str]], argparse.Namespace]) -> None:
    """Run the `imprint demo ...` that makes the rows of a shipped recipe, and say so; `parse` reads its command line."""
    command = f"imprint {' '.join(words)}"
    say(Bilingual(f"making the rows of this recipe first, as `{command}` does", f"先生成这份配方的数据，同 {command}").line)
    options = parse(words)
    options.command(options)


def init(options: argparse.Namespace) -> None:
    """`imprint init`."""
    from imprint.starters.command import init_command

    init_command(options.name, options.folder)


def evaluate(options: argparse.Namespace) -> None:
    """`imprint evaluate`."""
    if options.data is None:
        load_torch_for(f"answering and scoring the held-out rows of {options.folder}", f"回答 {options.folder} 的留出数据并打分")
    else:
        load_torch_for(f"answering and scoring {options.data}", f"回答 {options.data} 并打分")
    from imprint.evaluate.command import evaluate_command

    evaluate_command(options.folder, data=options.data, limit=options.limit, overrides=options.overrides)


def perplexity(options: argparse.Namespace) -> None:
    """`imprint perplexity`."""
    load_torch_for(f"measuring texts under {options.folder}", f"用 {options.folder} 测量文本")
    from imprint.evaluate.perplexity import perplexity_command

    perplexity_command(options.folder, data=options.data, limit=options.limit, overrides=options.overrides)


def compare(options: argparse.Namespace) -> None:
    """`imprint compare`."""
    load_torch_for(f"comparing {options.run} with its base", f"对照 {options.run} 与底座")
    from imprint.evaluate.compare import compare

    compare(options.run, data=options.data, prompts=options.prompts, limit=options.limit, overrides=options.overrides)


def forgetting(options: argparse.Namespace) -> None:
    """`imprint forgetting`."""
    load_torch_for(f"measuring what was forgotten in {options.run}", f"评估 {options.run} 的遗忘")
    from imprint.evaluate.review import forgetting_command

    forgetting_command(options.run, options.overrides)


def report(options: argparse.Namespace) -> None:
    """`imprint report`."""
    load_torch_for(f"writing the report of {options.run}", f"生成 {options.run} 的报告")
    from imprint.evaluate.review import report_command

    report_command(options.run)


def runs(options: argparse.Namespace) -> None:
    """`imprint runs`."""
    load_torch_for(f"looking for runs in {options.folder}", f"在 {options.folder} 中查找训练结果")
    from imprint.report.run_list import runs_command

    runs_command(options.folder, as_json=options.json)


def score(options: argparse.Namespace) -> None:
    """`imprint score`."""
    load_torch_for(f"scoring {options.file}", f"给 {options.file} 打分")
    from imprint.evaluate.score import score_command

    score_command(options.file, protocols=options.protocol, output=options.output)


def chat(options: argparse.Namespace) -> None:
    """`imprint chat`."""
    from imprint.chat.remote_command import is_service, remote_chat_command
    from imprint.chat.section import ChatSection
    from imprint.config import read_overrides

    if is_service(options.folder):
        remote_chat_command(options.folder, options.overrides)
        return
    read_overrides(options.overrides, ChatSection)  # a mistake is told before PyTorch is imported, which takes seconds
    load_torch_for(f"opening {options.folder}", f"打开 {options.folder}")
    from imprint.chat.command import chat_command

    chat_command(options.folder, options.overrides)


def serve(options: argparse.Namespace) -> None:
    """`imprint serve`."""
    from imprint.config import read_overrides
    from imprint.serve.section import ServeSection, refuse_missing_libraries, split_words

    paths, overrides = split_words([*options.words, *options.overrides])
    section = read_overrides(overrides, ServeSection)  # a mistake is told before PyTorch is imported, which takes seconds
    refuse_missing_libraries()
    if paths:
        load_torch_for(f"opening {' '.join(paths)}", f"打开 {' '.join(paths)}")
    from imprint.serve.command import serve_command

    serve_command(paths, section)


def check(options: argparse.Namespace) -> int:
    """`imprint data check`."""
    from imprint.check.destination import check_destination

    check_destination(options.files, options.dev, options.fix)
    load_torch_for(f"checking {' '.join(options.files)}", f"检查 {' '.join(options.files)}")
    from imprint.check.command import check_command

    return check_command(options.files, dev=options.dev, model=options.model, fix=options.fix, overrides=options.overrides)


def show(options: argparse.Namespace) -> None:
    """`imprint data show`."""
    load_torch_for(f"reading {options.file}", f"读取 {options.file}")
    from imprint.check.show import show_command

    show_command(options.file, model=options.model, limit=options.limit, overrides=options.overrides)


def convert(options: argparse.Namespace) -> None:
    """`imprint data convert`."""
    from imprint.check.convert import convert_command

    convert_command(options.file, options.output, overrides=options.overrides)


def doctor(_options: argparse.Namespace) -> None:
    """`imprint doctor`."""
    load_torch_for("looking at this machine", "检查这台机器")
    from imprint.check.doctor import machine_command

    machine_command()


def import_model(options: argparse.Namespace) -> None:
    """`imprint import`."""
    load_torch_for(f"reading {options.file}", f"读取 {options.file}")
    from imprint.export.from_gguf import import_gguf

    import_gguf(options.file, options.output)


def quantize(options: argparse.Namespace) -> None:
    """`imprint quantize`."""
    load_torch_for(f"quantizing {options.folder}", f"量化 {options.folder}")
    from imprint.export.quantized import quantize
    from imprint.export.targets import QUANTIZE_FORMATS

    quantize(options.folder, options.output, QUANTIZE_FORMATS[str(options.format)])


def export(options: argparse.Namespace) -> None:
    """`imprint export`."""
    load_torch_for(f"exporting {options.run}", f"导出 {options.run}")
    from imprint.export.command import export_command

    export_command(options.run, options.to, options.output, prompts=options.prompts, overrides=options.overrides)


def original_main(options: argparse.Namespace) -> int:
    """`imprint main`."""
    load_torch_for("reading the flags of the original main.py", "读取原版 main.py 的参数")
    from imprint.compat.run import run_original

    return run_original(options.flags)


def migrate(options: argparse.Namespace) -> None:
    """`imprint migrate`."""
    load_torch_for(f"reading {options.script}", f"读取 {options.script}")
    from imprint.compat.migrate import migrate_command

    migrate_command(options.script, options.output)


def recipe(options: argparse.Namespace) -> None:
    """`imprint recipe`."""
    from imprint.config import as_markdown, as_text, describe
    from imprint.evaluate.section import EvaluateSection
    from imprint.training.recipe import Recipe

    knobs = describe(EvaluateSection if options.evaluate else Recipe)
    say(as_markdown(knobs) if options.markdown else as_text(knobs), end="")


def demo_rows(options: argparse.Namespace) -> None:
    """`imprint demo rows`."""
    from imprint.demo.rows import TASKS, write_rows

    if options.task not in TASKS:
        raise UserError(
            Bilingual(
                f'--task: there is no task "{options.task}". Allowed: {", ".join(TASKS)}.',
                f'--task：没有任务 "{options.task}"。可用：{", ".join(TASKS)}。',
            )
        )
    write_rows(options.folder, task=options.task)


def demo_identity(options: argparse.Namespace) -> None:
    """`imprint demo identity`."""
    from imprint.demo.identity import write_identity

    write_identity(options.folder)


def demo_domain_example(options: argparse.Namespace) -> None:
    """`imprint demo kiln`."""
    from imprint.demo.domain_example.books import write_domain_example

    write_domain_example(options.folder)


def demo_bloom(options: argparse.Namespace) -> None:
    """`imprint demo bloom`."""
    load_torch_for(f"making a tiny BLOOM in {options.folder}", f"在 {options.folder} 中制作小 BLOOM")
    from imprint.demo.bloom import make_bloom

    make_bloom(options.folder, overrides=tuple(options.overrides))


def user(options: argparse.Namespace) -> None:
    """`imprint user`."""
    from imprint.serve.user_command import UserArguments, user_command

    user_command(options.subcommand, UserArguments(options.subject, options.overrides, as_json=options.json))
