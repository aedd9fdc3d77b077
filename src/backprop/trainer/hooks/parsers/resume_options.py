"""Which option of a script takes the checkpoint to resume from: one table for the parsers of all libraries.

On resume, an option with a usual name gets the checkpoint, with the lowest precedence: only if it was not given and has
no default. First sessions are not changed. Usual names are those that are never used for anything else: `--resume`,
names that begin with `--resume` or `--continue` and tell from what, and `--continue-train`. Not `--checkpoint`,
`--ckpt` or `--load`: in some scripts they name a folder to write to, in others pretrained weights, and a script that
got a training state instead would fail where it could have started over. If a script has only such a name, the
supervisor is informed, and the user can choose it: `--resume-arg FLAG`.

Checkpoints that our hooks wrote in their own format are not for the script to read: see boosting/train_call.py.

argparse_parsers.py, other_parsers.py and configs.py read the options of each library. They are loaded in first
sessions, too, so slow imports are made where they are needed.
"""

from __future__ import annotations

import os
import re
import sys

from ...failsafe import guarded, notify_user

TYPE_CHECKING = False  # see failsafe.py
if TYPE_CHECKING:
    from typing import Any, Callable, Iterable, Optional, Sequence

HOOK = "resume flags"
PARAMETERS = "parameters"  # what the same parsers have parsed: see parameters/report.py
REPORTER = "BACKPROP_PARAMS_PID"  # the process that has reported some, for those below it
_USUAL = {
    "auto-resume",
    "continue-train",  # CycleGAN's
    "continue-training",
    "resume",
    "resume-from",
    "resume-from-checkpoint",
    "resume-from-ckpt",
    "resume-from-path",
    "resume-checkpoint",
    "resume-checkpoint-path",
    "resume-ckpt",
    "resume-ckpt-path",
    "resume-path",
    "resume-training",
    "continue-from",
    "continue-from-checkpoint",
}
_USUAL_KEYS = {"ckpt-path"}  # of configurations only
_LIGHTNING = {"lightning.pytorch", "pytorch_lightning"}  # these use that key; our hook for them does not need it
# a name that looks like a resume option has a word of _TELLING, and only words of _TELLING and _BESIDE
_TELLING = {"checkpoint", "chkpt", "ckpt", "continue", "load", "restart", "restore", "resume", "snapshot", "init"}
_BESIDE = {"file", "filename", "from", "initial", "last", "latest", "model", "path", "start", "state", "to", "training"}
_BESIDE |= {"train", "weights"}
_TOO_LITTLE = {
    "init",
    "init-model",
    "init-weights",
    "init-state",
    "init-training",
    "init-train",
}  # about initialization
_TEXTS = {"abspath", "expanduser", "fspath", "realpath", "str", "Path"}  # functions that take any text
_RESUMES = "BACKPROP_RESUME_FROM"

_notified: set[str] = set()
_filled: set[str] = set()  # plain names of options that got the checkpoint
_hint: Optional[str] = None  # the option that was reported to the supervisor
_has_usual = False


class Option:
    """An option of a parser."""

    def __init__(
        self,
        names: Sequence[str],
        *,
        is_free: bool,
        kind: Callable[[str], Any],
        is_given: bool = False,
        is_usual: Optional[bool] = None,
        own: Any = None,
    ) -> None:
        """names: as on the command line.

        is_free: it has no default. kind: returns its value for a path: the path, True for a switch, or None if it takes
        something else; called with "", returns "" only if it takes any text. is_given: elsewhere than on the command
        line. is_usual: whether it certainly takes the checkpoint; None to decide by its name. own: the library's
        object.
        """
        self.names = [name for name in names if name.startswith("--")] or list(names)
        self.all_names = names
        self.is_free = is_free
        self.kind = kind
        self.is_given = is_given
        self.is_usual = any(map(_is_usual, names)) if is_usual is None else is_usual
        self.own = own
        self.value: Any = None  # set by `fill`

    def is_in(self, words: Iterable[str]) -> bool:
        """Whether it is on the command line, possibly abbreviated."""
        for word in words:
            name = word.partition("=")[0]
            if name == "--":
                return False
            if name in self.all_names:
                return True
            if name.startswith("--") and any(option.startswith(name) for option in self.all_names):
                return True
        return False


def checkpoint() -> Optional[str]:
    """The checkpoint to resume from; None in a first session, and if it is in a format of our hooks."""
    path = os.environ.get(_RESUMES)
    if path is None:
        return None
    from ...atomic_files import FOLDER

    return None if FOLDER in path.split(os.sep) else path


def _is_usual(name: str) -> bool:
    return name.startswith("--") and _plain(name) in _USUAL


def is_usual_key(name: str) -> bool:
    """Whether a key of this name in a configuration takes the checkpoint."""
    name = _plain(name)
    return name in _USUAL or (name in _USUAL_KEYS and _LIGHTNING.isdisjoint(sys.modules))


def _looks_like_one(name: str) -> bool:
    """Whether this name may mean the checkpoint to resume from, but also something else."""
    words = set(_plain(name).split("-"))
    return bool(words & _TELLING) and words <= _TELLING | _BESIDE and _plain(name) not in _TOO_LITTLE


def _plain(name: str) -> str:
    return name.lstrip("-").replace("_", "-").lower()


@guarded(HOOK, otherwise=())
def fill(options: Iterable[Option], words: Sequence[str]) -> Sequence[Option]:
    """Set `value` of the options that take the checkpoint, tell the user, and return them.

    words: the arguments that this parser gets. options: a generator, so that an error in reading a changed library's
    parser only turns this part off.
    """
    global _has_usual  # noqa: PLW0603
    options = [option for option in options if option.names]
    usual = [option for option in options if option.is_usual]
    if not usual:
        _look_for_another(options, words)
        return ()
    if not _has_usual:
        _has_usual = True
        if _hint is not None:
            _report_option(None)
    path = checkpoint()
    if path is None or is_tool() or any(option.is_given or option.is_in(words) for option in usual):
        return ()
    offered = path
    path, other = _own(offered)
    if path is None:
        _notify_once(usual[0].names[0], f"does not get {offered}: it was saved by `{other}`")
        return ()
    filled = []
    for option in usual:
        option.value = option.kind(path) if option.is_free else None
        if option.value is not None:
            filled.append(option)
            _filled.update(map(_plain, option.all_names))
            _notify_once(option.names[0], "is switched on" if option.value is True else f"gets {option.value}")
    return filled


def takes_checkpoint(name: str, value: Any) -> bool:
    """Whether an option has the checkpoint that is offered to this session: from us, not from the user."""
    return _plain(name) in _filled or (value is not None and value == os.environ.get(_RESUMES))


def _own(offered: str) -> tuple[Optional[str], str]:
    """The checkpoint for this process, or None; and the command of the process that saved the offered one, if another.

    It is the offered checkpoint, unless a process with other arguments saved that; then the newest one by a process
    with the same arguments.
    """
    from ...trainings import savers

    run_dir = os.environ["BACKPROP_RUN_DIR"]
    ours = savers.of_this_process(int(os.environ["BACKPROP_SESSION"]), offered)
    other = savers.other_saver(run_dir, ours, offered)
    if other is None:
        return offered, ""
    return savers.own_checkpoint(run_dir, ours), other.shown


def _notify_once(name: str, what: str) -> None:
    """Tell the user once for each option, from rank 0 only."""
    from ...distributed import rank

    if name not in _notified and rank() == 0:
        _notified.add(name)
        notify_user(f"{name} {what}")


def _look_for_another(options: Sequence[Option], words: Sequence[str]) -> None:
    """Report an option to the supervisor that looks as if it may take the checkpoint."""
    if _has_usual or _hint is not None:
        return
    for option in options:
        name = option.names[0]
        is_one = option.is_free and _looks_like_one(name) and not (option.is_given or option.is_in(words))
        if is_one and option.kind("") == "" and not is_tool():
            _report_option(name if name.startswith("-") else name + "={path}")
            return


def _report_option(option: Optional[str]) -> None:
    """Send an event without SupervisorLink, which imports much. option: None takes an earlier report back."""
    from ...plain_files import open_plain

    global _hint  # noqa: PLW0603
    _hint = option
    if option is not None and not re.fullmatch(r"[\w.-]{1,100}(={path})?", option, re.ASCII):
        return
    text = "null" if option is None else f'"{option}"'
    events = open_plain(os.environ["BACKPROP_EVENTS"], os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(events, f'{{"event": "resume_option", "option": {text}}}\n'.encode())
    finally:
        os.close(events)


def are_the_scripts(words: Sequence[str], rests: Sequence[Any] = ()) -> bool:
    """Whether a parser gets the script's own arguments: all, or those that another parser has left.

    rests: lists of arguments that other parsers have left. An empty list counts only if it is one of these.
    """
    if words == sys.argv[1:] or any(words is rest for rest in rests):
        return True
    remaining = iter(sys.argv[1:])
    return bool(words) and all(word in remaining for word in words)  # in the same order


def is_nothing(default: Any) -> bool:
    """Whether a default means that there is none: None, "", False, or a library's own constant."""
    try:
        return not default or getattr(default, "name", None) == "UNSET"
    except Exception:  # noqa: BLE001  for example an array
        return False


def as_path(_: Any = None) -> Callable[[str], Any]:
    """For options that take any text."""
    return lambda path: path


def as_switch(_: Any = None) -> Callable[[str], Any]:
    """For options without a value."""
    return lambda path: bool(path) or None


def of_no_use(_: Any = None) -> Callable[[str], Any]:
    """For options that cannot take a path."""
    return lambda _: None


def converted(convert: Callable[[str], Any]) -> Callable[[str], Any]:
    """For options whose text is converted by a function of the script or the library.

    The function is only called when there is a checkpoint, because it may open the file.
    """

    def kind(path: str) -> Any:
        if not path:
            return path if getattr(convert, "__name__", "") in _TEXTS else None
        for value in (path, "true"):  # some options take a truth value
            try:
                convert(value)
            except Exception:  # noqa: BLE001, S112  the script's function does not take a path
                continue
            return value
        return None

    return kind


def by_annotation(annotation: Any, default: Any) -> Callable[[str], Any]:
    """For options that are parameters of a function: by the annotation, otherwise by the default."""
    words = set(re.findall(r"\w+", str(annotation)))
    if words & {"str", "Path", "PathLike"}:
        return as_path()
    if "bool" in words or default is False:
        return as_switch()
    return as_path() if annotation is None or "Any" in words else of_no_use()


_PACKAGES = {"site-packages", "dist-packages"}  # the latter on Debian
_tool: Optional[bool] = None


def is_tool() -> bool:
    """Whether this process runs an installed program, such as torchrun, pip or `trl`, and not a script."""
    global _tool  # noqa: PLW0603
    if _tool is None:
        # where `sysconfig` says that Python and pip install; to import and ask it takes more than a millisecond
        path = getattr(sys.modules.get("__main__"), "__file__", None)
        folder = "" if path is None else os.path.dirname(os.path.realpath(path))
        places = (
            os.path.dirname(os.__file__),
            os.path.join(sys.prefix, "bin"),
            os.path.join(sys.prefix, "local", "bin"),
        )
        is_installed = not _PACKAGES.isdisjoint(folder.split(os.sep))
        _tool = is_installed or any(
            f"{folder}{os.sep}".startswith(f"{os.path.realpath(one)}{os.sep}") for one in places
        )
    return _tool


def is_below_reporter() -> bool:
    """Whether another process has reported parameters, and has started this one."""
    ours = str(os.getpid())
    return os.environ.get(REPORTER, ours) != ours
