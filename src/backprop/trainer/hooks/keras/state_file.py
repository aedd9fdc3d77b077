"""Reads and writes plain data and arrays as one .npz file, atomically, and without running code from the file.

The file is NumPy's format for named arrays (a zip with checksums, which show whether it is complete), with one more
member, `tree.json`, for the structure. Types of plain data are kept: tuples stay tuples, and dictionaries may have any
plain keys.
"""

from __future__ import annotations

import json
import zipfile
from typing import Any, Callable

from ... import atomic_files

_TREE = "tree.json"
_MAX_DEPTH = 24  # deeper structures contain reference cycles, and are not state


class NotPlainDataError(TypeError):
    """A value that is neither plain data nor an array."""


def write(path: str, tree: Any) -> None:
    """Write a file atomically, synced to the disk. Raises OSError and NotPlainDataError.

    tree: None, bool, int, float, str, lists, tuples and dictionaries of these, NumPy arrays and scalars, and functions
    marked by `later`: they are called when their array is written, so that only one is in memory.
    """
    arrays: list[Any] = []
    text = json.dumps(encode(tree, arrays))
    with atomic_files.atomic_write(path) as file, zipfile.ZipFile(file, "w", allowZip64=True) as archive:
        archive.writestr(_TREE, text)
        for number, array in enumerate(arrays):
            with archive.open(f"{number}.npy", "w", force_zip64=True) as member:
                _write_array(member, array() if callable(array) else array)


def read(path: str, *, has_arrays: bool = True) -> Any:
    """The content of a file. Raises OSError, and ValueError for a file in another format.

    has_arrays: False to read only plain data, with None for each array.
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
        raise ValueError(f"{path} was not written by Backprop: {error}") from error


def encode(value: Any, arrays: list[Any], depth: int = 0) -> Any:
    """A value as JSON, with arrays appended to the list and replaced by their index. Raises NotPlainDataError."""
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
        # a NumPy scalar stays a scalar
        return {"array": len(arrays) - 1} if callable(value) or value.ndim else {"scalar": len(arrays) - 1}
    raise NotPlainDataError(f"{kind.__name__} is neither plain data nor an array")


def decode(tree: Any, load: Callable[[int], Any]) -> Any:
    """The value that `encode` got. load: returns the array with an index."""
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
        # .npy does not support bfloat16, float8 and int4; float32 represents all of their values
        array = array.astype(np.float32)
    np.lib.format.write_array(file, array, allow_pickle=False)


def later(give: Callable[[], Any]) -> Callable[[], Any]:
    """Mark a function that returns an array, to be called when the array is written."""

    def call() -> Any:
        return give()

    call.gives_array = True  # type: ignore[attr-defined]
    return call
