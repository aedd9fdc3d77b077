"""The identity of a Keras fit, as of its call."""

from __future__ import annotations

import json
import re
from typing import Any, Mapping, Optional

from ...trainings.identity import Identity, identify

# arguments of `fit` about its data, or how it is observed or executed
_NOT_SETTINGS = ("self", "x", "y", "sample_weight", "validation_data", "epochs", "verbose", "callbacks")
_NUMBER = re.compile(r"(?<=[A-Za-z0-9])_\d+\b")  # Keras numbers all layers of a kind in a process


def identity_of(model: Any, given: Mapping[str, Any], offered: Optional[str]) -> Identity:
    """The identity of a fit. given: its arguments, by name. offered: see `identify`."""
    settings = {name: value for name, value in given.items() if name not in _NOT_SETTINGS}
    settings["optimizer"] = _configuration(getattr(model, "optimizer", None))
    settings["loss"] = getattr(model, "loss", None)
    data = [given.get(name) for name in ("x", "y", "sample_weight", "validation_data")]
    return identify(
        "keras",
        "fit",
        settings,
        model=_configuration(model),
        data=data,
        weights=[(str(number), variable.value) for number, variable in enumerate(model.variables)] or None,
        offered=offered,
    )


def _configuration(thing: Any) -> str:
    """The configuration as text, independent of what else the process has created before."""
    kind = type(thing).__qualname__
    try:
        config = json.dumps(thing.get_config(), default=lambda value: type(value).__qualname__, sort_keys=True)
    except Exception:  # noqa: BLE001  a class of the user's without a configuration
        return kind
    return _NUMBER.sub("", f"{kind} {config}")
