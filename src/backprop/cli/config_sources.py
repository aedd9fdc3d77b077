"""Where settings come from: flags > environment > project file > user file > defaults.

The nearest of `backprop.toml`, `backprop.config.json`, `.backprop.json` and `pyproject.toml` with a `[tool.backprop]`
table, from the script's folder upwards, is the project file.
"""

import codecs
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec

from backprop import config
from backprop.errors import ConfigError
from backprop.records import Record

PYPROJECT = "pyproject.toml"
PROJECT_FILES = ("backprop.toml", "backprop.config.json", ".backprop.json", PYPROJECT)
_NO_SETTINGS = {"BACKPROP_HOME", "BACKPROP_MACHINE", "BACKPROP_VERBOSE"}


class Loaded(Record, frozen=True):
    """A configuration, and where each value that is not a default came from."""

    config: config.Config
    origins: dict[str, str]  # key -> flag, environment variable or file


def misspelt(environment: Mapping[str, str]) -> dict[str, str | None]:
    """Variables that are called like ours and mean nothing, with the one that may have been meant.

    None inside of a run, whose trainer has many more.
    """
    if "BACKPROP_RUN_ID" in environment:
        return {}
    words = {name.removeprefix(config.PREFIX) for name in (*map(config.environment_name, config.KEYS), *_NO_SETTINGS)}
    ours = sorted(name.removeprefix(config.PREFIX) for name in environment if name.startswith(config.PREFIX))
    if not (unknown := [word for word in ours if word not in words]):
        return {}
    import difflib

    near = {word: difflib.get_close_matches(word, words, n=1) for word in unknown}
    return {config.PREFIX + word: config.PREFIX + found[0] if found else None for word, found in near.items()}


def load(
    *,
    flags: Mapping[str, Any],
    environment: Mapping[str, str],
    start: Path,
    user_file: Path,
    project_file: Path | None = None,
) -> Loaded:
    """Merge all sources. Raises ConfigError (UsageError for a flag).

    flags: key -> value, None when not given. start: the folder the search for a project file begins in.
    user_file: this one, or that beside it which ends in .json. project_file: read this one instead of searching.
    """
    merged: dict[str, Any] = {}
    origins: dict[str, str] = {}

    def take(values: Mapping[str, Any], origin: str) -> None:
        for key, value in values.items():
            merged[key] = config.check(key, value, origin)
            origins[key] = origin

    def take_file(path: Path, values: dict[str, Any]) -> None:
        take(values, str(path))
        if "/" in (python := values.get("python") or ""):
            merged["python"] = str(path.parent / Path(python).expanduser())

    if (users := find_user_file(user_file)) is not None:
        take_file(users, _read_file(users))
    found = find_project_file(start) if project_file is None else project_file
    if found is not None:
        take_file(found, _read_file(found))
    for key in config.KEYS:
        if (value := environment.get(config.environment_name(key))) is not None:
            take({key: value}, config.environment_name(key))
    for key, value in flags.items():
        if value is not None:
            take({key: value}, config.SETTINGS[key].flag)
    return Loaded(config=msgspec.convert(merged, config.Config), origins=origins)


def find_user_file(path: Path) -> Path | None:
    """The user's settings: `path`, or the same in JSON. Raises ConfigError when there are both."""
    found = [one for one in dict.fromkeys((path, path.with_suffix(".json"))) if _exists(one)]
    if len(found) > 1:
        raise ConfigError(f"there are two user files, {found[0]} and {found[1].name}: keep one of them.")
    return found[0] if found else None


def find_project_file(start: Path) -> Path | None:
    """The nearest project file, from a folder upwards. Raises ConfigError for a pyproject.toml that is broken."""
    for folder in (start, *start.parents):
        for name in PROJECT_FILES:
            if is_settings(folder / name):
                return folder / name
    return None


def is_settings(path: Path) -> bool:
    """True for a file that holds settings of ours. Raises ConfigError for a pyproject.toml that is broken."""
    return _exists(path) and path.is_file() and (path.name != PYPROJECT or "backprop" in _read_tools(path))


def _exists(path: Path) -> bool:
    """False in a folder that is closed to us, too. Raises ConfigError for a link to nowhere: its settings are meant."""
    try:
        if path.is_symlink() and not path.exists():
            raise ConfigError(f"{path} is a link to {os.readlink(path)}, which is not there.")  # noqa: PTH115
        return path.exists()
    except PermissionError:
        return False


def _read_file(path: Path) -> dict[str, Any]:
    if path.name == PYPROJECT:
        return _flat(path, _read_tools(path).get("backprop", {}))
    return _flat(path, _read_toml(path)) if path.suffix == ".toml" else _read_json(path)


def _read_tools(path: Path) -> dict[str, Any]:
    tools = _read_toml(path, only_with=b"backprop").get("tool", {})
    return tools if isinstance(tools, dict) else {}


def _read_toml(path: Path, only_with: bytes = b"") -> dict[str, Any]:
    """The document; nothing of a file without these bytes: it is somebody else's, whatever is wrong with it."""
    try:
        data = path.read_bytes()
        if only_with not in data:
            return {}
        if sys.version_info >= (3, 11):
            import tomllib
        else:
            import tomli as tomllib
        document: dict[str, Any] = tomllib.loads(data.decode("utf-8-sig"))  # Windows' editors put a mark before it
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:  # TOMLDecodeError and UnicodeDecodeError are ValueErrors
        raise ConfigError(f"{path}: not valid TOML: {error}.") from error
    return document


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = msgspec.json.decode(path.read_bytes().removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path}: not valid JSON: {error}.") from error
    return _flat(path, document)


def _flat(path: Path, document: Any, prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted keys: {"gpu": {"probe": ...}} -> {"gpu.probe": ...}."""
    if not isinstance(document, dict):
        where = f"{prefix[:-1]} = " if prefix else ""
        raise ConfigError(f"{path}: {where}{document!r}: invalid value: expected an object of settings.")
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if isinstance(value, dict) and value and prefix + key not in config.KEYS:
            flat.update(_flat(path, value, f"{prefix}{key}."))
        else:
            flat[prefix + key] = value
    return flat
