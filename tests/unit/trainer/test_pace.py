"""What the supervisor learns of the duration of steps and saves."""

import pytest

from backprop.trainer.pace import Pace


@pytest.fixture
def pace() -> Pace:
    """One whose loop began at 0, which was reported."""
    pace = Pace()
    pace.begin_loop(0.0)
    assert reported(pace) == [{"event": "listening", "longest_step_s": None, "longest_save_s": None}]
    return pace


def reported(pace: Pace) -> list[dict]:
    events: list[dict] = []
    pace.report(lambda **fields: events.append(fields))
    return events


def test_the_first_step_says_nothing_of_those_that_follow(pace: Pace):
    for end in (9.0, 10.0, 10.5):
        pace.end_step(end)
    assert pace.longest_step_s == 1.0


def test_only_a_much_longer_step_is_reported(pace: Pace):
    reports = []
    for end in (1.0, 2.0, 3.1, 4.4):  # 1.0, 1.0, 1.1 and 1.3 seconds
        pace.end_step(end)
        reports += [event["longest_step_s"] for event in reported(pace)]
    assert reports == [1.0, pytest.approx(1.3)]


def test_saves_and_evaluations_are_no_part_of_a_step(pace: Pace):
    pace.end_step(1.0)
    pace.end_step(2.0)
    pace.end_save(2.0, 7.0)
    pace.restart_step(50.0)
    pace.end_step(51.0)
    assert (pace.longest_step_s, pace.longest_save_s) == (1.0, 5.0)


def test_each_loop_reports_once_at_least(pace: Pace):
    assert not reported(pace)
    pace.begin_loop(100.0)
    assert len(reported(pace)) == 1
