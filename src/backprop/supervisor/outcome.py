"""How a session ended, in words and as an exit code. Pure, except for functions that read the trainer's stderr."""

import re
import signal
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from backprop.errors import ExitCode
from backprop.records import GB, Session, Status, StopReason
from backprop.store.files import last_lines, opened
from backprop.store.rundir import RunDir

_TAIL_BYTES = 4096
_READ_STDIN = ("EOFError", "bdb.BdbQuit")  # from input() or getpass(); from a debugger
_LINE_LENGTH = 200
_SLURM_PREFIXES = ("srun: ", "slurmstepd: ")  # of Slurm's own lines
_TASKS_TAIL_BYTES = 65_536  # the first failure may be followed by the output of all tasks that were ended because of it
_TASK_ENDED = re.compile(r"srun: error: (\S+): tasks? (\S+): (?:Exited with exit code (\d+)|.*)")
_TASK_FAILED = re.compile(rb"srun: error: \S+: tasks? \S+: ")
_TRACEBACK = "Traceback (most recent call last):"
_RANK = re.compile(r"\[[^\]\s]*\]: ?")  # prefix of each line of a rank's traceback from torch.distributed
_LAUNCHERS = "ChildFailedError"  # in torchrun's own traceback, which comes last and says nothing about the script
_TRACEBACK_LINES = 40  # in all
_FAILURE_BYTES = 65_536  # of stderr, at its end, in which a traceback is looked for
_MESSAGE_LINES = 6  # of an exception, including the lines after its type
_FAILURE = "srun: error: "  # may follow an unfinished line of a task, such as a progress bar


def reason(
    *,
    code: int,
    asked: str | None,
    was_killed: bool,
    was_oom: bool | None,
    cgroup_limit_bytes: int | None = None,
    unkillable_pids: Sequence[int],
    last_words: str,
    has_stdin: bool = False,
) -> str | None:
    """Why a session ended; None for a trainer that just finished.

    code: of the trainer, minus the signal's number where one ended it. asked: why we stopped it, if we did.
    was_killed: we sent SIGKILL. was_oom: the out-of-memory killer killed a process of the tree, by the kernel's log;
    None: it killed an unknown process of this machine. cgroup_limit_bytes: the limit at which the kernel killed a
    process of this very tree, if it did. has_stdin: see --stdin.
    """
    killing = _kernel_kill(cgroup_limit_bytes, was_oom=bool(was_oom))
    if asked is not None:
        had_to_be_killed = "had to be killed" if was_killed and code == -signal.SIGKILL else None
        unkillable = f"processes {list(unkillable_pids)} cannot be killed" if unkillable_pids else None
        too_late = None if killing is None else f"{killing} before it had stopped"
        return "; ".join([asked, *filter(None, [unkillable or too_late or had_to_be_killed])])
    if code == 0:
        return None
    if killing is not None:
        return killing if code == -signal.SIGKILL else f"exit code {shell_code(code)} after {killing}"
    if code < 0:
        message = f"killed by {_signal_name(-code)}, which Backprop did not send"
        # a process that ended with an exit code, or by another signal, was not killed for memory
        is_possible = code == -signal.SIGKILL and was_oom is None
        unknown = "the kernel's out-of-memory killer was active on this machine; which process it killed is unknown"
        return f"{message}; {unknown}" if is_possible else message
    message = f"exit code {code}" + (f": {last_words}" if last_words else "")
    read_stdin = last_words.startswith(_READ_STDIN) and not has_stdin
    return (
        f"{message} (a run's stdin is /dev/null; `backprop run --stdin -` passes yours on)" if read_stdin else message
    )


def _kernel_kill(limit_bytes: int | None, *, was_oom: bool) -> str | None:
    if limit_bytes is not None:
        return f"the kernel killed a process of its tree for going over {limit_bytes / GB:g} GB of RAM (--ram-limit)"
    return "the kernel's out-of-memory killer killed a process of its tree" if was_oom else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"


def status(code: int, stop: StopReason | None) -> Status:
    """The status that the session is recorded with."""
    if stop is not None:
        return stop.status
    return Status.COMPLETED if code == 0 else Status.FAILED


def is_own_end(code: int, stop: StopReason | None, *, was_signalled: bool, is_finished: bool) -> bool:
    """Whether training completed by itself although its time was ending, or the step that it was to reach had come.

    A trainer that reads control.json is asked to stop some time before its timebox ends. is_finished: it reported that
    training is complete.
    """
    return stop is not None and stop.status is Status.TIMEBOXED and code == 0 and is_finished and not was_signalled


def shell_code(code: int) -> int:
    """An exit code as shells report it: 128 plus the signal's number where one ended the process."""
    return 128 - code if code < 0 else code


def exit_code_of(status: Status, last: Session | None, dequeued_by: StopReason | None = None) -> int:
    """What `run`, `resume` and `wait` exit with when a run has ended: see the table in the docs.

    status: of the run. last: its last session. dequeued_by: who ended its wait for another one. A run whose supervisor
    died counts as killed.
    """
    code = None if last is None else last.exit_code
    if dequeued_by is StopReason.CTRL_C:
        return ExitCode.INTERRUPTED
    match status:
        case Status.COMPLETED:
            return ExitCode.OK
        case Status.FAILED:
            return code or 1  # unknown for a run recorded by an older tool
        case Status.REFUSED:
            return ExitCode.REFUSED
        case Status.INTERRUPTED | Status.UNREADABLE:
            return ExitCode.KILLED
        case _:
            stopped_by = None if last is None else last.stopped_by
            if code == ExitCode.KILLED or (code is None and stopped_by is StopReason.USER):
                return ExitCode.KILLED
            return ExitCode.INTERRUPTED if stopped_by is StopReason.CTRL_C else ExitCode.OK


def worst(ends: Iterable[tuple[Status, int]]) -> int:
    """The most severe exit code of several runs, by status and code of each: see docs/guides/notifications.md.

    A failure's own code comes first, then a kill, a refusal, and Ctrl-C.
    """
    order = (ExitCode.OK, ExitCode.INTERRUPTED, ExitCode.REFUSED, ExitCode.KILLED)

    def severity(end: tuple[Status, int]) -> tuple[int, int]:
        status, code = end
        return (len(order) if status is Status.FAILED or code not in order else order.index(ExitCode(code)), code)

    return max(ends, key=severity)[1]


def last_line(path: Path) -> str:
    """The last non-blank line of a text file, without control characters, shortened."""
    return next(reversed(_last_lines(path)), "")


def first_failed_task(path: Path) -> tuple[int, str] | None:
    """The exit code and last line of the task that failed first, from the stderr of a trainer on several nodes.

    srun ends the others and exits with the highest of all codes. None where a signal ended the first task.
    """
    lines = _last_lines(path, _TASKS_TAIL_BYTES)
    for number, line in enumerate(lines):
        if (match := _TASK_ENDED.fullmatch(line)) is None:
            continue
        node, task, code = match.groups()
        words = next((one for one in reversed(lines[:number]) if not one.startswith(_SLURM_PREFIXES)), "")
        return (int(code), f"{words} (task {task} on {node})".lstrip()) if int(code or 0) else None
    return None


def failure_text(rundir: RunDir, session: Session | None) -> str:
    """The end of what a failed session wrote to stderr; empty for any other, and where there is nothing to read."""
    if session is None or session.status is not Status.FAILED:
        return ""
    with opened(rundir.path, rundir.err_path(session.number).name) as fd:
        return "" if fd is None else last_lines(fd, _FAILURE_BYTES).data.decode(errors="replace")


class Traceback(NamedTuple):
    """Python's report of an uncaught exception."""

    lines: tuple[str, ...]
    is_last: bool  # no output follows it


def traceback_in(text: str) -> Traceback | None:
    """The last traceback in a trainer's stderr; of a script launched by torchrun, that of a rank."""
    lines = text.replace("\r", "\n").rstrip().split("\n")
    begins = [number for number, line in enumerate(lines) if _TRACEBACK in line]
    found = [_traceback_from(lines, begin) for begin in reversed(begins)]
    return next((one for one in found if _LAUNCHERS not in one.lines[-1]), found[0] if found else None)


def _traceback_from(lines: Sequence[str], begin: int) -> Traceback:
    """The traceback whose first line this is: frames are indented, the exception and its message are not."""
    place = lines[begin].index(_TRACEBACK)
    rank = _RANK.match(lines[begin])
    prefix = rank[0] if rank is not None and rank.end() == place else ""
    block, message_lines = [_TRACEBACK], 0  # it may follow a progress bar on its line
    for line in lines[begin + 1 :]:
        text = line.removeprefix(prefix)
        message_lines += bool(message_lines) or not text.startswith((" ", "\t"))
        if _TRACEBACK in text or (message_lines and not text.strip()) or message_lines > _MESSAGE_LINES:
            break
        block.append(text[:_LINE_LENGTH].rstrip())
    is_last = begin + len(block) == len(lines)
    if len(block) > _TRACEBACK_LINES:
        block[1 : len(block) - _TRACEBACK_LINES + 2] = ["  ..."]
    return Traceback(tuple(block), is_last)


def reports_failed_task(text: bytes) -> bool:
    """Whether srun reports in this part of stderr that a task failed."""
    return _TASK_FAILED.search(text) is not None


def _last_lines(path: Path, tail_bytes: int = _TAIL_BYTES) -> list[str]:
    try:
        with path.open("rb") as file:
            file.seek(max(0, path.stat().st_size - tail_bytes))
            text = file.read().decode(errors="replace")
    except OSError:
        return []
    lines = text.replace("\r", "\n").replace(_FAILURE, f"\n{_FAILURE}").splitlines()
    printable = ("".join(filter(str.isprintable, line)).strip()[:_LINE_LENGTH] for line in lines)
    return [line for line in printable if line]
