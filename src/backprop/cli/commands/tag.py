"""`backprop tag`: give tags to runs, and take them away."""

from typing import Any

import click

from backprop.cli.annotating import annotate_each
from backprop.cli.several import EVERY, Choice, several_runs
from backprop.errors import UsageError
from backprop.records import Annotations
from backprop.store.home import Home

_CHANGES = "backprop.tags"  # in click's context: what begins with + or -


class _TagCommand(click.Command):
    """Keeps +TAG and -TAG apart: to click, the latter would be an option."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        helping = ctx.help_option_names
        changes = [word for word in args if word[:1] in {"+", "-"} and word[:2] != "--" and word not in helping]
        ctx.meta[_CHANGES] = changes
        return super().parse_args(ctx, [word for word in args if word not in changes])

    def collect_usage_pieces(self, ctx: click.Context) -> list[str]:
        return [*super().collect_usage_pieces(ctx), "+TAG|-TAG..."]


@click.command(cls=_TagCommand)
@several_runs("All runs.", of_all=EVERY, asks=True)
@click.pass_context
def tag(ctx: click.Context, /, *, choice: Choice, **_: Any) -> None:
    """Add tags to runs (+TAG), or remove them (-TAG)."""
    from backprop.lifecycle import annotating
    from backprop.store.annotations import Kind

    changes: list[str] = ctx.meta[_CHANGES]
    if not changes:
        raise UsageError("which tag? +TAG gives it, -TAG takes it away: backprop tag last +baseline -draft.")
    new = annotating.make((Kind.TAG if word[0] == "+" else Kind.UNTAG, word[1:]) for word in changes)
    home = Home.from_environment()
    views = choice.confirmed(home, "Tag")
    annotate_each(home, views, new, _tagged)


def _tagged(annotations: Annotations) -> str:
    return f"has the tags {' '.join(annotations.tags)}" if annotations.tags else "has no tags"
