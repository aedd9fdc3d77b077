"""From an owned run to an exit code: all its sessions, in the foreground, in the background or on Slurm."""

from collections.abc import Sequence
from datetime import datetime, timezone
from typing import NoReturn

import click

from backprop.cli.context import is_valid, open_caught_up, print_json, say
from backprop.cli.foreground import Foreground
from backprop.cli.messages import print_document, print_documents, say_if_refused
from backprop.errors import ExitCode, UsageError
from backprop.lifecycle import catalog
from backprop.lifecycle.driver import drive
from backprop.lifecycle.owned_run import OwnedRun, Request
from backprop.store.files import UnreadableError
from backprop.store.home import Home
from backprop.supervisor.command import Command, script_arguments


def is_repeated(home: Home, run_id: str, request_id: str | None, script: str | None, argv: Sequence[str]) -> bool:
    """Whether an earlier command made the run by the same request. Raises UsageError if that was for another one."""
    if request_id is None:
        return False
    try:
        spec = home.rundir(run_id).read_spec()
    except (FileNotFoundError, UnreadableError):  # then it did not
        return False
    if spec.request_id != request_id:
        return False
    if _asked(spec.script, spec.command) != _asked(script, argv):
        raise UsageError(
            f"request {request_id!r} has started run {run_id}, of another script or with other arguments; "
            "choose another --request-id."
        )
    return True


def end_if_repeated(
    home: Home, run_id: str, request_id: str | None, command: Command, *, detach: bool, as_json: bool
) -> None:
    """Exit where an earlier command made the run by the same request. Raises as `is_repeated`."""
    if request_id is not None and is_repeated(home, run_id, request_id, command.script, command.argv):
        repeated(home, run_id, request_id, detach=detach, as_json=as_json)


def _asked(script: str | None, argv: Sequence[str]) -> tuple[str | None, tuple[str, ...]]:
    """What is executed; of a script without the interpreter, which another machine has elsewhere."""
    return script, tuple(argv if script is None else script_arguments(argv))


def repeated(home: Home, run_id: str, request_id: str, *, detach: bool, as_json: bool) -> NoReturn:
    """Show the run that a request has started before, start nothing, and exit."""
    from backprop.views.documents import run_json

    with open_caught_up(home) as index:
        view = catalog.get_run(home, index, run_id, say)
    say(f"run {run_id} ({view.run.status.value}) was started by request {request_id!r} before; nothing is started.")
    if as_json:
        print_json(run_json.run_document(view, datetime.now(timezone.utc), is_valid))
    elif detach:
        print(run_id)
    raise click.exceptions.Exit(ExitCode.OK)


def train(owned: OwnedRun, request: Request, *, detach: bool, as_json: bool, is_one_of_many: bool = False) -> NoReturn:
    """Run the sessions of a request, and exit with the run's code.

    is_one_of_many: their documents are printed together, by the caller.
    """
    if owned.spec.slurm is not None:
        from backprop.cli.slurm import submit

        code = submit.train(owned, request, detach=detach, as_json=as_json)
        if as_json and not is_one_of_many:
            print_document(owned)
        owned.recorder.close()
        raise click.exceptions.Exit(code)
    if detach:
        from backprop.cli import background

        code = background.train(owned, request)
        if as_json:
            if not is_one_of_many:
                print_document(owned)
        elif code == ExitCode.OK:
            print(owned.spec.id)
        raise click.exceptions.Exit(code)
    front = Foreground(owned, as_json=as_json)
    result = drive(owned, request, front, ignore_hangup=False)
    if as_json:
        print_document(owned)
    owned.recorder.close()
    say_if_refused(owned, result)
    raise click.exceptions.Exit(result.exit_code)


def train_many(
    home: Home, run_ids: Sequence[str], new: Sequence[OwnedRun], request: Request, *, as_json: bool, is_full: bool
) -> NoReturn:
    """Start runs that ask for the same in the background, print their ids, and exit with the worst of their codes.

    new: those of `run_ids` that no earlier command has made by the same request. is_full: with as_json, print their
    whole documents.
    """
    earlier = set(run_ids) - {owned.spec.id for owned in new}
    if earlier:
        say(f"{len(earlier)} of {len(run_ids)} runs were started by request {request.request_id!r} before.")
    if not new:
        code = int(ExitCode.OK)
    elif new[0].spec.slurm is not None:
        from backprop.cli.slurm import submit

        code = submit.train_many(new, request)
    else:
        from backprop.cli import background

        code = background.train_many(new, request)
    if as_json:
        views = {owned.spec.id: owned.recorder.newest_view() for owned in new}
        if earlier:
            with open_caught_up(home) as index:
                views |= {run_id: catalog.get_run(home, index, run_id, say) for run_id in earlier}
        print_documents([views[run_id] for run_id in run_ids], is_full=is_full)
    else:
        print("\n".join(run_ids))
    for owned in new:
        owned.recorder.close()
    raise click.exceptions.Exit(code)
