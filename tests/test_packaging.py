"""What is published: built as the publisher builds it, and installed from that."""

import os
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[1]
BUILD = [sys.executable, "-m", "hatchling", "build", "-d"]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the source distribution, and the wheel that was built from nothing but that."""
    pytest.importorskip("hatchling", reason="builds the package")
    folder = tmp_path_factory.mktemp("dist")
    subprocess.run([*BUILD, folder, "-t", "sdist"], cwd=PROJECT, check=True, capture_output=True)
    with tarfile.open(next(folder.glob("*.tar.gz"))) as archive:
        archive.extractall(folder / "source", filter="data")
    (source,) = (folder / "source").iterdir()
    subprocess.run([*BUILD, folder, "-t", "wheel"], cwd=source, check=True, capture_output=True)
    return folder


def test_the_source_distribution_is_what_it_takes_to_build(built: Path):
    """Tests, benchmarks and pictures are not part of it."""
    with tarfile.open(next(built.glob("*.tar.gz"))) as archive:
        names = {name.split("/", 2)[1] for name in archive.getnames() if "/" in name}
    assert names <= {
        "src",
        "pyproject.toml",
        "README.md",
        "LICENSE",
        "CHANGELOG.md",
        "SECURITY.md",
        "PKG-INFO",
        ".gitignore",
    }


def test_the_wheel_has_every_licence_and_file(built: Path):
    """Of what is vendored, too, where tools look for licences."""
    with zipfile.ZipFile(next(built.glob("*.whl"))) as wheel:
        names = set(wheel.namelist())
    licences = {name.rpartition("licenses/")[2] for name in names if ".dist-info/licenses/" in name}
    vendored = {str(path.relative_to(PROJECT)) for path in PROJECT.glob("src/**/*.LICENSE")}
    assert vendored
    assert licences == {"LICENSE", *vendored}
    listed = subprocess.check_output(["git", "ls-files", "src/backprop"], cwd=PROJECT, text=True).splitlines()
    assert {name.removeprefix("src/") for name in listed} <= names


def test_make_installs_with_the_pip_that_is_there(tmp_path: Path):
    """Found by its name on PATH, as `python3` is: an environment needs no pip of its own, which takes long to unpack."""
    environment = {**os.environ, "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])}
    rule = "environment: ; @$(call new_environment,$(FOLDER))"
    words = ["make", "--no-print-directory", "--eval", rule, "environment", "PYTHON=python", f"FOLDER={tmp_path / 'v'}"]
    subprocess.run(words, cwd=PROJECT, env=environment, check=True)
    assert (tmp_path / "v" / "bin" / "python").exists()
    assert not (tmp_path / "v" / "bin" / "pip").exists()
