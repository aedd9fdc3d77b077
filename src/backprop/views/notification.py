"""The program that sends a run's notifications: `python -m backprop.views.notification RUN_DIR JOURNAL_BYTES INDEX`.

The state is that of a prefix of the journal, with the metrics of that index. Recipients are in notify.json, outcomes in
notify.log. Started by notifier.py, which does not wait for it.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timezone
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import msgspec

from backprop.lifecycle import notifier
from backprop.records import Notification, Run, RunView
from backprop.store.journal.entries import parse
from backprop.store.journal.fold import fold
from backprop.store.rundir import RunDir
from backprop.supervisor.process.launch import RUN_DIR_VARIABLE
from backprop.text import printable
from backprop.views.terminal import formatting

PATIENCE_S = 30.0  # for one notification in all, whatever it does
_QUIET_S = 10.0  # for a server that does not answer
_MAX_TEXT = 1000  # characters of a name or a reason: an environment has limits
_MAX_METRICS = 100
_TAIL_BYTES = 4096
# of the run's document what goes over the network: no command, arguments, paths or code
_POSTED = (
    "id",
    "name",
    "status",
    "reason",
    "created_at",
    "started_at",
    "ended_at",
    "elapsed_s",
    "timebox_s",
    "last_step",
    "metrics",
    "exit_code",
    "host",
)


class NotificationError(Exception):
    """A notification was not delivered; the message is for notify.log and holds no secret."""


def main(run_dir: str, journal_bytes: int, index_path: str) -> None:
    """Send all notifications of a state in parallel, each with a time limit."""
    rundir = RunDir(Path(run_dir))
    entries, _ = parse(rundir.journal_path.read_bytes()[:journal_bytes])
    run = fold(rundir.read_spec(), entries)
    wanted = [notification for notification in notifier.read(rundir) if run.status in notification.on]
    document = _document(rundir, run, Path(index_path))
    threads = []
    for one in wanted:
        thread = threading.Thread(target=_deliver, args=(one, rundir, run, document), daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the user has as many as `ulimit -u` allows: one after the other
            _deliver(one, rundir, run, document)
        else:
            threads.append((one, thread))
    for notification, thread in threads:
        thread.join(PATIENCE_S + 1)  # a command has been ended by then
        if thread.is_alive():
            notifier.log(rundir, run.status, label(notification), f"failed: timed out after {PATIENCE_S:g} s")


def _document(rundir: RunDir, run: Run, index_path: Path) -> dict[str, Any]:
    """The run as `--json` has it, in the state to be notified about."""
    import sqlite3

    from backprop.store import checkpoints
    from backprop.store.index import Index, IndexBrokenError
    from backprop.views.documents.run_json import run_document

    view = None
    with suppress(sqlite3.Error, IndexBrokenError):  # then without metrics
        if index_path.exists():
            index = Index(index_path, _QUIET_S)
            view = index.get(run.spec.id)
            index.close()
    view = RunView(run=run, run_dir=str(rundir.path)) if view is None else msgspec.structs.replace(view, run=run)
    return run_document(
        view,
        datetime.now(timezone.utc),
        checkpoints.looks_valid,
    )


def _deliver(notification: Notification, rundir: RunDir, run: Run, document: Mapping[str, Any]) -> None:
    try:
        outcome = _means(notification)(notification, run, document)
    except NotificationError as error:
        outcome = f"failed: {error}"
    except Exception as error:  # noqa: BLE001  whatever a server or a setting makes of us, it is to leave a trace
        outcome = f"failed: {type(error).__name__}"
    notifier.log(rundir, run.status, label(notification), outcome)


def _means(notification: Notification) -> Callable[[Notification, Run, Mapping[str, Any]], str]:
    if notification.command is not None:
        return _run_command
    return _post if notification.webhook is not None else _show


def label(notification: Notification) -> str:
    """A short label; of an address only the host, because the rest may be secret."""
    if notification.command is not None:
        return f"command {os.path.basename(notification.command[0])}"  # noqa: PTH119
    if notification.webhook is not None:
        address = urlsplit(notification.webhook)
        return f"webhook {address.scheme}://{address.hostname}"
    return "desktop"


def sentence(run: Run, document: Mapping[str, Any]) -> str:
    """One sentence about the run for people."""
    name = f" ({run.spec.name})" if run.spec.name else ""
    step = "" if document["last_step"] is None else f" at step {document['last_step']}"
    after = f" after {formatting.duration(document['elapsed_s'])}" if run.sessions else ""
    reason = f": {run.reason}" if run.reason else ""
    return _plain(f"run {run.spec.id}{name} {run.status.value}{after}{step}{reason}")


def _plain(text: str | None) -> str:
    return printable((text or "")[:_MAX_TEXT]).encode(errors="replace").decode()


# -- by a command


def _run_command(notification: Notification, run: Run, document: Mapping[str, Any]) -> str:
    environment = {
        **{name: value for name, value in os.environ.items() if name != RUN_DIR_VARIABLE},
        "BACKPROP_EVENT": run.status.value,
        "BACKPROP_RUN_ID": run.spec.id,
        "BACKPROP_RUN_NAME": _plain(run.spec.name),
        "BACKPROP_REASON": _plain(run.reason),
        "BACKPROP_TEXT": sentence(run, document),
    }
    folder = run.spec.cwd if os.path.isdir(run.spec.cwd) else "/"  # noqa: PTH112
    return _execute(notification.command or (), environment, folder, msgspec.json.encode(document))


def _execute(argv: Sequence[str], environment: Mapping[str, str], folder: str, data: bytes) -> str:
    """Run a command; returns the outcome. Raises NotificationError."""
    # files, not pipes: a command may read nothing, or leave something behind that keeps a pipe open
    with tempfile.TemporaryFile() as stdin, tempfile.TemporaryFile() as output:
        stdin.write(data)
        stdin.seek(0)
        try:
            process = subprocess.Popen(
                argv,
                env=environment,
                cwd=folder,
                stdin=stdin,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:  # the latter: a NUL in an argument
            raise NotificationError(f"cannot be started: {getattr(error, 'strerror', None) or error}") from error
        try:
            code = process.wait(PATIENCE_S)
        except subprocess.TimeoutExpired as error:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            raise NotificationError(f"timed out after {PATIENCE_S:g} s, killed") from error
        if code != 0:
            output.seek(max(0, output.seek(0, os.SEEK_END) - _TAIL_BYTES))
            words = output.read().decode(errors="replace").split("\n")
            last = next((line.strip() for line in reversed(words) if line.strip()), "")
            raise NotificationError(f"exit code {code}" + (f": {last}" if last else ""))
    return "done"


# -- by a webhook


def _post(notification: Notification, run: Run, document: Mapping[str, Any]) -> str:
    """Send a webhook; returns the outcome. Raises NotificationError."""
    from http.client import HTTPException
    from urllib.error import HTTPError, URLError
    from urllib.request import HTTPRedirectHandler, Request, build_opener

    class NoRedirect(HTTPRedirectHandler):
        """A POST that is sent on elsewhere would arrive as a GET, or with a stranger."""

        def redirect_request(self, *_: Any, **__: Any) -> None:
            return None

    body = msgspec.json.encode(posted(run, document))
    headers = {"Content-Type": "application/json", "User-Agent": "backprop"}
    request = Request(notification.webhook or "", body, headers)  # noqa: S310  http and https only: see config
    try:
        with build_opener(NoRedirect).open(request, timeout=_QUIET_S) as answer:
            return f"delivered ({answer.status})"
    except HTTPError as error:
        raise NotificationError(f"the server answered {error.code}") from error
    except URLError as error:
        reason = error.reason
        raise NotificationError(
            reason.strerror or str(reason) if isinstance(reason, OSError) else str(reason)
        ) from error
    except TimeoutError as error:
        raise NotificationError(f"no answer within {_QUIET_S:g} s") from error
    except (HTTPException, OSError) as error:
        raise NotificationError(f"no proper answer ({type(error).__name__})") from error


def posted(run: Run, document: Mapping[str, Any]) -> dict[str, Any]:
    """What a webhook gets. `text` is what chat servers show."""
    posted = {key: document[key] for key in _POSTED}
    posted["metrics"] = dict(islice(document["metrics"].items(), _MAX_METRICS))
    return {"event": run.status.value, "text": sentence(run, document), "run": posted}


# -- on the desktop


def _show(_: Notification, run: Run, document: Mapping[str, Any]) -> str:
    title, text = f"Backprop: {run.status.value}", sentence(run, document)
    if (program := shutil.which("notify-send")) is not None:
        import html

        # the text may be read as markup
        argv = [program, "--app-name=Backprop", "--", title, html.escape(text)]
    elif (program := shutil.which("osascript")) is not None:
        script = "on run argv\ndisplay notification (item 2 of argv) with title (item 1 of argv)\nend run"
        argv = [program, "-e", script, title, text]
    else:
        raise NotificationError("neither notify-send nor osascript was found")
    return _execute(argv, os.environ, "/", b"")


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), sys.argv[3])
