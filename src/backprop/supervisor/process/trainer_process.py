"""A launched trainer with all its descendants, as one unit to signal, pause and end.

For the main thread of the process that launches it. psutil is imported only when the tree is inspected.
"""

import os
import signal
import subprocess
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from signal import Signals
from typing import TYPE_CHECKING

from backprop import host
from backprop.supervisor.process.launch import HAS_SUBREAPER, adopt_orphans, has_no_descendants, launch

if TYPE_CHECKING:
    from psutil import Process


class Trainer:
    """The tree below one trainer."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", run_dir: str, preexisting_children: "frozenset[Process]"
    ) -> None:
        self._process = process
        self._run_dir = run_dir
        self._preexisting_children = preexisting_children
        self.blindness = host.table_problem()  # why its descendants cannot be identified, if they cannot
        self._asked: list[Process] = []  # that were interrupted
        self._pids_before: set[int] = set()  # of the tree, at the first interrupt
        self.has_launchers_to_ask = False  # launchers that wait for those that were interrupted first
        self.has_more_to_ask = False  # launchers, or workers whose parent may turn out to wait for them
        self.unkillable_pids: list[int] = []  # of processes that hang in the kernel

    @classmethod
    def start(
        cls,
        command: Sequence[str],
        cwd: str,
        environment: Mapping[str, str],
        streams: tuple[str | None, Path, Path],
        run_dir: str,
        enter: Callable[[], None] | None,
        *,
        ignore_hangup: bool,
    ) -> "Trainer":
        """Launch it: see `launch.launch`. Raises OSError when the command cannot be executed.

        streams: stdin, as `launch` takes it, and files for stdout and stderr. run_dir: the mark in its environment.
        """
        stdin, out_path, err_path = streams
        preexisting_children: frozenset[Process] = frozenset()
        if host.table_problem() is None and not has_no_descendants():
            from backprop.supervisor.process import tree

            preexisting_children = tree.own_children()
        adopt_orphans()
        process = launch(command, cwd, environment, out_path, err_path, stdin, enter=enter, ignore_hangup=ignore_hangup)
        return cls(process, run_dir, preexisting_children)

    @property
    def pid(self) -> int:
        """Of the process that was launched, the root of the tree."""
        return self._process.pid

    @property
    def code(self) -> int:
        """What the root process ended with, minus the signal's number where one ended it; 0 while it is alive."""
        return self._process.returncode or 0

    def is_over(self) -> bool:
        """True when the root process has ended, whatever it left behind."""
        self._reap()
        return self._process.returncode is not None

    def is_gone(self) -> bool:
        """True when nothing is left of the tree. Reaps dead children."""
        self._reap()
        if self.blindness is not None:
            from backprop.supervisor.process import tree

            return not tree.has_group(self.pid)
        # a snapshot can miss a process that keeps forking; the kernel's answer cannot
        return has_no_descendants() if HAS_SUBREAPER and not self._preexisting_children else not self.members()

    def members(self) -> "list[Process]":
        """The living processes of the tree, as far as they can be identified."""
        if self.blindness is not None:
            return []
        from backprop.supervisor.process import tree

        return tree.members(self.pid, self._run_dir, self._preexisting_children)

    def labels(self) -> tuple[str, ...]:
        """The living processes of the tree in words: see `tree.labels`."""
        from backprop.supervisor.process import tree

        if self.blindness is not None:
            return ("its process group",) if tree.has_group(self.pid) else ()
        return tree.labels(self.members())

    def folder(self) -> str | None:
        """The working folder of the root process, where reading it is cheap (Linux)."""
        if self.blindness is not None:
            return None
        try:
            return str(Path(f"/proc/{self.pid}/cwd").readlink())
        except OSError:  # it has ended; or not Linux
            return None

    def folders(self) -> tuple[str, ...]:
        """The working folders of the processes of the tree, as far as they can be read."""
        from backprop.supervisor.process import tree

        return tree.folders(self.members())

    def signal(self, number: Signals) -> tuple[int, ...]:
        """Send a signal to the whole tree; returns the pids that got it.

        Stopped processes are continued, so that they can react.
        """
        from backprop.supervisor.process import tree

        if self.blindness is not None:
            return self._signal_group(number)
        members = self.members()
        pids = tree.send(members, number)
        if number is not signal.SIGCONT:
            tree.send(members, signal.SIGCONT)
        return pids

    def interrupt(self, announced_path: Path) -> tuple[int, ...]:
        """SIGINT to the processes that train; returns the pids that got it. A second call interrupts their launchers.

        Stopped processes are continued, to help those that save. announced_path: the file in which processes announce
        that they train.
        """
        from backprop.supervisor import interrupt_targets
        from backprop.supervisor.process import tree

        if self.blindness is not None:
            return self._interrupt_root()
        members = self.members()
        seen = interrupt_targets.look(members, interrupt_targets.announced(announced_path))
        is_first_call = not self._asked
        if is_first_call:
            self._pids_before = {member.pid for member in seen}
        asked_pids = {process.pid for process in self._asked if process.is_running()}
        helpers = {m.pid for m in seen if m.pid not in self._pids_before and m.parent_pid in asked_pids}
        choice = interrupt_targets.choose(self.pid, seen, asked_pids, helpers)
        pids = choice.first if is_first_call else (*choice.first, *choice.later)
        pids = (
            pids or choice.later or ((self.pid,) if is_first_call else ())
        )  # all of them ignore SIGINT, or are hidden
        targets = [process for process in members if process.pid in pids]
        self._asked += targets
        self.has_launchers_to_ask = is_first_call and not set(choice.later) <= set(pids)
        self.has_more_to_ask = is_first_call and len(pids) < len(seen)
        sent = tree.send(targets, signal.SIGINT)
        tree.send(members, signal.SIGCONT)
        return sent

    def is_ending(self) -> bool:
        """Whether a process that was interrupted is still alive: it may be saving."""
        from backprop.supervisor.process import tree

        self._reap()
        return bool(tree.alive(self._asked))

    def freeze(self) -> None:
        """Stop every process in place. Inspects each even where all are stopped already."""
        from backprop.supervisor.process import tree

        if self.blindness is None:
            tree.freeze(self.members)
        else:
            tree.signal_group(self.pid, signal.SIGSTOP)

    def kill(self) -> tuple[int, ...]:
        """SIGKILL until nothing is left. Returns the pids that were there before."""
        from backprop.supervisor.process import tree

        if self.blindness is not None:
            pids = self._signal_group(signal.SIGKILL)
            if not tree.wait_gone(self.is_gone, tree.UNKILLABLE_AFTER_S):
                self.unkillable_pids = [self.pid]
            return pids
        pids = tuple(process.pid for process in self.members())
        self.unkillable_pids = tree.kill(
            self.members, self.is_gone, {child.pid for child in self._preexisting_children}
        )
        if self.unkillable_pids and self._process.returncode is None:
            self._process.returncode = -signal.SIGKILL  # it hangs in the kernel; nothing more can be done
        return pids

    def terminate_root(self, patience_s: float) -> None:
        """SIGTERM to the root process alone, then wait up to `patience_s` for its end."""
        from backprop.supervisor.process import tree

        with suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        tree.wait_gone(self.is_over, patience_s)

    def end(self, patience_s: float, announced_path: Path) -> None:
        """SIGINT, `patience_s` to finish, SIGKILL. Blocks as long."""
        from backprop.supervisor.process import tree

        self.interrupt(announced_path)
        tree.wait_gone(self.is_gone, patience_s)
        self.kill()

    def _interrupt_root(self) -> tuple[int, ...]:
        """SIGINT to the root process alone: training processes cannot be told apart from data-loading workers."""
        if self.is_over():
            return ()
        self._process.send_signal(signal.SIGINT)
        self._signal_group(signal.SIGCONT)
        return (self.pid,)

    def _signal_group(self, number: Signals) -> tuple[int, ...]:
        """Send a signal to the process group that the root process leads; returns its pid if that exists."""
        from backprop.supervisor.process import tree

        is_sent = tree.signal_group(self.pid, number)
        if is_sent and number is not signal.SIGCONT:
            tree.signal_group(self.pid, signal.SIGCONT)
        return (self.pid,) if is_sent else ()

    def _reap(self) -> None:
        """Reap dead children: the trainer, and adopted orphans of its tree."""
        with suppress(ChildProcessError):
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    break
                if pid == self._process.pid:
                    self._process.returncode = os.waitstatus_to_exitcode(status)
