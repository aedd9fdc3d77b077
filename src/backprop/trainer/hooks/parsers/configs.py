"""Resume keys and parameters in configurations of Hydra and OmegaConf: see resume_options.py.

A key that exists without a value, and is not set on the command line, gets the checkpoint after the configuration was
composed. Hydra's record of the overrides, and what it computes from them (such as the output folder), do not change.
"""

from __future__ import annotations

import sys

from ...failsafe import guarded
from . import resume_options
from .resume_options import Option

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Iterator

# sections where a key `resume` is about the training: elsewhere it may be about a logger
_PARENTS = {"", "checkpoint", "checkpointing", "experiment", "run", "train", "trainer", "training"}

_is_sweep = False  # Hydra runs several trainings in this process
_swept: dict[str, list[Any]] = {}  # the different values of each parameter in these trainings
_from_cli: list[Any] = []  # configurations that OmegaConf made from the script's arguments


def hook(module: Any) -> None:
    """Hook the module hydra._internal.config_loader_impl, or omegaconf.omegaconf."""
    (_hydra if module.__name__.startswith("hydra") else _omegaconf)(module)


def _hydra(module: Any) -> None:
    loader = module.ConfigLoaderImpl
    original, original_for_sweep = loader.load_configuration, loader.load_sweep_config

    def load_configuration(
        self: Any, config_name: Any, overrides: Any, run_mode: Any, *rest: Any, **others: Any
    ) -> Any:
        config = original(self, config_name, overrides, run_mode, *rest, **others)
        # Hydra first loads it as for a sweep, to find out whether it is one: hydra.py, get_mode
        is_the_scripts = all(word in sys.argv or word.startswith("hydra.") for word in overrides)
        if run_mode.name == "RUN" and not _is_sweep and is_the_scripts:
            _fill(config, overrides)
            _report_hydras(config, overrides)
        return config

    def load_sweep_config(self: Any, master_config: Any, sweep_overrides: Any, *rest: Any, **others: Any) -> Any:
        global _is_sweep  # noqa: PLW0603
        _is_sweep = True
        config = original_for_sweep(self, master_config, sweep_overrides, *rest, **others)
        _report_hydras(config, sweep_overrides)
        return config

    loader.load_configuration, loader.load_sweep_config = load_configuration, load_sweep_config


def _omegaconf(module: Any) -> None:
    kind = module.OmegaConf
    from_cli, merge = kind.from_cli, kind.merge

    def noted(args_list: Any = None) -> Any:
        config = from_cli(args_list)
        if args_list is None:
            _from_cli.append(config)
        return config

    def merge_and_fill(*configs: Any) -> Any:
        config = merge(*configs)
        if any(one is other for one in configs for other in _from_cli):
            _fill(config, sys.argv[1:])
            _report(_container(config), sys.argv[1:])
        return config

    kind.from_cli, kind.merge = staticmethod(noted), staticmethod(merge_and_fill)


@guarded(resume_options.HOOK)
def _fill(config: Any, words: Any) -> None:
    resume_options.fill(_options(config, words), ())


@guarded(resume_options.PARAMETERS)
def _report_hydras(config: Any, overrides: Any) -> None:
    """Report a composed configuration, and which one was chosen of each group; in a sweep, all values so far."""
    config = _container(config)
    runtime = config.pop("hydra")["runtime"]
    values = {name: choice for name, choice in runtime["choices"].items() if not name.startswith("hydra/")}
    values.update(_flat(config))
    if _is_sweep:
        for name, value in values.items():
            known = _swept.setdefault(name, [])
            if value not in known:
                known.append(value)
            values[name] = known[0] if len(known) == 1 else known
    _report(values, overrides)


@guarded(resume_options.PARAMETERS)
def _report(values: Any, words: Any) -> None:
    """Report parameters. words: overrides; what they do not name, nor anything it is in, is a default."""
    if resume_options.is_below_reporter():
        return
    from ...parameters import report

    given = _given(words)
    values = dict(_flat(values))
    report.parsed(values, {name: value for name, value in values.items() if not _places(name) & given})


def _places(name: str) -> set[str]:
    """A name, and all that it is in: of a.b.c also a.b and a."""
    parts = name.split(".")
    return {".".join(parts[: end + 1]) for end in range(len(parts))}


def _flat(values: Any) -> Any:
    from ...parameters.plain import flat

    return flat(values)


def _container(config: Any) -> Any:
    return sys.modules["omegaconf"].OmegaConf.to_container(config, resolve=False)


def _given(words: Any) -> set[str]:
    return {word.lstrip("+~").partition("=")[0].replace("/", ".") for word in words}


def _options(config: Any, words: Any) -> Iterator[Option]:
    """The keys at the top level, and one level below."""
    library = sys.modules["omegaconf"]
    given = _given(words)
    for place, node in [("", config), *((str(key), _node(config, key)) for key in config if key != "hydra")]:
        if not isinstance(node, library.DictConfig) or node._is_none() or node._is_missing():  # noqa: SLF001
            continue
        for key in node:
            is_usual = resume_options.is_usual_key(str(key)) and (place in _PARENTS or str(key) != "resume")
            if is_usual or not place:
                name = f"{place}.{key}" if place else str(key)
                yield Option(
                    (name,),
                    is_free=_is_empty(node, key),
                    kind=_setter(node, key),
                    is_given=name in given or place in given,
                    is_usual=is_usual,
                )


def _node(config: Any, key: Any) -> Any:
    return config._get_node(key)  # noqa: SLF001  an interpolation is not followed


def _is_empty(config: Any, key: Any) -> bool:
    node = _node(config, key)
    return not node._is_interpolation() and not node._is_missing() and resume_options.is_nothing(node._value())  # noqa: SLF001


def _setter(config: Any, key: Any) -> Any:
    """A `kind` (see Option) that sets the key, if its type allows that."""

    def kind(path: str) -> Any:
        if not path:
            return path
        library = sys.modules["omegaconf"]
        is_switch = _node(config, key)._value() is False  # noqa: SLF001
        for value in (True,) if is_switch else (path, True):
            try:
                with library.read_write(config):
                    library.OmegaConf.update(config, str(key), value)
            except library.ValidationError:
                continue
            return value
        return None

    return kind
