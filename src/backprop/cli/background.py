"""`run -d` and `run --vary` on this machine: supervisors that survive this terminal, in processes of their own.

The command that starts one waits until its trainer is launched, or the run queued. Ctrl-C until then takes it back.
"""

import os
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from backprop import engines
from backprop.cli import messages
from backprop.cli.context import say
from backprop.engines.base import Phase, Submission
from backprop.errors import BackpropError, ExitCode
from backprop.lifecycle import driver
from backprop.lifecycle.owned_run import OwnedRun, Request
from backprop.store.output.progress import Progress
from backprop.supervisor.plan import Outcome, SessionPlan
from backprop.supervisor.signals import DOUBLE_PRESS_S, Signals

_STARTED, _WAITS, _REFUSED, _BROKEN = b"s", b"w", b"r", b"b"  # how the answer to the parent begins
_PATIENCE_S = 3600.0  # between two looks for signals; the answer itself is seen at once
_BETWEEN_S = 2.0  # between two sessions of a run, when it has no supervisor


class _Answer(NamedTuple):
    """What a supervisor reported of its start to the command that waits for it."""

    kind: bytes  # empty: nothing
    text: str
    is_unwanted: bool  # the user pressed Ctrl-C meanwhile
    is_awaited: bool = True  # False: twice, and left before it came


def train(owned: OwnedRun, request: Request) -> int:
    """Start the run; what to exit with. Raises BackpropError when it could not be started."""
    with Signals(ignore_hangup=True).caught() as signals:
        return _start(owned, request, signals)


def train_many(runs: Sequence[OwnedRun], request: Request) -> int:
    """Start the runs, one after the other; the worst of their exit codes. Ctrl-C takes back all of them.

    Raises BackpropError when one could not be started; those before it continue, those after it are refused.
    """
    worst = int(ExitCode.OK)
    with Signals(ignore_hangup=True).caught() as signals:
        for number, owned in enumerate(runs):
            later = runs[number + 1 :]
            try:
                code = _start(owned, request, signals, later)
            except BackpropError as error:
                _refuse(later, f"run {owned.spec.id}, which came before it, could not be started: {error}")
                raise
            if code == ExitCode.INTERRUPTED:
                _refuse(later, "Ctrl-C before it was started")
                for earlier in runs[:number]:
                    _stop(earlier)
                return code
            worst = max(worst, code)
    return worst


def _refuse(runs: Sequence[OwnedRun], reason: str) -> None:
    for owned in runs:
        driver.refuse(owned, reason)
        owned.journal.close()
        say(f"run {owned.spec.id} was not started: {reason}")


def _start(owned: OwnedRun, request: Request, signals: Signals, later: Sequence[OwnedRun] = ()) -> int:
    """Start one run and wait for its answer; what to exit with. later: runs that are none of its supervisor's."""
    reader, writer = os.pipe()

    def work() -> int:
        os.close(reader)
        for other in later:
            other.journal.close()  # else this process held their locks as long as it lives
        return _be_the_supervisor(owned, request, writer)

    engine = engines.machine(owned.home)
    try:
        engine.release(engine.submit([Submission(owned.rundir, owned.spec, request.limits.timebox_s, work)]))
    except BackpropError as error:
        driver.refuse(owned, str(error))
        raise
    os.close(writer)
    owned.journal.close()  # the child has it too, and with it the lock
    answer = _answer_of(reader, signals)
    is_begun = answer.kind in {_STARTED, _WAITS}
    if not answer.is_awaited:
        say(f"run {owned.spec.id} has not started yet, but still may; to stop it then: backprop stop {owned.spec.id}")
    elif answer.is_unwanted and is_begun:
        _stop(owned)
    elif answer.is_unwanted or answer.kind == _REFUSED:
        say(answer.text or f"run {owned.spec.id} was not started")
    elif not is_begun:
        raise BackpropError(answer.text or f"the supervisor died; see {owned.rundir.path}")
    else:
        follow = "" if later else f" · follow with: backprop logs {owned.spec.id} -f"  # of many, one says how
        say(f"{answer.text}{follow}")
    if answer.is_unwanted:
        return ExitCode.INTERRUPTED
    return ExitCode.OK if is_begun else ExitCode.REFUSED


def _answer_of(reader: int, signals: Signals) -> _Answer:
    """Wait for the supervisor's answer, or until the user has pressed Ctrl-C twice."""
    answer, unwanted_since = b"", None
    os.set_blocking(reader, False)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while True:
            more = pipe.read()
            answer += more or b""
            if signals.take_end():
                now = time.monotonic()
                if unwanted_since is None:
                    unwanted_since = now
                    if more != b"":
                        say("stopping it as soon as it responds; press Ctrl-C again to leave it running")
                elif now - unwanted_since > DOUBLE_PRESS_S:
                    return _Answer(b"", "", is_unwanted=True, is_awaited=False)
            if more == b"":
                text = answer[1:].decode(errors="replace")
                return _Answer(answer[:1], text, is_unwanted=unwanted_since is not None)
            if more is None:
                signals.wait(_PATIENCE_S, reader)


def _stop(owned: OwnedRun) -> None:
    """Stop what has just started. Between two sessions it has no supervisor, for a moment."""
    from backprop.lifecycle import requests, run_state

    engine, run_id = engines.machine(owned.home), owned.spec.id

    def has_started_or_ended(standing: "run_state.RunState") -> bool:
        has_answer = run_state.current_supervisor(standing.run) is not None
        return has_answer or engine.observe(standing.run).phase is Phase.ENDED

    try:
        run = run_state.look(owned.home, owned.spec).run
        standing = run_state.wait_for(owned.home, run, has_started_or_ended, _BETWEEN_S)
        if standing is not None and standing.has_ended:
            say(standing.summary)
        else:
            requests.request_stop(owned.home, run, by="Ctrl-C")
            say(f"run {run_id} was asked to stop")
    except BackpropError as error:  # it has ended just now, or was removed
        say(str(error))


class _Background:
    """The observer of a detached run: answers its parent once, and logs the rest."""

    def __init__(self, owned: OwnedRun, pipe_fd: int) -> None:
        self._owned = owned
        self._spec = owned.spec
        self._pipe_fd = pipe_fd
        self._plan: SessionPlan | None = None
        self._has_answered = False
        self._notes: list[str] = []  # on the start, for the answer

    def answer(self, kind: bytes, text: str = "") -> None:
        """Answer the parent, which waits for the first answer and exits. Later ones are dropped."""
        if not self._has_answered:
            self._has_answered = True
            with suppress(BrokenPipeError):  # it was killed
                os.write(self._pipe_fd, kind + text.encode())
            os.close(self._pipe_fd)

    def waits(self, reason: str) -> None:
        say(f"run {self._spec.id} queued: {reason}")
        self.answer(_WAITS, f"run {self._spec.id} queued: {reason}")

    def begins(self, plan: SessionPlan) -> "_Background":
        self._plan = plan
        return self

    def started(self, out_path: Path, err_path: Path) -> None:  # noqa: ARG002  nothing is copied anywhere
        if self._plan is not None:
            self.answer(_STARTED, " · ".join([messages.planned_start_line(self._spec, self._plan), *self._notes]))

    def looked(self, progress: Progress, left_s: float) -> None:
        pass

    def ended(self, outcome: Outcome) -> None:
        self.answer(_BROKEN, outcome.session.reason or "")  # unless it was launched
        messages.say_end(self._owned, outcome.session)

    def message(self, text: str) -> None:
        say(text)
        if not self._has_answered:
            self._notes.append(text)


def _be_the_supervisor(owned: OwnedRun, request: Request, pipe_fd: int) -> int:
    background = _Background(owned, pipe_fd)
    try:
        result = driver.drive(owned, request, background, ignore_hangup=True)
    except BackpropError as error:
        say(str(error))
        background.answer(_BROKEN, str(error))
        return 1
    messages.say_if_refused(owned, result)
    background.answer(_REFUSED, f"run {owned.spec.id} was not started: {getattr(result, 'reason', '')}")
    return result.exit_code
