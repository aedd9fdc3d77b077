"""How far a training is, by a line that a script prints for people: its step and epoch.

Text enters, records leave; nothing here can fail.
"""

import math
import re
from typing import Any

from backprop.records import Record
from backprop.store.output.expressions import later
from backprop.store.output.printed_names import words

_MAX_COUNT = 1 << 53


class Printed(Record, frozen=True):
    """What was printed at once; without metrics it may still be progress."""

    values: dict[str, float]
    step: int | None = None  # counted over the whole training
    total_steps: int | None = None
    epoch: float | None = None
    epochs: int | None = None  # in all
    epoch_step: int | None = None  # counted in the epoch: batches or samples
    epoch_steps: int | None = None  # in one epoch
    unit: str | None = None  # what one step is, if the line says so


# no part of a number, of a decimal one, or of a share: 10 of 100, 10.5, 1e5, 10%; but "Step: 15000." is a count
_COUNT = r"(\d[\d,]*)(?![\d,]*\d|\.\d|\.?[eE]|[\d.]*%)"
# behind that, how many there are in all; 3/4/10 is no such thing
_OF_ALL = r"(?:\s{0,9}(?:/|of)\s{0,9}(\d[\d,]*)(?![\d,]*[\d/]))?"
# between a name and its count; bounded, since a line full of spaces would be tried with each of their divisions
_SIGN = r"\s{0,9}[:=#]?\s{0,9}\[?\(?\s{0,9}"
_BEGIN = r"(?<![\w./-])"
_STEP = later(
    rf"{_BEGIN}(?:(?:global|train|training|optimizer)[ _])?"
    r"(?:steps?|iters?|iterations?|it[es]?|updates?|up\.|num_updates|total_timesteps|timesteps?|episodes?|rounds?|generation)"
    rf"{_SIGN}{_COUNT}{_OF_ALL}",
    re.IGNORECASE,
)
# Paddle calls an epoch a pass; where an iteration has steps, it is one
_EPOCH = later(
    rf"{_BEGIN}(?:(?:epoch|ep\.?)(?:\((?:train|val)\))?|pass(?=\s\d+,\s(?:batch|cost)\b)"
    r"|iteration(?=[:\s]\s?\d+,?\s{1,3}step[:\s]\s?\d+/))"
    rf"{_SIGN}(\d+(?:\.\d+)?)(?![\d.]*[eE%])(?:\s{{0,9}}(?:/|of)\s{{0,9}}(\d+))?",
    re.IGNORECASE,
)
_EPOCH_BEHIND = later(rf"{_BEGIN}(\d+)epoch:\w+:\d+-(\d+)batch:")  # ESPnet: 1epoch:train:683-1364batch:
# Train: 0 [  50/1251 (  4%)]; Train: [14/300][250/1251]; Train:    1/3 ( 33%) [  49/323 ( 15%)]
_TIMM = later(
    r"(?:^|\s)(?:Train|Test|Eval|Val)\w{0,9}:?\s{1,9}\[?(\d+)(?:/(\d+))?\]?\s{0,9}(?:\(\s{0,3}\d+%\)\s{0,9})?\[",
    re.IGNORECASE,
)
_COUNT_OF_ALL = later(r"^(\d+)/(\d+): ")  # keras-rl
# XGBoost and LightGBM, CatBoost; LightGBM in R
_ROUND = later(r"^\[(\d+)\](?=\t|:\s)|^(\d+):(?=\t|\s{2,9}learn:)")
_IN_BRACKETS = later(r"(?:^| - )\[(\d+)\](?= [A-Za-z][\w ]{0,40}(?:=|: ?| )\s?[-+\d])")  # [499] err = 0.9
_GLOBAL_STEP = later(
    rf"{_BEGIN}(?:global[_ ]step|num_updates|nupdates|(?:env|policy)_steps?|(?:total|num)_timesteps)"
    r"\s{0,9}[:=]?\s{0,9}(\d[\d,]*)(?:\.0*)?(?![\w.])",
    re.IGNORECASE,
)
# tqdm's; one that has another description is of something else
_BAR = later(
    r"^(?:(?:epochs?|train|training|steps?|iters?)\b.*?)?\s{0,9}\d{1,3}%\|[^|]*\|\s*(\d+)/(\d+)\s*\[", re.IGNORECASE
)
_PLURAL = later(r"(?:steps|iters|iterations|epochs|rounds|episodes|updates)\s*[:=]", re.IGNORECASE)
# counted in an epoch, by a word: Batch [350], iters: 100; by nothing: 2000 / 8223, [640/60000 (1%)]
_BATCH = later(rf"{_BEGIN}batch{_SIGN}{_COUNT}{_OF_ALL}|{_BEGIN}iters:\s{{0,9}}{_COUNT}", re.IGNORECASE)
_INNER = later(r"(?<![\w./-])(\d{1,15})\s{0,3}/\s{0,9}(\d{1,15})(?![\w./])(?!\s\d{1,2}:\d\d)")
# what such a count is of, if it is no epoch: Patience 0/50, Fold 1/5
_OF_STOPPING = later(r"(?:patience|counter|stopping|fold)$", re.IGNORECASE)
# before metrics: [3/25][150/781], an epoch and its batch; Keras' bars of an epoch
_EPOCH_AND_BATCH = later(r"\[(\d{1,9})/(\d{1,9})\]\s?\[\s{0,9}(\d{1,9})/(\d{1,9})\]")
_BAR_OF_KERAS = later(r"\s{0,9}(\d{1,15})/(\d{1,15}) (?:\[=*>?\.*\]|\N{BOX DRAWINGS HEAVY HORIZONTAL}+)\s")

_UNITS = {
    "env_step": "environment step",
    "timestep": "environment step",
    "optimizer": "optimizer step",
    "iter": "iteration",
    "up": "update",
    "episode": "episode",
    "round": "round",
    "generation": "generation",
}


def count(text: str | None) -> int | None:
    """The number that is printed, with commas between thousands or not; None for none, or one that is too large."""
    if text is None:
        return None
    counted = int(text.replace(",", ""))
    return counted if counted <= _MAX_COUNT else None


def as_number(item: Any) -> float | None:
    """The number that this is, or that it is the text of; None for anything else."""
    if isinstance(item, bool) or not isinstance(item, (int, float, str)):
        return None
    try:
        return float(item)
    except (ValueError, OverflowError):
        return None


def as_count(value: float | None) -> int | None:
    """The same as a count; None if it is none."""
    is_whole = value is not None and math.isfinite(value) and value == int(value) and abs(value) <= _MAX_COUNT
    return int(value) if value is not None and is_whole else None


def is_bar(line: str) -> bool:
    """Whether it is a progress bar of a training."""
    return _BAR.search(line) is not None


def position(line: str) -> dict[str, Any]:
    """The fields of Printed that are progress."""
    step = total = epoch = epochs = inner = inners = unit = None
    rest = line  # without the epoch
    if found := _EPOCH.search(line) or _TIMM.search(line):
        epoch, epochs = float(found[1]), count(found[2])
        rest = f"{line[: found.start()]}\n{line[found.end() - (found.re.pattern == _TIMM.pattern) :]}"
    elif found := _EPOCH_BEHIND.search(line):
        epoch, inner = float(found[1]), count(found[2])
    if found := _GLOBAL_STEP.search(line) or _ROUND.search(line) or _IN_BRACKETS.search(line):
        step = count(next(filter(None, found.groups())))
        unit = (
            _unit(found[0])
            if found.re.pattern == _GLOBAL_STEP.pattern
            else "round"
            if found.re.pattern == _ROUND.pattern
            else None
        )
    elif (found := _BAR.search(line) or _COUNT_OF_ALL.search(line)) or (found := _step(rest)):
        step, total = count(found[1]), count(found[2])
        if epoch is not None and total is not None:  # that of the epoch
            inner, inners, step, total = step, total, None, None
        unit = _unit(found[0]) if step is not None and found.re.pattern == _STEP.pattern else None
    if inner is None:
        inner, inners = _in_epoch(rest, has_epoch=epoch is not None)
    return {
        "step": step,
        "total_steps": total,
        "epoch": epoch,
        "epochs": epochs,
        "epoch_step": inner,
        "epoch_steps": inners,
        "unit": unit,
    }


def _step(line: str) -> re.Match[str] | None:
    """A step by its word. `steps: 1000` is a setting."""
    found = _STEP.search(line)
    return None if found is None or _PLURAL.match(line, found.start()) else found


def position_before_metrics(line: str) -> dict[str, Any]:
    """The fields of Printed that a line of metrics begins with, which would be something else on another line.

    A step in the plural (`iterations: 100, training error: 0.2`), an epoch and its batch (`[3/25][150/781]`), a bar of
    Keras.
    """
    if (found := _STEP.match(line)) is not None:
        return {"step": count(found[1])}
    if (found := _EPOCH_AND_BATCH.match(line)) is not None:
        inner, inners = _part(found[3], found[4])
        return {"epoch": float(found[1]), "epochs": count(found[2]), "epoch_step": inner, "epoch_steps": inners}
    if (found := _BAR_OF_KERAS.match(line)) is not None:
        inner, inners = _part(found[1], found[2])
        return {"epoch_step": inner, "epoch_steps": inners}
    return {}


def _in_epoch(line: str, *, has_epoch: bool) -> tuple[int | None, int | None]:
    """How far an epoch is, and how long it is; without an epoch on the line, only if it counts batches."""
    if (found := _BATCH.search(line)) is not None and (has_epoch or found[1]):
        return _part(found[1] or found[3], found[2])
    for found in _INNER.finditer(line) if has_epoch else ():
        before = line[: found.start()].rstrip()
        if not before.endswith((":", "=")) and not _OF_STOPPING.search(before):
            return _part(found[1], found[2])
    return None, None


def _part(done: str, of: str | None) -> tuple[int | None, int | None]:
    inner, inners = count(done), count(of)
    return (inner, inners) if inner is None or inners is None or 0 < inners >= inner else (None, None)


def _unit(text: str) -> str | None:
    """What is counted, by the words in front of the number; None for a mere step, which may be anything."""
    return next((unit for word, unit in _UNITS.items() if word in text.lower()), None)


# -- headings

MAX_UNDER_HEADING = 8192  # bytes of output that a heading is of
_STAMP = later(r"^[\[(]?\d{2,4}[-/]\d\d[-/]\d\d[T ,]\d\d:\d\d:\d\d[.,\d]*[\])]?:?\s")
_SEGMENT = later(r" - |\] |\| |: |, |> ")
_GROUP = later(r"[\[(<][^()\[\]<>]*[\])>]")
_BEFORE = words(
    "begin beginning current evaluating evaluation finished learning new now running start starting train training"
)
_BEHIND = words("begin begins done finished results started starts")
_ASCII_WORD = later(r"[A-Za-z]+|\d")


class Heading(Record, frozen=True):
    """The position of the lines that follow."""

    fields: dict[str, Any]  # of Printed
    end: int  # offset in the output; it is of nothing behind that


def heading(line: str) -> dict[str, Any] | None:
    """The position that a line consists of, for the lines below it: `----- Step 15104 -----`; None for others.

    `Step 1: install dependencies` is none.
    """
    text = _STAMP.sub("", line.strip())
    spans = [each.span() for pattern in (_EPOCH, _GLOBAL_STEP, _STEP) for each in pattern.finditer(text)]
    if not spans or any(_PLURAL.match(text, begin) for begin, _ in spans):
        return None
    begin = min(spans)[0]
    before = _ASCII_WORD.findall(_SEGMENT.split(text[:begin])[-1].lower())
    behind = list(text)
    for first, end in spans:
        behind[first:end] = " " * (end - first)
    others = _ASCII_WORD.findall(_GROUP.sub("", "".join(behind[begin:]).lower()))
    if not (_BEFORE.issuperset(before) and _BEHIND.issuperset(others)):
        return None
    fields = position(text)
    return fields if fields["step"] is not None or fields["epoch"] is not None else None
