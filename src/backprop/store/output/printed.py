"""Metrics and progress from lines that a script prints for people.

Scripts print their losses in many forms: pairs (`iter 100: loss 2.31`), dicts (`{'loss': 0.31}`), progress bars, logged
JSON, tables. Precision over recall: a number is a metric only if its name is one that trainings use, or if the line
holds a step or an epoch and the number is a fraction. Prose gives nothing.

Text enters, records leave; nothing here can fail.
"""

import json
import math
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from typing import Any

from backprop.records import Record

MAX_LINE = 2000  # characters; a longer line is not understood
_MAX_COUNT = 1 << 53
_MAX_COLUMNS = 32
_MAX_LEVELS = 3  # of nested objects
_MAX_NAMES = 1000  # of which is remembered what they are


class Printed(Record, frozen=True):
    """What was printed at once; without metrics it may still be progress."""

    values: dict[str, float]
    step: int | None = None  # counted over the whole training
    total_steps: int | None = None
    epoch: float | None = None
    epochs: int | None = None  # in all
    unit: str | None = None  # what one step is, if the line says so


# -- names


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# what a training measures: a number of that name is a metric wherever it stands
_STRONG = _words(
    """
    acc accuracy auc auroc aucpr bce bleu bpb bpc cer ce crossentropy dice elbo entropy f1 fid iou jaccard kappa kl
    kld logloss loss losses mae mape mcc meteor miou mlogloss mrr mse ndcg nll perplexity ppl psnr reward rewards
    rew rmse rmsle rouge ssim top1 top5 wer
    """
)
# and these where there is a step, an epoch or one of the above: alone they may be anything
_WEAK = _words(
    """
    box clip cls cos critic dfl epsilon err error errors fitness gnorm grad lr map map50 norm objective obj
    precision r2 rate recall return returns score scores seg sensitivity specificity temperature
    """
)
# what belongs to the name that follows
_QUALIFIERS = _words(
    """
    actor aux average avg best d dev disc eval evaluation final g gen lm macro masked mean micro mlm policy ppo q
    running smoothed test total train training val valid valid_0 valid_1 validation value weighted
    """
)
# what is measured of the machine or of the clock, not of the training
_NEVER = _words(
    """
    batch batches bytes consumed cost cpu data date day days duration elapsed eta fps gb gib gpu hour hours id
    instances io ips it iter iteration iterations iters lines mb mem memory mfu mib min mins minute minutes ms num
    params pid port python ram reader sample samples sec second seconds secs seed size speed time timing tok token
    tokens took torch ups version vram wall wpb wps
    """
)
# what a setting is called after: loss_weight, entropy_coef, iou_threshold
_OF_SETTINGS = _words(
    """
    alpha beta bias coef coeff delta desired eps every factor freq gamma interval lambda margin pw scale t target
    thr thresh threshold thresholds type weight weights window
    """
)
_SMALL_WORDS = _words("a an and at by for in new of on the with")
_WORD = re.compile(r"[A-Za-z][\w@./'+-]*")
_PARTS = re.compile(r"[A-Z]?[a-z]+\d*|[A-Z]+(?![a-z])\d*|\d+")
_SET = re.compile(r"\W*(eval|evaluation|test|testing|val|valid|validation|dev)\b", re.IGNORECASE)


# a script prints the same few names on each line
@lru_cache(maxsize=_MAX_NAMES)
def _parts(name: str) -> tuple[str, ...]:
    return tuple(part.lower() for part in _PARTS.findall(name))


# -- how far it has got

_COUNT = r"(\d[\d,]*)(?![\d.]*[\d.eE%])(?:\s*(?:/|of)\s*(\d[\d,]*))?"
# between a name and its count; bounded, since a line full of spaces would be tried with each of their divisions
_SIGN = r"\s{0,9}[:=#]?\s{0,9}\[?\(?\s{0,9}"
_STEP = re.compile(
    r"(?<![\w./-])(?:(?:global|train|training|optimizer)[ _])?"
    r"(?:steps?|iters?|iterations?|its?|updates?|num_updates|total_timesteps|timesteps?|episodes?|rounds?)"
    rf"{_SIGN}{_COUNT}",
    re.IGNORECASE,
)
_EPOCH = re.compile(
    rf"(?<![\w./-])(?:epoch|ep)(?:\((?:train|val)\))?{_SIGN}(\d+(?:\.\d+)?)(?![\d.]*[eE%])(?:\s*(?:/|of)\s*(\d+))?",
    re.IGNORECASE,
)
_TIMM = re.compile(r"^(?:Train|Test|Eval|Val)\w*:?\s+(\d+)\s+\[", re.IGNORECASE)  # Train: 0 [  50/1251 (  4%)]
_COUNT_OF_ALL = re.compile(r"^(\d+)/(\d+): ")  # keras-rl
_ROUND = re.compile(r"^\[(\d+)\](?=[\t ])|^(\d+):(?=\t)")  # XGBoost and LightGBM; CatBoost
_GLOBAL_STEP = re.compile(
    r"(?<![\w./-])(?:global_step|num_updates|env_steps?|total_timesteps)\s*[:=]?\s*(\d[\d,]*)(?:\.0*)?(?![\w.])",
    re.IGNORECASE,
)
# tqdm's; one that has another description is of something else
_BAR = re.compile(
    r"^(?:(?:epochs?|train|training|steps?|iters?)\b.*?)?\s{0,9}\d{1,3}%\|[^|]*\|\s*(\d+)/(\d+)\s*\[", re.IGNORECASE
)
_PLURAL_SETTING = re.compile(r"(?:steps|iters|iterations|epochs|rounds|episodes|updates)\s*[:=]", re.IGNORECASE)


_UNITS = {
    "env_step": "environment step",
    "timestep": "environment step",
    "optimizer": "optimizer step",
    "iter": "iteration",
    "update": "update",
    "episode": "episode",
    "round": "round",
}


def _count(text: str | None) -> int | None:
    if text is None:
        return None
    number = int(text.replace(",", ""))
    return number if number <= _MAX_COUNT else None


def _progress(line: str) -> dict[str, Any]:
    """The fields of Printed that are progress."""
    step = total = epoch = epochs = unit = None
    if found := _EPOCH.search(line) or _TIMM.search(line):
        epoch = float(found[1])
        epochs = _count(found[2]) if found.re is _EPOCH else None
    if (found := _GLOBAL_STEP.search(line)) or (found := _ROUND.search(line)):
        step = _count(next(filter(None, found.groups())))
        unit = _unit(found[0]) if found.re is _GLOBAL_STEP else "round"
    elif (found := _BAR.search(line) or _COUNT_OF_ALL.search(line)) or (
        (found := _STEP.search(line)) and not _PLURAL_SETTING.match(line, found.start())
    ):
        step, total = _count(found[1]), _count(found[2])
        if epoch is not None and total is not None:  # that of the epoch
            step = total = None
        unit = _unit(found[0]) if step is not None and found.re is _STEP else None
    return {"step": step, "total_steps": total, "epoch": epoch, "epochs": epochs, "unit": unit}


def _unit(text: str) -> str | None:
    """What is counted, by the words in front of the number; None for a mere step, which may be anything."""
    return next((unit for word, unit in _UNITS.items() if word in text.lower()), None)


# -- pairs

_NUMBER = re.compile(
    r"(?<![\w.@])[-+]?(?:(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d*)?|\.\d+)(?:[eE][-+]?\d+)?(?!\w)(?!:(?!\s+\d+%\|))|(?<![\w.@])[-+]?(?:nan|inf)\b",
    re.IGNORECASE,
)
_DELIMITER = re.compile(r"[,;|\t()\[\]{}<>\"]|\s{2,}|\s[-–—/]\s|: |(?<![\w.])[\d.]+\s|%")  # noqa: RUF001  dashes that are printed
_REMARK = re.compile(r"\s*\([A-Za-z ]{1,20}\)$")  # behind a name: loss (avg)
# 2,31 is no 2, and 2,310 may be 2.31: only 2,310.5 and 2,310,000 are certain
_DECIMAL_COMMA = re.compile(r"[-+]?\d+,\d+(?!\d|\.\d|,\d{3})|[-+]?0,\d")
_RATIO = re.compile(r"\s*/\s*(\d+)\b")


class _Pair(Record, frozen=True):
    name: str
    word: str  # the last one of the name, as it was printed
    value: float
    is_explicit: bool  # with a sign between name and number
    is_fraction: bool

    @property
    def is_strong(self) -> bool:
        return _is_strong(self.word, self.name)

    @property
    def is_weak(self) -> bool:
        return not _WEAK.isdisjoint(_parts(self.name)) and _OF_SETTINGS.isdisjoint(_parts(self.name))

    @property
    def is_of_a_set(self) -> bool:
        """Whether it is called after a set of data, and nothing else: `Train: 0.5455, Val: 0.5342`."""
        return self.name in {"train", "val", "valid", "test", "dev"} and self.is_explicit and self.is_fraction


@lru_cache(maxsize=_MAX_NAMES)
def _is_strong(word: str, name: str) -> bool:
    """Whether a number of this name, and with this last word, is a metric: "loss weights" are none."""
    if not _OF_SETTINGS.isdisjoint(_parts(word)):
        return False
    return not _STRONG.isdisjoint(_parts(word)) or _AT_RANK.search(name) is not None


_AT_RANK = re.compile(r"(?:acc|prec|hit|recall)s?@\d")
_GOES_ON = re.compile(r"\.\w|-\d|/\w*[a-z]|%\|")  # behind a number: it is of a file, a date, a rate, a progress bar


def _pairs(line: str) -> Iterator[_Pair]:
    """Each name with a number behind it."""
    begin = 0
    for found in _NUMBER.finditer(line):
        before, begin = line[begin : found.start()], found.end()
        after = line[found.end() : found.end() + 12]
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
    before = _REMARK.sub("", before.rstrip("'\" "))
    cuts = [each.end() for each in _DELIMITER.finditer(before)]
    return _named(before[cuts[-1] :] if cuts else before, is_explicit=is_explicit)


@lru_cache(maxsize=_MAX_NAMES)
def _named(segment: str, *, is_explicit: bool) -> tuple[str, str] | None:
    """The same, of the text behind the last delimiter."""
    words = segment.split()
    if len(words) > 1 and words[-1].lower() in {"value", "is"}:
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
            if word.lower().removesuffix("'s") not in _QUALIFIERS:
                break
            kept.insert(0, word)
    parts = [part for word in kept for part in _parts(word)]
    if not parts or not _NEVER.isdisjoint(parts) or parts in (["step"], ["epoch"], ["ep"]):
        return None
    kept = [word.removesuffix("'s") for word in kept]
    return "_".join(kept).strip("._-/'+").lower(), kept[-1]


# -- a line


class Reader:
    """Reads the lines of one source, in the order in which they were printed: tables are named by earlier lines.

    patterns: further regular expressions, each with the groups `name` and `value`, or with a group for each metric; a
    group `step` or `epoch` is the position of the training.
    """

    def __init__(self, patterns: Iterable[str] = ()) -> None:
        """Raises re.error for a pattern that is none."""
        self._patterns = [re.compile(pattern) for pattern in patterns]
        self._tables = _Tables()

    def read(self, data: bytes) -> Iterator[tuple[int, Printed]]:
        """Parse complete lines. Yields (offset of the line's end within `data`, what was parsed)."""
        may_say = _lines_of_interest(data)
        if not (may_say or self._patterns or self._tables.is_open):
            return
        end = 0
        for line in data.split(b"\n"):
            begin, end = end, end + len(line) + 1
            # of a long line, a progress bar's say, only what it was in the end
            seen = line if len(line) <= MAX_LINE else line.rstrip(b"\r").rpartition(b"\r")[2]
            if not (begin in may_say or self._patterns or self._tables.is_open) or len(seen) > MAX_LINE:
                continue
            text = _shown(seen.decode(errors="replace"))
            parsed = self._of_patterns(text) or self._tables.parse(text) or (parse(text) if begin in may_say else None)
            if parsed is not None:
                yield min(end, len(data)), parsed

    def _of_patterns(self, line: str) -> Printed | None:
        values: dict[str, float] = {}
        placed: dict[str, float | None] = {"step": None, "epoch": None}
        for pattern in self._patterns:
            for found in pattern.finditer(line):
                groups = {name: text for name, text in found.groupdict().items() if text is not None}
                if "name" in groups and "value" in groups:
                    groups[groups.pop("name")] = groups.pop("value")
                for name, text in groups.items():
                    number = _number(text)
                    if number is not None and name in placed:
                        placed[name] = number
                    elif number is not None:
                        values[name] = number
        if not values:
            return None
        return Printed(values, step=_whole(placed["step"]), epoch=placed["epoch"])


def _whole(number: float | None) -> int | None:
    is_whole = number is not None and math.isfinite(number) and number == int(number) and abs(number) <= _MAX_COUNT
    return int(number) if number is not None and is_whole else None


# a line with metrics or progress contains one of these, in lower case
_HINTS = [
    word.encode()
    for word in _words(
        """
    acc auc bce bleu bpb bpc cer crossent dice elbo entropy epoch episode err f1 fid fitness gnorm grad iou iter
    jaccard  kappa kl learn loss map mae mape mcc meteor mrr mse ndcg nll objective perplex ppl precision psnr
    recall return rew  rms rouge round score sensitivity specificity ssim step top1 top5 train: update wer ---- %|
    """
    )
]


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


def parse(line: str) -> Printed | None:
    """What this line contains by itself; None if nothing."""
    line = _IN_BRACKETS.sub(r"\1 \2", _LOGGED.sub("", _shown(line).strip()))
    if "(" in line:
        line = _WRAPPED.sub(r"\1", line)
    if not _MAY_SAY_SOMETHING.search(line):
        return None
    if (found := _object(line)) is not None:
        return _of_object(found)
    if _CALL.match(line) or _OF_OBJECT.match(line):
        return None
    progress = _progress(line)
    is_bar = _BAR.search(line) is not None
    is_placed = progress["step"] is not None or progress["epoch"] is not None or is_bar
    pairs = list(_pairs(line))
    strong = {pair for pair in pairs if pair.is_strong and (pair.is_explicit or is_placed or pair.is_fraction)}
    weak = {pair for pair in pairs if pair.is_weak} if strong or is_placed else set()
    other = {pair for pair in pairs if pair.is_explicit and pair.is_fraction} if is_placed else set()
    sets = set(pairs) if len(pairs) > 1 and all(pair.is_of_a_set for pair in pairs) else set()
    values: dict[str, float] = {}
    for pair in pairs:
        if pair in strong | weak | other | sets:
            values.setdefault(_of_set(line, pair.name), pair.value)
    if not values and not (progress["epochs"] or (progress["total_steps"] and is_bar)):
        return None
    return Printed(values, **progress)


_MAY_SAY_SOMETHING = re.compile(r"\d|\bnan\b|\binf\b", re.IGNORECASE)
_ANSI = re.compile(r"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)")
_IN_BRACKETS = re.compile(r"([:=])\s*\[\s*([-+\d.eE]+)\s*\]")  # Dice: [0.83]
# tensor(2.3111, grad_fn=<NllLossBackward0>), Array(0.31, dtype=float32), np.float64(0.31)
_WRAPPED = re.compile(
    r"\b(?:tensor|Array|(?:np|numpy)\.\w{1,20})\(\s{0,9}([-+]?(?:\d[\d.]*(?:[eE][-+]?\d+)?|nan|inf))\s{0,9}(?:,[^()]{0,200})?\)"
)
_LOGGED = re.compile(r"^(?:DEBUG|INFO|WARNING|ERROR|CRITICAL):[\w.]+:\s*")  # as the standard library's logging does
# one of several lines that an object is printed on: what it is of, a validation say, is on another one
_OF_OBJECT = re.compile(r"""^(["'])[^"']*\1\s*:\s*[^\s,]+,?$""")
_CALL = re.compile(r"^[A-Za-z_][\w.]*\(.*\)$")  # Namespace(lr=0.1, epoch=3)


def _of_set(line: str, name: str) -> str:
    """The name, with the set of data that the line begins with: `Test: loss 0.3` is no training loss."""
    found = _SET.match(line)
    if found is None:
        return name
    word = found[1].lower()
    return name if name.startswith(word[:3]) else f"{word}_{name}"


# -- objects

_JSON_BEGINS = re.compile(r"\{\s*[\"']")
_LITERAL = re.compile(r"'((?:[^'\\]|\\.){1,100})'\s*:\s*(?:'([^']{0,40})'|([-+\w.]+)|\{)")


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
    """A dict as Python prints it; flat, since nothing prints nested ones."""
    if "'" not in text or text.count("{") > 1:
        return None
    return {found[1]: found[2] or found[3] for found in _LITERAL.finditer(text)}


def _of_object(value: Mapping[str, Any]) -> Printed | None:
    values = dict(_flat(value))
    step = next((values.pop(name) for name in ("step", "global_step", "iter", "iteration") if name in values), None)
    epoch = values.pop("epoch", None)
    names = [part for name in values for part in _parts(name)]
    is_metrics = not _STRONG.isdisjoint(names) or (step is not None and not _WEAK.isdisjoint(names))
    if not is_metrics:
        return None
    return Printed(values, step=_whole(step), epoch=epoch)


def _flat(value: Mapping[str, Any], prefix: str = "", level: int = 0) -> Iterator[tuple[str, float]]:
    for key, item in value.items():
        name = f"{prefix}{key}"
        if isinstance(item, Mapping) and level < _MAX_LEVELS:
            yield from _flat(item, f"{name}/", level + 1)
        elif (number := _number(item)) is not None:
            yield name, number


def _number(item: Any) -> float | None:
    if isinstance(item, bool) or not isinstance(item, (int, float, str)):
        return None
    try:
        return float(item)
    except (ValueError, OverflowError):
        return None


# -- tables


class _Tables:
    """Tables whose columns or sections are named by earlier lines: fastai's, Ultralytics's, stable-baselines3's."""

    def __init__(self) -> None:
        self._columns: list[str] = []
        self._section = ""
        self._cells: dict[str, float] | None = None

    @property
    def is_open(self) -> bool:
        """Whether the next line may belong to one."""
        return bool(self._columns) or self._cells is not None

    def parse(self, line: str) -> Printed | None:
        """What this line contains, or completes; None if nothing."""
        return self._of_box(line) if line.startswith(("|", "---")) else self._of_columns(line)

    def _of_box(self, line: str) -> Printed | None:
        if line.startswith("---"):
            cells, self._cells = self._cells, None if self._cells else {}
            return None if not cells else _of_cells(cells)
        if self._cells is None or (found := _CELLS.fullmatch(line)) is None:
            return None
        name, value = found[1], found[2].strip()
        if name.endswith("/"):
            self._section = name
        elif len(self._cells) < _MAX_COLUMNS and (number := _number(value)) is not None:
            self._cells[f"{self._section}{name.replace(' ', '_')}"] = number
        return None

    def _of_columns(self, line: str) -> Printed | None:
        words = line.split()
        if 2 <= len(words) <= _MAX_COLUMNS and all(_COLUMN.fullmatch(word) for word in words):
            names = [part for word in words for part in _parts(word)]
            if not _STRONG.isdisjoint(names):
                columns = re.split(r"\s{2,}|\t", line.strip())
                self._columns = ["_".join(each.split()).lower() for each in (columns if len(columns) > 1 else words)]
            return None
        if not self._columns or len(words) < len(self._columns):
            return None
        cells = dict(zip(self._columns, words, strict=False))
        place = self._columns[0] if self._columns[0] in _PLACES else "epoch"
        if place not in cells or (found := re.fullmatch(r"(\d+)(?:/(\d+))?", cells.pop(place))) is None:
            return None
        numbers = {name: _number(text) for name, text in cells.items() if _NEVER.isdisjoint(_parts(name))}
        values = {name: number for name, number in numbers.items() if number is not None}
        if not any(not _STRONG.isdisjoint(_parts(name)) for name in values):
            return None
        if place != "epoch":
            return Printed(values, step=_count(found[1]), total_steps=_count(found[2]))
        return Printed(values, epoch=float(found[1]), epochs=_count(found[2]))


_CELLS = re.compile(r"\|\s+([A-Za-z][\w/. -]*?)\s*\|\s*([^|]*)\|")
_COLUMN = re.compile(r"[A-Za-z#][\w./()@-]*")
_PLACES = ("epoch", "iter", "iteration", "step", "steps")  # of a row


def _of_cells(cells: dict[str, float]) -> Printed:
    """The contents of a box; its steps are environment steps."""
    step = next((_whole(cells.pop(name)) for name in _STEP_CELLS if name in cells), None)
    epoch = cells.pop("Epoch", None)
    values = {
        name: value for name, value in cells.items() if not name.startswith("time/") and _NEVER.isdisjoint(_parts(name))
    }
    unit = None if step is None else "environment step"
    return Printed(values, step=step, epoch=epoch, unit=unit)


_STEP_CELLS = ("time/total_timesteps", "total_timesteps", "TotalEnvInteracts")
