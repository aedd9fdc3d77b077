"""Regular expressions that are compiled at their first use: to compile all that read printed lines takes 40 ms of CPU.

Their modules are loaded when a session begins, not when its script first prints something: Backprop may have been
upgraded by then.
"""

import re
from typing import Any, cast


class _Later:
    """Stands for a compiled expression. Its methods are those of the expression, from the first time they are used."""

    def __init__(self, pattern: str, flags: int) -> None:
        self._given = pattern, flags

    def __getattr__(self, name: str) -> Any:
        found = getattr(re.compile(*self._given), name)
        setattr(self, name, found)
        return found


def later(pattern: str, flags: int = 0) -> re.Pattern[str]:
    """The expression; re.error comes at its first use. For its methods alone: `re.sub` and the like do not take it."""
    return cast("re.Pattern[str]", _Later(pattern, flags))
