"""Tests mirror the tree: a module has a unit test of its own, or a line in the docs says what tests it instead."""

import ast
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCE, UNIT = ROOT / "src" / "backprop", ROOT / "tests" / "unit"
MODULES = sorted(
    path.relative_to(SOURCE).as_posix()
    for path in SOURCE.rglob("*.py")
    if path.name not in {"__init__.py", "__main__.py"}
)
HEADING = "## Modules without a unit test of their own"


def imported_by(test: Path) -> Iterator[str]:
    """The modules that a test imports, as their paths below src/backprop."""
    for node in ast.walk(ast.parse(test.read_text())):
        if isinstance(node, ast.ImportFrom) and (node.module or "").partition(".")[0] == "backprop":
            parts = str(node.module).split(".")[1:]
            yield "/".join(parts) + ".py"
            yield from ("/".join([*parts, f"{alias.name}.py"]) for alias in node.names)


def has_own_test(module: str) -> bool:
    """Whether a file is called as the test of this module (test_tail, test_output_tail for store/output/tail.py), or as
    that of its package, and imports it (test_journal for store/journal/fold.py)."""
    *packages, name = module.removesuffix(".py").split("/")
    names = {"_".join(["test", *packages[begin:], name]) for begin in range(len(packages) + 1)}
    of_package = {f"test_{package}" for package in packages}
    return any(
        test.stem in names or (test.stem in of_package and module in imported_by(test))
        for test in (UNIT / "/".join(packages[:1])).rglob("test_*.py")
    )


def exceptions() -> list[tuple[list[str], list[str]]]:
    """Of each row of the table: patterns of modules, and what tests these."""
    table = (ROOT / "docs" / "contributing" / "testing.md").read_text().partition(HEADING)[2].partition("\n## ")[0]
    rows = [line.split("|")[1:3] for line in table.splitlines() if line.startswith("| `")]
    return [(re.findall("`([^`]+)`", modules), re.findall("`([^`]+)`", tests)) for modules, tests in rows]


UNTESTED = [module for module in MODULES if not has_own_test(module)]


def test_every_module_has_a_test_or_a_reason():
    """A new module without a unit test gets a row in the table of docs/contributing/testing.md."""
    patterns = [pattern for modules, _ in exceptions() for pattern in modules]
    assert [module for module in UNTESTED if not any(fnmatch(module, pattern) for pattern in patterns)] == []


@pytest.mark.parametrize(("modules", "tests"), exceptions(), ids=lambda found: found[0])
def test_a_reason_is_true(modules: list[str], tests: list[str]):
    """What is named exists; a unit test of another name imports the module; no row outlives its modules."""
    assert tests
    assert [test for test in tests if not (ROOT / test).exists()] == []
    for pattern in modules:
        meant = [module for module in UNTESTED if fnmatch(module, pattern)]
        assert meant, f"{pattern} has a test of its own, or is gone"
        if all(test.startswith("tests/unit/") for test in tests):
            imported = {name for test in tests for name in imported_by(ROOT / test)}
            assert [module for module in meant if module not in imported] == []
