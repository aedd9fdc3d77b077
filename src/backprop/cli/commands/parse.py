"""`backprop parse`: the metrics that would be found in a log."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import msgspec

from backprop.cli import completion
from backprop.cli.context import json_option, print_json, say, settings_here
from backprop.errors import ExitCode, UsageError
from backprop.store.home import Home
from backprop.store.output import protocol
from backprop.store.output.printed import Reader
from backprop.store.output.tail import Tail
from backprop.views.terminal import formatting

_POSITION = ("step", "total_steps", "epoch", "epochs", "epoch_step", "epoch_steps")
_REPORTED, _PRINTED = "reported", "printed"


@click.command()
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False), shell_complete=completion.files)
@json_option
def parse(*, file: Path, as_json: bool) -> None:
    """Show the metrics that would be parsed from FILE, a script's output, by line. Exits with 1 if there are none."""
    reader = Reader(settings_here(Home.from_environment()).metrics_patterns)
    try:
        understood = list(_understood(file, reader))
    except OSError as error:
        raise UsageError(f"{file} cannot be read: {error.strerror}.") from error
    if as_json:
        print_json(protocol.json_safe(understood))
    else:
        for line in understood:
            print(_shown(line))
        if sys.stderr.isatty():
            _summarize(understood)
    if not understood:
        raise click.exceptions.Exit(ExitCode.PROBLEM)


def _understood(file: Path, reader: Reader) -> Iterator[dict[str, Any]]:
    """In the order of the lines; of each its number, the first is 1."""
    tail, number = Tail(file, 0), 0
    while (stretch := tail.read(is_over=True)) is not None:
        tail.move_to(stretch.end)
        found = {stretch.data.count(b"\n", 0, end - 1): printed for end, printed in reader.read(stretch.data)}
        for index, text in enumerate(stretch.data.split(b"\n")):
            event, printed = protocol.parse(text), found.get(index)
            if isinstance(event, protocol.Metrics):
                yield {"line": number + index + 1, "by": _REPORTED, "step": event.step, "values": event.values}
            elif event is None and printed is not None:
                yield {"line": number + index + 1, "by": _PRINTED, **msgspec.structs.asdict(printed)}
        number += stretch.data.count(b"\n") or 1


def _shown(line: dict[str, Any]) -> str:
    parts = [f"{line['line']}:"]
    parts += [
        f"{key} {line[key]}"
        for key in ("step", "total_steps", "epoch", "epochs", "epoch_step", "epoch_steps")
        if line.get(key) is not None
    ]
    parts += [f"{formatting.name(name)}={value:g}" for name, value in line["values"].items()]
    return "  ".join(parts)


def _summarize(understood: list[dict[str, Any]]) -> None:
    reported = sum(line["by"] == _REPORTED for line in understood)
    say(f"{reported} lines with reported metrics (JSON), {len(understood) - reported} with printed metrics")
    if 0 < reported < len(understood):
        say("a run uses printed metrics only until the first reported ones")
