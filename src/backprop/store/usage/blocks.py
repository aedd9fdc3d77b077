"""The lines of session-N.usage: some samples each, as columns. Pure: samples in, bytes out, and back.

    {"since":20.1,"until":30.4,"count":10,"values":{"cpu":[152,149,...],"ram":5120,"gpu0/util":[97,null,...]}}

The samples are spread evenly over (since, until], in seconds of training since the session began. A column with the
same value in all of them is that value; one that is not there is not known. Sizes are megabytes, rates kilobytes a
second: see `Unit.stored`. Each line stands for itself, so that a torn one loses no other.
"""

from array import array
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import msgspec

from backprop.records import StoredRecord
from backprop.store.files import UNDECODABLE
from backprop.store.usage.quantities import CARD, card_and_part, quantity, unit_of

MAX_SAMPLES = 100  # in a line; ours have twenty
_MAX_COLUMNS = 500  # ours have ten for a card
_GREATEST = 1e18  # no quantity comes near it; a greater one is damage
_LONGEST_S = 1e9  # no session comes near it

Sample = Mapping[str, float]  # name -> value, in the units of `Quantity`
_Column = list[float | None]


class Block(StoredRecord, frozen=True):
    """Samples that follow one another."""

    since: float  # seconds of training
    until: float
    count: int
    values: dict[str, float | list[float | None]]


_decode = msgspec.json.Decoder(Block).decode
_encode = msgspec.json.Encoder().encode


def encode(since_s: float, until_s: float, samples: Sequence[Sample]) -> bytes:
    """A line of these samples, oldest first."""
    values: dict[str, int | list[int | None]] = {}
    for name in dict.fromkeys(name for sample in samples for name in sample):
        unit = unit_of(name).stored
        column = [None if (value := sample.get(name)) is None else round(value / unit) for sample in samples]
        first = column[0]
        values[name] = first if first is not None and column.count(first) == len(column) else column
    block = {"since": round(since_s, 2), "until": round(until_s, 2), "count": len(samples), "values": values}
    return _encode(block) + b"\n"


class Total(NamedTuple):
    """What a quantity adds up to: the columns of the table `usage`, in this order."""

    seconds: float  # for which it is known
    sum: float  # of value times seconds
    peak: float
    points: int
    last: float

    @property
    def mean(self) -> float:
        """Weighted by time."""
        return self.sum / self.seconds

    def joined(self, later: "Total") -> "Total":
        """What this and what came later add up to."""
        return Total(
            self.seconds + later.seconds,
            self.sum + later.sum,
            max(self.peak, later.peak),
            self.points + later.points,
            later.last,
        )


def totals(data: bytes) -> dict[str, Total]:
    """What whole lines add up to, by name. A line that is torn or makes no sense is left out."""
    found: dict[str, Total] = {}
    for block in _blocks(data):
        each_s = (block.until - block.since) / block.count
        for name, column in _columns(block).items():
            known = [value for value in column if value is not None]
            if known:
                total = Total(len(known) * each_s, sum(known) * each_s, max(known), len(known), known[-1])
                found[name] = found[name].joined(total) if name in found else total
    return found


class Moment(NamedTuple):
    """One sample as it was stored."""

    at_s: float  # its end, in seconds of training since the session began
    seconds: float  # that it stands for
    values: Sample


def moments(data: bytes) -> Iterator[Moment]:
    """The samples in whole lines, oldest first."""
    for block in _blocks(data):
        each_s = (block.until - block.since) / block.count
        columns = _columns(block)
        for number in range(block.count):
            values = {name: value for name, column in columns.items() if (value := column[number]) is not None}
            yield Moment(block.since + (number + 1) * each_s, each_s, values)


def curve(data: bytes, name: str) -> tuple["array[float]", "array[float]"]:
    """One quantity in whole lines: the seconds of training at the end of each sample, and the values that are known."""
    seconds, values = array("d"), array("d")
    for block in _blocks(data):
        each_s = (block.until - block.since) / block.count
        for number, value in enumerate(_columns(block, name).get(name, ())):
            if value is not None:
                seconds.append(block.since + (number + 1) * each_s)
                values.append(value)
    return seconds, values


def _blocks(data: bytes) -> Iterator[Block]:
    for line in data.split(b"\n"):
        if not line:
            continue
        try:
            block = _decode(line)
        except UNDECODABLE:
            continue  # torn by a full disk or a kill
        if _is_sound(block):
            yield block


def _is_sound(block: Block) -> bool:
    return (
        0 <= block.since < block.until <= _LONGEST_S
        and 0 < block.count <= MAX_SAMPLES
        and len(block.values) <= _MAX_COLUMNS
        and all(not isinstance(column, list) or len(column) == block.count for column in block.values.values())
    )


def _columns(block: Block, only: str | None = None) -> dict[str, _Column]:
    """The columns of a line in the units of `Quantity`, with what the cards amount to; of several cards each one's.

    only: the one that is wanted, and what it is made of.
    """
    wanted = None if only is None else quantity(only)
    found: dict[str, _Column] = {}
    cards: dict[str, dict[str, _Column]] = defaultdict(dict)  # part -> card -> its column
    for name, stored in block.values.items():
        known, parts = quantity(name), card_and_part(name)
        if known is None or wanted not in {None, known}:  # the former: of a newer version
            continue
        values = stored if isinstance(stored, list) else [stored] * block.count
        column: _Column = [_value(value, known.unit.stored) for value in values]
        if parts is None:
            found[name] = column
        else:
            cards[parts[1]][parts[0]] = column
    for part, columns in cards.items():
        whole, joined = CARD[part]
        rows = zip(*columns.values(), strict=True)
        # with one card unknown, all of them together are, too
        found[whole.name] = [None if None in row else joined(value or 0.0 for value in row) for row in rows]
        if len(columns) > 1:
            found |= {f"{card}/{part}": column for card, column in columns.items()}
    return found


def _value(stored: float | None, unit: float) -> float | None:
    return None if stored is None or not 0 <= stored * unit <= _GREATEST else stored * unit
