"""The trainings of a run: which ones began, what they saved, and which checkpoint the current one continues from.

All processes of a session append to its `session-N.trainings` in the run directory. A checkpoint stores the identity of
its training; the files list all other trainings of the run, which shows what distinguishes them. With several ranks,
rank 0 decides for all.
"""

from __future__ import annotations

import json
import os
import weakref
from time import monotonic, sleep
from typing import Any, Callable, Mapping, NamedTuple, Optional

from .. import distributed
from ..failsafe import guarded, notify_user
from ..link import SupervisorLink
from ..plain_files import append, open_plain
from .fingerprint import combined
from .identity import VERSION, BegunTraining, Identity, SavedTraining, TrainingMatch, decide

HOOK = "the identification of trainings"
_AGREEMENT_TIMEOUT_S = 60.0  # rank 0 makes the same call, a little later at most


class SavedCheckpoint(NamedTuple):
    """A checkpoint that a session of the run reported."""

    path: str
    step: int
    is_finished: bool  # the training had ended


class Training:
    """One training, from its beginning."""

    def __init__(self, log: _TrainingsFile, identity: Identity, call: int) -> None:
        """call: 1-based number of the call in this process."""
        self.identity = identity
        self._file = log
        self._call = call
        begun = BegunTraining.of(log.session, identity)
        log.read()
        self.number = 1 + log.begun.get(begun, 0)
        log.begin(begun)

    @property
    def name(self) -> str:
        """A short name for files, unique among the trainings of the run."""
        return combined(*BegunTraining.of(0, self.identity)[1:], self.number)[:8]

    def stored(self, *, is_finished: bool = False) -> dict[str, Any]:
        """What a checkpoint of this training stores; JSON. is_finished: the training has ended, not only stopped."""
        identity = {**self.identity._asdict(), "parts": dict(self.identity.parts)}
        return {
            "version": VERSION,
            "run": self._file.run_id,
            "session": self._file.session,
            "number": self.number,
            "is_finished": is_finished,
            "identity": identity,
        }

    def judge(self, stored: Optional[Mapping[str, Any]]) -> Optional[TrainingMatch]:
        """Whether a checkpoint that stores this continues the training; None if it stores no identity."""
        if not stored or stored.get("version") != VERSION:
            return None
        saved = Identity(**stored["identity"])
        self._file.read()
        is_of_other_run = stored["run"] != self._file.run_id
        that = BegunTraining.of(0 if is_of_other_run else stored["session"], saved)
        begun = self._file.begun if that in self._file.begun else [*self._file.begun, that]
        saved_training = SavedTraining(
            saved, stored["number"], is_finished=stored["is_finished"], is_of_other_run=is_of_other_run
        )
        return decide(saved_training, self.identity, self.number, begun)

    def choose(
        self, called: str, offered: Optional[str], read: Callable[[str], Any], *, or_else: str = "starts over"
    ) -> Optional[str]:
        """The checkpoint to continue from; None if there is none. Explains surprising choices on stderr.

        called: the user's call, for messages. offered: the supervisor's choice. read: returns what a checkpoint stores
        of its training (`stored`), or None. or_else: what the call does if no checkpoint fits, for messages.
        """
        decision = None if offered is None else self.judge(read(offered))
        if decision is not None and decision.continues and not decision.is_guess:
            self._file.continued.add(offered)
            return offered
        found = self.find(read)  # a checkpoint that certainly fits comes before a guess
        if found is not None:
            return found.path
        if decision is not None and decision.continues:
            notify_user(
                f"{called} continues from {offered}, though {decision.reason} differ, as in a script without a "
                "random seed. If this is a different training, start a new run"
            )
            self._file.continued.add(offered)
            return offered
        if decision is not None and offered not in self._file.continued:
            notify_user(f"{called} {or_else}: {offered} is from another training, which differs in {decision.reason}")
        return None

    def find(self, read: Callable[[str], Any]) -> Optional[SavedCheckpoint]:
        """The newest checkpoint of this training by an earlier session; None if there is none."""
        self._file.read()
        if not self._file.is_resumed:  # the user wants it to start over
            return None
        exact: list[tuple[dict[str, Any], SavedCheckpoint]] = []
        fitting: list[tuple[dict[str, Any], SavedCheckpoint]] = []
        for stored, save in self._file.saves.values():  # in the order in which they were saved
            decision = self.judge(stored) if stored["session"] < self._file.session else None
            if decision is not None and decision.continues and not decision.is_guess:
                (fitting if decision.differing else exact).append((stored, save))
        for stored, save in exact[::-1] + fitting[::-1]:
            # another training may have overwritten it since
            if os.path.exists(save.path) and read(save.path) == stored:
                return save
        return None

    def saved(self, path: str, step: int, *, is_finished: bool = False) -> None:
        """Record a checkpoint that was reported. is_finished: the training has ended, not only stopped."""
        self._file.save(self.stored(is_finished=is_finished), SavedCheckpoint(os.path.abspath(path), step, is_finished))

    def agreed(self, choose: Callable[[], Any], world_size: Optional[int] = None) -> Any:
        """What rank 0 chooses, on all ranks; JSON. None if rank 0 does not answer within a minute.

        world_size: needed if the other ranks have not been started yet.
        """
        if (world_size or distributed.world_size()) == 1:
            return choose()
        return self._file.agreed(f"{self.identity.parts.get('framework')} {self._call}", choose)


class _TrainingsFile:
    """The `session-N.trainings` files of a run."""

    def __init__(self, link: SupervisorLink) -> None:
        """Touches nothing."""
        self.run_id, self.session = link.run_id, link.session_number
        self.is_resumed = link.is_resumed
        self.begun: dict[BegunTraining, int] = {}  # how many of each
        self.saves: dict[str, tuple[dict[str, Any], SavedCheckpoint]] = {}  # by path, in the order of the saves
        self.continued: set[Optional[str]] = set()  # offered checkpoints that a training of this process continues
        self._run_dir = link.run_dir
        self._offsets: dict[str, int] = {}
        self._answers: dict[str, Any] = {}

    def _path(self, number: int) -> str:
        return os.path.join(self._run_dir, f"session-{number}.trainings")

    @guarded(HOOK)
    def read(self) -> None:
        """Read what any process has appended since the last call."""
        for number in range(1, self.session + 1):
            path = self._path(number)
            if number < self.session and path in self._offsets:
                continue  # an earlier session, which is read once
            offset = self._offsets.get(path, 0)
            try:
                with os.fdopen(open_plain(path), "rb") as file:
                    file.seek(offset)
                    lines, newline, _ = file.read().rpartition(b"\n")
            except FileNotFoundError:
                lines, newline = b"", b""
            self._offsets[path] = offset + len(lines) + len(newline)
            for line in lines.splitlines():
                self._take(line, number)

    def _take(self, line: bytes, number: int) -> None:
        try:
            entry = json.loads(line)
        except ValueError:  # a session was killed, or the disk was full, in the middle of the line
            return
        if "begun" in entry:
            self._count(BegunTraining(number, *entry["begun"]))
        elif "saved" in entry:
            save = SavedCheckpoint(*entry["saved"])
            self.saves.pop(save.path, None)
            self.saves[save.path] = (entry["of"], save)
        elif "answer" in entry and number == self.session:
            self._answers[entry["to"]] = entry["answer"]

    def _count(self, begun: BegunTraining) -> None:
        self.begun[begun] = self.begun.get(begun, 0) + 1

    def begin(self, begun: BegunTraining) -> None:
        if distributed.rank() == 0:
            self._append({"begun": begun[1:]})
        else:
            self._count(begun)

    def save(self, stored: dict[str, Any], save: SavedCheckpoint) -> None:
        if distributed.rank() == 0:
            self._append({"saved": save, "of": stored})

    @guarded(HOOK)
    def _append(self, entry: dict[str, Any]) -> None:
        # starts with a line break, because a full disk may have cut off the line before
        append(self._path(self.session), f"\n{json.dumps(entry)}\n".encode())

    def agreed(self, question: str, choose: Callable[[], Any]) -> Any:
        if distributed.rank() == 0:
            answer = choose()
            self._append({"to": question, "answer": answer})
            return answer
        deadline = monotonic() + _AGREEMENT_TIMEOUT_S
        while question not in self._answers and monotonic() < deadline:
            self.read()
            sleep(0.01)
        if question not in self._answers:
            notify_user(f"rank 0 did not report what to continue from: rank {distributed.rank()} starts over")
        return self._answers.get(question)


class TrainingRegistry:
    """All trainings of this process."""

    def __init__(self, link: SupervisorLink) -> None:
        """Touches nothing."""
        self._file = _TrainingsFile(link)
        self._calls: dict[str, int] = {}
        self._trained: dict[int, tuple[Any, str]] = {}  # id of a model -> reference to it, what it was trained as

    def has_trained(self, model: Any) -> bool:
        """Whether a training of this object has begun before in this process."""
        before = self._trained.get(id(model))
        return before is not None and before[0]() is model

    def begin(self, identity: Identity, model: Any = None) -> Training:
        """Register a training that begins. model: the object that is trained, to recognize it in later trainings."""
        history = self._trained[id(model)][1] if self.has_trained(model) else "none"
        identity = identity._replace(history=history)
        framework = str(identity.parts.get("framework"))
        self._calls[framework] = self._calls.get(framework, 0) + 1
        try:
            reference = weakref.ref(model)
        except TypeError:  # None, or an object without weak references
            pass
        else:
            self._trained[id(model)] = (reference, combined(identity.kind, identity.place, history))
        return Training(self._file, identity, self._calls[framework])


_registry: Optional[TrainingRegistry] = None


def of(link: SupervisorLink) -> TrainingRegistry:
    """The registry of this process."""
    global _registry  # noqa: PLW0603  one in a process
    if _registry is None:
        _registry = TrainingRegistry(link)
    return _registry
