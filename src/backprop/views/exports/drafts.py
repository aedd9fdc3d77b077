"""Files that are written atomically, and replace nothing unless asked to."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from backprop.errors import UsageError
from backprop.trainer import atomic_files as atomic


@contextmanager
def all_drafted(paths: Sequence[Path], *, replace: bool) -> Iterator[list[Path]]:
    """The same as `drafted` for several files, which appear together."""
    check_free(*paths, replace=replace)
    with ExitStack() as stack:
        yield [stack.enter_context(drafted(path, replace=replace)) for path in paths]


@contextmanager
def drafted(path: Path, *, replace: bool) -> Iterator[Path]:
    """A path to write to, which becomes `path` when the block ends well, and is gone when it does not.

    Raises UsageError where there is something already, unless `replace`.
    """
    check_free(path, replace=replace)
    with atomic.drafted(str(path), mode=0o600) as draft:
        yield Path(draft)


def check_free(*paths: Path, replace: bool) -> None:
    """Raise UsageError where one of these exists already, unless it may be replaced, and is a file."""
    for path in paths:
        if path.is_dir():
            raise UsageError(f"{path} is a folder; name a file.")
        if path.exists() and not replace:
            raise UsageError(f"{path} exists already; to replace it: --force")


def is_file(destination: str, suffix: str) -> bool:
    """Whether the name is that of a file of this kind, and not of a folder.

    Raises UsageError for another kind of file: a folder called points.txt is never meant.
    """
    path = Path(destination)
    if path.suffix.lower() == suffix:
        return True
    if path.suffix and not destination.endswith("/") and not path.is_dir():
        raise UsageError(
            f"{destination} ends in {path.suffix}, not in {suffix}: name a file that ends in {suffix}, or a folder, "
            f"which ends in a slash where it is not there yet ({destination}/)."
        )
    return False


def folder(destination: str) -> Path:
    """The folder, made where it is not there. Raises OSError."""
    path = Path(destination)
    path.mkdir(parents=True, exist_ok=True)
    return path
