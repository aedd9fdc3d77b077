"""Slots and the line: tickets of real processes, locks that the kernel releases, and a line in which nobody starves."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.governor import run_queue
from backprop.governor.run_queue import (
    QueueEntry,
    QueueLockedError,
    QueueSlot,
    RunQueue,
    ahead_of,
    in_order,
    in_the_way_of,
    is_stopped,
    promise,
    promises,
    to_be_first,
    turn,
)
from backprop.governor.start_policy import Obstacle, admit
from backprop.records import MAX_PRIORITY, Limits, MachineState, Record, Ticket
from tests.conftest import wait_for

GB = 10**9


def ticket(run_id: str = "r", **changes: object) -> Ticket:
    told = {
        "run_id": run_id,
        "pid": os.getpid(),
        "user": "me",
        "since_unix_s": time.time(),
        "max_parallel": 2,
        **changes,
    }
    return Ticket(**told)  # type: ignore[arg-type]


@pytest.fixture
def line(tmp_path: Path) -> RunQueue:
    return RunQueue(tmp_path / "line", "here")


@pytest.fixture
def join(line: RunQueue) -> Iterator[Callable[..., QueueSlot]]:
    """Takes the last place of the line, for the time of the test."""
    taken = []

    def take(run_id: str = "r", **changes: object) -> QueueSlot:
        with line.alone():
            taken.append(line.join(ticket(run_id, **changes)))
        return taken[-1]

    yield take
    for place in taken:
        if place.path.exists():
            place.leave()


JOIN = """
import os, sys, time
from pathlib import Path
from backprop.governor.run_queue import RunQueue
from backprop.records import Ticket
line = RunQueue(Path(sys.argv[1]), "here")
with line.alone():
    place = line.join(Ticket(run_id=sys.argv[2], pid=os.getpid(), user="me", since_unix_s=time.time(), max_parallel=2))
place.change(is_running=sys.argv[3] == "running")
print(place.number, flush=True)
time.sleep(60)
"""


@pytest.fixture
def other(tmp_path: Path) -> Iterator[Callable[[str, str], "subprocess.Popen[bytes]"]]:
    """Another process that joins, and waits or runs."""
    started = []

    def start(run_id: str, state: str) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-c", JOIN, str(tmp_path / "line"), run_id, state]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE))
        assert started[-1].stdout is not None
        assert started[-1].stdout.readline().strip().isdigit()
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def ids(entries: list[QueueEntry]) -> list[str]:
    return [entry.ticket.run_id if entry.ticket is not None else "?" for entry in entries]


def test_first_come_first_served(line: RunQueue, join: Callable[..., QueueSlot]):
    """Numbers grow; whoever has a smaller one and waits is ahead."""
    first, second, third = join("a"), join("b"), join("c")
    assert ids(line.read()) == ["a", "b", "c"]
    assert ids(ahead_of(line.read(), third.number)) == ["a", "b"]
    first.change(is_running=True)
    assert ids(ahead_of(line.read(), third.number)) == ["b"]
    second.leave()
    assert ahead_of(line.read(), third.number) == []


def queued(number: int, priority: int = 0, **changes: object) -> QueueEntry:
    return QueueEntry(number=number, ticket=ticket(f"r{number}", priority=priority, **changes))


priorities = st.integers(-300, 300)  # also what no option takes: a ticket may be of another version
queues = st.dictionaries(st.integers(1, 400), priorities, max_size=40).map(
    lambda told: [queued(number, priority) for number, priority in sorted(told.items())]
)


@given(queues)
def test_whoever_waits_has_one_place_in_the_queue(entries: list[QueueEntry]):
    """One is first, and each has exactly those before it ahead; without priorities, those with smaller numbers."""
    order = in_order(entries)
    for place, entry in enumerate(order):
        assert entry.ticket is not None
        assert ahead_of(entries, entry.number, entry.ticket.priority) == order[:place]
    plain = [queued(entry.number) for entry in entries]
    assert in_order(plain) == plain


@given(queues)
def test_nobody_is_overtaken_by_many(entries: list[QueueEntry]):
    """However great the priorities of the others, fewer than MAX_PRIORITY that came later are ahead."""
    for entry in entries:
        later = [one for one in ahead_of(entries, entry.number) if one.number > entry.number]
        assert all(one.number < entry.number + MAX_PRIORITY for one in later)
        assert len(later) < MAX_PRIORITY


@given(st.lists(st.integers(0, 300), max_size=5), st.integers(0, 2))
@settings(deadline=None)
def test_nobody_starves_while_others_keep_coming(asked_for: list[int], each_time: int):
    """One run starts at a time, and newcomers of every priority never cease: all who wait get their turn."""
    waiting = [queued(number, priority) for number, priority in enumerate(asked_for, start=1)]
    number, starts = len(waiting), 0
    first_ones = {entry.number for entry in waiting}
    while first_ones and starts <= 2 * len(asked_for) * MAX_PRIORITY:
        started = in_order(waiting)[0]
        waiting.remove(started)
        first_ones.discard(started.number)
        starts += 1
        for _ in range(each_time):
            number += 1
            waiting.append(queued(number, MAX_PRIORITY))
    assert not first_ones
    assert starts <= len(asked_for) + MAX_PRIORITY


@given(queues.filter(bool), st.data())
def test_the_priorities_to_be_first(entries: list[QueueEntry], data: st.DataObject):
    """The runs are first, in the order that is asked for; where priorities do not suffice, no later than before."""
    entries = [queued(one.number, max(-100, min(100, one.ticket.priority))) for one in entries if one.ticket]
    numbers = data.draw(st.lists(st.sampled_from([entry.number for entry in entries]), min_size=1, unique=True))
    found = dict(zip(numbers, to_be_first(entries, numbers), strict=True))
    moved = [queued(one.number, found[one.number]) if one.number in found else one for one in entries]
    assert all(-MAX_PRIORITY <= priority <= MAX_PRIORITY for priority in found.values())
    if all(priority < MAX_PRIORITY for priority in found.values()):
        assert [entry.number for entry in in_order(moved)][: len(numbers)] == numbers
    for entry in entries:
        if entry.number in found and entry.ticket is not None:
            assert turn(entry.number, found[entry.number]) <= turn(entry.number, entry.ticket.priority)


def test_numbers_are_never_given_twice(line: RunQueue, join: Callable[..., QueueSlot]):
    """Whoever comes when the line is empty does not get the place of somebody who remembers one."""
    numbers = []
    for _ in range(3):
        place = join()
        numbers.append(place.number)
        place.leave()
    assert numbers == sorted(set(numbers))


def test_a_damaged_counter_keeps_the_order(line: RunQueue, join: Callable[..., QueueSlot], tmp_path: Path):
    join("a")
    (tmp_path / "line/here/lock").write_text("rubbish")
    join("b")
    assert ids(line.read()) == ["a", "b"]


@pytest.mark.parametrize("state", ["waiting", "running"])
def test_a_crash_frees_slot_and_place_at_once(
    line: RunQueue, other: Callable[[str, str], "subprocess.Popen[bytes]"], state: str
):
    """The kernel releases the lock of a process that is gone; nobody has to clean up first."""
    process = other("crashed", state)
    (entry,) = line.read()
    assert (entry.holds_a_slot, entry.is_waiting) == (state == "running", state == "waiting")
    assert line.still_waits(entry) is (state == "waiting")
    process.kill()
    process.wait()
    assert line.read() == []
    assert not line.still_waits(entry)


def test_only_who_is_alone_removes_the_tickets_of_the_dead(
    line: RunQueue, other: Callable[[str, str], "subprocess.Popen[bytes]"], tmp_path: Path
):
    """A ticket that was just made is not locked yet: to take it for dead is to let two into one slot."""
    process = other("crashed", "running")
    process.kill()
    process.wait()
    left = list((tmp_path / "line/here").glob("*-crashed"))
    line.read()
    assert left[0].exists()
    with line.alone():
        line.read(tidy=True)
    assert not left[0].exists()


def test_a_suspended_waiter_is_passed(line: RunQueue, other: Callable[[str, str], "subprocess.Popen[bytes]"]):
    """It cannot take its turn; when it goes on it has its old place."""
    process = other("away", "waiting")
    number = line.read()[0].number + 1
    assert ids(ahead_of(line.read(), number)) == ["away"]
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: is_stopped(process.pid))
    (entry,) = line.read()
    assert (entry.ticket is not None and entry.ticket.is_away, line.still_waits(entry)) == (True, False)
    assert ahead_of([entry], number) == []
    process.send_signal(signal.SIGCONT)
    wait_for(lambda: ids(ahead_of(line.read(), number)) == ["away"])


def test_a_suspended_runner_keeps_its_slot(line: RunQueue, other: Callable[[str, str], "subprocess.Popen[bytes]"]):
    process = other("busy", "running")
    process.send_signal(signal.SIGSTOP)
    wait_for(lambda: is_stopped(process.pid))
    assert [entry.holds_a_slot for entry in line.read()] == [True]


def test_a_ticket_that_cannot_be_read_holds_a_slot(line: RunQueue, join: Callable[..., QueueSlot]):
    """Better one run too few than one too many."""
    place = join()
    place.path.write_bytes(b"\x00 rubbish\n")
    (entry,) = line.read()
    assert (entry.ticket, entry.holds_a_slot, entry.is_waiting) == (None, True, False)
    assert promises([entry], [entry])[0].ram_bytes == 0


def test_the_last_whole_line_of_a_ticket_counts(line: RunQueue, join: Callable[..., QueueSlot]):
    """A line cut short by a full disk loses nothing that was there before, and swallows nothing after."""
    place = join()
    place.change(ram_bytes=5)
    with place.path.open("ab") as file:
        file.write(b'{"run_id": "r", "pi')
    assert line.read()[0].ticket == place.ticket
    place.change(ram_bytes=6)
    (entry,) = line.read()
    assert entry.ticket is not None
    assert entry.ticket.ram_bytes == 6


def test_a_lock_that_somebody_keeps_is_not_waited_for_without_end(
    line: RunQueue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """Whoever asks for a turn can be stopped meanwhile; and nobody else gets at the lock."""
    (tmp_path / "line/here").mkdir(parents=True)
    for folder in (tmp_path / "line", tmp_path / "line/here"):
        folder.chmod(0o755)  # made by an earlier version
    monkeypatch.setattr(run_queue, "LOCK_PATIENCE_S", 0.0)
    with line.alone(), pytest.raises(QueueLockedError, match="line/here/lock"), line.alone():
        pass
    assert {oct(path.stat().st_mode & 0o777) for path in tmp_path.rglob("*")} == {"0o700", "0o600"}


def test_those_of_other_hosts_are_none_of_ours(tmp_path: Path, join: Callable[..., QueueSlot]):
    join()
    assert RunQueue(tmp_path / "line", "there").read() == []


# -- promises


def running(**changes: object) -> QueueEntry:
    return QueueEntry(number=1, ticket=ticket(is_running=True, **changes))


def test_a_promise_shrinks_by_what_was_seen_before_the_machine_was_read():
    """What it took since is not missing from the reading yet, and would be counted by nobody."""
    promised = {"ram_bytes": 5 * GB, "vram_bytes": {"g": 8 * GB}}
    now = running(**promised, ram_seen_bytes=4 * GB, vram_seen_bytes={"g": 7 * GB})
    earlier = running(**promised, ram_seen_bytes=1 * GB, vram_seen_bytes={"g": 2 * GB})
    told = promise(now, earlier, time.time())
    assert (told.ram_bytes, told.vram_bytes) == (4 * GB, {"g": 6 * GB})
    assert promise(now, None, time.time()).ram_bytes == 5 * GB  # admitted since: nothing of it can be in the reading


def test_a_promise_that_was_used_up_is_none():
    told = promise(
        now := running(ram_bytes=GB, ram_seen_bytes=3 * GB, vram_bytes={"g": 1}, vram_seen_bytes={"g": 2}), now, 0
    )
    assert (told.ram_bytes, told.vram_bytes) == (0, {"g": 0})


def test_what_nobody_can_see_is_owed_for_two_minutes():
    """A card that does not tell who holds what: by then a framework has allocated."""
    entry = running(vram_bytes={"g": GB}, since_unix_s=1000.0)
    assert promise(entry, entry, 1119).vram_bytes == {"g": GB}
    assert promise(entry, entry, 1121).vram_bytes == {}


# -- no starvation


class Asked(Record, frozen=True):
    arrives_at: int
    lasts: int
    ram_bytes: int
    max_parallel: int


asked = st.builds(
    Asked,
    arrives_at=st.integers(0, 20),
    lasts=st.integers(1, 10),
    ram_bytes=st.integers(0, 10),
    max_parallel=st.integers(1, 4),
)


@given(st.lists(asked, max_size=12))
@settings(deadline=None)
def test_everybody_gets_a_turn_in_order(wanted: list[Asked]):
    """However long they take and whatever they need: nobody is overtaken, no limit is passed, all come to an end."""
    wanted = sorted(wanted, key=lambda one: one.arrives_at)
    total, entries, ends, admitted = 10, dict[int, QueueEntry](), dict[int, int](), list[int]()
    last_arrival = max((one.arrives_at for one in wanted), default=0)
    for now in range(last_arrival + sum(one.lasts for one in wanted) + 1):
        for number in [number for number, end in ends.items() if end <= now]:
            del entries[number], ends[number]
        for number, one in enumerate(wanted):
            if one.arrives_at == now:
                entries[number] = QueueEntry(number=number, ticket=ticket(str(number), max_parallel=one.max_parallel))
        for number in sorted(entries):
            if entries[number].holds_a_slot or ahead_of(list(entries.values()), number):
                continue
            one = wanted[number]
            limits = Limits(
                timebox_s=1,
                grace_s=1,
                min_free_ram_bytes=one.ram_bytes,
                min_free_disk_bytes=0,
                max_parallel=one.max_parallel,
            )
            # nobody has taken what it was promised: all of it is owed
            others = promises(list(entries.values()), [], number)
            decision = admit(limits, MachineState(ram_available_bytes=total), others)
            if decision.is_admitted:
                assert len(others) < one.max_parallel
                assert sum(other.ram_bytes for other in others) + one.ram_bytes <= total or one.ram_bytes == 0
                took = ticket(str(number), is_running=True, ram_bytes=one.ram_bytes, max_parallel=one.max_parallel)
                entries[number] = QueueEntry(number=number, ticket=took)
                ends[number] = now + one.lasts
                admitted.append(number)
            else:
                assert decision.obstacle in {Obstacle.SLOT, Obstacle.RAM}
    assert admitted == list(range(len(wanted)))
    assert not entries


# -- runs inside of runs

OUTER = QueueEntry(number=1, ticket=ticket("outer", is_running=True))
INNER = QueueEntry(number=2, ticket=ticket("inner", is_running=True, within="outer"))
OTHER = QueueEntry(number=3, ticket=ticket("other", is_running=True))
STRANGER = QueueEntry(number=4, ticket=ticket("stranger"))
SIBLING = QueueEntry(number=5, ticket=ticket("sibling", within="outer"))
TORN = QueueEntry(number=6, ticket=None)
LINE = [OUTER, INNER, OTHER, STRANGER, SIBLING, TORN]


@pytest.mark.parametrize(
    ("within", "left"),
    [
        (None, LINE),
        ("gone", LINE),  # it has ended, or is of a home that this is a copy of
        ("stranger", LINE),  # has not begun: nothing can be inside it
        ("outer", [INNER, OTHER, SIBLING, TORN]),
        ("inner", [OTHER, SIBLING, TORN]),
    ],
)
def test_who_is_waited_for_inside_a_run(within: str | None, left: list[QueueEntry]):
    """Neither those around it nor those that wait for these; who runs, and who waits inside the same, is."""
    assert in_the_way_of(LINE, within) == left


def test_runs_that_say_they_are_inside_of_each_other():
    """Files may say anything."""
    one = QueueEntry(number=1, ticket=ticket("one", is_running=True, within="two"))
    two = QueueEntry(number=2, ticket=ticket("two", is_running=True, within="one"))
    assert in_the_way_of([one, two], "one") == []


def test_a_steady_run_holds_back_less_than_it_was_promised():
    """On GPUs and in RAM; not while it is paused, which its ticket shows by no time of growth."""
    promised = ticket(
        is_running=True,
        ram_bytes=4 * GB,
        ram_seen_bytes=GB // 10,
        vram_bytes={"g": 10 * GB},
        vram_seen_bytes={"g": 2 * GB},
        grown_unix_s=1000.0,
    )
    entry = QueueEntry(number=1, ticket=promised)
    young, steady = promise(entry, entry, 1119.0), promise(entry, entry, 1120.0)
    assert (young.ram_bytes, young.vram_bytes) == (4 * GB - GB // 10, {"g": 8 * GB})
    assert (steady.ram_bytes, steady.vram_bytes) == (306_000_000, {"g": GB + 256_000_000})
    paused = QueueEntry(number=1, ticket=msgspec.structs.replace(promised, grown_unix_s=None))
    assert promise(paused, paused, 9999.0) == young
