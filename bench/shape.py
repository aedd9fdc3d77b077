"""The shape of the code: `python -m bench.shape [FOLDER...]`, each a `src/backprop`; this clone's where none is named.

Counts entries at the top level, modules, import circles between modules (imports inside functions included), and the
lengths of functions, classes and modules in lines.
"""

import ast
import sys
from collections.abc import Collection, Iterator
from pathlib import Path
from statistics import median
from typing import NamedTuple

SOURCE = Path(__file__).parents[1] / "src" / "backprop"
_LONG = 25  # lines


class Shape(NamedTuple):
    """What is counted in one tree."""

    top_level: int
    modules: int
    circles: int
    modules_in_circles: int
    lines: int
    median_function: float
    long_functions: float  # share of those over _LONG lines
    longest_function: str
    longest_class: str
    longest_module: str
    packages: dict[str, int]  # lines by entry at the top level


def shape_of(source: Path) -> Shape:
    """Read a tree of Python modules. Raises SyntaxError for what is none."""
    texts = {path.relative_to(source): path.read_text() for path in sorted(source.rglob("*.py"))}
    trees = {path: ast.parse(text) for path, text in texts.items()}
    functions: dict[str, int] = {}
    classes: dict[str, int] = {}
    for path, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                found = classes if isinstance(node, ast.ClassDef) else functions
                found[f"{path}:{node.name}"] = (node.end_lineno or node.lineno) - node.lineno + 1
    lines = {path: text.count("\n") for path, text in texts.items()}
    packages: dict[str, int] = {}
    for path, count in lines.items():
        entry = path.parts[0].removesuffix(".py")
        packages[entry] = packages.get(entry, 0) + count
    circles = list(_circles(_graph(trees)))
    return Shape(
        top_level=len(packages),
        modules=len(texts),
        circles=len(circles),
        modules_in_circles=sum(map(len, circles)),
        lines=sum(lines.values()),
        median_function=median(functions.values()),
        long_functions=sum(length > _LONG for length in functions.values()) / len(functions),
        longest_function=_longest(functions),
        longest_class=_longest(classes),
        longest_module=_longest({str(path): count for path, count in lines.items()}),
        packages=dict(sorted(packages.items(), key=lambda item: -item[1])),
    )


def _longest(lengths: dict[str, int]) -> str:
    name = max(lengths, key=lambda name: lengths[name])
    return f"{lengths[name]} ({name})"


def name_of(path: Path) -> str:
    """The dotted name of a module, without the package's own; path: relative to the package."""
    return ".".join(path.with_suffix("").parts).removesuffix("__init__").rstrip(".")


def imported(path: Path, tree: ast.Module, names: Collection[str]) -> Iterator[tuple[str, str | None]]:
    """The modules of ours that a module imports, wherever in the file, and the name that it takes from each.

    names: of all modules of ours, as `name_of` gives them.
    """
    package = path.parts[:-1]
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            below = [] if node.module is None else node.module.split(".")
            if node.level:
                below = [*package[: len(package) - node.level + 1], *below]
            elif below[0] == "backprop":
                del below[0]
            else:
                continue
            for alias in node.names:
                module = ".".join([*below, alias.name])
                yield (module, None) if module in names else (".".join(below), alias.name)
        elif isinstance(node, ast.Import):
            yield from ((alias.name[9:], None) for alias in node.names if alias.name.startswith("backprop."))


def _graph(trees: dict[Path, ast.Module]) -> dict[str, set[str]]:
    """Which module imports which."""
    names = {name_of(path) for path in trees}
    return {
        name_of(path): {module for module, _ in imported(path, tree, names)} & names - {name_of(path)}
        for path, tree in trees.items()
    }


def _circles(graph: dict[str, set[str]]) -> Iterator[set[str]]:
    """The groups of modules that import one another, each once."""
    reached = {start: _reached(graph, start) for start in graph}
    seen: set[str] = set()
    for start in graph:
        if start not in seen and start in reached[start]:
            circle = {other for other in reached[start] if start in reached[other]}
            seen |= circle
            yield circle


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    reached: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        if (module := waiting.pop()) not in reached:
            reached.add(module)
            waiting += graph[module]
    return reached


def main(folders: list[str]) -> None:
    """Print a table, a column a tree."""
    shapes = [shape_of(Path(folder)) for folder in folders or [str(SOURCE)]]
    print(f"| | {' | '.join(folders or ['src/backprop'])} |\n| --- |{' --: |' * len(shapes)}")
    rows = {
        "entries at the top level": [str(shape.top_level) for shape in shapes],
        "modules": [str(shape.modules) for shape in shapes],
        "import circles (modules in them)": [f"{shape.circles} ({shape.modules_in_circles})" for shape in shapes],
        "lines": [f"{shape.lines:,}" for shape in shapes],
        "median function, in lines": [f"{shape.median_function:g}" for shape in shapes],
        f"functions over {_LONG} lines": [f"{shape.long_functions:.1%}" for shape in shapes],
        "longest function": [shape.longest_function for shape in shapes],
        "longest class": [shape.longest_class for shape in shapes],
        "longest module": [shape.longest_module for shape in shapes],
        "lines by entry": [", ".join(f"{name} {count}" for name, count in shape.packages.items()) for shape in shapes],
    }
    for name, cells in rows.items():
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main(sys.argv[1:])
