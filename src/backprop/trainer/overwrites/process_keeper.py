"""What keeps checkpoints from being written over in this process: see keeper.py, which is loaded when it is needed."""

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
    """The one of this process."""
    global _keeper  # noqa: PLW0603
    if _keeper is None:
        from .keeper import CheckpointKeeper

        _keeper = CheckpointKeeper(os.environ)
    return _keeper


@guarded(KEEPING)
def before_write(path: Any, *, is_emptied: bool = True) -> None:
    """A file is written to in a moment, by code that opens it itself: emptied before that, or changed in place."""
    if file_events.is_installed() and isinstance(path, (str, os.PathLike)):
        place = os.path.abspath(os.fsdecode(path))
        if file_events.has_content(place):
            file_events.unnoticed(lambda: the_keeper().before_write(place, is_emptied=is_emptied))
