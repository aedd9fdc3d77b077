"""Reports parameters to the supervisor, when a parser has parsed the script's arguments or a framework its settings.

Only from the process that the run is about: rank 0, and none below a process that has reported some. An installed
program may be a launcher, so what it has parsed waits until it trains itself. What cannot be reported never disturbs
the script.
"""

from __future__ import annotations

import json
import os
from itertools import islice

from ..channel import EventsFile
from ..distributed import rank
from ..failsafe import guarded, notify_user
from ..hooks.parsers.resume_options import PARAMETERS, REPORTER, is_below_reporter, is_tool, takes_checkpoint
from .plain import MAX_TEXT, flat
from .secrets import HIDDEN, hidden, is_secret

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Mapping, Optional, Sequence

MAX_PARAMS = 1000  # of a process
_MAX_READ = 20_000  # before these are chosen
_MAX_LIST = 2000  # characters of a list
_LEAST_SECRET = 8  # characters of a secret of the environment: a shorter one may be a word
_IN_A_LINE = 200  # parameters: a line of more than 1 MiB is not understood

_reported: dict[str, tuple[Any, bool]] = {}  # values, and whether they are defaults
_events: Optional[EventsFile] = None
_waiting: list[
    tuple[dict[str, tuple[Any, bool]], dict[str, Any]]
] = []  # what an installed program has parsed, until it trains


@guarded(PARAMETERS)
def parsed(values: Mapping[str, Any], defaults: Mapping[str, Any], rest: Sequence[str] = ()) -> None:
    """Report what a parser made of the script's arguments; it takes the place of our guess.

    defaults: of options; where the value is the same, it is marked as a default. rest: arguments that this parser left.
    """
    if _may_report():
        _send_or_wait(_prepared(values, defaults), {"origin": "parser", "guessed": _guessed(rest)})


@guarded(PARAMETERS)
def configured(settings: Any, defaults: Mapping[str, Any]) -> None:
    """Report the settings that the script gave to a library, a mapping or an object that holds them: see `parsed`."""
    if _may_report():
        _send_or_wait(_prepared(settings, defaults), {"origin": "settings"})


@guarded(PARAMETERS)
def process_trains() -> None:
    """Report what has waited, because this process trains: these are parameters of the run, whatever program it is."""
    while _waiting and _may_report():
        found, fields = _waiting.pop(0)
        _send(found, **fields)


def _may_report() -> bool:
    return bool(os.environ.get("BACKPROP_EVENTS")) and not is_below_reporter() and rank() == 0


def _send_or_wait(found: dict[str, tuple[Any, bool]], fields: dict[str, Any]) -> None:
    if is_tool():
        _waiting.append((found, fields))
    else:
        _send(found, **fields)


def _guessed(rest: Sequence[str]) -> dict[str, Any]:
    if not rest:
        return {}
    from .command_line import params_in

    return params_in([str(word) for word in rest])


def _prepared(values: Any, defaults: Mapping[str, Any]) -> dict[str, tuple[Any, bool]]:
    """What is new: values without secrets, and whether they are the defaults."""
    otherwise = dict(islice(flat(defaults), _MAX_READ))
    found = {
        name: (value, name in otherwise and _is_same(value, otherwise[name]))
        for name, value in islice(flat(values), _MAX_READ)
        if not takes_checkpoint(name, value)  # from us, and in this session only
    }
    new, secrets = {}, _secrets_of_environment()
    for name in _chosen(found):
        value, is_default = found[name]
        entry = (_short(_without(secrets, hidden(name, value))), is_default)
        if _reported.get(name) != entry:
            _reported[name] = new[name] = entry
    return new


def _secrets_of_environment() -> list[str]:
    """The values of such variables, which may be the default of an option of any name; longest first."""
    secrets = [
        text
        for name, text in os.environ.items()
        if is_secret(name, text) and len(text) >= _LEAST_SECRET and not os.path.exists(text)  # PWD, a file with a key
    ]
    return sorted(secrets, key=len, reverse=True)


def _without(secrets: Sequence[str], value: Any) -> Any:
    if isinstance(value, list):
        return [_without(secrets, item) for item in value]
    if isinstance(value, str):
        for secret in secrets:
            value = value.replace(secret, HIDDEN)
    return value


def _is_same(value: Any, default: Any) -> bool:
    return value == default or str(value) == str(default)  # argparse converts a default that is text


def _short(value: Any) -> Any:
    text = json.dumps(value) if isinstance(value, list) else ""
    return value if len(text) <= _MAX_LIST else text[:MAX_TEXT] + "…"


def _chosen(found: Mapping[str, tuple[Any, bool]]) -> list[str]:
    """The names that are recorded, those with defaults last; the user is told of the others."""
    names = sorted(found, key=lambda name: found[name][1])
    known = [name for name in names if name in _reported]
    others = [name for name in names if name not in _reported][: MAX_PARAMS - len(_reported)]
    missing = len(names) - len(known) - len(others)
    if missing:
        notify_user(f"{missing:,} of {len(names):,} parameters are not recorded (limit {MAX_PARAMS:,})")
    return known + others


def _send(found: Mapping[str, tuple[Any, bool]], **fields: Any) -> None:
    """Send an event, of several lines if it is large."""
    global _events  # noqa: PLW0603  one in a process
    os.environ[REPORTER] = str(os.getpid())
    if _events is None:
        _events = EventsFile(os.environ["BACKPROP_EVENTS"])
    names = list(found)
    for begin in range(0, len(names), _IN_A_LINE):
        part = {name: found[name] for name in names[begin : begin + _IN_A_LINE]}
        _events.send(
            {
                "event": "params",
                "params": {name: value for name, (value, _) in part.items()},
                "defaults": [name for name, (_, is_default) in part.items() if is_default],
                **fields,
            }
        )
