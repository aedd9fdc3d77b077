"""Progress of a session, and how long its steps and saves take: for the live line and the stop ladder."""

import math
from collections import Counter
from collections.abc import Collection, Mapping
from datetime import datetime

import msgspec

from backprop.records import LONGEST_S, LiveProgress, Origin, Record
from backprop.store.metric_names import has_loss_curve, is_training_loss, replaced_samples
from backprop.store.output.protocol import Batch, Listening


class Progress(Record, frozen=True):
    """Progress of a session, for the live line and the stop ladder."""

    step: int | None = None
    total_steps: int | None = None  # of the same kind
    step_unit: str | None = None  # what one of them is; None: not known
    counted_step: int | None = None  # of the optimizer, whatever is reported
    metrics: Mapping[str, float] = {}
    steps_per_s: float | None = None
    is_listening: bool = False  # the script watches control.json
    longest_step_s: float = 0.0  # as the trainer measured it; else between two looks that brought new steps
    longest_save_s: float = 0.0  # likewise; else from the last step to the save's report
    is_paced: bool = False  # the trainer measures by itself
    is_printed: bool = False  # the step is one that the script prints for people, or logs to a tracker: a guess
    is_finished: bool = False  # training came to its own end
    resume_option: str | None = None  # what --resume-arg would have to be: the script takes no checkpoint by itself
    estimated_s: float | None = None  # time that remains, by what the script prints: see outlook.py
    silent_s: float = 0.0  # of training since the last step or output
    stalled_s: float | None = None  # the same for any sign of life; None: use of CPU and GPUs cannot be seen
    last_step_at: datetime | None = None  # when `step` changed last

    @property
    def has_reported_total(self) -> bool:
        """Whether the trainer itself reports the total of its steps."""
        return self.total_steps is not None and not self.is_printed

    @property
    def has_finished_training(self) -> bool:
        """Whether training is over, according to the trainer: it reported the end, or the last of its steps."""
        is_at_end = self.step is not None and self.step == self.total_steps and not self.is_listening
        is_at_end = is_at_end and not self.is_printed
        return self.is_finished or is_at_end

    @property
    def notice_s(self) -> float | None:
        """How long the trainer needs to finish a step and save; None when it does not listen."""
        return self.longest_step_s + self.longest_save_s if self.is_listening else None

    @property
    def remaining_s(self) -> float | None:
        """Time until `total_steps` at the present rate; else an estimate."""
        if not self.has_reported_total:
            return self.estimated_s
        if self.step is None or self.total_steps is None or not self.steps_per_s:
            return None
        return max(0.0, (self.total_steps - self.step) / self.steps_per_s)

    @property
    def live(self) -> LiveProgress:
        """The part that other commands see."""
        return LiveProgress(
            silent_s=self.silent_s,
            stalled_s=self.stalled_s,
            last_step_at=self.last_step_at,
            steps_per_s=_storable(self.steps_per_s),
            remaining_s=_storable(self.remaining_s),
            is_estimate=not self.has_reported_total,
        )


def _storable(number: float | None) -> float | None:
    """The number, if a stored record can hold it: a script that trains forever may report any total."""
    return number if number is not None and abs(number) <= LONGEST_S else None


class _Kind:
    """How many steps of a kind there will be, and what one is; None: not known."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.unit: str | None = None

    def note(self, total: float | None, unit: str | None) -> None:
        """Take in what was reported, if anything was."""
        if total is not None and math.isfinite(total):
            self.total = int(total)
        self.unit = unit or self.unit


class ProgressMeter:
    """Makes Progress of looks. Instants are monotonic seconds."""

    _SMOOTHING_S = 10.0  # the rate is that of about the last ten seconds

    def __init__(self) -> None:
        self.progress = Progress()
        self._step_seen_at: float | None = None
        self._reports_steps = False  # else those that were counted will do
        self._counts_steps = False  # else those that were printed
        self._tracked_step: int | None = None
        self._reported, self._counted, self._tracked, self._printed = _Kind(), _Kind(), _Kind(), _Kind()
        self._shown: _Kind | None = None  # that the last step was of
        self._values: dict[str, float] = {}  # last ones, but for those that were sampled
        self._sampled: dict[str, float] = {}
        self._losses: Counter[str] = Counter()  # points of other training losses

    @property
    def sampled_losses(self) -> Collection[str]:
        """The names of losses that were sampled."""
        return self._sampled.keys()

    def observe(self, batch: Batch, now: float) -> None:
        """Take in what a look at `now` brought."""
        old = self.progress
        counted = old.counted_step if batch.counted_step is None else batch.counted_step
        changes: dict[str, object] = {"counted_step": counted}
        since = None if self._step_seen_at is None else now - self._step_seen_at
        if batch.checkpoints and since is not None and not old.is_paced:
            changes["longest_save_s"] = max(old.longest_save_s, since)
        step = self._step(batch)
        kind = self._note_kinds(batch)
        changes |= {"total_steps": kind.total, "step_unit": kind.unit}
        if step is not None:
            changes["is_printed"] = kind in {self._tracked, self._printed}
            if since is not None:
                if not old.is_paced:
                    changes["longest_step_s"] = max(old.longest_step_s, since)
                # steps of another kind do not give the rate of these
                changes["steps_per_s"] = self._rate(old, step, since) if kind is self._shown else None
            self._shown = kind
            changes["step"] = step
            self._step_seen_at = now
        if batch.series or batch.sampled:
            changes["metrics"] = self._metrics(batch)
        if batch.listening is not None:
            changes |= {"is_listening": True, "is_finished": False, **_pace(batch.listening)}
        if batch.is_finished:
            changes |= {"is_finished": True, "is_listening": False}
        before = old.step if batch.finished_step is None else batch.finished_step
        if step is not None and before is not None and step > before:
            changes["is_finished"] = False  # it trains on, in a way that is not announced
        if batch.resume_option is not None:
            changes["resume_option"] = batch.resume_option.option
        self.progress = msgspec.structs.replace(old, **changes)

    def note_estimate(self, remaining_s: float | None) -> None:
        """Take in the remaining time, estimated from what the script prints."""
        self.progress = msgspec.structs.replace(self.progress, estimated_s=remaining_s)

    def note_life(self, *, silent_s: float, stalled_s: float | None, last_step_at: datetime | None) -> None:
        """Take in what was seen of its signs of life."""
        self.progress = msgspec.structs.replace(
            self.progress, silent_s=silent_s, stalled_s=stalled_s, last_step_at=last_step_at
        )

    def _metrics(self, batch: Batch) -> dict[str, float]:
        """The last value of each metric; a sampled loss only where no other is reported."""
        self._values |= {name: series.values[-1] for name, series in batch.series.items()}
        self._sampled |= {name: series.values[-1] for name, series in batch.sampled.items()}
        for name in replaced_samples(batch.sampled):
            self._sampled.pop(name, None)
        self._losses.update({name: len(each.steps) for name, each in batch.series.items() if is_training_loss(name)})
        has_curve = has_loss_curve(self._losses, self._sampled)
        return dict(self._values) if has_curve else self._sampled | self._values

    def _step(self, batch: Batch) -> int | None:
        """The newest step in it, of the best kind that there has been so far."""
        self._reports_steps = self._reports_steps or batch.last_step is not None
        self._counts_steps = self._counts_steps or batch.counted_step is not None
        if self._reports_steps:
            return batch.last_step
        if self._counts_steps:
            return batch.counted_step
        if batch.tracked_step is not None:
            self._tracked_step = max(self._tracked_step or 0, batch.tracked_step)
            return self._tracked_step
        return batch.printed_step if self._tracked_step is None else None

    def _note_kinds(self, batch: Batch) -> "_Kind":
        """Note totals and units; gives those of the kind of steps that is shown."""
        self._counted.note(batch.counted_total, batch.counted_unit)
        by_origin = {Origin.TRACKED: self._tracked, Origin.PRINTED: self._printed}
        by_origin.get(batch.origin, self._reported).note(batch.last("total_steps"), batch.unit)
        if self._reports_steps:
            return self._reported
        if self._counts_steps:
            return self._counted
        return self._printed if self._tracked_step is None else self._tracked

    def _rate(self, old: Progress, step: int, since_s: float) -> float | None:
        if old.step is None or since_s <= 0 or step < old.step:
            return old.steps_per_s
        now_rate = (step - old.step) / since_s
        if old.steps_per_s is None:
            return now_rate
        weight = min(1.0, since_s / self._SMOOTHING_S)
        return old.steps_per_s * (1 - weight) + now_rate * weight


def _pace(listening: Listening) -> dict[str, object]:
    """The pace of a trainer that measures itself; empty for one that does not."""
    if listening.longest_step_s is None and listening.longest_save_s is None:
        return {}
    return {
        "is_paced": True,
        "longest_step_s": listening.longest_step_s or 0.0,
        "longest_save_s": listening.longest_save_s or 0.0,
    }
