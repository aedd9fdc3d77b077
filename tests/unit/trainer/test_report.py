"""What is recorded of parameters that a parser has parsed."""

from collections.abc import Callable
from typing import Any

import pytest

from backprop.trainer.parameters import report


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Those that this process has sent."""
    sent: list[dict[str, Any]] = []

    class File:
        def send(self, event: dict[str, Any]) -> None:
            sent.append(event)

    for name, value in (("_reported", {}), ("_waiting", []), ("_events", File())):
        monkeypatch.setattr(report, name, value)
    monkeypatch.setattr(report, "is_tool", lambda: False)
    monkeypatch.setattr(report, "rank", lambda: 0)
    monkeypatch.setattr(report, "is_below_reporter", lambda: False)
    monkeypatch.setenv("BACKPROP_EVENTS", "/nowhere")
    monkeypatch.setenv(report.REPORTER, "")  # set by what is tested
    return sent


def test_defaults_are_marked(events: list[dict[str, Any]]):
    """By their value: argparse converts a default that is text."""
    report.parsed({"lr": 0.1, "epochs": 3}, {"lr": 0.1, "epochs": 5})
    report.parsed({"batch": 8}, {"batch": "8"})
    assert [(event["params"], event["defaults"]) for event in events] == [
        ({"epochs": 3, "lr": 0.1}, ["lr"]),
        ({"batch": 8}, ["batch"]),
    ]


def test_only_news_are_sent(events: list[dict[str, Any]]):
    """A script may parse its arguments again and again."""
    for lr in (0.1, 0.1, 0.2):
        report.parsed({"lr": lr}, {})
    assert [event["params"] for event in events] == [{"lr": 0.1}, {"lr": 0.2}]


def test_a_secret_of_the_environment_is_hidden_under_any_name(
    events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    """It may be the default of an option; a short one may be a word."""
    monkeypatch.setenv("MY_API_KEY", "s3cr3t-s3cr3t")
    monkeypatch.setenv("OTHER_API_KEY", "adam")
    report.parsed({"login": "me:s3cr3t-s3cr3t", "all": ["s3cr3t-s3cr3t"], "optimizer": "adam"}, {})
    assert "s3cr3t" not in str(events)
    assert events[0]["params"]["optimizer"] == "adam"


@pytest.mark.parametrize(
    "change",
    [
        lambda patch: patch.setattr(report, "rank", lambda: 1),
        lambda patch: patch.setattr(report, "is_below_reporter", lambda: True),
        lambda patch: patch.delenv("BACKPROP_EVENTS"),
    ],
    ids=["another rank", "below one that reported", "outside of a run"],
)
def test_other_processes_say_nothing(
    events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch, change: Callable[[pytest.MonkeyPatch], None]
):
    change(monkeypatch)
    report.parsed({"lr": 0.1}, {})
    assert events == []


def test_what_a_launcher_has_parsed_waits_until_it_trains(
    events: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
):
    """Options of `torchrun` are no parameters of the run; those of an installed training program are."""
    monkeypatch.setattr(report, "is_tool", lambda: True)
    report.parsed({"lr": 0.1}, {})
    assert events == []
    report.process_trains()
    assert [event["params"] for event in events] == [{"lr": 0.1}]


def test_of_too_many_those_that_were_given_are_recorded(
    events: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
):
    """In lines that are short enough to be understood; the user is told of the others."""
    defaults = {f"option{number}": 0 for number in range(report.MAX_PARAMS + 1)}
    report.parsed({**defaults, "z": 0.1}, defaults)
    params = {name for event in events for name in event["params"]}
    assert (len(params), "z" in params) == (report.MAX_PARAMS, True)
    assert max(len(event["params"]) for event in events) == report._IN_A_LINE
    assert "2 of 1,002 parameters are not recorded" in capsys.readouterr().err
