"""`backprop diagnose`: what held a run back."""

from typing import Any

import click

from backprop.cli import completion
from backprop.cli.context import find_run, json_option, open_caught_up, print_json
from backprop.store.home import Home


@click.command()
@click.argument("run", shell_complete=completion.runs)
@json_option
def diagnose(*, run: str, as_json: bool) -> None:
    """Tell what held a run back, by what was measured, and what to try."""
    from backprop.lifecycle.diagnosis import evidence, rules

    home = Home.from_environment()
    with open_caught_up(home) as index:
        view = find_run(home, index, run)
        gathered = evidence.gather(index, view)
    found = rules.diagnose(gathered)
    if as_json:
        document: dict[str, Any] = {
            "run": view.run.spec.id,
            "findings": [
                {"check": one.check, "level": one.level, "text": one.text, "advice": one.advice}
                for one in found.findings
            ],
            "unseen": found.unseen,
        }
        print_json(document)
        return
    for finding in found.findings:
        print(f"{finding.check}: {finding.text}")
        print(f"  try: {finding.advice}")
    if not found.findings:
        print("nothing stands out in what was measured")
    for what in found.unseen:
        print(f"not seen: {what}")
