"""The command that installs a missing library, for the environment that Backprop itself is in."""

from pathlib import Path

import pytest

from backprop.lifecycle import optional_dependency


@pytest.mark.parametrize(
    ("marker", "command"),
    [
        ("uv-receipt.toml", "uv tool install 'backprop-cli[sweep]'"),
        ("pipx_metadata.json", "pipx install --force 'backprop-cli[sweep]'"),
        ("pyvenv.cfg", "'/my env/bin/python' -m pip install 'backprop-cli[sweep]'"),
    ],
)
def test_how_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, marker: str, command: str):
    """As it was installed; words that a shell would split are quoted."""
    (tmp_path / marker).touch()
    monkeypatch.setattr("sys.prefix", str(tmp_path))
    monkeypatch.setattr("sys.executable", "/my env/bin/python")
    error = optional_dependency.missing("sweep", ImportError("no module", name="optuna.samplers"))
    assert str(error) == f"this needs 'optuna', which is not installed: {command}"
