"""Short digests of data, weights, settings and source locations, to distinguish trainings.

Every digest is cheap and bounded: large arrays and lists are sampled. Nothing is consumed: iterators, generators, files
and random generators contribute only their type. Of the user's code only `__len__` of a data set is called: reading an
item may draw random numbers, open files or take seconds, so the attributes of a data set are read instead.

What differs between two sessions of the same training is left out: temporary folders, timestamps, memory addresses.
"""

from __future__ import annotations

import collections
import enum
import hashlib
import io
import linecache
import os
import random
import re
import sys
import types
from pathlib import PurePath
from typing import Any, Iterable, Iterator, Mapping, NamedTuple, Optional, Sequence

_MAX_ROWS = 256  # sampled of an array or a list with more than four times as many
_MAX_VALUES = 65536  # of an array
_VALUES_PER_WEIGHT = 16
_MAX_WEIGHTS = 512
_MAX_TEXT = 4096
_MAX_NODES = 20_000  # objects read for one fingerprint
_MAX_DEPTH = 8
_MAX_FRAMES = 20
_FEW = 8  # a list as short as this is a pair (inputs, targets) rather than rows
_SINCE_1970 = 1.5e9  # larger numbers may be timestamps in seconds or milliseconds
_MAX_COPY_BYTES = 1 << 26  # of an array that can only be read as a whole

# attributes of PyTorch's and Lightning's data sets that change while they are used
_VOLATILE = {"_iterator", "_IterableDataset_len_called", "trainer", "_trainer"}


class Fingerprint(NamedTuple):
    """form: types, names, lengths, shapes and settings. content: a sample of values; None if none could be read."""

    form: str
    content: Optional[str]


def fingerprint(value: Any) -> Fingerprint:
    """The fingerprint of data: arrays, tables, lists, data sets, or objects made of these."""
    reader = _FingerprintBuilder()
    if not isinstance(value, (str, bytes, type)) and hasattr(type(value), "__len__"):
        reader.form(_try(lambda: len(value)))
    reader.read(value, 0, is_row=False)
    return reader.result()


def weights_fingerprint(named: Iterable[tuple[str, Any]]) -> Fingerprint:
    """The fingerprint of a model's weights: names and shapes, and a few values of each."""
    weights = list(named)
    reader = _FingerprintBuilder()
    sampled = set(_spread(len(weights), _MAX_WEIGHTS))
    for index, (name, weight) in enumerate(weights):
        reader.form(name, _shape(weight))
        if index in sampled:
            reader.content(_try(lambda weight=weight: _values(weight, 1, _VALUES_PER_WEIGHT)))
    return reader.result()


def digest(value: Any) -> str:
    """One short digest of form and content of a value."""
    found = fingerprint(value)
    return found.form if found.content is None else _short(f"{found.form} {found.content}")


def combined(*digests: Any) -> str:
    """One digest of several digests. `digest` would take them for random ids, and leave them out."""
    return _short(repr(digests))


# -- what differs from session to session

_CLOCK = r"\d{2}[-_:.h]?\d{2}(?:[-_:.m]?\d{2})?(?:[.,]\d+)?"
_MONTH = r"(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)[a-z]*"
_PASSING = [
    (re.compile(pattern), replacement)
    for pattern, replacement in (
        (r"\b0x[0-9a-fA-F]+\b", "ADDRESS"),
        (r"(?i)(?<![0-9a-z])[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}(?![0-9a-z])", "ID"),
        (rf"(?<!\d)20\d\d([-_./]?)(?:0[1-9]|1[0-2])\1(?:0[1-9]|[12]\d|3[01])(?:[T _-]*{_CLOCK})?(?!\d)", "TIME"),
        (rf"(?<!\d)\d\d([-_./])\d\d\1(?:20)?\d\d(?:[T _-]+{_CLOCK})?(?!\d)", "TIME"),
        (rf"(?<![A-Za-z]){_MONTH}[-_ ]?\d{{1,2}}(?:[T _-]+{_CLOCK})?(?!\d)", "TIME"),
        (r"(?<!\d)\d\d[-:h]\d\d[-:m]\d\d(?:[.,]\d+)?(?!\d)", "TIME"),
        (r"(?<![\d.])1[5-9]\d{8}(?:\d{3})?(?:\.\d+)?(?!\d)", "TIME"),  # seconds or milliseconds since 1970
        (r"(?<![A-Za-z0-9])tmp[a-z0-9_]{8}(?![A-Za-z0-9])|(?<![A-Za-z0-9])tmp\.[A-Za-z0-9]{6,10}\b", "TEMPORARY"),
        (r"(?<![0-9A-Za-z])(?=[0-9a-f]*\d)(?=[0-9a-f]*[a-f])[0-9a-f]{8,}(?![0-9A-Za-z])", "ID"),
        (r"\bversion_\d+\b", "VERSION"),  # Lightning's loggers number the folders of one training
    )
]


def lasting(text: str) -> str:
    """A text without what differs each time a script runs: times, temporary names, random ids, addresses."""
    for pattern, replacement in _PASSING:
        text = pattern.sub(replacement, text)
    return text


def folder(path: Any) -> str:
    """A folder to compare: without times, and relative to the working directory if it is below that."""
    text = os.path.normpath(os.fspath(path))
    here = os.getcwd()
    if text == here or text.startswith(os.path.join(here, "")):
        text = os.path.relpath(text, here)
    return lasting(text)


# options that may change when a training is resumed: duration, checkpoint, verbosity, device
_RESUMING = re.compile(
    r"resum|restart|continue|ckpt|checkpoint|epochs?$|^(max|num|n|total|train|training)?(steps|iters|iterations|rounds)$"
    r"|^maxtime|timelimit|timeout|verbos|^quiet$|^debug$|loglevel|progress|tqdm|workers$|(num|n)procs?$|^(n|num)?(jobs|threads)$"
    r"|prefetch|pinmemory|device|^n?gpus?$|^(no|use)?(cuda|cpu|mps)$|accelerator$|precision|^(fp16|bf16|amp|tf32)$"
    r"|compile|rank$|port$|masteraddr|token$|apikey$|secret|password"
)


def may_change(name: str) -> bool:
    """Whether an option or an argument of this name may have another value when a training is resumed."""
    return _RESUMING.search(re.sub(r"[^a-z0-9]", "", name.lower().rpartition(".")[2])) is not None


def command_line(words: Sequence[str], checkpoint: Optional[str] = None) -> str:
    """A digest of a script's arguments, without options that may change. checkpoint: the offered one, left out, too."""
    kept: list[str] = []
    is_value = False  # of an option that was left out
    for word in words:
        was_value, is_value = is_value, False
        name, equals, _ = word.lstrip("-+~").partition("=")
        is_option = word.startswith("--") or (word.startswith("-") and not word[1:2].isdigit())
        if checkpoint is not None and checkpoint in word:
            continue
        if (is_option or equals) and may_change(name):
            is_value = is_option and not equals
        elif is_option or not was_value:
            kept.append(lasting(word))
    return _short(repr(kept))


# -- where a call stands


def place(called: str) -> Optional[str]:
    """Where the running call stands in the user's code: file, function, and which of the calls of that name there.

    called: the name of the function that the user calls. It stays the same place when lines are added above it, or its
    arguments are changed. None when no frame of the stack is the user's.
    """
    found: list[str] = []
    frame: Optional[types.FrameType] = sys._getframe(1)  # noqa: SLF001  what inspect uses, without its cost
    while frame is not None and len(found) < _MAX_FRAMES:
        code = frame.f_code
        if not _is_library(code.co_filename):
            name = os.path.basename(code.co_filename)
            found.append(f"{lasting(name)}:{code.co_name}#{_ordinal(frame, called)}")
        called = code.co_name
        frame = frame.f_back
    return " < ".join(found) or None


def is_called_once() -> bool:
    """Whether the running call is made once in this process: in no loop of the user's, nor by a library that may loop.

    Guessed from the indentation of source lines. False where there is no source.
    """
    frame: Optional[types.FrameType] = sys._getframe(1)  # noqa: SLF001
    is_repeated, is_below_user = False, False
    while frame is not None:
        filename = frame.f_code.co_filename
        if not _is_library(filename):
            if is_repeated or _is_in_loop(frame):
                return False
            is_below_user = True
        elif is_below_user and not _ONCE.search(filename):
            is_repeated = True  # if there is more of the user's code that called it
        frame = frame.f_back
    return is_below_user


# libraries that call the user's main function
_ONCE = re.compile(
    r"[/\\](click|typer|hydra|fire|absl|tyro|jsonargparse|accelerate)[/\\]|runpy|functools|contextlib|<frozen"
)


def _is_in_loop(frame: types.FrameType) -> bool:
    if frame.f_code.co_name in {"<listcomp>", "<genexpr>", "<dictcomp>", "<setcomp>", "<lambda>"}:
        return True
    lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)[: frame.f_lineno]
    if len(lines) < frame.f_lineno or " for " in lines[-1]:
        return True
    least = len(lines[-1]) - len(lines[-1].lstrip())
    for line in reversed(lines[frame.f_code.co_firstlineno - 1 :]):
        text = line.strip()
        indent = len(line) - len(line.lstrip())
        if text and not text.startswith("#") and (indent < least or line is lines[-1]):
            least = indent
            if re.match(r"(async\s+)?(for|while)\b", text):
                return True
    return False


_OURS = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))  # the folder of all that runs in the script
_STANDARD = os.path.dirname(os.path.abspath(os.__file__))


def _is_library(filename: str) -> bool:
    if filename.startswith("<frozen") or os.path.abspath(filename).startswith((_OURS, _STANDARD)):
        return True
    return "site-packages" in filename or "dist-packages" in filename


def _ordinal(frame: types.FrameType, called: str) -> int:
    """How many calls of this name stand before the running line, in its function."""
    first, now = frame.f_code.co_firstlineno, frame.f_lineno
    lines = linecache.getlines(frame.f_code.co_filename, frame.f_globals)
    if not lines:
        return now - first
    call = re.compile(rf"^[^#]*(?<!def )\b{re.escape(called)}\s*\(")
    return sum(1 for line in lines[max(0, first - 1) : now - 1] if call.search(line))


# -- reading values


class _FingerprintBuilder:
    """Reads a value into two digests, within a budget."""

    def __init__(self) -> None:
        self._form = hashlib.blake2b(digest_size=8)
        self._content = hashlib.blake2b(digest_size=8)
        self._has_content = False
        self._nodes = 0
        self._seen: dict[int, Any] = {}  # keeps the values alive, because ids are reused

    def form(self, *facts: Any) -> None:
        self._form.update(repr(facts).encode())

    def content(self, fact: Any) -> None:
        if fact is not None:
            self._has_content = True
            self._content.update(fact if isinstance(fact, bytes) else repr(fact).encode())

    def result(self) -> Fingerprint:
        return Fingerprint(self._form.hexdigest(), self._content.hexdigest() if self._has_content else None)

    def _note(self, fact: Any, *, is_row: bool) -> None:
        if is_row:
            self.content(fact)
        else:
            self.form(fact)

    def read(self, value: Any, depth: int, *, is_row: bool) -> None:
        """Add a value. is_row: whether it is one of many rows, whose lengths and shapes may differ."""
        self._nodes += 1
        if self._nodes > _MAX_NODES or depth > _MAX_DEPTH:
            return
        if isinstance(value, (type(None), bool, int, float, complex, str, bytes, bytearray, range, slice)):
            self._scalar(value, is_row=is_row)
        elif isinstance(value, PurePath):
            self._note(lasting(str(value)), is_row=is_row)
        elif isinstance(value, enum.Enum):
            self._note(str(value), is_row=is_row)
        elif _is_silent(value):
            self._note(getattr(value, "__qualname__", type(value).__qualname__), is_row=is_row)
        elif id(value) not in self._seen:
            self._seen[id(value)] = value
            self._compound(value, depth, is_row=is_row)

    def _scalar(self, value: Any, *, is_row: bool) -> None:
        if isinstance(value, (str, bytes, bytearray)) and len(value) > _MAX_TEXT:
            self._note(len(value), is_row=is_row)
            for start in _spread(len(value) - 255, 16):
                self.content(value[start : start + 256])
        elif isinstance(value, (str, bytes, bytearray)) or (isinstance(value, (int, float)) and value > _SINCE_1970):
            self._note(lasting(repr(value)), is_row=is_row)
        else:
            self._note(repr(value), is_row=is_row)

    def _compound(self, value: Any, depth: int, *, is_row: bool) -> None:
        if _is_array(value):
            self._array(value, depth, is_row=is_row)
        elif isinstance(value, (dict, collections.UserDict)):  # other mappings may read files
            self._mapping(value, depth, is_row=is_row)
        elif isinstance(value, (list, tuple)):
            self._note(len(value), is_row=is_row)
            is_many = is_row or len(value) > _FEW
            for index in _rows(len(value)):
                self.read(value[index], depth + 1, is_row=is_many)
        elif isinstance(value, (set, frozenset)):
            self._note(len(value), is_row=is_row)
            if len(value) <= _MAX_ROWS:
                self.content(sorted(lasting(repr(each)) for each in value if isinstance(each, (str, int, float))))
        elif _root(value) == "datasets" and hasattr(value, "_data") and hasattr(value, "_indices"):
            self._arrow(value, depth, is_row=is_row)
        else:
            self._note(type(value).__qualname__, is_row=is_row)
            attributes = getattr(value, "__dict__", {})
            kept = {name: each for name, each in attributes.items() if name not in _VOLATILE and not may_change(name)}
            self._mapping(kept, depth, is_row=is_row)

    def _mapping(self, value: Mapping[Any, Any], depth: int, *, is_row: bool) -> None:
        pairs = _try(lambda: sorted(((repr(key), each) for key, each in dict(value).items()), key=lambda pair: pair[0]))
        self._note(len(pairs or ()), is_row=is_row)
        is_many = is_row or len(pairs or ()) > _MAX_ROWS
        for index in _rows(len(pairs or ())):
            key, each = pairs[index]
            self._note(lasting(key), is_row=is_many)
            self.read(each, depth + 1, is_row=is_many)

    def _array(self, value: Any, depth: int, *, is_row: bool) -> None:
        shape, root = _shape(value), _root(value)
        self._note((type(value).__name__, shape), is_row=is_row)
        if root == "pandas":
            self._table(value, depth, is_row=is_row)
        elif shape and shape[0]:
            self.content(_try(lambda: _values(value, _MAX_ROWS, _MAX_VALUES // min(shape[0], _MAX_ROWS))))
        elif shape == ():
            self.content(_try(lambda: lasting(repr(value.item()))))

    def _table(self, value: Any, depth: int, *, is_row: bool) -> None:
        if hasattr(value, "columns"):
            self._note([str(column) for column in value.columns][:_MAX_ROWS], is_row=is_row)
        chosen = value.take(_rows(len(value)))
        self.read(
            _try(lambda: chosen.to_dict("list") if hasattr(value, "columns") else chosen.tolist()),
            depth + 1,
            is_row=True,
        )

    def _arrow(self, dataset: Any, depth: int, *, is_row: bool) -> None:
        """A Dataset of `datasets`: what is stored, without decoding images or the user's transforms."""
        count, table, indices = len(dataset), dataset._data, dataset._indices  # noqa: SLF001
        self._note((count, sorted(dataset.column_names)), is_row=is_row)
        for index in _spread(count, 32):
            row = index if indices is None else indices.column(0)[index].as_py()
            self.read(_try(lambda row=row: table.slice(row, 1).to_pydict()), depth + 1, is_row=True)


def _is_silent(value: Any) -> bool:
    """Whether only the name or type of this is used: reading it would change it, or is useless."""
    if isinstance(value, (type, types.ModuleType, io.IOBase, random.Random)) or hasattr(type(value), "__next__"):
        return True
    if isinstance(value, (types.FunctionType, types.MethodType, types.BuiltinFunctionType)):
        return True
    return type(value).__name__ in {"Generator", "RandomState", "BitGenerator", "lock", "RLock", "Event", "Condition"}


def _root(value: Any) -> str:
    """The package that defines this kind of value."""
    return str(type(value).__module__).partition(".")[0]


_ARRAYS = {
    "cupy",
    "dask",
    "h5py",
    "jax",
    "jaxlib",
    "keras",
    "numpy",
    "pandas",
    "polars",
    "scipy",
    "tensorflow",
    "torch",
}
_ARRAYS |= {"xarray", "zarr"}


def _is_array(value: Any) -> bool:
    """Whether this is an array or a table of a known library, not just a data set with a shape."""
    roots = {str(kind.__module__).partition(".")[0] for kind in type(value).__mro__}
    if not roots & _ARRAYS or _shape(value) is None:
        return False
    return _try(lambda: hasattr(value, "detach" if "torch" in roots else "dtype")) or bool(roots & {"pandas", "polars"})


def _shape(value: Any) -> Optional[tuple[int, ...]]:
    """The shape of an array of any library; None for anything else."""
    if _root(value) == "builtins" or isinstance(value, type):
        return None
    return _try(lambda: tuple(int(each) for each in value.shape))  # type: ignore[no-any-return]


def _values(value: Any, rows: int, columns: int) -> Any:
    """A sample of an array: up to `rows` rows, with up to `columns` values each; None if it cannot be read."""
    root = _root(value)
    if not hasattr(value, "detach"):
        if root != "numpy" and getattr(value, "nbytes", _MAX_COPY_BYTES) >= _MAX_COPY_BYTES:
            return None
        value = sys.modules["numpy"].asarray(value)
    if hasattr(value, "detach"):
        value = value.detach()
    shape = tuple(value.shape)
    size = 1
    for each in shape:
        size *= each
    if size == 0:
        return []
    count = shape[0] if shape and rows > 1 else 1
    table = value.reshape(count, size // count) if _is_contiguous(value) else None
    if table is None:  # reshaping would copy all of it
        if size > _MAX_VALUES * 16:
            return None
        table = value.reshape(count, size // count)
    width = size // count
    step = max(1, width // columns)
    return [table[index, ::step][: columns + 1].tolist() for index in _rows(count, rows)]


def _is_contiguous(value: Any) -> bool:
    return bool(value.is_contiguous() if hasattr(value, "is_contiguous") else value.flags.c_contiguous)


def _rows(count: int, most: int = _MAX_ROWS) -> list[int]:
    """The indices of the rows to read, of `count` rows."""
    return list(range(count)) if count <= 4 * most else list(_spread(count, most))


def _spread(count: int, most: int) -> Sequence[int]:
    """Up to `most` evenly spread indices below `count`, including the first and the last."""
    if count <= most:
        return range(max(0, count))
    return sorted({index * (count - 1) // (most - 1) for index in range(most)})


def _short(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def _try(read: Any) -> Any:
    """The result of a call; None if it raises: some objects of libraries cannot be read."""
    try:
        return read()
    except Exception:  # noqa: BLE001  whatever it was
        return None


def named_arguments(values: Mapping[str, Any], ignored: Iterable[str] = ()) -> Iterator[tuple[str, str]]:
    """Name and digest of each argument of a framework that may not change when a training is resumed."""
    left_out = set(ignored)
    for name, value in sorted(values.items(), key=lambda pair: str(pair[0])):
        if name not in left_out and not may_change(str(name)):
            yield str(name), digest(value)
