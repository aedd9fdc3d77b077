"""Whether a run that is about to start repeats an earlier one: only where that is known, and never more than is known.

Compared are the code as git has it (commit, uncommitted changes, new source files, imported modules), the script, the
interpreter, the folder, and the command with all its arguments: a seed or a learning rate among them. Data, environment
variables and files that are no source are not compared, and nothing is claimed of them.
"""

import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from backprop.records import CodeState, Run, RunSpec
from backprop.store.code import provenance
from backprop.store.code.provenance import Recorded
from backprop.store.files import UnreadableError
from backprop.store.home import Home
from backprop.store.index import Index, IndexBrokenError
from backprop.store.rundir import RunDir

_PATIENCE_S = 0.1  # while another process writes to the index: the start matters more
_MOST = 200  # runs of one commit that are compared, the newest


def find(home: Home, spec: RunSpec, code: Recorded) -> Run | None:
    """The newest earlier run with the same code, command and arguments; None where there is none, or nobody can tell.

    The index is read as it is: nothing is brought up to date.
    """
    if not _is_known(code) or code.git is None or code.git.commit is None or not home.index_path.exists():
        return None
    with (
        suppress(OSError, sqlite3.Error, IndexBrokenError, UnreadableError),
        closing(Index(home.index_path, _PATIENCE_S)) as index,
    ):
        earlier = index.runs_of_commit(code.git.commit, _MOST)
        return next((run for run in earlier if _is_same(run, home.rundir(run.spec.id), spec, code)), None)
    return None


def _is_known(code: Recorded) -> bool:
    """Whether all of the code was recorded: a change that was too large to be kept, for example, was not."""
    return code.git is not None and not code.notes and (code.patch is not None or not code.git.dirty)


def _is_same(run: Run, rundir: RunDir, spec: RunSpec, code: Recorded) -> bool:
    return (
        _has_same_command(run.spec, spec)
        and _has_one_code(run)
        and run.sessions[-1].script_sha256 == spec.script_sha256
        and _has_same_command(rundir.read_spec(), spec)  # no `resume` has changed it
        and _recorded(run.code, rundir) == (code.git and code.git.commit, code.patch)
        and not _changed_modules(run, rundir, spec)
    )


def _has_same_command(earlier: RunSpec, spec: RunSpec) -> bool:
    return (earlier.command, earlier.cwd, earlier.python) == (spec.command, spec.cwd, spec.python)


def _has_one_code(run: Run) -> bool:
    """Whether it has begun from nothing, and all its sessions executed the same code, known in full."""
    first, *others = run.sessions or (None,)
    return (
        first is not None
        and first.offered is None
        and all(session.code is not None and not session.code.notes for session in run.sessions)
        and not any(session.only_once for session in run.sessions)
        and not any(session.code is not None and session.code.changed for session in others if session is not None)
    )


def _recorded(code: CodeState, rundir: RunDir) -> tuple[str | None, bytes | None] | None:
    """The commit and what differed from it; None where that is not known."""
    recorded = Recorded(git=code.git, patch=rundir.read_patch(code.patch), notes=code.notes)
    return (recorded.git.commit, recorded.patch) if recorded.git is not None and _is_known(recorded) else None


def _changed_modules(run: Run, rundir: RunDir, spec: RunSpec) -> bool:
    """Whether a module that it imported, which git may ignore, is another now."""
    modules = provenance.imported(rundir.read_modules(run.sessions[-1].number))
    folder = Path(spec.cwd) if spec.script is None else Path(spec.script).parent
    return bool(provenance.changed_modules(modules, folder))
