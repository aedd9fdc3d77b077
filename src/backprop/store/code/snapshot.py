"""The work tree of a run as it was submitted, kept in the run's folder, and its sessions executed from there.

The current folder stays the user's, so that relative paths of data and output mean what they always did; the script,
and what is imported from the work tree, come from the snapshot (trainer/module_sources.py). Beside what is kept lie
links to what is not (data, environments), for scripts that look for it beside themselves: see docs/decisions/0031.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec

from backprop.errors import UsageError
from backprop.records import RunSpec
from backprop.store.code import git, provenance
from backprop.store.code.git import GitError
from backprop.store.rundir import RunDir

MAX_BYTES = 100_000_000
MAX_FILES = 20_000  # kept or linked
_NAMED = 3  # of the largest files, in a message
_PROGRAMS = (".py", ".sh")
_ENVIRONMENT_MARK = "pyvenv.cfg"


def root_of(folder: Path) -> Path:
    """The work tree that a folder belongs to; outside of git the folder itself. Raises UsageError."""
    if not provenance.may_be_repository(folder):
        return folder
    try:
        top = git.finish(git.start((*git.safe_command(folder), "rev-parse", "--show-toplevel")))
    except GitError as error:
        raise UsageError(f"--snapshot: the work tree cannot be read: {error}.") from error
    return Path(os.fsdecode(top.removesuffix(b"\n")))


def take(root: Path, place: Path) -> None:
    """Copy the code of a work tree: what git tracks, and source files that it does not.

    Raises UsageError, or OSError where there is no room for it.
    """
    files = sorted(name for name in _files(root) if (root / name).is_symlink() or (root / name).is_file())
    sizes = {name: (root / name).lstat().st_size for name in files}
    total = sum(sizes.values())
    if total > MAX_BYTES or len(files) > MAX_FILES:
        largest = ", ".join(sorted(files, key=lambda name: sizes[name], reverse=True)[:_NAMED])
        raise UsageError(
            f"--snapshot: {root} has {len(files):,} files of {total / 1e6:,.0f} MB in all, and the limit is "
            f"{MAX_FILES:,} files of {MAX_BYTES / 1e6:.0f} MB. The largest: {largest}. What git ignores is not kept."
        )
    place.mkdir(mode=0o700)
    for name in files:
        target = place / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if (root / name).is_symlink():
            target.symlink_to(_link_target(root, root / name))
        else:
            shutil.copy2(root / name, target)
    _link_the_rest(root, place, len(files))


def _files(root: Path) -> Iterator[str]:
    """What is kept, relative to the root. Raises UsageError."""
    if not provenance.may_be_repository(root):
        yield from _sources(root)
        return
    try:
        command = git.safe_command(root)
        listing = (*command, "ls-files", "-z")
        tracked = git.finish(git.start((*listing, "--cached")))
        untracked = git.finish(git.start((*listing, "--others", "--exclude-standard", "--", *provenance.SOURCES)))
    except GitError as error:
        raise UsageError(f"--snapshot: the work tree cannot be read: {error}.") from error
    yield from {os.fsdecode(name) for name in (tracked + untracked).split(b"\0") if name}


def _sources(root: Path) -> Iterator[str]:
    """Source files below a folder that git knows nothing of, but for environments and what is hidden."""
    count = 0
    for folder, folders, names in os.walk(root):
        if folder != str(root) and _ENVIRONMENT_MARK in names:
            folders.clear()
            continue
        folders[:] = [
            name for name in folders if not name.startswith(".") and name not in {"node_modules", "__pycache__"}
        ]
        count += len(names)
        if count > MAX_FILES:
            raise UsageError(
                f"--snapshot: {root} has more than {MAX_FILES:,} files, and git does not know which of them are code. "
                "Put the code into a git repository."
            )
        for name in names:
            if os.path.splitext(name)[1] in provenance.SUFFIXES:  # noqa: PTH122
                yield os.path.relpath(os.path.join(folder, name), root)  # noqa: PTH118


def _link_target(root: Path, link: Path) -> str:
    """Where a link leads: one that leaves the work tree by a relative path would lead elsewhere from the snapshot."""
    target = os.readlink(link)  # noqa: PTH115  as it is written
    leads_to = os.path.normpath(link.parent / target)
    return target if os.path.isabs(target) or Path(leads_to).is_relative_to(root) else leads_to  # noqa: PTH117


def _link_the_rest(root: Path, place: Path, count: int) -> None:
    """A link to each neighbour of what is kept. Raises UsageError."""
    for folder, folders, names in os.walk(place):
        here = root / Path(folder).relative_to(place)
        kept = {*folders, *names}
        for entry in os.scandir(here):
            if entry.name in kept or entry.name in {".git", "__pycache__"} or Path(entry.path) == place:
                continue
            count += 1
            if count > MAX_FILES:
                raise UsageError(
                    f"--snapshot: there are more than {MAX_FILES:,} files beside the code, in {here}. "
                    "Put data into a folder without code."
                )
            (Path(folder) / entry.name).symlink_to(entry.path)


def executed(spec: RunSpec, rundir: RunDir) -> RunSpec:
    """The run with the kept programs in place of those in the work tree; unchanged without a snapshot."""
    if spec.snapshot_of is None:
        return spec
    script = None if spec.script is None else _kept(spec.script, spec.snapshot_of, rundir)
    command = []
    for word in spec.command:
        path = os.path.normpath(os.path.join(spec.cwd, word))  # noqa: PTH118
        is_program = word.endswith(_PROGRAMS) if spec.script is None else path == os.path.normpath(spec.script)
        command.append((_kept(path, spec.snapshot_of, rundir) or word) if is_program else word)
    return msgspec.structs.replace(spec, command=tuple(command), script=script or spec.script)


def _kept(path: str, root: str, rundir: RunDir) -> str | None:
    """The kept file for one in the work tree; None for what was not kept."""
    real, top = Path(path).resolve(), Path(root).resolve()
    kept = rundir.snapshot_path / real.relative_to(top) if real.is_relative_to(top) else None
    return str(kept) if kept is not None and kept.is_file() and not kept.is_symlink() else None
