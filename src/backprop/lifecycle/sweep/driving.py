"""Drives a sweep until nothing is left to do, or it is stopped: ticks whenever something has changed."""

import os
import signal
import time
from datetime import datetime, timezone
from pathlib import Path

from backprop.errors import BackpropError, ExitCode
from backprop.lifecycle.sweep import planning
from backprop.lifecycle.sweep.spec import SweepSpec, sweep_dir
from backprop.lifecycle.sweep.sweeper import Sweeper, SweepObserver
from backprop.store.home import Home
from backprop.supervisor.signals import Signals

_LOOK_EVERY_S = 0.25
_TICK_EVERY_S = 5.0  # without a change of any journal: a supervisor may have died
_TRIES = 5  # in a row to tick


class SweepDriver:
    """Drives one sweep in this process."""

    def __init__(self, home: Home, spec: SweepSpec, sweeper: Sweeper, observer: SweepObserver) -> None:
        self._home = home
        self._spec = spec
        self._sweeper = sweeper
        self._observer = observer
        self._failures = 0  # of ticks, in a row

    def drive(self, signals: Signals) -> int:
        """Tick until the sweep has finished, or is stopped; what to exit with. Raises BackpropError as `tick`."""
        sweeper, seen, ticked_at = self._sweeper, None, float("-inf")
        while True:
            if self._is_to_end(signals):
                self._observer.event("stopping the trials; they can go on later")
                sweeper.stop("Ctrl-C, or a signal")
                return ExitCode.INTERRUPTED
            now, stamp = time.monotonic(), self._stamp()
            if stamp != seen or now - ticked_at >= _TICK_EVERY_S:
                self._try_to_tick()
                seen, ticked_at = self._stamp(), time.monotonic()
                if sweeper.standing.finished is not None:
                    return sweeper.standing.finished.exit_code
                if sweeper.standing.is_stop_asked:
                    sweeper.stop("backprop sweep stop")
                    return ExitCode.OK
            self._observer.looked(sweeper.standing, sweeper.budget())
            signals.wait(_LOOK_EVERY_S)

    def _is_to_end(self, signals: Signals) -> bool:
        """Whether a signal asks for the end; the terminal is gone, too. Ctrl-Z suspends the sweeper, not its trials."""
        taken = signals.take()
        if signal.SIGTSTP in taken:
            self._observer.close()
            os.kill(os.getpid(), signal.SIGSTOP)
        return any(number is not signal.SIGTSTP for number in taken)

    def _try_to_tick(self) -> None:
        """Tick; what fails for a moment is tried again later. Raises BackpropError where it keeps failing."""
        try:
            self._sweeper.tick()
            self._failures = 0
        except BackpropError as error:
            self._failures += 1
            if self._failures >= _TRIES:
                raise
            self._observer.event(f"trying again in {_TICK_EVERY_S:g} s: {error}")

    def _stamp(self) -> tuple[object, ...]:
        """Changes as soon as the journal of an active run changes, or a request comes."""
        active = self._sweeper.standing.active
        paths = [self._home.rundir(trial.run_id).journal_path for trial in active]
        sizes = (_size(path) for path in (sweep_dir(self._home, self._spec.id).journal_path, *paths))
        return (*sizes, planning.is_over(self._spec, datetime.now(timezone.utc)))


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1
