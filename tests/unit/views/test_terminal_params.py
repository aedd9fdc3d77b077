"""Which parameters tell runs apart."""

import msgspec
import pytest

from backprop.records import Run, RunView, Status
from backprop.views.terminal import params
from tests.records import SPEC


def view(run_id: str, *defaults: str, **values: object) -> RunView:
    run = Run(spec=msgspec.structs.replace(SPEC, id=run_id), status=Status.COMPLETED)
    return RunView(run=run, run_dir="/r", params=values, default_params=frozenset(defaults))


@pytest.mark.parametrize(
    ("views", "expected"),
    [
        ([view("a", lr=0.1, seed=1), view("b", lr=0.1, seed=2)], ["seed"]),
        ([view("a", lr=0.1), view("b", lr=0.1, warmup=5)], ["warmup"]),
        ([view("a", lr=0.1), view("b", "warmup", lr=0.1, warmup=5)], []),  # an option of another version of the script
        ([view("a", out="runs/a"), view("b", out="runs/b")], []),  # the same but for the id
        ([view("a", out="x/a"), view("b", out="y/b")], ["out"]),
        ([view("a", lr=1), view("b", lr=1.0)], ["lr"]),  # as they are shown
        ([view("a", lr=0.1)], []),
    ],
)
def test_what_differs(views: list[RunView], expected: list[str]):
    assert params.differing(views) == expected


def test_those_with_several_values_come_first():
    """Then those that only some runs have; the most common of each first."""
    views = [view("a", z=1, few=1), view("b", z=2, lr=1, more=1), view("c", z=2, lr=2, more=1)]
    assert params.differing(views) == ["z", "lr", "more", "few"]


@pytest.mark.parametrize(("value", "text"), [("a b", "a b"), (None, "null"), ([1, float("nan")], '[1, "NaN"]')])
def test_a_value_as_text(value: object, text: str):
    assert params.text(value) == text
    assert params.text(params.ABSENT) == "-"
