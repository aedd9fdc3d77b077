"""Libraries whose native code opens files itself: checkpoints are kept before they are overwritten, reads are noticed.

Files by h5py and safetensors.numpy are examined like those that Python writes: see script_files.py.
"""

from __future__ import annotations

import functools
import os
from typing import Any, Callable, NamedTuple, Optional

from ... import file_events
from ...failsafe import guarded
from ...overwrites import process_keeper

_MAX_NAMES = 10_000
_SAVES = "saves of the script"


class FileFunction(NamedTuple):
    """A function or method that reads or writes a file."""

    owner: Optional[str]  # the class
    name: str
    place: int  # index of the path among the arguments, including `self`
    keyword: str
    note: Callable[[Any], None]


_ACCESSES = {
    "safetensors": (FileFunction(None, "serialize_file", 1, "filename", process_keeper.before_write),),
    "xgboost.core": (
        FileFunction("Booster", "save_model", 1, "fname", process_keeper.before_write),
        FileFunction("Booster", "load_model", 1, "fname", file_events.was_opened_for_reading),
    ),
    "lightgbm.basic": (
        FileFunction("Booster", "save_model", 1, "filename", process_keeper.before_write),
        FileFunction("Booster", "__init__", 3, "model_file", file_events.was_opened_for_reading),
    ),
    "catboost.core": (
        FileFunction("CatBoost", "save_model", 1, "fname", process_keeper.before_write),
        FileFunction("CatBoost", "load_model", 1, "fname", file_events.was_opened_for_reading),
    ),
}


def hook(module: Any) -> None:
    """Called after the import of one of these libraries."""
    if module.__name__ == "h5py._hl.files":
        module.File.__init__ = _opening(module.File.__init__)
        module.File.close = _closing(module.File.close)
    if module.__name__ == "safetensors.numpy":
        module.save_file = _saving(module.save_file)
    for spec in _ACCESSES.get(module.__name__, ()):
        owner = module if spec.owner is None else getattr(module, spec.owner)
        setattr(owner, spec.name, _noted(getattr(owner, spec.name), spec))


def _noted(function: Any, spec: FileFunction) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        spec.note(args[spec.place] if len(args) > spec.place else kwargs.get(spec.keyword))
        return function(*args, **kwargs)

    return call


def _opening(function: Any) -> Any:
    """h5py.File(name, mode)."""

    @functools.wraps(function)
    def open_file(self: Any, name: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> None:
        if mode == "w":
            process_keeper.before_write(name)
        elif mode in {"a", "r+"}:
            process_keeper.before_write(name, is_emptied=False)
        else:
            file_events.was_opened_for_reading(name)
        function(self, name, mode, *args, **kwargs)

    return open_file


def _closing(function: Any) -> Any:
    """h5py.File.close()."""

    @functools.wraps(function)
    def close(self: Any) -> Any:
        written = _look_into(self)
        result = function(self)
        _written(written)
        return result

    return close


def _saving(function: Any) -> Any:
    """safetensors.numpy.save_file(tensor_dict, filename, metadata)."""

    @functools.wraps(function)
    def save_file(tensor_dict: Any, filename: Any, metadata: Any = None) -> Any:
        result = function(tensor_dict, filename, metadata)
        _written(_look_at(tensor_dict, filename, metadata or {}))
        return result

    return save_file


@guarded(_SAVES)
def _look_into(file: Any) -> Any:
    """Path and content of an open HDF5 file that was written to."""
    if not file or file.mode == "r":
        return None
    from .contents import of_names

    names: list[str] = []
    # a value other than None ends the visit
    file.visit(lambda name: names.append(name) if len(names) < _MAX_NAMES else True)
    names.extend(file.attrs)
    return file.filename, of_names(names, lambda name: _whole(file.attrs[name] if name in file.attrs else file[name]))


@guarded(_SAVES)
def _look_at(arrays: Any, path: Any, metadata: Any) -> Any:
    from .contents import of_names

    values = {**arrays, **metadata}
    return os.fsdecode(path), of_names(values, lambda name: _whole(values[name]))


@guarded(_SAVES)
def _written(path_and_content: Any) -> None:
    if path_and_content is not None:
        from . import script_files

        script_files.written(*path_and_content)


def _whole(value: Any) -> Optional[int]:
    """The whole number that this is: one, an array or a data set of one, or a text."""
    try:
        if getattr(value, "shape", ()) == () and hasattr(value, "dtype"):
            value = value[()]
        return int(value) if isinstance(value, str) or value == int(value) else None
    except (TypeError, ValueError):
        return None
