"""What a sweep searches: ranges and lists of parameters, as people write them."""

import math
import random
import re
from collections.abc import Sequence
from itertools import product

from backprop.errors import UsageError
from backprop.records import LONGEST_S, StoredRecord

MAX_GRID = 10_000  # combinations of a grid
GREATEST = LONGEST_S  # what a stored record holds

_RANGE = re.compile(r"(?P<low>[^,:]+?)\.\.(?P<high>[^,:]+)(?P<log>:log)?")
_INTEGER = re.compile(r"[+-]?\d+")
_DIGITS = 6  # of a sampled number, so that a command line stays readable


class Parameter(StoredRecord, frozen=True):
    """One parameter: the numbers from low to high, both included, or a list of choices."""

    name: str
    low: float = 0.0
    high: float = 0.0
    is_integer: bool = False
    is_log: bool = False  # searched on a logarithmic scale
    choices: tuple[str, ...] = ()  # not empty: one of these, as they are passed to the script

    def text(self, value: float) -> str:
        """A number of the range as it is passed to the script, never outside the range."""
        if self.is_integer:
            return str(round(value))
        text = f"{value:.{_DIGITS}g}"
        return text if self.low <= float(text) <= self.high else repr(value)

    def sample(self, rng: random.Random) -> str:
        """A value drawn at random, as it is passed to the script."""
        if self.choices:
            return rng.choice(self.choices)
        if self.is_integer and not self.is_log:
            return str(rng.randint(int(self.low), int(self.high)))
        if not self.is_log:
            return self.text(rng.uniform(self.low, self.high))
        half = 0.5 if self.is_integer else 0.0  # so that the integers at both ends are as likely as their neighbours
        value = math.exp(rng.uniform(math.log(self.low - half), math.log(self.high + half)))
        return self.text(min(max(value, self.low), self.high))

    def problem(self, text: str) -> str | None:
        """Why a value that somebody proposes is not one of this parameter's; None: it is."""
        if self.choices:
            return None if text in self.choices else f"expected one of {', '.join(self.choices)}"
        number = _number(text)
        is_of_kind = not self.is_integer or _INTEGER.fullmatch(text) is not None
        if number is None or not self.low <= number <= self.high or not is_of_kind:
            kind = "an integer" if self.is_integer else "a number"
            return f"expected {kind} from {self.text(self.low)} to {self.text(self.high)}"
        return None


def option_words(name: str, text: str) -> tuple[str, ...]:
    """A value as an option of the script; with `=` where it could be taken for an option itself, such as -1e-05."""
    return (f"--{name}={text}",) if text.startswith("-") else (f"--{name}", text)


def parse_parameter(text: str) -> Parameter:
    """A parameter from `lr=1e-3..0.3:log`, `layers=1..4` or `hidden=32,64,128`. Raises UsageError.

    A range is of integers if both its ends are written as integers.
    """
    name, _, values = text.partition("=")
    name = name.strip().lstrip("-")
    if not name or not values:
        raise _invalid(text, "expected NAME=LOW..HIGH, NAME=LOW..HIGH:log or NAME=VALUE,VALUE,...")
    found = _RANGE.fullmatch(values)
    low, high = (_number(found["low"]), _number(found["high"])) if found else (None, None)
    if found is None or low is None or high is None:
        return _listed(text, name, values)
    if low >= high:
        raise _invalid(text, f"{found['low']} is not below {found['high']}")
    if max(-low, high) > GREATEST:
        raise _invalid(text, f"a range ends at {GREATEST:g} or before")
    if found["log"] and low <= 0:
        raise _invalid(text, "a logarithmic range starts above 0")
    is_integer = all(_INTEGER.fullmatch(found[end]) for end in ("low", "high"))
    return Parameter(name=name, low=low, high=high, is_integer=is_integer, is_log=found["log"] is not None)


def _listed(text: str, name: str, values: str) -> Parameter:
    choices = tuple(values.split(","))
    if len(choices) < 2 or not all(choices):
        raise _invalid(text, "expected a range (LOW..HIGH) or at least two values (VALUE,VALUE)")
    if len(set(choices)) < len(choices):
        raise _invalid(text, "a value occurs twice")
    return Parameter(name=name, choices=choices)


def parse_parameters(texts: Sequence[str]) -> tuple[Parameter, ...]:
    """All parameters of a sweep. Raises UsageError, also where a name occurs twice."""
    parameters = tuple(parse_parameter(text) for text in texts)
    names = [parameter.name for parameter in parameters]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"--param {name} is given twice.")
    return parameters


def grid(parameters: Sequence[Parameter]) -> list[dict[str, str]]:
    """All combinations of the values. Raises UsageError for a range of fractions, and for too many combinations."""
    values = [_all_values(parameter) for parameter in parameters]
    size = math.prod(map(len, values))
    if size > MAX_GRID:
        raise UsageError(f"the grid has {size:,} combinations (limit {MAX_GRID:,}). Use another --sampler.")
    names = [parameter.name for parameter in parameters]
    return [dict(zip(names, combination, strict=True)) for combination in product(*values)]


def _all_values(parameter: Parameter) -> Sequence[str]:
    if parameter.choices:
        return parameter.choices
    if not parameter.is_integer:
        example = ",".join(parameter.text(value) for value in (parameter.low, parameter.high))
        raise UsageError(f"a grid needs a list of values for {parameter.name}, such as {parameter.name}={example}.")
    numbers = range(int(parameter.low), int(parameter.high) + 1)
    if len(numbers) > MAX_GRID:
        raise UsageError(f"the grid has {len(numbers):,} values of {parameter.name} (limit {MAX_GRID:,}).")
    return [str(number) for number in numbers]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) and "_" not in text else None


def _invalid(text: str, problem: str) -> UsageError:
    return UsageError(f"invalid --param {text!r}: {problem}.")
