"""What the compare view of the page gets: runs side by side, as in `backprop compare`, and how the code of two differs.

Everything is bounded, and says what was left out.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import datetime
from typing import Any

from backprop.records import RunView
from backprop.store import metric_names
from backprop.store.code.diff import Difference
from backprop.text import shortened
from backprop.views import replicates
from backprop.views.terminal import params
from backprop.views.terminal.comparison_table import Comparison, Fact, all_facts, side
from backprop.views.terminal.replicates_table import spread_text
from backprop.views.terminal.screen import Screen

MAX_RUNS = 20
MAX_DIFF_BYTES = 4_000_000  # that are asked of git
_MAX_ROWS = 400
_MAX_CELL = 2_000  # characters
_MAX_FILES = 200
_MAX_FILE_LINES = 2_000
_MAX_SHOWN = 1_000_000  # characters, of all files
_IN_HEAD = {"name", "status"}  # facts that are over the columns, not in rows
_FILE = re.compile(r"^(?=diff --git )", re.MULTILINE)


def comparison_document(views: Sequence[RunView], now: datetime, *, with_all: bool) -> dict[str, Any]:
    """Runs, and a row for each fact; with_all: also those that are the same in all."""
    metrics = [name for name in metric_names.in_order(views) if with_all or not metric_names.is_progress(name)]
    comparison = Comparison(
        sides=tuple(side(view, now, {}) for view in views),
        metrics=tuple(metrics),
        params=tuple(params.names(views) if with_all else params.differing(views)),
        with_all=with_all,
    )
    facts = [fact for fact in all_facts(comparison, now, Screen()) if fact.section or fact.label not in _IN_HEAD]
    return {
        "runs": [
            {"id": view.run.spec.id, "name": _cell(view.run.spec.name or ""), "status": view.run.status}
            for view in views
        ],
        "rows": [_row(fact) for fact in facts[:_MAX_ROWS]],
        "left_out": max(0, len(facts) - _MAX_ROWS),
        "over_seeds": _over_seeds(views, metrics),
    }


def _row(fact: Fact) -> dict[str, Any]:
    texts = [cell.text.strip() for cell in fact.cells]
    shown = [_cell(text) for text in texts]
    return {
        "section": fact.section,
        "label": _cell(fact.label),
        "cells": shown,
        "best": sorted(fact.best),
        # of a setting: the runs in which it is not what it is in the first one
        "other": [place for place, text in enumerate(texts) if fact.is_setting and text != texts[0]],
        "is_cut": len(set(texts)) > len(set(shown)),  # they differ where they are not shown
    }


def _over_seeds(views: Sequence[RunView], metrics: Sequence[str]) -> dict[str, Any] | None:
    """Of runs that differ in their seed only, the spread of each metric; None where there are none."""
    sets = replicates.sets(views)
    if all(len(found) == 1 for found in sets):
        return None
    names = [name for name in metrics if metric_names.is_quality(name)][:_MAX_ROWS]
    return {
        "metrics": [_cell(name) for name in names],
        "sets": [
            {
                "runs": [view.run.spec.id for view in found],
                "cells": [spread_text(replicates.spread(found, name), Screen()) for name in names],
            }
            for found in sets
        ],
    }


def difference_document(found: Difference) -> dict[str, Any]:
    """The patch by file. is_cut: there is more of it, and how much is not known."""
    parts = _FILE.split(found.patch.decode(errors="replace"))
    files = [part for part in parts if part.strip()]
    return {
        "notes": [_cell(note) for note in found.notes],
        "files": list(_files(files[:_MAX_FILES])),
        "files_left_out": max(0, len(files) - _MAX_FILES),
        "is_cut": found.is_cut,
    }


def _files(patches: Sequence[str]) -> Iterator[dict[str, Any]]:
    room = _MAX_SHOWN
    for patch in patches:
        lines = patch.split("\n")
        if lines[-1] == "":
            del lines[-1]
        shown: list[str] = []
        for line in lines[:_MAX_FILE_LINES]:
            cut = shortened(line, _MAX_CELL)
            room -= len(cut)
            if room < 0:
                break
            shown.append(cut)
        yield {
            "name": _cell(_name(lines)),
            "added": sum(line.startswith("+") for line in lines[_head(lines) :]),
            "removed": sum(line.startswith("-") for line in lines[_head(lines) :]),
            "text": "\n".join(shown),
            "lines_left_out": len(lines) - len(shown),
        }


def _head(lines: Sequence[str]) -> int:
    """How many lines come before the first that changed."""
    return next((place for place, line in enumerate(lines) if line.startswith("@@")), len(lines))


def _name(lines: Sequence[str]) -> str:
    """The file of a patch: after the change, or before it, if it was removed."""
    head = lines[: _head(lines)]
    for start in ("+++ b/", "--- a/", "rename to "):
        for line in head:
            if line.startswith(start):
                return line.removeprefix(start).rstrip("\t")
    return lines[0].removeprefix("diff --git ")


def _cell(text: str) -> str:
    return shortened(text, _MAX_CELL)
