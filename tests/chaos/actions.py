"""What is done to the population, one action a step. A plan of steps follows from a seed alone.

What an action finds (who lives, who waits) depends on the processes, so that a replay makes the same choices, and not
the same history.
"""

import contextlib
import math
import os
import random
import signal
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import psutil

from tests.chaos import clock, sweep_actions
from tests.chaos.model import Deed, expected_checkpoint
from tests.chaos.population import SLOTS, Member, Population
from tests.slurm.cluster import NODES


@dataclass(frozen=True)
class Step:
    """One action, with all that chance decides about it."""

    action: str
    slot: int
    x: float
    y: float
    pause_s: float  # until the next


Do = Callable[[Population, Member, Step], str | None]  # what was done; None: there was nothing to do it to


@dataclass(frozen=True)
class Action:
    weight: float
    do: Do
    is_fault: bool = True
    needs_slurm: bool = False


def plan(seed: int, *, with_slurm: bool = False) -> Iterator[Step]:
    """The steps that follow from a seed."""
    rng = random.Random(seed)
    names = [name for name, action in ACTIONS.items() if with_slurm or not action.needs_slurm]
    weights = [ACTIONS[name].weight for name in names]
    while True:
        (action,) = rng.choices(names, weights)
        slot, x, y = rng.randrange(SLOTS), rng.random(), rng.random()
        yield Step(action, slot, x, y, rng.choice((0.0, 0.01, 0.05, rng.uniform(0, 0.2))))


# -- runs


def wake(population: Population, member: Member, step: Step) -> str | None:
    """Start the run, or give it another session."""
    if population.supervisor_of(member) is not None or member.is_doomed:
        return None
    is_real = step.y < 0.25
    detach = ("-d",) if 0.2 < step.y < 0.6 else ()
    if not population.rundir(member.run_id).exists():
        if member.checked:
            return None  # it was lost: the next check says so
        _choose_kind(member, step.x)
        script = [word for word in member.words if word.startswith("@")]
        options = [word for word in member.words if not word.startswith("@")]
        words = ["run", "train.py", "--run-id", member.run_id, *detach, *options, "--", *_script_words(script)]
        member.is_new = False
    else:
        words = ["resume", member.run_id, "--again", *detach, *[w for w in member.words if not w.startswith("@")]]
    process = population.spawn(*words, purpose="front", member=member, is_real=is_real, notify=member.is_notified)
    return f"{process}"


def _script_words(words: list[str]) -> list[str]:
    return [part for word in words for part in word[1:].split("=")]


_ENDLESS = "@--target=1000000000"


def _choose_kind(member: Member, x: float) -> None:
    kinds: tuple[tuple[float, tuple[str, ...], dict[str, object]], ...] = (
        (0.30, (_ENDLESS,), {}),
        (0.15, (f"@--target={int(100 + 1500 * x)}",), {}),
        (0.15, ("-m", "0.03", _ENDLESS), {"is_short": True}),
        (0.12, ("-m", "0.02", "--sessions", "3", _ENDLESS), {"is_short": True, "sessions": 3}),
        (0.18, ("--retries", "3", "@--crash=0.7", _ENDLESS), {"retries": 3}),
        (0.10, (_ENDLESS, "@--stubborn=1"), {}),
    )
    kind = 0
    while kind < len(kinds) - 1 and x >= kinds[kind][0]:
        x -= kinds[kind][0]
        kind += 1
    _, words, changes = kinds[kind]
    member.words = words + (("@--child=1",) if int(x * 1000) % 3 == 0 else ())
    member.is_notified = int(x * 10000) % 4 == 0
    for name, value in changes.items():
        setattr(member, name, value)


def vary(population: Population, _: Member, step: Step) -> str | None:
    """Runs whose ids Backprop chooses; they are adopted at the next check."""
    words = ("run", "train.py", "--vary", "lr=1,2", "--", "--target", str(int(20 + step.x * 200)))
    return f"{population.spawn(*words, purpose='order')}"


def pause(population: Population, member: Member, step: Step) -> str | None:
    return _order(population, member, step, "pause")


def stop(population: Population, member: Member, step: Step) -> str | None:
    if population.supervisor_of(member) is None or not population.rundir(member.run_id).exists():
        return None
    population.happened(member, Deed.STOP)
    return _order(population, member, step, "stop")


def stop_now(population: Population, member: Member, step: Step) -> str | None:
    if population.supervisor_of(member) is None or not population.rundir(member.run_id).exists():
        return None
    population.happened(member, Deed.STOP_NOW)
    return _order(population, member, step, "stop", "--now")


def go_on(population: Population, member: Member, step: Step) -> str | None:
    """`resume` of what goes on: a pause is over, or it is said that it is busy."""
    if population.supervisor_of(member) is None:
        return None
    return wake_anyway(population, member, step)


def wake_anyway(population: Population, member: Member, step: Step) -> str | None:
    if not population.rundir(member.run_id).exists():
        return None
    process = population.spawn(
        "resume",
        member.run_id,
        "--again",
        purpose="front",
        member=member,
        is_real=step.y < 0.25,
        notify=member.is_notified,
    )
    return f"{process}"


def _order(population: Population, member: Member, step: Step, *words: str) -> str | None:
    if not population.rundir(member.run_id).exists():
        return None
    process = population.spawn(words[0], member.run_id, *words[1:], purpose="order", is_real=step.y < 0.2)
    return f"{process}"


def remove(population: Population, member: Member, step: Step) -> str | None:
    run = population.fold(member)
    if run is None or not run.status.is_final or population.supervisor_of(member) is not None:
        return None
    if len(run.sessions) < 12 and step.x < 0.8:
        return None
    member.is_doomed = True
    return f"{population.spawn('rm', member.run_id, '--yes', purpose='order', member=member)}"


# -- kills


def kill_supervisor(population: Population, member: Member, step: Step) -> str | None:
    pid = population.supervisor_of(member)
    if pid is None:
        return None
    population.happened(member, Deed.KILL_SUPERVISOR, pid)
    if not population.kill_and_reap(pid):
        return None
    population.note_death(member, pid)
    return f"SIGKILL to supervisor {pid} of {member.run_id}"


def kill_trainer(population: Population, member: Member, step: Step) -> str | None:
    pid = population.trainer_of(member)
    if pid is None:
        return None
    population.happened(member, Deed.KILL_TRAINER)
    member.trainers_killed.add(pid)
    return f"SIGKILL to trainer {pid} of {member.run_id}" if population.send(pid, signal.SIGKILL) else None


def kill_tree(population: Population, member: Member, step: Step) -> str | None:
    """As when the machine dies: supervisor first, or the trainer."""
    pid = population.supervisor_of(member)
    if pid is None:
        return None
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = [process.pid for process in psutil.Process(pid).children(recursive=True)]
        for one in (pid, *tree):  # with -d the command is its parent, until it has its answer
            population.happened(member, Deed.KILL_SUPERVISOR, one)
        if step.x < 0.5 and tree:
            population.happened(member, Deed.KILL_TRAINER)
            member.trainers_killed.update(tree)
            for one in tree:
                population.send(one, signal.SIGKILL)
        for one in (pid, *tree):
            population.kill_and_reap(one)
            population.note_death(member, one)
        return f"SIGKILL to {pid} and its tree {tree}, {member.run_id}"
    return None


def kill_command(population: Population, member: Member, step: Step) -> str | None:
    """A command, at any instant from its start on."""
    commands = [p for p in population.processes.values() if p.purpose in {"order", "view"}]
    if not commands:
        return None
    process = commands[int(step.x * len(commands))]
    return f"SIGKILL to {process}" if population.send(process.pid, signal.SIGKILL) else None


def kill_page(population: Population, member: Member, step: Step) -> str | None:
    pages = [p for p in population.processes.values() if p.purpose == "page"]
    if not pages:
        return None
    return f"SIGKILL to {pages[0]}" if population.send(pages[0].pid, signal.SIGKILL) else None


def kill_notifier(population: Population, member: Member, step: Step) -> str | None:
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "backprop.views.notification" in words:
                for told in population.everybody():
                    if str(population.rundir(told.run_id)) in words:
                        population.happened(told, Deed.KILL_NOTIFIER)
                process.kill()
                return f"SIGKILL to notification worker {process.pid}"
    return None


# -- signals


def _signal(population: Population, member: Member, number: signal.Signals, deed: Deed) -> str | None:
    pid = population.supervisor_of(member)
    if pid is None:
        return None
    population.happened(member, deed, pid)
    return f"{number.name} to supervisor {pid} of {member.run_id}" if population.send(pid, number) else None


def ctrl_c(population: Population, member: Member, step: Step) -> str | None:
    done = _signal(population, member, signal.SIGINT, Deed.CTRL_C)
    if done is not None and step.x < 0.3:
        population.later.append(
            (time.monotonic() + 0.3, "SIGINT again", lambda: _again(population, member, signal.SIGINT))
        )
    return done


def _again(population: Population, member: Member, number: signal.Signals) -> None:
    _signal(population, member, number, Deed.CTRL_C)


def terminate(population: Population, member: Member, step: Step) -> str | None:
    return _signal(population, member, signal.SIGTERM if step.x < 0.6 else signal.SIGHUP, Deed.TERMINATE)


def suspend_supervisor(population: Population, member: Member, step: Step) -> str | None:
    return _suspend(population, population.supervisor_of(member), step, f"supervisor of {member.run_id}")


def suspend_trainer(population: Population, member: Member, step: Step) -> str | None:
    return _suspend(population, population.trainer_of(member), step, f"trainer of {member.run_id}")


def suspend_sweeper(population: Population, member: Member, step: Step) -> str | None:
    return _suspend(population, population.sweeper(), step, "sweeper")


def _suspend(population: Population, pid: int | None, step: Step, whose: str) -> str | None:
    if pid is None or not population.send(pid, signal.SIGSTOP):
        return None
    population.suspended.add(pid)
    population.suspended_until = math.inf

    def wake_up() -> None:
        population.suspended.discard(pid)
        population.send(pid, signal.SIGCONT)
        population.suspended_until = math.inf if population.suspended else time.monotonic()

    population.later.append((time.monotonic() + 0.1 + 3 * step.x, f"SIGCONT to {pid}", wake_up))
    return f"SIGSTOP to {pid}, the {whose}"


def tear_checkpoint(population: Population, member: Member, step: Step) -> str | None:
    """Of a run that rests: the file from which it would continue is cut short."""
    run = population.fold(member)
    if run is None or run.last_session is None or population.supervisor_of(member) is not None or member.is_doomed:
        return None
    pid = run.last_session.trainer_pid
    if (pid is not None and population.is_ours(pid)) or population.is_held(
        population.rundir(member.run_id) / "journal.jsonl"
    ):
        return None  # it may be saving another one, or somebody have chosen already
    saved = [
        (session.number, path)
        for session in run.sessions
        for _, path in population.read_output(member, session.number).saved
    ]
    newest = expected_checkpoint(saved, member.torn, run.newest_number + 1)
    if newest is None:
        return None
    member.torn[newest] = run.newest_number + 1
    os.truncate(newest, int(os.path.getsize(newest) * step.x))
    return f"{newest} is cut short"


# -- the machine


def _touch_index(population: Population, spoil: Callable[[], None]) -> bool:
    population.fault(Deed.DAMAGED_INDEX)  # to the end of the round: damage may show late
    try:
        spoil()
    except OSError:
        return False
    return True


def delete_index(population: Population, member: Member, step: Step) -> str | None:
    def spoil() -> None:
        for name in ("index.db-wal", "index.db-shm", "index.db"):
            (population.home / name).unlink(missing_ok=True)

    return "index.db deleted" if _touch_index(population, spoil) else None


def damage_index(population: Population, member: Member, step: Step) -> str | None:
    path = population.home / "index.db"

    def spoil() -> None:
        size = path.stat().st_size
        for name in ("index.db-wal", "index.db-shm"):  # else some of it is whole, and what is not cannot be told
            (population.home / name).unlink(missing_ok=True)
        if step.x < 0.5:
            os.truncate(path, int(size * step.y))
        else:
            with open(path, "r+b") as file:
                file.write(b"\xff" * size)

    population.is_index_damaged = True
    return "index.db damaged" if _touch_index(population, spoil) else None


def damage_snapshot(population: Population, member: Member, step: Step) -> str | None:
    path = population.home / "experiments.json"
    try:
        if step.x < 0.5:
            path.unlink(missing_ok=True)
            return "experiments.json deleted"
        path.write_text('{"a": {"id"')
        population.spoiled_snapshot = path.stat().st_ino
    except OSError:
        return None
    return "experiments.json cut short"


def full_disk(population: Population, member: Member, step: Step) -> str | None:
    if not population.can_mount or population.is_read_only or population.is_full:
        return None
    duration_s = 0.2 + 2.5 * step.x
    population.fault(Deed.FULL_DISK)
    population.fill_disk()
    population.later.append((time.monotonic() + duration_s, "there is room again", population.make_room))
    return "the disk is full"


def read_only(population: Population, member: Member, step: Step) -> str | None:
    if not population.can_mount or population.is_read_only or population.is_full:
        return None
    duration_s = 0.2 + 2 * step.x
    population.fault(Deed.READ_ONLY)
    population.set_read_only(wanted=True)
    if not population.is_read_only:
        return None
    undo = (time.monotonic() + duration_s, "the home can be written", lambda: population.set_read_only(wanted=False))
    population.later.append(undo)
    return "the home is read-only"


def step_clock(population: Population, member: Member, step: Step) -> str | None:
    if clock.OFFSET_VARIABLE not in os.environ:
        return None
    seconds = (0, -5, 5, -3600, 3600, 86400, -86400)[int(step.x * 7)]
    clock.step(seconds)
    return f"the clock is {seconds} s off"


# -- Slurm


def wake_on_slurm(population: Population, _: Member, step: Step) -> str | None:
    """Start the run that Slurm executes, or give it another session; by a command that follows it."""
    (member,) = population.slurm_members
    run = population.fold(member)
    if population.fronts(member) or (run is not None and not run.status.is_final):
        return None
    words = ["resume", member.run_id, "--again"]
    if run is None:
        words = ["run", "--on", "slurm", "--run-id", member.run_id, "train.py", "--", *_script_words([_ENDLESS])[:2]]
    return f"{population.spawn(*words, purpose='front', member=member, is_real=True)}"


def kill_slurm_front(population: Population, _: Member, step: Step) -> str | None:
    """Who follows the run: it goes on."""
    (member,) = population.slurm_members
    run = population.fold(member)
    fronts = population.fronts(member)
    is_submitted = run is not None and (run.waiter is not None or run.last_session is not None)
    if not fronts or run is None or run.status.is_final or not is_submitted:
        return None  # one that dies before it has written its job down leaves that held, and `doctor` tells of it
    return f"SIGKILL to {fronts[0]}, which follows it" if population.kill_and_reap(fronts[0].pid) else None


def kill_job_supervisor(population: Population, _: Member, step: Step) -> str | None:
    (member,) = population.slurm_members
    session = population.open_session(member)
    if session is None or not population.is_ours(session.supervisor_pid):
        return None
    pid = session.supervisor_pid
    population.happened(member, Deed.KILL_SUPERVISOR, pid)
    if not population.kill_and_reap(pid):
        return None
    population.note_death(member, pid)
    return f"SIGKILL to supervisor {pid} of {member.run_id}, in Slurm's job {session.job}"


def kill_node_daemon(population: Population, _: Member, step: Step) -> str | None:
    """Slurm's own on one node; what it has started goes on, and so must the run."""
    cluster = population.cluster
    if cluster is None or any(told.startswith("slurmd") for _, told, _ in population.later):
        return None
    node = NODES[int(step.x * len(NODES))]
    cluster.kill_node(node, with_steps=False)
    again = (time.monotonic() + 0.3 + 2 * step.y, f"slurmd of {node} again", lambda: cluster.start_node(node))
    population.later.append(again)
    return f"SIGKILL to slurmd of {node}"


# -- looking on

_VIEWS: tuple[tuple[str, ...], ...] = (
    ("list", "--json"),
    ("list",),
    ("status", "--json"),
    ("status", "RUN", "--json"),
    ("status", "RUN"),
    ("compare", "RUN", "OTHER", "--json"),
    ("logs", "RUN"),
    ("logs", "RUN", "-f"),
    ("wait", "RUN"),
)


def view(population: Population, member: Member, step: Step) -> str | None:
    other = population.members[(step.slot + 1) % SLOTS]
    template = _VIEWS[int(step.x * len(_VIEWS))]
    names = {"RUN": member.run_id, "OTHER": other.run_id}
    words = [names.get(word, word) for word in template]
    if any(not population.rundir(run_id).exists() for word, run_id in names.items() if word in template):
        return None
    return f"{population.spawn(*words, purpose='view', is_real=step.y < 0.2)}"


def page(population: Population, member: Member, step: Step) -> str | None:
    if any(p.purpose == "page" for p in population.processes.values()):
        return None
    return f"{population.spawn('ui', '--no-open', '--port', 0, purpose='page', is_real=True)}"


def reindex(population: Population, member: Member, step: Step) -> str | None:
    return f"{population.spawn('reindex', purpose='order')}"


ACTIONS: dict[str, Action] = {
    "start or resume": Action(34, wake, is_fault=False),
    "vary": Action(0.3, vary, is_fault=False),
    "pause": Action(3, pause, is_fault=False),
    "go on": Action(4, go_on, is_fault=False),
    "stop": Action(2.5, stop, is_fault=False),
    "stop --now": Action(1.5, stop_now, is_fault=False),
    "rm": Action(3, remove, is_fault=False),
    "view": Action(5, view, is_fault=False),
    "page": Action(0.5, page, is_fault=False),
    "reindex": Action(0.8, reindex, is_fault=False),
    "kill supervisor": Action(18, kill_supervisor),
    "kill trainer": Action(9, kill_trainer),
    "kill tree": Action(6, kill_tree),
    "kill a command": Action(6, kill_command),
    "kill page": Action(0.5, kill_page),
    "kill notification worker": Action(3, kill_notifier),
    "SIGINT": Action(3, ctrl_c),
    "SIGTERM or SIGHUP": Action(2.5, terminate),
    "SIGSTOP supervisor": Action(2.5, suspend_supervisor),
    "SIGSTOP trainer": Action(2.5, suspend_trainer),
    "index deleted": Action(0.8, delete_index),
    "index damaged": Action(0.8, damage_index),
    "snapshot damaged": Action(1, damage_snapshot),
    "full disk": Action(0.7, full_disk),
    "read-only home": Action(0.5, read_only),
    "clock step": Action(2, step_clock),
    "checkpoint cut short": Action(3, tear_checkpoint),
    "start or resume sweep": Action(7, sweep_actions.sweep, is_fault=False),
    "sweep tick": Action(1, sweep_actions.tick, is_fault=False),
    "sweep stop": Action(0.6, sweep_actions.stop, is_fault=False),
    "sweep add": Action(0.5, sweep_actions.add, is_fault=False),
    "look at sweep": Action(1.5, sweep_actions.look, is_fault=False),
    "stop trial": Action(0.3, sweep_actions.of_a_trial(stop), is_fault=False),
    "pause trial": Action(0.3, sweep_actions.of_a_trial(pause), is_fault=False),
    "kill sweeper": Action(4, sweep_actions.kill_sweeper),
    "SIGINT or SIGTERM sweeper": Action(0.8, sweep_actions.signal_sweeper),
    "SIGSTOP sweeper": Action(0.8, suspend_sweeper),
    "kill supervisor of trial": Action(5, sweep_actions.of_a_trial(kill_supervisor)),
    "kill trial": Action(2.5, sweep_actions.of_a_trial(kill_trainer)),
    "kill tree of trial": Action(2, sweep_actions.of_a_trial(kill_tree)),
    "SIGTERM or SIGHUP trial": Action(0.5, sweep_actions.of_a_trial(terminate)),
    "SIGSTOP trial": Action(0.5, sweep_actions.of_a_trial(suspend_supervisor)),
    "start or resume on Slurm": Action(6, wake_on_slurm, is_fault=False, needs_slurm=True),
    "kill front of a Slurm job": Action(2.5, kill_slurm_front, needs_slurm=True),
    "kill supervisor in a Slurm job": Action(2.5, kill_job_supervisor, needs_slurm=True),
    "kill slurmd": Action(1.5, kill_node_daemon, needs_slurm=True),
}
