"""The application: its commands, and how errors become one line and an exit code."""

import errno
import importlib
import io
import os
import re
import sys
from typing import Any, NoReturn

import click

from backprop import __version__
from backprop.cli import help  # noqa: A004  nobody asks Python for help here
from backprop.errors import BackpropError, ExitCode
from backprop.text import printable

# command -> the module and the object in it; a command's module is loaded when it is called, not before
_COMMANDS = {
    "run": ("commands.run", "run"),
    "resume": ("commands.resume", "resume"),
    "list": ("commands.list", "list_runs"),
    "status": ("commands.status", "status"),
    "compare": ("commands.compare", "compare"),
    "best": ("commands.best", "best"),
    "verdict": ("commands.verdict", "verdict"),
    "plot": ("commands.plot", "plot"),
    "report": ("commands.report", "report"),
    "diagnose": ("commands.diagnose", "diagnose"),
    "logs": ("commands.logs", "logs"),
    "wait": ("commands.wait", "wait"),
    "sweep": ("commands.sweep", "sweep"),
    "watch": ("commands.watch", "watch"),
    "ui": ("commands.ui", "ui"),
    "stop": ("commands.stop", "stop"),
    "pause": ("commands.pause", "pause"),
    "queue": ("commands.queue", "queue"),
    "rename": ("commands.rename", "rename"),
    "tag": ("commands.tag", "tag"),
    "note": ("commands.note", "note"),
    "archive": ("commands.archive", "archive"),
    "unarchive": ("commands.archive", "unarchive"),
    "rm": ("commands.rm", "rm"),
    "execute": ("slurm.job", "execute"),
    "reindex": ("commands.reindex", "reindex"),
    "export": ("commands.export", "export"),
    "parse": ("commands.parse", "parse"),
    "import": ("commands.import_log", "import_log"),
    "init": ("commands.init", "init"),
    "doctor": ("commands.doctor", "doctor"),
    "mcp": ("commands.mcp", "mcp"),
    "guide": ("commands.guide", "guide"),
    "completion": ("commands.completion", "completion"),
}


_UNWRITABLE = {errno.ENOSPC, errno.EDQUOT, errno.EIO}  # what a write to a full disk, or a terminal that is gone, raises
_WORD_LENGTH = 20  # no command is longer
_OPTION_LENGTH = 40
_SUMMARY_LENGTH = 1000  # a sentence is shorter
_ALIKE = 0.75  # of an option's letters: --model is not --nodes
# what the same is called elsewhere
_HABITS = {
    "cancel": "stop",
    "delete": "rm",
    "diff": "compare",
    "info": "status",
    "kill": "stop",
    "ls": "list",
    "mv": "rename",
    "ps": "status",
    "remove": "rm",
    "show": "status",
    "start": "run",
    "tail": "logs",
    "top": "watch",
    "train": "run",
}
COMPLETE_VARIABLE = "_BACKPROP_COMPLETE"  # in the environment when a shell asks what may follow
_ARGUMENTS_HINT = " The script's own arguments go after '--': backprop run train.py -- --lr 0.1"


class _ReaderGoneError(Exception):
    """The reader of our output has gone: `backprop logs last | head`."""


class LazyGroup(click.Group):
    """The commands in the order of _COMMANDS, each loaded when it is asked for."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        command: click.Command = getattr(importlib.import_module(f"backprop.cli.{module}"), name)
        help.explain(cmd_name, command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """As click does it, but no summary is cut: it continues in the next line."""
        commands = [(name, self.get_command(ctx, name)) for name in self.list_commands(ctx)]
        rows = [
            (name, command.get_short_help_str(_SUMMARY_LENGTH))
            for name, command in commands
            if command is not None and not command.hidden
        ]
        with formatter.section("Commands"):
            formatter.write_dl(rows)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args[0] not in _COMMANDS and not ctx.resilient_parsing:
            import difflib

            near = difflib.get_close_matches(args[0][:_WORD_LENGTH], _COMMANDS, n=1)
            if meant := _HABITS.get(args[0], *near):
                ctx.fail(f"No such command {args[0]!r}: did you mean {meant}?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except BrokenPipeError as error:  # click would exit with 1
            raise _ReaderGoneError from error


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, message="%(prog)s %(version)s")
@click.option("--verbose", is_flag=True, help="Show a traceback with errors.")
def app(*, verbose: bool) -> None:
    """Run training scripts in short, safe sessions that stop gracefully and resume."""
    if verbose:
        os.environ["BACKPROP_VERBOSE"] = "1"


def main() -> None:
    """Run the command line and exit with a code of docs/reference/exit-codes.md."""
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr is: a name in Kanji must not end `list`
    if COMPLETE_VARIABLE in os.environ:
        _complete()
    try:
        code = app(prog_name="backprop", standalone_mode=False)
        sys.stdout.flush()
    except BackpropError as error:
        code = _fail(str(error), error.code, error.exit_code)
    except click.exceptions.NoArgsIsHelpError as error:
        print(error.format_message(), file=sys.stderr)
        code = ExitCode.USAGE
    except click.ClickException as error:
        code = _fail(_usage_message(error), "usage", ExitCode.USAGE)
    except (KeyboardInterrupt, click.Abort):
        code = ExitCode.INTERRUPTED
    except (_ReaderGoneError, BrokenPipeError):
        # Python would complain once more when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.OK
    except OSError as error:
        code = _fail_by_system(error)
    sys.exit(int(code or 0))


def _complete() -> NoReturn:
    """Answer a shell, or say nothing: what is written to stderr would land in the user's command line."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    app(prog_name="backprop", complete_var=COMPLETE_VARIABLE)
    sys.exit(ExitCode.OK)


def _fail_by_system(error: OSError) -> ExitCode:
    """Say what the system refused, where a user can mend that. Raises the error where it is a bug of ours."""
    from backprop.cli.context import working_folder

    if isinstance(error, PermissionError) and error.filename is not None:
        _say(f"{error.filename}: {error.strerror}.")  # given by the user, or recorded: in a folder of somebody else
        return ExitCode.USAGE
    if isinstance(error, FileNotFoundError) and error.filename is None:  # a relative path in a folder that was deleted
        try:
            working_folder()
        except BackpropError as gone:
            return _fail(str(gone), gone.code, gone.exit_code)
    if error.filename is not None or error.errno not in _UNWRITABLE:
        raise error
    _say(f"cannot write the output: {error.strerror}.")
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # as in `main`
    return ExitCode.USAGE


def _fail(message: str, code: str, exit_code: ExitCode) -> ExitCode:
    """Say what is wrong: on stderr, and under --json on stdout, too."""
    from backprop.cli.context import asks_for_json, print_json

    _say(message)
    if asks_for_json(sys.argv[1:]):
        what, *hint = re.split(r"; |(?<=[.?]) +(?=[A-Z])", message, maxsplit=1)  # what happened, then what to do
        print_json({"error": {"code": code, "message": what, "hint": hint[0] if hint else None, "exit": exit_code}})
    return exit_code


def _say(message: str) -> None:
    from backprop.cli.context import say

    say(message)
    if os.environ.get("BACKPROP_VERBOSE"):
        import traceback

        for line in traceback.format_exc().splitlines():
            print(printable(line), file=sys.stderr)


def _usage_message(error: click.ClickException) -> str:
    message = " ".join(error.format_message().split())
    message = message.replace("is not a valid integer range", "is not a whole number")
    context = getattr(error, "ctx", None)
    if isinstance(error, click.NoSuchOption):
        near = None if context is None else _meant_option(error.option_name, context.command)
        message = f"No such option: {error.option_name}." + (f" Did you mean {near}?" if near else "")
    if context is not None and context.info_name == "run" and message.startswith(("No such option", "Got unexpected")):
        message += _ARGUMENTS_HINT
    return message[:1].lower() + message[1:]


def _meant_option(word: str, command: click.Command) -> str | None:
    """The option that begins so, or is spelt nearly so; None where none is."""
    import difflib

    known = [name for param in command.params for name in (*param.opts, *param.secondary_opts) if name[:2] == "--"]
    beginning = [name for name in known if name.startswith(word) and len(word) > len("--")]
    near = beginning or difflib.get_close_matches(word[:_OPTION_LENGTH], known, n=1, cutoff=_ALIKE)
    return near[0] if near else None
