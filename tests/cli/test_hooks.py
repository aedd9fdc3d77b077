"""How our code gets into a trainer, and what it may never do there."""

import ast
import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.conftest import BACKPROP, Runs

TRAINER = Path(__file__).parents[2] / "src" / "backprop" / "trainer"
SEES_HOOKS = 'print("hooks" if "_backprop_trainer" in sys.modules else "none")\n'


def outcome(runs: Runs, *words: object, **changes: str) -> str:
    """What a script prints that runs with these options."""
    done = runs.call("run", *words, **changes)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_hooks_get_in_and_into_subprocesses(runs: Runs):
    runs.script(SEES_HOOKS + "subprocess.run([sys.executable, '-c', 'import sys\\n' + sys.argv[1]])")
    assert outcome(runs, "train.py", "--", SEES_HOOKS) == "hooks\nhooks\n"


def test_they_get_in_by_a_command(runs: Runs):
    assert outcome(runs, "--", sys.executable, "-c", "import sys\n" + SEES_HOOKS) == "hooks\n"


@pytest.mark.parametrize("flag", ["-E", "-I", "-S"])
def test_an_isolated_python_has_none(runs: Runs, flag: str):
    """Nothing of ours is there, and nothing complains."""
    done = runs.call("run", "--", sys.executable, flag, "-c", "import sys\n" + SEES_HOOKS)
    assert (done.returncode, done.stdout) == (0, "none\n")
    assert all(line.startswith("backprop: run ") for line in done.stderr.splitlines())


def test_no_hooks(runs: Runs):
    """--no-hooks and its key in a file turn them off; a resumed run keeps to it."""
    runs.script(SEES_HOOKS)
    assert outcome(runs, "--no-hooks", "train.py") == "none\n"
    assert runs.call("resume", "last", "--again").stdout == "none\n"
    (runs.work / "backprop.config.json").write_text('{"hooks": false}')
    assert outcome(runs, "train.py") == "none\n"
    assert outcome(runs, "--hooks", "train.py") == "hooks\n"


def test_no_hooks_within_another_run(runs: Runs):
    """Each run has them or not, whatever the run has that started it."""
    runs.script(SEES_HOOKS, "inner.py")
    runs.script('sys.exit(subprocess.run([sys.argv[1], "run", *sys.argv[2:], "inner.py"]).returncode)')
    assert outcome(runs, "train.py", "--", BACKPROP, "--no-hooks") == "none\n"
    assert outcome(runs, "--no-hooks", "train.py", "--", BACKPROP) == "hooks\n"


def test_the_search_path_of_the_script_stays(runs: Runs):
    """What the user put on PYTHONPATH is there, in its order, behind our folder alone."""
    runs.script("print(*[entry for entry in sys.path if entry.startswith('/some/')], sys.path[0])")
    assert outcome(runs, "train.py", PYTHONPATH="/some/b:/some/a") == f"/some/b /some/a {runs.work}\n"


def test_the_sitecustomize_of_the_user_is_run(runs: Runs):
    folder = runs.work / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("import builtins\nbuiltins.theirs = __file__\n")
    runs.script(SEES_HOOKS + "import sitecustomize; print(theirs == sitecustomize.__file__, theirs)")
    told = f"hooks\nTrue {folder}/sitecustomize.py\n"
    assert outcome(runs, "train.py", PYTHONPATH=str(folder)) == told


def test_a_sitecustomize_that_fails_fails_as_without_us(runs: Runs):
    folder = runs.work / "site"
    folder.mkdir()
    (folder / "sitecustomize.py").write_text("raise ValueError('their own')\n")
    runs.script(SEES_HOOKS)
    bare = subprocess.run(
        [sys.executable, "train.py"],
        cwd=runs.work,
        env={**os.environ, "PYTHONPATH": str(folder)},
        capture_output=True,
        text=True,
        check=False,
    )
    done = runs.call("run", "train.py", PYTHONPATH=str(folder))
    assert done.stdout == "hooks\n"
    assert "ValueError: their own" in bare.stderr
    assert all(line in done.stderr.splitlines() for line in bare.stderr.splitlines())


def test_a_module_named_backprop_is_the_scripts(runs: Runs):
    """Many a course has a backprop.py: it is what the script means."""
    (runs.work / "backprop.py").write_text("here = True\n")
    runs.script("import backprop; print(backprop.here)")
    assert outcome(runs, "train.py") == "True\n"


def test_backprop_can_be_imported_where_it_is_not_installed(runs: Runs):
    venv.create(runs.work / "bare", symlinks=True)
    python = runs.work / "bare" / "bin" / "python"
    without = subprocess.run([python, "-c", "import backprop"], capture_output=True, check=False)
    assert b"ModuleNotFoundError" in without.stderr
    runs.script("import backprop; print(backprop.__version__)")
    version = subprocess.run([BACKPROP, "--version"], capture_output=True, text=True, check=True).stdout.split()[-1]
    assert outcome(runs, "--python", python, "train.py") == f"{version}\n"


HOOKED = """
    sys.path.insert(0, "frameworks")
    from _backprop_trainer import import_hooks
    import_hooks.HOOKS["framework.deep"] = "{module}"
"""


def framework(runs: Runs, text: str = "value = 1\n") -> None:
    folder = runs.work / "frameworks" / "framework"
    folder.mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "deep.py").write_text(text)


def test_a_hook_that_fails_is_told_once_and_off(runs: Runs):
    """A framework whose insides have changed is not broken by our not knowing it."""
    framework(runs)
    runs.script(HOOKED.format(module="no_such_module") + "    import framework.deep; print(framework.deep.value)")
    done = runs.call("run", "train.py")
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert done.stderr.count("the hook for no_such_module is off from here on") == 1


def test_a_framework_that_fails_to_import_fails_as_without_us(runs: Runs):
    framework(runs, "raise ImportError('needs a driver')\n")
    runs.script(
        HOOKED.format(module="no_such_module")
        + """
    for _ in range(2):
        try:
            import framework.deep
        except ImportError as error:
            print(error)
    """
    )
    done = runs.call("run", "train.py")
    assert done.stdout == "needs a driver\nneeds a driver\n"
    assert "is off from here on" not in done.stderr


def test_a_hooked_module_keeps_its_loader(runs: Runs):
    """Whoever reads a framework's source through its loader still can, and it can be loaded anew."""
    framework(runs)
    runs.script(
        HOOKED.format(module="no_such_module")
        + """
    import importlib, inspect
    import framework.deep
    print(type(framework.deep.__loader__).__name__, inspect.getsource(framework.deep).strip())
    importlib.reload(framework.deep)
    """
    )
    assert outcome(runs, "train.py") == "SourceFileLoader value = 1\n"


def test_a_loader_that_serves_several_modules_is_left_whole(runs: Runs):
    """Some finders are the loader of all that they find."""
    runs.script(
        """
        from importlib.machinery import ModuleSpec
        from _backprop_trainer import import_hooks
        import_hooks.HOOKS["made_a"] = "no_such_module"

        class Maker:
            def find_spec(self, name, path=None, target=None):
                return ModuleSpec(name, self) if name.startswith("made_") else None
            def create_module(self, spec):
                return None
            def exec_module(self, module):
                module.value = module.__name__

        sys.meta_path.append(Maker())
        import importlib.util
        importlib.util.find_spec("made_a")
        import made_b, made_a
        print(made_a.value, made_b.value)
        """
    )
    done = runs.call("run", "train.py")
    assert done.stdout == "made_a made_b\n"
    assert done.stderr.count("the hook for no_such_module is off") == 1


def test_a_place_that_cannot_be_written_does_not_stop_training(runs: Runs):
    runs.script(
        """
        os.environ["BACKPROP_EVENTS"] = "/nonexistent/events"
        from _backprop_trainer import link
        for step in range(3):
            link.current().steps.log(step, {"loss": 1.0})
        print("done")
        """
    )
    done = runs.call("run", "train.py")
    assert (done.returncode, done.stdout) == (0, "done\n")
    assert done.stderr.count("the hook for the supervisor is off from here on") == 1


@pytest.mark.parametrize("path", sorted(TRAINER.rglob("*.py")), ids=lambda path: path.name)
def test_what_runs_inside_is_written_for_python_3_9(path: Path):
    """In words that Python 3.9 knows, and without annotations that it would have to evaluate."""
    tree = ast.parse(path.read_text(), feature_version=(3, 9))
    future = any(isinstance(node, ast.ImportFrom) and node.module == "__future__" for node in tree.body)
    has_annotations = any(isinstance(node, ast.AnnAssign) or getattr(node, "returns", None) for node in ast.walk(tree))
    assert future or not has_annotations  # then annotations are not evaluated


@pytest.mark.parametrize("path", sorted(TRAINER.rglob("*.py")), ids=lambda path: path.name)
def test_what_runs_inside_imports_nothing_of_the_rest(path: Path):
    """The rest of Backprop is not there, or is another version of it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level < len(path.relative_to(TRAINER).parts) + 1
            assert node.level or (node.module or "").split(".")[0] != "backprop"
        elif isinstance(node, ast.Import):
            assert not [alias.name for alias in node.names if alias.name.split(".")[0] == "backprop"]


def test_a_script_that_parses_arguments_keeps_its_signals_and_loads_no_more_of_us(runs: Runs):
    """Only a hook that drives a loop has to hear of interrupts: the link with the supervisor is not loaded for others."""
    runs.script(
        """
        import argparse, signal
        argparse.ArgumentParser().parse_args()
        print(signal.getsignal(signal.SIGINT) is signal.default_int_handler, "_backprop_trainer.link" in sys.modules)
        """
    )
    done = runs.call("run", "train.py")
    assert done.stdout == "True False\n", done.stderr


def test_an_interpreter_starts_with_three_modules_of_ours(runs: Runs):
    """Each costs every process of a trainer; what keeps checkpoints, records modules and so on is loaded when it is due."""
    ours = "[name for name in sys.modules if name.startswith('_backprop_trainer.')]"
    runs.script(
        f"""
        print(sorted({ours}))
        open("notes.txt", "w").close()
        import other
        print(len({ours}))
        """
    )
    (runs.work / "other.py").touch()
    told = "['_backprop_trainer.failsafe', '_backprop_trainer.file_events', '_backprop_trainer.import_hooks']\n5\n"
    assert outcome(runs, "train.py") == told


def test_what_lists_packages_finds_none_of_ours(runs: Runs):
    """Else it would stand in recorded requirements, and somebody else could publish a package of that name."""
    runs.script(
        """
        from importlib.metadata import distributions
        hooks = next(path for path in sys.path if os.path.exists(os.path.join(path, "sitecustomize.py")))
        print([found.name for found in distributions(path=[hooks])])
        """
    )
    assert runs.call("run", "train.py", "--run-id", "r").returncode == 0
    assert runs.output("r") == "[]\n"


def test_nothing_of_ours_is_in_a_traceback(runs: Runs):
    """Of an error in a module of the script's own, wherever it is imported from."""
    (runs.work / "outer.py").write_text("import inner\n")
    (runs.work / "inner.py").write_text("1 / 0\n")
    runs.script("import outer\n")
    assert runs.call("run", "--run-id", "r", "train.py").returncode == 1
    traceback = (runs.rundir("r") / "session-1.err").read_text()
    assert traceback.count("  File ") == 3
    assert "backprop" not in traceback.replace(str(runs.work.parent), "")
