"""What is reported of the checkpoint that a session is offered. Real files, and the kernel's word on who read them."""

import sys
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import pytest

from backprop.records import Checkpoint, Measure, Run, RunView, Status
from backprop.store.journal.entries import CheckpointRead, CheckpointUnread
from backprop.store.output.progress import Progress
from backprop.store.output.protocol import TrainingBegan
from backprop.supervisor.checkpoint_offer import OfferedCheckpoint, resume_option
from backprop.supervisor.environment import Resumed
from tests.unit.supervisor.fake_session import FakeSession

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere nobody reports reads")


@pytest.fixture
def session(tmp_path: Path) -> FakeSession:
    return FakeSession(tmp_path)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    path.write_bytes(b"state")
    return path


@pytest.fixture
def offer(session: FakeSession, path: Path) -> Iterator[OfferedCheckpoint]:
    offered = OfferedCheckpoint(session.context, Resumed(str(path), 7), session.control)
    yield offered
    offered.close()


def judge(offer: OfferedCheckpoint, *trainings: TrainingBegan, has_trained: bool = False) -> int:
    """Look twice, as a read is reported by the look after it; how often the control file was written."""
    written: list[None] = []
    for _ in range(2):
        offer.judge(trainings, lambda: written.append(None), has_trained=has_trained)
    return len(written)


def test_a_read_before_training_is_a_resume(session: FakeSession, offer: OfferedCheckpoint, path: Path):
    path.read_bytes()
    assert judge(offer) == 1
    assert session.observer.messages == [f"resumed from {path} (step 7)"]
    assert session.control.is_offered_read
    assert [type(event) for event in session.events] == [CheckpointRead]


def test_training_without_a_read_is_a_warning(session: FakeSession, offer: OfferedCheckpoint, path: Path):
    """It does not claim that the script starts over: it may have gone on from something else."""
    assert judge(offer, has_trained=True) == 0
    (message,) = session.observer.messages
    assert f"training began without reading {path} (step 7)" in message
    assert "unless it continues from something else" in message
    assert "--resume-arg --OPTION" in message
    (entry,) = session.events
    assert isinstance(entry, CheckpointUnread)
    assert entry.has_trained


def test_a_read_after_training_began_is_no_resume(session: FakeSession, offer: OfferedCheckpoint, path: Path):
    judge(offer, has_trained=True)
    path.read_bytes()
    assert judge(offer, has_trained=True) == 0
    assert "it may have continued from there" in session.observer.messages[-1]
    assert not session.control.is_offered_read


def test_a_driven_training_that_starts_over_is_certain(session: FakeSession, offer: OfferedCheckpoint, path: Path):
    """Where a hook judges, reads tell nothing: it may have read to find out."""
    path.read_bytes()
    judge(offer, TrainingBegan(resumed_from=None, is_decided=True))
    (message,) = session.observer.messages
    assert message.endswith("it starts from the beginning. A later training of the script may still continue from it")


def test_another_checkpoint_of_the_run_may_be_read_instead(session: FakeSession, path: Path):
    best = path.with_name("best.pt")
    best.write_bytes(b"state")
    gone = str(path.with_name("gone.pt"))
    measure = Measure(size_bytes=5, saved_at=datetime.now(timezone.utc))
    saved = [Checkpoint(path=one, step=3, session=1, measure=measure) for one in (str(path), str(best), gone)]
    run = Run(spec=session.context.spec, status=Status.RUNNING)
    session.recorder.found = RunView(run=run, run_dir="", checkpoints=tuple(saved))
    offer = OfferedCheckpoint(session.context, Resumed(str(path), 7), session.control)
    best.read_bytes()
    judge(offer)
    offer.close()
    assert session.observer.messages == [f"resumed from {best}"]
    assert not session.control.is_offered_read


@pytest.mark.parametrize("known", ["is_listening", "is_paced", "is_finished"])
def test_no_option_is_advised_where_a_hook_resumes(session: FakeSession, known: str):
    session.context.meter.progress = Progress(resume_option="--ckpt={path}")
    assert resume_option(session.context) == "--ckpt={path}"
    session.context.meter.progress = msgspec.structs.replace(session.context.meter.progress, **{known: True})
    assert resume_option(session.context) is None
