"""The rows of the cluster: what it costs a machine to learn of runs that others made, and to look at many that go on.

The last row is of runs that an older tool left, which are imported and learnt of once.

A simulation: directories as jobs leave them, and a `squeue` that knows them all and answers at once.
"""

import os
from pathlib import Path

import msgspec

from backprop.engines.slurm.engine import job_name
from backprop.records import RunSpec, SlurmRequest
from backprop.store.home import Home
from backprop.store.journal.entries import Entry, Submitted
from backprop.store.rundir import RunDir
from bench import archive
from bench.measure import Cost, cost
from bench.rows import Row
from bench.workbench import BACKPROP, Sizes, workbench

_RUNS_SHARE = 10  # a tenth of the archive: a machine that sees a home for the first time
_LIVE_SHARE = 10  # a tenth of those goes on


def cluster(sizes: Sizes) -> list[Row]:
    """An index that catches up with run directories it has never seen, and then looks again and again."""
    run_count = sizes.archive_runs // _RUNS_SHARE
    live_count = run_count // _LIVE_SHARE
    with workbench(sizes) as place:
        files = _fill(place.home, run_count, live_count)
        environment = dict(place.environment)
        environment["PATH"] = f"{_squeue(place.folder, run_count, live_count)}:{environment['PATH']}"

        def look() -> Cost:
            return cost([BACKPROP, "list"], environment, place.folder)

        first, second = look(), look()
        _squeue(place.folder, run_count, 0)
        filing, third = look(), look()
    directories = f"{run_count:,} run directories of {files} files each"
    return [
        Row(
            what=f"index catching up with {run_count:,} run directories of other machines",
            measured=_told(first),
            how=f"one `list` of a machine without an index, {directories}, {live_count:,} of them going on",
        ),
        Row(
            what=f"… the next `list`, while {live_count:,} runs go on",
            measured=_told(second),
            how=f"once, right after it; `squeue` is a stand-in that lists {live_count:,} jobs at once",
        ),
        Row(
            what=f"… when {live_count:,} of them were lost at once",
            measured=_told(filing),
            how="one `list`, which files them as interrupted",
        ),
        Row(what="… and when nothing goes on any more", measured=_told(third), how="once"),
        _import_row(sizes, run_count),
    ]


def _import_row(sizes: Sizes, run_count: int) -> Row:
    with workbench(sizes) as place:
        archive.leave_old_runs(place.home.path, run_count)
        spent = cost([BACKPROP, "list"], place.environment, place.folder)
    return Row(
        what=f"`experiments.json` of an older tool with {run_count:,} runs taken over",
        measured=_told(spent),
        target="≤ 5 s",
        is_reached=spent.wall_s <= 5,
        how="the first `list` in that home, which imports them and fills the index",
    )


def _told(spent: Cost) -> str:
    return f"{spent.wall_s:.2f} s, {spent.cpu_s:.2f} s of CPU"


def _fill(home: Home, run_count: int, live_count: int) -> int:
    """Runs as their jobs leave them, the last ones without an end; how many files each of them has."""
    home.make()
    for number in range(run_count):
        rundir = home.rundir(f"r{number:07}")
        spec = msgspec.structs.replace(archive.spec_of(rundir.run_id, number), slurm=SlurmRequest())
        entries = _story(spec, number, is_over=number < run_count - live_count)
        archive.write(rundir, spec, entries)
        os.utime(rundir.journal_path, (0, 0))  # nobody has shown lately that it lives
        _add_files_of_a_job(rundir, number)
    return sum(1 for _ in rundir.path.iterdir())


def _story(spec: RunSpec, number: int, *, is_over: bool) -> list[Entry]:
    submitted = Submitted(at=spec.created_at, session=1, job=str(number), host=spec.host, limits=spec.limits)
    begun, *others = archive.story(spec, number)
    # another machine, as its boot id says: nothing of it is looked for among our processes
    told = [submitted, msgspec.structs.replace(begun, job=str(number), boot_id="another"), *others]
    return told if is_over else told[:-1]


def _add_files_of_a_job(rundir: RunDir, number: int) -> None:
    paths = (rundir.err_path(1), rundir.control_path, rundir.job_script_path, rundir.job_log_path(str(number)))
    for path in paths:
        path.write_bytes(b"what a job leaves\n" * 10)


def _squeue(folder: Path, run_count: int, live_count: int) -> Path:
    """Make the stand-in: a folder for PATH."""
    place = folder / "slurm"
    place.mkdir(exist_ok=True)
    live = (archive.spec_of(f"r{number:07}") for number in range(run_count - live_count, run_count))
    lines = [f"{int(spec.id[1:])}|RUNNING|node1|None|{job_name(spec)}\n" for spec in live]
    place.joinpath("jobs").write_text("".join(lines))
    program = place / "squeue"
    program.write_text(f"#!/bin/sh\nexec cat '{place}/jobs'\n")
    program.chmod(0o700)
    return place
