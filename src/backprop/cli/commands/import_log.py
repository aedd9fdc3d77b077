"""`backprop import`: a run made of a log that was written elsewhere."""

from collections.abc import Mapping
from pathlib import Path

import click

from backprop import config
from backprop.cli import completion
from backprop.cli.context import check_text, json_option, open_caught_up, print_json, say, settings_here
from backprop.errors import UsageError
from backprop.store.home import Home
from backprop.store.rundir import new_run_id
from backprop.views.terminal import formatting

_SHOWN = 8  # metrics in the message; --json has all


@click.command("import")
@click.argument("log", type=click.Path(path_type=Path, exists=True, dir_okay=False), shell_complete=completion.files)
@click.option("-n", "--name", help="The run's name.")
@json_option
def import_log(*, log: Path, name: str | None, as_json: bool) -> None:
    """Make a run from LOG, the output of a training that Backprop did not run.

    Its metrics are those that 'backprop parse' shows. LOG is copied into the record.
    """
    from backprop.store import log_import

    if not log.is_file():  # a pipe would be waited for, and /dev/zero has no end
        raise UsageError(f"{log} cannot be imported: it is not a regular file.")
    check_text(str(log.absolute()), "the log's name")
    home = Home.from_environment()
    if name is not None:
        config.check_name(name)
    patterns = settings_here(home).metrics_patterns
    with open_caught_up(home):  # it makes the home, and says what is wrong with it
        run_id = new_run_id()
    try:
        points = log_import.make_run(home, run_id, log.absolute(), name, patterns)
    except OSError as error:
        raise UsageError(f"{log} cannot be imported: {error.strerror or error}.") from error
    with open_caught_up(home):  # into the index, and into experiments.json
        pass
    if as_json:
        print_json({"id": run_id, "points": points})
    else:
        say(_message(run_id, log, points))


def _message(run_id: str, log: Path, points: Mapping[str, int]) -> str:
    by_count = sorted(points, key=lambda metric: (-points[metric], metric))
    shown = ", ".join(f"{formatting.name(metric)} ({points[metric]:,})" for metric in by_count[:_SHOWN])
    more = f" and {len(points) - _SHOWN} more" if len(points) > _SHOWN else ""
    return f"imported {log} as run {run_id}: {sum(points.values()):,} points of {len(points)} metrics: {shown}{more}"
