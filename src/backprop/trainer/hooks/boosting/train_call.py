"""Shared by XGBoost and LightGBM: one call of `train`, its rounds, and the checkpoint that it continues from.

A checkpoint holds the state of one call and its identity (trainings/identity.py): the call with the same identity
continues from it, in whatever process and order the script makes its calls. A call that took long enough is saved when
it ends, too; after a resume it trains nothing, and returns the same result. Calls without a checkpoint train again.

To continue, the library's own loop runs over all rounds again, but trains and evaluates only those that are missing;
for the others the library's callbacks get the recorded evaluations. So early stopping, the history of evaluations,
schedules and round numbers are the same as without the interruption. The user's own callbacks are not called for these
rounds; their attributes are restored, if they can be pickled.

A checkpoint is a zip file, whose checksums show whether it is complete: `backprop.json` describes it, the model is in
the library's format, and the rest is a pickle.
"""

from __future__ import annotations

import json
import os
import sys
import threading
from time import monotonic
from typing import Any, Callable, Mapping, NamedTuple, Optional, Sequence

from ... import atomic_files
from ...distributed import rank
from ...failsafe import is_off, notify_user
from ...link import SupervisorLink, current
from ...trainings import finished, registry
from ...trainings.fingerprint import Fingerprint
from ...trainings.identity import identify
from ...trainings.registry import Training

_ABOUT = "backprop.json"
_STATE = "state.pickle"

_MAX_CHECKED = 1 << 22  # values read of an array, evenly spread over larger ones

_counts: dict[str, int] = {}  # calls of each library's train() so far
_working_folder = os.getcwd()  # at the start: the script may change it


class SavedCall(NamedTuple):
    """The state of a call of `train` after a round."""

    rounds: int
    model: bytes
    evaluations: list[Any]  # one for each round, in the form that the library's hook needs
    callbacks: list[Optional[bytes]]  # attributes of the user's callbacks, in order; None if not picklable
    total: Optional[int] = None  # number of rounds requested
    is_finished: bool = False  # training ended after these rounds, and was not stopped
    took_s: float = 0.0
    data: Optional[str] = None  # fingerprint of the training data: see trainings/identity.py
    ending: Any = None  # further data of the library's hook for a finished one


class TrainCall:
    """One call of a library's `train` in a session."""

    def __init__(self, library: str, suffix: str, link: SupervisorLink) -> None:
        """suffix: of the model's file in a checkpoint."""
        self.library = library
        self.link = link
        self.saved: Optional[SavedCall] = None  # the state that it continues from
        self.evaluations: list[Any] = []  # as in SavedCall
        self.total: Optional[int] = None  # total number of rounds, if known
        self.number = _counts[library] = _counts.get(library, 0) + 1
        self._model_name = f"model.{suffix}"
        self._began = monotonic()
        self._training: Optional[Training] = None
        self._path: Optional[str] = None  # of the checkpoint that it continues from

    @property
    def done(self) -> int:
        """Number of rounds that need no training."""
        return 0 if self.saved is None else self.saved.rounds

    @property
    def is_finished_earlier(self) -> bool:
        """Whether an earlier session has finished it, so that nothing is trained."""
        return self.saved is not None and self.saved.is_finished and self.saved.total == self.total

    def identify(self, arguments: Mapping[str, Any], ignored: Sequence[str], data: Any) -> None:
        """Determine which training this is; called first. Arguments: see `trainings.identity.identify`."""
        self.link.announce_inspection(may_be_ours=self._offered is not None)
        identity = identify(self.library, "train", arguments, ignored=ignored, data=data, offered=self.link.resume_from)
        self._training = registry.of(self.link).begin(identity)

    def look_for_checkpoint(self) -> None:
        """Find the checkpoint of this call, if there is one."""
        self.saved = self._find()
        self._judge_saved()
        self.link.set_resume_source(None if self.saved is None else self._path)

    def _judge_saved(self) -> None:
        if self.saved is None:
            return
        self.evaluations = list(self.saved.evaluations)
        if self.total is not None and self.done > self.total:
            self.start_over(f"only {self.total} rounds are requested now")
        elif self._has_other_data(self.saved):
            self.start_over("it was trained on other data")

    def _has_other_data(self, saved: SavedCall) -> bool:
        """Whether a checkpoint is of other data, and cannot be continued.

        There are no initial weights here to distinguish folds. So only a call that is made once may continue with other
        data, as in a script without a random seed, and never if it was finished.
        """
        identity = self._identified.identity
        may_differ = identity.is_once and not self.is_finished_earlier
        return saved.data is not None and saved.data != identity.data and not may_differ

    def notify_finished_earlier(self) -> None:
        """Tell the user why nothing is trained, and the supervisor how far it is."""
        self.log(self.done, {})
        self.notify(f"returns what an earlier session has trained: {self.done} rounds")

    def _find(self) -> Optional[SavedCall]:
        offered = self._path = self._offered
        about = None if offered is None else _read_about(offered, self.library)
        if offered is not None and about is not None and about.get("training") is None:
            return _read(offered, self.library, self._model_name) if about.get("call") == self.number else None
        path = self._identified.choose(
            f"call {self.number} of {self.library}'s train",
            None if about is None else offered,
            self._read_stored,
        )
        self._path = path
        return None if path is None else _read(path, self.library, self._model_name)

    @property
    def _offered(self) -> Optional[str]:
        """The checkpoint to resume from, if it may be ours."""
        offered = self.link.resume_from
        return offered if offered is not None and offered.endswith(".zip") else None

    def _read_stored(self, path: str) -> Any:
        about = _read_about(path, self.library)
        return None if about is None else about.get("training")

    @property
    def _identified(self) -> Training:
        assert self._training is not None  # noqa: S101  a call without identity is not looked after
        return self._training

    def start_over(self, reason: str) -> None:
        """Train this call from its first round, and tell the user why."""
        self.notify(f"cannot continue after round {self.done}: {reason}. It starts over")
        self.saved = None
        self.evaluations = []

    def notify(self, what: str) -> None:
        """Print a line for the user."""
        notify_user(f"{self.library} {what}")

    def log(self, rounds: int, metrics: Mapping[str, Any]) -> None:
        """Report the metrics of a round."""
        self.link.steps.log(rounds, metrics, total_steps=self.total)

    def round_ended(self, rounds: int, model: Callable[[], bytes], callbacks: Sequence[Any]) -> bool:
        """Do what the supervisor requests after `rounds` rounds; returns whether training must stop.

        model: returns its bytes. callbacks: the user's.
        """
        request = self.link.at_step_end(rounds, total_steps=self.total)
        if request.save or request.stop:
            self._save(rounds, model, callbacks)
        if request.stop:
            self.link.accept_stop()
        return request.stop

    def ended(self, model: Callable[[], bytes], callbacks: Sequence[Any], ending: Any = None) -> None:
        """Save the result if it took long: the script may be stopped in what follows. Arguments as in `round_ended`."""
        is_kept = self.is_finished_earlier or self.link.is_stopping
        if not is_kept and self.evaluations and self._took_s() >= finished.WORTH_KEEPING_S:
            self._save(len(self.evaluations), model, callbacks, is_finished=True, ending=ending)

    def _took_s(self) -> float:
        return monotonic() - self._began + (0.0 if self.saved is None else self.saved.took_s)

    def _save(self, rounds: int, model: Callable[[], bytes], callbacks: Sequence[Any], **more: Any) -> None:
        """more: other fields of SavedCall."""
        if rank() != 0:
            return
        is_finished, took_s = bool(more.get("is_finished")), self._took_s()
        stem = f"{self.library}-{self._identified.name}"
        name = finished.name(stem, took_s, ".zip") if is_finished else f"{stem}-round-{rounds:06}.zip"
        path = os.path.join(_working_folder, atomic_files.FOLDER, self.link.run_id, name)
        attributes = [_attributes(callback) for callback in callbacks]
        with self.link.saving():
            saved = SavedCall(rounds, model(), self.evaluations, attributes, self.total, took_s=took_s, **more)
            try:
                self._write(path, saved)
            except OSError as error:  # a full disk: training may have to stop nevertheless
                self.notify(f"could not save after round {rounds}: {error}")
                return
            self.link.report_checkpoint(path, rounds)
            self._identified.saved(path, rounds, is_finished=is_finished)
        if is_finished:
            finished.keep_within_bounds(path, self.link.resume_from)

    def _write(self, path: str, saved: SavedCall) -> None:
        import pickle
        import zipfile

        about = {
            "library": self.library,
            "call": self.number,
            "rounds": saved.rounds,
            "total": saved.total,
            "is_finished": saved.is_finished,
            "took_s": saved.took_s,
            "training": self._identified.stored(is_finished=saved.is_finished),
        }
        with (
            atomic_files.atomic_write(path) as file,
            zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        ):
            archive.writestr(_ABOUT, json.dumps(about))
            archive.writestr(_STATE, pickle.dumps((saved.evaluations, saved.callbacks, saved.ending)))
            archive.writestr(self._model_name, saved.model)


def begin(library: str, suffix: str) -> Optional[TrainCall]:
    """The call of `train` that begins now; None if it is not looked after.

    Only calls in the main thread of a main process are: workers of a parallel search train at the same time, in an
    order that cannot be reproduced.
    """
    link = current()
    if link is None or is_off(library) or threading.current_thread() is not threading.main_thread():
        return None
    processes = sys.modules.get("multiprocessing.process")
    if processes is not None and processes.current_process().name != "MainProcess":
        return None
    return TrainCall(library, suffix, link)


def restore(callback: Any, attributes: Optional[bytes]) -> None:
    """Restore the attributes of one of the user's callbacks."""
    if attributes is None:
        return
    import pickle

    try:
        vars(callback).update(pickle.loads(attributes))  # noqa: S301  we wrote it
    except Exception as error:  # noqa: BLE001  for example, the script was edited since: the callback starts over
        notify_user(f"a {type(callback).__name__} starts over: {type(error).__name__}: {error}")


def _attributes(callback: Any) -> Optional[bytes]:
    import pickle

    try:
        return pickle.dumps(vars(callback))
    except Exception:  # noqa: BLE001  files, lambdas, slots: it starts over on resume, as without us
        return None


def settings(
    callbacks: Sequence[Any], names: Mapping[str, Sequence[str]], is_known: Callable[[Any], bool]
) -> list[Any]:
    """What the script has set of the library's own callbacks. names: of attributes, by class."""
    known = [callback for callback in callbacks if is_known(callback)]
    return [
        (kind, [getattr(callback, name, None) for name in names[kind]])
        for callback in known
        for kind in (type(callback).__name__,)
    ]


def checksum(values: Any) -> Optional[list[int]]:
    """What changes when any value of a one-dimensional array does; None for None."""
    if values is None:
        return None
    import hashlib

    import numpy as np

    array = np.ascontiguousarray(values).ravel()
    array = array[:: 1 + array.size // _MAX_CHECKED]
    text = repr(array.tolist()).encode() if array.dtype.hasobject else array.tobytes()
    # numbers: fingerprints leave out what looks like a random id
    return [array.size, *hashlib.blake2b(text, digest_size=16).digest()]


def numbers(found: Fingerprint) -> list[Optional[list[int]]]:
    """A fingerprint as part of another one's data, where its text would pass for a random id and be left out."""
    # as long as it is, `fingerprint` takes the second for rows, and so for content
    content = None if found.content is None else [*bytes.fromhex(found.content * 2)]
    return [[*bytes.fromhex(found.form)], content]


def _read_about(path: str, library: str) -> Optional[dict[str, Any]]:
    """The description in a checkpoint; None if it is not one of this library's."""
    import zipfile

    if not zipfile.is_zipfile(path):
        return None
    with zipfile.ZipFile(path) as archive:
        if _ABOUT not in archive.namelist():
            return None
        about: dict[str, Any] = json.loads(archive.read(_ABOUT))
        return about if about.get("library") == library else None


def _read(path: str, library: str, model_name: str) -> Optional[SavedCall]:
    """The content of a checkpoint; None if it cannot be read, which is reported to the user."""
    import pickle
    import zipfile
    import zlib

    try:
        about = _read_about(path, library)
        if about is None:
            raise zipfile.BadZipFile("it is not a complete checkpoint")  # noqa: TRY301
        with zipfile.ZipFile(path) as archive:
            # files of earlier versions have no ending
            evaluations, callbacks, *ending = pickle.loads(archive.read(_STATE))  # noqa: S301  we wrote it
            model = archive.read(model_name)
    except (OSError, zipfile.BadZipFile, zlib.error, KeyError, EOFError) as error:
        notify_user(f"{path} cannot be read, and {library} starts over: {error}")
        return None
    more: dict[str, Any] = {name: about[name] for name in ("total", "is_finished", "took_s") if name in about}
    more["data"] = ((about.get("training") or {}).get("identity") or {}).get("data")
    return SavedCall(about["rounds"], model, evaluations, callbacks, ending=ending[0] if ending else None, **more)
