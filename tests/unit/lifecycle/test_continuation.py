"""What follows a session: pure decisions about retries and further turns."""

from datetime import datetime, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.lifecycle.continuation import MAX_BACKOFF_S, Attempt, Next, NextAction, after
from backprop.lifecycle.owned_run import Request
from backprop.records import Checkpoint, Limits, Measure, Status

AT = datetime(2026, 1, 2, tzinfo=timezone.utc)


def request(retries: int = 0, sessions: int = 1, timebox_s: float = 600) -> Request:
    limits = Limits(timebox_s=timebox_s, grace_s=30, min_free_ram_bytes=0, min_free_disk_bytes=0)
    return Request(limits=limits, checkpoint=None, retries=retries, sessions=sessions)


def saved(step: int) -> Checkpoint:
    return Checkpoint(path=f"/c/{step}", step=step, session=1, measure=Measure(size_bytes=1, saved_at=AT))


def attempt(status: Status, step: int | None = None, newest: Checkpoint | None = None, **changes: object) -> Attempt:
    told = {"exit_code": 1, "elapsed_s": 10.0, **changes}
    return Attempt(status=status, step=step, newest=newest, **told)  # type: ignore[arg-type]


def failed(step: int | None = None, newest: Checkpoint | None = None, **changes: object) -> Attempt:
    return attempt(Status.FAILED, step, newest, **changes)


TIMEBOXED = attempt(Status.TIMEBOXED, exit_code=0)


@pytest.mark.parametrize("status", [status for status in Status if status.is_final])
def test_without_being_asked_nothing_follows(status: Status):
    """One session is one session, however it ends."""
    assert after(request(), [attempt(status)]).kind is NextAction.END


@pytest.mark.parametrize("status", [Status.COMPLETED, Status.STOPPED, Status.INTERRUPTED])
def test_what_was_ended_on_purpose_stays_ended(status: Status):
    """Neither retries nor turns follow what completed or was stopped."""
    assert after(request(retries=9, sessions=9), [attempt(status)]).kind is NextAction.END


def test_a_timebox_is_followed_by_another_turn_until_all_are_used():
    """--sessions 3 is three timeboxes, each of full length."""
    asked = request(sessions=3)
    assert after(asked, [TIMEBOXED]) == Next(kind=NextAction.TIMEBOX, message="session 2 of 3", timebox_s=600.0)
    assert after(asked, [TIMEBOXED] * 2).message == "session 3 of 3"
    assert after(asked, [TIMEBOXED] * 3).kind is NextAction.END


def test_a_failure_is_tried_again_in_what_is_left_of_the_timebox():
    """The time that failures took is gone."""
    asked = request(retries=3)
    first = after(asked, [failed(5, elapsed_s=100)])
    assert (first.kind, first.timebox_s, first.delay_s) == (NextAction.RETRY, 500, 1)
    assert first.message == "retry 1 of 3 in 1 s, with 500 s left in its timebox"
    second = after(asked, [failed(5, elapsed_s=100), failed(6, elapsed_s=200)])
    assert (second.kind, second.timebox_s, second.delay_s) == (NextAction.RETRY, 300, 2)
    assert second.message == "retry 2 of 3 in 2 s, with 300 s left in its timebox"


def test_a_failure_before_the_launch_takes_none_of_the_timebox():
    assert after(request(retries=3), [failed(elapsed_s=None)]).timebox_s == 600


def test_a_new_turn_has_a_whole_timebox_for_its_retries():
    """What failed in an earlier timebox does not count against this one."""
    attempts = [failed(5, elapsed_s=500), attempt(Status.TIMEBOXED, elapsed_s=100), failed(9, elapsed_s=50)]
    assert after(request(retries=3, sessions=3), attempts).timebox_s == 550


def test_retries_are_used_up():
    """After so many as were asked for, it says that it gave up."""
    end = after(request(retries=2), [failed(1), failed(2), failed(3)])
    assert (end.kind, end.message) == (NextAction.END, "gave up after 2 retries")
    assert after(request(retries=1), [failed(1), failed(2)]).message == "gave up after 1 retry"


def test_a_timebox_that_is_used_up_leaves_nothing_to_retry_in():
    """A retry of no length is none, and that is said."""
    end = after(request(retries=2, timebox_s=60), [failed(1, elapsed_s=59.5)])
    assert (end.kind, end.message) == (NextAction.END, "no time left in its timebox for a retry")
    assert after(request(retries=2, timebox_s=60), [failed(1, elapsed_s=59)]).kind is NextAction.RETRY


def test_failing_twice_at_the_same_step_is_enough():
    """Without a new checkpoint in between it would fail there for ever."""
    end = after(request(retries=9), [failed(7, saved(5)), failed(7, saved(5))])
    assert (end.kind, end.message) == (
        NextAction.END, "not retried: it failed twice at step 7 with no new checkpoint in between",
    )  # fmt: skip


@pytest.mark.parametrize(
    "attempts",
    [
        [failed(7, saved(5)), failed(8, saved(5))],  # further than before
        [failed(7, saved(5)), failed(7, saved(6))],  # a new checkpoint
        [failed(7, None), failed(7, saved(5))],  # the first one
        [failed(None, None), failed(None, None)],  # nobody knows the step
        [failed(7, saved(5)), TIMEBOXED, failed(7, saved(5))],  # it got through once
    ],
)
def test_anything_new_is_worth_another_try(attempts: list[Attempt]):
    """Only the same failure from the same place is hopeless."""
    assert after(request(retries=9, sessions=9), attempts).kind is NextAction.RETRY


def test_a_command_that_cannot_be_executed_is_not_tried_again():
    """It will not be there a second later."""
    assert after(request(retries=9), [failed(None, exit_code=127)]).kind is NextAction.END


def test_running_out_of_memory_is_a_failure():
    """A session that the governor stopped for its own appetite is worth another try; other stops are not."""
    asked = request(retries=1)
    assert after(asked, [attempt(Status.STOPPED, 5, is_over_own_limit=True)]).kind is NextAction.RETRY
    assert after(asked, [attempt(Status.STOPPED, 5)]).kind is NextAction.END


def test_backing_off_begins_anew_with_every_checkpoint():
    """Progress is a sign that the trouble was a passing one."""
    attempts = [failed(step, None) for step in range(4)]
    assert after(request(retries=9), attempts).delay_s == 8
    assert after(request(retries=9), [*attempts, failed(9, saved(8))]).delay_s == 1


def test_backing_off_takes_a_minute_at_most():
    """Twice as long after every failure, up to there."""
    attempts = [failed(step, None) for step in range(6)]
    assert after(request(retries=99), attempts).delay_s == 32
    assert after(request(retries=99), [*attempts, failed(6, None)]).delay_s == 60
    assert after(request(retries=99, timebox_s=1e6), [failed(step, None) for step in range(30)]).delay_s == 60


attempts_of = st.lists(
    st.builds(
        attempt,
        st.sampled_from([Status.FAILED, Status.FAILED, Status.TIMEBOXED, Status.COMPLETED, Status.STOPPED]),
        st.none() | st.integers(0, 3),
        st.none() | st.integers(0, 3).map(saved),
        elapsed_s=st.floats(0, 700),
    ),
    min_size=1,
    max_size=40,
)


@given(st.integers(0, 5), st.integers(1, 5), attempts_of)
@settings(deadline=None)
def test_it_always_ends(retries: int, sessions: int, attempts: list[Attempt]):
    """However sessions end, no more follow than were asked for, and none without time or after a wild pause."""
    asked = request(retries=retries, sessions=sessions)
    history: list[Attempt] = []
    for one in attempts:
        history.append(one)
        following = after(asked, history)
        if following.kind is NextAction.END:
            break
        assert 1 <= following.timebox_s <= 600
        assert 0 <= following.delay_s <= MAX_BACKOFF_S
    assert len(history) <= retries + sessions
