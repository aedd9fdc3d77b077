"""`backprop diagnose`: what held runs back."""

from typing import TYPE_CHECKING, Any

import click

from backprop.cli import completion
from backprop.cli.context import find_runs, json_option, open_caught_up, print_json
from backprop.records import RunView
from backprop.store.home import Home

if TYPE_CHECKING:
    from backprop.lifecycle.diagnosis.rules import Diagnosis


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, shell_complete=completion.runs)
@json_option
def diagnose(*, runs: tuple[str, ...], as_json: bool) -> None:
    """Show what held runs back, as far as it was measured, and what to try."""
    from backprop.lifecycle.diagnosis import evidence, rules

    home = Home.from_environment()
    with open_caught_up(home) as index:
        views = find_runs(home, index, runs)
        found = [rules.diagnose(evidence.gather(index, view)) for view in views]
    if as_json:
        documents = [_document(view, diagnosis) for view, diagnosis in zip(views, found, strict=True)]
        print_json(documents if len(runs) > 1 else documents[0])
        return
    for view, diagnosis in zip(views, found, strict=True):
        if len(views) > 1:
            print(f"run {view.run.spec.id}")
        _print(diagnosis)


def _document(view: RunView, found: "Diagnosis") -> dict[str, Any]:
    return {
        "run": view.run.spec.id,
        "findings": [
            {"check": one.check, "level": one.level, "text": one.text, "advice": one.advice} for one in found.findings
        ],
        "unseen": found.unseen,
    }


def _print(found: "Diagnosis") -> None:
    for finding in found.findings:
        print(f"{finding.check}: {finding.text}")
        print(f"  try: {finding.advice}")
    if not found.findings:
        print("nothing stands out in what was measured")
    for what in found.unseen:
        print(f"not seen: {what}")
