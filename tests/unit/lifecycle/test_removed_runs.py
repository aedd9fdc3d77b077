"""Runs whose record was removed while a process has their journal open."""

import os
import shutil
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from backprop.lifecycle import removed_runs
from backprop.records import Status
from backprop.store.home import Home
from backprop.store.journal.entries import SessionEnded, SessionStarted
from backprop.store.journal.file import Journal
from tests.records import AT, SPEC

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="found by what /proc tells of open files")


@pytest.mark.parametrize("has_ended", [False, True])
def test_telling_of_them_leaves_no_file_open(tmp_path: Path, has_ended: bool):
    """A notebook may ask for a run that is not there as often as it likes."""
    home = Home(tmp_path / "home")
    home.make()
    rundir = home.publish(home.begin(SPEC, None), SPEC.id)
    ended = SessionEnded(at=AT, session=1, status=Status.COMPLETED, reason=None, exit_code=0, elapsed_s=1.0)
    with closing(Journal(rundir.journal_path)) as journal:
        journal.append(
            SessionStarted(at=AT, session=1, timebox_s=600, grace_s=30, host="h", supervisor_pid=1, boot_id=None)
        )
        if has_ended:
            journal.append(ended)
        shutil.rmtree(rundir.path)
        before = len(os.listdir("/proc/self/fd"))
        told = [removed_runs.sentences(home) for _ in range(3)]
        assert len(os.listdir("/proc/self/fd")) == before
    assert [len(sentences) for sentences in told] == [0 if has_ended else 1] * 3


def test_a_process_that_ends_meanwhile_is_none_of_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Its descriptors are gone when they are listed."""
    (tmp_path / "proc" / "7" / "fd").mkdir(parents=True)
    monkeypatch.setattr(removed_runs, "_PROC", tmp_path / "proc")
    for name in ("listdir", "scandir"):
        real = getattr(os, name)

        def gone(path: Any, real: Any = real) -> Any:
            if str(path).endswith("/7/fd"):
                raise FileNotFoundError(path)
            return real(path)

        monkeypatch.setattr(os, name, gone)
    assert removed_runs.sentences(Home(tmp_path / "home")) == []
