"""Imports run one way, printing happens in one place, and importing us costs a script nothing."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "backprop"
MODULES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))

WORDS = {"records", "errors", "protocol", "progress", "timeline"}
# what stands on the left may import the words, itself, and what stands on the right
MAY_IMPORT = {
    **{word: set() for word in WORDS},
    "cgroups": set(),
    "processes": set(),
    "config": set(),
    "command": set(),
    "starter": {"config"},
    "printed": set(),
    "printed_metrics": {"printed", "store", "supervisor"},
    "provenance": set(),
    "checkpoints": set(),
    "kept": {"checkpoints", "trainer"},
    "git": set(),
    "codediff": {"git"},
    "coderecord": {"git", "provenance", "store"},
    "codesnapshot": {"coderecord", "git", "store"},
    "governor": {"cgroups", "store"},
    "interrupts": set(),
    "supervisor": {"cgroups", "interrupts", "processes", "store", "trainer"},
    "network": set(),
    "store": {"network", "processes", "trainer"},
    "query": {"store"},
    "rows": {"query"},
    "extras": set(),
    "exports": {"extras", "query", "rows", "store", "trainer", "views"},
    "lookup": {"checkpoints", "recovery", "store"},
    "reader": {"lookup", "query", "rows", "store", "views"},
    "views": {"checkpoints", "live", "orders", "query", "store"},
    "recorder": {"checkpoints", "store", "supervisor"},
    "doctor": {
        "cgroups",
        "command",
        "config",
        "engines",
        "environment",
        "governor",
        "network",
        "processes",
        "provenance",
        "store",
        "supervisor",
        "views",
    },
    "notify": {"store", "supervisor", "views"},
    "messenger": {"checkpoints", "notify", "store", "supervisor", "views"},
    "assignment": {"store"},
    "engines": {"provenance", "store"},
    "recovery": {
        "assignment",
        "engines",
        "inherited",
        "notify",
        "processes",
        "provenance",
        "recorder",
        "store",
        "supervisor",
    },
    "inherited": {"provenance", "store"},
    "ending": set(),
    "trainer": set(),
    "environment": {"governor", "store", "supervisor", "trainer"},
    "watchman": {"governor", "supervisor"},
    "runner": {
        "coderecord",
        "command",
        "ending",
        "engines",
        "environment",
        "governor",
        "printed_metrics",
        "processes",
        "provenance",
        "recorder",
        "store",
        "supervisor",
        "watchman",
    },
    "live": {
        "admission",
        "checkpoints",
        "governor",
        "provenance",
        "query",
        "recovery",
        "store",
    },
    "orders": {"engines", "provenance", "recorder", "recovery", "store"},
    "admission": {"governor", "provenance", "recorder", "store", "supervisor"},
    "turns": {"admission", "checkpoints", "command", "governor", "kept", "recorder", "runner", "store", "supervisor"},
}
ANYTHING = {"cli", "__main__"}


def imported(path: Path) -> set[str]:
    """The parts of the package that a module imports, wherever in the file."""
    parts = set()
    for node in ast.walk(ast.parse((SOURCE / path).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "backprop":
            below = node.module.split(".")[1:]
            parts |= {below[0]} if below else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            parts |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("backprop.")}
    return parts


@pytest.mark.parametrize("path", MODULES, ids=str)
def test_imports_run_one_way(path: Path):
    """A part knows the words, itself, and the parts below it."""
    part = path.parts[0].removesuffix(".py")
    if path == Path("__init__.py"):
        assert imported(path) == {"reader", "trainer"}  # lazily: see the last test
    elif part not in ANYTHING:
        assert imported(path) - WORDS - {part} <= MAY_IMPORT[part]


@pytest.mark.parametrize("path", [path for path in MODULES if path.parts[0] != "cli"], ids=str)
def test_only_cli_prints_or_exits(path: Path):
    """Everything else gives values to somebody who does. (The entry point exits where there is no cli to load.)"""
    calls = [node.func for node in ast.walk(ast.parse((SOURCE / path).read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id in {"print", "exit"}]
    exits = [call for call in calls if isinstance(call, ast.Attribute) and ast.unparse(call) == "sys.exit"]
    assert not exits or path.name == "__main__.py"


def test_importing_the_package_loads_nothing_else():
    """A training script may import us: no third-party module, nothing of our own but the package."""
    program = "import sys; before = set(sys.modules); import backprop; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["backprop"]
