"""How long a training will still take, guessed from what it prints: progress bars, `Epoch 3/10`, `step 120/1000`.

Many counters are not of the whole training: bars of an epoch or of a validation start again, and a bar of a
preparation ends before training begins. Rather no estimate than a false one: a counter is used only if something shows
that it counts all of the training, and no other one of its rank contradicts. Text enters, seconds leave.

Many scripts print `Epoch: 3 [640/60000 (1%)]` and take the number of epochs as a parameter: then that is the total.
"""

import re
from collections.abc import Mapping

from backprop.store.output.expressions import later
from backprop.store.output.printed import MAX_LINE, parse
from backprop.store.output.printed_position import Printed

_SMOOTHING_S = 30.0  # the rate is that of about the last half minute
_MAX_COUNTERS = 100  # more are forgotten: a label may hold anything
_MAX_LABEL = 60

_BAR = re.compile(rb"(?:^|[\r\n])([^\r\n%|]*?)(?<!\d)\d{1,3}%\|[^\r\n|]*\|\s*(\d{1,15})/(\d{1,15})\s*\[\d+:\d\d")
_ANSI = later(r"\x1b\[[0-9;?]*[ -/]*[@-~]")
# spaces are bounded: a line full of them would be tried with each of their divisions
_COUNT = later(
    r"(?<![\w./-])(epoch|step|iter|iteration|round|update)s?"
    r"\s{0,9}[:=#]?\s{0,9}[\[(]?\s{0,9}(\d{1,15})\s*(?:/|of)\s*(\d{1,15})(?![\d.])",
    re.IGNORECASE,
)
_EPOCH = "epoch"
_NUMBERS_OF_EPOCHS = {"epochs", "num_epochs", "n_epochs", "max_epochs", "num_train_epochs"}  # names of parameters
_INNER = later(r"(?<![\w./-])(\d{1,15})/\s{0,9}(\d{1,15})(?![\w./])")  # how far an epoch is


def end_of_lines(data: bytes) -> int:
    """Where the last complete line ends: a number may continue after that."""
    return max(data.rfind(b"\n"), data.rfind(b"\r")) + 1


def _inner(line: str) -> tuple[int, int] | None:
    """How far an epoch is: `[640/60000 (1%)]`, `200/2983 batches`."""
    found = _INNER.search(line)
    done, of = (int(found[1]), int(found[2])) if found is not None else (0, 0)
    return (done, of) if 0 < of >= done else None


class _Counter:
    """One thing that is counted up to a total. Instants are monotonic seconds."""

    def __init__(self, total: int, done: float, now: float, *, slack: float, counted_step: int | None = None) -> None:
        """slack: by so much it may go back without a restart. counted_step: optimizer steps when it was first seen."""
        self.total = total
        self.done = self._done_before = done
        self.first_counted = counted_step
        self._slack = slack
        self.has_restarted = False
        self.rate: float | None = None  # of `done`, a second
        self._seen_at = self._moved_at = now

    def note(self, done: float) -> None:
        """It was printed that so much is done."""
        self.has_restarted = self.has_restarted or done < self.done - self._slack
        self.done = max(done, self.done)

    def settle(self, now: float) -> None:
        """All that was printed until now was noted."""
        if self.done > self._done_before:
            if now > self._moved_at:
                since_s = now - self._moved_at
                weight = min(1.0, since_s / min(_SMOOTHING_S, now - self._seen_at))
                self.rate = (self.done - self._done_before) / since_s * weight + (self.rate or 0.0) * (1 - weight)
            self._done_before, self._moved_at = self.done, now

    def remaining_s(self, now: float) -> float | None:
        """Time until its end, at its rate; None before it has moved, and when it is over: what follows is not in it."""
        if not self.rate or self.done >= self.total:
            return None
        return max(0.0, (self.total - self.done) / self.rate - (now - self._moved_at))


class Outlook:
    """The estimate for one session."""

    def __init__(self) -> None:
        self._epochs: dict[int, _Counter] = {}  # by total
        self._bars: dict[tuple[str, int], _Counter] = {}  # by label and total
        self._steps: dict[int, _Counter] = {}  # printed lines with metrics, by total
        self._whole: dict[int, bool] = {}  # totals of bars outside of loops -> whether optimizer steps are counted
        self._mentions_epochs = False
        self._epochs_given: set[int] = set()  # by parameters
        self._first_epoch: int | None = None  # that was printed without a total

    def params_given(self, params: Mapping[str, object]) -> None:
        """Parameters of the script, which may say how many epochs there will be."""
        numbers = {value for name, value in params.items() if name.rpartition(".")[2] in _NUMBERS_OF_EPOCHS}
        self._epochs_given |= {number for number in numbers if type(number) is int and number > 0}

    def bar_began(self, total: int, *, has_optimizer: bool) -> None:
        """A bar was made by the script, outside of any loop. has_optimizer: optimizer steps of the script are seen."""
        if len(self._whole) < _MAX_COUNTERS:
            self._whole[total] = has_optimizer

    def read(self, data: bytes, now: float, counted_step: int | None) -> None:
        """Take in output that begins with a line. counted_step: optimizer steps so far, where they are counted."""
        for found in _BAR.finditer(data):
            label = _ANSI.sub("", found[1].decode(errors="replace")).strip()[-_MAX_LABEL:]
            self._see_bar(label, int(found[2]), int(found[3]), now, counted_step)
        for line in re.split(rb"[\r\n]", data[: end_of_lines(data)]):
            has_total = b"/" in line or b" of " in line or (self._epochs_given and b"poch" in line)
            is_bar = b"%|" in line and _BAR.search(line) is not None
            if len(line) <= MAX_LINE and has_total and not is_bar:
                self._see_line(line.decode(errors="replace"), now)
        self._mentions_epochs |= b"poch" in data
        for counter in (*self._epochs.values(), *self._bars.values(), *self._steps.values()):
            counter.settle(now)

    def _see_bar(self, label: str, done: int, total: int, now: float, counted_step: int | None) -> None:
        count = _COUNT.search(label)
        if count is not None and count[1].lower() == _EPOCH:  # the bar is of an epoch whose number is known
            self._see_epoch(int(count[2]) - 1 + (done / total if total else 0.0), int(count[3]), now)
        elif re.match(r"epochs?\b[^\d]*$", label, re.IGNORECASE):
            self._see_epoch(done, total, now)
        else:
            key = (re.sub(r"[\d.]+", "", label), total)
            if key in self._bars or len(self._bars) < _MAX_COUNTERS:
                bar = _Counter(total, done, now, slack=0.0, counted_step=counted_step)
                self._bars.setdefault(key, bar).note(done)

    def _see_line(self, line: str, now: float) -> None:
        counts, rest = {}, line  # what follows the epoch
        for found in _COUNT.finditer(line):
            counts[found[1].lower()] = int(found[2]), int(found[3])
            rest = line[found.end() :] if found[1].lower() == _EPOCH else rest
        if not counts and not self._epochs_given:
            return
        printed = parse(line)
        if _EPOCH not in counts and len(self._epochs_given) == 1 and printed is not None and printed.epoch is not None:
            self._see_epoch_of_given(int(printed.epoch), line, printed, now)
        has_metrics = printed is not None and bool(printed.values)
        if _EPOCH in counts:
            number, total = counts.pop(_EPOCH)
            inner = next(iter(counts.values()), None) or _inner(rest)
            if inner is not None:  # Epoch [3/10], Step [100/600]; Epoch [3/10]: [100/600]
                self._see_epoch(number - 1 + (inner[0] / inner[1] if inner[1] else 0.0), total, now)
            else:  # a heading, or a line within the epoch; with metrics alone, what the epoch came to
                is_over = has_metrics and printed is not None and printed.step is None
                self._see_epoch(number if is_over else number - 1, total, now)
        elif len(counts) == 1 and has_metrics:
            done, total = next(iter(counts.values()))
            if total in self._steps or len(self._steps) < _MAX_COUNTERS:
                self._steps.setdefault(total, _Counter(total, done, now, slack=0.0)).note(done)

    def _see_epoch_of_given(self, number: int, line: str, printed: Printed, now: float) -> None:
        (total,) = self._epochs_given
        if self._first_epoch is None:
            self._first_epoch = number
        first = self._first_epoch
        # a resumed training may begin at any epoch, so it is not known how it counts
        inner = _inner(line)
        if first <= 1 and number - first < total and (printed.values or inner is not None):
            done, of = (int(printed.step is None), 1) if inner is None else inner
            self._see_epoch(number - first + done / of, total, now)

    def _see_epoch(self, done: float, total: int, now: float) -> None:
        if total in self._epochs or len(self._epochs) < _MAX_COUNTERS:
            # a validation within an epoch counts from its beginning
            self._epochs.setdefault(total, _Counter(total, done, now, slack=1.0)).note(done)

    def remaining_s(self, now: float, counted_step: int | None) -> float | None:
        """Seconds until the training is complete; None if it is unknown, or counters contradict."""
        counter = self._whole_training(counted_step)
        return None if counter is None else counter.remaining_s(now)

    def is_total(self, total: int) -> bool:
        """Whether the training makes this many printed steps in all. Only where no optimizer steps are counted."""
        counter = self._whole_training(None)
        return counter is not None and counter.total == total and counter not in self._epochs.values()

    def is_part(self, total: int) -> bool:
        """Whether a bar with this total is known to cover a part of the training: the script has one for all of it."""
        return bool(self._whole) and total not in self._whole

    def _whole_training(self, counted_step: int | None) -> _Counter | None:
        ranks = (
            list(self._epochs.values()),
            [one for one in self._bars.values() if self._is_whole(one, counted_step)],
            [] if self._mentions_epochs else list(self._steps.values()),
        )
        rank = next(filter(None, ranks), [])
        return rank[0] if len(rank) == 1 and not rank[0].has_restarted else None

    def _is_whole(self, bar: _Counter, counted_step: int | None) -> bool:
        """Whether a bar is known to be none of an epoch, and to be of training. One that is full is over."""
        has_optimizer = self._whole.get(bar.total)
        if has_optimizer is None or bar.done >= bar.total:
            return False
        return not has_optimizer or counted_step not in {None, bar.first_counted}
