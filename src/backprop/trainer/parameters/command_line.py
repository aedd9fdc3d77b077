"""Parameters as a command line looks, for scripts of which no parser was seen: a guess."""

from __future__ import annotations

import re

from .secrets import hidden

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Sequence

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*([eE][-+]?\d+)?|\.\d+([eE][-+]?\d+)?|inf|nan)")
_OVERRIDE = re.compile(r"[+~]*[A-Za-z_][\w./@-]*=")  # as Hydra and OmegaConf want them
_LIST = re.compile(r"\[([^][{}()'\"]*)\]|([^][{}()'\",]+(?:,[^][{}()'\",]+)+)")


def params_in(argv: Sequence[str]) -> dict[str, Any]:
    """Parameters in a script's arguments: `--lr 1e-3 --layers 64 64 --amp seed=1`.

    Gives {"lr": 0.001, "layers": [64, 64], "amp": True, "seed": 1}. Names are as argparse makes them: `--batch-size`
    is batch_size. A word such as `seed=1` is a parameter of its own, as for Hydra, never the value of the option
    before it; its values that are separated by commas are a list. For a command, pass what follows the script.
    """
    params: dict[str, Any] = {}
    name: str | None = None
    for word in argv:
        if word.startswith("-") and word.strip("-") and not _NUMBER.fullmatch(word):
            key, equals, value = word.lstrip("-").partition("=")
            name = None if equals else key.replace("-", "_")
            params[key.replace("-", "_")] = _value(value) if equals else True
        elif _OVERRIDE.match(word):
            key, _, value = word.lstrip("+~").partition("=")
            params[key], name = _values(value), None
        elif name is not None:
            params[name] = _with(params[name], _value(word))
    return {name: hidden(name, value) for name, value in params.items()}


def _with(before: Any, value: Any) -> Any:
    """The value of an option after another word."""
    if before is True:
        return value
    return [*before, value] if isinstance(before, list) else [before, value]


def _values(text: str) -> Any:
    """The value of an override; several of a multirun (`lr=0.1,0.2`) and lists (`layers=[64,64]`) as a list."""
    found = _LIST.fullmatch(text)
    if found is None:
        return _value(text)
    items = found[2] if found[1] is None else found[1]
    return [_value(item.strip()) for item in items.split(",")] if items else []


def _value(text: str) -> Any:
    if text.lower() in {"true", "false"}:
        return text.lower() == "true"
    if not _NUMBER.fullmatch(text):
        return text
    try:
        return int(text)
    except ValueError:
        return float(text)
