"""How the code of two runs differs: their commits and their uncommitted changes.

Asks git, in the repository that the runs were started from, and changes nothing there: trees that are built to be
compared lie in a temporary folder.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from backprop.records import GitState, Record, RunView
from backprop.store.code import git, provenance
from backprop.store.code.git import GitError
from backprop.store.home import Home

_TIMEOUT_S = 60.0


class Code(Record, frozen=True):
    """What is known of a run's code."""

    run_id: str
    git: GitState | None  # None: it was in no work tree
    patch: bytes | None  # uncommitted changes
    folders: tuple[str, ...]  # where its repository may be
    script_sha256: str | None = None
    modules: Mapping[str, str] = {}  # that it imported: name -> SHA-256


class Difference(Record, frozen=True):
    """A patch from one run's code to the other's, and what it could not take into account."""

    patch: bytes
    notes: tuple[str, ...]
    is_cut: bool = False  # there is more of it


def recorded(home: Home, view: RunView) -> Code:
    """What is known of the code that a run executed last."""
    run, spec = view.run, view.run.spec
    folder = [spec.script.rpartition("/")[0]] if spec.script else []
    return Code(
        run_id=spec.id,
        git=run.code.git,
        patch=home.rundir(spec.id).read_patch(run.code.patch),
        folders=(*folder, spec.cwd),
        script_sha256=run.last_session.script_sha256 if run.last_session else None,
        modules=_modules(home, view),
    )


def _modules(home: Home, view: RunView) -> dict[str, str]:
    """What its last session imported, by names relative to its script's folder."""
    run = view.run
    if run.last_session is None or run.spec.script is None:
        return {}
    listed = provenance.imported(home.rundir(run.spec.id).read_modules(run.last_session.number))
    folder = str(home.rundir(run.spec.id).snapshot_path) if run.spec.snapshot_of else os.path.dirname(run.spec.script)  # noqa: PTH120
    return {os.path.relpath(path, folder): checksum for path, checksum in listed.items()}


def difference(one: Code, other: Code, max_bytes: int | None = None) -> Difference:
    """The difference of the code of two runs, as far as it was recorded; the notes name what is missing.

    max_bytes: at which the patch is cut; None: it is whole.
    """
    notes = list(_what_was_not_kept(one, other))
    if one.git is None or other.git is None:
        return Difference(patch=b"", notes=(*notes, _by_checksum(one, other)))
    with TemporaryDirectory(prefix="backprop-diff-") as folder:
        repository = _repository(one, other)
        if repository is None:
            reason = "neither is there a git repository any more that has the commits of both"
            notes.append(f"{reason}: only uncommitted changes are compared.")
            return _of_patches(one, other, Path(folder), notes, max_bytes)
        try:
            trees = [_tree(repository, code, Path(folder)) for code in (one, other)]
            patch, is_cut = _diff(repository, *trees, "--", max_bytes=max_bytes, objects=Path(folder))
        except GitError as error:
            notes.append(f"the uncommitted changes could not be applied to their commits ({error}).")
            return _of_commits_and_patches(repository, (one, other), Path(folder), notes, max_bytes)
    if not patch:
        notes.append("their code is the same.")
    return Difference(patch=patch, notes=tuple(notes), is_cut=is_cut)


def _what_was_not_kept(*codes: Code) -> Iterator[str]:
    for code in codes:
        if code.git is None:
            yield f"{code.run_id} was started outside of git: its code was not kept."
        elif code.git.dirty and code.patch is None:
            yield f"{code.run_id} had uncommitted changes that were not kept (over 10 MB): they are not compared."
        elif code.git.commit is None:
            yield f"{code.run_id} was started before the first commit."


def _by_checksum(one: Code, other: Code) -> str:
    if one.script_sha256 is None or other.script_sha256 is None:
        return "nothing is known of how their code differs."
    same = one.script_sha256 == other.script_sha256
    message = f"their scripts {'were the same, byte for byte' if same else 'differed'}"
    both = one.modules.keys() & other.modules.keys()
    differing = sorted(name for name in both if one.modules[name] != other.modules[name])
    message += (
        f"; of the {len(both)} modules that both imported these differed: {', '.join(differing)}" if differing else ""
    )
    return f"{message}; more is not known."


def _repository(one: Code, other: Code) -> str | None:
    """A folder in a work tree, or below one, whose repository has both commits."""
    for folder in dict.fromkeys((*one.folders, *other.folders)):
        try:
            for code in (one, other):
                if code.git is not None and code.git.commit is not None:
                    _git(folder, "cat-file", "-e", f"{code.git.commit}^{{commit}}")
                else:
                    _git(folder, "rev-parse", "--git-dir")
        except GitError:
            continue
        return folder
    return None


def _tree(repository: str, code: Code, folder: Path) -> str:
    """The code as a tree object, which lies in `folder`. Raises GitError."""
    extra = {"GIT_INDEX_FILE": str(folder / f"index-{code.run_id}")}
    commit = code.git.commit if code.git else None
    _git(repository, "read-tree", *([commit] if commit else ["--empty"]), objects=folder, extra=extra)
    if code.patch:
        _git(repository, "apply", "--cached", "--whitespace=nowarn", "-", objects=folder, extra=extra, data=code.patch)
    return _git(repository, "write-tree", objects=folder, extra=extra).decode().strip()


def _of_commits_and_patches(
    repository: str, codes: tuple[Code, Code], folder: Path, notes: list[str], max_bytes: int | None
) -> Difference:
    commits = [code.git.commit for code in codes if code.git and code.git.commit]
    patch, is_cut = b"", False
    if len(commits) == 2 and commits[0] != commits[1]:
        try:
            patch, is_cut = _diff(repository, *commits, "--", max_bytes=max_bytes)
        except GitError as error:
            notes.append(f"the commits could not be compared ({error}).")
    notes.append("below: first the commits, then one patch against the other.")
    patches = _of_patches(*codes, folder, notes, max_bytes)
    return Difference(patch=patch + patches.patch, notes=patches.notes, is_cut=is_cut or patches.is_cut)


def _of_patches(one: Code, other: Code, folder: Path, notes: list[str], max_bytes: int | None) -> Difference:
    """How the uncommitted changes differ, as texts."""
    names = [f"{code.run_id}.patch" for code in (one, other)]
    for name, code in zip(names, (one, other), strict=True):
        (folder / name).write_bytes(code.patch or b"")
    try:
        patch, is_cut = _diff(str(folder), "--no-index", "--", *names, max_bytes=max_bytes, allowed=(0, 1))
    except GitError as error:
        return Difference(patch=b"", notes=(*notes, f"the uncommitted changes could not be compared ({error})."))
    if not patch:
        notes.append("their uncommitted changes are the same.")
    return Difference(patch=patch, notes=tuple(notes), is_cut=is_cut)


def _diff(
    folder: str, *what: str, max_bytes: int | None, objects: Path | None = None, allowed: tuple[int, ...] = (0,)
) -> tuple[bytes, bool]:
    """A patch, and whether there is more of it. Raises GitError."""
    process = _started(folder, "diff", *git.PLAIN_DIFF, *what, objects=objects)
    return git.first_bytes(process, max_bytes, allowed=allowed, timeout_s=_TIMEOUT_S)


def _git(
    folder: str,
    *arguments: str,
    objects: Path | None = None,
    extra: Mapping[str, str] | None = None,
    data: bytes = b"",
) -> bytes:
    """What git prints. Raises GitError."""
    return git.finish(_started(folder, *arguments, objects=objects, extra=extra), data, timeout_s=_TIMEOUT_S)


def _started(
    folder: str, *arguments: str, objects: Path | None = None, extra: Mapping[str, str] | None = None
) -> "subprocess.Popen[bytes]":
    """A git. objects: where new objects go, so that the repository is only read. Raises GitError."""
    variables = dict(extra or {})
    if objects is not None:
        theirs = Path(folder) / _git(folder, "rev-parse", "--git-path", "objects").decode().strip()
        # a list with colons in between, unless it is quoted as in C: git(1)
        quoted = str(theirs).replace("\\", "\\\\").replace('"', '\\"')
        variables |= {"GIT_OBJECT_DIRECTORY": str(objects), "GIT_ALTERNATE_OBJECT_DIRECTORIES": f'"{quoted}"'}
    return git.start((*git.safe_command(folder), *arguments), variables)
