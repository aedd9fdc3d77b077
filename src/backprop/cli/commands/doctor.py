"""`backprop doctor`: check this machine for what will not work."""

import sys

import click

from backprop import __version__
from backprop.cli.context import json_option, print_json, working_folder
from backprop.errors import ExitCode
from backprop.records import Level
from backprop.text import printable


@click.command()
@click.option("--python", metavar="PATH", help="Check this Python. [default: the one that would run scripts here]")
@json_option
def doctor(*, python: str | None, as_json: bool) -> None:
    """Check this machine: what will not work, what to know, and what to do. Exits with 1 if there is a problem."""
    from backprop.cli.doctor import scripts
    from backprop.cli.doctor.checks import all_checks
    from backprop.cli.doctor.findings import examine

    folder = str(working_folder())
    if python is None and sys.stdin.isatty() and (named := scripts.named_here(folder)) is not None:
        question = f"Run {printable(named)}, which this directory configures, to check it?"
        python = named if click.confirm(question, err=True) else None
    findings = examine(all_checks(folder, __version__, python))
    if as_json:
        print_json(findings)
    else:
        from backprop.views.terminal.doctor_table import findings_table

        print(findings_table(findings), end="")
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise click.exceptions.Exit(ExitCode.PROBLEM)
