"""From a claimed run to an exit code: all its turns, here or in the background, and what the user is told of them."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NoReturn

import click

from backprop.cli.context import say
from backprop.cli.foreground import Foreground
from backprop.cli.messages import exit_code_of, print_document, print_documents
from backprop.errors import ExitCode
from backprop.lifecycle.driver import drive
from backprop.lifecycle.owned_run import recorder_of

if TYPE_CHECKING:
    from backprop.lifecycle.owned_run import OwnedRun, Request


def train(
    claim: "OwnedRun", request: "Request", *, detach: bool, as_json: bool, is_one_of_many: bool = False
) -> NoReturn:
    """Do what was asked of a run, and exit with its code.

    is_one_of_many: their documents are printed together, by the caller.
    """
    recorder = recorder_of(claim, say)
    if claim.spec.slurm is not None:
        from backprop.cli.slurm import submit

        code = submit.train(claim, request, recorder, detach=detach, as_json=as_json)
        if as_json and not is_one_of_many:
            print_document(recorder)
        recorder.close()
        raise click.exceptions.Exit(code)
    if detach:
        from backprop.cli import background

        code = background.train(claim, request)
        if as_json:
            if not is_one_of_many:
                print_document(recorder)
        elif code == ExitCode.OK:
            print(claim.spec.id)
        raise click.exceptions.Exit(code)
    front = Foreground(claim, recorder, as_json=as_json)
    result = drive(claim, request, recorder, front, ignore_hangup=False)
    if as_json:
        print_document(recorder)
    recorder.close()
    raise click.exceptions.Exit(exit_code_of(claim, result))


def train_many(claims: "Sequence[OwnedRun]", request: "Request", *, as_json: bool) -> NoReturn:
    """Start runs that ask for the same in the background, print their ids, and exit with the worst of their codes."""
    recorders = [recorder_of(claim, say) for claim in claims]
    together = list(zip(claims, recorders, strict=True))
    if claims[0].spec.slurm is not None:
        from backprop.cli.slurm import submit

        code = submit.train_many(together, request)
    else:
        from backprop.cli import background

        code = background.train_many(together, request)
    if as_json:
        print_documents(recorders)
    else:
        print("\n".join(claim.spec.id for claim in claims))
    for recorder in recorders:
        recorder.close()
    raise click.exceptions.Exit(code)
