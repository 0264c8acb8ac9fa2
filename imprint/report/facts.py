"""The part of a run's report that says how the run was made, and what to type next."""

import shlex
from collections.abc import Iterator

from imprint.messages import Bilingual
from imprint.report.html import escape, section, ui_message, ui_text
from imprint.report.run_report import RunReport


def run_facts(report: RunReport) -> str:
    """Date, versions, machine and commands, as HTML."""
    items = "".join(f"<div><dt>{ui_message(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in _facts(report))
    command = report.starts[-1].safe_command if report.starts else ""
    made = _command(
        command or shlex.join(["imprint", "train", f"{report.path}/config.yaml"]), Bilingual("trains it, or goes on", "训练，或继续训练")
    )
    steps = "".join(_command(one.command, one.purpose) for one in report.next_steps)
    unknown = Bilingual(
        "Time, versions and machine were not recorded: the run is of an earlier version.",
        "未记录时间、版本和机器：该结果由较早的版本训练。",
    )
    note = "" if report.starts else f'<p class="note">{ui_message(unknown)}</p>'
    heading = ui_text(Bilingual("How it was made, and what is next", "训练环境与后续命令"))
    return section("made", heading, f'<dl class="facts">{items}</dl>{note}\n<div class="commands">{made}{steps}</div>')


def _facts(report: RunReport) -> Iterator[tuple[Bilingual, str]]:
    if report.starts:
        first, last = report.starts[0], report.starts[-1]
        yield Bilingual("started", "开始"), first.time
        if len(report.starts) > 1:
            yield Bilingual("started again", "最近一次继续"), f"{last.time} (× {len(report.starts) - 1})"
        yield Bilingual("versions", "版本"), last.versions
        yield Bilingual("device", "计算设备"), last.device if last.processes == 1 else f"{last.processes} × {last.device}"
        yield Bilingual("machine", "机器"), last.machine
    if report.logged:
        yield Bilingual("last logged", "最后记录"), report.logged
    yield Bilingual("base", "底座"), report.base_name
    yield Bilingual("folder", "目录"), report.path


def _command(command: str, purpose: Bilingual) -> str:
    return f"<p>{ui_message(purpose)}</p><pre>{escape(command)}</pre>"
