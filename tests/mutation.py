"""Mutation testing of the pure decisions: each small fault, put in alone, must make a test of its module fail.

    python -m tests.mutation [MODULE ...] [--lines 10,20-30]    e.g. stop_ladder, or continuation --lines 131

Prints what no test noticed, as `file:line original → mutant`, and a table. docs/contributing/testing.md explains what remains.

Tests run against a copy of the source. pytest and Hypothesis are imported once; each mutant is a fork of that process,
so that it costs its tests only. One that uses ten times the CPU time that the tests need hangs.
"""

import argparse
import ast
import gc
import os
import resource
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import hypothesis
import msgspec  # noqa: F401  as the next ones: what tests import besides Backprop, which a fork has already
import numpy as np  # noqa: F401
import psutil  # noqa: F401
import pytest
import scipy.special
import scipy.stats  # noqa: F401

ROOT = Path(__file__).parent.parent
MODULES = {  # what is mutated: its functions and constants (all of them, if none is named); test_X.py must notice
    "governor/start_policy.py": "",
    "governor/run_policy.py": "",
    "supervisor/stop_ladder.py": "TERMINATE_AFTER MAX_NOTICE MIN_NOTICE_S Rung _MAY_SAVE Ladder at_timebox after_training "
    "at_request warned at_interrupt at_once shifted",
    "store/output/protocol.py": "",
    "store/checkpoints.py": "",
    "store/journal/fold.py": "",
    "lifecycle/continuation.py": "Attempt after _after_failure _is_same_place _used _backoff_s MAX_BACKOFF_S _WORTH_A_RETRY_S",
    "lifecycle/sweep/rule.py": "",
    "lifecycle/sweep/planning.py": "",
    "lifecycle/sweep/standing.py": "",
    "lifecycle/significance.py": "",
}
WORKERS = 2
OPTIONS = [
    "-xq", "--assert=plain", "-pno:cacheprovider", "-pno:anyio", "--hypothesis-seed=0", "--hypothesis-profile=mutation"
]  # fmt: skip
OTHERS = {
    ast.Lt: (ast.LtE, ast.GtE), ast.LtE: (ast.Lt, ast.Gt), ast.Gt: (ast.GtE, ast.LtE), ast.GtE: (ast.Gt, ast.Lt),
    ast.Eq: (ast.NotEq,), ast.NotEq: (ast.Eq,), ast.Is: (ast.IsNot,), ast.IsNot: (ast.Is,),
    ast.In: (ast.NotIn,), ast.NotIn: (ast.In,), ast.And: (ast.Or,), ast.Or: (ast.And,),
    ast.Add: (ast.Sub,), ast.Sub: (ast.Add,), ast.Mult: (ast.Div,), ast.Div: (ast.Mult,), ast.FloorDiv: (ast.Mult,),
    ast.Pow: (ast.Mult,),
}  # fmt: skip
REMOVED = (ast.Expr, ast.Assign, ast.AugAssign, ast.If, ast.For, ast.While, ast.With, ast.Raise, ast.Continue)
UNTOUCHED = {"annotation", "returns", "format_spec", "decorator_list", "keywords of a class"}


def others_for(node: ast.AST) -> Iterator[ast.AST]:
    """What may stand in a node's place."""
    match node:
        case ast.operator() | ast.boolop() | ast.cmpop():
            yield from (other() for other in OTHERS.get(type(node), ()))
        case ast.Constant(bool(value)):
            yield ast.Constant(not value)
        case ast.Constant(int(value) | float(value)):  # by one where that matters
            is_small = value == int(value) and abs(value) <= 1000
            yield from map(ast.Constant, (value + 1, value - 1) if is_small else (value * 2, value / 2))
        case ast.UnaryOp(ast.Not() | ast.USub(), operand):
            yield operand
        case ast.Return(value) if value is not None and ast.unparse(value) != "None":
            yield ast.Return(ast.Constant(None))
        case ast.If(test, body, orelse) | ast.IfExp(test, body, orelse):
            yield type(node)(ast.UnaryOp(ast.Not(), test), body, orelse)
        case ast.comprehension(target, iterated, [first, *rest], is_async):
            yield ast.comprehension(target, iterated, [ast.UnaryOp(ast.Not(), first), *rest], is_async)
    if isinstance(node, REMOVED) and not (isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant)):
        yield ast.Pass()


def positions(node: ast.AST, line: int = 0) -> Iterator[tuple[int, ast.AST, str, int | None, ast.AST]]:
    """Every node below this one, after its line and where it is held: parent, field, place in a list."""
    for field, value in ast.iter_fields(node):
        if UNTOUCHED.isdisjoint({field, f"{field} of a class" if isinstance(node, ast.ClassDef) else ""}):
            for at, child in enumerate(value) if isinstance(value, list) else [(None, value)]:
                if isinstance(child, ast.AST):
                    at_line = getattr(child, "lineno", line)
                    yield at_line, node, field, at, child
                    yield from positions(child, at_line)


def mutants(source: str, names: str) -> Iterator[tuple[int, str, str]]:
    """Line, what was changed there, and the whole module with it; each once."""
    tree = ast.parse(source)
    seen = {ast.unparse(tree)}
    named = [
        (getattr(top, "name", "") or "".join(map(ast.unparse, getattr(top, "targets", ()))), top) for top in tree.body
    ]
    if unknown := set(names.split()) - {name for name, _ in named}:
        raise LookupError(f"there is no {', '.join(sorted(unknown))} to mutate")
    for name, top in named:
        for line, parent, field, at, node in list(positions(top)) if not names or name in names.split() else ():
            shown = parent if isinstance(node, (ast.operator, ast.boolop, ast.cmpop)) else node
            for other in others_for(node):
                if isinstance(parent, ast.ClassDef):
                    continue  # a field that is gone is noticed at the import
                before, held = ast.unparse(shown), getattr(parent, field)
                setattr(parent, field, other if at is None else [*held[:at], other, *held[at + 1 :]])
                after, text = ast.unparse(other if shown is node else shown), ast.unparse(tree)
                setattr(parent, field, held)
                if text not in seen:
                    seen.add(text)
                    yield line, f"{before[:150]}  →  {after[:150]}".replace("\n", " ⏎ "), text


class LikelyFirst:
    """The tests that noticed the last mutants come first, as they mostly notice the next; those of many examples last."""

    def __init__(self, noticed: Path) -> None:
        self.noticed = noticed  # a line for each mutant: the test that failed

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        latest = {test: -number for number, test in enumerate(self.noticed.read_text().splitlines())}
        items.sort(key=lambda item: (item.get_closest_marker("hypothesis") is not None, latest.get(item.nodeid, 1)))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.failed:
            with self.noticed.open("a") as file:
                file.write(report.nodeid + "\n")


def start(package: Path, module: str, text: str, cpu_s: float) -> int:
    """Fork a process that runs the tests of a module with this text for it; its id. It exits as pytest does."""
    if pid := os.fork():
        return pid
    code = 3
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_CPU, (int(cpu_s) + 1, int(cpu_s) + 1))
        for fd in (0, 1, 2):
            os.dup2(os.open(os.devnull, os.O_RDWR), fd)
        package.joinpath(module).write_text(text)
        os.environ["PYTHONPATH"] = str(package.parent)
        sys.path.insert(0, str(package.parent))
        folder, *_, name = Path(module).with_suffix("").parts
        (tests,) = (ROOT / "tests/unit" / folder).rglob(f"test_{'journal' if name == 'fold' else name}.py")
        options = [*OPTIONS, f"--basetemp={package.parent / 'tests'}", str(tests)]
        code = pytest.main(options, [LikelyFirst(package.parent.parent / "noticed")])
    finally:
        os._exit(code)


def next_end() -> tuple[int, int, float]:
    """The process that ends next, how, and the CPU time it took; what it left behind is ended with it."""
    info = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOWAIT)
    with suppress(ProcessLookupError):
        os.killpg(info.si_pid, signal.SIGKILL)
    pid, status, used = os.wait4(info.si_pid, 0)
    return pid, status, used.ru_utime + used.ru_stime


def survivors(module: str, lines: set[int], folder: Path) -> tuple[int, int, int]:
    """How many mutants there are, how many of them hang, and how many no test noticed: those are printed."""
    source = (ROOT / "src/backprop" / module).read_text()
    free = [folder / str(n) / "backprop" for n in range(WORKERS)]
    for package in free:
        shutil.copytree(ROOT / "src/backprop", package, ignore=shutil.ignore_patterns(f"{Path(module).stem}.*.pyc"))
    (folder / "noticed").touch()
    start(free[0], module, ast.unparse(ast.parse(source)), 600)
    _, status, cpu_s = next_end()
    if status:
        sys.exit(f"{module}: its tests fail without a mutant")
    running: dict[int, tuple[Path, str]] = {}
    count = hung = unnoticed = 0
    following = (one for one in mutants(source, MODULES[module]) if not lines or one[0] in lines)
    while (one := next(following, None)) or running:
        if one:
            line, change, text = one
            package = free.pop()
            running[start(package, module, text, 10 * cpu_s)] = (package, f"{module}:{line}  {change}")
            count += 1
        if not free or not one:
            pid, status, _ = next_end()
            package, told = running.pop(pid)
            free.append(package)
            hung += os.WIFSIGNALED(status)
            if status == 0:
                unnoticed += 1
                print(told, flush=True)
    return count, hung, unnoticed


def main() -> None:
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("modules", nargs="*")
    parser.add_argument("--lines", default="")
    asked = parser.parse_args()
    ends = [part.split("-") for part in asked.lines.split(",") if part]
    lines = {line for end in ends for line in range(int(end[0]), int(end[-1]) + 1)}
    sys.dont_write_bytecode = True
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    # the first failure is enough: it need not be made small, nor remembered for the next mutant
    phases = [hypothesis.Phase.explicit, hypothesis.Phase.generate]
    hypothesis.settings.register_profile("mutation", deadline=None, database=None, phases=phases)
    gc.freeze()  # each fork collects garbage several times, which need not look through the libraries
    rows = []
    for module in MODULES:
        if not asked.modules or Path(module).stem in asked.modules:
            with tempfile.TemporaryDirectory() as folder:
                count, hung, unnoticed = survivors(module, lines, Path(folder))
            rows.append(f"| `{module}` | {count} | {count - unnoticed} | {hung} | {unnoticed} |")
    print(
        "\n| module | mutants | noticed | of which hang | not noticed |\n| --- | --: | --: | --: | --: |",
        *rows,
        sep="\n",
    )


if __name__ == "__main__":
    main()
