"""A sweep as a table, as sentences, and as JSON."""

import fcntl
import json
import os
import pty
import struct
import sys
import termios
from datetime import datetime, timedelta, timezone

import msgspec
import pytest

from backprop.cli.sweep_display import SweepDisplay
from backprop.lifecycle.sweep.journal import Finished, SweepEntry
from backprop.lifecycle.sweep.observation import Seen
from backprop.lifecycle.sweep.rule import Budget
from backprop.lifecycle.sweep.space import Parameter
from backprop.lifecycle.sweep.standing import budget_of, fold
from backprop.views.documents.sweep_json import eta_s, sweep_document
from backprop.views.terminal.screen import Screen
from backprop.views.terminal.sweep_table import conclusion, summary
from tests.unit.lifecycle.sweep.test_standing import NOW, SPEC, asked, ended, promoted

SEARCH: list[SweepEntry] = [
    asked(0, params={"lr": "0.1"}),
    ended(0, value=0.5),
    asked(1, params={"lr": "0.03"}),
    ended(1, value=0.8),
    asked(2, params={"lr": "0.3"}),
    ended(2, value=None, reason="ValueError"),
    promoted(1),
]
REPEATS: list[SweepEntry] = [
    entry
    for number, (trial, seed, value) in enumerate(((1, 1, 0.8), (0, 1, 0.79), (1, 2, 0.7), (0, 2, 0.72)), start=3)
    for entry in (
        asked(number, params={"lr": "0.03" if trial else "0.1"}, repeats=trial, seed=seed, source="confirm"),
        ended(number, value=value),
    )
]
END = Finished(at=NOW, reason="all repeats are trained")


def seen(*entries: SweepEntry, is_driven: bool = False) -> Seen:
    standing = fold(SPEC, entries)
    return Seen(standing, budget_of(standing, {}, SPEC.budget_s), is_driven)


def test_the_table_shows_rungs_budget_and_the_best():
    """Best first; without a value a trial is not among them."""
    found = seen(*SEARCH, is_driven=True)
    text = summary(found.standing, found.budget, found.state, Screen(width=80, is_terminal=True))
    lines = text.splitlines()
    assert lines[0] == "sweep digits (running) · max:score · 3 trials"
    assert lines[1] == "rung 0: 3 done, rung 1: 0 done + 1 active"
    assert lines[2].startswith("budget 30 s of 1.67 min used")
    assert lines[3] == "trial 1 to rung 1: best"
    assert [line.split()[0] for line in lines[4:]] == ["TRIAL", "1", "0"]
    assert all(len(line) <= 80 for line in lines)


def test_before_the_first_trial_there_is_something_to_show():
    """No table, and no error."""
    found = seen()
    assert "no trial has finished a rung" in summary(found.standing, found.budget, found.state, Screen())
    assert list(conclusion(found)) == ["sweep digits is interrupted; continue with: backprop sweep resume digits"]


def test_the_end_names_the_best_its_spread_and_ties():
    """With what to type next."""
    said = list(conclusion(seen(*SEARCH[:-1], *REPEATS, END)))
    assert said == [
        "sweep digits finished: all repeats are trained",
        "best: lr=0.1 (trial 0, run r0)",
        "the best 2 have lr 0.03 to 0.1",
        "its seeds do not tell it from trial 1: a tie",
        "train it on with: backprop resume r0",
        "compare the best with: backprop compare r0 r1",
    ]
    found = seen(*SEARCH[:-1], *REPEATS, END)
    assert "MEAN ± SD (N)" in summary(found.standing, found.budget, found.state, Screen())


def test_the_document_is_short_and_complete():
    """At most 1.5 kB."""
    document = sweep_document(seen(*SEARCH[:-1], *REPEATS, END))
    assert len(json.dumps(document, indent=2)) < 1500
    assert (document["state"], document["trials"], document["repeats"], document["rungs"]) == (
        "finished",
        3,
        4,
        {"0": 3},
    )
    assert (document["best"]["n"], document["best"]["ties"]) == (2, [1])
    assert document["eta_s"] is None
    assert (document["spread"], document["importance"]) == ({"lr": ["0.03", "0.1"]}, None)  # too few, and one alone
    assert sweep_document(seen())["best"] is None


def test_the_time_that_is_left_ends_with_until():
    """A budget that is larger does not prolong the sweep."""
    budget = Budget(total_s=7_200)
    assert eta_s(fold(SPEC, SEARCH), budget) == 3_600  # two at a time
    until = datetime.now(timezone.utc) + timedelta(minutes=5)
    assert 290 < eta_s(fold(msgspec.structs.replace(SPEC, until=until), SEARCH), budget) <= 300
    assert eta_s(fold(msgspec.structs.replace(SPEC, until=NOW), SEARCH), budget) == 0


def test_many_parameters_leave_the_document_short():
    """Five of them are named, the most important ones of those that mattered."""
    names = [f"parameter_{number}" for number in range(8)]
    spec = msgspec.structs.replace(SPEC, parameters=tuple(Parameter(name=name, low=0.0, high=1.0) for name in names))
    found = [
        entry
        for trial in range(20)
        for entry in (
            asked(trial, params={name: f"{(7 * trial + place) % 20 / 20}" for place, name in enumerate(names)}),
            ended(trial, value=trial / 20),
        )
    ]
    standing = fold(spec, [*found, END])
    there = Seen(standing, budget_of(standing, {}, SPEC.budget_s), is_driven=False)
    document = sweep_document(there)
    assert (len(document["importance"]), len(document["spread"])) == (5, 5)
    assert len(json.dumps(document)) < 1500
    [line] = [line for line in conclusion(there) if line.startswith("what mattered: ")]
    assert all(name in line for name in names)


def test_a_script_that_was_changed_meanwhile_is_told_of():
    """What was trained before and after is not the same."""
    for script, is_changed in (("a", False), ("b", True)):
        found = seen(asked(), ended(script_sha256="a"), asked(1), ended(1, script_sha256=script), END)
        assert any("script was changed" in line for line in conclusion(found)) == is_changed
        assert sweep_document(found)["script_changed"] == is_changed


@pytest.mark.parametrize(
    ("entries", "is_driven", "state"),
    [
        (SEARCH, True, "running"),
        (SEARCH, False, "interrupted"),
        ([*SEARCH, END], False, "finished"),
        ([*SEARCH, Finished(at=NOW, reason="x", exit_code=65)], False, "failed"),
    ],
)
def test_a_sweep_has_a_state(entries: list[SweepEntry], is_driven: bool, state: str):
    """Whether somebody drives it, and how it ended."""
    assert seen(*entries, is_driven=is_driven).state == state


def test_a_pipe_gets_events_and_no_table(capfd: pytest.CaptureFixture[str]):
    """A line each."""
    display = SweepDisplay()
    display.looked(fold(SPEC, SEARCH), Budget(total_s=1.0))
    display.event("trial 1: lr=3")
    display.close()
    assert capfd.readouterr() == ("", "backprop: trial 1: lr=3\n")


def test_the_table_is_as_large_as_the_terminal_of_stderr(monkeypatch: pytest.MonkeyPatch):
    """Stdout is a pipe here; what scrolled away or wrapped could not be erased."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 6, 40, 0, 0))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.delenv("LINES", raising=False)
    with os.fdopen(slave, "w") as terminal, os.fdopen(master, "rb", buffering=0) as reader:
        monkeypatch.setattr(sys, "stderr", terminal)
        display = SweepDisplay()
        found = seen(*SEARCH)
        display.looked(found.standing, found.budget)
        display.close()
        shown = b""
        while not shown.endswith(b"\x1b[J"):  # it comes in pieces
            shown += reader.read(10_000)
    lines = shown.decode().split("\r\n")
    assert [line.split()[0] for line in lines[:-1]] == ["sweep", "rung", "budget", "trial", "TRIAL"]
    assert all(len(line) < 40 for line in lines[:-1])
    assert lines[-1] == f"\r\x1b[{len(lines) - 1}A\x1b[J"
