"""Settings from flags, environment and files: who wins, and what is said about a wrong one."""

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop import config
from backprop.cli import config_sources
from backprop.cli.config_sources import Loaded, load
from backprop.config import KEYS, SETTINGS, default, environment_name
from backprop.errors import ConfigError, UsageError
from tests.conftest import scaled

TOML = "[tool.backprop]\n"


def settings_of(
    folder: Path,
    *,
    flags: Mapping[str, Any] | None = None,
    environment: Mapping[str, str] | None = None,
    start: Path | None = None,
    project_file: Path | None = None,
) -> Loaded:
    """What `load` makes of the files in a folder; the user's file is `user.json` there."""
    return load(
        flags=flags or {},
        environment=environment or {},
        start=start or folder,
        user_file=folder / "user.json",
        project_file=project_file,
    )


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# -- who wins


def test_the_defaults(tmp_path: Path):
    """Without any source every setting is its default, and none has an origin."""
    loaded = settings_of(tmp_path)
    assert loaded.config == config.Config()
    assert loaded.config.max_run_minutes == 10
    assert loaded.config.grace_seconds == 30
    assert loaded.origins == {}


SOURCES = ("user", "project", "environment", "flag")


@pytest.mark.parametrize("strongest", range(len(SOURCES)))
def test_flags_over_environment_over_project_over_user_file(tmp_path: Path, strongest: int):
    """The strongest source that says something wins, and is named as the origin."""
    written(tmp_path / "user.json", {"maxRunMinutes": 1})
    if strongest >= 1:
        written(tmp_path / "backprop.config.json", {"maxRunMinutes": 2})
    environment = {"BACKPROP_MAX_RUN_MINUTES": "3"} if strongest >= 2 else {}
    flags = {"maxRunMinutes": 4.0} if strongest >= 3 else {"maxRunMinutes": None}
    loaded = settings_of(tmp_path, flags=flags, environment=environment)
    files = [str(tmp_path / name) for name in ("user.json", "backprop.config.json")]
    origins = [*files, "BACKPROP_MAX_RUN_MINUTES", "-m/--max-run-minutes"]
    assert loaded.config.max_run_minutes == strongest + 1
    assert loaded.origins["maxRunMinutes"] == origins[strongest]


def test_sources_complement_one_another(tmp_path: Path):
    """A key that a stronger source does not mention stays what the weaker one said."""
    written(tmp_path / "user.json", {"graceSeconds": 1, "framework": "pytorch"})
    written(tmp_path / "backprop.config.json", {"graceSeconds": 2, "minFreeRamGB": 7})
    told = settings_of(tmp_path, flags={"name": "n"}, environment={"BACKPROP_DETACH": "true"}).config
    assert (told.grace_seconds, told.framework, told.min_free_ram_gb) == (2, "pytorch", 7)
    assert (told.name, told.detach) == ("n", True)


def test_limits_are_in_the_programs_units():
    """Minutes become seconds and GB bytes."""
    limits = config.Config(
        max_run_minutes=0.5, checkpoint_every_minutes=2, grace_seconds=7, min_free_ram_gb=1.5, min_free_disk_gb=0
    ).limits
    assert (limits.timebox_s, limits.checkpoint_every_s, limits.grace_s) == (30, 120, 7)
    assert (limits.min_free_ram_bytes, limits.min_free_disk_bytes) == (1_500_000_000, 0)
    assert config.Config().limits.checkpoint_every_s is None


# -- which file


@pytest.mark.parametrize("name", config_sources.PROJECT_FILES)
def test_each_of_the_files_is_found(tmp_path: Path, name: str):
    """A project file counts under each of its names."""
    content = {
        "backprop.toml": "maxRunMinutes = 3",
        "pyproject.toml": TOML + "maxRunMinutes = 3",
    }.get(name, {"maxRunMinutes": 3})
    path = written(tmp_path / name, content)
    loaded = settings_of(tmp_path)
    assert loaded.config.max_run_minutes == 3
    assert loaded.origins == {"maxRunMinutes": str(path)}


def test_the_nearest_file_upwards_counts_and_no_other(tmp_path: Path):
    """From the script's folder upwards the first file counts; those above it are not read."""
    written(tmp_path / "backprop.config.json", {"maxRunMinutes": 1, "graceSeconds": 1})
    written(tmp_path / "a" / "pyproject.toml", TOML + "maxRunMinutes = 2")
    script_folder = tmp_path / "a" / "b" / "c"
    script_folder.mkdir(parents=True)
    told = settings_of(tmp_path, start=script_folder).config
    assert (told.max_run_minutes, told.grace_seconds) == (2, 30)


def test_in_one_folder_the_files_have_an_order(tmp_path: Path):
    """backprop.config.json comes before .backprop.json, and that before pyproject.toml."""
    written(tmp_path / "pyproject.toml", TOML + "maxRunMinutes = 3")
    assert settings_of(tmp_path).config.max_run_minutes == 3
    written(tmp_path / ".backprop.json", {"maxRunMinutes": 2})
    assert settings_of(tmp_path).config.max_run_minutes == 2
    written(tmp_path / "backprop.config.json", {"maxRunMinutes": 1})
    assert settings_of(tmp_path).config.max_run_minutes == 1


@pytest.mark.parametrize(
    "content",
    [
        "[tool.ruff]\nline-length = 120",
        "[project]\nname = 'backprop-user'",
        "tool = 3\n# backprop",
        "",
        "[[[ broken",
        b"[tool.other]\nauthor = 'J\xfcrgen'",  # Latin-1
        b"\xff\xfe\x00",
        "[tool.other]\nx = " + "[" * 5000,
    ],
    ids=["another tool", "the name only", "tool is no table", "empty", "broken", "Latin-1", "binary", "nested"],
)
def test_a_pyproject_that_says_nothing_to_us_is_passed_by(tmp_path: Path, content: object):
    """Somebody else's pyproject.toml is not read further, whatever is wrong with it, and the search goes on."""
    written(tmp_path / "backprop.config.json", {"maxRunMinutes": 7})
    written(tmp_path / "package" / "pyproject.toml", content)
    assert settings_of(tmp_path, start=tmp_path / "package").config.max_run_minutes == 7


def test_a_folder_with_the_name_of_a_file_is_passed_by(tmp_path: Path):
    """A folder called backprop.config.json is not a configuration."""
    (tmp_path / "backprop.config.json").mkdir()
    assert settings_of(tmp_path).origins == {}


def test_a_named_file_is_read_instead_of_the_nearest(tmp_path: Path):
    """--config PATH names the file, whatever lies beside the script."""
    written(tmp_path / "backprop.config.json", {"maxRunMinutes": 1, "graceSeconds": 1})
    chosen = written(tmp_path / "other" / "mine.json", {"maxRunMinutes": 2})
    told = settings_of(tmp_path, project_file=chosen).config
    assert (told.max_run_minutes, told.grace_seconds) == (2, 30)


def test_a_named_file_that_is_missing_is_an_error(tmp_path: Path):
    """A file that was named and is not there is said to be missing."""
    with pytest.raises(ConfigError, match=r"gone\.json: cannot be read: No such file"):
        settings_of(tmp_path, project_file=tmp_path / "gone.json")


@pytest.mark.parametrize("name", [*config_sources.PROJECT_FILES, "user.toml", "user.json"])
@pytest.mark.parametrize("is_loop", [False, True], ids=["nowhere", "loop"])
def test_a_file_that_is_a_link_to_nowhere_is_an_error(tmp_path: Path, name: str, is_loop: bool):
    """Its settings are meant to count: they are not passed over in silence."""
    (tmp_path / name).symlink_to(name if is_loop else "dotfiles/gone")
    with pytest.raises(ConfigError, match=rf"{name} is a link to .*, which is not there"):
        load(flags={}, environment={}, start=tmp_path, user_file=tmp_path / "user.toml")


def test_a_user_file_that_is_a_folder_is_an_error(tmp_path: Path):
    """What cannot be read is named with the system's reason."""
    (tmp_path / "user.json").mkdir()
    with pytest.raises(ConfigError, match=r"user\.json: cannot be read: Is a directory"):
        settings_of(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("backprop.config.json", "{", "not valid JSON"),
        ("backprop.config.json", "", "not valid JSON"),
        ("backprop.config.json", b'{"name": "\xff"}', "not valid JSON"),
        ("backprop.config.json", '{"maxRunMinutes": NaN}', "not valid JSON"),
        ("backprop.config.json", '{"maxRunMinutes": 1e999}', "not valid JSON"),
        ("backprop.config.json", "[" * 5000 + "]" * 5000, "not valid JSON"),
        ("backprop.config.json", '{"a":' * 5000 + "1" + "}" * 5000, "not valid JSON"),
        ("backprop.config.json", "[1]", "an object of settings"),
        ("backprop.config.json", "null", "an object of settings"),
        ("pyproject.toml", "[tool.backprop", "not valid TOML"),
        ("pyproject.toml", TOML + "maxRunMinutes = ", "not valid TOML"),
        ("pyproject.toml", TOML + "maxRunMinutes = " + "9" * 5000, "not valid TOML"),
        ("pyproject.toml", TOML.encode() + b"name = '\xff'", "not valid TOML"),
        ("pyproject.toml", TOML + "a = " + "[" * 5000 + "]" * 5000, "not valid TOML"),
        ("pyproject.toml", "[tool]\nbackprop = 3", "an object of settings"),
        ("pyproject.toml", "[[tool.backprop]]\nname = 'x'", "an object of settings"),
    ],
)
def test_a_broken_file_is_an_error_that_names_it(tmp_path: Path, name: str, content: object, said: str):
    """A file that cannot be understood is named, with what is wrong with it."""
    path = written(tmp_path / name, content)
    with pytest.raises(ConfigError, match=said) as caught:
        settings_of(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")


# -- python in a file


@pytest.mark.parametrize(
    ("told", "expected"),
    [("venv/bin/python", "{}/venv/bin/python"), ("/usr/bin/python3", "/usr/bin/python3"), ("python3", "python3")],
)
def test_a_relative_python_in_a_file_is_relative_to_the_file(tmp_path: Path, told: str, expected: str):
    """A path in a file means the same wherever the command is called; a bare name is looked up on PATH."""
    written(tmp_path / "backprop.config.json", {"python": told})
    (tmp_path / "deeper").mkdir()
    loaded = settings_of(tmp_path, start=tmp_path / "deeper")
    assert loaded.config.python == expected.format(tmp_path)


def test_a_relative_python_elsewhere_is_left_as_it_is(tmp_path: Path):
    """A path in a flag or a variable is relative to where the command is called."""
    written(tmp_path / "backprop.config.json", {"python": "a/b"})
    assert settings_of(tmp_path, environment={"BACKPROP_PYTHON": "c/d"}).config.python == "c/d"
    assert settings_of(tmp_path, flags={"python": "e/f"}).config.python == "e/f"


@pytest.mark.parametrize("suffix", [".toml", ".json"])
def test_the_user_file_is_toml_or_json(tmp_path: Path, suffix: str):
    """One of the two; `gpu.probe` may be written as a key with a dot or as a table."""
    text = '{"gpu.probe": "none"}' if suffix == ".json" else "[gpu]\nprobe = 'none'"
    path = written(tmp_path / f"settings{suffix}", text)
    loaded = load(flags={}, environment={}, start=tmp_path, user_file=tmp_path / "settings.toml")
    assert loaded.config.gpu_probe == "none"
    assert loaded.origins == {"gpu.probe": str(path)}


@pytest.mark.parametrize("name", ["backprop.toml", "backprop.config.json"])
def test_a_file_may_begin_with_the_mark_of_windows_editors(tmp_path: Path, name: str):
    """U+FEFF, which neither TOML nor JSON knows."""
    text = "maxRunMinutes = 3" if name.endswith(".toml") else '{"maxRunMinutes": 3}'
    (tmp_path / name).write_text(f"\ufeff{text}", encoding="utf-8")
    assert settings_of(tmp_path).config.max_run_minutes == 3


def test_two_user_files_are_an_error(tmp_path: Path):
    """Nobody has to guess which of them counts."""
    written(tmp_path / "settings.toml", "retries = 1")
    written(tmp_path / "settings.json", {"retries": 2})
    with pytest.raises(ConfigError, match="keep one"):
        load(flags={}, environment={}, start=tmp_path, user_file=tmp_path / "settings.toml")


# -- what is allowed

WRONG: list[tuple[str, object]] = [
    *[
        (key, value)
        for key in ("maxRunMinutes", "checkpointEveryMinutes")
        for value in (0, -1, 0.0, -0.5, 525_601, 10**30, "10", True, [1], {})
    ],
    ("maxRunMinutes", None),
    *[("graceSeconds", value) for value in (-1, -0.001, 86_401, "30", None, False, [], {})],
    *[("finishMinutes", value) for value in (-1, 525_601, "30", True, [], {})],
    *[("framework", value) for value in ("", "jax", "PyTorch", 1, None, ["auto"], {})],
    *[
        (key, value)
        for key in ("minFreeRamGB", "minFreeDiskGB")
        for value in (-0.1, 1_000_001, "2", None, True, [2], {})
    ],
    *[("name", value) for value in ("", "last", "x" * 201, "a\nb", "a\x1b[31m", "\u202e", 1, True, ["a"], {})],
    *[("python", value) for value in ("", "x" * 201, 3, ["python"], {})],
    *[
        ("resumeArg", value)
        for value in (
            [""],
            "-",
            "resume",
            "--re sume",
            "--resume=",
            "--resume\t=",
            "--ckpt={pth}",
            "--ckpt={}",
            "--ckpt={path}{steps}",
            "--a 'b",
            ["--resume\n"],
            ["--re sume"],
            ["a\n={path}"],
            1,
            [1],
            {},
        )
    ],
    *[("detach", value) for value in (1, 0, "true", "yes", None, [], {})],
]


@pytest.mark.parametrize(("key", "value"), WRONG, ids=lambda part: repr(part)[:24])
def test_a_wrong_value_in_a_file_is_an_error_that_names_everything(tmp_path: Path, key: str, value: object):
    """File, key, value and what is allowed are all in the message."""
    path = written(tmp_path / "backprop.config.json", {key: value})
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path)
    message = str(caught.value)
    assert message.startswith(f"{path}: {key} = {value!r}: invalid value")
    assert SETTINGS[key].allowed in message


TEXT_WRONG = [
    *[
        ("maxRunMinutes", text)
        for text in ("nan", "NaN", "inf", "-inf", "Infinity", "0", "-1", "", "ten", "1,5", "1e999")
    ],
    *[("checkpointEveryMinutes", text) for text in ("nan", "inf", "0", "-1", "")],
    *[("graceSeconds", text) for text in ("nan", "inf", "-1", "86401", "")],
    *[("minFreeRamGB", text) for text in ("nan", "inf", "-1", "2GB")],
    *[("minFreeDiskGB", text) for text in ("nan", "inf", "-1", "2GB")],
    ("framework", "jax"),
    ("name", "last"),
    ("name", ""),
    ("python", ""),
    ("resumeArg", "resume"),
    ("resumeArg", "--resume --ckpt={pth}"),
    ("detach", "maybe"),
    ("slurmArgs", '--comment="'),
    ("slurmArgs", "'--comment=a\nb'"),
    *[
        (key, "\udcff") for key in KEYS if key not in {"python", "notify", "metrics.patterns"}
    ],  # bytes of the command line that are not UTF-8
]


@pytest.mark.parametrize(("key", "text"), TEXT_WRONG)
def test_a_wrong_variable_is_an_error_that_names_everything(tmp_path: Path, key: str, text: str):
    """Variable, key, value and what is allowed are all in the message; NaN and infinities are never numbers."""
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path, environment={environment_name(key): text})
    assert str(caught.value).startswith(f"{environment_name(key)}: {key} = {text!r}: invalid value")
    assert SETTINGS[key].allowed in str(caught.value)


@pytest.mark.parametrize(("key", "text"), TEXT_WRONG)
def test_a_wrong_flag_is_an_error_that_names_everything(tmp_path: Path, key: str, text: str):
    """Flag, value and what is allowed are all in the message."""
    with pytest.raises(UsageError) as caught:
        settings_of(tmp_path, flags={key: text})
    assert str(caught.value).startswith(f"{SETTINGS[key].flag} {text!r}: invalid value")
    assert SETTINGS[key].allowed in str(caught.value)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 0.0, -1.0])
@pytest.mark.parametrize("key", ["maxRunMinutes", "checkpointEveryMinutes"])
def test_no_number_of_minutes_is_not_a_timebox(tmp_path: Path, key: str, value: float):
    """A flag that is already a number is checked like any other: NaN, infinity, 0 and -1 minutes are refused."""
    with pytest.raises(UsageError, match="minutes > 0"):
        settings_of(tmp_path, flags={key: value})


@pytest.mark.parametrize("number", ["nan", "inf", "-inf", "+inf", "0.0", "-1"])
def test_toml_can_say_nan_and_is_not_believed(tmp_path: Path, number: str):
    """TOML knows nan and inf; a timebox does not."""
    written(tmp_path / "pyproject.toml", f"{TOML}maxRunMinutes = {number}")
    with pytest.raises(ConfigError, match="minutes > 0"):
        settings_of(tmp_path)


@pytest.mark.parametrize("value", ["1979-05-27", "07:32:00", "1979-05-27T07:32:00Z", "[]", "{ a = 1 }"])
@pytest.mark.parametrize("key", [key for key in KEYS if default(key) != ()])  # those are lists
def test_types_that_only_toml_has_are_refused(tmp_path: Path, key: str, value: str):
    """Dates, times and tables are no values of any setting."""
    path = written(tmp_path / "pyproject.toml", f"{TOML}{key} = {value}")
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path)
    assert str(caught.value).startswith(f"{path}: ")
    assert key in str(caught.value)


RIGHT = [
    ("maxRunMinutes", "0.001", 0.001),
    ("maxRunMinutes", "525600", 525_600.0),
    ("maxRunMinutes", "1e1", 10.0),
    ("checkpointEveryMinutes", "2", 2.0),
    ("graceSeconds", "0", 0.0),
    ("graceSeconds", "86400", 86_400.0),
    ("framework", "tensorflow", "tensorflow"),
    ("minFreeRamGB", "0", 0.0),
    ("minFreeDiskGB", "0.5", 0.5),
    ("name", "Größe 5 – ü", "Größe 5 – ü"),
    ("name", "x" * 200, "x" * 200),
    ("python", "python3.12", "python3.12"),
    ("resumeArg", "--resume", ("--resume",)),
    ("resumeArg", "-r", ("-r",)),
    ("resumeArg", "--init_from=resume --ckpt={dir}/{step}", ("--init_from=resume", "--ckpt={dir}/{step}")),
    ("resumeArg", "+trainer.ckpt_path={path} 'a=${b} {path}'", ("+trainer.ckpt_path={path}", "a=${b} {path}")),
    ("detach", "true", True),
    ("detach", "1", True),
    ("detach", "false", False),
]


@pytest.mark.parametrize(("key", "text", "expected"), RIGHT)
def test_text_from_the_shell_becomes_the_right_type(tmp_path: Path, key: str, text: str, expected: object):
    """What a variable says is understood as what the setting is."""
    loaded = settings_of(tmp_path, environment={environment_name(key): text})
    value = getattr(loaded.config, environment_name(key).removeprefix("BACKPROP_").lower())
    assert value == expected
    assert type(value) is type(expected)
    assert loaded.origins == {key: environment_name(key)}


@pytest.mark.parametrize("key", KEYS)
def test_a_default_is_allowed(tmp_path: Path, key: str):
    """Every setting may be set in a file to what it is anyway."""
    if config.default(key) is not None:
        written(tmp_path / "backprop.config.json", {key: config.default(key)})
        assert settings_of(tmp_path).config == config.Config()


@pytest.mark.parametrize(
    ("wrong", "meant"),
    [("maxRunMinute", "maxRunMinutes"), ("max_run_minutes", "maxRunMinutes"), ("frameWork", "framework")],
)
def test_an_unknown_key_gets_a_suggestion(tmp_path: Path, wrong: str, meant: str):
    """A misspelt key is named with what was probably meant, and all that is allowed."""
    path = written(tmp_path / "backprop.config.json", {wrong: 1})
    with pytest.raises(ConfigError) as caught:
        settings_of(tmp_path)
    assert str(caught.value).startswith(f"{path}: unknown key {wrong!r}: did you mean {meant!r}?")
    assert all(key in str(caught.value) for key in KEYS)


@pytest.mark.parametrize("document", [{"zzz": 1}, {"": 1}, {"gpu": {"zzz": "x"}}])
def test_an_unknown_key_is_never_ignored(tmp_path: Path, document: object):
    """A key that nothing resembles is an error all the same, however deep it lies."""
    written(tmp_path / "backprop.config.json", document)
    with pytest.raises(ConfigError, match="unknown key"):
        settings_of(tmp_path)


def test_other_variables_are_not_ours(tmp_path: Path):
    """BACKPROP_ variables that are no settings, such as those given to a trainer, are left alone."""
    environment = {"BACKPROP_RUN_ID": "x", "BACKPROP_TIMEBOX_S": "600", "BACKPROP_HOME": "/tmp", "NAME": "x"}
    assert settings_of(tmp_path, environment=environment).config == config.Config()


# -- whatever lies there

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)


def loads_or_complains(path: Path) -> Loaded | None:
    try:
        return settings_of(path.parent, project_file=path)
    except ConfigError as error:
        assert str(path) in str(error)
        return None


@given(st.binary(max_size=100), st.sampled_from(["a.json", "pyproject.toml"]), st.booleans())
@settings(max_examples=scaled(300), deadline=None)
def test_no_bytes_make_it_crash(tmp_path_factory: pytest.TempPathFactory, data: bytes, name: str, ours: bool):
    """Arbitrary bytes as a file are a configuration or an error that names the file."""
    path = tmp_path_factory.mktemp("any") / name
    path.write_bytes((TOML.encode() if ours else b"") + data)
    loaded = loads_or_complains(path)
    assert loaded is None or set(loaded.origins) <= set(KEYS)


@given(st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=5), json_values, max_size=4))
@settings(max_examples=scaled(300), deadline=None)
def test_no_document_makes_it_crash(tmp_path_factory: pytest.TempPathFactory, document: dict[str, object]):
    """An arbitrary JSON object is a configuration, with all its keys in it, or an error that names the file."""
    path = tmp_path_factory.mktemp("any") / "b.json"
    path.write_text(json.dumps(document))
    loaded = loads_or_complains(path)
    if loaded is not None:
        assert set(loaded.origins) == set(document)


@given(st.sampled_from(KEYS), st.binary(max_size=20).filter(lambda data: b"\0" not in data))
@settings(max_examples=scaled(200), deadline=None)
def test_no_variable_makes_it_crash(tmp_path_factory: pytest.TempPathFactory, key: str, data: bytes):
    """Whatever bytes a variable holds, the setting is checked or refused."""
    try:
        loaded = settings_of(tmp_path_factory.mktemp("any"), environment={environment_name(key): os.fsdecode(data)})
    except ConfigError as error:
        assert environment_name(key) in str(error)
    else:
        assert set(loaded.origins) == {key}


@pytest.mark.parametrize("limit", [1e299, 1e18, 1e7, 0, -1])
def test_a_memory_limit_that_no_card_has_is_refused(tmp_path: Path, limit: float):
    """However large: it is a wrong value, not a crash."""
    (tmp_path / "backprop.config.json").write_text(f'{{"gpuMemoryLimit": {limit}}}')
    with pytest.raises(ConfigError, match="gpuMemoryLimit = .*: invalid value"):
        load(flags={}, environment={}, start=tmp_path, user_file=tmp_path / "none.json")


@pytest.mark.parametrize("name", config_sources.PROJECT_FILES)
def test_a_link_to_nowhere_is_no_missing_file(tmp_path: Path, name: str):
    """Settings that somebody meant are not passed over in silence."""
    (tmp_path / name).symlink_to("/nowhere/file")
    with pytest.raises(ConfigError, match=f"{name} is a link to /nowhere/file, which is not there"):
        load(flags={}, environment={}, start=tmp_path, user_file=tmp_path / "none.toml")


def test_variables_that_are_misspelt():
    """They are named, with what may have been meant; the many of a trainer are none."""
    told = {
        "BACKPROP_MAX_RUN_MINUTS": "1",
        "BACKPROP_HOM": "/",
        "BACKPROP_QQQQ": "",
        "BACKPROP_NAME": "x",
        "PATH": "/bin",
    }
    assert config_sources.misspelt(told) == {
        "BACKPROP_HOM": "BACKPROP_HOME",
        "BACKPROP_MAX_RUN_MINUTS": "BACKPROP_MAX_RUN_MINUTES",
        "BACKPROP_QQQQ": None,
    }
    assert config_sources.misspelt({**told, "BACKPROP_RUN_ID": "r"}) == {}
