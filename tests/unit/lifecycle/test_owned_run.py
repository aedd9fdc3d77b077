"""A new run appears whole and locked, or not at all."""

from contextlib import closing

import msgspec
import pytest

from backprop.errors import NoRoomError, UsageError
from backprop.lifecycle import annotating, notifier, owned_run
from backprop.records import Notification
from backprop.store import annotations
from backprop.store.annotations import Kind
from backprop.store.code import snapshot
from backprop.store.home import Home
from backprop.store.journal.file import Journal
from backprop.store.rundir import RunDir
from tests.records import SPEC

NEW = msgspec.structs.replace(SPEC, id="new", snapshot_of="/tree")


def test_a_new_run_is_locked_from_the_moment_it_can_be_seen(home: Home, monkeypatch: pytest.MonkeyPatch):
    """No other command takes it for one whose supervisor died; what was said of it is there already."""
    monkeypatch.setattr(snapshot, "take", lambda root, place: place.mkdir())
    rundir, journal = owned_run.make_run(home, NEW, b"patch", print, annotating.make([(Kind.TAG, "a")]))
    with closing(journal), closing(Journal(rundir.journal_path)) as other:
        assert not other.try_lock()
        assert rundir.read_spec() == NEW
        assert rundir.snapshot_path.is_dir()
        assert annotations.read(rundir, annotations.names(rundir), print).tags == ("a",)


@pytest.mark.parametrize(
    "error", [OSError(28, "No space left on device"), UsageError("too large"), KeyboardInterrupt()]
)
def test_a_run_that_cannot_be_made_leaves_nothing(home: Home, monkeypatch: pytest.MonkeyPatch, error: BaseException):
    """Neither a run nor a draft; Ctrl-C while a large work tree is copied is no other case."""

    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(snapshot, "take", fail)
    with pytest.raises(NoRoomError if isinstance(error, OSError) else type(error)):
        owned_run.make_run(home, NEW, None, print)
    assert list(home.runs_path.iterdir()) == []


def test_notifications_that_cannot_be_kept_do_not_keep_a_run_from_starting(
    rundir: RunDir, monkeypatch: pytest.MonkeyPatch
):
    def fail(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(notifier, "put", fail)
    said: list[str] = []
    owned_run.remember_notifications(rundir, [Notification(desktop=True)], said.append)
    assert said == ["warning: notifications are off for this run: Permission denied"]
    owned_run.remember_notifications(rundir, [], said.append)  # nobody to notify, and nobody before
    assert len(said) == 1
