"""Checkpoints that a script saves by itself, with any library: noticed when their files are closed or renamed.

import_hooks.py calls `closed` and `renamed` for files with names like those of checkpoints; PyTorch's hook adds what
`torch.save` writes, with details. After a training state was saved, files with only weights are ignored (best.pt beside
last.pt). While a framework's loop runs, this does nothing: the framework's own hook knows more.
"""

from __future__ import annotations

import atexit
import os
import re
import sys
from typing import Any, Callable, Optional

from ... import distributed
from ...deferred_signals import is_main_thread
from ...failsafe import guarded
from ...import_hooks import may_be_checkpoint
from ...link import SupervisorLink, current
from .contents import CheckpointContent, look
from .pending import HOOK, PendingSaves, SaveInfo

_CHECKPOINT_NAME = re.compile(r"ckpt|checkpoint|epoch|step|last|latest|snapshot|iter", re.IGNORECASE)
_NUMBER_IN_NAME = re.compile(
    r"(?:epoch|step|iter|iteration|ckpt|checkpoint)[-_=.]?(\d{1,9})(?!\d)|^(\d{1,9})$", re.IGNORECASE
)
_ORBAX_DRAFT = ".orbax-checkpoint-tmp"  # in the name of a folder that is not complete
_DIGITS = re.compile(r"\d+")
_NOT_THE_SCRIPTS = {"site-packages", "dist-packages", "__pycache__", "cache", "wandb", "mlruns"}


class ScriptFiles:
    """The checkpoint files of one process."""

    def __init__(self, link: SupervisorLink) -> None:
        self.link = link
        self.saves = PendingSaves(self._report, link.run_id)
        # set by PyTorch's hook; 0 if no step was seen: not all optimizers can be counted
        self.count_steps: Callable[[], int] = lambda: 0
        self.earlier_steps: Callable[[], int] = lambda: 0  # after a resume: those of earlier sessions
        self.after_report: Callable[[], None] = lambda: None
        self._has_states: Optional[bool] = None  # whether the script saves training states; None if not known yet
        self._known: set[str] = set()  # open files that torch.save has written to
        self._kinds_of_names: set[str] = set()
        atexit.register(self._end)

    def is_in_charge(self) -> bool:
        """Whether no hook drives the loop or is saving. (A save in another thread is the script's own.)"""
        return self.link.owner is None and not (is_main_thread() and self.link.interrupts.is_holding)

    # -- what was written

    @guarded(HOOK)
    def closed(self, path: str) -> None:
        """A file that was opened for writing is closed."""
        if path in self._known:
            self._known.discard(path)
            self.saves.closed(path)
        elif self._may_be_the_scripts(path):
            self.saves.report_final_names(at_step=False)
            self._judge(path)

    @guarded(HOOK)
    def written(self, path: str, content: Optional[CheckpointContent]) -> None:
        """Native code of a library has written a file with known content. There is no such file if it was memory."""
        if content is not None and os.path.isfile(path) and self._may_be_the_scripts(path):
            self.saves.report_final_names(at_step=False)
            if self.is_checkpoint(path, content):
                self.add(path, content)

    @guarded(HOOK)
    def renamed(self, source: str, target: str) -> None:
        """A file or folder was renamed, which may not have been noticed when it was written."""
        if source == target or _ORBAX_DRAFT in target or self.saves.moved(source, target):
            return
        if os.path.basename(target) == ".metadata":  # torch.distributed.checkpoint: every rank has written its part
            target = os.path.dirname(target)
        elif not (may_be_checkpoint(target) or os.path.isdir(target)):
            return
        if self._may_be_the_scripts(target):
            self._judge(target)

    def _may_be_the_scripts(self, path: str) -> bool:
        if not (self.is_in_charge() and is_trainer()) or path.startswith(self.link.run_dir + os.sep):
            return False
        below, here = path, os.getcwd() + os.sep
        if path.startswith(here):
            below = path[len(here) :]
        folders = below.split(os.sep)[:-1]
        return _NOT_THE_SCRIPTS.isdisjoint(folders) and not any(name.startswith(".") for name in folders)

    def _judge(self, path: str) -> None:
        try:
            content = look(path)
        except OSError:  # gone already
            return
        if content is not None and self.is_checkpoint(path, content):
            self.add(path, content)

    def is_checkpoint(self, path: str, content: CheckpointContent, *, is_trained: bool = False) -> bool:
        """Whether it is a checkpoint: not final weights, which are saved once, nor weights beside training states.

        is_trained: whether the weights are known to be those that an optimizer changes.
        """
        name = os.path.basename(path)
        kind_of_name = os.path.join(os.path.dirname(path), _DIGITS.sub("0", name))
        is_repeated = kind_of_name in self._kinds_of_names
        self._kinds_of_names.add(kind_of_name)
        if content.is_state:
            return True
        is_one = is_trained or content.is_counted or is_repeated or _CHECKPOINT_NAME.search(name) is not None
        return is_one and not self.saves_states()

    def saves_states(self) -> bool:
        """Whether the script saves training states, so that files with only weights are ignored."""
        if self._has_states is None:
            self._has_states = self.link.resume_has_state
        return self._has_states

    def add(self, path: str, content: CheckpointContent, *, file: Any = None, is_shared: bool = False) -> bool:
        """Report a checkpoint when it is complete and has its final name. Returns False if that is later.

        file: an open file at that path, whose buffer may not be empty.
        """
        self._has_states = self._has_states or content.is_state
        if file is not None:
            self._known.add(os.path.abspath(path))
        mark = SaveInfo(self._step(path, content), not content.is_state)
        return self.saves.add(path, mark, file=file, is_shared=is_shared)

    def ignore(self, path: str) -> None:
        """An open file at that path is not a checkpoint."""
        self._known.add(os.path.abspath(path))

    def _step(self, path: str, content: CheckpointContent) -> Optional[int]:
        if content.step is not None:
            return content.step
        if self.link.steps.count_now is not None:
            return self.link.steps.count_now()
        if counted := self.count_steps():
            return counted
        if self.link.steps.ended_at is not None:
            return self.link.steps.ended_at
        known = [count for count in (self.earlier_steps() or None, content.epoch) if count is not None]
        number = None if known else _NUMBER_IN_NAME.search(os.path.basename(path))
        return max(known, default=None) if number is None else int(number[1] or number[2])

    def _report(self, path: str, mark: SaveInfo) -> None:
        self.link.report_checkpoint(path, mark.step, weights_only=mark.is_weights_only)
        self.after_report()

    @guarded(HOOK)
    def _end(self) -> None:
        self.saves.report_final_names(at_step=True)


def is_trainer() -> bool:
    """Whether this process trains and reports: rank 0, and not a worker of it."""
    data = sys.modules.get("torch.utils.data")
    if distributed.rank() != 0 or (data is not None and data.get_worker_info() is not None):
        return False
    process = sys.modules.get("multiprocessing.process")
    if process is None or process.parent_process() is None:
        return True
    # a child process: rank 0 of a distributed training, the only one that trains, or one of several, which keep quiet
    dist = sys.modules.get("torch.distributed")
    if dist is not None and dist.is_available() and dist.is_initialized():
        return True
    link = current()
    return (
        link is not None and "PoolWorker" not in process.current_process().name and link.training_processes.is_alone()
    )


_files: Optional[ScriptFiles] = None


def of_this_process(link: SupervisorLink) -> ScriptFiles:
    """The ScriptFiles of this process."""
    global _files  # noqa: PLW0603
    if _files is None:
        _files = ScriptFiles(link)
    return _files


def closed(path: str) -> None:
    """A file whose name may be that of a checkpoint was opened for writing, and is closed."""
    link = current()
    if link is not None:
        of_this_process(link).closed(path)


def written(path: str, content: Optional[CheckpointContent]) -> None:
    """A file was written by native code."""
    link = current()
    if link is not None:
        of_this_process(link).written(os.path.abspath(path), content)


def renamed(source: str, target: str) -> None:
    """A file or folder was renamed."""
    link = current()
    if link is not None:
        of_this_process(link).renamed(source, target)
