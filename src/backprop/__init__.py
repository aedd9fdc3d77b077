"""Backprop: run training scripts in short, safe sessions. And what a script can say to it:

    import backprop

    state = {"model": model, "optimizer": optimizer}
    for epoch, batch in backprop.loop(loader, epochs=10, state=state):  # resumes, saves on time, stops in time
        ...
        backprop.log(loss=loss.item())

Outside a Backprop run `loop` just iterates, and the rest does nothing. And what programs and notebooks can read:

    for run in backprop.runs(filter="status=completed lr>1e-4"):
        print(run.id, run.best["loss"], run.frame())

Importing this costs nothing: everything else is loaded when it is used.
"""

TYPE_CHECKING = False  # as checkers know it; importing `typing` costs milliseconds
if TYPE_CHECKING:
    from backprop.trainer.api import (
        checkpoint_due,
        load,
        log,
        loop,
        params,
        progress,
        resume_from,
        save,
        should_stop,
        time_left_s,
    )
    from backprop.views.python_api import Run as Run
    from backprop.views.python_api import find_run as find_run
    from backprop.views.python_api import runs as runs

__version__ = "0.2.0"
__all__ = [
    "checkpoint_due",
    "load",
    "log",
    "loop",
    "params",
    "progress",
    "resume_from",
    "save",
    "should_stop",
    "time_left_s",
]
# not in __all__: a trainer's environment need not have what they stand on, and `import *` must work there
_READING = ("Run", "find_run", "runs")


if not TYPE_CHECKING:  # else a checker would believe that everything exists

    def __getattr__(name: str) -> object:
        if name in _READING:
            return _read(name)
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import sys
        from importlib import import_module

        # in a run the hooks' package is there, and with it the one link to the supervisor that a process has
        package = "_backprop_trainer" if "_backprop_trainer" in sys.modules else "backprop.trainer"
        value = globals()[name] = getattr(import_module(f"{package}.api"), name)
        return value

    def _read(name: str) -> object:
        from importlib import import_module

        try:
            reader = import_module("backprop.views.python_api")
        except (ImportError, SyntaxError, TypeError) as error:  # the last two: Python 3.9
            # not an ImportError: hasattr(), inspect and completion take this one for an answer
            raise AttributeError(
                f"backprop.{name} reads the record, which needs Backprop installed in this environment, "
                f"with Python 3.10 or newer: pip install backprop-cli ({error})"
            ) from error
        value = globals()[name] = getattr(reader, name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_READING})
