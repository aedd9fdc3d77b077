"""Imports run one way, printing happens in one place, and importing us costs a script nothing."""

import ast
import functools
import subprocess
import sys
from collections.abc import Iterator
from graphlib import TopologicalSorter
from pathlib import Path

from bench.shape import imported, name_of

SOURCE = Path(__file__).parents[1] / "src" / "backprop"
MODULES = sorted(path.relative_to(SOURCE) for path in SOURCE.rglob("*.py"))

# a package may import itself, what stands to its right, and the modules that all of them share
MAY_IMPORT = {
    "cli": {"views", "lifecycle", "supervisor", "engines", "governor", "store", "trainer"},
    "views": {"lifecycle", "supervisor", "engines", "governor", "store", "trainer"},
    "lifecycle": {"supervisor", "engines", "governor", "store", "trainer"},
    "supervisor": {"engines", "governor", "store", "trainer"},
    "engines": {"store", "trainer"},
    "governor": {"store", "trainer"},
    "store": {"trainer"},
    "trainer": set(),
}
SHARED = {"errors", "records", "config", "host", "text"}
ENTRY_POINTS = {"__init__": {"trainer", "views"}, "__main__": {"cli", "supervisor"}}


NAMES = {name_of(path) for path in MODULES}


@functools.cache
def tree_of(path: Path) -> ast.Module:
    return ast.parse((SOURCE / path).read_text())


def imports_of(path: Path) -> Iterator[tuple[str, str | None]]:
    return imported(path, tree_of(path), NAMES)


def test_imports_run_one_way():
    """Packages know those below them, and take nothing private from one another."""
    wrong = set()
    for path in MODULES:
        here = path.parts[0].removesuffix(".py")
        taken = [(module.split(".")[0], name or module.split(".")[-1]) for module, name in imports_of(path)]
        allowed = (ENTRY_POINTS.get(here) or MAY_IMPORT.get(here, set())) | {here, ""}
        allowed |= set() if here in {"trainer", "__init__"} else SHARED
        wrong |= {(str(path), package) for package, _ in taken if package not in allowed}
        wrong |= {
            (str(path), name)
            for package, name in taken
            if package not in {here, ""} and name.startswith("_") and name != "__version__"
        }
    assert wrong == set()


def test_no_import_circle():
    """Not through imports inside functions either. (A package may import its own modules, which need its __init__.)"""
    graph = {name_of(path): {module for module, _ in imports_of(path)} - {name_of(path)} for path in MODULES}
    TopologicalSorter(graph).prepare()


def test_the_top_level_is_small():
    """A newcomer finds the room for a change from `ls` alone."""
    entries = {path.parts[0].removesuffix(".py") for path in MODULES}
    assert entries <= set(MAY_IMPORT) | SHARED | set(ENTRY_POINTS)


def test_only_cli_prints_or_exits():
    """Everything else gives values to somebody who does. (The entry point exits where there is no cli to load.)"""
    wrong = set()
    for path in MODULES:
        if path.parts[0] == "cli":
            continue
        calls = {ast.unparse(node.func) for node in ast.walk(tree_of(path)) if isinstance(node, ast.Call)}
        forbidden = {"print", "exit", *([] if path.name == "__main__.py" else ["sys.exit"])}
        wrong |= {(str(path), call) for call in calls & forbidden}
    assert wrong == set()


def test_importing_the_package_loads_nothing_else():
    """A training script may import us: no third-party module, nothing of our own but the package."""
    program = "import sys; before = set(sys.modules); import backprop; print(*sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["backprop"]
