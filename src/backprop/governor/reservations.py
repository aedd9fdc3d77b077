"""How much memory is held back for a run that does not use it yet. Pure: what was asked and used in; bytes out.

A reservation begins as what the run asks for. Where its user has not asked for more than the default, which is a guess
of ours, the same training before tells better. It never grows. Once the run trains, and has not grown for a while, it
shrinks to what the run itself used.
"""

from collections.abc import Sequence

from backprop.records import Record

# a validation, a longer sequence, another worker: what is left to a run beyond what was seen of it
MARGIN = 1.5
SPARE_BYTES = 256_000_000
STEADY_S = 120.0  # by then a trainer has allocated: the same as where the use of a GPU cannot be read
_LONG_S = 60.0  # what was measured for less may have ended before it used much


class PastUse(Record, frozen=True):
    """What an earlier run of the same script, or an earlier session of the same run, used of a kind of memory."""

    peak_bytes: float
    measured_s: float
    has_ended_well: bool  # it completed, or was stopped: not before it had got anywhere
    is_alike: bool  # the same training, as far as that is known: see `admission`


def learned_bytes(past: Sequence[PastUse]) -> int | None:
    """What a run is likely to use at most, with a margin; None where too little is known.

    Only the same training tells: a batch of 8 says nothing of one of 256. But the greatest of all peaks counts, also
    that of a run that failed, or had other arguments.
    """
    if not any(one.is_alike and one.has_ended_well and one.measured_s >= _LONG_S and one.peak_bytes for one in past):
        return None
    return with_margin(max(one.peak_bytes for one in past))


def reserved_bytes(asked_bytes: int, default_bytes: int, learned: int | None) -> int:
    """What a reservation begins as. Nothing learned lowers what a user asked for beyond the default."""
    return asked_bytes if learned is None or asked_bytes > default_bytes else min(asked_bytes, learned)


def with_margin(used_bytes: float) -> int:
    """The most that a run which used so much may come to use."""
    return int(used_bytes * MARGIN) + SPARE_BYTES


def held_back_bytes(reserved_bytes: int, seen_bytes: int, steady_s: float | None) -> int:
    """What of a reservation others may not have. seen_bytes: the most that the run held so far.

    steady_s: for how long it has trained and not grown; None: that is not known, or it is paused.
    """
    if seen_bytes and steady_s is not None and steady_s >= STEADY_S:
        reserved_bytes = min(reserved_bytes, with_margin(seen_bytes))
    return max(0, reserved_bytes - seen_bytes)
