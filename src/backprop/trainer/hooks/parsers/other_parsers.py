"""Resume flags and parameters of click, Typer, absl, tyro and fire: see resume_options.py.

These parsers get the flag as the first argument, as if the user had typed it.
"""
# ruff: noqa: SLF001  these parsers have no public hooks

from __future__ import annotations

import sys

from ...failsafe import guarded
from . import resume_options
from .resume_options import Option, as_path, as_switch, of_no_use

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Iterable, Iterator, Sequence

_OURS = "backprop.words"  # in click's contexts: whether it parses the script's arguments
_is_tyros = False  # whether tyro parses the script's arguments


def hook(module: Any) -> None:
    """Hook the module of a library that has just been imported."""
    {
        "click.core": _click,
        "typer._click.core": _click,
        "absl.flags._flagvalues": _absl,
        "tyro._backends._tyro_backend": _tyro,
        "tyro._backends._argparse_backend": _tyro,
        "tyro._calling": _tyro_values,
        "fire.core": _fire,
    }[module.__name__](module)


def _words_for(options: Iterable[Option], words: Sequence[str]) -> list[str]:
    """The arguments to insert before those of the command line."""
    filled = resume_options.fill(options, words)
    return [one.names[0] if one.value is True else f"{one.names[0]}={one.value}" for one in filled]


@guarded(resume_options.PARAMETERS)
def _report(parameters: Iterable[tuple[str, Any, Any]], rest: Sequence[str] = ()) -> None:
    """Report (name, value, default) of what was parsed. parameters: a generator, for the reason told in `fill`."""
    if resume_options.is_below_reporter():
        return
    from ...parameters import report

    found = list(parameters)
    report.parsed({name: value for name, value, _ in found}, {name: default for name, _, default in found}, rest)


# -- click, and Typer, which is based on it


def _click(module: Any) -> None:
    original = module.Command.parse_args

    def parse_args(self: Any, ctx: Any, args: list[str]) -> Any:
        if ctx.parent is None:
            ctx.meta[_OURS] = resume_options.are_the_scripts(args)  # click passes `meta` to subcommands
        if ctx.meta.get(_OURS) and not ctx.resilient_parsing:
            args = [*_words_for((_of_click(one, ctx) for one in self.params), args), *args]
        rest = original(self, ctx, args)
        if ctx.meta.get(_OURS) and not ctx.resilient_parsing:
            _report(_clicks_values(self, ctx), () if hasattr(self, "commands") else rest)
        return rest

    module.Command.parse_args = parse_args


def _clicks_values(command: Any, ctx: Any) -> Iterator[tuple[str, Any, Any]]:
    for param in command.params:
        if param.name in ctx.params and not getattr(param, "hide_input", False):  # a password
            value = ctx.params[param.name]
            is_default = ctx.get_parameter_source(param.name).name == "DEFAULT"
            yield param.name, value, value if is_default else None


def _of_click(param: Any, ctx: Any) -> Option:
    if param.param_type_name != "option":
        return Option((), is_free=False, kind=of_no_use())
    elsewhere = param.name in (ctx.default_map or {}) or param.value_from_envvar(ctx) is not None
    names = (*param.opts, *param.secondary_opts)
    kind = _kind_of_click(param, ctx) if param.nargs == 1 and not param.multiple and not param.count else of_no_use()
    return Option(names, is_free=resume_options.is_nothing(param.default), kind=kind, is_given=elsewhere)


def _kind_of_click(param: Any, ctx: Any) -> Any:
    if param.is_flag:
        return as_switch()
    if not hasattr(param, "type"):  # newer versions of Typer, which are not based on click
        return resume_options.by_annotation(param.type_descriptor, None)
    if param.type.name in {"text", "path", "file", "filename"}:
        return as_path()
    if param.type.name == "choice":
        return of_no_use()
    return resume_options.converted(lambda text: param.type.convert(text, param, ctx))


# -- absl


def _absl(module: Any) -> None:
    original = module.FlagValues.__call__

    def call(self: Any, argv: Sequence[str], known_only: bool = False) -> Any:  # noqa: FBT001, FBT002  absl's own
        is_the_scripts = list(argv[1:]) == sys.argv[1:]
        if is_the_scripts:
            argv = [argv[0], *_words_for((_of_absl(name, self[name]) for name in self), argv[1:]), *argv[1:]]
        rest = original(self, argv, known_only)
        if is_the_scripts:
            _report(_absls_values(self), rest[1:])
        return rest

    module.FlagValues.__call__ = call


def _absls_values(values: Any) -> Iterator[tuple[str, Any, Any]]:
    for module, flags in values.flags_by_module_dict().items():
        if not module.startswith("absl."):  # its own: logging, tests
            yield from ((flag.name, flag.value, flag.default) for flag in flags)


def _of_absl(name: str, flag: Any) -> Option:
    kind = {"string": as_path, "bool": as_switch}.get(flag.flag_type(), of_no_use)()
    names = (f"--{name}", f"-{name}", f"--no{name}", f"-no{name}")
    return Option(names, is_free=resume_options.is_nothing(flag.default), kind=kind, is_given=bool(flag.present))


# -- tyro


def _tyro(module: Any) -> None:
    backend = getattr(module, "TyroBackend", None) or module.ArgparseBackend
    original = backend.parse_args

    def parse_args(self: Any, parser_spec: Any, args: Sequence[str], *rest: Any, **others: Any) -> Any:
        global _is_tyros  # noqa: PLW0603
        _is_tyros = resume_options.are_the_scripts(list(args))
        if _is_tyros:
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
        kind = resume_options.by_annotation(argument.field.type_stripped, None)
    return Option(names, is_free=resume_options.is_nothing(argument.field.default), kind=kind)


def _tyro_values(module: Any) -> None:
    original, make_name = module.callable_with_args, module._strings.make_field_name

    def value_of(argument: Any, words: Any) -> Any:
        value = words.get(make_name([argument.intern_prefix, argument.field.intern_name]), argument.field.default)
        if value is argument.field.default or "MISSING" in type(value).__name__.upper():
            return argument.field.default
        return argument.lowered.instance_from_str([value] if argument.lowered.nargs == "?" else value)

    def values(call: Sequence[Any]) -> Iterator[tuple[str, Any, Any]]:
        _, parser_definition, _, words, *_ = call
        for argument in parser_definition.args:
            if not (argument.is_suppressed() or argument.lowered.is_fixed()):
                name = argument.lowered.name_or_flags[-1].lstrip("-").replace("-", "_")
                yield name, value_of(argument, words), argument.field.default

    # called once for the script's function, and for each nested one, before any of them is called
    def callable_with_args(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if _is_tyros:
            _report(values(args))
        return result

    module.callable_with_args = callable_with_args


# -- fire


def _fire(module: Any) -> None:
    original = module._MakeParseFn

    def make(fn: Any, metadata: Any) -> Any:
        parse = original(fn, metadata)

        def parse_and_fill(args: list[str]) -> Any:
            result = parse([*_of_fire(module, fn, metadata, args), *args])
            if _is_of_script(args):
                _report(_fires_values(module, fn, result[0]))
            return result

        return parse_and_fill

    module._MakeParseFn = make


@guarded(resume_options.HOOK, otherwise=())
def _of_fire(module: Any, function: Any, metadata: Any, args: Sequence[str]) -> Sequence[str]:
    """The arguments for the function that fire is about to call. Positional arguments keep their position."""
    if not _is_of_script(args):
        return ()
    spec = module.inspectutils.GetFullArgSpec(function)
    given, _, positional = module._ParseKeywordArgs(args, spec)
    defaults = _defaults_in(spec)
    takes_positions = metadata.get(module.decorators.ACCEPTS_POSITIONAL_ARGS)
    by_position = [name for name in spec.args if name not in given][: len(positional) if takes_positions else 0]
    options = [
        Option(
            (f"--{name}",),
            is_free=resume_options.is_nothing(default),
            kind=resume_options.by_annotation(spec.annotations.get(name), default),
            is_given=name in given or name in by_position,
        )
        for name, default in defaults.items()
    ]
    # fire parses values as Python literals
    return [f"{option.names[0]}={option.value!r}" for option in resume_options.fill(options, args)]


def _is_of_script(words: Sequence[str]) -> bool:
    remaining = iter(sys.argv[1:])
    return all(word in remaining for word in words)


def _defaults_in(spec: Any) -> dict[str, Any]:
    return {**dict(zip(reversed(spec.args), reversed(spec.defaults))), **spec.kwonlydefaults}


def _fires_values(module: Any, function: Any, arguments: Any) -> Iterator[tuple[str, Any, Any]]:
    spec, (positional, named) = module.inspectutils.GetFullArgSpec(function), arguments
    defaults = _defaults_in(spec)
    values = {**defaults, **dict(zip(spec.args, positional)), **named}
    yield from ((name, value, defaults.get(name)) for name, value in values.items())
