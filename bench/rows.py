"""The rows of the table: one function for each promise, which measures it and what stands beside it."""

import json
import math
import os
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import psutil

from backprop.store.index import Index
from backprop.store.journal.entries import TrainerLaunched
from backprop.store.journal.file import Journal
from backprop.store.output.outlook import Outlook
from backprop.store.output.printed_metrics import PrintedMetrics
from bench import archive
from bench import trainer as trainers
from bench.cards import Cards, find_cards, polling_loop
from bench.measure import Cost, Spread, cost, interleaved, one_core, spread
from bench.usage import Party, Usage, usage
from bench.workbench import BACKPROP, PATIENCE_S, ROOT, Sizes, Workbench, wait_for, workbench

_MB = 1_000_000
_STEP_S = 0.01  # 100 lines a second
_TRIAL_LOOPS = 100_000
_TIMEBOX_S, _GRACE_S = 1.2, 2.0
_LATE = 1000  # sessions
_TREE_SIZE = 10  # processes that stubborn.py keeps alive


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    what: str
    measured: str
    how: str
    target: str = "-"
    is_reached: bool | None = None  # None: no target, or too much noise to tell
    peer: str | None = None  # somebody else's program that was measured


# -- start


def start(sizes: Sizes) -> list[Row]:
    """What `backprop run` adds to a script that does nothing."""
    with workbench(sizes) as place:
        plain = _added(place)
        rows = [
            Row(
                what="wall time `backprop run` adds to a script that does nothing",
                measured=plain.wall_s.text("ms", 1000),
                target="≤ 150 ms",
                is_reached=plain.wall_s.median <= 0.150,
                how=f"{plain.wall_s.count} pairs with bare `python nothing.py`, difference of each pair",
            ),
            Row(
                what="… CPU time it adds",
                measured=plain.cpu_s.text("ms", 1000),
                how="the same pairs: user + system of the command and all it waited for",
            ),
        ]
        rows.append(_late_resume_row(place))
        if shutil.which("git"):
            _make_work_tree(place.folder)
            tracked = _added(place)
            rows.append(
                Row(
                    what="… wall time it adds in a git work tree",
                    measured=tracked.wall_s.text("ms", 1000),
                    how="as above, with the script committed in a small repository",
                )
            )
    return rows


@dataclass(frozen=True)
class _Added:
    wall_s: Spread
    cpu_s: Spread


def _added(place: Workbench) -> _Added:
    script = str(place.folder / "nothing.py")
    bare: list[Cost] = []
    ours: list[Cost] = []

    def arm(costs: list[Cost], *argv: str) -> Callable[[], float]:
        def once() -> float:
            costs.append(cost(argv, place.environment, place.folder))
            return costs[-1].wall_s

        return once

    arms = [arm(bare, sys.executable, script), arm(ours, BACKPROP, "run", script)]
    interleaved(arms, 2)  # warm: byte code, page cache, the home's index
    bare.clear()
    ours.clear()
    interleaved(arms, place.sizes.start_pairs)
    return _Added(
        wall_s=spread([b.wall_s - a.wall_s for a, b in zip(bare, ours, strict=True)]),
        cpu_s=spread([b.cpu_s - a.cpu_s for a, b in zip(bare, ours, strict=True)]),
    )


def _late_resume_row(place: Workbench) -> Row:
    """What a resume costs after a thousand sessions, beside one after the first."""
    for run_id in ("young", "old"):
        place.call("run", "--run-id", run_id, "nothing.py")
    rundir = place.home.rundir("old")
    first = [line for line in rundir.journal_path.read_bytes().splitlines() if b'"session":1' in line]
    with rundir.journal_path.open("ab") as journal:
        for number in range(2, _LATE):
            journal.writelines(line.replace(b'"session":1', b'"session":%d' % number) + b"\n" for line in first)
    for number in range(2, _LATE):
        rundir.out_path(number).write_bytes(b"\n")
    place.call("reindex")

    def arm(run_id: str) -> Callable[[], float]:
        return lambda: cost([BACKPROP, "resume", "--again", run_id], place.environment, place.folder).cpu_s

    arms = [arm("young"), arm("old")]
    interleaved(arms, 1)
    young, old = interleaved(arms, max(3, place.sizes.start_pairs // 4))
    added = spread([b - a for a, b in zip(young, old, strict=True)])
    return Row(
        what=f"CPU time that `resume` takes more after {_LATE:,} sessions than after the first",
        measured=added.text("ms", 1000),
        how=f"{added.count} pairs, difference of each pair; sessions of one line",
    )


def _make_work_tree(folder: Path) -> None:
    name = ("-c", "user.name=bench", "-c", "user.email=bench@localhost", "-c", "commit.gpgsign=false")
    for words in (("init", "-q"), ("add", "."), (*name, "commit", "-q", "-m", "scripts")):
        subprocess.run(["git", "-C", str(folder), *words], check=True, stdout=subprocess.DEVNULL)


# -- slow-down


def slow_down(sizes: Sizes) -> list[Row]:
    """How much slower the same work is under Backprop, and what the machine's own noise is."""
    what = "training slow-down at 100 JSON lines/s"
    per_run = f"{sizes.steady_steps} steps of the same work, timed by the script"
    with workbench(sizes) as place:
        loops = _loops_for(place, _STEP_S)
        rows = _slow_down_rows(place, loops, what, f"{sizes.steady_rounds} rounds of bare, backprop, bare; {per_run}")
        if hasattr(os, "sched_setaffinity"):
            with one_core():
                shared = f"{what}, all on one core"
                rows += _slow_down_rows(place, loops, f"… {shared}", "the same, trainer and supervisor pinned together")
    return rows


def _slow_down_rows(place: Workbench, loops: int, what: str, how: str) -> list[Row]:
    script = str(place.folder / "steady.py")
    elapsed_path = place.folder / "elapsed"
    arguments = [str(place.sizes.steady_steps), str(loops), str(elapsed_path)]

    def arm(*argv: str) -> Callable[[], float]:
        def once() -> float:
            cost([*argv, *arguments], place.environment, place.folder, place.folder / "out")
            return float(elapsed_path.read_text())

        return once

    bare = arm(sys.executable, script)
    first, ours, second = interleaved([bare, arm(BACKPROP, "run", script, "--"), bare], place.sizes.steady_rounds)
    slower = spread([b / ((a + c) / 2) - 1 for a, b, c in zip(first, ours, second, strict=True)])
    noise = spread([c / a - 1 for a, c in zip(first, second, strict=True)])
    return [
        Row(
            what=what,
            measured=f"{slower.text('%', 100, 2)}, median ± {slower.median_error * 100:.2f}",
            target="≤ 0.5 %",
            is_reached=slower.median <= 0.005 if slower.median_error <= 0.005 else None,
            how=how,
        ),
        Row(
            what="… noise: bare against bare",
            measured=f"{noise.text('%', 100, 2)}, median ± {noise.median_error * 100:.2f}",
            how="the two bare runs of the same rounds; ± is half the 95 % interval of the median, by bootstrap",
        ),
    ]


def _loops_for(place: Workbench, step_s: float) -> int:
    """How much work takes so long on this machine."""
    elapsed_path = place.folder / "elapsed"
    times = []
    for _ in range(3):
        argv = [sys.executable, "steady.py", "50", str(_TRIAL_LOOPS), str(elapsed_path)]
        cost(argv, place.environment, place.folder)
        times.append(float(elapsed_path.read_text()) / 50)
    return round(_TRIAL_LOOPS * step_s / statistics.median(times))


# -- ingest


def ingest(sizes: Sizes) -> list[Row]:
    """How fast JSON lines get into the index: all at once afterwards, and behind a trainer that goes on."""
    with workbench(sizes) as place:
        reports = [_ingest(place, f"ingest{number}") for number in range(sizes.ingest_rounds)]
        rates = spread([sizes.ingest_lines / report["elapsed_s"] for report in reports])
        peak = max(report["peak_rss_bytes"] for report in reports) / _MB
        live_rate = _live_rate(place)
        text_rate = _printed_rate(place, sizes.burst_lines, _text(sizes.burst_lines))
        metrics_rate = _printed_rate(place, sizes.burst_lines // 10, _losses(sizes.burst_lines // 10))
    return [
        Row(
            what="ingest of one trainer's JSON lines, until they are in the index",
            measured=f"{rates.median:,.0f} lines/s, RSS {peak:.0f} MB",
            target="≥ 200,000 lines/s, RSS ≤ 80 MB",
            is_reached=rates.median >= 200_000 and peak <= 80,
            how=f"{sizes.ingest_lines:,} lines of step, loss, lr through the recorder in a fresh process, "
            f"median of {rates.count}; peak RSS",
        ),
        Row(
            what="… the same by the supervisor, while the trainer lives",
            measured=f"{live_rate:,.0f} lines/s",
            target="≥ 200,000 lines/s",
            is_reached=live_rate >= 200_000,
            how=f"a trainer writes {sizes.burst_lines:,} lines at once and goes on; until the last is in the index",
        ),
        Row(
            what="… of text without metrics, searched for printed ones",
            measured=f"{text_rate:,.0f} lines/s of CPU time",
            target="≥ 100,000 lines/s",
            is_reached=text_rate >= 100_000,
            how=f"{sizes.burst_lines:,} lines as a logger writes them, once",
        ),
        Row(
            what="… of printed lines with a loss",
            measured=f"{metrics_rate:,.0f} lines/s of CPU time",
            how=f"{sizes.burst_lines // 10:,} lines of nanoGPT's kind (`iter 100: loss 2.3100, time 12.10ms`), once",
        ),
    ]


def _text(count: int) -> str:
    lines = (
        f"2026-01-01 12:00:{number % 60:02},{number % 1000:03} INFO data.loader: opened shard-{number:07}.tar in "
        f"{number % 97 / 100:.2f} s, {number % 4096} samples kept\n"
        for number in range(count)
    )
    return "".join(lines)


def _losses(count: int) -> str:
    return "".join(f"iter {step}: loss {9 / (step + 1):.4f}, time {step % 97 / 7:.2f}ms\n" for step in range(count))


def _printed_rate(place: Workbench, count: int, text: str) -> float:
    draft = place.home.begin(archive.spec_of("text"), None)
    draft.out_path(1).write_text(text)
    began_s = time.process_time()
    PrintedMetrics(draft, 1, (), Outlook()).look(None, is_over=True, within_s=math.inf)
    spent_s = time.process_time() - began_s
    draft.discard()
    return count / spent_s


def _ingest(place: Workbench, run_id: str) -> dict[str, float]:
    spec = archive.spec_of(run_id)
    draft = place.home.begin(spec, None)
    journal = Journal(draft.journal_path)
    journal.append(archive.started(spec))
    journal.close()
    with draft.out_path(1).open("wb") as out:
        for step in range(place.sizes.ingest_lines):
            out.write(b'{"step": %d, "loss": %.6f, "lr": 0.001}\n' % (step, 1 / (step + 1)))
    rundir = place.home.publish(draft, run_id)
    argv = [sys.executable, "-m", "bench.ingest", str(place.home.path), run_id]
    done = subprocess.run(argv, cwd=ROOT, env=place.environment, stdout=subprocess.PIPE, check=True)
    report: dict[str, float] = json.loads(done.stdout)
    if report["last_step"] != place.sizes.ingest_lines - 1:
        raise AssertionError(f"only step {report['last_step']} got into the index")
    rundir.remove()
    return report


def _live_rate(place: Workbench) -> float:
    started_path = place.folder / "started"
    lines = place.sizes.burst_lines
    run_id = place.run_detached("burst.py", "--", str(lines), str(started_path))
    index = Index(place.home.index_path, 10.0)

    def last_step() -> bool | None:
        view = index.get(run_id)
        return True if view is not None and view.last_step == lines - 1 else None

    wait_for(last_step)
    elapsed_s = time.time() - float(started_path.read_text())
    index.close()
    place.stop(run_id)
    return lines / elapsed_s


# -- supervisor


def supervisor(sizes: Sizes) -> list[Row]:
    """What a supervisor costs while its trainer prints."""
    limits = "≤ 1 % of a core, RSS ≤ 60 MB"
    with workbench(sizes) as place:
        detached = place.run_detached("paced.py", "--", "0.1", "600")
        in_background = _usage(place, detached)
        in_terminal = _foreground_usage(place, "tenth", 0.1)
        at_100 = _foreground_usage(place, "hundredth", 0.01)
    return [
        Row(
            what="supervisor, trainer printing 10 lines/s",
            measured=in_background.text(),
            target=limits,
            is_reached=in_background.is_small,
            how=f"detached; CPU time and highest RSS over {sizes.supervisor_s:.0f} s, start-up left out",
        ),
        Row(
            what="… not detached",
            measured=in_terminal.text(),
            target=limits,
            is_reached=in_terminal.is_small,
            how="`backprop run` itself, which also copies the trainer's output",
        ),
        Row(
            what="… not detached, 100 lines/s",
            measured=at_100.text(),
            how="the most that training can lose when it keeps every core busy, in shares of one core",
        ),
    ]


def _foreground_usage(place: Workbench, run_id: str, period_s: float) -> Usage:
    process = place.start(run_id, "paced.py", "--", str(period_s), "600")
    wait_for(lambda: True if place.home.rundir(run_id).path.exists() else None)
    used = _usage(place, run_id)
    place.stop(run_id)
    process.wait()
    return used


def _usage(place: Workbench, run_id: str) -> Usage:
    party = Party([_supervisor_of(place, run_id)])
    time.sleep(1.0)  # its start-up is over
    return usage({run_id: party}, place.sizes.supervisor_s)[run_id]


def _supervisor_of(place: Workbench, run_id: str) -> psutil.Process:
    """The supervisor, once it has launched the trainer."""

    def pid() -> int | None:
        launched = any(isinstance(entry, TrainerLaunched) for entry in place.journal(run_id))
        found: int | None = place.document(run_id)["pid"] if launched else None
        return found

    return psutil.Process(wait_for(pid))


# -- governor


def governor(sizes: Sizes) -> list[Row]:
    """What looking after a machine with GPUs costs, next to scripts that poll them; all in the same window."""
    with workbench(sizes) as place:
        cards = find_cards(place)
        snapshots = _snapshots(place)
        used = _governors(place, cards)
    wall, cpu = spread(snapshots["wall_s"]), spread(snapshots["cpu_s"])
    window = f"CPU time and highest RSS over {sizes.governor_s:.0f} s, all of these at the same time"
    reading = used["nvml"].cpu_share - used["none"].cpu_share
    rows = [
        Row(
            what="one snapshot of the machine, GPUs by NVML",
            measured=wall.text("ms", 1000, 2),
            target="≤ 5 ms",
            is_reached=wall.median <= 0.005,
            how=f"{wall.count} one after the other in one process, as admission takes them; {cards.library}",
        ),
        Row(
            what="… CPU time of one",
            measured=cpu.text("ms", 1000, 2),
            how="the same; once a second, 1 ms is 0.1 % of a core",
        ),
        Row(
            what="supervisor with a GPU through NVML, the governor at 1 Hz",
            measured=used["nvml"].text(),
            target="≤ 1 % of a core, RSS ≤ 60 MB",
            is_reached=used["nvml"].is_small,
            how=f"detached, trainer printing 10 lines/s; {window}; {cards.library}",
        ),
        Row(
            what="… with `--gpu-probe none`",
            measured=used["none"].text(),
            how="the same without a GPU: RAM, disk and the tree are still watched",
        ),
        Row(
            what="… what reading GPUs once a second adds",
            measured=f"{reading * 100:.2f} % of a core",
            target="< 0.5 % of a core",
            is_reached=reading < 0.005,
            how="the difference of the two",
        ),
    ]
    if cards.has_tool:
        rows += [
            Row(
                what="… with `--gpu-probe nvidia-smi`",
                measured=used["nvidia-smi"].text(),
                how=f"the supervisor, its helper process and the tools that one starts; {cards.tool}",
            ),
            Row(
                what="… for comparison: a shell loop that polls `nvidia-smi`",
                measured=used["loop"].text(),
                how=f"`nvidia-smi --query-gpu=... --format=csv`, then `sleep 1`, and so on; {cards.tool}",
            ),
        ]
    if "gpustat" in used:
        rows.append(
            Row(
                what="… for comparison: `gpustat -i 1`",
                measured=used["gpustat"].text(),
                how="as it is installed here, its output thrown away",
                peer="gpustat",
            )
        )
    return rows


def _snapshots(place: Workbench) -> dict[str, list[float]]:
    argv = [sys.executable, "-m", "bench.snapshots", str(place.sizes.snapshots), str(place.folder)]
    done = subprocess.run(argv, cwd=ROOT, env=place.environment, stdout=subprocess.PIPE, check=True)
    report: dict[str, list[float]] = json.loads(done.stdout)
    return report


def _governors(place: Workbench, cards: Cards) -> dict[str, Usage]:
    """What each of those that look at the GPUs used."""
    probes = {"nvml": "1", "none": "0"}
    if cards.has_tool:
        probes["nvidia-smi"] = "1"
    run_ids = {probe: _watched(place, cards, probe, gpu_count) for probe, gpu_count in probes.items()}
    parties = {probe: Party([_supervisor_of(place, run_id)]) for probe, run_id in run_ids.items()}
    if cards.has_tool:
        helper = wait_for(lambda: place.gpu_helpers() or None)
        parties["nvidia-smi"] = Party([*parties["nvidia-smi"].processes, *helper], starts_tools=True)
        parties["loop"] = Party([place.spawn(polling_loop())], starts_tools=True)
    if cards.gpustat is not None:
        parties["gpustat"] = Party([place.spawn([cards.gpustat, "-i", "1"])], starts_tools=True)
    time.sleep(3.0)  # their start-up is over, the first sample with its imports too
    if "gpustat" in parties and parties["gpustat"].has_ended():
        del parties["gpustat"]  # it does not go on without a terminal, or does not know this driver
    used = usage(parties, place.sizes.governor_s)
    for run_id in run_ids.values():
        if "blind" in (told := place.home.rundir(run_id).supervisor_log_path.read_text()):
            raise AssertionError(f"the governor saw nothing: {told}")
        place.stop(run_id)
    return used


def _watched(place: Workbench, cards: Cards, probe: str, gpu_count: str) -> str:
    """A run whose governor asks this probe, and that outlives the window."""
    lasts_s = place.sizes.governor_s + PATIENCE_S
    options = ("--gpu-probe", probe, "--gpus", gpu_count, "--max-run-minutes", str(lasts_s / 60))
    words = (*options, "--max-parallel", "10", "paced.py", "--", "0.1", str(lasts_s))
    return place.run_detached(*words, program=cards.backprop if probe == "nvml" else (BACKPROP,))


# -- delay


def delay(sizes: Sizes) -> list[Row]:
    """How long after a trainer wrote a line another process sees it."""
    with workbench(sizes) as place:
        # a period that is no multiple of the supervisor's, so that every phase between the two comes up
        run_id = place.run_detached("paced.py", "--", "0.37", "600")
        in_index = spread(_delays_in_index(place, run_id))
        in_list = spread(_delays_in_list(place, run_id))
        place.stop(run_id)
    return [
        Row(
            what="delay from a line's write to its being visible in the index",
            measured=f"{in_index.text('ms', 1000)}, max {in_index.worst * 1000:.0f}",
            target="≤ 1 s",
            is_reached=in_index.worst <= 1.0,
            how=f"{in_index.count} lines, the index read every 5 ms by another process; judged by the maximum",
        ),
        Row(
            what="… in `list --json` of another terminal",
            measured=f"{in_list.text('ms', 1000)}, max {in_list.worst * 1000:.0f}",
            target="≤ 1 s",
            is_reached=in_list.worst <= 1.0,
            how=f"{in_list.count} lines; `list` called when a line lies in the file, until it has ended and shows it",
        ),
    ]


def _delays_in_index(place: Workbench, run_id: str) -> list[float]:
    index = Index(place.home.index_path, 10.0)
    delays: list[float] = []
    seen = 0.0

    def newer() -> float | None:
        view = index.get(run_id)
        at = 0.0 if view is None else view.metrics.get("written_at", 0.0)
        return at if at > seen else None

    seen = wait_for(newer)  # the first one was there before we looked
    while len(delays) < place.sizes.delay_lines:
        seen = wait_for(newer)
        delays.append(time.time() - seen)
    index.close()
    return delays


def _delays_in_list(place: Workbench, run_id: str) -> list[float]:
    out_path = place.home.rundir(run_id).out_path(1)
    delays = []
    for _ in range(place.sizes.delay_lines // 2):
        size = out_path.stat().st_size
        wait_for(lambda size=size: True if out_path.stat().st_size > size else None)  # type: ignore[misc]
        written_at = json.loads(out_path.read_bytes().splitlines()[-1])["written_at"]
        while True:
            (shown,) = json.loads(place.call("list", "--json"))
            if shown["metrics"].get("written_at", 0.0) >= written_at:
                break
        delays.append(time.time() - written_at)
    return delays


# -- stop


def stop(sizes: Sizes) -> list[Row]:
    """When the last process of a tree that ignores every polite signal is gone."""
    with workbench(sizes) as place:
        late = spread([_lateness(place) for _ in range(sizes.stubborn_rounds)])
    return [
        Row(
            what="tree dead after timebox + grace",
            measured=f"{late.text('ms', 1000)}, max {late.worst * 1000:.0f}",
            target="≤ 0.5 s",
            is_reached=late.worst <= 0.5,
            how=f"{late.count} times: {_TREE_SIZE} processes that ignore signals, in their own sessions and daemons; "
            f"timebox {_TIMEBOX_S} s, grace {_GRACE_S:.0f} s; judged by the maximum",
        )
    ]


def _lateness(place: Workbench) -> float:
    options = ("--max-run-minutes", str(_TIMEBOX_S / 60), "--grace", str(_GRACE_S))
    run_id = place.run_detached(*options, "stubborn.py")
    wait_for(lambda: True if len(place.tree(run_id)) == _TREE_SIZE else None)
    wait_for(lambda: None if place.tree(run_id) else True)
    gone_at = time.time()
    launched_at = next(entry.at for entry in place.journal(run_id) if isinstance(entry, TrainerLaunched))
    return gone_at - launched_at.timestamp() - _TIMEBOX_S - _GRACE_S


# -- views


def views(sizes: Sizes) -> list[Row]:
    """How long commands that look take when there is a lot to look at."""
    with workbench(sizes) as place:
        archive.fill(place.home, sizes.archive_runs)
        busy = next(place.home.run_ids())
        archive.add_points(place.home, busy, sizes.archive_points)
        runs, points = f"{sizes.archive_runs:,} runs", f"{sizes.archive_points / 1e6:g} million metric points"
        how = f"from the command's start to its end, {sizes.archive_calls} calls"
        return [
            _view_row(place, f"`list` with {runs}", how, "list"),
            _view_row(place, f"… `list --json --limit 100` with {runs}", how, "list", "--json", "--limit", "100"),
            _view_row(place, f"… `list --sort loss` with {runs}", how, "list", "--sort", "loss"),
            _view_row(place, f"… `list` just after a run was made, with {runs}", how, "list", touch=True),
            _view_row(place, f"`status RUN --json` with {points}", how, "status", busy, "--json"),
            _view_row(place, "… for comparison: `backprop --version`", how, "--version", has_target=False),
        ]


def _view_row(place: Workbench, what: str, how: str, *words: str, touch: bool = False, has_target: bool = True) -> Row:
    times = []
    for _ in range(place.sizes.archive_calls + 1):
        if touch:
            os.utime(place.home.runs_path)
        times.append(cost([BACKPROP, *words], place.environment, place.folder).wall_s)
    taken = spread(times[1:])  # the first call warms the page cache
    return Row(
        what=what,
        measured=taken.text("ms", 1000),
        how=how,
        target="≤ 250 ms" if has_target else "-",
        is_reached=taken.median <= 0.250 if has_target else None,
    )


# -- trainer


def trainer(sizes: Sizes) -> list[Row]:
    """What our part inside the trainer costs, next to others' ways to log the same two metrics."""
    found, missing = trainers.find_peers()
    how = (
        f"loss and lr, as fast as it goes for {sizes.metrics_s:g} s or 20,000 calls; time of a call, over batches of 20"
    )
    with workbench(sizes) as place:
        start_s = trainers.start_differences(place)
        kept = trainers.keeping_times(place, 64 << 20)
        log, control, printed = (
            trainers.under_backprop(place, "backprop"),
            trainers.under_backprop(place, "should_stop"),
            trainers.bare(place, "print"),
        )
        call, whole = trainers.tap_costs(place)
        rows = [
            Row(
                what="time the hooks add to the start of an interpreter",
                measured=f"{start_s.text('ms', 1000, 1)}, median ± {start_s.median_error * 1000:.2f}",
                target="≤ 3 ms",
                is_reached=start_s.median <= 0.003 if start_s.median_error <= 0.003 else None,
                how=f"{start_s.count} pairs of `python -c pass` with and without them, difference of each pair",
            ),
            Row(
                what="keeping a checkpoint of 64 MiB that is written over in place",
                measured=kept.text("ms", 1000, 2),
                target="< 5 ms: no copy",
                is_reached=kept.median < 0.005,
                how=f"a rename and an empty file, before the script opens it; {kept.count} saves",
            ),
            Row(
                what="`backprop.should_stop()`, the look at what is wanted",
                measured=control.text("µs", 1e6, 2),
                target="< 2 µs",
                is_reached=control.median < 2e-6,
                how=f"in a run, for {sizes.metrics_s:g} s or 20,000 calls; time of a call, over batches of 20",
            ),
            Row(
                what="`backprop.log(...)` of two metrics",
                measured=log.text("µs", 1e6, 1),
                target="less than print",
                is_reached=log.median < printed.median,
                how=f"in a run: {how}",
            ),
            Row(
                what="… `print(json.dumps(...), flush=True)`",
                measured=printed.text("µs", 1e6, 1),
                how=f"to a file: {how}",
            ),
        ]
        rows += [
            Row(
                what="CPU time that recording adds to a scalar logged to a tracker",
                measured=whole.text("µs", 1e6, 2),
                target="≤ 2 µs",
                is_reached=whole.median <= 2e-6,
                how="in a run, `add_scalar` of a writer that does nothing, with and without the tap, until all is in "
                f"the file: difference of 20,000 scalars each, {whole.count} times",
            ),
            Row(
                what="… of which in the call",
                measured=call.text("µs", 1e6, 2),
                how="the same calls, CPU time of the thread that logs",
            ),
        ]
        for peer in found:
            times = trainers.bare(place, peer.way, peer.python)
            name = f"{peer.title} ({peer.version})"
            rows.append(
                Row(what=f"… {name}", measured=times.text("µs", 1e6, 1), how=how, peer=peer.title.partition(":")[0])
            )
    if missing:
        rows.append(Row(what="… others", measured="-", how=f"not installed in that Python: {', '.join(missing)}"))
    return rows


def sampled_loss(sizes: Sizes) -> list[Row]:
    """What it costs to know the loss of a PyTorch script that does not report it."""
    what = "CPU time that sampling the loss adds to a step of PyTorch"
    if not trainers.has_torch():
        return [Row(what=what, measured="-", how="PyTorch is not installed in that Python")]
    with workbench(sizes) as place:
        bare, added = trainers.sampled_loss_times(place)
    return [
        Row(
            what=what,
            measured=f"{added.text('µs', 1e6, 2)}, median ± {added.median_error * 1e6:.2f}",
            target="≤ 2 µs",
            is_reached=added.median <= 2e-6 if added.median_error <= 2e-6 else None,
            how=f"{added.count} pairs of 20 steps with and without it in one process, difference of each pair",
        ),
        Row(
            what="… the step without it",
            measured=bare.text("µs", 1e6, 1),
            how="`zero_grad`, a sum, `backward` and `step` of SGD, one weight; the same pairs",
        ),
    ]


ROWS: Mapping[str, Callable[[Sizes], list[Row]]] = {
    "start": start,
    "slow-down": slow_down,
    "ingest": ingest,
    "trainer": trainer,
    "sampled-loss": sampled_loss,
    "supervisor": supervisor,
    "governor": governor,
    "delay": delay,
    "stop": stop,
    "views": views,
}
