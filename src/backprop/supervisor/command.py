"""What is executed: the script or command as given, and the Python it runs on.

The only arguments that are ever added are those that the user adds at a resume, and the checkpoint's path for a script
that takes it.
"""

import ast
import errno
import os
import re
import shutil
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import suppress
from itertools import chain, product
from pathlib import Path

from backprop import host
from backprop.errors import UsageError
from backprop.records import Record, Revision, RunSpec
from backprop.store.output.protocol import json_safe
from backprop.trainer.parameters.command_line import params_in

RESUME_FLAG = "--resume-from"  # a script that declares this flag gets the checkpoint by itself
_DESCRIPTORS = ("/dev/stdin", "/dev/fd/", "/proc/self/fd/")  # of this process, not of the trainer
_SHELLS_SUFFIXES = {".sh", ".bash", ".zsh"}


class Command(Record, frozen=True):
    """An argv, and what is known about it."""

    argv: tuple[str, ...]
    script: str | None = None  # absolute path
    python: str | None = None


def for_script(script: str, arguments: Sequence[str], python: str | None, environment: Mapping[str, str]) -> Command:
    """The command that runs a Python script. Raises UsageError when it cannot be run."""
    _check_script(script)
    path = Path(script)
    interpreter = find_python(python, path.absolute().parent, environment)
    return Command(argv=_utf8((interpreter, script, *arguments)), script=str(path.absolute()), python=interpreter)


def _check_script(script: str) -> None:
    path = Path(script)
    if not path.exists():
        hint = f" To run a command: backprop run -- {script} ..." if shutil.which(script) else ""
        raise UsageError(f"no such script: {script}.{hint}")
    if path.is_dir():
        raise UsageError(f"{script} is a folder; name the script inside it.")
    if not path.is_file() or script.startswith(_DESCRIPTORS):
        raise UsageError(
            f"{script} is not a regular file; every session must be able to read it: save the script first."
        )
    if path.suffix == ".ipynb":
        raise UsageError(f"{script} is a notebook; convert it first: jupyter nbconvert --to script {script}")
    try:
        with path.open("rb") as file:
            first_line = file.readline(200)
    except OSError as error:
        raise UsageError(f"cannot read {script}: {error.strerror}.") from error
    if path.suffix in _SHELLS_SUFFIXES and not first_line.startswith(b"#!"):
        raise UsageError(f"{script} is not a Python script; run it as a command: backprop run -- sh {script}")
    if path.suffix != ".py" and first_line.startswith(b"#!") and b"python" not in first_line:
        raise UsageError(f"{script} is not a Python script; run it as a command: backprop run -- ./{script}")


def for_command(arguments: Sequence[str]) -> Command:
    """A command as given after `--`. Raises UsageError when it cannot be run."""
    program = arguments[0]
    if shutil.which(program) is None:
        if program.endswith(".py") and Path(program).exists():
            raise UsageError(f"{program} is not executable; as a script it goes before '--': backprop run {program}")
        raise UsageError(f"no such command: {program}.")
    return Command(argv=_utf8(tuple(arguments)))


def why_not_started(program: str, error: OSError) -> str:
    """Why a command could not be started, with a hint where a script's `#!` line is the likely cause."""
    reason = host.why_not_started(error) + (f": {error.filename}" if error.filename else "")
    if error.errno == errno.ENOEXEC:
        return f"{reason}; if it is a script, its first line must name its interpreter: #!/bin/sh"
    found = shutil.which(program)
    if error.errno != errno.ENOENT or found is None:
        return reason
    with suppress(OSError), Path(found).open("rb") as file:
        first_line = file.readline(200)
        if first_line.startswith(b"#!") and first_line.endswith(b"\r\n"):
            return f"{reason}; it has Windows line endings (CRLF): sed -i 's/\\r$//' {program}"
        if first_line.startswith(b"#!"):
            interpreter = first_line[2:].decode(errors="replace").strip()
            return f"{reason}; its first line names {interpreter}, which does not exist"
    return reason


def revision(
    spec: RunSpec,
    environment: Mapping[str, str],
    *,
    arguments: Sequence[str] = (),
    script: str | None = None,
    python: str | None = None,
    cwd: str | None = None,
    resume_arg: Sequence[str] | None = None,
) -> Revision | None:
    """The command of the run after these changes; None when nothing changes. Raises UsageError.

    Paths are relative to the current folder. A script with a relative path is looked up in the new folder; where it is
    missing there, the old path stays.
    """
    argv, new_script, folder = [*spec.command, *arguments], spec.script, spec.cwd
    is_script = spec.script is not None and spec.python is not None and len(argv) > 1
    for option, value in (("--script", script), ("--python", python)):
        if value is not None and not is_script:
            raise UsageError(f"{option} is only for runs of a script; this run executes a command: {' '.join(argv)}")
    if cwd is not None:
        if not Path(cwd).is_dir():
            raise UsageError(f"--cwd {cwd}: no such folder.")
        folder = os.path.abspath(cwd)  # noqa: PTH100  a folder is called what its user calls it
        if spec.script is not None and is_script and not Path(argv[1]).is_absolute():
            new_script = os.path.normpath(os.path.join(folder, argv[1]))  # noqa: PTH118
            if not Path(new_script).exists() and Path(spec.script).exists():
                argv[1] = new_script = spec.script
    if script is not None:
        _check_script(script)
        argv[1] = new_script = str(Path(script).absolute())
    if python is not None:
        argv[0] = find_python(python, Path(folder), environment)
    revised = Revision(
        command=_utf8(tuple(argv)),
        cwd=folder,
        script=new_script,
        python=argv[0] if is_script else spec.python,
        params=json_safe({**spec.params, **params_in(script_arguments(argv))}),
        resume_arg=spec.resume_arg if resume_arg is None else tuple(resume_arg),
    )
    return None if spec.revised(revised) == spec else revised


def _utf8(argv: tuple[str, ...]) -> tuple[str, ...]:
    try:
        "".join(argv).encode()
    except UnicodeEncodeError as error:
        raise UsageError("an argument is not valid UTF-8 and cannot be recorded.") from error
    return argv


def find_python(chosen: str | None, script_folder: Path, environment: Mapping[str, str]) -> str:
    """`chosen`, else the active environment, else .venv beside or above the script, else python3, else our own."""
    if chosen is not None:
        found = shutil.which(chosen, path=environment.get("PATH"))
        if found is None:
            raise UsageError(f"--python {chosen}: no such interpreter.")
        return os.path.abspath(found)  # noqa: PTH100  a resolved link would leave its virtual environment
    for variable in ("VIRTUAL_ENV", "CONDA_PREFIX"):
        if (active := environment.get(variable)) and (python := _python_in(Path(active))):
            return python
    for folder in (script_folder, *script_folder.parents):
        if python := _python_in(folder / ".venv"):
            return python

    return shutil.which("python3", path=environment.get("PATH")) or sys.executable


def _python_in(prefix: Path) -> str | None:
    python = prefix / "bin" / "python"
    return str(python) if os.access(python, os.X_OK) else None


def declares_resume_flag(script: str | None) -> bool:
    """True when the script passes the literal "--resume-from" to some call, as argparse and click want it."""
    if script is None:
        return False

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Python shows its warnings when it runs the script
            tree = ast.parse(Path(script).read_bytes())
    except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):  # the last: nested too deep to parse
        return False
    return any(
        isinstance(argument, ast.Constant) and argument.value == RESUME_FLAG
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        for argument in node.args
    )


def with_checkpoint(
    argv: Sequence[str], templates: Sequence[str], checkpoint: str | None, step: int | None = None
) -> tuple[str, ...]:
    """The argv with the checkpoint in it, replacing an earlier value; unchanged without a checkpoint.

    templates: a bare flag (`--resume`) is followed by the path. Another word is added as it is, with `{path}`, `{dir}`
    (the folder that holds it) and `{step}` filled in: `--ckpt={path}`, `+trainer.ckpt_path={path}`, `init_from=resume`.
    step: that it was reported for; a template with an unknown step is left out.
    """
    if checkpoint is None:
        return tuple(argv)
    kept, added = list(argv), []
    for template in templates:
        if "{step}" in template and step is None:
            continue
        name, equals, _ = template.partition("=")
        is_flag = not equals and "{" not in template
        if is_flag or equals:
            kept = _without(kept, name)
        added += [template, checkpoint] if is_flag else [_filled(template, checkpoint, step)]
    return (*kept, *added)


def naming_itself(argv: Sequence[str], templates: Sequence[str]) -> str | None:
    """The first flag that passes the checkpoint and is in this argv already; None where none is."""
    names = (template.partition("=")[0] for template in templates)
    return next((name for name in names if _without(argv, name) != list(argv)), None)


def _without(argv: Sequence[str], name: str) -> list[str]:
    """The argv without `NAME VALUE` and `NAME=VALUE`; for a name without dashes also Hydra's `+NAME=VALUE`."""
    is_flag, bare = name.startswith("-"), name.lstrip("+~")
    kept: list[str] = []
    rest = iter(argv)
    for word in rest:
        if is_flag and word == name:
            next(rest, None)
        elif not (word if is_flag else word.lstrip("+~")).startswith(bare + "="):
            kept.append(word)
    return kept


def _filled(template: str, checkpoint: str, step: int | None) -> str:
    values = {"path": checkpoint, "dir": os.path.dirname(checkpoint), "step": str(step)}  # noqa: PTH120
    return re.sub(r"\{(path|dir|step)\}", lambda match: values[match[1]], template)


def variations(options: Sequence[str]) -> list[tuple[str, ...]]:
    """All combinations of the values of --vary, as a script's arguments: `lr=0.1,0.01` is `--lr 0.1` and `--lr 0.01`.

    Without options one empty combination. Raises UsageError.
    """
    choices = []
    for option in options:
        name, equals, values = option.partition("=")
        if not (name and equals and all(values.split(","))):
            raise UsageError(f"invalid --vary {option!r}: expected NAME=VALUE,VALUE,..., such as --vary lr=0.1,0.01.")
        choices.append([(f"--{name.lstrip('-')}", value) for value in values.split(",")])
    return [tuple(chain.from_iterable(choice)) for choice in product(*choices)]


def script_arguments(argv: Sequence[str]) -> Sequence[str]:
    """What follows the first Python script in an argv; everything after the program when there is none."""
    for position, word in enumerate(argv):
        if word.endswith(".py"):
            return argv[position + 1 :]
    return argv[1:]
