"""Values of any kind as JSON can say them, and nested configurations as flat ones: {"model.lr": 0.1}.

No library is imported. Interpolations of OmegaConf are not resolved: that could execute code, or put a secret from the
environment in their place.
"""

from __future__ import annotations

import sys
from enum import Enum

from ..channel import as_number

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Iterator, Mapping, Optional

MAX_TEXT = 500  # characters of a value
_MAX_ITEMS = 100  # of a list
_MAX_LEVELS = 10  # of dots


def flat(values: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(name, plain value) of each parameter; those of nested mappings, namespaces and dataclasses with dots.

    Names that begin with an underscore, and values that cannot be read, are left out.
    """
    for key, value in (_as_mapping(values) or {}).items():
        if str(key).startswith("_"):
            continue
        name = f"{place}.{key}" if place else str(key)
        try:
            inner = _as_mapping(value)
            if inner and name.count(".") < _MAX_LEVELS:
                yield from flat(inner, name)
            else:
                yield _text(name), plain(value)
        except Exception:  # noqa: BLE001, S112  the value's own code
            continue


def _as_mapping(value: Any) -> Optional[Mapping[Any, Any]]:
    """What a value holds by name; None for one that is not nested."""
    kind = type(value)
    if kind.__module__.startswith("omegaconf"):
        value = sys.modules["omegaconf"].OmegaConf.to_container(value, resolve=False)
    if isinstance(value, dict) or (hasattr(kind, "items") and hasattr(kind, "keys")):
        return dict(value.items())
    if kind.__name__ in {"Namespace", "SimpleNamespace"} or hasattr(kind, "__pydantic_fields__"):
        return dict(vars(value))
    if hasattr(kind, "__dataclass_fields__"):
        return {name: getattr(value, name) for name in kind.__dataclass_fields__ if hasattr(value, name)}
    return None


def plain(value: Any) -> Any:
    """The value as JSON can say it: what has no type there is text, of at most MAX_TEXT characters."""
    if isinstance(value, Enum):
        value = value.value if isinstance(value.value, str) else value.name
    elif type(value).__module__.startswith("omegaconf"):
        value = sys.modules["omegaconf"].OmegaConf.to_container(value, resolve=False)
    if isinstance(value, str):
        return _text(value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (list, tuple, set, frozenset)):
        return _list(value)
    number = None if isinstance(value, type) else as_number(value)
    return _text(_description(value)) if number is None else number


def _description(value: Any) -> str:
    if hasattr(value, "__qualname__"):  # a function or class
        return f"{value.__module__}.{value.__qualname__}"
    text = str(value)
    return type(value).__qualname__ if " at 0x" in text else text  # an address would differ in each run


def _list(value: Any) -> Any:
    """A list without lists of lists, which no filter reaches."""
    items = sorted(value, key=str) if isinstance(value, (set, frozenset)) else list(value)
    if len(items) > _MAX_ITEMS or any(isinstance(item, (list, tuple, dict)) for item in items):
        return _text(str(items))
    return [plain(item) for item in items]


def _text(text: str) -> str:
    text = text.encode(errors="replace").decode()  # arguments may be any bytes
    return text if len(text) <= MAX_TEXT else text[: MAX_TEXT - 1] + "…"
