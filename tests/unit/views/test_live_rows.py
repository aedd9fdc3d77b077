"""The rows of `watch`: runs, and groups of runs as one row that opens."""

from collections.abc import Collection, Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import msgspec
import pytest

from backprop.records import Annotations, Run, RunSpec, RunView, Status
from backprop.store.filters import Wanted
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.store.output.protocol import digest
from backprop.views.live_rows import FeedRequest, GroupHead, LiveRows, Rows
from tests.records import LIMITS, session_record

NOW = datetime.now(timezone.utc)


class CountingIndex(Index):
    """Knows which runs were read from it."""

    reads: list[str]

    def get(self, run_id: str, *, metrics: Collection[str] | None = None) -> RunView | None:
        self.reads.append(run_id)
        return super().get(run_id, metrics=metrics)


class Place:
    """A home and its index, and rows read from it."""

    def __init__(self, home: Home) -> None:
        home.make()
        self.home = home
        self.index = CountingIndex(home.index_path, 1.0)
        self.index.reads = []
        self.rows = LiveRows(home)
        self.change()

    def change(self) -> None:
        """As when a run has changed its state."""
        draft = self.home.path / "draft"
        draft.write_text("{}")
        draft.replace(self.home.snapshot_path)

    def add(
        self, run_id: str, age_s: float, group: str | None, status: Status = Status.COMPLETED, **values: float
    ) -> None:
        spec = RunSpec(
            id=run_id,
            command=("t",),
            cwd="/",
            created_at=NOW - timedelta(seconds=age_s),
            host="h",
            user="u",
            limits=LIMITS,
        )
        session = session_record(status, 1, started_at=NOW, host="h", elapsed_s=1.0)
        self.index.put_run(Run(spec=spec, status=status, latest=(session,)), 1)
        self.index.put_annotations(run_id, 0, 1, Annotations(group=group))
        if values:
            data = msgspec.json.encode({"step": 1, **values}) + b"\n"
            assert self.index.add_output(run_id, 1, 0, len(data), digest(data, 0), [])
        self.change()

    def read(self, wanted: Wanted = Wanted(), **asked: object) -> Rows:  # noqa: B008
        return self.rows.read(self.index, wanted, msgspec.structs.replace(FeedRequest(), **asked))


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    place = Place(Home(tmp_path))
    yield place
    place.index.close()


def told(rows: Rows) -> list[str]:
    """Ids of runs, and names of groups with their counts, best value and best run."""
    return [
        f"{row.name}: {dict(sorted(row.row.statuses.items()))} {row.row.best} {row.run_id}"
        if isinstance(row, GroupHead)
        else row.view.run.spec.id
        for row in rows.rows
    ]


def heads(rows: Rows) -> list[GroupHead]:
    return [row for row in rows.rows if isinstance(row, GroupHead)]


def test_a_group_is_one_row_among_the_runs(place: Place):
    """Running first, then queued, then the newest; a run that is alone in its group is a run."""
    place.add("old", 90, None, loss=0.1)
    place.add("a1", 80, "a", loss=0.3)
    place.add("a2", 70, "a", Status.FAILED, loss=0.2)
    place.add("alone", 60, "only", loss=0.5)
    place.add("waits", 50, None, Status.QUEUED)
    place.add("b1", 85, "b", Status.RUNNING, loss=0.9)
    place.add("b2", 84, "b", Status.QUEUED)
    rows = place.read()
    assert told(rows) == [
        "b: {'queued': 1, 'running': 1} 0.9 b1",
        "waits",
        "alone",
        "a: {'completed': 1, 'failed': 1} 0.2 a2",
        "old",
    ]
    assert rows.active == {Status.RUNNING: 1, Status.QUEUED: 2}
    assert rows.total == 7
    assert rows.head is not None
    assert rows.head.name == "b"
    assert rows.shown is not None
    assert rows.shown.run.spec.id == "b1"


def test_the_mean_is_over_all_runs_with_a_value(place: Place):
    """As in the page's rows."""
    for number, loss in enumerate([0.1, 0.2, 0.3]):
        place.add(f"r{number}", number, "g", loss=loss)
    place.add("nothing", 9, "g", Status.FAILED)
    (head,) = heads(place.read())
    assert (head.metric, head.row.counted) == ("loss", 3)
    assert (head.row.mean, head.row.deviation) == (pytest.approx(0.2), pytest.approx(0.1))


def test_no_direction_is_guessed(place: Place):
    """Of a metric of which nobody knows which values are better there is neither a best value nor a mean."""
    place.add("x", 2, "g", entropy=0.1)
    place.add("y", 1, "g", entropy=0.2)
    (head,) = heads(place.read())
    assert (head.metric, head.row.best, head.row.mean, head.run_id) == (None, None, None, "y")


def test_groups_about_different_metrics_have_each_their_own_best(place: Place):
    for number in (1, 2):
        place.add(f"a{number}", number, "a", loss=number / 10)
        place.add(f"b{number}", 2 + number, "b", rmse=number / 10)
    found = {head.name: (head.metric, head.row.best, head.run_id) for head in heads(place.read())}
    assert found == {"a": ("loss", 0.1, "a1"), "b": ("rmse", 0.1, "b1")}


def test_an_open_group_is_followed_by_its_runs(place: Place):
    """Those that are active first. A group of another case has its own."""
    place.add("done", 1, "g")
    place.add("running", 3, "g", Status.RUNNING)
    place.add("other1", 5, "G")
    place.add("other2", 6, "G")
    rows = place.read(open_groups=frozenset({"g"}), group="g")
    assert [line.partition(":")[0] for line in told(rows)] == ["g", "running", "done", "G"]
    assert rows.head is not None
    assert rows.head.run_id == "running"


def test_the_group_of_the_selected_run_is_open(place: Place):
    place.add("x", 2, "g")
    place.add("y", 1, "g")
    for run_id in ("x", "y"):  # the second stands for the group, too
        rows = place.read(run_id=run_id)
        assert told(rows)[1:] == ["y", "x"]
        assert rows.shown is not None
        assert rows.shown.run.spec.id == run_id
        assert rows.head is None


def test_closed_groups_leave_room_for_older_runs(place: Place):
    """The limit counts rows: a sweep of a hundred trials does not push everything else out."""
    for number in range(10):
        place.add(f"trial{number}", number, "sweep")
    for number in range(5):
        place.add(f"old{number}", 100 + number, None)
    assert [line.partition(":")[0] for line in told(place.read(limit=4))] == ["sweep", "old0", "old1", "old2"]


def test_the_selected_run_is_listed_however_old_it_is(place: Place):
    """Unless a search leaves it out."""
    for number in range(5):
        place.add(f"r{number}", number, None)
    assert told(place.read(limit=2, run_id="r4")) == ["r0", "r4"]
    assert told(place.read(Wanted(search="r1"), limit=2, run_id="r4")) == ["r1"]


def test_the_selected_run_is_listed_in_its_group_too(place: Place):
    """Where it is archived, so that its group has others only, or older than the runs that its group shows."""
    for number in range(3):
        place.add(f"r{number}", number, "a")
    place.index.put_annotations("r2", 1, 2, Annotations(group="a", is_archived=True))
    place.change()
    archived = place.read(Wanted(hides_archived=True), run_id="r2")
    assert [told(archived)[-1], archived.shown and archived.shown.run.spec.id] == ["r2", "r2"]
    cut_off = place.read(limit=1, run_id="r2")
    assert [told(cut_off)[-1], cut_off.shown and cut_off.shown.run.spec.id] == ["r2", "r2"]


def test_runs_that_have_ended_are_not_read_again(place: Place):
    """Before a run of the home has changed its state; those that are active, or not whole yet, are."""
    place.add("ended", 1, None)
    place.add("active", 2, None, Status.RUNNING)
    place.add("late", 3, None)
    place.home.mark_for_refresh("late")
    place.read()
    place.index.reads.clear()
    place.read()
    assert sorted(place.index.reads) == ["active", "late"]
    place.change()
    place.index.reads.clear()
    place.read()
    assert sorted(place.index.reads) == ["active", "ended", "late"]


def test_a_trend_is_read_again_when_it_would_look_different(place: Place):
    """It has so many values of the whole curve that one point more or less is not seen."""
    place.add("r", 1, None, Status.RUNNING, loss=1.0)

    def grow(to: int) -> None:
        view = place.index.get("r")
        assert view is not None
        done = view.summaries["loss"].count
        data = b"".join(
            msgspec.json.encode({"step": step, "loss": 1.0 / step}) + b"\n" for step in range(done + 1, to + 1)
        )
        start = place.index.offset("r", 1)
        assert place.index.add_output("r", 1, start, start + len(data), digest(data, start), [])

    grow(100)
    (first,) = place.read().rows
    grow(102)
    (second,) = place.read().rows
    grow(110)
    (third,) = place.read().rows
    assert not isinstance(first, GroupHead)
    assert not isinstance(second, GroupHead)
    assert not isinstance(third, GroupHead)
    assert second.trend == first.trend
    assert second.last == pytest.approx(1 / 102)
    assert third.trend != first.trend
