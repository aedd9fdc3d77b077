"""Runs as a tree: each below the run whose idea it goes on from."""

from collections.abc import Sequence
from typing import NamedTuple

from backprop.records import RunView


class Branch(NamedTuple):
    """A run in the tree."""

    view: RunView
    depth: int  # 0: its parent is not among these runs, or it has none


def branches(views: Sequence[RunView]) -> list[Branch]:
    """Each run once, parents before their children; among the children of one parent the given order holds."""
    ids = {view.run.spec.id for view in views}
    children: dict[str | None, list[RunView]] = {}
    for view in views:
        parent = view.annotations.parent
        children.setdefault(parent if parent in ids else None, []).append(view)
    found: list[Branch] = []
    seen: set[str] = set()

    def grow(roots: Sequence[RunView]) -> None:
        stack = [Branch(view, 0) for view in reversed(roots)]  # no recursion: a line of descent has any length
        while stack:
            branch = stack.pop()
            run_id = branch.view.run.spec.id
            if run_id in seen:
                continue
            seen.add(run_id)
            found.append(branch)
            stack += [Branch(view, branch.depth + 1) for view in reversed(children.get(run_id, []))]

    grow(children.get(None, []))
    grow(views)  # what is left goes round in a circle: files that nobody here wrote
    return found
