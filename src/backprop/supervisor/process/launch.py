"""Start a trainer under full control: in its own session, with output straight to files, and death tied to ours."""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from backprop.store.files import open_to_append

_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_PR_SET_CHILD_SUBREAPER = 36
_PR_GET_CHILD_SUBREAPER = 37
# The out-of-memory killer adds this to a process's share of memory in thousandths: a trainer is killed before the
# desktop, but not before a process that uses far more.
_OOM_SCORE_ADJ = 500

HAS_SUBREAPER: bool = sys.platform == "linux"
RUN_DIR_VARIABLE = "BACKPROP_RUN_DIR"  # in a trainer's environment: the mark that identifies its descendants


def _load_prctl() -> Callable[..., int] | None:
    return ctypes.CDLL(None, use_errno=True).prctl if HAS_SUBREAPER else None


def adopt_orphans() -> None:
    """Become the parent of every descendant whose own parent dies (Linux sub-reaper), so that none is lost.

    Elsewhere the tree is found by the mark in its environment: see `tree.marked`.
    """
    prctl = _load_prctl()
    if prctl is not None and prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_CHILD_SUBREAPER)")


def start_detached(command: Sequence[str], keep_fd: int | None = None) -> None:
    """Start a process that does not descend from us, in a session of its own, with one of our open files.

    Meanwhile this process adopts no orphans: call it while there is no trainer, or while its tree is stopped.
    Raises OSError or subprocess.CalledProcessError.
    """
    was_subreaper = _exchange_subreaper(0)  # set by an earlier session
    try:
        start_and_wait(["/bin/sh", "-c", '"$@" &', "sh", *command], keep_fd)
    finally:
        _exchange_subreaper(was_subreaper)


def start_and_wait(command: Sequence[str], keep_fd: int | None = None, *, limit_s: float | None = None) -> None:
    """The same for a child process that is waited for. It is killed after the limit, which raises TimeoutExpired."""
    subprocess.run(
        command,
        cwd="/",  # so that no file in the user's folder is imported
        env={name: value for name, value in os.environ.items() if name != RUN_DIR_VARIABLE},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        pass_fds=() if keep_fd is None else (keep_fd,),
        start_new_session=True,
        timeout=limit_s,
        check=True,
    )


def _exchange_subreaper(wanted: int) -> int:
    """Set whether this process adopts orphans; returns the value before. 0 where the system has no sub-reapers."""
    prctl, before = _load_prctl(), ctypes.c_int(0)
    if prctl is not None:
        prctl(_PR_GET_CHILD_SUBREAPER, ctypes.byref(before), 0, 0, 0)
        prctl(_PR_SET_CHILD_SUBREAPER, wanted, 0, 0, 0)
    return before.value


def has_no_descendants() -> bool:
    """True when this process has no descendants at all. Cheap; always False where it does not adopt orphans."""
    if not HAS_SUBREAPER:
        return False
    try:
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
    except ChildProcessError:
        return True
    return False


def _appending(path: Path) -> BinaryIO:
    """Open for appending, readable by the owner only, whatever the umask."""
    return os.fdopen(open_to_append(path), "ab")


def _reading(stdin: str | None) -> BinaryIO:
    return open(0, "rb", closefd=False) if stdin == "-" else Path(stdin or os.devnull).open("rb")


def _reset_signals(ignored: signal.Signals | None) -> None:
    """Unblock all signals, and handle or ignore none, but for ignoring this one.

    exec leaves ignored signals ignored, and resets handled ones: one that came before is lost with its handler.
    """
    for number in signal.valid_signals():
        if signal.getsignal(number) not in {signal.SIG_DFL, None}:
            signal.signal(number, signal.SIG_DFL)
    if ignored is not None:
        signal.signal(ignored, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


def launch(
    command: Sequence[str],
    cwd: str,
    environment: Mapping[str, str],
    out_path: Path,
    err_path: Path,
    stdin: str | None = None,
    enter: Callable[[], None] | None = None,
    *,
    ignore_hangup: bool = False,
) -> "subprocess.Popen[bytes]":
    """The started trainer. Call it from the main thread. Raises OSError when the command cannot be executed.

    The trainer leads a session of its own, so that Ctrl-C in the terminal reaches the supervisor only. On Linux the
    kernel sends it SIGINT when the supervisor dies. stdin: a file; "-": our own; None: /dev/null. enter: called in the
    child before exec, to set a memory limit; training continues if it fails.

    No signal is blocked or ignored in the trainer, whatever this process inherited, except SIGHUP with ignore_hangup.
    """
    prctl = _load_prctl()
    supervisor_pid = os.getpid()

    def prepare() -> None:
        _reset_signals(signal.SIGHUP if ignore_hangup else None)
        if enter is not None:
            with suppress(OSError):  # the cgroup was removed: the resource monitor is left
                enter()
        if prctl is not None:
            # The kernel watches the spawning thread, not the process: prctl(2). Hence the main thread.
            prctl(_PR_SET_PDEATHSIG, int(signal.SIGINT), 0, 0, 0)
            if os.getppid() != supervisor_pid:
                os._exit(1)  # the supervisor died before the line above
            with suppress(OSError):  # an already higher value may only be lowered with privileges
                Path("/proc/self/oom_score_adj").write_text(str(_OOM_SCORE_ADJ))

    with _appending(out_path) as out, _appending(err_path) as err, _reading(stdin) as source:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=source,
            stdout=out,
            stderr=err,
            start_new_session=True,
            preexec_fn=prepare,  # noqa: PLW1509  there are no other threads yet
        )
