"""The CheckpointKeeper of this process. keeper.py is loaded when it is first needed."""

from __future__ import annotations

import os

from .. import file_events
from ..failsafe import KEEPING, guarded

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Optional

    from .keeper import CheckpointKeeper

_keeper: Optional[CheckpointKeeper] = None


def the_keeper() -> CheckpointKeeper:
    """The keeper of this process, made at the first call."""
    global _keeper  # noqa: PLW0603
    if _keeper is None:
        from .keeper import CheckpointKeeper

        _keeper = CheckpointKeeper(os.environ)
    return _keeper


@guarded(KEEPING)
def before_write(path: Any, *, is_emptied: bool = True) -> None:
    """To be called before code writes to a file that it opens itself.

    is_emptied: whether it truncates the file, or changes it in place.
    """
    if file_events.is_installed() and isinstance(path, (str, os.PathLike)):
        place = os.path.abspath(os.fsdecode(path))
        if file_events.has_content(place):
            file_events.unnoticed(lambda: the_keeper().before_write(place, is_emptied=is_emptied))
