"""`backprop mcp`: a server for coding agents."""

from pathlib import Path

import click

from backprop.cli import completion
from backprop.cli.context import say_whose_home, working_folder
from backprop.lifecycle.optional_dependency import missing
from backprop.store.home import Home


@click.command()
@click.option(
    "--allow",
    type=click.Choice(["read", "run"]),
    default="read",
    show_default=True,
    help="What agents may do: only read, or also start, resume, stop and annotate runs.",
)
@click.option(
    "--root",
    "roots",
    multiple=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    metavar="DIR",
    shell_complete=completion.folders,
    help="Runs are started and changed only in this directory and below. Repeatable. [default: the current one]",
)
def mcp(*, allow: str, roots: tuple[Path, ...]) -> None:
    """Serve the Model Context Protocol on stdin and stdout, for a coding agent.

    Its tools are the other commands. The server stores nothing, and may be killed at any time.
    """
    try:
        from backprop.cli.mcp.server import Policy, serve
    except ImportError as error:
        raise missing("mcp", error) from error
    say_whose_home(Home.from_environment().path)
    found = [path.resolve() for path in roots or (working_folder(),)]
    serve(Policy(may_run=allow == "run", roots=found))
