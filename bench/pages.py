"""The rows of the page: what its server answers when there is a lot to look at, and what it costs while it watches."""

import http.client
import json
import socket
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from urllib.parse import urlencode, urlsplit

import psutil

from backprop.views import web
from bench import archive
from bench.measure import Spread, spread
from bench.rows import Row
from bench.usage import Party, usage
from bench.workbench import BACKPROP, PATIENCE_S, Sizes, Workbench, wait_for, workbench

_MB = 1_000_000
_TABLE = "/api/runs?limit=100"
_PAGE_FILES = [
    f"/static/{path.name}"
    for path in sorted(Path(web.__file__).with_name("static").iterdir())
    if path.suffix in {".css", ".js", ".svg"}
]


def pages(sizes: Sizes) -> list[Row]:
    """What the page's server answers, and what it costs."""
    with workbench(sizes) as place:
        archive.fill(place.home, sizes.archive_runs)
        busy = next(place.home.run_ids())
        archive.add_points(place.home, busy, sizes.archive_points)
        with _server(place) as server:
            rows = _answers(server, sizes, busy)
    with workbench(sizes) as place, _server(place) as server:
        return [*rows, *_watching(place, server)]


@dataclass(frozen=True)
class _Server:
    """`backprop ui`, and how to ask it."""

    process: psutil.Process
    port: int
    token: str

    def ask(self, *paths: str) -> float:
        """How long it takes until the last of these is answered, one after the other, in seconds."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE_S)
        began = perf_counter()
        for path in paths:
            connection.request("GET", path, headers={"X-Backprop-Token": self.token})
            answer = connection.getresponse()
            answer.read()
            if answer.status != 200:
                raise RuntimeError(f"GET {path}: {answer.status}")
        taken_s = perf_counter() - began
        connection.close()
        return taken_s

    @contextmanager
    def listening(self, **what: str) -> Iterator[None]:
        """A page that is open and takes what it is sent."""
        query = urlencode({"token": self.token, **what})
        request = f"GET /api/events?{query} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        with socket.create_connection(("127.0.0.1", self.port)) as connection:
            connection.sendall(request.encode())
            reader = threading.Thread(target=_take_all, args=(connection,))
            reader.start()
            try:
                yield
            finally:
                connection.shutdown(socket.SHUT_RDWR)
                reader.join()


def _take_all(connection: socket.socket) -> None:
    while connection.recv(1 << 16):
        pass


@contextmanager
def _server(place: Workbench) -> Iterator[_Server]:
    process = subprocess.Popen(
        [BACKPROP, "ui", "--no-open", "--port", "0"],
        cwd=place.folder,
        env=place.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None
        url = urlsplit(process.stdout.readline().strip())
        port, token = url.port or 0, url.query.removeprefix("token=")
        yield _Server(psutil.Process(process.pid), port, token)
    finally:
        process.terminate()
        process.wait()


def _answers(server: _Server, sizes: Sizes, busy: str) -> list[Row]:
    runs, points = f"{sizes.archive_runs:,} runs", f"{sizes.archive_points / 1e6:g} million metric points"
    how = f"asked over loopback until the last byte is there, {sizes.archive_calls} times"
    curve = f"/api/curves?run={busy}&metric=loss&points=1500"

    def row(what: str, *paths: str, target_s: float | None = None) -> Row:
        server.ask(*paths)  # warms the page cache
        taken = spread([server.ask(*paths) for _ in range(sizes.archive_calls)])
        return _row(what, taken, how, target_s)

    opened = ("/", *_PAGE_FILES, "/api/machine")
    chosen = "".join(f"&column={key}" for key in ("param.lr", "param.layers", "best.loss", "metric.lr"))
    groups = "/api/groups?by=param.lr&metric=loss"
    values = "/api/values?column=param.lr&column=best.loss&column=param.layers&of=best.loss"
    rows = [
        row(f"the page opened with {runs}: itself, the machine, the first 100 rows", *opened, _TABLE, target_s=0.5),
        row("… with columns of parameters and metrics that were chosen", *opened, _TABLE + chosen, target_s=0.5),
        row("… with a row for each value of a parameter, too", *opened, _TABLE, groups, target_s=0.5),
        row("… a scatter plot of the newest 10,000 of them", values, target_s=1.0),
        row("… its table alone", _TABLE, target_s=0.25),
        row("… sorted by loss", f"{_TABLE}&sort=loss", target_s=0.25),
        row("… a word searched for", f"{_TABLE}&search=trial-77"),
        row("… filtered by a parameter and a metric", f"{_TABLE}&filter=lr%3E0.01+loss%3C0.5"),
        row(f"the page's first curve of a run with {points}", curve, target_s=0.3),
    ]
    rss_bytes = server.process.memory_info().rss
    return [
        *rows,
        Row(
            what="memory of the page's server after that",
            measured=f"RSS {rss_bytes / _MB:.0f} MB",
            how="resident when all of the above was answered",
            target="≤ 80 MB",
            is_reached=rss_bytes <= 80 * _MB,
        ),
    ]


def _row(what: str, taken: Spread, how: str, target_s: float | None) -> Row:
    return Row(
        what=what,
        measured=taken.text("ms", 1000),
        how=how,
        target="-" if target_s is None else f"≤ {target_s * 1000:g} ms",
        is_reached=None if target_s is None else taken.median <= target_s,
    )


def _watching(place: Workbench, server: _Server) -> list[Row]:
    count, lines_a_s = place.sizes.watched_runs, 10
    words = ("--max-parallel", str(count), "paced.py", "--", str(1 / lines_a_s), "600")
    run_ids = [place.run_detached(*words) for _ in range(count)]
    for run_id in run_ids:
        wait_for(lambda run_id=run_id: place.home.rundir(run_id).out_path(1).stat().st_size or None)  # type: ignore[misc]
    watched = [{"run": run_id, "metric": "loss", "axis": "step"} for run_id in run_ids[:5]]
    what = {
        "runs": ",".join(run_ids),
        "curves": json.dumps(watched),
        "details": run_ids[0],
        "log": f"{run_ids[0]}:out",
        "machine": "1",
    }
    party = {"server": Party([server.process], starts_tools=True)}
    with server.listening(**what):
        server.ask(_TABLE)
        used = usage(party, place.sizes.supervisor_s)["server"]
    idle = usage(party, place.sizes.supervisor_s)["server"]
    return [
        Row(
            what=f"the page's server with {count} runs that print {lines_a_s} lines/s each, and one page open",
            measured=used.text(),
            how=f"CPU time and highest RSS over {place.sizes.supervisor_s:g} s; the page shows all rows, five curves, "
            "a run with its log, and the machine",
        ),
        Row(
            what="… and no page open",
            measured=idle.text(),
            how="the same, the page closed",
        ),
    ]
