"""stable-baselines3: how many environment steps `learn` has made, and how many it will make.

Its checkpoints are noticed like those of any script (saved_files/). Written against stable-baselines3 2.9.
"""

from __future__ import annotations

import functools
from time import monotonic
from typing import Any, Callable

from ..failsafe import guarded
from ..link import SupervisorLink, current
from ..step_reports import STEP_EVERY_S

_HOOK = "stable-baselines3"


def hook(module: Any) -> None:
    """Hook the module stable_baselines3.common.callbacks."""
    link = current()
    if link is None:
        return
    reporter = _Reporter(link)
    callback = module.BaseCallback
    callback.on_step = reporter.around(callback.on_step, is_last=False)
    callback.on_training_end = reporter.around(callback.on_training_end, is_last=True)


class _Reporter:
    """Reports the steps of the model that a callback belongs to, at most once a second."""

    def __init__(self, link: SupervisorLink) -> None:
        self._link = link
        self._due_at = 0.0

    def around(self, original: Callable[[Any], Any], *, is_last: bool) -> Callable[[Any], Any]:
        """The method of a callback, and a report before it. is_last: however short a time ago the last one was."""

        @functools.wraps(original)
        def call(callback: Any) -> Any:
            if is_last or monotonic() >= self._due_at:
                self._report(callback.model)
            return original(callback)

        return call

    @guarded(_HOOK)
    def _report(self, model: Any) -> None:
        self._due_at = monotonic() + STEP_EVERY_S
        if self._link.owner is None:
            self._link.steps.count_as("environment step", model, _steps_of)
            self._link.steps.count(model.num_timesteps, model._total_timesteps)  # noqa: SLF001


def _steps_of(model: Any) -> int:
    return int(model.num_timesteps)
