"""What XGBoost and LightGBM have in common: one call of `train`, its rounds, and the checkpoint it can continue from.

A call is known by its number: the third call of a script's is the third when the script runs again. A checkpoint holds
the state of the one call that was going on. On resume the calls before it train again, since what the script made of
their results is not ours to know; that one continues; and those after it begin as usual.

Continuing means that the library's own loop runs over all rounds again, but trains and evaluates only those that are
missing: for the rounds that are done the library's callbacks get the evaluations on record. Thus early stopping, the
history of evaluations and schedules come out as if nothing had been interrupted, and round numbers are right. The
user's own callbacks are not called for these rounds; they get back the attributes they had, as far as pickle can.

A checkpoint is a zip file, so that its checksums tell whether it is whole: `backprop.json`, which says what it is, the
model as its library writes it, and the rest as a pickle.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

from .. import files
from ..failsafe import is_off, say
from ..ranks import rank
from ..session import Session, current

_ABOUT = "backprop.json"
_STATE = "state.pickle"

_counts: dict[str, int] = {}  # calls of each library's train() so far
_working_folder = os.getcwd()  # as the script was started in: it may go elsewhere


class Saved(NamedTuple):
    """A call of `train` as it was after some round."""

    rounds: int
    model: bytes
    evaluations: list[Any]  # one a round, as the library's hook wants it
    callbacks: list[Optional[bytes]]  # attributes of the user's callbacks, in order; None: pickle cannot


class Call:
    """One call of a library's `train` in a session."""

    def __init__(self, library: str, suffix: str, session: Session) -> None:
        """suffix: of the model's file."""
        self.library = library
        self.session = session
        self.saved: Optional[Saved] = None  # where it continues
        self.evaluations: list[Any] = []  # as in Saved
        self.total: Optional[int] = None  # rounds in all, where they are known
        self.number = _counts[library] = _counts.get(library, 0) + 1
        self._model_name = f"model.{suffix}"

    @property
    def done(self) -> int:
        """How many rounds need no training."""
        return 0 if self.saved is None else self.saved.rounds

    def look_for_checkpoint(self) -> None:
        """Find out whether this call is the one that is to be continued."""
        path = self.session.resume_from
        if path is not None:
            self.saved = _read(path, self.library, self.number, self._model_name)
            if self.saved is not None:
                self.evaluations = list(self.saved.evaluations)

    def start_over(self, reason: str) -> None:
        """Train this call from its first round, and tell the user why."""
        self.tell(f"cannot continue after round {self.done}: {reason}. It starts over")
        self.saved = None
        self.evaluations = []

    def tell(self, what: str) -> None:
        """One line for the user."""
        say(f"{self.library} {what}")

    def log(self, rounds: int, metrics: Mapping[str, Any]) -> None:
        """Report the metrics of a round."""
        self.session.log(rounds, metrics, total_steps=self.total)

    def round_ended(self, rounds: int, model: Callable[[], bytes], callbacks: Sequence[Any]) -> bool:
        """Do what is wanted after so many rounds; gives whether training must stop.

        model: gives its bytes. callbacks: the user's.
        """
        wish = self.session.at_step_end(rounds)
        if wish.save or wish.stop:
            with self.session.saving():
                self._save(rounds, model, callbacks)
        if wish.stop:
            self.session.obey_stop()
        return wish.stop

    def _save(self, rounds: int, model: Callable[[], bytes], callbacks: Sequence[Any]) -> None:
        if rank() != 0:
            return
        saved = Saved(rounds, model(), self.evaluations, [_attributes(callback) for callback in callbacks])
        name = f"{self.library}-round-{rounds:06}.zip"
        if self.number > 1:
            name = f"{self.library}-call-{self.number}-round-{rounds:06}.zip"
        path = os.path.join(_working_folder, files.FOLDER, self.session.run_id, name)
        try:
            self._write(path, saved)
        except OSError as error:  # a full disk: what was asked for besides the save is done nevertheless
            self.tell(f"could not save after round {rounds}: {error}")
            return
        self.session.saved(path, rounds)

    def _write(self, path: str, saved: Saved) -> None:
        import pickle
        import zipfile

        about = {
            "library": self.library,
            "call": self.number,
            "rounds": saved.rounds,
        }
        with files.whole(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
            archive.writestr(_ABOUT, json.dumps(about))
            archive.writestr(_STATE, pickle.dumps((saved.evaluations, saved.callbacks)))
            archive.writestr(self._model_name, saved.model)


def begin(library: str, suffix: str) -> Optional[Call]:
    """The call of `train` that begins now; None when it is not ours to look after.

    Of a script's processes and threads only the main ones are: workers of a parallel search train at the same time,
    and in no order that could be found again.
    """
    session = current()
    if session is None or is_off(library) or threading.current_thread() is not threading.main_thread():
        return None
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.current_process().name != "MainProcess":
        return None
    return Call(library, suffix, session)


def restore(callback: Any, attributes: Optional[bytes]) -> None:
    """Give a callback of the user's back the attributes it had."""
    if attributes is None:
        return
    import pickle

    try:
        vars(callback).update(pickle.loads(attributes))  # noqa: S301  we wrote it
    except Exception as error:  # noqa: BLE001  the script was edited since, say: the callback starts anew
        say(f"a {type(callback).__name__} begins anew: {type(error).__name__}: {error}")


def _attributes(callback: Any) -> Optional[bytes]:
    import pickle

    try:
        return pickle.dumps(vars(callback))
    except Exception:  # noqa: BLE001  files, lambdas, slots: it starts anew on resume, as it would without us
        return None


def _read(path: str, library: str, number: int, model_name: str) -> Optional[Saved]:
    """What a checkpoint holds; None when it is not one of this call's."""
    import pickle
    import zipfile

    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if _ABOUT not in archive.namelist():
            return None
        about = json.loads(archive.read(_ABOUT))
        if (about.get("library"), about.get("call")) != (library, number):
            return None
        evaluations, callbacks = pickle.loads(archive.read(_STATE))  # noqa: S301  we wrote it
        return Saved(about["rounds"], archive.read(model_name), evaluations, callbacks)
