"""Curves for programs: the contract of `plot --json`."""

from collections.abc import Sequence
from typing import Any

from backprop.store.output.protocol import json_safe
from backprop.views.plots.model import Plot, PlotLine

_DIGITS = 6  # more are seldom meant, and cost those who read them


def curves_document(plot: Plot, run_ids: Sequence[str]) -> dict[str, Any]:
    """The points of each curve, as they would be drawn. run_ids: shape (runs,), in the order of the plot."""
    return {
        "axis": plot.axis.value,
        "curves": [
            {
                "run": run_ids[line.place],
                "metric": panel.metric,
                "reduced": line.is_reduced,
                "points": _points(line),
            }
            for panel in plot.panels
            for line in panel.lines
        ],
    }


def _points(line: PlotLine) -> list[tuple[Any, Any]]:
    return [(_number(x), _number(y)) for x, y in zip(line.xs, line.ys, strict=True)]


def _number(value: float) -> Any:
    if value.is_integer():
        return int(value)
    return json_safe(float(f"{value:.{_DIGITS}g}"))
