"""Lightning 2.x, under both its names: `lightning` and `pytorch_lightning`.

Our callback is added to those of installed packages, which Lightning loads for each Trainer
(`_load_external_callbacks`). `Trainer.fit` is wrapped as well, because a callback can neither choose the checkpoint to
continue from nor end the script. While a fit runs, a FitDriver (driver.py) does what the supervisor requests.
"""

from __future__ import annotations

import functools
import inspect
import os
import re
import sys
import zipfile
from typing import Any, Callable, Optional

from ...failsafe import guarded, notify_user
from ...link import SupervisorLink, current
from ...trainings import registry
from .driver import FitDriver
from .identity import identity_of, read_mark
from .position import FitMark, LoopPosition, fit_mark

NAME = "Lightning"

# files of sharded checkpoints that hold our entry: FSDP and ModelParallel; DeepSpeed
_IN_FOLDERS = ("meta.pt", os.path.join("checkpoint", "mp_rank_00_model_states.pt"))

_fits = 0  # number of calls of fit() so far: a checkpoint belongs to one of them


def hook(module: Any) -> None:
    """Wrap what `trainer.trainer` of either package defines and uses. module: that one, just imported."""
    package = module.__name__.removesuffix(".trainer.trainer")
    module.Trainer.fit = _wrapped(module.Trainer.fit)
    connector: Any = sys.modules[f"{package}.trainer.connectors.callback_connector"]
    connector._load_external_callbacks = _with_ours(connector._load_external_callbacks, package)  # noqa: SLF001
    combined = sys.modules[f"{package}.utilities.combined_loader"].CombinedLoader
    combined.__iter__ = _marked(combined.__iter__)


def _with_ours(load: Callable[[str], list[Any]], package: str) -> Callable[[str], list[Any]]:
    @functools.wraps(load)
    def call(group: str) -> list[Any]:
        return [*load(group), *_callbacks(package)]

    return call


@guarded(NAME, otherwise=[])
def _callbacks(package: str) -> list[Any]:
    return [_make(package)] if current() is not None else []


def _make(package: str) -> Any:
    """Our callback, as a subclass of this package's Callback."""
    base = sys.modules[f"{package}.callbacks"].Callback
    return type("Backprop", (FitCallback, base), {"package": package})()


def _marked(begin: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Store the random states that a loader begins with, from which the order of the epoch follows."""

    @functools.wraps(begin)
    def call(loader: Any) -> Any:
        LoopPosition.mark_start(loader)
        return begin(loader)

    return call


def _wrapped(fit: Callable[..., Any]) -> Callable[..., Any]:
    signature = inspect.signature(fit)

    @functools.wraps(fit)
    def call(trainer: Any, *args: Any, **kwargs: Any) -> Any:
        link = current()
        if link is not None and _is_tuning(trainer):
            with link.preparing(NAME):
                return fit(trainer, *args, **kwargs)
        callback = _callback_of(trainer)
        if link is None or callback is None:
            return fit(trainer, *args, **kwargs)
        with link.training(NAME, "optimizer step", samples_losses=True) as is_ours:
            if not is_ours:
                return fit(trainer, *args, **kwargs)
            bound = signature.bind(trainer, *args, **kwargs)
            _begin(link, callback, bound.arguments, signature)
            try:
                result = fit(*bound.args, **bound.kwargs)
            except SystemExit as error:
                if type(error).__name__ == "SIGTERMException" and error.code is None:
                    error.code = 143  # otherwise the supervisor would take it for success
                raise
            else:
                callback.fitted(trainer)
                return result
            finally:
                callback.end()

    return call


@guarded(NAME, otherwise=False)
def _is_tuning(trainer: Any) -> bool:
    """Whether Tuner.lr_find or scale_batch_size calls fit(), which ends before training, with the weights of before."""
    return any(getattr(callback, "_early_exit", False) for callback in trainer.callbacks)


@guarded(NAME)
def _callback_of(trainer: Any) -> Optional[FitCallback]:
    """Our callback, if this trainer has it and trains in this process."""
    launcher = getattr(trainer.strategy, "launcher", None)
    if type(launcher).__name__ in {"_MultiProcessingLauncher", "_XLALauncher"}:
        return None  # ddp_spawn, ddp_notebook, XLA: fit() is called here, but the loop runs in forks of this process
    return next((callback for callback in trainer.callbacks if isinstance(callback, FitCallback)), None)


@guarded(NAME)
def _begin(
    link: SupervisorLink, callback: FitCallback, arguments: dict[str, Any], signature: inspect.Signature
) -> None:
    """Before fit(): choose the checkpoint, unless the script does.

    ckpt_path="last" means the newest one, which the supervisor knows better. A path to the offered checkpoint, which
    was filled in by resume flags, is not the script's choice.
    """
    global _fits  # noqa: PLW0603  one count in a process
    number, _fits = _fits, _fits + 1
    trainer = arguments["self"]
    link.announce_inspection(may_be_ours=_is_lightnings(link.resume_from))
    training = _training(link, trainer, arguments)
    callback.begin(link, number, training)
    named: Any = arguments.get("ckpt_path")
    if training is not None and link.is_offered(named) and _stored(os.fspath(named)) is not None:
        arguments["ckpt_path"] = named = None
    is_named = named not in {None, "last"}
    # `trainer.ckpt_path = ...` is public, that it was set is not: checkpoint_connector.py, _select_ckpt_path
    is_named = is_named or getattr(trainer._checkpoint_connector, "_user_managed", False)  # noqa: SLF001
    if is_named or training is None:
        link.set_resume_source(_named_path(trainer, arguments))
        return
    or_else = "takes the last that Lightning knows" if arguments.get("ckpt_path") == "last" else "starts over"
    path = training.agreed(lambda: _choice(training, link.resume_from, number, or_else), trainer.world_size)
    if path is None:
        if arguments.get("ckpt_path") is None:  # with "last", it is not known what Lightning takes
            link.set_resume_source(None)
        return
    link.set_resume_source(path)
    if path == link.resume_from:
        link.resume_from = None  # once: a later call is another training
    callback.continues(path)
    arguments["ckpt_path"] = path
    if "weights_only" in signature.parameters and arguments.get("weights_only") is None:
        arguments["weights_only"] = False  # this run wrote it; hyperparameters may be objects of any kind


def _is_lightnings(checkpoint: Optional[str]) -> bool:
    """Whether it may be one of Lightning's, by its suffix."""
    return checkpoint is not None and checkpoint.endswith(".ckpt")


def _named_path(trainer: Any, arguments: dict[str, Any]) -> Optional[str]:
    """The path that the script has chosen; None if it has chosen none, or there is no such file."""
    named: Any = arguments.get("ckpt_path") or getattr(trainer, "ckpt_path", None)
    return None if named is None or not os.path.exists(named) else os.fspath(named)


@guarded(registry.HOOK)
def _training(link: SupervisorLink, trainer: Any, arguments: dict[str, Any]) -> Optional[registry.Training]:
    """Which training begins."""
    known, model = registry.of(link), arguments["model"]
    is_first = not known.has_trained(model)
    return known.begin(identity_of(trainer, arguments, link.resume_from, is_first=is_first), model)


def _choice(training: registry.Training, offered: Optional[str], number: int, or_else: str) -> Optional[str]:
    """The checkpoint to continue from, or None; tells the user why it is not the offered one."""
    if not _is_lightnings(offered):
        offered = None
    if offered is not None:
        reason = _unfit(offered, number)
        if reason is not None:
            notify_user(f"fit() does not continue from {offered}: {reason}")
            offered = None
        elif _stored(offered) is None:
            return offered
    return training.choose("fit()", offered, _stored, or_else=or_else)


def _unfit(path: str, number: int) -> Optional[str]:
    """Why no fit() can continue from a checkpoint, or not this one; None if it can.

    number: 0-based, of this call of fit(); only compared with checkpoints that store no identity. Searches the bytes of
    the file, and executes nothing.
    """
    pickled = _pickled_parts(path)
    if b"pytorch-lightning_version" not in pickled:
        return "it is not a checkpoint of Lightning"
    if b"optimizer_states" not in pickled and not os.path.isdir(path):
        return "it holds only weights"
    found = re.search(fit_mark(r"(\d+)").encode(), pickled)
    if found and int(found[1]) != number and read_mark(pickled) is None:
        return f"it was saved in call {int(found[1]) + 1} of fit(), and this is call {number + 1}"
    return None


def _stored(path: str) -> Any:
    """What a checkpoint stores of its training, or None."""
    return read_mark(_pickled_parts(path))


def _pickled_parts(path: str) -> bytes:
    inside = [os.path.join(path, name) for name in _IN_FOLDERS] if os.path.isdir(path) else [path]
    return b"".join(_pickled(name) for name in inside if os.path.exists(name))


def _pickled(path: str) -> bytes:
    """The pickled part of a file by torch.save, without tensors; empty for other files."""
    if not zipfile.is_zipfile(path):
        return b""
    with zipfile.ZipFile(path) as archive:
        return b"".join(archive.read(name) for name in archive.namelist() if name.endswith("/data.pkl"))


class FitCallback:
    """Our callback: calls the FitDriver of the fit that is running. `_make` adds the package's Callback as a base."""

    package: str

    def __init__(self) -> None:
        self._link: Optional[SupervisorLink] = None
        self._number = 0
        self._training: Optional[registry.Training] = None
        self._path: Optional[str] = None
        self._resumed: Optional[LoopPosition] = None
        self._driver: Optional[FitDriver] = None

    def __reduce__(self) -> Any:
        return _make, (self.package,)  # copies, and pickles for other processes, have nothing of the fit

    def begin(self, link: SupervisorLink, number: int, training: Optional[registry.Training]) -> None:
        """Call number `number` of fit() begins; the first is 0."""
        self._link, self._number, self._training = link, number, training
        self._path = self._resumed = None

    def continues(self, path: str) -> None:
        """The fit continues from this checkpoint."""
        self._path = path

    def fitted(self, trainer: Any) -> None:
        """The fit has ended without an exception."""
        if self._resumed is not None:  # no batch was missing: Lightning has only loaded the checkpoint
            self._resumed.give_back(trainer)
            self._resumed = None

    def end(self) -> None:
        """The fit has ended, with or without an exception."""
        self._link = None
        if self._driver is not None:
            self._driver.leave()
            self._driver = None

    def on_load_checkpoint(self, trainer: Any, _: Any, checkpoint: dict[str, Any]) -> None:
        if self._link is not None:
            self._resumed = LoopPosition.of(checkpoint, trainer) or self._resumed
            if self._resumed is not None and self._resumed.is_over(trainer):
                trainer.should_stop = True

    def on_save_checkpoint(self, _: Any, __: Any, checkpoint: dict[str, Any]) -> None:
        if self._driver is not None:
            self._driver.complete(checkpoint)

    @guarded(NAME)
    def on_train_start(self, trainer: Any, _: Any) -> None:
        if self._link is not None:
            mark = FitMark(self._number, self._training)
            self._driver = FitDriver(self._link, trainer, self, mark, self._resumed, self._path)
            self._resumed = None

    def on_train_epoch_start(self, *_: Any) -> None:
        if self._driver is not None:
            self._driver.epoch_begins()

    def on_validation_batch_end(self, *_: Any) -> None:
        if self._driver is not None:
            self._driver.validation_batch_ended()

    def on_train_end(self, *_: Any) -> None:
        if self._driver is not None:
            self._driver.training_ended()
            self._driver.leave()
            self._driver = None
