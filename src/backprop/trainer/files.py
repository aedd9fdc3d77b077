"""Files that are whole or not there, whenever the power fails; and the folder of those that no script has named."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import Any, Iterator

FOLDER = "backprop-checkpoints"  # in the working directory, with a folder for each run: two must not meet


@contextmanager
def whole(path: str) -> Iterator[Any]:
    """A binary file to write to. It gets its name when the block ends, with its content on the disk. Raises OSError."""
    folder = os.path.dirname(os.path.abspath(path))
    os.makedirs(folder, exist_ok=True)
    draft = f"{path}.new-{os.getpid()}"
    try:
        with open(draft, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except BaseException:
        if os.path.exists(draft):
            os.unlink(draft)
        raise
    _sync_folder(folder)


def settle(draft: str, path: str) -> None:
    """Give what somebody else wrote, a file or a folder, the name that only a whole checkpoint gets. Raises OSError."""
    if os.path.isfile(draft):
        with open(draft, "rb") as file:
            os.fsync(file.fileno())
    if os.path.isdir(path):
        import shutil

        shutil.rmtree(path)
    os.replace(draft, path)
    _sync_folder(os.path.dirname(os.path.abspath(path)))


def _sync_folder(folder: str) -> None:
    # the new name is on the disk only when its folder is
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
