"""What users say about a run is written whatever the run is doing, in the order it was said."""

import pytest

from backprop.errors import NoSuchRunError, UsageError
from backprop.lifecycle import annotating
from backprop.store.annotations import Kind
from backprop.store.home import Home
from backprop.store.rundir import RunDir


def test_of_one_command_the_last_word_counts(home: Home, rundir: RunDir):
    """`tag +a -a` leaves no tag: all words of a command are of one moment, and keep their order."""
    new = annotating.make([(Kind.TAG, "a"), (Kind.UNTAG, "a"), (Kind.TAG, "b")])
    assert annotating.annotate(home, "r", new, print).tags == ("b",)
    assert home.unsettled() == ["r"]  # every process reads it again


def test_a_value_that_cannot_be_recorded_leaves_nothing_behind():
    """All are checked before the first is made."""
    with pytest.raises(UsageError):
        annotating.make([(Kind.TAG, "good"), (Kind.TAG, "not good")])


def test_a_run_that_was_removed_meanwhile(home: Home):
    with pytest.raises(NoSuchRunError, match="run gone was removed"):
        annotating.annotate(home, "gone", annotating.make([(Kind.TAG, "a")]), print)
