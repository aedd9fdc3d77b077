"""A session without processes: its clock is set by the test, and everything it does is in one list."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta, timezone
from pathlib import Path
from signal import Signals

import msgspec

from backprop.records import Limits, RunSpec, RunView
from backprop.store.journal.entries import Entry
from backprop.store.rundir import RunDir
from backprop.supervisor.context import SessionContext
from backprop.supervisor.control_file import Control, ControlFile
from backprop.supervisor.pauses import Pauses
from backprop.supervisor.plan import Clock
from backprop.supervisor.stop_ladder import StopEscalation

EPOCH = datetime(2026, 1, 1, tzinfo=timezone.utc)


def limits(**changes: object) -> Limits:
    asked = {"timebox_s": 600, "grace_s": 30, "min_free_ram_bytes": 0, "min_free_disk_bytes": 0, **changes}
    return Limits(**asked)  # type: ignore[arg-type]


class FakeTrainer:
    """Notes what is done to it; ends when a test says so."""

    pid = 42

    def __init__(self, events: list[object]) -> None:
        self._events = events
        self.code = 0
        self.is_ended = False
        self.is_saving = False
        self.has_launchers_to_ask = False
        self.has_more_to_ask = False

    def freeze(self) -> None:
        self._events.append("freeze")

    def signal(self, number: Signals) -> tuple[int, ...]:
        self._events.append(number.name)
        return (self.pid,)

    def interrupt(self, announced_path: Path) -> tuple[int, ...]:
        self._events.append("SIGINT")
        return (self.pid,)

    def kill(self) -> tuple[int, ...]:
        self._events.append("SIGKILL")
        return (self.pid,)

    def is_over(self) -> bool:
        return self.is_ended

    def is_ending(self) -> bool:
        return self.is_saving


class FakeJournal:
    """Keeps entries in the session's list of events; hands out those that a test put into `incoming`."""

    def __init__(self, events: list[object]) -> None:
        self._events = events
        self.incoming: list[Entry] = []
        self.has_room: Callable[[], bool] = lambda: True
        self.is_dropped = False  # what found no room

    def append(self, *entries: Entry) -> bool:
        self._events += entries
        return self.has_room()

    def drop_unwritten(self) -> None:
        self.is_dropped = True

    def is_in_place(self, path: Path) -> bool:
        return True

    def read_new(self) -> list[Entry]:
        entries, self.incoming = self.incoming, []
        return entries


class FakeRecorder:
    """Stores nothing, and has the view that a test gave it."""

    def __init__(self) -> None:
        self.found: RunView | None = None

    def begin(self) -> None:
        pass

    def record_state(self, *, publish: bool) -> bool:
        return True

    def view(self) -> RunView | None:
        return self.found

    def finish(self) -> bool:
        return True


class FakeObserver:
    """Keeps the messages."""

    def __init__(self) -> None:
        self.messages: list[str] = []

    def message(self, text: str) -> None:
        self.messages.append(text)


class FakeSignals:
    """Signals that a test put into `incoming`."""

    def __init__(self) -> None:
        self.incoming: list[Signals] = []

    def take(self) -> Sequence[Signals]:
        taken, self.incoming = self.incoming, []
        return taken


class FakeSession:
    """The parts of a session that was just launched, at second 1000 of the monotonic clock."""

    def __init__(self, folder: Path, *, is_job: bool = False, **changes: object) -> None:
        self.now = 1000.0
        self.events: list[object] = []
        self.journal = FakeJournal(self.events)
        self.recorder = FakeRecorder()
        self.observer = FakeObserver()
        self.signals = FakeSignals()
        self.trainer = FakeTrainer(self.events)
        asked = limits(**changes)
        self.context = SessionContext(
            rundir=RunDir(folder),
            spec=RunSpec(
                id="r", command=("true",), cwd=str(folder), created_at=EPOCH, host="h", user="u", limits=asked
            ),
            number=1,
            limits=asked,
            is_job=is_job,
            journal=self.journal,  # type: ignore[arg-type]
            recorder=self.recorder,  # type: ignore[arg-type]
            observer=self.observer,  # type: ignore[arg-type]
            signals=self.signals,  # type: ignore[arg-type]
            clock=Clock(now=lambda: self.now, wall=lambda: EPOCH + timedelta(seconds=self.now)),
        )
        self.control = ControlFile(self.context.rundir.control_path, asked.grace_s, self.context.clock)
        self.pauses = Pauses(self.context, self.trainer, self._before_continue)  # type: ignore[arg-type]
        self.stop = StopEscalation(self.context, self.trainer, self.pauses, self.control)  # type: ignore[arg-type]

    def _before_continue(self, paused_s: float) -> None:
        self.stop.shift(paused_s)

    @property
    def log(self) -> list[str]:
        """The events so far: what was done to the trainer, and the tags of journal entries."""
        return [event if isinstance(event, str) else type(event).__name__ for event in self.events]

    def read_control(self) -> Control:
        """The file as the trainer sees it."""
        return msgspec.json.decode(self.context.rundir.control_path.read_bytes(), type=Control)
