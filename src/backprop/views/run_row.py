"""A run as one row of `list`, `watch` and the page."""

import os
from collections.abc import Sequence
from typing import NamedTuple

from backprop.records import MetricSummary, RunView
from backprop.store import metric_names
from backprop.store.usage import figures
from backprop.trainer.parameters.secrets import without_secrets


class RunRow(NamedTuple):
    """A run, and the metric that is shown of it."""

    view: RunView
    metric: str | None
    trend: Sequence[float] = ()  # values of the metric for a sparkline, oldest first

    @classmethod
    def of(cls, view: RunView, metric: str | None = None) -> "RunRow":
        """metric: the one to show; None: the run's main one."""
        return cls(view, metric or metric_names.main_metric(view.summaries))

    @property
    def summary(self) -> MetricSummary | None:
        """What is known of its metric; None where the run has none of that name."""
        return None if self.metric is None else self.view.summaries.get(self.metric)

    @property
    def figure(self) -> str | None:
        """The figure of what it used that is shown in the metric's place, if one is: peak_ram."""
        return None if self.metric is None or self.summary is not None else figures.name_of(self.metric)

    @property
    def last(self) -> float | None:
        """The last value of the metric."""
        if self.figure is not None:
            return figures.value(self.view.usage, self.figure)
        return None if self.summary is None else self.summary.last

    @property
    def best(self) -> float | None:
        """The best value of the metric."""
        found = None if self.metric is None else metric_names.best(self.view, self.metric)
        return None if found is None else found[0]

    @property
    def command(self) -> str:
        """The command line, without the interpreter and the script's folder."""
        spec = self.view.run.spec
        words = without_secrets(spec.command[1:] if spec.script is not None else spec.command)
        return " ".join((os.path.basename(words[0]), *words[1:]))  # noqa: PTH119
