"""Runs and the machine as text for a terminal, or for a pipe: then nothing is cut and nothing is coloured."""

import os
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Literal, NamedTuple
from unicodedata import east_asian_width

from backprop.records import RunView, Session, Status
from backprop.views import human
from backprop.views.document import IsValid, elapsed_s, session_elapsed_s

# SGR codes of ECMA-48: 1 bold, 31 red, 32 green, 33 yellow, 34 blue, 35 magenta, 36 cyan
_COLOURS = {
    Status.QUEUED: "36",
    Status.RUNNING: "1;36",
    Status.PAUSED: "33",
    Status.REFUSED: "33",
    Status.COMPLETED: "32",
    Status.TIMEBOXED: "34",
    Status.STOPPED: "34",
    Status.FAILED: "31",
    Status.INTERRUPTED: "35",
}
_PIPE_WIDTH = 10_000  # nobody's terminal: a pipe gets every word


class _Column(NamedTuple):
    """One column of the table of runs."""

    title: str
    from_width: int  # shown in terminals at least so wide; who and how it stands come first
    justify: Literal["left", "right"]
    cell: Callable[[RunView, datetime], str]


def _last(view: RunView) -> Session | None:
    return view.run.last_session


_COLUMNS = (
    _Column("RUN", 0, "left", lambda view, _: view.run.spec.id),
    _Column("NAME", 70, "left", lambda view, _: human.printable(view.run.spec.name or "-")),
    _Column("STATUS", 0, "left", lambda view, _: view.run.status.value),
    _Column("AGE", 60, "right", lambda view, now: human.age(view.run.spec.created_at, now)),
    _Column(
        "TIME",
        50,
        "right",
        lambda view, now: human.duration(session_elapsed_s(last, now) if (last := _last(view)) else None),
    ),
    _Column(
        "OF",
        60,
        "right",
        lambda view, _: human.minutes(last.timebox_s if (last := _last(view)) else view.run.spec.limits.timebox_s),
    ),
    _Column("STEP", 40, "right", lambda view, _: "-" if view.last_step is None else str(view.last_step)),
    _Column("LOSS", 40, "right", lambda view, _: human.number(view.metrics.get("loss"))),
    _Column("SCRIPT", 80, "left", lambda view, _: human.printable(short_command(view))),
)
_MAY_BE_CUT = ("SCRIPT", "NAME")  # in this order, when the terminal is too narrow
_MIN_CUT_WIDTH = 8
_GAP = "  "
_MIN_TEXT_WIDTH = 30  # in a terminal that is narrower, it wraps by itself


def runs_table(views: Sequence[RunView], now: datetime) -> str:
    """One line a run, in the order given."""
    is_terminal, width = _output()
    columns = [column for column in _COLUMNS if width >= column.from_width]
    rows = [[column.title for column in columns]]
    rows += [[column.cell(view, now) for column in columns] for view in views]
    widths = [max(_cells(row[position]) for row in rows) for position in range(len(columns))]
    for title in _MAY_BE_CUT:
        excess = sum(widths) + len(_GAP) * (len(widths) - 1) - width
        for position, column in enumerate(columns):
            if column.title == title and excess > 0:
                widths[position] = max(_MIN_CUT_WIDTH, widths[position] - excess)
    has_colour = is_terminal and not os.environ.get("NO_COLOR")
    lines = []
    for row, status in zip(rows, [None, *(view.run.status for view in views)], strict=True):
        cells = []
        for text, column, cell_width in zip(row, columns, widths, strict=True):
            cell = _fitted(text, cell_width, column.justify)
            is_coloured = has_colour and status is not None and column.title == "STATUS"
            cells.append(f"\x1b[{_COLOURS[status]}m{cell}\x1b[0m" if is_coloured and status else cell)
        lines.append(_GAP.join(cells).rstrip() + "\n")
    return "".join(lines)


def _cells(text: str) -> int:
    """How many columns of a terminal a text takes; East Asian characters take two."""
    return len(text) if text.isascii() else sum(2 if east_asian_width(c) in "WF" else 1 for c in text)


def _fitted(text: str, width: int, justify: str) -> str:
    """The text cut or filled up to a width."""
    while _cells(text) > width:
        text = text[: -2 if text.endswith("…") else -1] + "…"
    filler = " " * (width - _cells(text))
    return filler + text if justify == "right" else text + filler


def _output() -> tuple[bool, int]:
    """Whether stdout is a terminal, and how wide it is."""
    is_terminal = sys.stdout.isatty()
    return is_terminal, shutil.get_terminal_size().columns if is_terminal else _PIPE_WIDTH


def short_command(view: RunView) -> str:
    """What a run executes, without the folders before it."""
    spec = view.run.spec
    words = spec.command[1:] if spec.script is not None else spec.command
    return " ".join((os.path.basename(words[0]), *words[1:]))  # noqa: PTH119


def run_details(view: RunView, now: datetime, is_valid: IsValid, notified: Sequence[str] = ()) -> str:
    """One run in full. notified: lines of what came of its notifications."""
    run, spec = view.run, view.run.spec
    last = run.last_session
    rows: list[tuple[str, str]] = [
        ("run", spec.id + (f" ({spec.name})" if spec.name else "")),
        ("status", run.status.value + (f": {run.reason}" if run.reason else "")),
        ("command", " ".join(spec.command)),
        ("folder", spec.cwd),
        ("python", spec.python or "-"),
        ("created", f"{spec.created_at.astimezone():%Y-%m-%d %H:%M:%S} by {spec.user} on {spec.host}"),
        ("time", f"{human.duration(elapsed_s(view, now))} in {len(run.sessions)} session(s)"),
    ]
    if spec.git is not None:
        state = ", uncommitted changes" if spec.git.dirty else ""
        rows.append(("code", f"{(spec.git.commit or 'no commit')[:12]} on {spec.git.branch or 'no branch'}{state}"))
    if view.params:
        rows.append(("params", "  ".join(f"{name}={value}" for name, value in view.params.items())))
    if view.last_step is not None:
        of = f" of {view.total_steps}" if view.total_steps is not None else ""
        rows.append(("step", f"{view.last_step}{of}"))
    if view.metrics:
        rows.append(("metrics", "  ".join(f"{name}={human.number(value)}" for name, value in view.metrics.items())))
    if view.note_count:
        rows.append(("notes", str(view.note_count)))
    for session in run.sessions:
        told = f"{session.status.value}, {human.duration(session_elapsed_s(session, now))} of "
        told += human.minutes(session.timebox_s)
        if session.resumed_from:
            told += f", from {session.resumed_from}"
        if session.reason and session.reason != run.reason:
            told += f": {session.reason}"
        rows.append((f"session {session.number}", told))
    for checkpoint in view.checkpoints:
        step = "" if checkpoint.step is None else f"step {checkpoint.step}, "
        lost = "" if os.path.lexists(checkpoint.path) else "  (gone)"
        broken = lost or ("" if is_valid(checkpoint) else "  (not whole)")
        kind = "emergency" if checkpoint.is_emergency else "checkpoint"
        rows.append((kind, f"{checkpoint.path}  {step}{human.size(checkpoint.measure.size_bytes)}{broken}"))
    if last is not None and not run.status.is_final:
        rows.append(("supervisor", f"process {last.supervisor_pid}, trainer {last.trainer_pid or '-'}"))
    rows += [("notified", line) for line in notified]
    rows.append(("record", view.run_dir))
    return aligned(rows)


def aligned(rows: Sequence[tuple[str, str]]) -> str:
    """Lines of a label and a text, the texts below one another; in a terminal also where one takes several lines."""
    is_terminal, columns = _output()
    width = max(len(label) for label, _ in rows)
    room = max(_MIN_TEXT_WIDTH, columns - width - len(_GAP))
    lines = []
    for label, text in rows:
        told = human.printable(text)
        first, *others = (_wrapped(told, room) or [""]) if is_terminal else [told]
        lines += [f"{label:<{width}}{_GAP}{first}\n", *(f"{'':<{width}}{_GAP}{other}\n" for other in others)]
    return "".join(lines)


def _wrapped(text: str, width: int) -> list[str]:
    """A path or a word that is too long stays whole, so that it can be copied."""
    import textwrap

    return textwrap.wrap(text, width, break_long_words=False, break_on_hyphens=False)
