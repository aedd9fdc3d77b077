"""Libraries whose C or Rust code opens files itself: what they are about to write over is kept, and reads are seen."""

from __future__ import annotations

import functools
from typing import Any, Callable, NamedTuple, Optional

from .. import keeping


class Access(NamedTuple):
    """A function, or a class's method, that reads or writes a file."""

    owner: Optional[str]  # the class
    name: str
    place: int  # of the path among the arguments, `self` included
    keyword: str
    note: Callable[[Any], None]


_ACCESSES = {
    "safetensors": (Access(None, "serialize_file", 1, "filename", keeping.before_write),),
    "xgboost.core": (
        Access("Booster", "save_model", 1, "fname", keeping.before_write),
        Access("Booster", "load_model", 1, "fname", keeping.was_read),
    ),
    "lightgbm.basic": (
        Access("Booster", "save_model", 1, "filename", keeping.before_write),
        Access("Booster", "__init__", 3, "model_file", keeping.was_read),
    ),
    "catboost.core": (
        Access("CatBoost", "save_model", 1, "fname", keeping.before_write),
        Access("CatBoost", "load_model", 1, "fname", keeping.was_read),
    ),
}


def hook(module: Any) -> None:
    """Called when one of these has been imported."""
    if module.__name__ == "h5py._hl.files":
        module.File.__init__ = _opening(module.File.__init__)
    for access in _ACCESSES.get(module.__name__, ()):
        owner = module if access.owner is None else getattr(module, access.owner)
        setattr(owner, access.name, _noted(getattr(owner, access.name), access))


def _noted(function: Any, access: Access) -> Any:
    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        access.note(args[access.place] if len(args) > access.place else kwargs.get(access.keyword))
        return function(*args, **kwargs)

    return call


def _opening(function: Any) -> Any:
    """h5py.File(name, mode)."""

    @functools.wraps(function)
    def open_file(self: Any, name: Any, mode: Any = "r", *args: Any, **kwargs: Any) -> None:
        if mode == "w":
            keeping.before_write(name)
        elif mode in {"a", "r+"}:
            keeping.before_write(name, is_emptied=False)
        else:
            keeping.was_read(name)
        function(self, name, mode, *args, **kwargs)

    return open_file
