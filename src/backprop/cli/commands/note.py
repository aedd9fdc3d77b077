"""`backprop note`: write down what runs showed, and what was decided on them."""

import click

from backprop.cli import completion
from backprop.cli.annotating import annotate_each
from backprop.cli.several import EVERY, Choice, several_runs
from backprop.errors import UsageError
from backprop.records import Annotations, Decision
from backprop.store.home import Home
from backprop.store.rundir import LAST, RUN_ID


class _NoteCommand(click.Command):
    """A single word is the RUN; to click, it would be the TEXT, which comes last."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        rest = super().parse_args(ctx, args)
        given = ctx.params
        if not (given["runs"] or given["filters"] or given["is_all"] or given["text"] is None):
            given["runs"], given["text"] = (given["text"],), None
        return rest


@click.command(cls=_NoteCommand)
@several_runs("All runs.", of_all=EVERY, asks=True)
@click.argument("text", required=False)
@click.option(
    "--decide",
    metavar="DECISION",
    shell_complete=completion.choices(*(decision.value for decision in Decision)),
    help="Record what was decided on the runs: keep, discard or crash.",
)
def note(*, choice: Choice, text: str | None, decide: str | None) -> None:
    """Add a note to runs, and record what was decided on them."""
    from backprop.lifecycle import annotating
    from backprop.store.annotations import Kind

    if text is None and decide is None:
        raise UsageError("what is the note? backprop note RUN TEXT, or backprop note RUN --decide keep.")
    given = ((Kind.DECISION, decide), (Kind.NOTE, text))
    new = annotating.make((kind, value) for kind, value in given if value is not None)
    home = Home.from_environment()
    if text is not None and decide is not None and choice.is_by_name and _is_run(home, text):
        raise UsageError(
            f"{text!r} is a run, and the last word is the note. Add a note after it, or select the runs with --filter."
        )
    views = choice.confirmed(home, "Annotate")
    annotate_each(home, views, new, lambda annotations: _outcome(annotations, has_note=text is not None))


def _is_run(home: Home, text: str) -> bool:
    return text == LAST or (RUN_ID.fullmatch(text) is not None and home.rundir(text).path.exists())


def _outcome(annotations: Annotations, *, has_note: bool) -> str:
    count = len(annotations.notes)
    parts = [f"{count} note{'s' * (count != 1)}"] if has_note else []
    parts += [f"the decision {annotations.decision.value}"] if annotations.decision is not None else []
    return f"has {' and '.join(parts)}"
