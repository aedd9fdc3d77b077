"""Backprop: run training scripts in short, safe sessions. And what a script can say to it:

    import backprop

    state = {"model": model, "optimizer": optimizer}
    for epoch, batch in backprop.loop(loader, epochs=10, state=state):  # resumes, saves on time, stops in time
        ...
        backprop.log(loss=loss.item())

Importing this costs nothing: everything else is loaded when it is used. Outside a Backprop run `loop` just iterates,
and the rest does nothing.
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

__version__ = "0.1.0"
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


if not TYPE_CHECKING:  # else a checker would believe that everything exists

    def __getattr__(name: str) -> object:
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        import sys
        from importlib import import_module

        # in a run the hooks' package is there, and with it the one link to the supervisor that a process has
        package = "_backprop_trainer" if "_backprop_trainer" in sys.modules else "backprop.trainer"
        value = globals()[name] = getattr(import_module(f"{package}.api"), name)
        return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
