"""What scripts will find: their Python, whether hooks get in, frameworks and whether those see the GPUs, settings."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import msgspec

from backprop import config
from backprop.cli.config_sources import Loaded, find_project_file, load
from backprop.cli.doctor.findings import note, ok, problem
from backprop.errors import BackpropError
from backprop.governor.probes.gpus import read_gpus
from backprop.records import Finding, Record
from backprop.store.home import Home
from backprop.supervisor.command import find_python
from backprop.supervisor.environment import HOOKS_FOLDER

# distribution -> versions that docs/guides/frameworks/index.md says were tried
TRIED: Mapping[str, tuple[str, ...]] = {
    "torch": ("2.13",),
    "transformers": ("5.23", "4.57", "4.46"),
    "accelerate": ("1.15",),
    "lightning": ("2.6",),
    "pytorch-lightning": ("2.6",),
    "keras": ("3.15",),
    "xgboost": ("3.2", "2.1"),
    "lightgbm": ("4.7", "4.5"),
    "jax": ("0.10",),
    "tensorflow": ("2.21",),
}
_PYTHON_S = 10.0
_FRAMEWORK_S = 60.0
_OLDEST_FOR_HOOKS = (3, 9)

_PROBE = """
import json, sys
packages = {}
try:
    from importlib import metadata
    for name in sys.argv[1:]:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            pass
except ImportError:
    pass
print(json.dumps({
    "version": list(sys.version_info[:3]),
    "bits": 64 if sys.maxsize > 2**32 else 32,
    "has_hooks": "_backprop_trainer" in sys.modules,
    "packages": packages,
}))
"""
# framework -> a program that prints how many GPUs it sees, and what it was built for
_LOOKS: Mapping[str, str] = {
    "torch": "import torch; print(torch.cuda.device_count() if torch.cuda.is_available() else 0,"
    " 'for CUDA', torch.version.cuda, 'and ROCm', getattr(torch.version, 'hip', None))",
    "jax": "import jax; print(sum(device.platform in ('gpu', 'cuda', 'rocm') for device in jax.devices()), '')",
    "tensorflow": "import tensorflow as tf; print(len(tf.config.list_physical_devices('GPU')), '')",
}


class Interpreter(Record, frozen=True):
    """What a Python interpreter reports of itself."""

    version: tuple[int, int, int]
    bits: int
    has_hooks: bool
    packages: dict[str, str]


def settings_of(folder: str) -> Loaded:
    """The settings as a run in this folder has them. Raises ConfigError."""
    home = Home.from_environment()
    return load(flags={}, environment=os.environ, start=Path(folder), user_file=home.user_config_path)


def configuration(folder: str) -> Iterator[Finding]:
    """Which settings are in force and where they come from, and whether those who are notified can be."""
    try:
        loaded = settings_of(folder)
    except BackpropError as error:
        yield problem("settings", str(error), "Fix it: no run starts until then.")
        return
    origins: dict[str, list[str]] = {}
    for key, origin in loaded.origins.items():
        origins.setdefault(origin, []).append(key)
    for origin, keys in origins.items():
        yield ok("settings", origin if origin.startswith("BACKPROP_") else f"{origin}: {', '.join(keys)}")
    if not origins:
        yield ok("settings", "the defaults; to create a file: backprop init")
    yield from _misspelt_variables()
    yield from _notifications(loaded.config)


def _misspelt_variables() -> Iterator[Finding]:
    import difflib

    known = [config.environment_name(key) for key in config.KEYS]
    for name in os.environ:
        near = difflib.get_close_matches(name, known, n=1, cutoff=0.9) if name.startswith("BACKPROP_") else []
        if near and name not in known:
            yield note("settings", f"the variable {name} is not a setting", f"Did you mean {near[0]}?")


def _notifications(settings: config.Config) -> Iterator[Finding]:
    for notification in settings.notify:
        program = None if notification.command is None else notification.command[0]
        if program is not None and shutil.which(program) is None:
            yield problem("notify", f"the command {program} was not found", "Install it, or give its full path.")
        if notification.desktop and not (shutil.which("notify-send") or shutil.which("osascript")):
            yield note("notify", "no desktop notifications: notify-send was not found", "Install libnotify's tools.")


def named_here(folder: str) -> str | None:
    """The Python that only this folder, or one above it, configures: it may not be the user's, and is not run unasked.

    None where the user has chosen: by a flag, a variable, the file in the home folder or an active environment.
    """
    try:
        loaded = settings_of(folder)
        python = find_python(loaded.config.python, Path(folder), os.environ)
    except BackpropError:  # a finding of the checks
        return None
    if (origin := loaded.origins.get("python")) is not None:
        return python if origin == str(find_project_file(Path(folder))) else None
    return None if python == find_python(None, Path("/"), os.environ) else python


def script_python(folder: str, chosen: str | None) -> Iterator[Finding]:
    """The Python that a script here would run on, whether hooks get in, and its frameworks.

    chosen: by the user, instead of the one that is set.
    """
    try:
        settings = settings_of(folder).config
    except BackpropError:  # a finding of its own: see `configuration`
        return
    if chosen is None and (named := named_here(folder)) is not None:
        text = f"{named} was not run: this directory configures it, and may not be yours"
        yield note("python", text, f"If you trust it: backprop doctor --python {named}")
        return
    try:
        python = find_python(chosen or settings.python, Path(folder), os.environ)
    except BackpropError as error:
        yield problem("python", str(error), "Set --python, or activate the environment you train in.")
        return
    try:
        interpreter = ask(python)
    except (OSError, subprocess.SubprocessError, msgspec.MsgspecError) as error:
        yield problem("python", f"{python} does not respond: {type(error).__name__}", "Try it: " + python + " -c pass")
        return
    version = ".".join(map(str, interpreter.version))
    text = f"scripts here run on {version}, {interpreter.bits} bit, {python}"
    if interpreter.bits == 64:
        yield ok("python", text)
    else:
        yield note("python", text, "Frameworks want a 64-bit Python.")
    yield _hooks(interpreter)
    yield from _frameworks(interpreter.packages)


def ask(python: str) -> Interpreter:
    """What an interpreter reports, started as a trainer is. Raises OSError, SubprocessError or MsgspecError."""
    search_path = os.pathsep.join(filter(None, (str(HOOKS_FOLDER), os.environ.get("PYTHONPATH"))))
    answer = subprocess.run(
        [python, "-c", _PROBE, *TRIED],
        cwd="/",  # Python would take what it imports from the current folder first
        env={**os.environ, "PYTHONPATH": search_path, "BACKPROP_EVENTS": os.devnull},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        timeout=_PYTHON_S,
        check=True,
    )
    return msgspec.json.decode(answer.stdout.strip().rpartition(b"\n")[2], type=Interpreter)


def _hooks(interpreter: Interpreter) -> Finding:
    if interpreter.has_hooks:
        return ok("hooks", "loaded: frameworks stop, save and resume in unmodified scripts")
    if interpreter.version < _OLDEST_FOR_HOOKS:
        return note("hooks", "need Python 3.9 or newer", "Scripts must handle stops and resumes themselves.")
    advice = "Is PYTHONPATH ignored (a wrapper with python -E or -I)? Otherwise use --no-hooks."
    return problem("hooks", "not loaded: Python does not import our sitecustomize", advice)


def _frameworks(packages: Mapping[str, str]) -> Iterator[Finding]:
    tried = [name for name, version in packages.items() if _is_tried(version, TRIED[name])]
    if tried:
        yield ok("frameworks", ", ".join(f"{name} {packages[name]}" for name in tried))
    for name in packages.keys() - tried:
        text = f"{name} {packages[name]} was not tried with Backprop ({', '.join(TRIED[name])} was)"
        yield note("frameworks", text, "Check that a short run stops and resumes; if not: --no-hooks")
    if not packages:
        yield ok("frameworks", "none that Backprop knows is installed for this Python")


def _is_tried(version: str, tried: tuple[str, ...]) -> bool:
    """Of the same major version as one that was tried; before 1.0, of the same minor version."""
    return any(_series(version) == _series(known) for known in tried)


def _series(version: str) -> list[str]:
    parts = version.split(".")
    return parts[: 2 if parts[0] == "0" else 1]


def sight(folder: str, chosen: str | None) -> Iterator[Finding]:
    """Whether the frameworks see the GPUs that are there. Imports each; takes seconds."""
    if not (cards := read_gpus("auto").gpus) or (chosen is None and named_here(folder) is not None):
        return
    try:
        python = find_python(chosen or settings_of(folder).config.python, Path(folder), os.environ)
    except BackpropError:  # a finding of the checks that ask for it
        return
    for name in ask(python).packages.keys() & _LOOKS.keys():
        yield _seen(name, python, len(cards))


def _seen(name: str, python: str, there: int) -> Finding:
    try:
        answer = subprocess.run(
            [python, "-c", _LOOKS[name]],
            cwd="/",
            env={**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_FRAMEWORK_S,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return problem("frameworks", f"{name} takes more than {_FRAMEWORK_S:g} s to look for GPUs", "Try nvidia-smi.")
    if answer.returncode != 0:
        last = (answer.stderr.strip().splitlines() or ["no message"])[-1]
        return problem("frameworks", f"{name} cannot be imported: {last[:200]}", "Reinstall it for this Python.")
    count, _, built = answer.stdout.strip().rpartition("\n")[2].partition(" ")
    if int(count) == 0:
        advice = "Install the build for your driver: see the framework's page on installation."
        return problem("frameworks", f"{name} sees none of {there} GPUs (built {built or 'without them'})", advice)
    return ok("frameworks", f"{name} sees {count} of {there} GPUs")
