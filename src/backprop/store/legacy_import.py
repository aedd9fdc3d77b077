"""The experiments.json of an older tool: its runs become run directories, once."""

import errno
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

import msgspec

from backprop import host
from backprop.records import Limits, RunSpec
from backprop.store import experiments_json
from backprop.store.journal.file import Journal, SessionEnded, SessionStarted
from backprop.store.plain import write_plain
from backprop.store.rundir import LOCK_PATIENCE_S, RUN_ID, Home

_IMPORT_PATIENCE_S = 60.0  # how long a command waits for another one's import
Say = Callable[[str], None]


def take_over(home: Home, say: Say) -> None:
    """Turn the experiments.json of an older tool into run directories, once: see `Home.has_old_runs_only`.

    All of them appear in one rename, or none: an import that is killed begins anew at the next command.
    Raises HomeBusyError, OSError or ConfigError.
    """
    patience_s = LOCK_PATIENCE_S
    if home.has_old_runs_only():
        patience_s = _IMPORT_PATIENCE_S  # somebody else's takes a millisecond a run
        try:
            home.make_own()  # this machine may be new to a shared home
        except OSError as error:
            raise home.unusable(error) from error
    with suppress(FileNotFoundError), home.lock(patience_s):
        if not home.has_old_runs_only():
            return
        try:
            old_runs = experiments_json.read_old(home.old_snapshot_path)
        except (OSError, ValueError):
            return  # damaged: set aside at the next write
        draft = Home(home.lock_path.parent / ".importing")
        shutil.rmtree(draft.path, ignore_errors=True)
        draft.make()
        for old in old_runs:
            if RUN_ID.fullmatch(old.id):
                _import(draft, old)
            else:
                say(f"an older run is not imported: its id {old.id!r} cannot name a folder.")
        try:
            draft.runs_path.rename(home.runs_path)
        except OSError as error:
            if error.errno not in {errno.ENOTEMPTY, errno.EEXIST}:
                raise
            return  # another machine that shares this home was faster
        finally:
            shutil.rmtree(draft.path, ignore_errors=True)
        say(f"imported {len(old_runs)} runs of an older tool from {home.old_snapshot_path}.")


def _import(home: Home, old: experiments_json.OldRun) -> None:
    script = old.script or old.id
    spec = RunSpec(
        id=old.id,
        name=old.name,
        command=("python3", script),
        script=script,
        cwd=str(Path(script).parent),
        created_at=old.started_at,
        host=host.name(),
        user=host.user(),
        limits=Limits(timebox_s=600.0, grace_s=30.0, min_free_ram_bytes=0, min_free_disk_bytes=0),
    )
    draft = home.begin(spec, None)
    lines: list[dict[str, object]] = []
    if old.last_step is not None:
        loss = {} if old.last_loss is None else {"loss": old.last_loss}
        lines.append({"step": old.last_step, **loss})
    lines += [{"event": "checkpoint_saved", "path": path} for path in old.checkpoints]
    write_plain(draft.out_path(1), b"".join(msgspec.json.encode(line) + b"\n" for line in lines))
    ended_at = old.ended_at or old.started_at
    journal = Journal(draft.journal_path)
    journal.append(
        SessionStarted(
            at=old.started_at,
            session=1,
            timebox_s=spec.limits.timebox_s,
            grace_s=spec.limits.grace_s,
            host=spec.host,
            supervisor_pid=0,
            boot_id=None,
        ),
        SessionEnded(
            at=ended_at,
            session=1,
            status=old.status,
            reason="imported from an older experiments.json",
            exit_code=None,
            elapsed_s=max(0.0, (ended_at - old.started_at) / timedelta(seconds=1)),
        ),
    )
    journal.close()
    home.publish(draft, old.id)
