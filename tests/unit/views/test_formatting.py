"""Numbers as people read them."""

import math
from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.records import LiveProgress
from backprop.text import printable, shortened
from backprop.views.terminal import formatting

NOW = datetime(2026, 1, 2, tzinfo=timezone.utc)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "-"),
        (math.inf, "-"),
        (math.nan, "-"),
        (0, "0.0 s"),
        (-5, "0.0 s"),
        (9.44, "9.4 s"),
        (10, "10 s"),
        (59.4, "59 s"),
        (59.6, "1:00"),
        (245, "4:05"),
        (3599.6, "1:00:00"),
        (7400, "2:03:20"),
        (86_399.6, "1 d 0 h"),
        (3 * 86_400 + 4 * 3600 + 59, "3 d 4 h"),
    ],
)
def test_a_duration(seconds: float | None, text: str):
    """Seconds, then minutes, hours and days, in the units that matter."""
    assert formatting.duration(seconds) == text


@pytest.mark.parametrize(
    ("elapsed_s", "limit_s", "text"),
    [
        (2.44, 600, "2.4/600 s"),
        (-1, 2.4, "0.0/2.4 s"),
        (9.96, 30, "10/30 s"),
        (61.2, 30, "61/30 s"),
        (5, 600_000, "5.0/600,000 s"),
        (1234, 30, "1,234/30 s"),
        (60, 600, "1.0/10 min"),
        (275, 600_000, "4.6/10,000 min"),
        (16_500, 600_000, "275/10,000 min"),
        (5_998, 6_000, "100/100 min"),
        (90, 750, "1.5/12.5 min"),
    ],
)
def test_how_much_of_a_limit_was_used(elapsed_s: float, limit_s: float, text: str):
    """One unit on both sides: seconds where one of them is short."""
    assert formatting.used(elapsed_s, limit_s) == text


@pytest.mark.parametrize(("text", "found"), [("", ""), ("four", "four"), ("fives", "fiv…")])
def test_a_shortened_text(text: str, found: str):
    """At most so many characters, the last one saying that there were more."""
    assert shortened(text, 4) == found


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-9, "0 s"),
        (0, "0 s"),
        (59.9, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h"),
        (86_399, "23 h"),
        (200_000, "2 d"),
    ],
)
def test_an_age(seconds: float, text: str):
    """How long ago, in one unit, and never in the future."""
    assert formatting.age(NOW - timedelta(seconds=seconds), NOW) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (None, "-"),
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (340_000, "340.0 kB"),
        (1_200_000_000, "1.2 GB"),
        (5e15, "5000.0 TB"),
        (999_960, "1.0 MB"),
    ],
)
def test_a_size(size_bytes: float | None, text: str):
    """Bytes in powers of a thousand, never a thousand of one unit."""
    assert formatting.size(size_bytes) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.123456, "0.1235"), (1e-9, "1e-09"), (3.0, "3"), (math.nan, "nan"), (-math.inf, "-inf")],
)
def test_a_number(value: float | None, text: str):
    """Four significant digits."""
    assert formatting.number(value) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain Größe 训练", "plain Größe 训练"),
        ("a\nb", r"a\nb"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\u202edesrever", r"\u202edesrever"),
        ("\udcff", r"\udcff"),
        ('it\'s "quoted"', 'it\'s "quoted"'),
        ("a\\b", "a\\b"),
        ("", ""),
    ],
)
def test_text_that_a_terminal_would_obey_is_shown_as_it_is_written(text: str, shown: str):
    """Names and paths cannot move the cursor, change colours or break a line."""
    assert printable(text) == shown


@pytest.mark.parametrize(("name", "shown"), [("loss", "loss"), ("", '""'), ("  ", '"  "'), (" a", " a")])
def test_a_name_of_blanks_is_seen(name: str, shown: str):
    """A metric without a name is no hole in a table."""
    assert formatting.name(name) == shown


@given(st.text())
@settings(deadline=None)
def test_whatever_the_text_it_is_one_line(text: str):
    """No text, however strange, leaves its line, and plain text is not changed."""
    shown = printable(text)
    assert shown.isprintable()
    assert shown == text or not text.isprintable()


@given(st.floats(allow_nan=True) | st.none())
@settings(deadline=None)
def test_every_number_can_be_shown(value: float | None):
    """Nothing that a trainer could have measured makes a view fail."""
    assert formatting.duration(value)
    assert formatting.size(value)
    assert formatting.number(value)


@pytest.mark.parametrize(
    ("live", "life", "pace"),
    [
        (None, "", []),
        (LiveProgress(), "", []),
        (LiveProgress(silent_s=60, stalled_s=60, steps_per_s=2.0, remaining_s=250), "", ["2 steps/s", "ETA 4:10"]),
        (LiveProgress(steps_per_s=2.0, remaining_s=250, is_estimate=True), "", ["2 steps/s", "ETA ~4:10"]),
        (LiveProgress(silent_s=600, stalled_s=30, steps_per_s=2.0), "alive, but silent for 10:00", []),
        (LiveProgress(silent_s=600, stalled_s=597), "no sign of life for 9:57", []),
        (LiveProgress(silent_s=120, stalled_s=117), "no sign of life for 1:57", []),  # its use is judged a bit later
        (LiveProgress(silent_s=600, stalled_s=None), "silent for 10:00", []),
    ],
)
def test_how_a_running_session_does(live: LiveProgress | None, life: str, pace: list[str]):
    """Silence and no sign of life are told apart; a rate of the past is none."""
    assert (formatting.life(live), formatting.pace(live, None)) == (life, pace)


@pytest.mark.parametrize(
    ("unit", "text", "short"),
    [
        (None, "", "step"),
        ("optimizer step", "optimizer steps", "step"),
        ("epoch", "epochs", "epoch"),
        ("batch", "batches", "batch"),
        (" ", " s", "step"),
    ],
)
def test_the_unit_of_steps(unit: str | None, text: str, short: str):
    """Nothing is claimed where it is not known."""
    assert (formatting.units(unit), formatting.short_unit(unit)) == (text, short)
    assert formatting.units(unit, 1) == (unit or "")
