"""Metrics and progress from lines that a script prints for people.

Scripts print their losses in many forms: pairs (`iter 100: loss 2.31`), dicts (`{'loss': 0.31}`), progress bars, logged
JSON, tables. Precision over recall: a number is a metric only if its name is one that trainings use, or if the line
holds a step or an epoch and the number is a fraction. Prose gives nothing.

Text enters, records leave; nothing here can fail.
"""

import ast
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import msgspec

from backprop.records import Record
from backprop.store.output import printed_names as names
from backprop.store.output.expressions import later
from backprop.store.output.printed_position import (
    MAX_UNDER_HEADING,
    Heading,
    Printed,
    as_count,
    as_number,
    heading,
    is_bar,
    position,
    position_before_metrics,
)
from backprop.store.output.printed_tables import Tables

MAX_LINE = 2000  # characters; a longer line is not understood
_MAX_LEVELS = 3  # of nested objects
_MAX_NAMES = 1000  # of which is remembered what they are
_MAX_BARS = 100  # totals of bars that are remembered

# -- pairs

_SMALL_WORDS = names.words("a an and at by for in new of on the with")
_WORD = later(r"[A-Za-z][\w@./'+-]*")
_SET = later(r"\W*(eval|evaluation|test|testing|val|valid|validation|dev)\b", re.IGNORECASE)

_NUMBER = later(
    r"(?<![\w.@])[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?!\w)(?!:(?!\s+\d+%\|))|(?<![\w.@])[-+]?(?:nan|inf)\b",
    re.IGNORECASE,
)
# behind a number; of time or memory
_UNIT = later(r"\s?(?:s|ms|us|sec|secs|seconds|min|h|GB|GiB|MB|MiB|[a-z]{0,9}/s|s/[a-z]{1,9})(?=[\s,.;|])")
_DELIMITER = later(
    r"[,;|\t()\[\]{}<>\"]|\s{2,}|\s[-–—/]\s|: |(?<![\w.])[\d.]+(?:\s|(?:s|ms|us|sec|h|GB|GiB|MB|MiB)(?=\s))|%"  # noqa: RUF001  dashes that are printed
)
_REMARK = later(r"\s{0,9}\(([A-Za-z ]{1,20})\)$")  # behind a name: loss (avg)
_OF_TIME = names.words("h hours min ms s sec seconds us")  # such a remark: fwd(ms)
# 2,31 is no 2, and 2,310 may be 2.31: only 2,310.5 and 2,310,000 are certain
_DECIMAL_COMMA = later(r"[-+]?\d+,\d+(?!\d|\.\d|,\d{3})|[-+]?0,\d")
_RATIO = later(r"\s*/\s*(\d+)\b")


class _Pair(Record, frozen=True):
    name: str
    word: str  # the last one of the name, as it was printed
    value: float
    is_explicit: bool  # with a sign between name and number
    is_fraction: bool

    @property
    def is_strong(self) -> bool:
        is_result = self.is_explicit and self.is_fraction and names.is_result_of_a_set(self.name)
        return is_result or names.is_strong(self.word, self.name)

    @property
    def is_of_a_set(self) -> bool:
        """Whether it is called after a set of data, and nothing else: `Train: 0.5455, Val: 0.5342`."""
        return self.name in {"train", "val", "valid", "test", "dev"} and self.is_explicit and self.is_fraction


_GOES_ON = later(r"\.\w|-\d|/\w*[a-z]|%\|")  # behind a number: it is of a file, a date, a rate, a progress bar


def _pairs(line: str) -> Iterator[_Pair]:
    """Each name with a number behind it."""
    begin = 0
    for found in _NUMBER.finditer(line):
        before, begin = line[begin : found.start()], found.end()
        after = line[found.end() : found.end() + 12]
        if unit := _UNIT.match(line, begin):
            begin = unit.end()
        if _GOES_ON.match(after):
            continue
        stripped = before.rstrip().rstrip("'\"")
        sign = stripped[-1:]
        is_explicit = sign in (":", "=") and not stripped.endswith(("==", "!=", "<=", ">=", "::"))
        if not is_explicit and (sign in (":", "=") or not before[-1:].isspace()):
            continue
        named = _name(stripped.rstrip(":= "), is_explicit=is_explicit)
        if named is None:
            continue
        if _DECIMAL_COMMA.match(line, found.start()):
            continue
        text = found[0].replace(",", "")
        value = float(text)
        ratio = _RATIO.match(after)
        if ratio and text.isdigit():
            if not 0 <= value <= float(ratio[1]) or not float(ratio[1]):
                continue
            value /= float(ratio[1])
        yield _Pair(*named, value, is_explicit, not text.lstrip("+-").isdigit())


def _name(before: str, *, is_explicit: bool) -> tuple[str, str] | None:
    """The name at the end of this text, which stands before a number, and its last word."""
    before = before.rstrip("'\" ").removeprefix(". ")
    if (remark := _REMARK.search(before)) is not None:
        if remark[1].lower() in _OF_TIME:
            return None
        before = before[: remark.start()]
        if remark[1].lower() in names.SETS and (named := _name(before, is_explicit=is_explicit)) is not None:
            return f"{remark[1].lower()}_{named[0]}", named[1]  # RMSE (train)
    cuts = [each.end() for each in _DELIMITER.finditer(before)]
    return _named(before[cuts[-1] :] if cuts else before, is_explicit=is_explicit)


@lru_cache(maxsize=_MAX_NAMES)
def _named(segment: str, *, is_explicit: bool) -> tuple[str, str] | None:
    """The same, of the text behind the last delimiter."""
    words = segment.removesuffix(" So Far").split()
    if len(words) > 1 and (words[-1] == "is" or (words[-1] == "value" and names.has_strong_word(words[-2]))):
        del words[-1]
    while len(words) > 1 and words[0].lower() in _SMALL_WORDS:
        del words[0]
    if not words or len(words[-1]) > 60 or not all(map(_WORD.fullmatch, words[-3:])):
        return None
    kept = words[-1:]
    if len(words) <= 3 and is_explicit:
        kept = words
    else:
        for word in reversed(words[-3:-1]):
            if word.lower().removesuffix("'s") not in names.QUALIFIERS:
                break
            kept.insert(0, word)
    kept = [word.removesuffix("'s") for word in kept]
    name = "_".join(kept).strip("._-/'+").lower()
    parts = [part for word in kept for part in names.parts(word)]
    is_of_machine = any(map(names.is_of_machine, kept)) and not names.is_throughput(name)
    if not parts or is_of_machine or parts in (["step"], ["epoch"], ["ep"]):
        return None
    return name, kept[-1]


# -- a line


class Reader:
    """Reads the lines of one source, in the order in which they were printed: tables are named by earlier lines.

    patterns: further regular expressions, each with the groups `name` and `value`, or with a group for each metric; a
    group `step` or `epoch` is the position of the training.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raises re.error for a pattern that is none."""
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._tables = Tables()
        self._before = b""  # the last line
        self._read_bytes = 0
        self._heading: Heading | None = None
        self._under_heading: set[str] = set()  # names of metrics
        self._has_steps_in_headings = True
        self._running_bars: set[int] = set()  # totals of bars that were seen before they were full

    def read(self, data: bytes) -> Iterator[tuple[int, Printed]]:
        """Parse complete lines. Yields (offset of the line's end within `data`, what was parsed)."""
        may_say = _lines_of_interest(data)
        read_bytes, self._read_bytes = self._read_bytes, self._read_bytes + len(data)
        if not (may_say or self._patterns or self._tables.is_open):
            self._before = b""
            return
        end = 0
        for line in data.split(b"\n"):
            begin, end = end, end + len(line) + 1
            before, self._before = self._before, line[:MAX_LINE]
            # of a long line, a progress bar's say, only what it was in the end
            seen = line if len(line) <= MAX_LINE else line.rstrip(b"\r").rpartition(b"\r")[2]
            if not (begin in may_say or self._patterns or self._tables.is_open) or len(seen) > MAX_LINE:
                continue
            text = _shown(seen.decode(errors="replace"))
            parsed = self._of_patterns(text) or self._tables.parse(text, before)
            if parsed is not None:
                parsed = self._placed(parsed, read_bytes + begin)
            elif begin in may_say:
                parsed = self._of_line(text, read_bytes + begin)
            if parsed is not None:
                yield min(end, len(data)), parsed

    def read_unfinished(self, text: str) -> Printed | None:
        """What a line contains that has no end yet: a progress bar."""
        parsed = parse(text)
        if parsed is not None and parsed.total_steps is not None and len(self._running_bars) < _MAX_BARS:
            self._running_bars.add(parsed.total_steps)
        return parsed

    def _of_line(self, text: str, offset: int) -> Printed | None:
        above = self._heading.fields if self._heading is not None and offset <= self._heading.end else None
        parsed = parse(text, is_under_heading=above is not None)
        if parsed is not None and parsed.values:
            return self._placed(parsed, offset)
        if (fields := heading(_plain(text))) is not None:
            self._heading = Heading(fields=fields, end=offset + MAX_UNDER_HEADING)
            self._under_heading.clear()
        # a bar of anything else, which nobody has seen running
        is_over = parsed is not None and parsed.step is not None and parsed.step == parsed.total_steps
        is_unknown = parsed is not None and parsed.total_steps not in self._running_bars
        return None if is_over and is_unknown and text.lstrip()[:1].isdigit() else parsed

    def _placed(self, parsed: Printed, offset: int) -> Printed:
        """The same, with the position of the heading above it, where it has none of its own."""
        if self._heading is None:
            return parsed
        fields = dict(self._heading.fields)
        is_within = parsed.step is not None and parsed.epoch is None and fields["step"] is None  # a step of its epoch
        if offset > self._heading.end or parsed.epoch is not None or (parsed.step is not None and not is_within):
            self._heading = None
            return parsed
        if is_within:
            return msgspec.structs.replace(parsed, epoch=fields["epoch"], epochs=fields["epochs"])
        # a heading of a round, say, with many lines below it: their step is another one
        self._has_steps_in_headings = self._has_steps_in_headings and self._under_heading.isdisjoint(parsed.values)
        if not self._has_steps_in_headings:
            fields |= {"step": None, "total_steps": None, "unit": None}
        self._under_heading.update(parsed.values)
        own = {"epoch_step": parsed.epoch_step, "epoch_steps": parsed.epoch_steps}
        return msgspec.structs.replace(parsed, **(fields | (own if parsed.epoch_step is not None else {})))

    def _of_patterns(self, line: str) -> Printed | None:
        values: dict[str, float] = {}
        placed: dict[str, float | None] = {"step": None, "epoch": None}
        for pattern in self._patterns:
            for found in pattern.finditer(line):
                groups = {name: text for name, text in found.groupdict().items() if text is not None}
                if "name" in groups and "value" in groups:
                    groups[groups.pop("name")] = groups.pop("value")
                for name, text in groups.items():
                    number = as_number(text)
                    if number is not None and name in placed:
                        placed[name] = number
                    elif number is not None:
                        values[name] = number
        if not values:
            return None
        return Printed(values, step=as_count(placed["step"]), epoch=placed["epoch"])


# a line with metrics or progress contains one of these, in lower case
_HINTS = [
    word.encode()
    for word in names.words(
        """
    acc ap: auc bce bleu bpb bpc cer cider cost crossent dice elbo entropy epoch episode err f1 fid fitness
    generation gnorm grad iou iter jaccard kappa kl learn loss map mae mape mcc meteor mrr mse ndcg nll obj=
    objective perplex ppl precision psnr r2 recall return rew rms rouge round score sensitivity specificity spice
    ssim step top1 top5 train: update
    wer xent ---- %| 损失 損失
    """
    )
] + [b"obj =", b"] ep. "]


def _lines_of_interest(data: bytes) -> set[int]:
    """Where those lines begin that may say something. Most of a text is passed over at the speed of `bytes.find`."""
    small, begins = data.lower(), set()
    for word in _HINTS:
        at = small.find(word)
        while at >= 0:
            begins.add(small.rfind(b"\n", 0, at) + 1)
            end = small.find(b"\n", at)
            at = small.find(word, end) if end >= 0 else -1
    return begins


def _shown(line: str) -> str:
    """The line as a terminal shows it in the end: what a progress bar has overwritten is gone."""
    line = line.rstrip("\r\n")
    if "\x1b" in line:
        line = _ANSI.sub("", line)
    return line[max(line.rfind("\r"), line.rfind("\b")) + 1 :]


def parse(line: str, *, is_under_heading: bool = False) -> Printed | None:
    """What this line contains by itself; None if nothing.

    is_under_heading: whether it follows a line that said how far training is.
    """
    line = _plain(line)
    if not _MAY_SAY_SOMETHING.search(line):
        return None
    if (found := _object(line)) is not None:
        if (printed := _of_object(found)) is not None:
            return printed
        line = line[: line.find("{")]  # what stands before settings, say
    if _CALL.match(line) or _OF_OBJECT.match(line):
        return None
    line = _turned(line)
    fields = position(line)
    is_placed = fields["step"] is not None or fields["epoch"] is not None or is_bar(line)
    pairs = list(_pairs(_AT_STEP.sub(" ", line)))
    strong = {pair for pair in pairs if pair.is_strong and (pair.is_explicit or is_placed or pair.is_fraction)}
    if strong and fields["step"] is None and fields["epoch"] is None:
        fields |= position_before_metrics(line)
    if not strong and _is_of_settings(line, pairs):
        return None
    others = set(_others(line, pairs, is_placed=is_placed, is_under_heading=is_under_heading, has_strong=bool(strong)))
    values: dict[str, float] = {}
    for pair in pairs:
        if pair in strong or pair in others:
            values.setdefault(_of_set(line, pair.name), pair.value)
    if not values and not (fields["epochs"] or (fields["total_steps"] and is_bar(line))):
        return None
    return Printed(values, **fields)


def _is_of_settings(line: str, pairs: list[_Pair]) -> bool:
    """Whether a line without a metric's name shows settings: `epoch:200;lr:0.0001;clip:0.5;load:None`."""
    settings = sum(names.is_setting(pair.name) for pair in pairs)
    return settings >= _MIN_SETTINGS or (bool(settings) and _OF_SETTINGS.search(line) is not None)


def _others(
    line: str, pairs: list[_Pair], *, is_placed: bool, is_under_heading: bool, has_strong: bool
) -> Iterator[_Pair]:
    """The metrics whose names do not suffice: by where they stand, or by what stands beside them."""
    yield from pairs if len(pairs) > 1 and all(pair.is_of_a_set for pair in pairs) else ()
    yield from pairs if pairs and _QUALITIES.fullmatch(line) else ()
    for pair in pairs:
        is_plain = pair.is_explicit and pair.is_fraction
        if has_strong or is_placed:
            is_metric = names.is_weak(pair.name) or (names.is_throughput(pair.name) and has_strong)
        else:
            is_metric = is_under_heading and is_plain and names.is_result(pair.name)
        if is_metric or (is_placed and is_plain):
            yield pair


def _plain(line: str) -> str:
    """The line without what a logger puts before it, and without the signs around numbers."""
    line = _BULLET.sub("", _LOGGED.sub("", _shown(line).strip()))
    if (found := _PRINTED_BY_R.fullmatch(line)) is not None:
        line = found[1]
    if not line.isascii():
        for foreign, word in _FOREIGN:
            line = line.replace(foreign, word)
    if "[" in line:
        line = _BEHIND_NAME.sub(r"\1 \2", _IN_BRACKETS.sub(r"\1 \2", line))
    return _WRAPPED.sub(r"\1", line) if "(" in line else line


def _turned(line: str) -> str:
    """The line with its numbers behind their names, and the step before them, where it was otherwise."""
    if (found := _STEP_BETWEEN.match(line)) is not None:
        return f"step {found[2]} {found[1]} {line[found.end() :]}"
    first, *rest = line.split(",") if line.count(",") > 1 and ": " not in line and " = " not in line else [line]
    found = _TURNED_LAST.search(first)
    cells = [(found[1], found[2])] if found is not None else []
    cells += [(each[1], each[2]) for each in map(_TURNED.fullmatch, rest) if each is not None]
    has_metric = any(names.has_strong_word(name) and "." in number for number, name in cells)
    has_step = any(name.lower() in _STEPS_BEHIND for _, name in cells)
    if not 3 <= len(cells) >= len(rest) or not (has_metric or has_step):
        return line
    return ", ".join(f"{name}: {number}" for number, name in cells)


_MAY_SAY_SOMETHING = later(r"\d|\bnan\b|\binf\b", re.IGNORECASE)
_ANSI = later(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_IN_BRACKETS = later(r"([:=])\s*\[\s*([-+\d.eE]+)\s*\]")  # Dice: [0.83]
_BULLET = later(r"^[-*>\N{BULLET}]\s+")
_BEHIND_NAME = later(r"([A-Za-z]) \[(-?\d*\.\d+(?:[eE][-+]?\d+)?)\]")  # Pseudo dice [0.83]
_PRINTED_BY_R = later(r"\[\d+\] \"(.*)\"")
# words of other languages for what is printed most
_FOREIGN = (
    *(("训练", "train_"), ("验证集", "val_"), ("验证", "val_"), ("测试集", "test_"), ("测试", "test_")),
    *(("损失", "loss"), ("損失", "loss"), ("准确率", "accuracy"), ("準確率", "accuracy"), ("正解率", "accuracy")),
    ("\N{FULLWIDTH COLON}", ": "),
)
# Loss at step 100: 0.5; Score at iteration 0 is 4088.19
_AT_STEP = later(
    r"\s(?:at|after|in|on|for) (?:global )?(?:step|iteration|iter|epoch|episode|batch|round)\s{0,9}"
    r"#?\d[\d,]*(?:/\d+)?\s{0,9}(?=[:=]\s|is\s[-+\d.eE]+%?\.?$)",
    re.IGNORECASE,
)
# Train loss 64998 0.302735; Validation loss 64000:  0.323265
_STEP_BETWEEN = later(r"((?:[A-Za-z]{1,20}[ _])?loss)\s(\d+)(?::\s{1,9}|\s)(?=-?\d+\.\d)", re.IGNORECASE)
# 20 iter, 20000 ts, -483 rew
_TURNED = later(r"\s{0,9}([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s([A-Za-z][\w/]{0,30}(?:\s[A-Za-z]\w{0,30})?)\s{0,9}")
_TURNED_LAST = later(r"(?<!\S)([-+]?[\d.]+(?:[eE][-+]?\d+)?)\s([A-Za-z][\w/]{0,30}(?:\s[A-Za-z]\w{0,30})?)$")
_STEPS_BEHIND = names.words("iter iters ts timesteps")
# tensor(2.3111, grad_fn=<NllLossBackward0>), Array(0.31, dtype=float32), np.float64(0.31)
_WRAPPED = later(
    r"\b(?:tensor|Array|(?:np|numpy)\.\w{1,20})\(\s{0,9}([-+]?(?:\d[\d.]*(?:[eE][-+]?\d+)?|nan|inf))\s{0,9}(?:,[^()]{0,200})?\)"
)
_LOGGED = later(r"^(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:\s*")  # as the standard library's logging does
# one of several lines that an object is printed on: what it is of, a validation say, is on another one
_OF_SETTINGS = later(r"\w[:=] ?(?:None|True|False|\.{0,2}/)")  # values that no metric has
_MIN_SETTINGS = 3
# measures of quality with names so short or so common that they count only where nothing else is on the line
_QUALITY = (
    rf"(?:(?:new|node|adjusted|{'|'.join(sorted(names.QUALIFIERS))})[ _]){{0,4}}"
    r"(?:m?ap|cider|spice|minp|r2)(?:[@_-]?\d[\d.:-]*)?(?: score)?(?: \([a-z]+\))?"
    r"(?:\s?[:=]\s{0,9}[-+]?\d{0,3}\.\d+|\s[-+]?\d{0,3}\.\d{3,})\s?%?"
)
_QUALITIES = later(
    rf"(?:.{{0,100}} - |\[[^\]]{{0,60}}\]\s)?{_QUALITY}(?:\s?[,;|]?\s{{1,4}}{_QUALITY}){{0,9}}", re.IGNORECASE
)
_OF_OBJECT = later(r"""^(["'])[^"']*\1\s*:\s*[^\s,]+,?$""")
_CALL = later(r"^[A-Za-z_][\w.]*\(.*\)$")  # Namespace(lr=0.1, epoch=3)


def _of_set(line: str, name: str) -> str:
    """The name, with the set of data that the line begins with: `Test: loss 0.3` is no training loss."""
    found = _SET.match(line)
    if found is None:
        return name
    word = found[1].lower()
    return name if name.startswith(word[:3]) else f"{word}_{name}"


# -- objects

_JSON_BEGINS = later(r"\{\s*[\"']")
_LITERAL = later(r"'((?:[^'\\]|\\.){1,100})'\s*:\s*(?:'([^']{0,40})'|([-+\w.]+)|\{)")


def _object(line: str) -> Mapping[str, Any] | None:
    """The dict or JSON object that the line ends with, whatever precedes it; None if there is none."""
    if not line.endswith("}"):
        return None
    found = _JSON_BEGINS.search(line)
    if found is None:
        return None
    text = line[found.start() :]
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return _literal(text)
    return value if isinstance(value, dict) else None


def _literal(text: str) -> Mapping[str, Any] | None:
    """A dict as Python prints it. A nested one counts if it has a step or an epoch, or names a set of data."""
    if "'" not in text:
        return None
    if text.count("{") > 1:
        if "\\" in text:  # of which the compiler may warn
            return None
        try:
            value = ast.literal_eval(text)
        except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
            return None
        return value if isinstance(value, dict) and any(map(_is_of_training, _flat(value))) else None
    return {found[1]: found[2] or found[3] for found in _LITERAL.finditer(text)}


def _of_object(value: Mapping[str, Any]) -> Printed | None:
    values = dict(_flat(value))
    values = {name.lower() if name.lower() in _POSITIONS else name: number for name, number in values.items()}
    by = next((name for name in _STEP_FIELDS if name in values), None)
    step = None if by is None else values.pop(by)
    total = values.pop("total_steps", None) if step is not None else None
    epoch = values.pop("epoch", None)
    is_metrics = any(names.is_strong(name, name) for name in values) or (
        step is not None and any(map(names.is_weak, values))
    )
    if not is_metrics:
        return None
    values = {name: number for name, number in values.items() if "parameters" not in names.parts(name)}
    unit = by if by == "round" else None
    return Printed(values, step=as_count(step), total_steps=as_count(total), epoch=epoch, unit=unit)


_STEP_FIELDS = ("step", "global_step", "iter", "iteration", "current_steps", "round")
_POSITIONS = frozenset({*_STEP_FIELDS, "epoch"})


def _is_of_training(item: tuple[str, float]) -> bool:
    """Whether a number in an object is a step or an epoch, or is of a set of data."""
    name = item[0].rpartition("/")[2]
    return name.lower() in _POSITIONS or not names.SETS.isdisjoint(names.parts(name))


def _flat(value: Mapping[str, Any], prefix: str = "", level: int = 0) -> Iterator[tuple[str, float]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and level < _MAX_LEVELS:
            yield from _flat(item, f"{name}/", level + 1)
        elif (number := as_number(item)) is not None:
            yield name, number
