"""The stop ladder: when to warn, interrupt, terminate and kill."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.supervisor.stop_ladder import (
    Ladder,
    Rung,
    after_training,
    at_interrupt,
    at_once,
    at_request,
    at_timebox,
    shifted,
    warned,
)

CLOSE = 1e-6  # of monotonic seconds: rounding


def rungs(ladder: Ladder) -> tuple[float, float, float, float]:
    return (ladder.warn_at, ladder.interrupt_at, ladder.terminate_at, ladder.kill_at)


@pytest.mark.parametrize(
    ("timebox_s", "grace_s", "notice_s", "expected"),
    [
        (600, 30, None, (1000, 1000, 1020, 1030)),
        (600, 30, 50, (950, 1000, 1020, 1030)),
        (600, 30, 9999, (800, 1000, 1020, 1030)),  # at most a third of the timebox
        (600, 30, 0, (999.5, 1000, 1020, 1030)),
        (600, 0, None, (1000, 1000, 1000, 1000)),
        (0.3, 30, 0, (999.9, 1000, 1020, 1030)),
    ],
)
def test_the_ladder_of_a_timebox(timebox_s: float, grace_s: float, notice_s: float | None, expected: tuple[float, ...]):
    """Interrupted at the deadline, terminated at two thirds of the grace, killed at its end; warned early enough."""
    assert rungs(at_timebox(1000, timebox_s, grace_s, notice_s)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("now", "grace_s", "notice_s", "expected"),
    [
        (500, 30, None, (500, 500, 520, 530)),  # nobody listens: interrupted at once
        (500, 30, 4, (500, 504, 520, 530)),
        (500, 30, 0, (500, 500.5, 520, 530)),
        (500, 30, 9999, (500, 510, 520, 530)),  # at most a third of the grace
        (500, 0, 4, (500, 500, 500, 500)),
        (999, 30, 4, (999, 1000, 1019, 1029)),  # the timebox ends first
        (1010, 30, None, (1000, 1000, 1020, 1030)),  # already on the ladder: nothing is put off
    ],
)
def test_the_ladder_of_a_request(now: float, grace_s: float, notice_s: float | None, expected: tuple[float, ...]):
    """A stop that is asked for begins now, and never puts off what would have happened anyway."""
    current = at_timebox(1000, 600, 30, None)
    assert rungs(at_request(now, grace_s, notice_s, current)) == pytest.approx(expected)


def test_the_ladder_of_somebody_who_will_not_wait():
    """`stop --now` and a second Ctrl-C mean the last rung at once."""
    ladder = at_once(5)
    assert rungs(ladder) == (5, 5, 5, 5)
    assert ladder.due(5) is Rung.KILL


@pytest.mark.parametrize(("grace_s", "expected"), [(30, (5, 5, 25, 35)), (0, (5, 5, 5, 5))])
def test_the_ladder_of_a_trainer_that_is_interrupted_only_now(grace_s: float, expected: tuple[float, ...]):
    """It has the whole grace, as if its timebox had ended now."""
    assert rungs(at_interrupt(5, grace_s)) == expected


def test_each_rung_is_above_the_one_before():
    """Whoever has climbed to one has passed all below it."""
    assert list(Rung) == [Rung.NONE, Rung.WARN, Rung.INTERRUPT, Rung.TERMINATE, Rung.KILL]
    assert sorted(Rung) == list(Rung)


@pytest.mark.parametrize(
    ("now", "rung"),
    [
        (989.9, Rung.NONE),
        (990, Rung.WARN),
        (999.9, Rung.WARN),
        (1000, Rung.INTERRUPT),
        (1020, Rung.TERMINATE),
        (1029.9, Rung.TERMINATE),
        (1030, Rung.KILL),
        (math.inf, Rung.KILL),
    ],
)
def test_a_rung_is_due_at_its_instant(now: float, rung: Rung):
    """The highest rung whose time has come is due."""
    assert at_timebox(1000, 600, 30, 10).due(now) is rung


@pytest.mark.parametrize(("now", "then"), [(0, 990), (990, 1000), (1005, 1020), (1029, 1030), (1030, math.inf)])
def test_the_next_instant_is_strictly_later(now: float, then: float):
    """A loop that sleeps until the next rung wakes for each, and for ever after the last."""
    assert at_timebox(1000, 600, 30, 10).next_after(now) == then


def test_a_shifted_ladder_is_the_same_later():
    """Time spent paused moves every rung by as much."""
    assert rungs(shifted(at_timebox(1000, 600, 30, 10), 7)) == (997, 1007, 1027, 1037)


@pytest.mark.parametrize(
    ("grace_s", "finish_s", "expected"),
    [
        (30, 30, (1020, 1020, 1020 + 20 / 3, 1030)),  # what it does, and its end, are over with the grace
        (30, 600, (1590, 1590, 1590 + 20 / 3, 1600)),
        (30, 5, (1000, 1000, 1020, 1030)),
        (0, 60, (1060, 1060, 1060, 1060)),
    ],
)
def test_the_ladder_after_training(grace_s: float, finish_s: float, expected: tuple[float, ...]):
    """What the script still does may take `finish_s` beyond the timebox, all in all."""
    assert rungs(after_training(1000, grace_s, finish_s)) == pytest.approx(expected)


instants = st.floats(0, 1e8)
timeboxes = st.floats(1e-3, 3.2e7)
graces = st.floats(0, 86_400)
notices = st.none() | st.floats(0, 1e7)


@given(instants, timeboxes, graces, notices)
@settings(deadline=None)
def test_rungs_are_in_order_and_the_tree_is_gone_in_time(
    deadline: float, timebox_s: float, grace_s: float, notice_s: float | None
):
    """Rungs come in their order, the warning at most a third early, the kill at the end of the grace."""
    ladder = at_timebox(deadline, timebox_s, grace_s, notice_s)
    assert list(rungs(ladder)) == sorted(rungs(ladder))
    assert ladder.interrupt_at == deadline
    assert ladder.kill_at <= deadline + grace_s
    assert deadline - ladder.warn_at <= timebox_s / 3 + CLOSE


@given(instants, graces, st.floats(0, 3.2e7))
@settings(deadline=None)
def test_finished_training_puts_nothing_off_by_more_than_was_given(deadline: float, grace_s: float, finish_s: float):
    """Rungs come in their order, none before those of the timebox alone, and the last as soon as both times are over."""
    alone, ladder = at_timebox(deadline, 600, grace_s, None), after_training(deadline, grace_s, finish_s)
    assert list(rungs(ladder)) == sorted(rungs(ladder))
    assert all(late >= early - CLOSE for late, early in zip(rungs(ladder), rungs(alone), strict=True))
    assert ladder.kill_at == deadline + max(grace_s, finish_s)
    assert rungs(after_training(deadline, grace_s, 0)) == pytest.approx(rungs(alone))


@given(instants, timeboxes, graces, notices, st.lists(st.tuples(instants, graces, notices), max_size=4))
@settings(deadline=None)
def test_a_request_never_postpones_anything(
    deadline: float,
    timebox_s: float,
    grace_s: float,
    notice_s: float | None,
    requests: list[tuple[float, float, float | None]],
):
    """However often and whenever it is asked, no rung gets later, and their order stays."""
    ladder = at_timebox(deadline, timebox_s, grace_s, notice_s)
    for now, request_grace_s, request_notice_s in requests:
        asked = at_request(now, request_grace_s, request_notice_s, ladder)
        assert all(new <= old for new, old in zip(rungs(asked), rungs(ladder), strict=True))
        assert list(rungs(asked)) == sorted(rungs(asked))
        assert asked.kill_at <= min(deadline + grace_s, now + request_grace_s)
        assert asked.interrupt_at - now <= request_grace_s / 3 + CLOSE
        ladder = asked


@given(instants, timeboxes, graces, notices, st.floats(0, 1))
@settings(deadline=None)
def test_a_late_warning_costs_no_more_than_the_grace(
    deadline: float, timebox_s: float, grace_s: float, notice_s: float | None, late: float
):
    """Who could not be warned in time gets its notice out of the grace: the order stays, and the end."""
    before = at_timebox(deadline, timebox_s, grace_s, notice_s)
    now = min(before.warn_at + late * (before.terminate_at - before.warn_at), before.terminate_at)
    after = warned(now, grace_s, before)
    assert list(rungs(after)) == sorted(rungs(after))
    assert now <= after.interrupt_at
    assert before.interrupt_at <= after.interrupt_at <= max(before.interrupt_at, now + grace_s / 3 + CLOSE)
    assert (after.terminate_at, after.kill_at) == (before.terminate_at, before.kill_at)


def test_a_notice_counts_from_the_warning():
    """In time nothing changes; half a second late the interrupt is, too; and nobody who does not listen is spared."""
    ladder = at_timebox(1000, 600, 30, 2)
    assert warned(998, 30, ladder) == ladder
    assert warned(998.5, 30, ladder).interrupt_at == 1000.5
    assert warned(1000, 30, ladder).interrupt_at == 1002
    assert warned(1000.2, 30, at_timebox(1000, 600, 30, None)).interrupt_at == 1000.2
    assert warned(1000, 30, at_once(1000)) == at_once(1000)


@given(instants, timeboxes, graces, notices, instants)
@settings(deadline=None)
def test_somebody_who_wakes_at_every_instant_climbs_every_rung(
    deadline: float, timebox_s: float, grace_s: float, notice_s: float | None, now: float
):
    """Sleeping until the next rung, again and again, ends at the kill after four steps at most."""
    ladder = at_timebox(deadline, timebox_s, grace_s, notice_s)
    for _ in range(4):
        if ladder.next_after(now) == math.inf:
            break
        before, now = now, ladder.next_after(now)
        assert now > before
    assert ladder.due(now) is Rung.KILL


@given(instants, timeboxes, graces, notices, st.floats(0, 1e5))
@settings(deadline=None)
def test_a_pause_keeps_the_order(
    deadline: float, timebox_s: float, grace_s: float, notice_s: float | None, paused: float
):
    """However long a pause was, the rungs of the shifted ladder are in order and none is earlier."""
    before = rungs(at_timebox(deadline, timebox_s, grace_s, notice_s))
    after = rungs(shifted(at_timebox(deadline, timebox_s, grace_s, notice_s), paused))
    assert list(after) == sorted(after)
    assert all(new >= old for new, old in zip(after, before, strict=True))
