"""On resume, a script whose own parser declares a usual resume flag gets the checkpoint through it.

Only when the flag was not given, and through its default: so the parser treats the value as its own, `type` included.
A first session is not touched. What counts as a resume flag is what nobody declares for anything else: `--resume`,
and names that begin with `--resume` or `--continue` and say from what. Not `--checkpoint`, `--ckpt` or `--load`: in
some scripts they name a folder to write to, in others pretrained weights, and a script that gets a whole training
state where it expects those would fail where it could have begun anew. (`--resume-arg FLAG` names any flag.)

Checkpoints that hooks of ours wrote in a form of their own are not for the script to read: see boosting.py.
"""
# ruff: noqa: SLF001  a parser's actions and groups have no public names; they have been where they are since 2.7

from __future__ import annotations

import os
import sys
from typing import Any, Iterator, NamedTuple, Optional, Sequence

from ..failsafe import guarded, say
from ..files import FOLDER
from ..ranks import rank
from ..session import current

_HOOK = "resume flags"
_NAMES = {
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
_ONE_VALUE = {"_StoreAction"}
_NO_VALUE = {"_StoreTrueAction", "BooleanOptionalAction"}

_is_parsing = False  # the script's arguments: a subcommand's parser gets the rest of them
_told: set[str] = set()


class _Filled(NamedTuple):
    """A flag with the checkpoint as its default."""

    action: Any
    default: Any  # its own


def hook(argparse: Any) -> None:
    """Hook the module argparse, in a session that resumes."""
    session = current()
    checkpoint = None if session is None else session.resume_from
    if checkpoint is None or FOLDER in checkpoint.split(os.sep):
        return
    original = argparse.ArgumentParser.parse_known_args

    def parse_known_args(self: Any, args: Any = None, namespace: Any = None, **others: Any) -> Any:
        global _is_parsing  # noqa: PLW0603
        is_outermost = not _is_parsing
        words = sys.argv[1:] if args is None else list(args)
        if is_outermost and (words != sys.argv[1:] or _is_tool()):
            return original(self, args, namespace, **others)
        filled = _fill(self, words, checkpoint, argparse.SUPPRESS)
        _is_parsing = True
        try:
            return original(self, args, namespace, **others)
        finally:
            _is_parsing = not is_outermost
            for action, default in filled:
                action.default = default

    argparse.ArgumentParser.parse_known_args = parse_known_args


@guarded(_HOOK, otherwise=False)
def _is_tool() -> bool:
    """Whether this process runs a program that was installed, not a script: torchrun, say, or pip."""
    import sysconfig

    path = getattr(sys.modules.get("__main__"), "__file__", None)
    if path is None:
        return False
    paths = sysconfig.get_paths()
    folder = os.path.dirname(os.path.realpath(path))
    places = {os.path.realpath(paths[name]) for name in ("stdlib", "purelib", "platlib", "scripts")}
    return any(folder == place or folder.startswith(place + os.sep) for place in places)


@guarded(_HOOK, otherwise=())
def _fill(parser: Any, words: Sequence[str], checkpoint: str, suppressed: str) -> Sequence[_Filled]:
    """Make the checkpoint the default of the parser's resume flags, unless the command line says something else."""
    flags = [(name, action) for action in parser._actions if (name := _resume_name(action)) is not None]
    if any(_is_given(action, words) for _, action in flags):
        return ()
    filled = []
    for name, action in flags:
        is_free = not action.default or action.default is suppressed
        value = _value(action, checkpoint) if is_free else None
        if value is None or any(_is_given(other, words) for other in _rivals(parser, action)):
            continue
        filled.append(_Filled(action, action.default))
        action.default = value
        _tell(name, value)
    return filled


def _resume_name(action: Any) -> Optional[str]:
    for name in action.option_strings:
        if name.startswith("--") and name[2:].replace("_", "-") in _NAMES:
            return str(name)
    return None


def _value(action: Any, checkpoint: str) -> Any:
    """What the flag gets; None when it wants something else."""
    kind = type(action).__name__
    if kind in _NO_VALUE:
        return True
    if kind not in _ONE_VALUE or action.nargs not in {None, "?"} or action.choices is not None:
        return None
    if action.type is None:
        return checkpoint
    for value in (checkpoint, "true"):  # some flags take a truth value
        try:
            action.type(value)
        except Exception:  # noqa: BLE001, S112  whatever the script's function makes of it: a step's number is wanted
            continue
        return value
    return None


def _rivals(parser: Any, action: Any) -> Iterator[Any]:
    """Options that must not be given together with this one."""
    for group in parser._mutually_exclusive_groups:
        if action in group._group_actions:
            yield from (other for other in group._group_actions if other is not action)


def _is_given(action: Any, words: Sequence[str]) -> bool:
    """Whether an option is on the command line; abbreviated, too."""
    for word in words:
        name = word.partition("=")[0]
        if name == "--":
            return False
        if name in action.option_strings:
            return True
        if name.startswith("--") and any(option.startswith(name) for option in action.option_strings):
            return True
    return False


def _tell(name: str, value: Any) -> None:
    if name not in _told and rank() == 0:
        _told.add(name)
        told = "is switched on" if value is True else f"gets {value}"
        say(f"{name} {told}")
