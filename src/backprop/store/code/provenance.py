"""Records the code that a run executes, from git: enough to identify, compare and restore it.

    commit  +  uncommitted changes of tracked files  +  source files that git does not track yet

Reads only, and executes nothing that the repository names: see git.py. What could not be recorded is reported.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from backprop import host
from backprop.records import GitState, Record
from backprop.store.code import git
from backprop.store.code.git import GitError
from backprop.store.files import read_plain

MAX_PATCH_BYTES = 10_000_000
MAX_SOURCE_BYTES = 1_000_000  # of one file that git does not track: more is data
_NO_COMMIT = "(initial)"  # of git's porcelain v2, for a branch without commits
_DETACHED = "(detached)"
SOURCES = (
    *("*.py", "*.pyi", "*.pyx", "*.pxd", "*.ipynb", "*.sh"),
    *("*.c", "*.cc", "*.cpp", "*.cu", "*.cuh", "*.h", "*.hpp"),
    *("*.toml", "*.yaml", "*.yml", "*.cfg", "*.ini", "*.gin", "*.jsonnet"),
)
SUFFIXES = frozenset(pattern.removeprefix("*") for pattern in SOURCES)


class Recorded(Record, frozen=True):
    """Code as it lay there at one instant."""

    git: GitState | None = None  # None: in no work tree, or git could not be asked
    patch: bytes | None = None  # what differs from the commit, for `git apply`
    notes: tuple[str, ...] = ()  # what is missing, and why


def record(folder: Path, script: Path | None) -> Recorded:
    """The code in a folder and the work tree that it belongs to. Blocks for a few seconds at most."""
    if not may_be_repository(folder):
        return Recorded(notes=("not in a git repository: only checksums of it are kept",))
    try:
        return _Probe(folder, script).recorded()
    except GitError as error:
        return Recorded(notes=(f"not recorded: {error}{_advice(str(error))}",))


def changes(before: Recorded, now: Recorded) -> tuple[str, ...]:
    """What differs, in words: the commit, and the files whose uncommitted changes are others. Empty: nothing known."""
    if before.git is None or now.git is None:
        return ()
    found = []
    if before.git.commit != now.git.commit:
        found.append(f"commit {_short(before.git)} → {_short(now.git)}")
    is_whole = all(one.patch is not None or (one.git is not None and not one.git.dirty) for one in (before, now))
    if is_whole and before.patch != now.patch:
        old, new = _by_file(before.patch or b""), _by_file(now.patch or b"")
        found += sorted(name for name in old.keys() | new.keys() if old.get(name) != new.get(name))
    return tuple(found)


def imported(listed: bytes) -> dict[str, str]:
    """The modules that a session imported, with their checksums: see trainer/module_sources.py. Path -> SHA-256."""
    lines = (line.partition("  ") for line in listed.decode(errors="surrogateescape").splitlines())
    return {path: checksum for checksum, _, path in lines if path}


def changed_modules(before: Mapping[str, str], folder: Path) -> tuple[str, ...]:
    """Those of them in this folder, or below it, that are not what they were; by their names there."""
    found = []
    for path in sorted(before):
        place = Path(path)
        is_there = place.is_relative_to(folder) and ".." not in place.parts and place.is_file()
        if is_there and host.sha256(path) != before[path]:
            found.append(str(place.relative_to(folder)))
    return tuple(found)


def _short(state: GitState) -> str:
    return "none" if state.commit is None else state.commit[:12]


def _by_file(patch: bytes) -> dict[str, bytes]:
    """The parts of a patch by the names of their files."""
    parts = (b"\n" + patch).split(b"\ndiff --git ")[1:]
    return {_name(part.partition(b"\n")[0]): part.removesuffix(b"\n") for part in parts}


def _name(heading: bytes) -> str:
    """`a/NAME b/NAME` -> NAME, as git wrote it; of a renamed file the new one."""
    half = heading[len(heading) // 2 + 1 :].strip(b'"')
    name = half[2:] if half.startswith(b"b/") else heading.rpartition(b" b/")[2]
    return name.decode(errors="replace")


def may_be_repository(folder: Path) -> bool:
    """Whether it is worth asking git. A look at a few names."""
    return "GIT_DIR" in os.environ or any(os.path.lexists(place / ".git") for place in (folder, *folder.parents))


def _advice(error: str) -> str:
    if "dubious ownership" not in error:
        return ""
    place = error.partition("'")[2].rpartition("'")[0]
    return f" (it is another user's; if you trust it: git config --global --add safe.directory {place})"


class _Probe:
    """One look at a repository. What can be asked at the same time is."""

    def __init__(self, folder: Path, script: Path | None) -> None:
        """Raises GitError."""
        self._folder = folder
        self._script = None if script is None else os.fsencode(script.name)
        self._command = git.safe_command(folder)
        self._notes: list[str] = []

    def recorded(self) -> Recorded:
        """Raises GitError if not even the state is known."""
        others = ("ls-files", "-z", "--others", "--exclude-standard", "--")
        status, prefix, sources, script = self._answers(
            ("status", "--porcelain=v2", "--branch", "--untracked-files=no", "--ignore-submodules=dirty"),
            ("rev-parse", "--show-prefix"),
            (*others, *SOURCES),
            # the script itself counts when it is ignored, too
            ("ls-files", "-z", "--", ":(literal)" + os.fsdecode(self._script or b"")),
        )
        lines = status.decode(errors="replace").splitlines()
        header = {line.split(" ", 2)[1]: line.split(" ", 2)[2] for line in lines if line.startswith("# ")}
        commit, branch = header.get("branch.oid"), header.get("branch.head")
        commit = None if commit == _NO_COMMIT else commit
        has_changes = any(not line.startswith("#") for line in lines)
        untracked = {name for name in sources.split(b"\0") if name}
        if self._script is not None and not script:
            untracked.add(self._script)
        patch = self._changes(commit) if has_changes else b""
        patch += b"".join(self._additions(prefix.removesuffix(b"\n"), sorted(untracked)))
        is_kept = len(patch) <= MAX_PATCH_BYTES
        if not is_kept:
            limit = MAX_PATCH_BYTES // 1_000_000
            self._notes.append(f"uncommitted changes of {len(patch) / 1e6:.1f} MB were not kept (limit {limit} MB)")
        return Recorded(
            git=GitState(
                commit=commit,
                branch=None if branch == _DETACHED else branch,
                dirty=has_changes or bool(untracked),
            ),
            patch=patch if patch and is_kept else None,
            notes=tuple(self._notes),
        )

    def _answers(self, *questions: Sequence[str]) -> list[bytes]:
        """Raises GitError when one of them has none."""
        processes = [git.start((*self._command, *question)) for question in questions]
        answers: list[bytes | GitError] = []
        for process in processes:
            try:
                answers.append(git.finish(process))
            except GitError as error:
                answers.append(error)
        for answer in answers:
            if isinstance(answer, GitError):
                raise answer
        return [answer for answer in answers if isinstance(answer, bytes)]

    def _changes(self, commit: str | None) -> bytes:
        base = commit
        if base is None:  # against a tree without files, whatever hash the repository uses
            (answer,) = self._answers(("hash-object", "-t", "tree", "--stdin"))
            base = answer.decode().strip()
        try:
            (patch,) = self._answers(("diff", *git.PLAIN_DIFF, base, "--"))
        except GitError as error:
            self._notes.append(f"uncommitted changes were not kept: {error}")
            return b""
        binary = sum(line.startswith(b"Binary files ") for line in patch.split(b"\n"))
        if binary:
            self._notes.append(f"uncommitted changes of {binary} binary file(s) were not kept")
        return patch

    def _additions(self, prefix: bytes, names: list[bytes]) -> Iterator[bytes]:
        for name in sorted(names):
            path = Path(os.fsdecode(os.path.join(os.fsencode(self._folder), name)))  # noqa: PTH118  bytes
            try:
                size = path.lstat().st_size
                data = read_plain(path) if size <= MAX_SOURCE_BYTES else None
            except OSError as error:
                self._notes.append(f"{path.name}, which git does not track, was not kept: {error.strerror or error}")
                continue
            if data is None or b"\0" in data:
                why = f"it is {size / 1e6:.1f} MB" if data is None else "it is no text"
                self._notes.append(f"{path.name}, which git does not track, was not kept: {why}")
            else:
                yield _addition(prefix + name, data)


def _addition(name: bytes, data: bytes) -> bytes:
    """A new file as `git diff` would show it."""
    old, new = _quoted(b"a/" + name), _quoted(b"b/" + name)
    head = b"diff --git %s %s\nnew file mode 100644\n" % (old, new)
    if not data:
        return head
    lines = data.removesuffix(b"\n").split(b"\n")
    count = b"1" if len(lines) == 1 else b"1,%d" % len(lines)
    end = b"" if data.endswith(b"\n") else b"\\ No newline at end of file\n"
    space = b"\t" if b" " in name else b""  # where a name ends that has one
    body = b"".join(b"+" + line + b"\n" for line in lines)
    return head + b"--- /dev/null\n+++ %s%s\n@@ -0,0 +%s @@\n" % (new, space, count) + body + end


def _quoted(name: bytes) -> bytes:
    """As git writes the name of a file: in quotes, as in C, where it holds what would end or split it."""
    if not any(byte < 0x20 or byte == 0x7F or byte in b'"\\' for byte in name):
        return name
    escaped = (rb"\%03o" % byte if byte < 0x20 or byte == 0x7F or byte in b'"\\' else bytes([byte]) for byte in name)
    return b'"' + b"".join(escaped) + b'"'
