"""Compares what commands said, and what records say, with what must be so."""

import itertools
import json
import os
import re
import signal
import sqlite3
import time
from array import array
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from backprop import host
from backprop.governor.run_queue import RunQueue
from backprop.lifecycle.sweep.journal import Ended
from backprop.records import Run, Session, Status, StopReason
from backprop.store.index import Index
from backprop.store.journal.entries import NotContinued, PauseRequested, Refused, SessionEnded
from tests.chaos import model
from tests.chaos import sweep as sweeps
from tests.chaos.model import MACHINE, Deed, Facts
from tests.chaos.output import Output
from tests.chaos.population import MAX_PARALLEL, Member, Population, Process, lines_of

Found = Callable[[Member | None, str], None]


_CHAINED = ("another exception occurred:", "direct cause of the following exception:")

# -- commands


def judge_command(population: Population, process: Process, found: Found) -> None:
    """A command that has ended, by what can be said of it alone."""
    stderr, code = process.stderr, process.code or 0
    if _has_crashed(code, stderr, is_front=process.purpose == "front", was_interrupted=signal.SIGINT in process.sent):
        found(process.member, f"{process} crashed:\n{stderr[-3000:]}")
        return
    if code < 0:
        was_ended = process.member is not None and Deed.STOP_NOW in _deeds(process.member)
        if signal.Signals(-code) not in process.sent and not (code == -9 and was_ended):
            found(process.member, f"{process} was ended by signal {-code}, which nobody here sent")
        return
    if process.purpose == "front":
        return  # by its run's record: see check_front
    if process.words[0] == "sweep":
        _judge_sweep_command(population, process, found)
        return
    faults = population.faults_since(process.started_at)
    allowed = _allowed_codes(process.words, has_faults=bool(faults))
    if (
        code == 3
        and allowed is not None
        and all(population.is_there(word) for word in process.words[1:] if not word.startswith("-"))
    ):
        found(process.member, f"{process} says that there is no such run, and there is:\n{process.stderr[-1000:]}")
        return
    if (
        code == 75
        and "has not stopped yet" in stderr
        and not faults
        and population.suspended_until < process.started_at
        and not population.wait_for_end_of_run(process.words[1])
    ):
        found(process.member, f"{process} is not heard, and nobody stood still:\n{stderr[-1000:]}")
    is_excused = allowed is not None and code == 2 and 2 not in (_allowed_codes(process.words, has_faults=False) or ())
    if is_excused and faults and not model.names_fault(stderr):
        found(process.member, f"{process} exited with 2, and does not say what is wrong:\n{stderr[-1000:]}")
    if allowed is not None and code not in allowed:
        found(process.member, f"{process} exited with {code}, not one of {sorted(allowed)}:\n{stderr[-1000:]}")
    if code == 0 and "--json" in process.words:
        try:
            json.loads(process.stdout)
        except ValueError:
            found(process.member, f"{process} printed what is no JSON:\n{process.stdout[-500:]}")


def _judge_sweep_command(population: Population, process: Process, found: Found) -> None:
    """What a command of `backprop sweep` exits with."""
    code, verb = process.code or 0, process.words[1]
    if signal.SIGINT in process.sent and model.was_interrupted_early(code, process.stderr):
        return
    faults = population.faults_since(process.started_at)
    is_driving = process.purpose == "sweep" or verb == "tick"
    allowed = {0}
    if is_driving:
        allowed |= population.sweep.ends()
    if is_driving or verb in {"stop", "rm"}:
        allowed.add(75)  # another process drives it
    if process.purpose == "sweep" and (process.sent & {signal.SIGINT, signal.SIGTERM}):
        allowed.add(130)
    if verb in {"best", "ask", "add"}:
        allowed.add(2)  # there is none yet, or it is over
    if faults:
        allowed |= {2, 75}
    if code not in allowed:
        found(None, f"{process} exited with {code}, not one of {sorted(allowed)}:\n{process.stderr[-1500:]}")
    elif code == 2 and faults and verb not in {"best", "ask", "add"} and not model.names_fault(process.stderr):
        found(None, f"{process} exited with 2, and does not say what is wrong:\n{process.stderr[-1000:]}")
    elif code == 75 and "another process" in process.stderr and not population.has_other_driver(process):
        found(None, f"{process} says that another process drives the sweep, and none does:\n{process.stderr[-1000:]}")


def _has_crashed(code: int, stderr: str, *, is_front: bool, was_interrupted: bool) -> bool:
    """Whether there is a traceback of Backprop's own. A front passes on what its trainer wrote, which may have crashed.

    So does `wait`, which indents it.
    """
    if was_interrupted and model.was_interrupted_early(code, stderr):
        return False
    parts: list[str] = []
    for part in re.split(r"(?<!  )Traceback \(most recent call last\)", stderr)[1:]:
        if parts and parts[-1].rstrip().endswith(_CHAINED):
            parts[-1] += part
        else:
            parts.append(part)
    for part in parts:
        is_interrupt = "\nKeyboardInterrupt" in part
        is_ours = "/backprop/" in part.partition("\nbackprop: ")[0]
        if (is_ours or not is_front) and not (is_interrupt and (is_front or was_interrupted)):
            return True
    return False


def _allowed_codes(words: Sequence[str], *, has_faults: bool) -> set[int] | None:
    """None: it ends with the code of a run."""
    match words[0]:
        case "wait":
            return None
        case "list":
            codes = {0}
        case "status":
            codes = {0} if words[1] == "--json" else {0, 3}
        case "reindex" | "ui":
            codes = {0}
        case _:
            codes = {0, 2, 3, 75}
    return codes | ({2, 75} if has_faults else set())  # 75: the index could not take the run in just now


def check_front(population: Population, process: Process, found: Found) -> None:
    """The exit code of a `run` or `resume` whose run is at rest."""
    member, code = process.member, process.code or 0
    was_interrupted = signal.SIGINT in process.sent
    if member is None or code < 0 or (was_interrupted and model.was_interrupted_early(code, process.stderr)):
        return
    deeds = _deeds(member) | population.faults_since(process.started_at)
    run = population.fold(member)
    if run is None and member.is_doomed:
        return  # what it came to was removed with it
    if member.is_on_slurm and run is not None:
        allowed = set(model.permitted_exit_codes_on_slurm(run.sessions, deeds))
        if code not in allowed:
            found(member, f"{process} exited with {code}, not one of {sorted(allowed)}:\n{process.stderr[-1500:]}")
        return
    own = [] if run is None else [s for s in run.sessions if s.supervisor_pid == process.pid]
    if "-d" in process.words:
        allowed = {0, 75}
        allowed |= {130} if deeds & {Deed.CTRL_C, Deed.TERMINATE} else set()
        allowed |= {2} if deeds & {*MACHINE, Deed.KILL_SUPERVISOR, Deed.STOP_NOW} else set()
    elif own:
        allowed = set(model.permitted_exit_codes(own[-1].status, own[-1].exit_code, deeds))
    else:
        # it waited in vain, was refused, or let a paused run go on
        has_options = bool(set(process.words[2:]) - {"--again"})
        allowed = set(model.permitted_exit_codes(None, None, deeds)) | (set() if has_options else {0})
        allowed |= {2, 3} if member.is_doomed else set()
    if not own and "keeps its own settings" in process.stderr:  # with options, which are for another session
        allowed |= {2} if any(isinstance(entry, PauseRequested) for entry in population.entries(member)) else set()
    if code not in allowed:
        status = own[-1].status.value if own else "no session"
        found(
            member, f"{process} exited with {code}, not one of {sorted(allowed)}; {status}:\n{process.stderr[-1500:]}"
        )


def _deeds(member: Member) -> frozenset[Deed]:
    return frozenset(happening.deed for happening in member.happenings)


# -- at any instant


def check_instant(population: Population, found: Found) -> None:
    """What holds while faults go on."""
    path = population.home / "experiments.json"
    try:
        with path.open("rb") as file:
            data, inode = file.read(), os.fstat(file.fileno()).st_ino
        if inode != population.spoiled_snapshot:
            json.loads(data)
    except OSError:
        pass
    except ValueError:
        found(None, f"experiments.json is not whole: {data[:200]!r}")
    # tickets are read one after the other, while some are handed on: who is seen twice holds one in between
    if not population.is_read_only and len(population.tickets()) > MAX_PARALLEL:
        holders = {*population.tickets()} & {*population.tickets()}
        if len(holders) > MAX_PARALLEL:
            found(None, f"{len(holders)} runs hold one of {MAX_PARALLEL} slots: {holders}")


# -- at rest


def check_rest(population: Population, found: Found) -> int:
    """All records, when nothing goes on; how many were compared."""
    listing = population.call_now("list", "--json")
    is_index_spoiled = any(fault.deed is Deed.DAMAGED_INDEX for fault in population.machine_faults)
    if listing.code == 2 and is_index_spoiled and "try again" in listing.stderr:  # damage that shows late
        listing = population.call_now("list", "--json")
    if listing.code != 0:
        found(None, f"list exited with {listing.code}:\n{listing.stderr[-2000:]}")
    documents = {one["id"]: one for one in json.loads(listing.stdout)} if listing.code == 0 else {}
    for run_id, document in documents.items():
        if document["checkpoint_count"] > len(document["checkpoints"]):
            whole = json.loads(population.call_now("status", run_id, "--json", "--all").stdout)
            document["all_checkpoints"] = whole["checkpoints"]
    on_disk = set(population.place.run_ids())
    if listing.code == 0 and set(documents) != on_disk:
        found(None, f"list shows {sorted(documents)}, and there are {sorted(on_disk)}")
    _check_nothing_left(population, found)
    snapshot = json.loads((population.home / "experiments.json").read_text())
    if set(snapshot) != on_disk:
        found(None, f"experiments.json has {sorted(snapshot)}, and there are {sorted(on_disk)}")
    if population.is_index_damaged or (is_index_spoiled and not _is_sound(population.home / "index.db")):
        population.call_now("reindex")  # the damage lies where `list` need not read
    members = population.everybody()
    _check_sweep(population, found)
    with closing(Index(population.home / "index.db", 10)) as index:
        for member in members:
            _check_member(population, member, documents.get(member.run_id), snapshot.get(member.run_id), index, found)
    for member in population.members:
        if member.checked and not member.is_doomed and not population.rundir(member.run_id).exists():
            found(member, "its record is gone")
    return len(members)


def _is_sound(path: Path) -> bool:
    try:
        with closing(sqlite3.connect(path)) as index:
            return index.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
    except sqlite3.DatabaseError:
        return False


def _check_nothing_left(population: Population, found: Found) -> None:
    left = population.tree()
    if left:
        told = []
        for process in left:
            try:
                told.append(f"{process.pid} {process.environ().get('BACKPROP_RUN_ID')} {process.cmdline()}")
            except psutil.Error:
                continue
        if told:
            found(None, f"processes are left after list: {told}")
    if marks := sorted(path.name for path in (population.home / "unsettled").iterdir()):
        found(None, f"after list there are still marks in unsettled/: {marks}")
    line = RunQueue(population.place.line_path, host.name())
    if entries := line.read():
        found(None, f"nothing goes on, and there are living tickets: {entries}")


def _check_sweep(population: Population, found: Found) -> None:
    """The record of the sweep, when nobody drives it."""
    spec = population.sweep.spec()
    if spec is None:
        return
    runs: dict[str, Run] = {}
    outputs: dict[str, dict[int, Output]] = {}
    stopped = population.sweep.stopped_ids()
    for member in population.guests:
        run = population.fold(member)
        if run is None or run.spec.sweep is None or run.spec.sweep.id != spec.id:
            continue
        runs[member.run_id], outputs[member.run_id] = run, _outputs(population, member, run)
        member.stopped_sessions = {one.number for one in run.sessions if one.request_id in stopped}
        member.is_stopped = any(one.rpartition("-")[0] == run.spec.id or one == run.spec.id for one in stopped)
    for problem in sweeps.problems(spec, population.sweep.entries(), runs, outputs):
        found(None, f"sweep {spec.name}: {problem}")
        population.sweep.is_doomed = True
    shown = population.call_now("sweep", "status", spec.name, "--json")
    if shown.code != 0:
        found(None, f"sweep status exited with {shown.code}:\n{shown.stderr[-1000:]}")
        return
    document = json.loads(shown.stdout)
    elapsed_s = sum(session.elapsed_s or 0.0 for run in runs.values() for session in run.sessions)
    if abs(document["spent_s"] - elapsed_s) > 0.01:
        of_runs = {run_id: [one.elapsed_s for one in run.sessions] for run_id, run in runs.items()}
        ended = [(one.trial, one.trained_s) for one in population.sweep.entries() if isinstance(one, Ended)]
        told = f"says that {document['spent_s']} s are spent; its runs: {of_runs}; its journal: {ended}"
        found(None, f"sweep {spec.name} {told}")
    if document["state"] in {"running", "stopping"}:
        found(None, f"sweep {spec.name} is {document['state']}, and nobody drives it")
    if document["script_changed"]:
        found(None, f"sweep {spec.name} says that its script was changed")


def _check_member(
    population: Population, member: Member, document: dict[str, Any] | None, public: Any, index: Index, found: Found
) -> None:
    """document: what `list` says of it; None: nothing, which has been said."""
    run = population.fold(member)
    if run is None:
        found(member, "its run.json cannot be read")
        return
    outputs = _outputs(population, member, run)
    problems = [
        *_metric_problems(member, outputs, index),
        *([] if document is None else _document_problems(member, document, run, outputs)),
        *_session_problems(population, member, run, outputs),
        *([] if document is None else _public_problems(document, public)),
        *_notice_problems(population, member, run),
    ]
    problems += [
        f"a supervisor in the background crashed: {line}"
        for line in lines_of(population.rundir(member.run_id) / "supervisor.log")
        if line.startswith("Traceback")
    ]
    for problem in problems:
        found(member, problem)
    member.outputs = {s.number: outputs[s.number] for s in run.sessions}
    member.checked = len(run.sessions)
    member.without_session = None if run.sessions else (run.status, run.reason)


def _outputs(population: Population, member: Member, run: Run) -> dict[int, Output]:
    return {session.number: population.read_output(member, session.number) for session in run.sessions}


def _metric_problems(member: Member, outputs: dict[int, Output], index: Index) -> list[str]:
    """Every whole line is in the index exactly once, in order."""
    rows = index.rows(
        "SELECT steps, vals FROM points WHERE run_id = ? AND name = 'value' ORDER BY number", (member.run_id,)
    )
    steps, values = (array("d", b"".join(row[column] for row in rows)) for column in (0, 1))
    true_steps = array("d", itertools.chain.from_iterable(output.steps for output in outputs.values()))
    true_values = array("d", itertools.chain.from_iterable(output.values for output in outputs.values()))
    if (steps, values) == (true_steps, true_values):
        return []
    at = next((n for n, pair in enumerate(zip(steps, true_steps, strict=False)) if pair[0] != pair[1]), "the end")
    counts = {number: len(output.steps) for number, output in outputs.items()}
    return [f"the index has {len(steps)} points, the files {len(true_steps)} ({counts}); they differ from {at} on"]


def _document_problems(member: Member, document: dict[str, Any], run: Run, outputs: dict[int, Output]) -> list[str]:
    problems = []
    numbers = [session["number"] for session in document["sessions"]]
    if numbers != list(range(1, len(numbers) + 1)):
        problems.append(f"its sessions are {numbers}")
    if [s["status"] for s in document["sessions"]] != [s.status.value for s in run.sessions]:
        problems.append("list and the journal differ in its sessions")
    if document["sessions"] and document["status"] != document["sessions"][-1]["status"]:
        problems.append(f"it is {document['status']}, and its last session {document['sessions'][-1]['status']}")
    newest: dict[str, tuple[int, int]] = {}
    for number, output in outputs.items():
        for step, path in output.saved:
            newest.pop(path, None)
            newest[path] = (number, step)
    expected = [
        (number, step, path, not path.endswith("-torn.json") and path not in member.torn)
        for path, (number, step) in newest.items()
    ]
    checkpoints = document.get("all_checkpoints", document["checkpoints"])
    reported = [(c["session"], c["step"], c["path"], c["valid"]) for c in checkpoints]
    if reported != expected:
        problems.append(f"its checkpoints are {_difference(reported, expected)}")
    # a session that trains again may end at a lower step: the last line counts, whatever it says
    last = next((output.steps[-1] for output in reversed(outputs.values()) if output.steps), None)
    if document["last_step"] != last:
        problems.append(f"its last step is {document['last_step']}, not {last}")
    return problems


def _difference(reported: list[Any], expected: list[Any]) -> str:
    unknown = [entry for entry in reported if entry not in expected]
    missing = [entry for entry in expected if entry not in reported]
    return (
        f"not those of the files: {unknown} too many, {missing} missing" if unknown or missing else "in another order"
    )


def _session_problems(population: Population, member: Member, run: Run, outputs: dict[int, Output]) -> list[str]:
    problems: list[str] = []
    deeds = _deeds(member)
    if not run.sessions and (run.status, run.reason) != member.without_session:
        allowed = model.permitted_without_session(deeds | ({Deed.STOP} if member.is_stopped else frozenset()))
        if run.status not in allowed:
            problems.append(f"it is {run.status.value} ({run.reason}) without a session; {_told(allowed, deeds)}")
    reported = [(number, path) for number, output in outputs.items() for _, path in output.saved]
    for session in run.sessions[member.checked :]:
        output = outputs[session.number]
        facts = Facts(
            deeds=_deeds_that_met(member, session),
            has_counted=output.has_counted,
            is_on_slurm=member.is_on_slurm,
            crash_code=output.crash_code,
            is_short=session.timebox_s < 60,
            died_open=session.number in member.died_open,
        )
        allowed = model.permitted(facts)
        name = f"session {session.number} of {session.supervisor_pid}"
        if session.status not in allowed:
            problems.append(f"{name} is {session.status.value} ({session.reason}); {_told(allowed, facts.deeds)}")
        elif session.status is Status.FAILED and session.exit_code not in model.permitted_failures(facts):
            problems.append(f"{name} failed with {session.exit_code} ({session.reason}); {_told(allowed, facts.deeds)}")
        elif not model.is_explained(session.status, session.reason, facts.deeds):
            problems.append(f"{name} is {session.status.value}, and its reason is {session.reason!r}")
        is_by_time = session.status is Status.TIMEBOXED and session.stopped_by is not StopReason.STEP
        if is_by_time and (session.elapsed_s or 0) < session.timebox_s - 0.01:
            problems.append(f"{name} was ended after {session.elapsed_s} s of {session.timebox_s} s")
        expected = model.expected_checkpoint(reported, member.torn, session.number)
        if session.offered != expected:
            problems.append(f"{name} was offered {session.offered}, not from {expected}")
        if output.started is not None:
            counter = 0 if expected is None else int(expected.rpartition("-")[2].removesuffix(".json"))
            if (output.started["path"], output.started["from"]) != (expected, counter):
                problems.append(f"the trainer of {name} was given {output.started}, not {expected}")
    problems += _continuation_problems(member, run)
    return problems


def _deeds_that_met(member: Member, session: Session) -> frozenset[Deed]:
    """What was done that may have met this session."""
    met = {
        happening.deed
        for happening in member.happenings
        if happening.from_session <= session.number <= (happening.to_session or session.number)
        and (happening.deed is not Deed.KILL_SUPERVISOR or happening.pid == session.supervisor_pid)
    }
    if session.number in member.stopped_sessions:
        met.add(Deed.STOP)
    if session.trainer_pid not in member.trainers_killed:
        met.discard(Deed.KILL_TRAINER)
    return frozenset(met)


def _continuation_problems(member: Member, run: Run) -> list[str]:
    """What one command made of its retries and sessions."""
    problems = []
    new = run.sessions[member.checked :]
    for pid in {session.supervisor_pid for session in new}:
        own = [session for session in new if session.supervisor_pid == pid]
        failures = sum(session.status is Status.FAILED for session in own)
        timeboxes = sum(session.status is Status.TIMEBOXED for session in own)
        if failures > member.retries + 1:
            problems.append(f"process {pid} tried {failures} times, with {member.retries} retries")
        if timeboxes > member.sessions:
            problems.append(f"process {pid} used {timeboxes} timeboxes of {member.sessions}")
        is_cut_short = timeboxes < member.sessions and own[-1].status is Status.TIMEBOXED
        if is_cut_short and not member.happenings:
            problems.append(f"process {pid} ended after {timeboxes} of {member.sessions} timeboxes: {run.reason}")
    return problems


def _told(allowed: frozenset[Status], deeds: frozenset[Deed]) -> str:
    done = ", ".join(sorted(deed.value for deed in deeds)) or "nothing"
    return f"permitted: {sorted(status.value for status in allowed)}, done to it: {done}"


def _public_problems(document: dict[str, Any], public: dict[str, Any] | None) -> list[str]:
    if public is None:
        return []
    told = (public["status"], public["lastStep"], public["checkpoints"])
    expected = (document["status"], document["last_step"], [c["path"] for c in document["checkpoints"]])
    return [] if told == expected else [f"experiments.json says {told[:2]} of it, list {expected[:2]}"]


def _notice_problems(population: Population, member: Member, run: Run) -> list[str]:
    """Nobody is told twice of one end; and of the last one, where nothing was done to who tells."""
    if not member.is_notified:
        return []
    notices = sum(line.split()[0] == member.run_id for line in lines_of(population.notices_path))
    ends = sum(isinstance(entry, (SessionEnded, Refused, NotContinued)) for entry in population.entries(member))
    deeds = _deeds(member)
    is_clean = not deeds & {Deed.KILL_SUPERVISOR, Deed.KILL_NOTIFIER, Deed.STOP_NOW, Deed.FULL_DISK, Deed.READ_ONLY}
    is_new = len(run.sessions) > member.checked
    told = model.notices_permitted(ends, is_clean and is_new)
    return [] if notices in told else [f"it was told {notices} times of {ends} ends, and not one of {list(told)}"]


def check_reindex(population: Population, found: Found) -> None:
    """A rebuilt index says the very same."""
    before = population.call_now("list", "--json").stdout
    done = population.call_now("reindex")
    after = population.call_now("list", "--json").stdout
    if done.code != 0:
        found(None, f"reindex exited with {done.code}:\n{done.stderr[-1000:]}")
    elif there := _changes(json.loads(before), json.loads(after)):
        found(None, f"list says something else after reindex (before, after): {there}")


def _changes(before: list[dict[str, Any]], after: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """Where two lists of runs differ: run, field, and what each has there."""
    if [one["id"] for one in before] != [one["id"] for one in after]:
        return [("runs", [one["id"] for one in before], [one["id"] for one in after])]
    return [
        (old["id"], name, old.get(name), new.get(name))
        for old, new in zip(before, after, strict=True)
        for name in old.keys() | new.keys()
        if old.get(name) != new.get(name)
    ]


def wait_for_rest(population: Population, timeout_s: float) -> list[str]:
    """Who still goes on after that time."""
    deadline = time.monotonic() + timeout_s
    while True:
        population.reap()
        alive = [m.run_id for m in population.everybody() if population.supervisor_of(m) is not None]
        alive += [str(p) for p in population.processes.values() if p.purpose != "page"]
        alive += [f"sweeper {pid}" for pid in (population.sweeper(),) if pid is not None]
        alive += [f"starts a trial: {pid}" for pid in population.starters()]
        alive += [f"Slurm's job {job}" for job in population.jobs()]
        if not alive or time.monotonic() > deadline:
            return alive
        time.sleep(0.02)
