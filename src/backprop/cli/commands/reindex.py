"""`backprop reindex`: rebuild the index from the run directories."""

import shutil
import time

import click

from backprop.cli.context import open_caught_up, say
from backprop.store.home import Home

_GARBAGE_AFTER_S = 3600.0  # folders left by a process that was killed while it created or removed a run


@click.command()
def reindex() -> None:
    """Rebuild index.db and experiments.json from the run directories."""
    from backprop.lifecycle import indexing
    from backprop.store import experiments_json

    home = Home.from_environment()
    with open_caught_up(home) as index, home.changing():
        run_ids = sorted(home.run_ids())
        index.set_snapshot_due()  # if we are killed before it is rebuilt, the next reader does it
        for run_id in run_ids:
            index.remove(run_id)
            indexing.refresh(home, index, home.rundir(run_id), say, publish=False)
        experiments_json.rebuild(home, index, say)
        for folder in home.runs_path.glob(".*-*"):
            if time.time() - folder.stat().st_mtime > _GARBAGE_AFTER_S:
                shutil.rmtree(folder, ignore_errors=True)
        say(f"{index.count()} runs are in the index")
