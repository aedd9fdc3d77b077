"""What the records say of themselves."""

import functools
from typing import Any

import msgspec
import pytest

from backprop.records import RunSpec, in_minutes
from tests.records import SPEC


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (600, "10 min"),
        (30, "30 s"),
        (750, "12.5 min"),
        (31_536_000, "525,600 min"),
        (599.7486, "10 min"),
        (588.2, "9.8 min"),
        (13.639, "13.6 s"),
        (0.006, "0.006 s"),
    ],
)
def test_a_limit_in_minutes(seconds: float, text: str):
    """As it was given; what is left of one is rounded, but never to nothing."""
    assert in_minutes(seconds) == text


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"command": []}, "command is empty"),
        ({"command": ["a\0b"]}, "command contains a NUL"),
        ({"cwd": "\0"}, "cwd contains a NUL"),
        ({"created_at": "2026-01-02T00:00:00"}, "created_at is 2026-01-02 00:00:00: no time zone"),
        ({"created_at": "9999-12-31T23:59:59-12:00"}, "created_at is 9999-12-31 23:59:59-12:00"),
        ({"created_at": "0001-01-01T00:00:00Z"}, "created_at is 0001-01-01"),
        ({"version": 2**63}, "version is 9223372036854775808"),
        ({"params": {"x": functools.reduce(lambda inner, _: [inner], range(900), 1)}}, "params is nested more than 32"),
        ({"limits": {**msgspec.to_builtins(SPEC.limits), "timebox_s": 1e300}}, "timebox_s is 1e\\+300"),
    ],
)
def test_a_stored_record_holds_nothing_that_the_rest_could_not_take(changes: dict[str, Any], problem: str):
    """It is refused where it is decoded, and the error names what is wrong."""
    told = msgspec.json.encode(msgspec.to_builtins(SPEC) | changes)
    with pytest.raises(msgspec.ValidationError, match=problem):
        msgspec.json.decode(told, type=RunSpec)
