"""init: a configuration to begin with."""

import re
from pathlib import Path

import pytest

from backprop import config
from backprop.cli import config_sources, config_template
from backprop.cli.commands.init import _words_on_settings
from backprop.records import Gpu, MachineState
from tests.conftest import Runs

GB = 1_000_000_000


def machine(cpu_count: int = 16, ram_gb: float = 64, cards_gb: tuple[float, ...] = ()) -> MachineState:
    return MachineState(
        cpu_count=cpu_count,
        ram_total_bytes=round(ram_gb * GB),
        gpus=tuple(
            Gpu(index=i, uuid=str(i), name="card", vendor="nvidia", vram_total_bytes=round(size * GB))
            for i, size in enumerate(cards_gb)
        ),
    )


@pytest.mark.parametrize(
    ("snapshot", "expected"),
    [
        (machine(cpu_count=8, ram_gb=32), {}),
        (machine(cpu_count=2, ram_gb=64), {"maxParallel": 1}),
        (machine(cpu_count=64, ram_gb=64), {"maxParallel": 4}),
        (machine(cpu_count=256, ram_gb=2000), {"maxParallel": 8}),
        (machine(cpu_count=2, ram_gb=8), {"maxParallel": 1, "minFreeRamGB": 1.0}),
        (machine(cards_gb=(24,)), {"maxParallel": 1}),
        (machine(cards_gb=(80, 80, 80, 80)), {"maxParallel": 4}),
        (machine(cards_gb=(24, 4)), {"gpu.minFreeVramMB": 2000}),
        (MachineState(gpus=None), {}),
    ],
)
def test_values_fit_the_machine(snapshot: MachineState, expected: dict[str, float]):
    """Runs at once by GPUs, else by cores and RAM; small reserves where there is little; what is unknown says nothing."""
    assert {key: fitted.value for key, fitted in config_template.fitted(snapshot).items()} == expected


def loaded(path: Path) -> config_sources.Loaded:
    return config_sources.load(flags={}, environment={}, start=path.parent, user_file=path.with_name("none.toml"))


def test_every_setting_is_there_with_a_comment(tmp_path: Path):
    """One line on each, whatever is added to the settings."""
    text = config_template.text(_words_on_settings(), {}, "you")
    for key in config.KEYS:
        pattern = r"\n# \S.+\n# \[\[notify\]\]" if key == "notify" else rf"\n# \S.+\n# {re.escape(key)} = "
        assert re.search(pattern, text), key
    (tmp_path / "backprop.toml").write_text(text)
    assert loaded(tmp_path / "backprop.toml").origins == {}


def test_every_line_can_be_taken_in(tmp_path: Path):
    """Without their '#', all settings are ones that Backprop accepts, and those with a default have it."""
    text = config_template.text(_words_on_settings(), {}, "you")
    settings = "".join(f"{line[2:]}\n" for line in text.splitlines() if re.match(r"# (\[\[|[\w.]+ = )", line))
    path = tmp_path / "backprop.toml"
    path.write_text(settings)
    taken = loaded(path)
    assert set(taken.origins) == set(config.KEYS)
    for field, key in zip(config.Config.__struct_fields__, config.KEYS, strict=True):
        if config.default(key) not in (None, ()) and key != "notify":
            assert getattr(taken.config, field) == config.default(key)


def test_init_writes_a_file_that_counts(runs: Runs):
    """It says what it wrote and what next, and `run` reads it."""
    done = runs.call("init")
    assert done.returncode == 0
    assert done.stdout == ""
    path = runs.work / "backprop.toml"
    assert f"wrote {path}" in done.stderr
    assert "next: backprop doctor" in done.stderr
    path.write_text(path.read_text().replace("# maxRunMinutes = 10", "maxRunMinutes = 7"))
    runs.script("pass")
    assert "timebox 7 min" in runs.call("run", "train.py").stderr


def test_init_for_the_user_makes_no_runs_folder(runs: Runs):
    """In the home folder, without whatever else lives there: an older tool's runs are still to be imported."""
    assert runs.call("init", "--user").returncode == 0
    assert [path.name for path in runs.home.iterdir()] == ["config.toml"]
    assert runs.home.stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("words", [(), ("--user",)])
def test_nothing_is_replaced_unasked(runs: Runs, words: tuple[str, ...]):
    """--force replaces; without it the file stays as it is."""
    path = runs.home / "config.toml" if words else runs.work / "backprop.toml"
    path.parent.mkdir(exist_ok=True)
    path.write_text("retries = 3\n")
    done = runs.call("init", *words)
    assert done.returncode == 2
    assert "--force" in done.stderr
    assert path.read_text() == "retries = 3\n"
    assert runs.call("init", *words, "--force").returncode == 0
    assert "maxRunMinutes" in path.read_text()


@pytest.mark.parametrize("name", ["backprop.config.json", ".backprop.json", "pyproject.toml"])
def test_settings_elsewhere_are_not_put_aside(runs: Runs, name: str):
    """A file that holds settings already would count no more: that is an error, with --force too."""
    (runs.work / name).write_text("[tool.backprop]\nretries = 1\n" if name.endswith("toml") else '{"retries": 1}')
    done = runs.call("init", "--force")
    assert done.returncode == 2
    assert name in done.stderr
    assert not (runs.work / "backprop.toml").exists()


def test_a_folder_that_cannot_be_written_is_an_error(runs: Runs):
    """It says which file, and why."""
    (runs.work / "backprop.toml").mkdir()
    done = runs.call("init", "--force")
    assert done.returncode == 2
    assert "backprop.toml cannot be written" in done.stderr
