"""Tables of results that a script prints: their columns, rows or sections are named by earlier lines.

Lines enter in the order in which they were printed, records leave; nothing here can fail. What is kept between lines
is bounded: one header, or one box.
"""

import re
from collections.abc import Mapping
from typing import Any

from backprop.records import Record
from backprop.store.output.expressions import later
from backprop.store.output.printed_names import SETS, has_strong_word, is_column, is_strong, is_weak, words
from backprop.store.output.printed_position import Printed, as_count, as_number, count

_MAX_COLUMNS = 32
_MAX_OTHER_LINES = 100  # between two rows of a table; after that it is over
_MIN_WEAK = 2  # names of columns that say together what one strong name says

_EPOCHS = words("e ep epoch epochs")
_STEPS = words(
    "# #iter counter example_counter generation global_step iter iteration iterations iters n_iter num_updates round "
    "step steps timestep timesteps total_timesteps update updates"
)


class _Column(Record, frozen=True):
    name: str
    begin: int  # where it stands in the header
    end: int


class _Header(Record, frozen=True):
    columns: tuple[_Column, ...]
    by: str | None  # what is between two cells; None: spaces

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)


class Tables:
    """The table that a source is printing."""

    def __init__(self) -> None:
        self._header: _Header | None = None
        self._other_lines = 0  # since the last row
        self._sets: list[str] = []  # the columns, where they are sets of data and a row is a metric
        self._section = ""
        self._cells: dict[str, float] | None = None  # of a box

    @property
    def is_open(self) -> bool:
        """Whether the next line may belong to one."""
        return self._header is not None or bool(self._sets) or self._cells is not None

    def parse(self, line: str, before: bytes) -> Printed | None:
        """What this line contains, or completes; None if nothing. before: the line before it."""
        if self.is_open:
            self._other_lines += 1
            if self._other_lines > _MAX_OTHER_LINES:
                self._header, self._sets, self._cells = None, [], None
        if not line.strip(" -=+|:\t") and (len(line.split()) > 1 or "|" in line or "+" in line):
            return None  # a rule of columns; the one that begins a box is in one piece
        found = self._of_box(line) if line.startswith(("|", "---")) else None
        if found is None and "|" in line and self._cells is None:
            found = self._of_sets(line)
        if found is None:
            found = self._of_columns(line, before)
        if found is not None:
            self._other_lines = 0
        return found

    def _of_box(self, line: str) -> Printed | None:
        """A metric a row, between two rules: stable-baselines3's."""
        if line.startswith("---"):
            cells, self._cells = self._cells, None if self._cells else {}
            self._other_lines = 0
            return None if not cells else _of_cells(cells)
        if self._cells is None or (found := _CELLS.fullmatch(line)) is None:
            return None
        name, value = found[1], found[2].strip()
        if name.endswith("/"):
            self._section = name
        elif len(self._cells) < _MAX_COLUMNS and (amount := as_number(value)) is not None:
            self._cells[f"{self._section}{name.replace(' ', '_')}"] = amount
        return None

    def _of_sets(self, line: str) -> Printed | None:
        """A metric a row, a set of data a column: AllenNLP's. It may stand behind what a logger puts before it."""
        cells = [cell.strip().lower() for cell in line.strip().rstrip("|").split("|")]
        if len(cells) > 2 and SETS.issuperset(cells[1:]):
            self._sets, self._other_lines = cells[1:], 0
            return None
        if not self._sets or len(cells) <= len(self._sets):
            return None
        name = cells[-len(self._sets) - 1]
        if not _COLUMN.fullmatch(name) or not (is_strong(name, name) or is_weak(name)):
            return None
        numbers = zip(self._sets, map(as_number, cells[-len(self._sets) :]), strict=True)
        values = {f"{of}_{name}": number for of, number in numbers if number is not None}
        return Printed(values) if values else None

    def _of_columns(self, line: str, before: bytes) -> Printed | None:
        """A metric a column: fastai's, Ultralytics's, spaCy's."""
        text = (_BAR_BEGINS.split(line, 1)[0] if "%" in line else line).rstrip()
        if not _DIGIT_BEGINS.search(text) and (header := _header(text, before)) is not None:
            self._header, self._other_lines = header, 0
            return None
        if self._header is None:
            return None
        cells = _row(text, self._header)
        return None if cells is None else _of_row(cells)


_CELLS = later(r"\|\s+([A-Za-z][\w/. -]*?)\s*\|\s*([^|]*)\|")
_COLUMN = later(r"[A-Za-z#][\w./()@:#-]*")
_BAR_BEGINS = later(r":?\s{1,9}\d{1,3}%[ |]")  # behind the cells of Ultralytics's
_DIGIT_BEGINS = later(r"(?:^|[\s|,])[-+.]?\d")
_PROSE = words("a an and at by each every for from in is no not of on or the this to was we with")
_SIGNS = later(r"[^\w./@#:-]+|(?<= )/(?= )")


def _cells_of(text: str, by: str | None) -> list[_Column]:
    """The cells of a line, with their places in it."""
    found, at = [], 0
    pieces = text.split(by) if by else re.split(r"(\s{2,}|\t)", text)
    for number, piece in enumerate(pieces):
        inner = piece.strip()
        if inner and (by or number % 2 == 0):
            begin = at + piece.index(inner)
            found.append(_Column(name=inner, begin=begin, end=begin + len(inner)))
        at += len(piece) + (len(by) if by else 0)
    return found


def _words_of(text: str) -> list[_Column]:
    return [_Column(name=each[0], begin=each.start(), end=each.end()) for each in re.finditer(r"\S+", text)]


def _header(text: str, before: bytes) -> _Header | None:
    """The columns that a line names; None if it is no header.

    before: the line before it, in which their names may begin.
    """
    if text.lstrip().startswith("# "):  # a comment in a file of numbers
        text = text.replace("#", " ", 1)
    by = next((sign for sign in ("|", ",") if text.count(sign) > 1), None)
    columns = _cells_of(text.strip("|") if by == "|" else text, by)
    if by is None and len(columns) == 1:
        columns = _words_of(text)
        if not _PROSE.isdisjoint(text.lower().split()):
            return None
    if not 2 <= len(columns) <= _MAX_COLUMNS:
        return None
    if not all(_COLUMN.fullmatch(word) for column in columns for word in column.name.split()):
        return None
    upper, lower = _words_of(before.decode(errors="replace").expandtabs()), _words_of(text.expandtabs())
    if by is None and 2 < len(upper) == len(lower) and all(map(_is_above, upper, lower)):
        firsts, columns = [each.name for each in upper], lower
    else:
        firsts = [""] * len(columns)
    named = [
        _Column(name=_named(f"{first} {each.name}"), begin=each.begin, end=each.end)
        for first, each in zip(firsts, columns, strict=True)
    ]
    header = _Header(columns=tuple(named), by=by)
    return header if _is_of_results(header.names, is_markdown=by == "|") else None


def _is_above(upper: _Column, lower: _Column) -> bool:
    is_aligned = upper.begin == lower.begin or upper.end == lower.end
    return is_aligned and _COLUMN.fullmatch(upper.name) is not None


def _named(text: str) -> str:
    return "_".join(_SIGNS.sub(" ", text).split()).strip("._-/:").lower() or "#"


def _is_of_results(names: tuple[str, ...], *, is_markdown: bool) -> bool:
    """Whether these columns are of a training: one is its step or epoch or a data set, and others are metrics."""
    if len(set(names)) < len(names):
        return False
    is_placed = not (_EPOCHS | _STEPS).isdisjoint(names)
    strong = [name for name in names if has_strong_word(name) and is_column(name)]
    weak = [name for name in names if is_weak(name)]
    if names == _REPORT:
        return True
    if names[0] == "dataset" and is_markdown:
        return bool(strong or weak)
    if names[0] == "class":  # of a detector: a row for all classes, and one for each
        return len(strong) + len(weak) >= _MIN_WEAK
    return is_placed and (bool(strong) or len(weak) >= _MIN_WEAK)


def _row(text: str, header: _Header) -> Mapping[str, str] | None:
    """The cells of a row by the names of their columns; None if it is no row of this table."""
    if header.by is not None:
        cells = [cell.strip() for cell in text.strip("|").split(header.by)]
        return dict(zip(header.names, cells, strict=True)) if len(cells) == len(header.columns) else None
    if header.names == _REPORT:
        average = _AVERAGE.fullmatch(text)
        return None if average is None else dict(zip(("class", *_REPORT), average.groups(), strict=True))
    found = _words_of(text)
    if not found or not _NUMERIC.match(found[-1].name):
        return None
    if len(found) == len(header.columns):
        return {column.name: cell.name for column, cell in zip(header.columns, found, strict=True)}
    if len(found) > len(header.columns):
        return None
    cells_by_name = {}
    for cell in found:  # some are empty: each of the others begins or ends with its column's name
        column = next((each for each in header.columns if cell.begin == each.begin or cell.end == each.end), None)
        if column is None or column.name in cells_by_name:
            return None
        cells_by_name[column.name] = cell.name
    return cells_by_name


_REPORT = ("precision", "recall", "f1-score", "support")  # scikit-learn's and seqeval's, a class a row
_AVERAGE = later(r"\s*((?:micro|macro|weighted) avg|avg / total)" + r"\s+([\d.]+)" * len(_REPORT))
_NUMERIC = later(r"[-+]?\.?\d|nan|inf|N/A", re.IGNORECASE)
_PLACE = later(r"(\d[\d,]*)(?:\.0*)?(?:/(\d+))?")


def _of_row(cells: Mapping[str, str]) -> Printed | None:
    fields: dict[str, Any] = {}
    values: dict[str, float] = {}
    prefix = ""
    for name, text in cells.items():
        if name in _EPOCHS or name in _STEPS:
            found = _PLACE.fullmatch(text)
            if found is None:
                return None
            done, of = count(found[1]), count(found[2])
            if name in _EPOCHS:
                fields |= {"epoch": None if done is None else float(done), "epochs": of}
            else:
                fields |= {"step": done, "total_steps": of}
        elif name in {"train", "training"} and text in {"True", "False"}:
            prefix = "train_" if text == "True" else "valid_"
        elif is_column(name) and (value := as_number(text)) is not None:
            values[name] = value
    row = cells.get("class", cells.get("dataset"))
    if "dataset" in cells or (row is not None and row != "all" and "support" in cells):
        prefix = f"{_named(row or '')}_"
        values.pop("support", None)
    elif row is not None and row != "all":
        return None
    if not any(has_strong_word(name) or is_weak(name) for name in values) or not (fields or row is not None):
        return None
    return Printed({f"{prefix}{name}": value for name, value in values.items()}, **fields)


def _of_cells(cells: dict[str, float]) -> Printed:
    """The contents of a box; its steps are environment steps."""
    step = next((as_count(cells.pop(name)) for name in _STEP_CELLS if name in cells), None)
    epoch = cells.pop("Epoch", None)
    values = {name: value for name, value in cells.items() if not name.startswith("time/") and is_column(name)}
    unit = None if step is None else "environment step"
    return Printed(values, step=step, epoch=epoch, unit=unit)


_STEP_CELLS = ("time/total_timesteps", "total_timesteps", "TotalEnvInteracts")
