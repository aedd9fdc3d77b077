"""Which process of a run saved a checkpoint: a script may start a process for each fold, to train a different model.

Each session appends to `session-N.savers` in the run directory. Processes are identified by their script and its
arguments. Several equal ones cannot be distinguished: a process that has crashed may have been started again.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any, NamedTuple, Optional

from ..parameters.secrets import without_secrets
from ..plain_files import append, open_plain
from .fingerprint import command_line, lasting

_MAX_SHOWN = 200  # characters of a command line


class Saver(NamedTuple):
    """A process that saved a checkpoint."""

    session: int
    digest: str  # of its script and arguments
    shown: str  # its command line, for messages


def of_this_process(session: int, offered: Optional[str]) -> Saver:
    """The record of this process. offered: the checkpoint to resume from, which may be among the arguments."""
    import shlex

    script = os.path.basename(sys.argv[0])
    shown = shlex.join(without_secrets([script, *sys.argv[1:]]))
    digest = command_line([lasting(script), *sys.argv[1:]], offered)
    return Saver(session, digest, shown if len(shown) <= _MAX_SHOWN else shown[: _MAX_SHOWN - 1] + "…")


def remember(run_dir: str, saver: Saver, path: str) -> None:
    """Record which process saves a checkpoint. Raises OSError."""
    # starts with a line break, because a full disk may have cut off the line before
    append(_path(run_dir, saver.session), f"\n{json.dumps({'path': path, 'by': saver[1:]})}\n".encode())


def other_saver(run_dir: str, ours: Saver, offered: str) -> Optional[Saver]:
    """The process that saved the offered checkpoint; None if this one may resume from it, or it is not known.

    If only one kind of process has saved, the script that Backprop has started itself may resume from it with any
    arguments: the user has changed them.
    """
    offered = os.path.realpath(offered)
    for session in range(ours.session - 1, 0, -1):
        savers = _savers(run_dir, session)
        saver = savers.get(offered)
        if saver is None:
            continue
        is_only_one = len({each.digest for each in savers.values()}) == 1
        return None if saver.digest == ours.digest or (is_only_one and _is_root()) else saver
    return None


def own_checkpoint(run_dir: str, ours: Saver) -> Optional[str]:
    """The newest existing checkpoint by a process with the same script and arguments; None if there is none."""
    for session in range(ours.session - 1, 0, -1):
        mine = [path for path, saver in _savers(run_dir, session).items() if saver.digest == ours.digest]
        there = [path for path in mine if os.path.exists(path)]
        if there:
            return max(there, key=os.path.getmtime)
    return None


def _savers(run_dir: str, session: int) -> dict[str, Saver]:
    """The last process that saved each checkpoint of a session, by real path."""
    try:
        with os.fdopen(open_plain(_path(run_dir, session)), encoding="utf-8") as file:
            lines = file.read().splitlines()
    except OSError:
        return {}
    found = {}
    for line in lines:
        try:
            entry: dict[str, Any] = json.loads(line)
        except ValueError:  # cut off, or empty
            continue
        found[os.path.realpath(entry["path"])] = Saver(session, *entry["by"])
    return found


def _path(run_dir: str, session: int) -> str:
    return os.path.join(run_dir, f"session-{session}.savers")


def _is_root() -> bool:
    """Whether Backprop has started this process itself: it is the leader of its POSIX session."""
    return os.getsid(0) == os.getpid()
