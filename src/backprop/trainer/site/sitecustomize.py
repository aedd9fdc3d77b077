"""Python runs this when an interpreter starts in a run of Backprop: see `site` in the Python manual.

It installs Backprop's hooks (import_hooks.py beside this folder), then runs the `sitecustomize` that would have run
without us. Any version of Python must be able to read it: a script may start old ones.
"""

import os
import sys


def _let_hooks_in(folder):
    if sys.version_info < (3, 9) or not os.environ.get("BACKPROP_EVENTS"):
        return
    name = "_backprop_trainer"
    if name in sys.modules:
        return
    # the same as importing it; importlib.machinery, which would do so, takes a millisecond to import
    package = type(sys)(name)
    package.__spec__ = type(sys.__spec__)(name, None, is_package=True)
    package.__path__ = package.__spec__.submodule_search_locations = [folder]
    package.__file__ = os.path.join(folder, "__init__.py")
    sys.modules[name] = package
    from _backprop_trainer.import_hooks import install

    install()


def _run_the_other_one(here):
    """Run the next sitecustomize on the path; raises ImportError if there is none, as `site` expects."""
    del sys.modules["sitecustomize"]
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if entry != here]
    expected = list(sys.path)
    try:
        import sitecustomize  # noqa: F401
    finally:
        # keep what it has changed of the path; restore the path otherwise
        sys.path[:] = (
            before if sys.path == expected else [entry for entry in before if entry not in expected] + sys.path
        )


_ourselves = sys.modules["sitecustomize"]  # old Pythons clear a module without references
_here = os.path.dirname(__file__)  # as in sys.path, with symbolic links not resolved
try:
    _let_hooks_in(os.path.dirname(_here))
except Exception as error:  # noqa: BLE001  whatever it was: the script must not fail because of us
    sys.stderr.write("backprop: its hooks are off: %s: %s\n" % (type(error).__name__, error))  # noqa: UP031
_run_the_other_one(_here)
