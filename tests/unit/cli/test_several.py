"""One command for several runs: each gets its chance, and the worst outcome is the exit code."""

from collections.abc import Callable

import click
import pytest

from backprop.cli import several
from backprop.cli.several import each
from backprop.errors import BusyError, ExitCode, NoSuchRunError, UsageError
from backprop.records import Run, RunView, Status
from tests.records import SPEC

VIEWS = [RunView(run=Run(spec=SPEC, status=Status.RUNNING), run_dir="/r") for _ in range(3)]


def steps(*found: Exception | None) -> Callable[[RunView], None]:
    """What happens at the first run, the second, and so on."""
    left = list(found)

    def begin(_: RunView) -> None:
        if (error := left.pop(0)) is not None:
            raise error

    return begin


def test_one_that_fails_keeps_no_other_from_its_turn(capsys: pytest.CaptureFixture[str]):
    assert each(VIEWS, steps(None, NoSuchRunError("gone"), None)) == NoSuchRunError.exit_code
    assert capsys.readouterr().err == "backprop: gone\n"


def test_the_worst_exit_code_counts():
    """Whichever run it was of, and whether it failed at once or at its end."""
    assert each(VIEWS, steps(click.exceptions.Exit(5), BusyError("busy"), click.exceptions.Exit(1))) == 75
    assert each(VIEWS, steps(None, None, None)) == ExitCode.OK


def test_all_are_begun_before_any_is_waited_for():
    """Ten runs are stopped in the time of one."""
    log: list[str] = []

    def begin(_: RunView) -> Callable[[], None]:
        log.append("begin")
        return lambda: log.append("wait")

    each(VIEWS, begin)
    assert log == ["begin"] * 3 + ["wait"] * 3


def test_ctrl_c_ends_the_command():
    """The runs that are left are not touched."""
    assert each(VIEWS, steps(click.exceptions.Exit(130))) == ExitCode.INTERRUPTED


def test_of_a_single_run_the_error_is_the_commands_own():
    with pytest.raises(NoSuchRunError):
        each(VIEWS[:1], steps(NoSuchRunError("gone")))


@pytest.mark.parametrize(
    ("words", "message"),
    [((), "which run?"), (("a", "--all"), "not both"), (("a", "--filter", "x=1"), "not both")],
)
def test_runs_are_named_or_selected(words: tuple[str, ...], message: str):
    """Never both, and never none by accident."""

    @click.command()
    @several.several_runs("All.", of_all=several.ACTIVE)
    def command(choice: several.Choice) -> None:
        raise AssertionError

    with pytest.raises(UsageError, match=message):
        command.main(list(words), standalone_mode=False)
