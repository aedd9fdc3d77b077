"""Python runs this at the start of every interpreter that descends from a trainer: `site` in the Python manual.

It lets Backprop's hooks in (import_hooks.py beside this folder), then runs the `sitecustomize` that would have been run
without us. Written so that any Python there is can read it: a trainer may start old ones.
"""

import os
import sys


def _let_hooks_in(folder):
    if sys.version_info < (3, 9) or not os.environ.get("BACKPROP_EVENTS"):
        return
    name = "_backprop_trainer"
    if name in sys.modules:
        return
    # as if it had been imported; importlib.machinery, which has the words for it, takes a millisecond to import
    package = type(sys)(name)
    package.__spec__ = type(sys.__spec__)(name, None, is_package=True)
    package.__path__ = package.__spec__.submodule_search_locations = [folder]
    package.__file__ = os.path.join(folder, "__init__.py")
    sys.modules[name] = package
    from _backprop_trainer.import_hooks import install

    install()


def _run_the_other_one(here):
    """What is called sitecustomize further down the path; ImportError where there is none, as `site` expects."""
    del sys.modules["sitecustomize"]
    before = list(sys.path)
    sys.path[:] = [entry for entry in before if entry != here]
    expected = list(sys.path)
    try:
        import sitecustomize  # noqa: F401
    finally:
        # it may have changed the path; unless it did so, ours is as it was
        sys.path[:] = (
            before if sys.path == expected else [entry for entry in before if entry not in expected] + sys.path
        )


_ourselves = sys.modules["sitecustomize"]  # old Pythons empty a module that nobody holds
_here = os.path.dirname(__file__)  # as it stands in sys.path, where links in it are not resolved
try:
    _let_hooks_in(os.path.dirname(_here))
except Exception as error:  # noqa: BLE001  whatever it was: the script is not ours to break
    sys.stderr.write("backprop: its hooks are off: %s: %s\n" % (type(error).__name__, error))  # noqa: UP031
_run_the_other_one(_here)
