"""Whom SIGINT goes to, decided from what can be seen of a tree."""

from pathlib import Path

import pytest

from backprop.supervisor import interrupt_targets
from backprop.supervisor.interrupt_targets import InterruptTargets, Member, ProcessKind, choose

ROOT = 1


def member(pid: int, parent: int = ROOT, kind: ProcessKind = ProcessKind.PYTHON, **what: object) -> Member:
    return Member(pid=pid, parent_pid=parent, kind=kind, **{"group": ROOT, **what})  # type: ignore[arg-type]


def root(kind: ProcessKind = ProcessKind.PYTHON, **what: object) -> Member:
    return member(ROOT, 0, kind, **what)


CASES = {
    "a trainer alone": ([root()], (1,), ()),
    "a trainer and its workers": (
        [root(), member(2, kind=ProcessKind.WORKER), member(3, kind=ProcessKind.WORKER)],
        (1,),
        (),
    ),
    "a trainer and programs it reads from": (
        [root(), member(2, kind=ProcessKind.OTHER), member(3, kind=ProcessKind.SHELL)],
        (1,),
        (),
    ),
    "a launcher that waits": ([root(waits=True), member(2)], (2,), (1,)),
    "a launcher that waits for a program of any kind": (
        [root(waits=True), member(2, kind=ProcessKind.OTHER)],
        (2,),
        (1,),
    ),
    "a launcher that waits for a forked process": ([root(waits=True), member(2, kind=ProcessKind.WORKER)], (2,), (1,)),
    "a trainer below a launcher keeps its workers": (
        [root(waits=True), member(2), member(3, 2, ProcessKind.WORKER)],
        (2,),
        (1,),
    ),
    "who polls may be a launcher or a trainer: as in a terminal": ([root(), member(2)], (1, 2), ()),
    "as in a terminal, not in a session of its own": ([root(), member(2, group=2)], (1,), ()),
    "one that trains is asked wherever it is": (
        [root(), member(2, kind=ProcessKind.WORKER, group=2, trains=True), member(3, 2, ProcessKind.WORKER)],
        (2,),
        (1,),
    ),
    "one that trains keeps its helpers": ([root(trains=True), member(2), member(3, kind=ProcessKind.WORKER)], (1,), ()),
    "ranks that one of them has started": ([root(trains=True), member(2, trains=True)], (1, 2), ()),
    "who trained, and waits for one that trains now": (
        [root(trains=True, waits=True), member(2, trains=True)],
        (2,),
        (1,),
    ),
    "who trained, and waits for some program": ([root(trains=True, waits=True), member(2)], (1,), ()),
    "an agent passes it on": ([root(passes_on=True), member(2, trains=True), member(3, trains=True)], (1,), ()),
    "an agent below a launcher": ([root(waits=True), member(2, passes_on=True), member(3, 2, trains=True)], (2,), (1,)),
    "make": ([root(ProcessKind.OTHER, waits=True), member(2, kind=ProcessKind.SHELL), member(3, 2)], (2, 3), (1,)),
    "script": ([root(ProcessKind.OTHER), member(2, group=2)], (2,), (1,)),
    "a program of its own kind": ([root(ProcessKind.OTHER), member(2, kind=ProcessKind.OTHER)], (1,), ()),
    "a shell and a pipe": ([root(ProcessKind.SHELL), member(2), member(3, kind=ProcessKind.OTHER)], (1, 2), ()),
    "a shell without Python": ([root(ProcessKind.SHELL), member(2, kind=ProcessKind.OTHER)], (1, 2), ()),
    "a deaf child": ([root(waits=True), member(2, ignores_sigint=True)], (1,), ()),
    "a deaf root": ([root(ignores_sigint=True), member(2, kind=ProcessKind.WORKER)], (), ()),
    "whose parent has ended": ([root(), member(2, 99, trains=True), member(3, 99)], (1, 2), ()),
}


@pytest.mark.parametrize("name", CASES)
def test_who_is_interrupted(name: str):
    """At least who would be in a terminal, those that wait after those that train, and no worker."""
    members, first, later = CASES[name]
    assert choose(ROOT, members) == InterruptTargets(first=first, later=later)
    assert choose(ROOT, reversed(members)) in (
        InterruptTargets(first=first, later=later),
        InterruptTargets(first=first[::-1], later=later),
    )


def test_a_second_look_asks_nobody_twice():
    """And leaves alone what those have started meanwhile who were asked."""
    members = [root(waits=True), member(2), member(3, 2, ProcessKind.OTHER), member(4)]
    assert choose(ROOT, members, asked={2}, helpers={3}) == InterruptTargets(first=(4,), later=(1,))


def test_who_ends_and_joins_its_processes_gets_them_interrupted():
    """Python joins them at its exit: they are all that it waits for. Not those of one that trains."""
    worker = member(2, kind=ProcessKind.WORKER)
    assert choose(ROOT, [root(waits=True), worker], asked={1}) == InterruptTargets(first=(2,))
    assert choose(ROOT, [root(), worker], asked={1}) == InterruptTargets()
    assert choose(ROOT, [root(waits=True, trains=True), worker], asked={1}) == InterruptTargets()


def test_an_announcement_is_of_one_process_and_not_of_a_later_one_with_its_pid(tmp_path: Path):
    """Torn and strange lines are passed over; the last word on a pid counts."""
    path = tmp_path / "trains"
    assert interrupt_targets.announced(path) == {}
    path.write_bytes(b"12 300\n13 -\nnonsense\n\xff 1\n12 301\n14 5")
    assert interrupt_targets.announced(path) == {12: 301, 13: None, 14: 5}
