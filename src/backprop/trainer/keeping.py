"""What keeps checkpoints from being written over in this process: see keeper.py, which is loaded when it is needed.

`install` runs at the start of every interpreter, and imports nothing new.
"""

from __future__ import annotations

import os

from . import file_events
from .failsafe import KEEPING, guarded

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Optional

    from .keeper import Keeper

_is_installed = False
_keeper: Optional[Keeper] = None


def install() -> None:
    """Begin to keep."""
    global _is_installed  # noqa: PLW0603  one in a process
    _is_installed = True
    file_events.on_mode_of_writing(_opening, KEEPING)
    file_events.on_checkpoint_reported(_reported, KEEPING)
    if "BACKPROP_RESUME_FROM" in os.environ:
        file_events.on_replace(lambda source, target: _the_keeper().before_replace(source, target), KEEPING)
        offered = os.path.realpath(os.environ["BACKPROP_RESUME_FROM"])
        file_events.on_first_read(offered, lambda: _the_keeper().has_read_it(), KEEPING)  # noqa: PLW0108  it is not there yet


def _opening(path: str, mode: str) -> None:
    if "w" in mode or "r" in mode:  # "r+"; what is only added to a file destroys nothing
        _before(path, is_emptied="w" in mode)


def _before(path: str, *, is_emptied: bool) -> None:
    try:
        has_content = os.stat(path).st_size > 0
    except OSError:  # there is nothing to lose
        return
    if has_content:
        _the_keeper().before_write(path, is_emptied=is_emptied)


def _the_keeper() -> Keeper:
    global _keeper  # noqa: PLW0603  one in a process
    if _keeper is None:
        from .keeper import Keeper

        _keeper = Keeper(os.environ)
    return _keeper


@guarded(KEEPING)
def before_write(path: Any, *, is_emptied: bool = True) -> None:
    """A file is written to in a moment, by code that opens it itself: emptied before that, or changed in place."""
    if _is_installed and isinstance(path, (str, os.PathLike)):
        place = os.path.abspath(os.fsdecode(path))
        file_events.unnoticed(lambda: _before(place, is_emptied=is_emptied))


def _reported(path: str, step: Optional[int]) -> None:
    _the_keeper().reported(path, step)
