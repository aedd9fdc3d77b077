"""Resume flags of click, Typer, absl, tyro and fire: see options.py.

These parsers get the flag as the first argument, as if the user had typed it.
"""
# ruff: noqa: SLF001  these parsers have no public hooks

from __future__ import annotations

import sys

from ...failsafe import guarded
from . import options as resume_flags
from .options import Option, as_path, as_switch, of_no_use

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, Sequence

_OURS = "backprop.words"  # in click's contexts: whether it parses the script's arguments


def hook(module: Any) -> None:
    """Hook the module of a library that has just been imported."""
    {
        "click.core": _click,
        "typer._click.core": _click,
        "absl.flags._flagvalues": _absl,
        "tyro._backends._tyro_backend": _tyro,
        "tyro._backends._argparse_backend": _tyro,
        "fire.core": _fire,
    }[module.__name__](module)


def _words_for(options: Iterable[Option], words: Sequence[str]) -> list[str]:
    """The arguments to insert before those of the command line."""
    filled = resume_flags.fill(options, words)
    return [one.names[0] if one.value is True else f"{one.names[0]}={one.value}" for one in filled]


# -- click, and Typer, which is based on it


def _click(module: Any) -> None:
    original = module.Command.parse_args

    def parse_args(self: Any, ctx: Any, args: list[str]) -> Any:
        if ctx.parent is None:
            ctx.meta[_OURS] = resume_flags.are_the_scripts(args)  # click passes `meta` to subcommands
        if ctx.meta.get(_OURS) and not ctx.resilient_parsing:
            args = [*_words_for((_of_click(one, ctx) for one in self.params), args), *args]
        return original(self, ctx, args)

    module.Command.parse_args = parse_args


def _of_click(param: Any, ctx: Any) -> Option:
    if param.param_type_name != "option":
        return Option((), is_free=False, kind=of_no_use())
    elsewhere = param.name in (ctx.default_map or {}) or param.value_from_envvar(ctx) is not None
    names = (*param.opts, *param.secondary_opts)
    kind = _kind_of_click(param, ctx) if param.nargs == 1 and not param.multiple and not param.count else of_no_use()
    return Option(names, is_free=resume_flags.is_nothing(param.default), kind=kind, is_given=elsewhere)


def _kind_of_click(param: Any, ctx: Any) -> Any:
    if param.is_flag:
        return as_switch()
    if not hasattr(param, "type"):  # newer versions of Typer, which are not based on click
        return resume_flags.by_annotation(param.type_descriptor, None)
    if param.type.name in {"text", "path", "file", "filename"}:
        return as_path()
    if param.type.name == "choice":
        return of_no_use()
    return resume_flags.converted(lambda text: param.type.convert(text, param, ctx))


# -- absl


def _absl(module: Any) -> None:
    original = module.FlagValues.__call__

    def call(self: Any, argv: Sequence[str], known_only: bool = False) -> Any:  # noqa: FBT001, FBT002  absl's own
        if list(argv[1:]) == sys.argv[1:]:
            argv = [argv[0], *_words_for((_of_absl(name, self[name]) for name in self), argv[1:]), *argv[1:]]
        return original(self, argv, known_only)

    module.FlagValues.__call__ = call


def _of_absl(name: str, flag: Any) -> Option:
    kind = {"string": as_path, "bool": as_switch}.get(flag.flag_type(), of_no_use)()
    names = (f"--{name}", f"-{name}", f"--no{name}", f"-no{name}")
    return Option(names, is_free=resume_flags.is_nothing(flag.default), kind=kind, is_given=bool(flag.present))


# -- tyro


def _tyro(module: Any) -> None:
    backend = getattr(module, "TyroBackend", None) or module.ArgparseBackend
    original = backend.parse_args

    def parse_args(self: Any, parser_spec: Any, args: Sequence[str], *rest: Any, **others: Any) -> Any:
        if resume_flags.are_the_scripts(list(args)):
            args = [*_words_for(_of_tyro(parser_spec), args), *args]
        return original(self, parser_spec, args, *rest, **others)

    backend.parse_args = parse_args


def _of_tyro(parser_spec: Any) -> Iterator[Option]:
    for one in parser_spec.get_args_including_children():
        yield _of_tyro_argument(one.arg)


def _of_tyro_argument(argument: Any) -> Option:
    lowered = argument.lowered
    if argument.is_positional() or argument.is_suppressed() or lowered.is_fixed():
        return Option((), is_free=False, kind=of_no_use())
    names = list(lowered.name_or_flags)
    if lowered.action in {"store_true", "boolean_optional_action"}:
        kind = as_switch()
        names += [f"--no-{name[2:]}" for name in names]
    elif lowered.action is not None or lowered.choices or lowered.nargs not in {None, 1}:
        kind = of_no_use()
    else:
        kind = resume_flags.by_annotation(argument.field.type_stripped, None)
    return Option(names, is_free=resume_flags.is_nothing(argument.field.default), kind=kind)


# -- fire


def _fire(module: Any) -> None:
    original = module._MakeParseFn

    def make(fn: Any, metadata: Any) -> Any:
        parse = original(fn, metadata)

        def parse_and_fill(args: list[str]) -> Any:
            return parse([*_of_fire(module, fn, metadata, args), *args])

        return parse_and_fill

    module._MakeParseFn = make


@guarded(resume_flags.HOOK, otherwise=())
def _of_fire(module: Any, function: Any, metadata: Any, args: Sequence[str]) -> Sequence[str]:
    """The arguments for the function that fire is about to call. Positional arguments keep their position."""
    remaining = iter(sys.argv[1:])
    if not all(word in remaining for word in args):
        return ()
    spec = module.inspectutils.GetFullArgSpec(function)
    given, _, positional = module._ParseKeywordArgs(args, spec)
    defaults = dict(zip(reversed(spec.args), reversed(spec.defaults))) | spec.kwonlydefaults
    takes_positions = metadata.get(module.decorators.ACCEPTS_POSITIONAL_ARGS)
    by_position = [name for name in spec.args if name not in given][: len(positional) if takes_positions else 0]
    options = [
        Option(
            (f"--{name}",),
            is_free=resume_flags.is_nothing(default),
            kind=resume_flags.by_annotation(spec.annotations.get(name), default),
            is_given=name in given or name in by_position,
        )
        for name, default in defaults.items()
    ]
    # fire parses values as Python literals
    return [f"{option.names[0]}={option.value!r}" for option in resume_flags.fill(options, args)]
