"""python -m bench [--quick] [--only NAME]: measure everything and print it as a Markdown table."""

import argparse
import os
import platform
import signal
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path

import psutil

from backprop import __version__
from bench.cluster import cluster
from bench.pages import pages
from bench.rows import ROWS, Row
from bench.watch import watch
from bench.workbench import FULL, QUICK

_ROWS = {**ROWS, "pages": pages, "watch": watch, "cluster": cluster}
_REACHED = {True: "yes", False: "**no**", None: "too noisy to tell"}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="small sizes: shows that the benchmarks work, no more")
    parser.add_argument("--only", choices=_ROWS, action="append", help="only this; may be given again")
    arguments = parser.parse_args()
    sizes = QUICK if arguments.quick else FULL
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.default_int_handler)  # nothing is left behind, in the background either
    print(f"{_machine()}\n", flush=True)
    print("| what | measured: median (10th to 90th percentile) | target | reached | how it was measured |")
    print("| --- | --- | --- | --- | --- |", flush=True)
    peers: list[str] = []
    for name, measure in _ROWS.items():
        if arguments.only is None or name in arguments.only:
            began = time.monotonic()
            for row in measure(sizes):
                peers += [row.peer] if row.peer is not None else []
                print(_line(row), flush=True)
            if not sys.stdout.isatty():
                print(f"{name}: {time.monotonic() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"\nPeers measured: {', '.join(peers) or 'none'}.")


def _line(row: Row) -> str:
    reached = "-" if row.target == "-" else _REACHED[row.is_reached]
    return f"| {row.what} | {row.measured} | {row.target} | {reached} | {row.how} |"


def _machine() -> str:
    """What this was measured on, and when."""
    parts = [
        f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        f"Backprop {__version__}",
        f"{_cpu_model()}, {os.cpu_count()} cores (load {os.getloadavg()[0]:.1f} before the start)",
        f"{psutil.virtual_memory().total / 1e9:.0f} GB RAM",
        f"{platform.system()} {platform.release()}",
        f"{platform.python_implementation()} {platform.python_version()}",
        f"home on {_filesystem(Path(tempfile.gettempdir()).resolve())}",
    ]
    return " · ".join(parts)


def _cpu_model() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _filesystem(folder: Path) -> str:
    """The type of the file system that a folder lies on."""
    mounts = {Path(mount.mountpoint): mount.fstype for mount in psutil.disk_partitions(all=True)}
    return next((mounts[parent] for parent in (folder, *folder.parents) if parent in mounts), "an unknown file system")


if __name__ == "__main__":
    main()
