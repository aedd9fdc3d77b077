"""Settings: where they come from, which wins, and what is said of a wrong one."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backprop import config
from backprop.config import Loaded
from backprop.errors import ConfigError, UsageError


def load(tmp_path: Path, flags: dict[str, Any] | None = None, environment: dict[str, str] | None = None) -> Loaded:
    return config.load(
        flags=flags or {}, environment=environment or {}, start=tmp_path, user_file=tmp_path / "user" / "config.json"
    )


def test_each_source_wins_over_the_next(tmp_path: Path):
    """Flags > environment > project file > user file > defaults, and each value knows where it came from."""
    assert load(tmp_path).config.max_run_minutes == 10
    (tmp_path / "user").mkdir()
    (tmp_path / "user" / "config.json").write_text('{"maxRunMinutes": 1, "graceSeconds": 1}')
    assert load(tmp_path).config.max_run_minutes == 1
    (tmp_path / ".backprop.json").write_text('{"maxRunMinutes": 2}')
    assert load(tmp_path).config.max_run_minutes == 2
    environment = {"BACKPROP_MAX_RUN_MINUTES": "3"}
    assert load(tmp_path, environment=environment).config.max_run_minutes == 3
    loaded = load(tmp_path, {"maxRunMinutes": "4", "framework": None}, environment)
    assert (loaded.config.max_run_minutes, loaded.config.grace_seconds) == (4, 1)
    assert loaded.origins == {
        "maxRunMinutes": "-m/--max-run-minutes",
        "graceSeconds": str(tmp_path / "user" / "config.json"),
    }


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("backprop.config.json", '{"maxRunMinutes": 7}'),
        (".backprop.json", '{"maxRunMinutes": 7}'),
        ("pyproject.toml", "[tool.backprop]\nmaxRunMinutes = 7"),
    ],
)
def test_the_nearest_project_file_upwards_is_read(tmp_path: Path, name: str, text: str):
    """From the script's folder upwards; the first folder with a file wins."""
    deep = tmp_path / "a" / "b"
    deep.mkdir(parents=True)
    (tmp_path / "backprop.config.json").write_text('{"maxRunMinutes": 99}')
    (tmp_path / "a" / name).write_text(text)
    assert load(deep).config.max_run_minutes == 7


@pytest.mark.parametrize("text", ["[project]\nname = 'x'", "not toml [", "[tool.other]\nx = 1"])
def test_somebody_elses_pyproject_is_passed_over(tmp_path: Path, text: str):
    """Without a [tool.backprop] table it is none of ours, broken or not."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "pyproject.toml").write_text(text)
    (tmp_path / ".backprop.json").write_text('{"maxRunMinutes": 7}')
    assert load(tmp_path / "a").config.max_run_minutes == 7


WRONG = [
    ("maxRunMinutes", 0),
    ("maxRunMinutes", -1),
    ("maxRunMinutes", "ten"),
    ("maxRunMinutes", True),
    ("maxRunMinutes", None),
    ("maxRunMinutes", 1e9),
    ("graceSeconds", -0.1),
    ("checkpointEveryMinutes", 0),
    ("framework", "jax"),
    ("minFreeRamGB", -1),
    ("minFreeDiskGB", "1"),
    ("name", ""),
    ("name", "last"),
    ("name", "two\nlines"),
    ("python", 3),
    ("resumeArg", "resume"),
    ("resumeArg", "--resume path"),
    ("detach", "yes"),
    ("gpu.probe", "nvml"),
]


@pytest.mark.parametrize(("key", "value"), WRONG)
def test_a_wrong_value_is_named_with_file_key_and_what_is_allowed(tmp_path: Path, key: str, value: object):
    """One line with all that is needed to mend it."""
    path = tmp_path / "backprop.config.json"
    path.write_text(json.dumps({key: value}))
    with pytest.raises(ConfigError) as error:
        load(tmp_path)
    message = str(error.value)
    assert str(path) in message
    assert key in message
    if key in config.ALLOWED:
        assert repr(value) in message
        assert config.ALLOWED[key][1] in message


@pytest.mark.parametrize("value", ["0", "nan", "inf", "-1", "x", ""])
def test_a_wrong_flag_or_variable_is_named(tmp_path: Path, value: str):
    """The same check, with the name the user typed."""
    with pytest.raises(UsageError, match="-m/--max-run-minutes"):
        load(tmp_path, {"maxRunMinutes": value})
    with pytest.raises(ConfigError, match="BACKPROP_MAX_RUN_MINUTES"):
        load(tmp_path, environment={"BACKPROP_MAX_RUN_MINUTES": value})


def test_an_unknown_key_gets_a_hint(tmp_path: Path):
    """A typo is an error that says what was meant."""
    (tmp_path / ".backprop.json").write_text('{"maxRunMinuts": 3}')
    with pytest.raises(ConfigError, match="did you mean 'maxRunMinutes'"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("name", "text"),
    [(".backprop.json", "{"), (".backprop.json", "[1]"), ("pyproject.toml", "[tool.backprop\n"),
     ("pyproject.toml", "[tool]\nbackprop = 3")],
)  # fmt: skip
def test_a_broken_file_is_named(tmp_path: Path, name: str, text: str):
    """Not valid, or not an object: an error with the file's name."""
    (tmp_path / name).write_text(text)
    with pytest.raises(ConfigError, match=name):
        load(tmp_path)


def test_an_interpreter_in_a_file_is_relative_to_the_file(tmp_path: Path):
    """`.venv/bin/python` means the one beside the configuration; a bare name is looked up on PATH."""
    (tmp_path / ".backprop.json").write_text('{"python": ".venv/bin/python"}')
    assert load(tmp_path).config.python == str(tmp_path / ".venv/bin/python")
    (tmp_path / ".backprop.json").write_text('{"python": "python3"}')
    assert load(tmp_path).config.python == "python3"


def test_limits_are_in_the_programs_units():
    """Seconds and bytes inside, minutes and GB outside."""
    limits = config.Config(max_run_minutes=2, checkpoint_every_minutes=0.5, min_free_ram_gb=1.5).limits
    assert (limits.timebox_s, limits.checkpoint_every_s, limits.min_free_ram_bytes) == (120, 30, 1_500_000_000)


def loads_or_explains(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    try:
        loaded = load(path.parent)
    except ConfigError as error:
        if str(path) not in str(error):
            raise
    else:
        assert math.isfinite(loaded.config.max_run_minutes)
        assert loaded.config.max_run_minutes > 0


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(data=st.binary(max_size=200))
def test_any_bytes_are_a_configuration_or_an_error(tmp_path: Path, data: bytes):
    """Whatever lies in the file."""
    loads_or_explains(tmp_path / ".backprop.json", data)
    loads_or_explains(tmp_path / ".backprop.json", b'{"maxRunMinutes": ' + data + b"}")
    (tmp_path / ".backprop.json").unlink()
    loads_or_explains(tmp_path / "pyproject.toml", b"[tool.backprop]\n" + data)
    (tmp_path / "pyproject.toml").unlink()


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=9)
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(document=st.dictionaries(st.sampled_from(list(config.KEYS)) | st.text(max_size=5), VALUES, max_size=4))
def test_any_object_is_a_configuration_or_an_error(tmp_path: Path, document: dict[str, Any]):
    """Right keys with odd values, odd keys with right ones."""
    loads_or_explains(tmp_path / ".backprop.json", json.dumps(document).encode())
