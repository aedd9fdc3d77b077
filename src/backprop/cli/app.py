"""The application: its commands, and how errors become one line and an exit code."""

import os
import sys
import traceback
from typing import Annotated

import typer

from backprop import __version__
from backprop.cli import look, manage, run
from backprop.errors import BackpropError, ExitCode

app = typer.Typer(
    name="backprop",
    help="Run training scripts in short, safe sessions that cannot lose work.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("run", cls=run.RunCommand)(run.run)
app.command("resume")(run.resume)
app.command("list")(look.list_runs)
app.command("status")(look.status)
app.command("logs")(look.logs)
app.command("stop")(manage.stop)
app.command("rm")(manage.rm)
app.command("reindex")(manage.reindex)

# typer's own errors (unknown option, missing argument); where their class lives differs between its versions
_ClickError: type[Exception] = typer.BadParameter.__mro__[2]


def _show_version(value: bool) -> None:
    if value:
        print(f"backprop {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", help="With an error, show where it comes from.")] = False,
) -> None:
    if verbose:
        os.environ["BACKPROP_VERBOSE"] = "1"


def main() -> None:
    """Run the command line and exit with the code that the README documents."""
    try:
        code = app(standalone_mode=False)
        sys.stdout.flush()
    except BackpropError as error:
        _tell(str(error))
        code = error.exit_code
    except _ClickError as error:
        _tell(_usage_message(error))
        code = ExitCode.USAGE
    except (KeyboardInterrupt, typer.Abort):
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        # `backprop list | head`: nobody reads on. Python would complain once more when it flushes stdout at exit
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = ExitCode.OK
    sys.exit(int(code or 0))


def _tell(message: str) -> None:
    print(f"backprop: {message}", file=sys.stderr)
    if os.environ.get("BACKPROP_VERBOSE"):
        traceback.print_exc()


def _usage_message(error: Exception) -> str:
    message = str(getattr(error, "message", "") or error)
    if hasattr(error, "format_message"):
        message = error.format_message()
    message = " ".join(message.split())
    context = getattr(error, "ctx", None)
    if context is not None and context.info_name == "run" and message.startswith(("No such option", "Got unexpected")):
        message += " The script's own arguments go after '--': backprop run train.py -- --lr 0.1"
    return message[:1].lower() + message[1:]
