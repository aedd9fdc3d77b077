"""The loop of a session, step by step, on a clock that only its waits move."""

from collections.abc import Callable, Sequence
from pathlib import Path
from signal import Signals

import msgspec
import pytest

from backprop.governor.run_policy import PauseState, PolicyDecision
from backprop.records import Checkpoint, Measure, Pauser, Source, StopReason
from backprop.store.ingest import IngestResult
from backprop.store.output.protocol import digest
from backprop.supervisor import session as sessions
from backprop.supervisor.filing import OomCheck
from backprop.supervisor.session import LOOK_EVERY_S, RunningSession
from backprop.supervisor.start import Launched
from tests.records import AT
from tests.unit.supervisor.fake_session import FakeJournal, FakeSession, FakeTrainer


class Trainer(FakeTrainer):
    """One that leaves as many processes behind as `left_behind`, until it is killed."""

    blindness = None
    unkillable_pids = ()
    left_behind: tuple[str, ...] = ()

    def folder(self) -> str | None:
        return None

    def labels(self) -> tuple[str, ...]:
        return self.left_behind

    def is_gone(self) -> bool:
        return self.is_ended and not self.left_behind

    def kill(self) -> tuple[int, ...]:
        self.left_behind = ()
        return super().kill()


class Output:
    """Hands out what a test wrote."""

    def __init__(self) -> None:
        self.results: list[IngestResult] = []

    def look_for_checkpoints_in(self, folders: Callable[[], Sequence[str]]) -> None:
        pass

    def ingest(self, session: int, elapsed_s: float, *, is_supervisor: bool) -> IngestResult:
        return self.results.pop(0) if self.results else IngestResult()


class Monitor:
    """Has nothing to say."""

    gpu_problem = None
    windows = 0
    is_used = False

    def look(
        self, now: float, pauses: PauseState, members: object, longest_save_s: float, *, has_stepped: bool
    ) -> PolicyDecision:
        return PolicyDecision()

    def take_measured(self) -> None:
        return None


class Journal(FakeJournal):
    """One that may have been removed."""

    is_there = True

    def is_in_place(self, path: Path) -> bool:
        return self.is_there


class Session:
    """A session that was just launched; `at` says what happens at which second."""

    def __init__(self, folder: Path, *, reads_printed_metrics: bool = False, **changes: object) -> None:
        self.parts = parts = FakeSession(folder, **changes)
        self.trainer = Trainer(parts.events)
        self.output = Output()
        self.journal = Journal(parts.events)
        parts.recorder.output = self.output  # type: ignore[attr-defined]
        parts.context.journal = self.journal  # type: ignore[assignment]
        spec = msgspec.structs.replace(parts.context.spec, reads_printed_metrics=reads_printed_metrics)
        parts.context.spec = spec
        parts.observer.started = parts.observer.looked = lambda *_: None  # type: ignore[attr-defined]
        parts.signals.wait = self._wait  # type: ignore[attr-defined]
        parts.signals.rest = self._wait  # type: ignore[attr-defined]
        self.waits: list[float] = []
        self._events: list[tuple[float, Callable[[], object]]] = []
        launched = Launched(self.trainer, parts.control, None, None, None)  # type: ignore[arg-type]
        self.running = RunningSession(parts.context, launched, Monitor())  # type: ignore[arg-type]

    def _wait(self, timeout_s: float) -> None:
        self.waits.append(timeout_s)
        assert len(self.waits) < 10_000, "it never ends"
        self.parts.now += max(timeout_s, 0.0)
        for event in [one for one in self._events if one[0] <= self.parts.now]:
            self._events.remove(event)
            event[1]()

    def at(self, second: float, event: Callable[[], object]) -> None:
        """event: when this second of the session is over."""
        self._events.append((1000.0 + second, event))

    def write(self, *lines: bytes, checkpoints: tuple[Checkpoint, ...] = (), is_behind: bool = False) -> None:
        batches = tuple(digest(line + b"\n") for line in lines)
        self.output.results.append(IngestResult(batches=batches, checkpoints=checkpoints, is_behind=is_behind))

    def end_trainer(self, code: int = 0) -> None:
        self.trainer.code, self.trainer.is_ended = code, True

    def run(self) -> "sessions.SessionEnd":
        self.running.begin()
        self.running.watch()
        self.running.finish()
        return self.running.end(OomCheck())


def checkpoint(path: str, size_bytes: int | None) -> Checkpoint:
    return Checkpoint(path=path, step=1, session=1, measure=Measure(size_bytes=size_bytes, saved_at=AT))


def test_a_trainer_that_ends_by_itself_is_not_stopped(tmp_path: Path):
    """No signal, no reason: it has finished."""
    session = Session(tmp_path)
    session.at(10, session.end_trainer)
    end = session.run()
    assert (end.code, end.reason, end.stopped_by) == (0, None, None)
    assert end.elapsed_s == pytest.approx(10, abs=LOOK_EVERY_S)
    assert session.parts.log == ["TrainerLaunched"]


def test_what_is_printed_after_an_event_is_read_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A sampled loss is known when a printed one is read: else that one, though it is no curve, would take its place."""
    session = Session(tmp_path, reads_printed_metrics=True)
    rundir, read = session.parts.context.rundir, Output.ingest

    def ingest_while_the_trainer_goes_on(output: Output, *args: object, **kwargs: object) -> IngestResult:
        found = read(output, 1, 0.0, is_supervisor=True)
        if not rundir.out_path(1).exists():
            session.write(b'{"step": 9, "loss": 2.0, "sampled": true}')
            rundir.out_path(1).write_text("step 10 loss: 5.0 accuracy: 0.75\n")
        return found

    monkeypatch.setattr(Output, "ingest", ingest_while_the_trainer_goes_on)
    session.at(3, session.end_trainer)
    session.run()
    (line,) = map(msgspec.json.decode, rundir.source_path(1, Source.PRINTED).read_bytes().splitlines())
    assert line == {"step": 10, "accuracy": 0.75, "printed": True}


def test_a_step_that_was_asked_for_ends_the_session(tmp_path: Path):
    """--until-step N: asked to stop once N is reported, and not before."""
    session = Session(tmp_path, until_step=5)
    session.at(1, lambda: session.write(b'{"step": 4, "loss": 1}'))
    session.at(2, lambda: session.write(b'{"step": 6, "loss": 1}'))
    session.at(3, session.end_trainer)
    end = session.run()
    assert end.stopped_by is StopReason.STEP
    assert [event.detail for event in session.parts.events if hasattr(event, "detail")] == ["step 5 reached"]


def test_checkpoints_are_asked_for_by_seconds_of_training(tmp_path: Path):
    """Every 10 s without pauses: in 35 s with a pause of 20 s there is one."""
    session = Session(tmp_path, checkpoint_every_s=10)
    pauses = session.running._pauses
    session.at(2, lambda: pauses.pause(Pauser.USER, "by hand"))
    session.at(22, lambda: pauses.release(Pauser.USER))
    session.at(35, session.end_trainer)
    assert session.run().elapsed_s == pytest.approx(15, abs=2 * LOOK_EVERY_S)
    assert session.parts.control.checkpoints_due == 1


def test_the_timebox_ends_a_trainer_that_ignores_it(tmp_path: Path):
    """The whole ladder, up to SIGKILL at the end of the grace period."""
    session = Session(tmp_path, timebox_s=60, grace_s=30)
    killed = session.trainer.kill

    def kill() -> tuple[int, ...]:
        session.end_trainer(-Signals.SIGKILL)
        return killed()

    session.trainer.kill = kill  # type: ignore[method-assign]
    end = session.run()
    assert end.stopped_by is StopReason.TIMEBOX
    assert [word for word in session.parts.log if word.startswith("SIG")] == ["SIGINT", "SIGTERM", "SIGKILL"]
    assert end.elapsed_s == pytest.approx(90, abs=LOOK_EVERY_S)


def test_it_does_not_wait_while_there_is_more_to_read(tmp_path: Path):
    """A trainer that prints faster than one look reads is read at once again."""
    session = Session(tmp_path)
    for _ in range(3):
        session.write(b"text", is_behind=True)
    session.at(1, session.end_trainer)
    session.run()
    assert session.waits[:5] == [LOOK_EVERY_S, 0, 0, 0, LOOK_EVERY_S]


def test_what_a_trainer_leaves_running_is_ended_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """SIGTERM to what is left when the command exits by itself, then SIGKILL."""
    monkeypatch.setattr(sessions, "_HELPERS_END_WITHIN_S", 0)
    monkeypatch.setattr(sessions, "LEFTOVER_GRACE_S", 0)
    session = Session(tmp_path)
    session.trainer.left_behind = ("server.py (pid 7)",)
    session.at(1, session.end_trainer)
    end = session.run()
    assert end.leftovers == ("server.py (pid 7)",)
    assert session.parts.log == ["TrainerLaunched", "SIGTERM", "Signalled", "SIGKILL"]


def test_a_checkpoint_that_does_not_exist_is_named_once(tmp_path: Path):
    """A wrong path is seen at its first report, and not repeated at each."""
    session = Session(tmp_path)
    for _ in range(2):
        session.write(b"saved", checkpoints=(checkpoint("/no/such.pt", None),))
    session.at(1, session.end_trainer)
    session.run()
    assert [text for text in session.parts.observer.messages if "/no/such.pt" in text] == [
        "warning: a checkpoint was reported that does not exist: /no/such.pt. A relative path must be"
        " relative to the folder that the script is in when it prints it"
    ]


def test_all_processes_learn_of_a_checkpoint(tmp_path: Path):
    """Other ranks continue from what one of them has saved."""
    session = Session(tmp_path)
    session.write(b"saved", checkpoints=(checkpoint("/c/1.pt", 9),))
    session.at(1, session.end_trainer)
    session.run()
    assert "/c/1.pt" in session.parts.context.rundir.control_path.read_text()


def test_a_journal_that_is_removed_is_reported_once(tmp_path: Path):
    """Training continues; the message says how to end it."""
    session = Session(tmp_path)
    session.at(1, lambda: setattr(session.journal, "is_there", False))
    session.at(9, session.end_trainer)
    session.run()
    warnings = [text for text in session.parts.observer.messages if text.startswith("WARNING")]
    assert len(warnings) == 1
    assert "backprop stop r" in warnings[0]
