"""When a point was logged, by the clock of the wall."""

from datetime import timedelta

import pytest

from backprop.records import Run, RunView, Status
from backprop.views.exports.record import RunExport
from tests.records import AT, SPEC, session_record


def test_the_time_of_a_point_is_that_of_its_session():
    """Seconds of training go on over sessions; the wall's clock has the night between them."""
    night = timedelta(hours=8)
    first = session_record(Status.TIMEBOXED, 1, elapsed_s=600.0)
    second = session_record(Status.COMPLETED, 2, elapsed_s=100.0, started_at=AT + night)
    view = RunView(run=Run(spec=SPEC, status=Status.COMPLETED, latest=(first, second)), run_dir="/r")
    unix_s = RunExport(view=view, document={}, points_of=lambda _: iter(())).clock()
    assert unix_s(1, 30.0) == pytest.approx(AT.timestamp() + 30, abs=1e-3)
    assert unix_s(2, 630.0) == pytest.approx((AT + night).timestamp() + 30, abs=1e-3)
    assert unix_s(7, 30.0) == pytest.approx(AT.timestamp() + 30, abs=1e-3)  # of a session that is not in the record
