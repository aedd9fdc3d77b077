"""Resume flags and parameters of argparse, and of jsonargparse, which is based on it: see resume_options.py.

A flag gets the checkpoint as its default, so that the parser converts the value like any other.
"""
# ruff: noqa: SLF001  a parser's actions and groups are private; they have not changed since 2.7

from __future__ import annotations

import sys

from ...failsafe import guarded
from . import resume_options
from .resume_options import Option

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Iterator, Sequence

_ONE_VALUE = {"_StoreAction"}
_NO_VALUE = {"_StoreTrueAction", "BooleanOptionalAction"}

_parsing: list[Any] = []  # the parser of the script's arguments, and those of subcommands that it has called
_rests: list[Any] = []  # arguments that parsers have left for others, as in timm
_WITH_HOOKS = {"absl", "fire", "hydra", "tyro"}  # libraries that use argparse for their own options, too


def hook(module: Any) -> None:
    """Hook the module argparse, or jsonargparse._core."""
    name = "parse_args" if module.__name__ == "jsonargparse._core" else "parse_known_args"
    original = getattr(module.ArgumentParser, name)
    suppressed = sys.modules["argparse"].SUPPRESS

    def parse(self: Any, args: Any = None, namespace: Any = None, **others: Any) -> Any:
        is_outermost = not _parsing
        if args is not None and not isinstance(args, list):
            args = list(args)
        words = sys.argv[1:] if args is None else args
        if is_outermost and not resume_options.are_the_scripts(words, _rests):
            return original(self, args, namespace, **others)
        filled = resume_options.fill(_options(self, words, suppressed), words)
        defaults = [(option.own, option.own.default) for option in filled]
        for option in filled:
            option.own.default = option.value
        _parsing.append(self)
        try:
            result = original(self, args, namespace, **others)
        finally:
            parsers = list(_parsing)
            if is_outermost:
                _parsing.clear()
            for action, default in defaults:
                action.default = default
        if is_outermost:
            found, rest = result if name == "parse_known_args" else (result, [])
            _rests.append(rest)
            if _caller(module) not in _WITH_HOOKS:
                _report(found, parsers, rest)
        return result

    setattr(module.ArgumentParser, name, parse)


def _caller(module: Any) -> str:
    """The package whose code has called the parser, from outside of its module and ours."""
    frame: Any = sys._getframe()
    while frame is not None and frame.f_globals.get("__name__") in {__name__, module.__name__}:
        frame = frame.f_back
    return "" if frame is None else str(frame.f_globals.get("__name__")).partition(".")[0]


@guarded(resume_options.PARAMETERS)
def _report(namespace: Any, parsers: Sequence[Any], rest: Sequence[str]) -> None:
    if resume_options.is_below_reporter():
        return
    from ...parameters import report

    defaults: dict[str, Any] = {}
    for parser in parsers:
        defaults.update({action.dest: action.default for action in parser._actions}, **parser._defaults)
    report.parsed(_without_subcommand(vars(namespace)), defaults, rest)


def _without_subcommand(values: Any) -> Any:
    """The options of jsonargparse's subcommand as if they were of the parser itself: `fit.model.lr` is model.lr."""
    inner = values.get(values.get("subcommand") or "")
    if inner is None or not hasattr(inner, "__dict__"):
        return values
    return {**{name: value for name, value in values.items() if value is not inner}, **vars(inner)}


def _options(parser: Any, words: Sequence[str], suppressed: str) -> Iterator[Option]:
    for action in parser._actions:
        yield Option(
            action.option_strings,
            is_free=resume_options.is_nothing(action.default) or action.default is suppressed,
            kind=_kind(action),
            is_given=any(_as_option(other).is_in(words) for other in _rivals(parser, action)),
            own=action,
        )


def _as_option(action: Any) -> Option:
    return Option(action.option_strings, is_free=False, kind=resume_options.of_no_use())


def _kind(action: Any) -> Any:
    name = type(action).__name__
    hint = getattr(action, "_typehint", None)  # jsonargparse's
    if hint is not None:
        return resume_options.by_annotation(hint, action.default)
    if name in _NO_VALUE:
        return resume_options.as_switch()
    if name not in _ONE_VALUE or action.nargs not in {None, "?"} or action.choices is not None:
        return resume_options.of_no_use()
    return resume_options.as_path() if action.type is None else resume_options.converted(action.type)


def _rivals(parser: Any, action: Any) -> list[Any]:
    """Options that are mutually exclusive with this one."""
    groups = [group._group_actions for group in parser._mutually_exclusive_groups]
    return [other for actions in groups if action in actions for other in actions if other is not action]
