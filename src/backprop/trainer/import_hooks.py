"""Waits for a framework to be imported, and lets its hook in right after. Costs a look-up in a table an import.

`install` is called by sitecustomize at the start of the interpreter, so that this module imports nothing that Python
has not imported by then.
"""

from __future__ import annotations

import os
import sys

from . import dropped_interrupts, file_events, keeping, module_sources
from .failsafe import guarded, turn_off

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Callable

# module of a framework -> module of ours whose `hook(module)` is called when the former has just been executed
HOOKS: dict[str, str] = {
    "torch": "pytorch.hook",
    "safetensors.torch": "pytorch.hook",
    "accelerate.accelerator": "pytorch.hook",
    "argparse": "resume_flags.argparse_parsers",
    "jsonargparse._core": "resume_flags.argparse_parsers",
    "click.core": "resume_flags.other_parsers",
    "typer._click.core": "resume_flags.other_parsers",
    "absl.flags._flagvalues": "resume_flags.other_parsers",
    "tyro._backends._tyro_backend": "resume_flags.other_parsers",
    "tyro._backends._argparse_backend": "resume_flags.other_parsers",
    "fire.core": "resume_flags.other_parsers",
    "hydra._internal.config_loader_impl": "resume_flags.configs",
    "omegaconf.omegaconf": "resume_flags.configs",
    "catboost.core": "boosting.catboost",
    "lightgbm.engine": "boosting.lightgbm",
    "xgboost.training": "boosting.xgboost",
    "lightning.pytorch.trainer.trainer": "lightning.hook",
    "pytorch_lightning.trainer.trainer": "lightning.hook",
    "keras.src.models.model": "keras.hook",
    "ultralytics.engine.model": "ultralytics",
    "transformers.trainer": "huggingface.hook",
    "safetensors": "saved_files.native_files",
    "safetensors.numpy": "saved_files.native_files",
    "h5py._hl.files": "saved_files.native_files",
    "xgboost.core": "saved_files.native_files",
    "lightgbm.basic": "saved_files.native_files",
}

_LOOPS = {"lightgbm", "xgboost", "lightning", "keras", "huggingface"}  # hooks that drive one

_PACKAGE = "_backprop_trainer.hooks"
# parts of names, between dots; what a file holds is asked only where there is one
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
    """Begin to wait. What has been imported already is hooked at once."""
    module_sources.install()
    file_events.install()
    keeping.install()
    dropped_interrupts.install()
    file_events.on_close_after_writing(_closed, may_be_checkpoint, "saves of the script")
    file_events.on_replaced(_renamed, "saves of the script")
    sys.meta_path.insert(0, _Waiting())
    sys.meta_path.append(_Fallback())
    for name in HOOKS:
        if name in sys.modules:
            _let_in(sys.modules[name])


def _let_in(module: Any) -> None:
    what = "imports"
    try:
        what = HOOKS[module.__name__]
        imported = __import__(f"{_PACKAGE}.{what}", fromlist=["hook"])
        imported.hook(module)
        if what in _LOOPS:
            _listen()
    except Exception as error:  # noqa: BLE001  a version of the framework that we do not know
        turn_off(what, error)


def _listen() -> None:
    """Be ready for loops that run in threads: this is the main one, mostly."""
    from .link import current

    session = current()
    if session is not None:
        session.interrupts.listen()


def may_be_checkpoint(path: str) -> bool:
    """Whether a file of that name may hold what a script can continue from."""
    name = path[path.rfind(os.sep) + 1 :].lower()
    _, *suffixes = name.split(".")
    if suffixes:
        return not _CHECKPOINT_SUFFIXES.isdisjoint(suffixes)
    return any(word in name for word in ("checkpoint", "ckpt", "snapshot", "state"))


def _closed(path: str) -> None:
    _script_files().closed(path)


def _renamed(source: str, target: str) -> None:
    # before anything was written nothing can have moved, but for what has been written in a way that nobody sees.
    # While that module is imported, Python renames the bytecode of what it imports
    is_loaded = hasattr(sys.modules.get(f"{_PACKAGE}.saved_files.script_files"), "renamed")
    if is_loaded or may_be_checkpoint(target) or target.endswith(".metadata"):
        _script_files().renamed(source, target)


def _script_files() -> Any:
    return __import__(f"{_PACKAGE}.saved_files.script_files", fromlist=["closed"])


class _Waiting(module_sources.FirstFinder):
    """Prepares what others find for its hook."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        spec = self.found_by_others(name, path, target) if name in HOOKS else None
        if spec is not None:
            _hook_after(spec)
        return spec


@guarded("imports")
def _hook_after(spec: Any) -> None:
    """Let the hook in when this module has been executed.

    The loader stays what it is, for all that ask it for source or data; only this one's way to execute is wrapped.
    """
    loader = spec.loader
    execute: Callable[[Any], None] = loader.exec_module

    def execute_and_hook(module: Any) -> None:
        execute(module)
        if module.__name__ == spec.name:  # a loader may serve several modules
            vars(loader).pop("exec_module", None)
            _let_in(module)

    loader.exec_module = execute_and_hook


class _Fallback:
    """Behind all finders: `import backprop` works in a script whose environment does not have it."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:  # noqa: ARG002
        if name != "backprop":
            return None
        from importlib.util import spec_from_file_location

        folder = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
        return spec_from_file_location(name, os.path.join(folder, "__init__.py"), submodule_search_locations=[folder])
