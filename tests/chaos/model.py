"""What a record may say, from what was done to a run and what its trainer wrote. Pure.

Where one outcome is certain, it alone is permitted; where two things raced, those two are.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from backprop.records import Session, Status


class Deed(Enum):
    """Something done to a run, or to the machine under it."""

    KILL_SUPERVISOR = "SIGKILL to the supervisor"
    KILL_TRAINER = "SIGKILL to the trainer"
    STOP = "backprop stop"
    STOP_NOW = "backprop stop --now"
    CTRL_C = "SIGINT to the supervisor"
    TERMINATE = "SIGTERM or SIGHUP to the supervisor"
    FULL_DISK = "a full disk"
    READ_ONLY = "a read-only home"
    KILL_NOTIFIER = "SIGKILL to the notification worker"
    DAMAGED_INDEX = "an index deleted or damaged"


STOPS = frozenset({Deed.STOP, Deed.STOP_NOW, Deed.CTRL_C, Deed.TERMINATE})
MACHINE = frozenset({Deed.FULL_DISK, Deed.READ_ONLY, Deed.DAMAGED_INDEX})
NONE_STARTED = frozenset({2, 3, 75, 130})


@dataclass(frozen=True, kw_only=True)
class Facts:
    """What is known of one session, whatever its record says."""

    deeds: frozenset[Deed] = frozenset()  # that may have met it
    has_counted: bool = False  # the trainer said that it has reached its target
    crash_code: int | None = None  # with which it said that it ends itself
    is_on_slurm: bool = False
    is_short: bool = False  # its timebox is so short that it may be over
    died_open: bool = False  # its supervisor was dead when its journal had no end of it


def permitted(facts: Facts) -> frozenset[Status]:
    """The states that the session may be filed in, once nobody answers for it any more."""
    if facts.died_open:
        return frozenset({Status.INTERRUPTED, *([Status.STOPPED] if Deed.STOP_NOW in facts.deeds else [])})
    found = set()
    if facts.has_counted:
        found.add(Status.COMPLETED)
    if facts.crash_code is not None:
        found.add(Status.FAILED)
    if facts.is_short:
        found.add(Status.TIMEBOXED)
    if facts.deeds & {*STOPS, Deed.FULL_DISK}:  # the governor, too, stops where the disk runs out
        found.add(Status.STOPPED)
    if facts.deeds & {Deed.KILL_TRAINER, Deed.FULL_DISK, Deed.READ_ONLY}:  # it cannot write, or not be launched
        found.add(Status.FAILED)
    if facts.deeds & {Deed.KILL_SUPERVISOR, Deed.STOP_NOW}:
        found.add(Status.INTERRUPTED)
    if facts.is_on_slurm and facts.deeds & {Deed.FULL_DISK, Deed.READ_ONLY}:  # its job cannot begin, or tell its end
        found.add(Status.INTERRUPTED)
    return frozenset(found)


def is_explained(status: Status, reason: str | None, deeds: frozenset[Deed]) -> bool:
    """Whether the reason says what a session without another one ended of: a disk that is full, or not to be written."""
    if status is Status.STOPPED and not deeds & STOPS:
        return "disk" in (reason or "")
    return status is not Status.FAILED or bool(reason)


def names_fault(stderr: str) -> bool:
    """Whether a command that gives up says that the home or its index is at fault."""
    return any(word in stderr for word in ("cannot write to the home folder", "the index", "has locked"))


def permitted_failures(facts: Facts) -> frozenset[int]:
    """The exit codes of a trainer that failed."""
    codes = set() if facts.crash_code is None else {facts.crash_code}
    if Deed.KILL_TRAINER in facts.deeds:
        codes.add(137)
    if Deed.FULL_DISK in facts.deeds:
        codes |= {1, 120}  # Python's own, also for what it cannot write at its end
    if facts.deeds & {Deed.FULL_DISK, Deed.READ_ONLY}:
        codes.add(127)  # no file for its output
    return frozenset(codes)


def permitted_without_session(deeds: frozenset[Deed]) -> frozenset[Status]:
    """The same for a run that never had one."""
    found = set()
    if deeds & {*STOPS, Deed.FULL_DISK, Deed.READ_ONLY}:
        found.add(Status.REFUSED)
    if deeds & {Deed.KILL_SUPERVISOR, Deed.STOP_NOW, Deed.CTRL_C, Deed.TERMINATE, Deed.FULL_DISK, Deed.READ_ONLY}:
        found.add(Status.INTERRUPTED)
    return frozenset(found)


def permitted_exit_codes(status: Status | None, trainer_code: int | None, deeds: frozenset[Deed]) -> frozenset[int]:
    """What a foreground `run` or `resume` may exit with that was not itself ended by a signal.

    status, trainer_code: of its last session; None: it had none.
    """
    codes: set[int]
    match status:
        case None:
            codes = {75}
        case Status.COMPLETED:
            codes = {0}
        case Status.FAILED:
            codes = set() if trainer_code is None else {trainer_code}
        case Status.STOPPED | Status.TIMEBOXED:
            codes = {137} if trainer_code == 137 else {0}
        case _:
            codes = set()
    if Deed.CTRL_C in deeds and status in {None, Status.STOPPED, Status.TIMEBOXED, Status.FAILED}:
        codes.add(130)  # in line for the next session, too
    if status is None and deeds & MACHINE:
        codes.add(2)
    return frozenset(codes)


def was_interrupted_early(code: int, stderr: str) -> bool:
    """Whether SIGINT met Python itself while it started, before any code of ours: it exits with 1 then.

    Seen once without a word, 21 ms after it was started, where SIGTERM followed at once.
    """
    is_told = stderr.startswith("Fatal Python error: init_") and "\nKeyboardInterrupt" in stderr
    return code == 1 and (is_told or not stderr)


def permitted_exit_codes_on_slurm(sessions: Sequence[Session], deeds: frozenset[Deed]) -> frozenset[int]:
    """What a command may exit with that followed some of these sessions of a job."""
    codes = {0, 75}
    codes |= {session.exit_code for session in sessions if session.exit_code is not None}
    codes |= {137} if Deed.KILL_SUPERVISOR in deeds else set()
    return frozenset(codes | ({2} if deeds & MACHINE else set()))


def expected_checkpoint(
    reported: Sequence[tuple[int, str]], torn_before: Mapping[str, int], session: int
) -> str | None:
    """The path from which a session must begin: the newest that was reported before it, and is whole.

    reported: session and path, in order. torn_before: of what was torn between sessions, the first session after that.
    """
    for reporter, path in reversed(reported):
        is_torn = path.endswith("-torn.json") or torn_before.get(path, session + 1) <= session
        if reporter < session and not is_torn:
            return path
    return None


def notices_permitted(ends: int, last_is_clean: bool) -> range:
    """How often the end of a run may have been told of: never twice, and at least the last where nothing was killed."""
    return range(1 if last_is_clean and ends else 0, ends + 1)
