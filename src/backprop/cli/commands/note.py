"""`backprop note`: write down what a run showed, and what was decided on it."""

import click

from backprop.cli import completion
from backprop.cli.annotating import annotate_each
from backprop.cli.context import find_run, open_caught_up
from backprop.errors import UsageError
from backprop.records import Annotations, Decision
from backprop.store.home import Home


@click.command()
@click.argument("run", shell_complete=completion.runs)
@click.argument("text", required=False)
@click.option(
    "--decide",
    metavar="DECISION",
    shell_complete=completion.choices(*(decision.value for decision in Decision)),
    help="Record what was decided on the run: keep, discard or crash.",
)
def note(*, run: str, text: str | None, decide: str | None) -> None:
    """Add a note to a run, and record what was decided on it."""
    from backprop.lifecycle import annotating
    from backprop.store.annotations import Kind

    if text is None and decide is None:
        raise UsageError("what is the note? backprop note RUN TEXT, or backprop note RUN --decide keep.")
    given = ((Kind.DECISION, decide), (Kind.NOTE, text))
    new = annotating.make((kind, value) for kind, value in given if value is not None)
    home = Home.from_environment()
    with open_caught_up(home) as index:
        view = find_run(home, index, run)
    annotate_each(home, [view], new, lambda annotations: _outcome(annotations, has_note=text is not None))


def _outcome(annotations: Annotations, *, has_note: bool) -> str:
    count = len(annotations.notes)
    parts = [f"{count} note{'s' * (count != 1)}"] if has_note else []
    parts += [f"the decision {annotations.decision.value}"] if annotations.decision is not None else []
    return f"has {' and '.join(parts)}"
