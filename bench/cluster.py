"""The rows of the cluster: what it costs a machine to learn of runs that others made."""

from bench import archive
from bench.measure import cost
from bench.rows import Row
from bench.workbench import BACKPROP, Sizes, workbench

_RUNS_SHARE = 10  # a tenth of the archive: a machine that sees a home for the first time


def cluster(sizes: Sizes) -> list[Row]:
    """An index that catches up with run directories it has never seen."""
    run_count = sizes.archive_runs // _RUNS_SHARE
    with workbench(sizes) as place:
        archive.fill(place.home, run_count)
        # another machine of the same home: it has no index yet
        environment = {**place.environment, "BACKPROP_MACHINE": "another"}
        first = cost([BACKPROP, "list"], environment, place.folder)
        second = cost([BACKPROP, "list"], environment, place.folder)
    how = f"one `list` of a machine without an index, {run_count:,} run directories of {archive.FILES_A_RUN} files each"
    return [
        Row(
            what=f"index catching up with {run_count:,} run directories of other machines",
            measured=f"{first.wall_s:.1f} s, {first.cpu_s:.1f} s of CPU",
            how=how,
        ),
        Row(what="… the next `list`", measured=f"{second.wall_s * 1000:.0f} ms", how="once, right after it"),
    ]
