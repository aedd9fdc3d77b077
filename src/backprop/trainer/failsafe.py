"""A failure of ours is never a failure of the script: it is told once on stderr, and what failed is off from then."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing typing to know takes longer than all the rest of what we do at the start
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])

KEEPING = "keeping old checkpoints"  # parts of ours that are in several modules

_off: set[str] = set()


def is_off(what: str) -> bool:
    """Whether this part of ours has failed in this process, and does nothing any more."""
    return what in _off


def turn_off(what: str, error: BaseException) -> None:
    """Tell the user, once, that a part of ours has failed."""
    if what in _off:
        return
    _off.add(what)
    notify_user(
        f"the hook for {what} is off from here on, training goes on without it: "
        f"{type(error).__name__}: {error} (--no-hooks leaves all of them out)"
    )


def notify_user(text: str) -> None:
    """Tell the user something, on one line that no terminal obeys. Not by `warnings`: a script may make them errors."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    try:
        sys.stderr.write(f"backprop: {text}\n")
        sys.stderr.flush()
    except Exception:  # noqa: BLE001, S110  a closed stderr, or somebody's own: nobody is there to be told
        pass


def guarded(what: str, otherwise: Any = None) -> Callable[[Function], Function]:
    """Make a function of ours give `otherwise` instead of raising, now and ever after.

    Only for what is wholly ours: a function that calls the user's code must let the user's exceptions through.
    """

    def decorate(function: Function) -> Function:
        def call(*args: Any, **kwargs: Any) -> Any:
            if what in _off:
                return otherwise
            try:
                return function(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  whatever it was
                turn_off(what, error)
                return otherwise

        call.__name__ = getattr(function, "__name__", "call")
        call.__doc__ = function.__doc__
        call.__wrapped__ = function  # type: ignore[attr-defined]
        return call  # type: ignore[return-value]

    return decorate
