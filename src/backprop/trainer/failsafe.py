"""A failure of ours never fails the script: it is reported once on stderr, and the part that failed is turned off."""

from __future__ import annotations

import sys

TYPE_CHECKING = False  # importing typing takes longer than everything else we do at the start
if TYPE_CHECKING:
    from typing import Any, Callable, TypeVar

    Function = TypeVar("Function", bound=Callable[..., Any])

KEEPING = "keeping old checkpoints"  # a part that several modules belong to

_off: set[str] = set()


def is_off(what: str) -> bool:
    """Whether this part has failed in this process, and is turned off."""
    return what in _off


def turn_off(what: str, error: BaseException) -> None:
    """Turn a part off that has failed, and tell the user once."""
    if what in _off:
        return
    _off.add(what)
    notify_user(
        f"the hook for {what} is off from here on, training continues without it: "
        f"{type(error).__name__}: {error} (--no-hooks turns all hooks off)"
    )


def notify_user(text: str) -> None:
    """Print one line on stderr, without control characters. Not a warning: scripts may turn those into errors."""
    if not text.isprintable():
        text = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    try:
        sys.stderr.write(f"backprop: {text}\n")
        sys.stderr.flush()
    except Exception:  # noqa: BLE001, S110  stderr is closed, or replaced by the script
        pass


def guarded(what: str, otherwise: Any = None) -> Callable[[Function], Function]:
    """A decorator: when the function raises, its part is turned off, and it returns `otherwise` from then on.

    Only for functions that call none of the user's code: the user's exceptions must reach the user.
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


def after(original: Callable[..., Any], tap: Callable[..., None], what: str) -> Callable[..., Any]:
    """The original function; when it has returned, `tap` gets the same arguments. A tap that fails is turned off."""
    import functools  # only here, because it takes a millisecond that every process would pay

    @functools.wraps(original)
    def call(*args: Any, **kwargs: Any) -> Any:
        result = original(*args, **kwargs)
        if what not in _off:
            try:
                tap(*args, **kwargs)
            except Exception as error:  # noqa: BLE001  whatever it was
                turn_off(what, error)
        return result

    return call
