"""Signs of life of a session, as far as they need no processes; the rest is in tests/cli/test_wait.py."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from backprop.supervisor.liveness import Liveness
from tests.unit.supervisor.fake_session import FakeSession


def test_a_folder_that_cannot_be_read_for_a_moment_ends_nothing(tmp_path: Path):
    """It is no sign of life either."""
    folder, aside = tmp_path / "r1", tmp_path / "aside"
    folder.mkdir()
    session = FakeSession(folder)
    monitor: Any = SimpleNamespace(windows=0, is_used=False)
    liveness = Liveness(session.context, monitor, sees_use=False)
    liveness.look(0.0)
    folder.rename(aside)
    folder.write_text("")  # as a file system that fails: every access to what is below is an OSError
    liveness.look(5.0)
    assert session.context.meter.progress.silent_s == 5.0
    folder.unlink()
    aside.rename(folder)
    session.context.rundir.out_path(session.context.number).write_text("alive\n")
    liveness.look(6.0)
    assert session.context.meter.progress.silent_s == 0.0
