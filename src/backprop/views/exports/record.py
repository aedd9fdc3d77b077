"""What is exported of a run: its facts, and its points one after the other, each with its wall-clock time."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backprop.records import RunView, Session
from backprop.store.curves import Point, session_begins_s
from backprop.store.metric_rows import MetricRow, joined
from backprop.store.usage import history as usage_history

PointsOf = Callable[[str], Iterator[Point]]


@dataclass(frozen=True, kw_only=True)
class RunExport:
    """One run on its way elsewhere. Points are read again at each call, in bounded memory."""

    view: RunView
    document: Mapping[str, Any]  # as `--json` gives it, in plain JSON values
    points_of: PointsOf  # the points of one metric, in the order they were written

    @property
    def id(self) -> str:
        """The id of the run, also in other tools. Unlike a name it is unique."""
        return self.view.run.spec.id

    @property
    def sessions(self) -> tuple[Session, ...]:
        """Its sessions, oldest first. Decodes those that are packed."""
        return self.view.run.sessions

    @property
    def label(self) -> str:
        """What to call it where names are shown: its name, else its id."""
        return self.view.run.spec.name or self.id

    @property
    def created_unix_s(self) -> float:
        """When the run was submitted."""
        return self.view.run.spec.created_at.timestamp()

    @property
    def commit(self) -> str | None:
        """The commit of its last session, where known."""
        git = self.view.run.code.git
        return None if git is None else git.commit

    @property
    def notes(self) -> str | None:
        """All that users wrote about it, oldest first."""
        return "\n".join(note.text for note in self.view.annotations.notes) or None

    @property
    def measured(self) -> list[str]:
        """The names of what was measured of the run: curves over seconds of training, which stand for steps there."""
        return usage_history.names(self.view)

    def points(self) -> Iterator[Point]:
        """All points, metric by metric; then those of what was measured."""
        for metric in (*self.view.metrics, *self.measured):
            yield from self.points_of(metric)

    def rows(self) -> Iterator[MetricRow]:
        """All points of metrics, joined into one row a step."""
        return joined(self.view.metrics, self.points_of)

    def measured_rows(self) -> Iterator[MetricRow]:
        """All points of what was measured, joined into one row a second."""
        return joined(self.measured, self.points_of)

    def clock(self) -> Callable[[int, float], float]:
        """The function that turns a point's session and time_s into seconds since 1970.

        Exact but for pauses: a point after one is dated earlier, by what the pause took.
        """
        begins_s = session_begins_s(self.view.run)
        zeros = {
            session.number: session.training_since.timestamp() - begins_s[session.number] for session in self.sessions
        }
        created = self.created_unix_s

        def unix_s(session: int, time_s: float) -> float:
            return zeros.get(session, created) + time_s

        return unix_s
