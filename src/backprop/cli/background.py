"""`run -d` and `run --vary` on this machine: supervisors that survive this terminal, in processes of their own.

Whoever asked for one waits until its trainer is launched, or stands in line. Ctrl-C until then takes it back.
"""

import os
import signal
from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import TYPE_CHECKING

from backprop import engines
from backprop.cli import session as fronts
from backprop.cli.common import say
from backprop.engines.contract import Order
from backprop.errors import BackpropError, ExitCode
from backprop.store.journal import Refused
from backprop.supervisor.signals import Signals

if TYPE_CHECKING:
    from backprop.progress import Progress
    from backprop.recorder import Recorder
    from backprop.runner import Outcome, SessionPlan
    from backprop.turns import Claim, Request

_STARTED, _WAITS, _REFUSED, _BROKEN = b"s", b"w", b"r", b"b"  # how the answer to the parent begins
_PATIENCE_S = 3600.0  # between two looks for signals; the answer itself is seen at once
_TAKES_IT_BACK = {signal.SIGINT, signal.SIGTERM}


def train(claim: "Claim", request: "Request") -> int:
    """Start the run; what to exit with. Raises BackpropError when it could not be started."""
    with Signals(ignore_hangup=True).caught() as signals:
        return _start(claim, request, signals)


def train_many(claims: "Sequence[tuple[Claim, Recorder]]", request: "Request") -> int:
    """Start the runs, one after the other; the worst of their exit codes. Ctrl-C takes back all of them.

    Raises BackpropError when one could not be started; those before it go on, those after it are refused.
    """
    worst = int(ExitCode.OK)
    with Signals(ignore_hangup=True).caught() as signals:
        for number, (claim, _) in enumerate(claims):
            later = claims[number + 1 :]
            try:
                code = _start(claim, request, signals, [other for other, _ in later])
            except BackpropError as error:
                _refuse(later, f"run {claim.spec.id}, which came before it, could not be started: {error}")
                raise
            if code == ExitCode.INTERRUPTED:
                _refuse(later, "Ctrl-C before it was started")
                for earlier, _ in claims[:number]:
                    _take_back(earlier)
                return code
            worst = max(worst, code)
    return worst


def _refuse(claims: "Sequence[tuple[Claim, Recorder]]", reason: str) -> None:
    for claim, recorder in claims:
        claim.journal.append(Refused(at=datetime.now(timezone.utc), reason=reason, figures={}))
        with suppress(OSError):  # whoever looks next brings the index up to date
            recorder.finish()
        claim.journal.close()
    if claims:
        say(f"{len(claims)} runs are not started: {reason}")


def _take_back(claim: "Claim") -> None:
    """Stop what was started a moment ago; say so, and what to do where nobody answers yet."""
    from backprop import orders

    run_id, run = claim.spec.id, orders.look(claim.home, claim.spec).run
    if run.status.is_final:
        say(f"run {run_id} is not started: {run.reason}" if run.last_session is None else f"run {run_id} has ended")
        return
    try:
        orders.ask_stop(claim.home, run, by="Ctrl-C")
        say(f"run {run_id} is asked to stop")
    except BackpropError:
        say(f"run {run_id} has not begun yet, and may do so; stop it then: backprop stop {run_id}")


def _start(claim: "Claim", request: "Request", signals: Signals, later: "Sequence[Claim]" = ()) -> int:
    """Start one run and wait for its answer; what to exit with. later: claims that are none of its supervisor's."""
    reader, writer = os.pipe()

    def work() -> int:
        os.close(reader)
        for other in later:
            other.journal.close()  # else this process held their locks as long as it lives
        return _be_the_supervisor(claim, request, writer)

    engine = engines.machine(claim.home)
    engine.release(engine.submit([Order(claim.rundir, claim.spec, request.limits.timebox_s, work)]))
    os.close(writer)
    claim.journal.close()  # the child has it too, and with it the lock
    answer, presses = _wait_for_answer(reader, signals)
    kind, text = answer[:1], answer[1:].decode(errors="replace")
    if presses:
        _take_back(claim)
        return ExitCode.INTERRUPTED
    if kind in {_STARTED, _WAITS}:
        say(f"{text} · follow it: backprop logs {claim.spec.id} -f")
        return ExitCode.OK
    if kind == _REFUSED:
        say(text)
        return ExitCode.REFUSED
    raise BackpropError(text or f"the supervisor died; see {claim.rundir.path}")


def _wait_for_answer(reader: int, signals: Signals) -> tuple[bytes, int]:
    """What the supervisor answers, and how often the user pressed Ctrl-C meanwhile: after the second, no answer."""
    answer, presses = b"", 0
    os.set_blocking(reader, False)
    with os.fdopen(reader, "rb", buffering=0) as pipe:
        while True:
            if any(number in _TAKES_IT_BACK for number in signals.take()):
                presses += 1
                if presses > 1:
                    return answer, presses
                say("it is stopped as soon as it answers; press Ctrl-C again to leave it alone")
            more = pipe.read()
            if more == b"":
                return answer, presses
            if more is None:
                signals.wait(_PATIENCE_S, reader)
            else:
                answer += more


class _Background:
    """The observer of a detached run: tells its parent when there is something to tell, and the log the rest."""

    def __init__(self, claim: "Claim", recorder: "Recorder", pipe_fd: int) -> None:
        self._spec = claim.spec
        self._recorder = recorder
        self._pipe_fd = pipe_fd
        self._plan: SessionPlan | None = None
        self._has_answered = False

    def answer(self, kind: bytes, text: str = "") -> None:
        """Tell the parent, which waits for the first answer and goes. Later ones are for nobody."""
        if not self._has_answered:
            self._has_answered = True
            with suppress(BrokenPipeError):  # it was killed
                os.write(self._pipe_fd, kind + text.encode())
            os.close(self._pipe_fd)

    def waits(self, reason: str) -> None:
        say(f"run {self._spec.id} waits: {reason}")
        self.answer(_WAITS, f"run {self._spec.id} waits: {reason}")

    def begins(self, plan: "SessionPlan") -> "_Background":
        self._plan = plan
        return self

    def started(self, out_path: Path, err_path: Path) -> None:  # noqa: ARG002  nothing is copied anywhere
        if self._plan is not None:
            self.answer(_STARTED, fronts.planned_start_line(self._spec, self._plan))

    def looked(self, progress: "Progress", left_s: float) -> None:
        pass

    def ended(self, outcome: "Outcome") -> None:
        self.answer(_BROKEN, outcome.session.reason or "")  # unless it was launched
        fronts.tell_end(self._spec, self._recorder, outcome.session)

    def said(self, text: str) -> None:
        say(text)


def _be_the_supervisor(claim: "Claim", request: "Request", pipe_fd: int) -> int:
    background = _Background(claim, recorder := fronts.recorder_of(claim), pipe_fd)
    try:
        result = fronts.take_turns(claim, request, recorder, background, ignore_hangup=True)
    except BackpropError as error:
        say(str(error))
        background.answer(_BROKEN, str(error))
        return 1
    code = fronts.told_exit_code(claim, result)
    background.answer(_REFUSED, f"run {claim.spec.id} is not started: {getattr(result, 'reason', '')}")
    return code
