"""How much memory is held back for a run that does not use it yet. Pure: what was asked and used in; bytes out.

A reservation begins as what the run asks for, or less by what earlier runs of its script used. It never grows beyond.
Once the run has not grown for a while, it shrinks to what the run itself used.
"""

from collections.abc import Sequence

from backprop.records import Record

# a validation, a longer sequence, another worker: what is left to a run beyond what was seen of it
MARGIN = 1.5
SPARE_BYTES = 256_000_000
STEADY_S = 120.0  # by then a trainer has allocated: the same as where the use of a GPU cannot be read
_LONG_S = 60.0  # what was measured for less may have ended before it used much
_ENOUGH_ALIKE, _ENOUGH = 1, 3  # runs with the same command line, and with other arguments


class PastUse(Record, frozen=True):
    """What an earlier run of the same script, or an earlier session of the same run, used of a kind of memory."""

    peak_bytes: float
    measured_s: float
    has_ended_well: bool  # it completed, or was stopped: not before it had got anywhere
    is_alike: bool  # the same command line


def learned_bytes(past: Sequence[PastUse]) -> int | None:
    """What a run is likely to use at most, with a margin; None where too little is known.

    The greatest of all peaks counts, also that of a run that failed: a run with other arguments may need as much.
    """
    telling = [use for use in past if use.has_ended_well and use.measured_s >= _LONG_S]
    if sum(use.is_alike for use in telling) < _ENOUGH_ALIKE and len(telling) < _ENOUGH:
        return None
    return with_margin(max(use.peak_bytes for use in past))


def with_margin(used_bytes: float) -> int:
    """The most that a run which used so much may come to use."""
    return int(used_bytes * MARGIN) + SPARE_BYTES


def held_back_bytes(reserved_bytes: int, seen_bytes: int, steady_s: float | None) -> int:
    """What of a reservation others may not have. seen_bytes: the most that the run held so far.

    steady_s: for how long it has not grown; None: that is not known, or it is paused.
    """
    if seen_bytes and steady_s is not None and steady_s >= STEADY_S:
        reserved_bytes = min(reserved_bytes, with_margin(seen_bytes))
    return max(0, reserved_bytes - seen_bytes)
