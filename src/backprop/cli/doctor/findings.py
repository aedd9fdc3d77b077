"""Findings in short, and a way to run checks so that none can hang or crash the caller.

Each check runs in a forked process of its own: a dead network mount stops its process in the kernel, a broken driver
may crash it, and both are findings. All run at once.
"""

import os
import select
import signal
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import NoReturn

import msgspec

from backprop import host
from backprop.errors import BackpropError
from backprop.records import Finding, Level

_READ_BYTES = 65_536
_MAX_TEXT = 500


def ok(check: str, text: str) -> Finding:
    """A check that passed."""
    return Finding(check=check, level=Level.OK, text=text)


def note(check: str, text: str, advice: str | None = None) -> Finding:
    """What is worth knowing, but no fault. advice: what to do about it."""
    return Finding(check=check, level=Level.NOTE, text=text, advice=advice)


def problem(check: str, text: str, advice: str | None = None) -> Finding:
    """What does not work. advice: how to mend it."""
    return Finding(check=check, level=Level.PROBLEM, text=text, advice=advice)


@dataclass(frozen=True, slots=True)
class Check:
    """A look at one thing."""

    name: str
    look: Callable[[], Iterable[Finding]]
    timeout_s: float = 10.0


@dataclass(slots=True)
class _Running:
    check: Check
    pid: int
    reader: int
    answer: bytes = b""
    is_over: bool = False
    is_late: bool = False
    is_collected: bool = False  # its number may be another's


def examine(checks: Sequence[Check]) -> list[Finding]:
    """The findings of all checks, in their order. Blocks for the longest time limit at most."""
    began = time.monotonic()
    running: list[_Running] = []
    try:
        running.extend(_start(check) for check in checks)
        while open_ones := [one for one in running if not one.is_over]:
            left_s = min(one.check.timeout_s for one in open_ones) - (time.monotonic() - began)
            readers, _, _ = select.select([one.reader for one in open_ones], [], [], max(0.0, left_s))
            for one in open_ones:
                if one.reader in readers:
                    more = os.read(one.reader, _READ_BYTES)
                    one.answer += more
                    one.is_over = not more
                elif time.monotonic() - began >= one.check.timeout_s:
                    one.is_over = one.is_late = True
        return [finding for one in running for finding in _findings(one)]
    finally:
        for one in running:
            _end(one)


def _start(check: Check) -> _Running:
    reader, writer = os.pipe()
    try:
        pid = os.fork()
    except OSError as error:
        os.write(writer, msgspec.json.encode([problem(check.name, f"the check {host.why_not_started(error)}")]))
        os.close(writer)
        return _Running(check, 0, reader, is_collected=True)
    if pid == 0:
        _be_a_check(check, writer)
    os.close(writer)
    return _Running(check, pid, reader)


def _be_a_check(check: Check, writer: int) -> NoReturn:
    try:
        os.setsid()  # what it starts can be ended with it, and Ctrl-C is the parent's business
        null = os.open(os.devnull, os.O_RDWR)
        for fd in (0, 1, 2):
            os.dup2(null, fd)
        try:
            found = list(check.look())
        except BackpropError as error:  # its message says what is wrong, and what helps
            found = [problem(check.name, str(error)[:_MAX_TEXT])]
        except Exception as error:  # noqa: BLE001  a check that breaks is itself a finding
            found = [_broken(check, f"{type(error).__name__}: {error}")]
        data = msgspec.json.encode(found)
        while data:
            data = data[os.write(writer, data) :]
    finally:
        os._exit(0)


def _findings(one: _Running) -> list[Finding]:
    with suppress(msgspec.MsgspecError):
        return msgspec.json.decode(one.answer, type=list[Finding])
    if one.is_late:
        text = f"timed out after {one.check.timeout_s:g} s"
        advice = "Something it checks hangs: a network mount, a disk or a driver. Runs that need it will hang, too."
        return [problem(one.check.name, text, advice)]
    code = os.waitstatus_to_exitcode(os.waitpid(one.pid, 0)[1])  # it has closed its end: it is over
    one.is_collected = True
    return [_broken(one.check, f"it ended with {f'signal {-code}' if code < 0 else f'exit code {code}'}")]


def _broken(check: Check, text: str) -> Finding:
    return problem(check.name, f"the check itself failed: {text}"[:_MAX_TEXT], "Please report this.")


def _end(one: _Running) -> None:
    os.close(one.reader)
    if one.is_collected:
        return
    for end in (os.killpg, os.kill):  # the latter for one that has not come to lead a group yet
        with suppress(ProcessLookupError, PermissionError):
            end(one.pid, signal.SIGKILL)
    with suppress(ChildProcessError):
        os.waitpid(one.pid, os.WNOHANG)  # one that hangs in the kernel is not waited for
