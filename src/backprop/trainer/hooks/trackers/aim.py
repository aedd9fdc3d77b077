"""aim: `Run.track`. Its context, such as `{"subset": "val"}`, becomes part of the name. Written against aim 3.29."""

from __future__ import annotations

from typing import Any, Mapping, Optional

from ...failsafe import after
from .rows import add_row

_HOOK = "aim"


def hook(module: Any) -> None:
    """Called when `aim.sdk.run` has been imported."""
    module.Run.track = after(module.Run.track, _tracked, _HOOK)


def _tracked(
    _: Any,
    value: Any,
    name: Any = None,
    step: Any = None,
    epoch: Any = None,  # noqa: ARG001
    *,
    context: Optional[Mapping[str, Any]] = None,
) -> None:
    values = value if isinstance(value, Mapping) else {name: value}
    parts = [str(part) for part in (context or {}).values()]
    add_row(_HOOK, {"/".join([*parts, str(key)]): each for key, each in values.items()}, step)
