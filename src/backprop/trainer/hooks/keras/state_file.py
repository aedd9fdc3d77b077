"""Plain data and arrays <-> one .npz file, which is whole or not there, and loads without running anybody's code.

The file is what NumPy makes of named arrays (a zip with checksums, so that Backprop can tell whether it is whole), and
one member more, `tree.json`, that says how they hang together. Plain data comes back with its types: tuples stay
tuples, and dictionaries may have any plain keys.
"""

from __future__ import annotations

import json
import zipfile
from typing import Any, Callable

from ... import atomic_files

_TREE = "tree.json"
_MAX_DEPTH = 24  # deeper is no state, but somebody's object graph that runs in a circle


class NotPlainDataError(TypeError):
    """A value that is neither plain data nor an array."""


def write(path: str, tree: Any) -> None:
    """Write the file: under another name, to the disk, then under its own. Raises OSError and UnplainError.

    tree: None, bool, int, float, str, lists, tuples and dictionaries of such, NumPy arrays and scalars, and functions
    without parameters that give an array: they are called when it is written, so that only one is in memory.
    """
    arrays: list[Any] = []
    text = json.dumps(encode(tree, arrays))
    with atomic_files.whole(path) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        archive.writestr(_TREE, text)
        for number, array in enumerate(arrays):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as member:
                _write_array(member, array() if callable(array) else array)


def read(path: str, *, has_arrays: bool = True) -> Any:
    """What was written, all of it in memory. Raises OSError and ValueError for what is not such a file.

    has_arrays: False for plain data alone, with None in place of each array.
    """
    import numpy as np

    try:
        with zipfile.ZipFile(path) as archive:
            tree = json.loads(archive.read(_TREE))

            def load(number: int) -> Any:
                if not has_arrays:
                    return None
                with archive.open(f"{number}.npy") as member:
                    return np.lib.format.read_array(member, allow_pickle=False)

            return decode(tree, load)
    except (zipfile.BadZipFile, KeyError, EOFError) as error:
        raise ValueError(f"{path} is no file of ours: {error}") from error


def encode(value: Any, arrays: list[Any], depth: int = 0) -> Any:
    """The value as JSON can say it; arrays are put into the list and referred to by number. Raises UnplainError."""
    kind = type(value)
    if value is None or kind in {bool, int, float, str}:
        return value
    if depth > _MAX_DEPTH:
        raise NotPlainDataError("it is nested too deeply")
    if kind is list:
        return [encode(item, arrays, depth + 1) for item in value]
    if kind is tuple:
        return {"tuple": [encode(item, arrays, depth + 1) for item in value]}
    if kind is dict:
        return {"dict": [[encode(part, arrays, depth + 1) for part in pair] for pair in value.items()]}
    if _is_array(value):
        arrays.append(value)
        # a NumPy scalar comes back as a scalar
        return {"array": len(arrays) - 1} if callable(value) or value.ndim else {"scalar": len(arrays) - 1}
    raise NotPlainDataError(f"{kind.__name__} is neither plain data nor an array")


def decode(tree: Any, load: Callable[[int], Any]) -> Any:
    """What `encode` was given. load: gives the array of a number."""
    if isinstance(tree, list):
        return [decode(item, load) for item in tree]
    if not isinstance(tree, dict):
        return tree
    ((kind, content),) = tree.items()
    if kind == "tuple":
        return tuple(decode(item, load) for item in content)
    if kind == "dict":
        return {decode(key, load): decode(value, load) for key, value in content}
    array = load(content)
    return array[()] if kind == "scalar" and array is not None else array


def _is_array(value: Any) -> bool:
    import numpy as np

    if isinstance(value, (np.ndarray, np.generic)):
        return not value.dtype.hasobject
    return callable(value) and not isinstance(value, type) and getattr(value, "gives_array", False)


def _write_array(file: Any, array: Any) -> None:
    import numpy as np

    array = np.asarray(array)
    if array.dtype.isbuiltin != 1 and array.dtype.kind == "V":
        # bfloat16, float8, int4 are not NumPy's own, and .npy does not know them; float32 holds each of their values
        array = array.astype(np.float32)
    np.lib.format.write_array(file, array, allow_pickle=False)


def later(give: Callable[[], Any]) -> Callable[[], Any]:
    """Mark a function as one that gives an array when it is written."""

    def call() -> Any:
        return give()

    call.gives_array = True  # type: ignore[attr-defined]
    return call
