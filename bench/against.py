"""python -m bench.against OLD_CLONE: what commands take now and took at an older commit, one after the other by turns.

OLD_CLONE: the clone of that commit, with its own `.venv` (`make .venv/.installed`). Prints a Markdown table.
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from bench import archive
from bench.measure import Cost, Spread, cost, interleaved, spread
from bench.workbench import BACKPROP, FULL, Workbench

_PAIRS = 40
_TAKEOVERS = 2
_OLD_RUNS = 10_000


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.against", description=__doc__)
    parser.add_argument("clone", type=Path)
    old = str(parser.parse_args().clone.resolve() / ".venv" / "bin" / "backprop")
    with tempfile.TemporaryDirectory(prefix="backprop-bench-") as folder:
        places = []
        for name in ("old", "new"):
            Path(folder, name).mkdir()
            places.append(Workbench(Path(folder, name).resolve(), FULL))
        print(
            "| command | wall time before | now | CPU time before | now |\n| --- | --- | --- | --- | --- |", flush=True
        )
        bare = [sys.executable, str(places[1].folder / "nothing.py")]
        _print_row("`python nothing.py`, for comparison", _costs(places, bare, bare, _PAIRS))
        for words in (["run", "nothing.py"], ["list"], ["--version"]):
            costs = _costs(places, [old, *words], [BACKPROP, *words], _PAIRS)
            _print_row(f"`backprop {' '.join(words)}`", costs)
        takeover = f"`backprop list` in a home with {_OLD_RUNS:,} runs of an older tool, the first time"
        _print_row(
            takeover,
            _costs(
                places,
                [old, "list"],
                [BACKPROP, "list"],
                _TAKEOVERS,
                partial(archive.leave_old_runs, run_count=_OLD_RUNS),
            ),
        )


def _costs(
    places: Sequence[Workbench],
    old: Sequence[str],
    new: Sequence[str],
    pairs: int,
    prepare: Callable[[Path], None] | None = None,
) -> list[list[Cost]]:
    """Of the old and the new command. prepare: called with a new home before each call."""
    found: list[list[Cost]] = [[], []]

    def arm(number: int, command: Sequence[str]) -> Callable[[], float]:
        place = places[number]

        def once() -> float:
            environment = dict(place.environment)
            if prepare is not None:
                home = place.folder.parent / f"home-{len(found[number])}"
                prepare(home)
                environment["BACKPROP_HOME"] = str(home)
            found[number].append(cost(command, environment, place.folder))
            return found[number][-1].wall_s

        return once

    arms = [arm(0, old), arm(1, new)]
    if prepare is None:
        interleaved(arms, 2)  # warm: byte code, page cache, the home's index
        found = [[], []]
    interleaved(arms, pairs)
    return found


def _print_row(what: str, costs: Sequence[Sequence[Cost]]) -> None:
    def text(values: Sequence[float]) -> str:
        one: Spread = spread(list(values))
        return one.text("ms", 1000)

    walls, cpus = [[one.wall_s for one in arm] for arm in costs], [[one.cpu_s for one in arm] for arm in costs]
    print(f"| {what} | {' | '.join(map(text, walls))} | {' | '.join(map(text, cpus))} |", flush=True)


if __name__ == "__main__":
    main()
