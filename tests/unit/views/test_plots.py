"""What is drawn in a plot."""

import math
import re
from array import array

import msgspec
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backprop.store.curves import Axis
from backprop.store.usage.quantities import Unit
from backprop.views.plots.model import Panel, Plot, PlotLine, Span, notes, spikes, x_ticks, y_span, y_ticks
from backprop.views.plots.smoothing import smoothed
from backprop.views.plots.terminal import drawn
from backprop.views.terminal.screen import Screen, cells

FALLING = [2.0 * math.exp(-step / 50) + 0.1 for step in range(300)]
TERMINAL = Screen(width=80, height=30, is_terminal=True, has_colours=True)


def panel(*curves: list[float], metric: str = "loss") -> Panel:
    lines = [PlotLine(place=place, xs=array("d", range(len(ys))), ys=array("d", ys)) for place, ys in enumerate(curves)]
    return Panel(metric=metric, lines=tuple(lines))


def plotted(*curves: list[float], **changes: object) -> Plot:
    names = tuple(f"run {place}" for place in range(len(curves)))
    return Plot(**{"runs": names, "panels": (panel(*curves),), "axis": Axis.STEP, **changes})


def test_a_spike_does_not_hide_the_curve_and_is_not_hidden():
    """The range is that of the rest; the spike is marked and told."""
    curve = [*FALLING]
    curve[100] = 1e6
    span = y_span(panel(curve), is_log=False)
    assert 2 < span.high < 10
    (spike,) = spikes(panel(curve), span)
    assert (spike.x, spike.value, spike.is_above) == (100, 1e6, True)
    text = drawn(plotted(curve), TERMINAL)
    assert "▲" in text
    assert "outside the range: 1e+06 at step 100" in text


@pytest.mark.parametrize("curve", [FALLING, [10.0, 2.0, 1.5, 1.2, 1.0, 0.9, 0.8, 0.7, 0.6], [1.0], [0.5] * 50])
def test_what_is_no_spike_is_inside(curve: list[float]):
    """A loss that falls steeply at first, a single value, a curve that stands still."""
    span = y_span(panel(curve), is_log=False)
    assert span.low < min(curve) <= max(curve) < span.high


def test_nan_is_a_gap_that_is_told():
    """The curve is in two pieces, and a note says where it is not."""
    curve = [1.0] * 40 + [math.nan] * 20 + [1.0] * 40
    text = drawn(plotted(curve), Screen())
    (row,) = [line for line in text.splitlines() if "⠒⠒⠒" in line or "⠤⠤⠤" in line or "⠉⠉⠉" in line or "⣀⣀⣀" in line]
    assert re.search(r"[⠀-⣿]{10,} {10,}[⠀-⣿]{10,}", row)
    assert "20 values are not finite, from step 40 to step 59" in text


def test_a_line_that_goes_back_is_two_lines():
    """A script that trains twice begins again at the first step: no line leads from one training to the other."""
    xs, ys = [*range(50), *range(50)], [1.0] * 50 + [0.0] * 50
    line = PlotLine(place=0, xs=array("d", xs), ys=array("d", ys))
    plot = plotted([], panels=(Panel(metric="loss", lines=(line,)),))
    rows = [row for row in drawn(plot, Screen(width=80)).splitlines() if re.search("[⠁-⣿]", row)]
    assert len(rows) == 2
    assert "not finite" not in drawn(plot, Screen(width=80))


@pytest.mark.parametrize(
    ("values", "unit", "labels"),
    [
        ([15.1e6, 16.4e6, 16.4e6], Unit.BYTES, ["0 B", "10.0 MB"]),
        ([0.0, 0.0, 1.0] * 9 + [250.0], Unit.PERCENT, ["0 %", "100 %", "200 %"]),
        ([0.0, 0.0], Unit.PERCENT, ["0 %", "0.5 %", "1 %"]),
        ([3.0, 2.0], Unit.COUNT, ["0", "2"]),
        ([301.0, 298.0], Unit.WATTS, ["0 W", "200 W"]),
    ],
)
def test_what_a_run_used_has_units_and_begins_at_zero(values: list[float], unit: Unit, labels: list[str]):
    """A peak is no outlier: it is what one looks for. Nothing is below zero."""
    drawing = msgspec.structs.replace(panel(values), unit=unit)
    span = y_span(drawing, is_log=False)
    assert span.low == 0
    assert span.high > max(values)
    assert [text for _, text in y_ticks(span, 3, is_log=False, unit=unit)] == labels


def test_a_logarithmic_scale_leaves_out_what_has_no_place_on_it():
    """Zero and below; and says so."""
    curve = [100.0, 10.0, 1.0, 0.0, -1.0]
    plot = plotted(curve, is_log=True)
    assert "2 values are not above 0" in " ".join(notes(plot, plot.panels[0], []))
    text = drawn(plot, TERMINAL)
    assert [tick for _, tick in y_ticks(Span(1, 100), 5, is_log=True)] == ["1", "10", "100"]
    assert "(logarithmic)" in text


@given(st.lists(st.lists(st.floats(), min_size=1, max_size=40), min_size=1, max_size=3), st.booleans())
@example(curves=[[5e-324, 1.0]], is_log=True)
@example(curves=[[5e-324]], is_log=True)
@example(curves=[[1.7e308, -1.7e308]], is_log=False)
def test_any_values_can_be_drawn(curves: list[list[float]], is_log: bool):
    """Huge, tiny, infinite, none at all: no crash, and every line fits."""
    text = drawn(plotted(*curves, is_log=is_log), TERMINAL)
    plain = re.sub(r"\x1b\[[0-9;]*m", "", text)
    assert all(cells(line) <= 80 for line in plain.splitlines())


def test_runs_are_told_apart_without_colours():
    """By letters, in the curves and in the legend, where there are no colours."""
    text = drawn(plotted([0.0, 0.0], [1.0, 1.0]), Screen())
    assert "\x1b" not in text
    assert "a run 0" in text
    assert "b run 1" in text
    assert "aaaa" in text
    assert "bbbb" in text
    assert drawn(plotted([0.0, 0.0], [1.0, 1.0]), Screen(has_blocks=False)).isascii()


def test_the_panels_fit_on_the_screen():
    """All of them, with legend and notes, where there is room for that."""
    plot = plotted(FALLING, FALLING, panels=(panel(FALLING), panel(FALLING, metric="val_loss")))
    assert len(drawn(plot, TERMINAL).splitlines()) < TERMINAL.height


def test_a_hostile_plot_is_text():
    """Names and metrics full of escapes, newlines and direction marks, a megabyte long."""
    evil = "\x1b]0;x\x07\n\u202e</script>" + "x" * 1_000_000
    plot = plotted(FALLING, FALLING, runs=(evil, evil), panels=(panel([math.nan], [1.0], metric=evil),))
    text = drawn(plot, Screen())
    assert text.replace("\n", "").isprintable()
    assert len(text) < 10_000
    assert all(cells(line) <= 80 for line in text.splitlines())


@pytest.mark.parametrize(
    ("last_s", "unit"), [(90.0, "seconds"), (600.0, "minutes"), (20_000.0, "hours"), (1e6, "days")]
)
def test_time_is_told_in_a_fitting_unit(last_s: float, unit: str):
    """The ticks are whole numbers of it, at their place in seconds."""
    line = PlotLine(place=0, xs=array("d", [0.0, last_s]), ys=array("d", [1.0, 2.0]))
    plot = plotted([1.0], panels=(Panel(metric="loss", lines=(line,)),), axis=Axis.TIME)
    assert unit in drawn(plot, TERMINAL)
    assert all(0 <= tick <= last_s for tick, _ in x_ticks(plot, 5))


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (-5, 5), (0.097, 0.103), (1e-9, 2e-9), (1e15, 1e15 + 10), (-1e300, 1e300)]
)
def test_ticks_are_round_and_inside(low: float, high: float):
    """A few, whatever the range."""
    ticks = [tick for tick, _ in y_ticks(Span(low, high), 5, is_log=False)]
    assert 1 <= len(ticks) <= 12
    assert all(low <= tick <= high for tick in ticks)
    assert ticks == sorted(ticks)


@pytest.mark.parametrize(
    ("values", "how", "found"),
    [
        ([1, 2, 3, 4], 2, [1, 1.5, 2.5, 3.5]),
        ([1, math.nan, 3], 2, [1, math.nan, 2]),
        ([4, 4, 4], 0.9, [4, 4, 4]),
        ([1, 3], 0.5, [1, 7 / 3]),
        ([math.inf, 1], 0.5, [math.inf, 1]),
        ([1e308, 1e308], 2, [1e308, 1e308]),
    ],
)
def test_smoothing(values: list[float], how: float, found: list[float]):
    """A mean of the last values, or an exponential average; what is not finite is in neither, and stays."""
    assert list(smoothed(values, how)) == pytest.approx(found, nan_ok=True)


@pytest.mark.parametrize("is_log", [False, True])
@pytest.mark.parametrize(
    "values", [[5e-324 * n for n in range(1, 6)], [5e-324, 1e-310], [1e-320, 1.7e308], [-1.7e308, 1.7e308]]
)
def test_the_smallest_and_greatest_numbers_can_be_drawn(values: list[float], is_log: bool):
    """A learning rate that has decayed to a denormal is no reason to draw nothing."""
    assert drawn(plotted(values, is_log=is_log), TERMINAL)
