"""How documents are printed, and which metrics are offered in a message."""

import io
import json
from collections.abc import Sequence

import click
import pytest

from backprop.cli import context
from backprop.cli.context import asks_for_json, json_option, metrics_message, print_json
from backprop.errors import UsageError
from backprop.records import MetricSummary, Run, RunView, Status
from tests.records import SPEC


def printed(capsys: pytest.CaptureFixture[str], document: object, *words: str, **how: object) -> str:
    @click.command()
    @json_option
    def command(*, as_json: bool) -> None:
        assert as_json
        print_json(document, **how)

    command.main(list(words), standalone_mode=False)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "is_json"),
    [
        (["run", "--json"], True),
        (["list", "--jsonl"], True),
        (["list", "--fields=id"], True),
        (["run", "t.py", "--", "--json"], False),
        (["run", "--name", "json"], False),
    ],
)
def test_whether_json_is_asked_for(words: Sequence[str], is_json: bool):
    """Also of a command line that is wrong: its error is JSON then. The script's own arguments do not count."""
    assert asks_for_json(words) is is_json


def test_a_line_for_each_document(capsys: pytest.CaptureFixture[str]):
    """An array that can be read by lines, and by a JSON parser; an empty one, too."""
    found = printed(capsys, [{"a": 1}, {"a": 2}], "--json")
    assert json.loads(found) == [{"a": 1}, {"a": 2}]
    assert found.splitlines()[1:-1] == ['{"a": 1},', '{"a": 2}']
    assert json.loads(printed(capsys, [], "--json")) == []
    assert printed(capsys, [{"a": 1}, {"a": 2}], "--jsonl") == '{"a": 1}\n{"a": 2}\n'
    assert printed(capsys, [], "--jsonl") == ""


def test_fields_that_are_asked_for_win_over_the_short_form(capsys: pytest.CaptureFixture[str]):
    document = {"id": "r", "name": "n", "status": "completed"}
    assert json.loads(printed(capsys, document, "--json", short=("id",))) == {"id": "r"}
    assert json.loads(printed(capsys, document, "--fields=name", short=("id",))) == {"name": "n"}


@pytest.mark.parametrize("has_result", [True, False])
def test_a_misspelt_field(capsys: pytest.CaptureFixture[str], has_result: bool):
    """It is an error, unless the exit code has something else to say."""
    document = {"id": "r", "status": "completed"}
    if has_result:
        assert printed(capsys, document, "--fields=idd", has_result=True)
        return
    with pytest.raises(UsageError, match="idd"):
        printed(capsys, document, "--fields=idd")


def test_a_stdout_without_utf8_gets_ascii(monkeypatch: pytest.MonkeyPatch):
    """It is the same document, and no traceback."""
    file = io.TextIOWrapper(io.BytesIO(), encoding="ascii", write_through=True)
    monkeypatch.setattr("sys.stdout", file)
    print_json({"name": "é😀"})
    assert json.loads(file.buffer.getvalue()) == {"name": "é😀"}


def test_the_first_metrics_are_named():
    """Those that only say how far training was are none."""
    summary = MetricSummary(count=1, last=1.0, last_step=1)
    names = ["epoch", *(f"m{number:02}" for number in range(14))]
    run = Run(spec=SPEC, status=Status.COMPLETED)
    message = metrics_message([RunView(run=run, run_dir="/r", summaries=dict.fromkeys(names, summary))])
    assert message.startswith("Available: m")
    assert message.endswith(" and 2 more.")
    assert "epoch" not in message
    assert "JSON lines" in metrics_message([])


def test_a_message_is_one_line(capsys: pytest.CaptureFixture[str]):
    """A name in it can neither command the terminal nor begin a line of its own."""
    context.say("run a\nb\x1b[2J")
    (line,) = capsys.readouterr().err.splitlines()
    assert "\x1b" not in line
