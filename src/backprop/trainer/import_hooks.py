"""Loads each of our modules only when it is needed: a framework's hook, for example, right after its import.

`install` is called by sitecustomize when an interpreter starts: each module that this one imports costs every process
of the training a fifth of a millisecond. Every import of the script costs a look-up in a table.
"""

from __future__ import annotations

import os
import sys

from . import file_events
from .failsafe import KEEPING, guarded, turn_off

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Callable, Optional

# module of a framework -> our module whose `hook(module)` is called right after it was executed
HOOKS: dict[str, str] = {
    "torch": "pytorch.hook",
    "safetensors.torch": "pytorch.hook",
    "accelerate.accelerator": "pytorch.hook",
    "argparse": "parsers.argparse",
    "jsonargparse._core": "parsers.argparse",
    "click.core": "parsers.other_parsers",
    "typer._click.core": "parsers.other_parsers",
    "absl.flags._flagvalues": "parsers.other_parsers",
    "tyro._backends._tyro_backend": "parsers.other_parsers",
    "tyro._backends._argparse_backend": "parsers.other_parsers",
    "tyro._calling": "parsers.other_parsers",
    "fire.core": "parsers.other_parsers",
    "hydra._internal.config_loader_impl": "parsers.configs",
    "omegaconf.omegaconf": "parsers.configs",
    "catboost.core": "boosting.catboost",
    "lightgbm.engine": "boosting.lightgbm",
    "xgboost.training": "boosting.xgboost",
    "lightning.pytorch.trainer.trainer": "lightning.hook",
    "pytorch_lightning.trainer.trainer": "lightning.hook",
    "keras.src.models.model": "keras.hook",
    "stable_baselines3.common.callbacks": "stable_baselines3",
    "ultralytics.engine.model": "ultralytics",
    "tqdm.std": "progress_bars",
    "transformers.trainer": "huggingface.hook",
    "safetensors": "saved_files.native_files",
    "safetensors.numpy": "saved_files.native_files",
    "h5py._hl.files": "saved_files.native_files",
    "xgboost.core": "saved_files.native_files",
    "lightgbm.basic": "saved_files.native_files",
    "torch.utils.tensorboard.writer": "trackers.tensorboard",
    "tensorboardX.writer": "trackers.tensorboard",
    "wandb.sdk.wandb_run": "trackers.wandb",
    "wandb.sdk.wandb_init": "trackers.wandb_run",
    "mlflow.tracking.client": "trackers.mlflow",
    "mlflow.tracking.fluent": "trackers.mlflow_run",
    "trackio.run": "trackers.trackio",
    "aim.sdk.run": "trackers.aim",
    "lightning.pytorch.loggers.mlflow": "trackers.lightning_mlflow",
    "pytorch_lightning.loggers.mlflow": "trackers.lightning_mlflow",
    "lightning.fabric.loggers.csv_logs": "trackers.csv_logger",
    "lightning_fabric.loggers.csv_logs": "trackers.csv_logger",
}

_LOOPS = {"lightgbm", "xgboost", "lightning", "keras", "huggingface"}  # hooks that drive a training loop

_PACKAGE = "_backprop_trainer.hooks"
_COPIES = "BACKPROP_COPIES"  # paths of copies of the checkpoint to resume from, for processes that are started later
_SAVES = "saves of the script"
# suffixes anywhere in a file's name: only such files are opened to find out what they hold
_CHECKPOINT_SUFFIXES = frozenset(
    (
        "bin",
        "ckpt",
        "checkpoint",
        "joblib",
        "keras",
        "model",
        "msgpack",
        "npz",
        "pickle",
        "pkl",
        "pt",
        "pth",
        "state",
        "zip",
    )
)


def install() -> None:
    """Start to observe imports and files. Modules that are imported already get their hooks at once."""
    if root := os.environ.get("BACKPROP_SNAPSHOT_OF"):
        from . import module_sources

        sys.meta_path.insert(0, _ObservingFinder(module_sources.take_from_snapshot(root)))
    if folder := os.environ.get("BACKPROP_CODE"):
        _record_modules_in(folder)
    file_events.install()
    file_events.on_open_for_writing(_opening, KEEPING)
    file_events.on_checkpoint_reported(_reported, KEEPING)
    if offered := os.environ.get("BACKPROP_RESUME_FROM"):
        file_events.on_replace(lambda source, target: _keeper().before_replace(source, target), KEEPING)
        for path in (os.path.realpath(offered), *filter(None, os.environ.get(_COPIES, "").split(os.pathsep))):
            file_events.on_first_read(path, lambda: _read(offered), KEEPING, _copied)
    file_events.on_close_after_writing(_closed, may_be_checkpoint, _SAVES)
    file_events.on_replaced(_renamed, _SAVES)
    _repeat_dropped_interrupts()
    sys.meta_path.insert(0, _ObservingFinder(_hook_after, HOOKS))
    sys.meta_path.append(_FallbackFinder())
    for name in HOOKS:
        if name in sys.modules:
            _let_in(sys.modules[name])


def _let_in(module: Any) -> None:
    name = "imports"
    try:
        place = HOOKS[module.__name__]
        name = place.removesuffix(".hook").rpartition(".")[2]
        imported = __import__(f"{_PACKAGE}.{place}", fromlist=["hook"])
        imported.hook(module)
        if name in _LOOPS:
            _listen()
    except Exception as error:  # noqa: BLE001  a version of the framework that we do not know
        turn_off(name, error)


def _listen() -> None:
    """Handle SIGINT for loops that run in threads: imports usually happen in the main one."""
    from .link import current

    link = current()
    if link is not None:
        link.interrupts.listen()


def may_be_checkpoint(path: str) -> bool:
    """Whether a file of that name may be a checkpoint."""
    name = path[path.rfind(os.sep) + 1 :].lower()
    _, *suffixes = name.split(".")
    if suffixes:
        return not _CHECKPOINT_SUFFIXES.isdisjoint(suffixes)
    return any(word in name for word in ("checkpoint", "ckpt", "snapshot", "state"))


def _closed(path: str) -> None:
    _script_files().closed(path)


def _renamed(source: str, target: str) -> None:
    # nothing known can have moved before that module is loaded, but files may have been written unnoticed. While it is
    # being imported, Python renames the bytecode of what it imports
    is_loaded = hasattr(sys.modules.get(f"{_PACKAGE}.saved_files.script_files"), "renamed")
    if is_loaded or may_be_checkpoint(target) or target.endswith(".metadata"):
        _script_files().renamed(source, target)


def _script_files() -> Any:
    return __import__(f"{_PACKAGE}.saved_files.script_files", fromlist=["closed"])


def _opening(path: str, mode: str) -> None:
    if ("w" in mode or "r" in mode) and file_events.has_content(path):  # appending to a file destroys nothing
        _keeper().before_write(path, is_emptied="w" in mode)


def _reported(path: str, step: Optional[int]) -> None:
    _keeper().reported(path, step)


def _read(offered: str) -> None:
    """The checkpoint to resume from, or a copy of it, is about to be read."""
    _keeper().has_read_it()
    if os.environ.get(_COPIES):
        _report_training(copied=True, resumed_from=offered)


def _copied(target: str) -> None:
    """It is about to be copied: to keep it aside, or to resume from the copy, here or in a process that is started."""
    os.environ[_COPIES] = os.pathsep.join(filter(None, (os.environ.get(_COPIES), target)))
    _report_training(copied=True)


def _report_training(**fields: Any) -> None:
    from .link import current

    link = current()
    if link is not None:
        link.send_event_from_any_rank(event="training_began", **fields)


def _keeper() -> Any:
    from .overwrites.process_keeper import the_keeper

    return the_keeper()


def _repeat_dropped_interrupts() -> None:
    """Send an interrupt again that came while a destructor or a callback was running.

    Python prints "Exception ignored in" and drops it, in a `__del__` and in callbacks of weak references and of the
    garbage collector; the script would continue to train until it is killed.
    """
    before = sys.unraisablehook

    def unraisable(dropped: Any) -> None:
        if dropped.exc_type is not KeyboardInterrupt or sys.is_finalizing():
            before(dropped)
        else:
            from .deferred_signals import send_again

            send_again(unraisable.__code__)

    sys.unraisablehook = unraisable


def _record_modules_in(folder: str) -> None:
    loader: Any = sys.modules["_frozen_importlib_external"].SourceFileLoader
    get_code = loader.get_code
    begin = os.path.join(folder, "")
    ours = __name__[: __name__.rfind(".") + 1]

    # not `exec_module`: then we would be on the stack of every module, and in its tracebacks
    def record_and_get_code(self: Any, name: str) -> Any:
        path = self.path
        if path.startswith(begin) and f"{os.sep}site-packages{os.sep}" not in path and not name.startswith(ours):
            _record(path)
        return get_code(self, name)

    loader.get_code = record_and_get_code


@guarded("the record of modules")
def _record(path: str) -> None:
    from .module_sources import record

    record(path)


class _ObservingFinder:
    """Comes before all other finders: finds nothing itself, but observes what they find."""

    def __init__(self, see: Callable[[Any], Any], names: Any = None) -> None:
        """see: gets the spec that was found, and returns the one to use. names: of modules to observe; None for all."""
        self._see = see
        self._names = names
        self._busy: set[str] = set()

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        if (self._names is not None and name not in self._names) or name in self._busy:
            return None
        self._busy.add(name)
        finders: list[Any] = sys.meta_path
        try:
            for finder in finders:
                find = getattr(finder, "find_spec", None)
                spec = None if finder is self or find is None else find(name, path, target)
                if spec is not None:
                    return self._see(spec)
        finally:
            self._busy.discard(name)
        return None


def _hook_after(spec: Any) -> Any:
    _wrap_loader(spec)
    return spec


@guarded("imports")
def _wrap_loader(spec: Any) -> None:
    """Load the hook when this module has been executed.

    The loader is not replaced, because others ask it for source or data; only its `exec_module` is wrapped.
    """
    loader = spec.loader
    execute: Callable[[Any], None] = loader.exec_module

    def execute_and_hook(module: Any) -> None:
        execute(module)
        if module.__name__ == spec.name:  # a loader may serve several modules
            vars(loader).pop("exec_module", None)
            _let_in(module)

    loader.exec_module = execute_and_hook


class _FallbackFinder:
    """Comes after all other finders: `import backprop` works in a script whose environment does not have it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002
        if name != "backprop":
            return None
        from importlib.util import spec_from_file_location

        folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        return spec_from_file_location(name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
