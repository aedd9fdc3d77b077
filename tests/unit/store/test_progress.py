"""How far a session has come, and how long its steps and saves take."""

import json
import math
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.store.output.progress import Progress, ProgressMeter
from backprop.store.output.protocol import digest

SAVED = {"event": "checkpoint_saved", "path": "a"}


def metered(*looks: tuple[float, list[dict[str, Any]]]) -> Progress:
    """The progress after looks at these instants brought these lines."""
    meter = ProgressMeter()
    for now, lines in looks:
        meter.observe(digest(b"".join(json.dumps(line).encode() + b"\n" for line in lines)), now)
    return meter.progress


def test_nothing_is_known_at_first():
    """Before the first line there is neither step nor rate nor notice."""
    progress = metered((0.0, []))
    assert progress == Progress()
    assert progress.notice_s is None
    assert progress.remaining_s is None


def test_the_newest_step_and_values_are_shown():
    """Step and metrics are the newest; a metric that is not told again stays."""
    progress = metered((0, [{"step": 1, "a": 1, "b": 2}, {"step": 2, "a": 3}]), (1, [{"step": 5, "a": 4}]), (2, []))
    assert progress.step == 5
    assert progress.metrics == {"a": 4, "b": 2}


def test_what_is_logged_to_a_tracker_late_takes_no_step_back():
    """Such as a validation by its epoch, and MLflow's metrics without a step, which are at step 0."""
    progress = metered(
        (0, [{"step": 90, "a": 1, "tracked": True}, {"step": 2, "b": 1, "tracked": True}]),
        (1, [{"step": 0, "c": 1, "tracked": True}]),
    )
    assert progress.step == 90


def test_steps_that_are_logged_to_a_tracker_count_before_printed_ones():
    """A script that prints its epochs and logs its steps does not go back and forth between the two."""
    tracked, printed = {"step": 900, "a": 1, "tracked": True}, {"step": 3, "a": 1, "printed": True}
    assert metered((0, [tracked]), (1, [printed])).step == 900
    assert metered((0, [printed]), (1, [tracked]), (2, [printed])).step == 900
    assert metered((0, [printed])).step == 3


@pytest.mark.parametrize(("lines", "is_finished"), [("fl", False), ("lf", True), ("lfl", False), ("f|l", False)])
def test_a_script_that_begins_another_loop_has_not_finished(lines: str, is_finished: bool):
    """The last word counts: finished (f), or listening (l) again; in one look or in two (|)."""
    events = {"f": {"event": "finished"}, "l": {"event": "listening"}}
    looks = [(float(now), [events[letter] for letter in look]) for now, look in enumerate(lines.split("|"))]
    progress = metered(*looks)
    assert (progress.is_finished, progress.is_listening) == (is_finished, not is_finished)


FINISHED = {"event": "finished"}


@pytest.mark.parametrize(
    ("looks", "has_finished"),
    [
        ([[{"step": 9, "total_steps": 10}]], False),
        ([[{"step": 10, "total_steps": 10}]], True),
        ([[{"step": 11, "total_steps": 10}]], False),  # they count different things
        ([[{"step": 10, "total_steps": 10}, {"step": 1, "total_steps": 10}]], False),  # the next fold
        (
            [[{"event": "listening"}, {"step": 10, "total_steps": 10}]],
            False,
        ),  # it would say so: it may have to save yet
        ([[FINISHED]], True),
        ([[{"step": 9}, FINISHED], [{"step": 9, "test_loss": 1}]], True),
        ([[{"step": 9}, FINISHED], [{"step": 10}]], False),  # trained on
        ([[{"step": 9}, FINISHED, {"step": 10}]], False),
        ([[{"step": 9}], [FINISHED, {"step": 10}]], False),
        ([[{"step": 9}], [{"step": 10}, FINISHED]], True),
    ],
)
def test_training_has_finished_where_the_trainer_says_so_or_makes_its_last_step(
    looks: list[list[dict[str, Any]]], has_finished: bool
):
    """And has not, once it trains on."""
    assert metered(*((float(now), look) for now, look in enumerate(looks))).has_finished_training is has_finished


def test_the_rate_of_the_first_two_looks():
    """Steps a second are those between two looks that brought steps."""
    assert metered((0, [{"step": 0}]), (2, [{"step": 100}])).steps_per_s == 50
    assert metered((0, [{"step": 0}])).steps_per_s is None


def test_the_rate_follows_the_last_ten_seconds():
    """A change of speed shows by and by, and wholly after ten seconds."""
    slow_then_fast = [(0.0, [{"step": 0}]), (1.0, [{"step": 10}])]
    partly = metered(*slow_then_fast, (2.0, [{"step": 110}])).steps_per_s
    assert partly == pytest.approx(10 * 0.9 + 100 * 0.1)
    assert metered(*slow_then_fast, (21.0, [{"step": 2010}])).steps_per_s == 100


def test_a_step_that_goes_back_does_not_change_the_rate():
    """A script that counts anew in each epoch has no negative speed."""
    assert metered((0, [{"step": 0}]), (1, [{"step": 10}]), (2, [{"step": 0}])).steps_per_s == 10


def test_two_looks_at_one_instant_do_not_divide_by_zero():
    """A clock that stood still gives no rate."""
    assert metered((1, [{"step": 0}]), (1, [{"step": 10}])).steps_per_s is None


def test_the_remaining_time():
    """What is left of total_steps at the present rate; nothing once they are reached."""
    assert metered((0, [{"step": 0, "total_steps": 100}]), (1, [{"step": 10}])).remaining_s == 9
    assert metered((0, [{"step": 0, "total_steps": 5}]), (1, [{"step": 10}])).remaining_s == 0
    assert metered((0, [{"step": 0}]), (1, [{"step": 10}])).remaining_s is None
    assert metered((0, [{"step": 3, "total_steps": 5}]), (1, [{"step": 3}])).remaining_s is None


@pytest.mark.parametrize("total", [math.nan, math.inf, -math.inf])
def test_a_total_that_is_no_number_is_unknown(total: float):
    """A total that is NaN or infinite is passed by, and the last sound one kept."""
    assert metered((0, [{"step": 0, "total_steps": 7}]), (1, [{"step": 1, "total_steps": total}])).total_steps == 7


def test_a_trainer_that_does_not_listen_gets_no_notice():
    """Notice is for scripts that watch control.json."""
    assert metered((0, [{"step": 0}]), (5, [{"step": 1}])).notice_s is None


def test_notice_is_the_longest_step_and_the_longest_save():
    """A trainer that listens is told as early as its longest step and save need together."""
    progress = metered(
        (0, [{"event": "listening"}, {"step": 0}]),
        (4, [{"step": 1}]),
        (5, [{"step": 2}]),
        (8, [SAVED]),
        (9, [{"step": 3}]),
        (10, [SAVED]),
    )
    assert progress.is_listening
    assert (progress.longest_step_s, progress.longest_save_s) == (4, 3)
    assert progress.notice_s == 7


def test_once_listening_always_listening():
    """What was said once needs not be repeated in every look."""
    assert metered((0, [{"event": "listening"}]), (1, [{"step": 1}]), (2, [])).is_listening


def test_what_the_trainer_measured_is_better_than_what_we_see():
    """A trainer that reports its steps rarely, but how long they take, is told as late as that allows."""
    progress = metered(
        (0, [{"event": "listening"}, {"step": 0}]),
        (9, [{"step": 500}, SAVED]),
        (18, [{"event": "listening", "longest_step_s": 0.5}]),
        (27, [{"step": 1000}, SAVED]),
        (28, [{"event": "listening", "longest_step_s": 0.5, "longest_save_s": 2}]),
        (40, [{"step": 1500}, SAVED]),
    )
    assert (progress.longest_step_s, progress.longest_save_s, progress.notice_s) == (0.5, 2, 2.5)


UNIT = {"event": "unit", "unit": "epoch"}
BATCH = {"event": "unit", "unit": "batch", "counted": True}


@pytest.mark.parametrize(
    ("lines", "shown"),
    [
        ([{"step": 1, "total_steps": 10}], (1, 10, None)),
        ([UNIT, {"step": 1, "total_steps": 10}], (1, 10, "epoch")),
        ([BATCH, {"step": 1, "total_steps": 10}], (1, 10, None)),  # that is the unit of other steps
        ([BATCH, {"step": 50, "counted": True, "total_steps": 1000}], (50, 1000, "batch")),
        ([UNIT, {"step": 50, "counted": True, "total_steps": 1000}], (50, 1000, None)),
        ([BATCH, {"step": 50, "counted": True, "total_steps": 1000}, {"step": 1}], (1, None, None)),
        ([UNIT, {"step": 2, "printed": True, "total_steps": 10}], (2, 10, "epoch")),
    ],
)
def test_total_and_unit_are_those_of_the_steps_that_are_shown(lines: list[dict[str, Any]], shown: tuple):
    progress = metered((0, lines))
    assert (progress.step, progress.total_steps, progress.step_unit) == shown


def test_a_printed_total_says_nothing_of_counted_steps():
    """As with a progress bar of an epoch beside an optimizer that steps through all of them."""
    progress = metered(
        (0, [{"step": 10, "printed": True, "total_steps": 100}]), (1, [{"step": 400, "counted": True}]), (2, [])
    )
    assert (progress.step, progress.total_steps, progress.steps_per_s) == (400, None, None)


def test_steps_that_were_counted_count_where_none_are_reported():
    """A silent script has a rate too; one that reports steps by itself is believed."""
    counted = metered((0, [{"step": 10, "counted": True}]), (2, [{"step": 20, "counted": True}]))
    assert (counted.step, counted.steps_per_s) == (20, 5)
    told = metered((0, [{"step": 3}, {"step": 10, "counted": True}]), (2, [{"step": 20, "counted": True}]))
    assert told.step == 3


def test_training_that_has_finished_needs_no_notice():
    finished = metered((0, [{"event": "listening"}, {"step": 1}]), (1, [{"event": "finished"}]))
    assert (finished.is_finished, finished.notice_s) == (True, None)


@pytest.mark.parametrize(
    "looks", [[["listening", "finished", "listening"]], [["listening", "finished"], ["listening"]]]
)
def test_a_script_that_trains_again_has_not_finished(looks: list[list[str]]):
    """A parameter search trains many times: a stop in its second training stops something."""
    again = metered(*((now, [{"event": kind} for kind in kinds]) for now, kinds in enumerate(looks)))
    assert (again.is_finished, again.is_listening) == (False, True)


def test_a_save_before_the_first_step_has_no_duration():
    """What cannot be measured is not guessed."""
    assert metered((5, [SAVED]), (9, [SAVED])).longest_save_s == 0


line = st.one_of(
    st.builds(
        lambda step, total: {"step": step, "total_steps": total}, st.integers(-(2**63) + 1, 2**63 - 1), st.floats()
    ),
    st.just(SAVED),
    st.just({"event": "listening"}),
    st.just({"event": "finished"}),
    st.builds(lambda step: {"step": step, "counted": True}, st.integers(0, 2**40)),
)


@pytest.mark.parametrize("total", [10**12, 2**63 - 1, 1.7e308])
def test_a_total_that_no_training_reaches(total: float):
    """Of a script that trains until it is stopped: the time that remains is not known."""
    progress = metered((0, [{"step": 0, "total_steps": total}]), (10, [{"step": 1}]))
    assert (progress.live.remaining_s, progress.live.steps_per_s) == (None, 0.1)


def test_steps_that_are_instants():
    """Nanoseconds, say: their rate is nothing to store."""
    assert metered((0, [{"step": 0}]), (1, [{"step": 10**18}])).live.steps_per_s is None


@given(st.lists(st.tuples(st.floats(0, 1e6), st.lists(line, max_size=3)), max_size=6))
@settings(deadline=None)
def test_no_sequence_of_looks_makes_it_fail(looks: list[tuple[float, list[dict[str, Any]]]]):
    """Whatever is told and when, durations only grow and what is shown is never negative."""
    seconds, before = 0.0, Progress()
    meter = ProgressMeter()
    for pause_s, lines in looks:
        seconds += pause_s
        meter.observe(digest(b"".join(json.dumps(line).encode() + b"\n" for line in lines)), seconds)
        progress = meter.progress
        assert progress.longest_step_s >= before.longest_step_s
        assert progress.longest_save_s >= before.longest_save_s
        assert progress.live.is_estimate != progress.has_reported_total
        assert progress.remaining_s is None or progress.remaining_s >= 0
        assert progress.steps_per_s is None or progress.steps_per_s >= 0
        before = progress


def test_a_sampled_loss_is_shown_until_another_is_reported():
    """What is reported wins, whatever comes after it."""
    sampled = (1.0, [{"step": 1, "loss": 0.5, "sampled": True}])
    assert metered(sampled).metrics == {"loss": 0.5}
    by_turns = (2.0, [{"step": 3, "loss/1": 1.5, "sampled": True}])
    assert metered(sampled, by_turns).metrics == {"loss/1": 1.5}
    assert metered(sampled, (2.0, [{"step": 2, "val_loss": 3}])).metrics == {"loss": 0.5, "val_loss": 3.0}
    once = (2.0, [{"step": 2, "train_loss": 7}])
    assert metered(sampled, once, sampled).metrics == {"train_loss": 7.0, "loss": 0.5}
    assert metered(sampled, once, sampled, once).metrics == {"train_loss": 7.0}
    assert metered(sampled, (2.0, [{"step": 2, "loss": 7}]), sampled).metrics == {"loss": 7.0}
