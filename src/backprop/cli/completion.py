"""What Tab offers in a shell: for `shell_complete=` of click's arguments and options.

Whatever goes wrong, Tab stays silent. Only words that are plain to every shell are offered: they are put into the
command line as they are, and a run may be called anything.
"""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

import click

from backprop.errors import BackpropError
from backprop.records import Status
from backprop.text import printable

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from backprop.store.index import Index

    Completer = Callable[[click.Context, click.Parameter, str], list[CompletionItem[str]]]

AFTER_DASHES = "backprop.after_dashes"  # in click's context where the command line has a '--': what follows it
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./@+-]{0,199}")
_LIMIT = 40
_HELP_LENGTH = 60
_PATIENCE_S = 0.1  # while another process writes to the index


def files(_: click.Context, __: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Whatever the shell itself would complete."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="file")]


def folders(_: click.Context, __: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Whatever folder the shell itself would complete."""
    from click.shell_completion import CompletionItem

    return [CompletionItem(incomplete, type="dir")]


def choices(*words: str) -> "Completer":
    """One of these."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
        from click.shell_completion import CompletionItem

        return [CompletionItem(word) for word in words if word.startswith(incomplete)]

    return complete


statuses = choices(*(status.value for status in Status))


def runs(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """Any run; behind `--`, where a script's own arguments are, a file."""
    if AFTER_DASHES in ctx.meta:
        return files(ctx, param, incomplete)
    return _runs(incomplete, ())


def active_runs(_: click.Context, __: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """A run that has not ended."""
    return _runs(incomplete, tuple(status.value for status in Status if not status.is_final))


def _stored(kind: str) -> "Completer":
    """A name that the index has. kind: see store/completions.py."""

    def complete(_: click.Context, __: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
        from click.shell_completion import CompletionItem

        from backprop.store import completions

        with _index() as index:
            names = [] if index is None else completions.names(index, kind, incomplete, _LIMIT)
        return [CompletionItem(name) for name in names if _PLAIN.fullmatch(name)]

    return complete


groups, metrics, tags = map(_stored, ("groups", "metrics", "tags"))


def sweeps(_: click.Context, __: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """The name of a sweep."""
    from click.shell_completion import CompletionItem

    from backprop.lifecycle.sweep import spec
    from backprop.store.home import Home

    names: list[str] = []
    with suppress(BackpropError, OSError):
        names = sorted(one.name for one in spec.sweeps(Home.from_environment()))
    found = (name for name in names if name.startswith(incomplete) and _PLAIN.fullmatch(name))
    return [CompletionItem(name) for name in found]


def sort_keys(ctx: click.Context, param: click.Parameter, incomplete: str) -> "list[CompletionItem[str]]":
    """What `--sort` takes."""
    from backprop.store.filters import SORT_KEYS

    return [*choices(*SORT_KEYS)(ctx, param, incomplete), *metrics(ctx, param, incomplete)]


def _runs(incomplete: str, wanted: tuple[str, ...]) -> "list[CompletionItem[str]]":
    from click.shell_completion import CompletionItem

    from backprop.store import completions
    from backprop.store.rundir import LAST

    with _index() as index:
        found = completions.naming_runs(index, incomplete, wanted, _LIMIT) if index is not None else []
    last = [CompletionItem(LAST, help="the newest run")] if found and LAST.startswith(incomplete) and not wanted else []
    return last + [
        CompletionItem(run.word, help=printable(f"{run.status} {run.other or ''}"[:_HELP_LENGTH]).strip())
        for run in found
        if _PLAIN.fullmatch(run.word)
    ]


@contextmanager
def _index() -> "Iterator[Index | None]":
    """The index as it is; None where there is none that can be read. Nothing is made, mended or brought up to date."""
    import sqlite3

    from backprop.store.home import Home
    from backprop.store.index import Index, IndexBrokenError

    index = None
    with suppress(BackpropError, OSError, sqlite3.Error, IndexBrokenError):
        path = Home.from_environment().index_path
        index = Index(path, _PATIENCE_S) if path.exists() else None
    try:
        yield index
    finally:
        if index is not None:
            index.close()
