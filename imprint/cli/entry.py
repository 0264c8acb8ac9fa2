"""Runs a command and turns what goes wrong into a message and an exit status."""

import argparse
import errno
import os
import sys
from collections.abc import Sequence

from imprint.cli.parser import Command, find_section, parse
from imprint.files.disk_errors import name_error
from imprint.messages import Bilingual, UserError
from imprint.terminal import prepare_output, say

OUT_OF_MEMORY = Bilingual(
    "the device ran out of memory. Compute fewer rows at once: train.micro_batch_size=1 (the batch stays the same) and\n"
    "train.checkpointing=true when training, batch_size=8 when evaluating; or take a smaller model.dtype. What was saved is kept.",
    "显存或内存不足：训练时减小 train.micro_batch_size、打开 train.checkpointing；评估时减小 batch_size。已保存的内容不受影响。",
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that `arguments` name and return its exit status.

    0; 1 if `data check` found something; 2 for an error that the user can fix; 130 after Ctrl-C; 141 if the reader of the output has
    closed it.
    """
    # Before torch is imported: its idle threads should sleep. Spinning made it 3 x slower on a shared machine.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    prepare_output()
    options = parse(sys.argv[1:] if arguments is None else arguments)
    command: Command = options.command
    try:
        _check_overrides(options)
        status = command(options) or 0
        sys.stdout.flush()
        return status
    except UserError as error:
        _print_user_error(error)
        return 2
    except BrokenPipeError:
        _discard_output()
        return 141
    except KeyboardInterrupt as stop:
        message = str(stop) or Bilingual("stopped; run the same command again to continue", "已停止；再次运行同一命令即可继续").line
        say("\n" + message, stream=sys.stderr)
        return 130
    except (RuntimeError, MemoryError) as error:
        from imprint.runtime import is_out_of_memory

        if not is_out_of_memory(error):
            raise
        _print_error(OUT_OF_MEMORY)
        return 2
    except OSError as error:
        if (refusal := name_error(error)) is not None:
            _print_user_error(refusal)
            return 2
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO) or error.filename is not None:
            raise
        _discard_output()
        say(f"error: {_output_error(str(error.strerror)).line}", stream=sys.stderr)
        return 2


def _print_user_error(error: UserError) -> None:
    """Print an error; of several processes only the launching one prints it."""
    if "WORLD_SIZE" in os.environ:
        from imprint.engine.world import report_to_launcher

        if report_to_launcher(error):
            return
    _print_error(error)


def _print_error(message: UserError | Bilingual) -> None:
    say("error: " + str(message).replace("\n", "\n       "), stream=sys.stderr)


def _output_error(problem: str) -> Bilingual:
    """The message if standard output cannot be written."""
    return Bilingual(
        f"the command cannot write its output: {problem}. Free some space or send it "
        "elsewhere, then run the same\n"
        "       command again; what was saved is kept.",
        "命令的输出无法写入：请清理磁盘或换一个位置，再运行同一命令；已保存的内容不受影响。",
    )


def _discard_output() -> None:
    """Redirect standard output to nowhere, so that flushing its buffer at exit cannot fail again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _check_overrides(options: argparse.Namespace) -> None:
    """Refuse wrong overrides of a command that imports PyTorch, before that is imported."""
    if section := getattr(options, "section", None):
        from imprint.config import read_overrides

        read_overrides(options.overrides, find_section(section))
