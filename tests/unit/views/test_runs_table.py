"""The table of `list`."""

from backprop.records import LiveProgress, MetricSummary, RunView
from backprop.views.terminal.runs_table import runs_table
from backprop.views.terminal.screen import Screen, cells
from tests.unit.store.test_query import NOW, made


def test_the_eta_is_kept_longer_than_the_curve_and_the_age():
    view = RunView(
        run=made("c948rdv7", elapsed_s=33.0),
        run_dir="/tmp/c948rdv7",
        last_step=11_520,
        total_steps=880_000,
        metrics={"loss": 0.00018},
        summaries={"loss": MetricSummary(count=1, last=0.00018, last_step=11_520)},
        live=LiveProgress(steps_per_s=350.0, remaining_s=2429.0),
    )
    seen = {}
    for width in (60, 80, 100):
        screen = Screen(width=width, is_terminal=True, has_blocks=True)
        text = runs_table([view], NOW, values=lambda *_: [3.0, 2.0, 1.0] * 8, screen=screen)
        assert all(cells(line) <= width for line in text.splitlines())
        seen[width] = "40:29" in text, "▁" in text
    assert seen[80][0]
    assert all(has_eta or not has_curve for has_eta, has_curve in seen.values())
