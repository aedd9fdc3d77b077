"""Completion, through a real bash and through click's protocol."""

import functools
import shlex
import sqlite3
import subprocess
from contextlib import closing
from pathlib import Path

import click
import pytest

from backprop.cli import completion
from backprop.cli.app import app
from tests.conftest import BACKPROP, HANG_S, Runs, recorded, wait_for

# zsh and fish ask with the same variables that their scripts set; bash runs its script for real
ASK_BASH = """
PATH={folder}:$PATH
{script}
COMP_WORDS=({words})
COMP_CWORD={position}
compopt() {{ printf 'compopt %s %s\n' "$@"; }}  # only defined while readline completes
_backprop_completion backprop
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@functools.cache
def bash_script() -> str:
    """What `backprop completion bash` prints."""
    return subprocess.run([BACKPROP, "completion", "bash"], capture_output=True, text=True, check=True).stdout


def in_bash(runs: Runs, *words: str) -> list[str]:
    """What bash offers for the last of these words."""
    program = ASK_BASH.format(
        folder=shlex.quote(str(Path(BACKPROP).parent)),
        script=bash_script(),
        words=" ".join(shlex.quote(word) for word in ("backprop", *words)),
        position=len(words),
    )
    done = subprocess.run(
        ["bash", "--norc", "-c", program],
        cwd=runs.work,
        env=runs.environment,
        capture_output=True,
        text=True,
        timeout=HANG_S,
        check=True,
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def asked(runs: Runs, shell: str, text: str, current: str) -> str:
    """What the program answers a shell."""
    return runs.call(_BACKPROP_COMPLETE=f"{shell}_complete", COMP_WORDS=text, COMP_CWORD=current).stdout


@recorded
def named(runs: Runs) -> None:
    """Runs `alpha` (named first), `beta` (failed, named twice), `gamma` (named twice), with metrics."""
    runs.script(
        'print(json.dumps({"step": 1, "train/loss": 1, "a b": 2, "$(touch pwned)": 3})); sys.exit(len(sys.argv) - 1)'
    )
    runs.call("run", "train.py", "--run-id", "alpha", "-n", "first")
    runs.call("run", "train.py", "--run-id", "beta", "-n", "twice", "--", "x")
    runs.call("run", "train.py", "--run-id", "gamma", "-n", "twice")


def test_bash_completes_commands_options_and_runs(named: Runs):
    """By the script that `backprop completion bash` prints."""
    assert in_bash(named, "sta") == ["status"]
    assert in_bash(named, "list", "--sta") == ["--status"]
    assert in_bash(named, "list", "--status", "ru") == ["running"]
    assert in_bash(named, "status", "al") == ["alpha"]
    assert in_bash(named, "rm", "alpha", "b") == ["beta"]
    assert in_bash(named, "run", "--gpu-probe", "nv") == ["nvml", "nvidia-smi"]


def test_names_are_completed_where_they_name_one_run(named: Runs):
    """Ids come first, newest first; a name that two runs share names neither."""
    assert in_bash(named, "status", "") == ["last", "gamma", "beta", "alpha", "first"]


@pytest.mark.parametrize("command", app.list_commands(click.Context(app)))
def test_every_command_that_takes_a_run_completes_it(command: str):
    """Whoever adds one more does not forget it."""
    found = app.get_command(click.Context(app), command)
    arguments = [param for param in found.params if isinstance(param, click.Argument) and param.name in {"run", "runs"}]
    assert all(param._custom_shell_complete in {completion.runs, completion.active_runs} for param in arguments)


def test_only_runs_that_go_on_are_offered_to_stop(named: Runs):
    """The others cannot be stopped."""
    assert in_bash(named, "stop", "") == []


def test_groups_and_tags_are_completed(named: Runs):
    """Those that runs have, each once."""
    for run_id in ("alpha", "beta"):
        assert named.call("tag", run_id, "+Base", "+v1").returncode == 0
    named.call("run", "train.py", "--group", "warmup")
    named.call("list")
    assert in_bash(named, "run", "--tag", "B") == ["Base"]
    assert in_bash(named, "run", "--group", "") == ["warmup"]


def test_metrics_are_completed_where_they_are_asked_for(named: Runs):
    """Those of the newest runs, beside the other keys."""
    assert in_bash(named, "list", "--sort", "tr") == ["train/loss"]
    assert "elapsed" in in_bash(named, "list", "--sort", "")


@pytest.mark.parametrize(
    "words",
    [
        ("run", ""),
        ("run", "train.py", "--", "da"),
        ("run", "-r", "x"),
        ("run", "--python", "/"),
        ("resume", "r", "--script", "x"),
        ("resume", "r", "--", "da"),
    ],
)
def test_files_are_left_to_the_shell(runs: Runs, words: tuple[str, ...]):
    """For a script, its own arguments, a checkpoint and an interpreter."""
    assert in_bash(runs, *words) == ["compopt -o default"]


def test_folders_are_left_to_the_shell(runs: Runs):
    """For the folder that a run goes on in."""
    assert in_bash(runs, "resume", "r", "--cwd", "x") == ["compopt -o dirnames"]


HOSTILE = [
    "$(touch pwned)",
    "`touch pwned`",
    "a; touch pwned",
    "a\ttouch pwned",
    "a'b\"c",
    "--now",
    "<b>html</b>",
    "x,y",
    "two words",
    "\u202egnp.exe",
    "*",
    "~root",
]


def test_hostile_names_are_never_offered(named: Runs):
    """A word that a shell might obey does not reach a command line, whatever a run or a metric is called."""
    with closing(sqlite3.connect(named.home / "index.db")) as index, index:
        for number, name in enumerate(HOSTILE):
            index.execute(
                "INSERT INTO runs (id, name, status, created_at, journal_size, words) VALUES (?, ?, 'failed', 9e9, 0, '')",
                (f"hostile{number}", name),
            )
    offered = in_bash(named, "status", "")
    assert {f"hostile{number}" for number in range(len(HOSTILE))} <= set(offered)
    assert not set(HOSTILE) & set(offered)
    assert in_bash(named, "list", "--sort", "$") == in_bash(named, "list", "--sort", "a") == []
    for word in HOSTILE:
        in_bash(named, "status", word)
    assert not (named.work / "pwned").exists()
    for shell in ("zsh", "fish"):
        told = asked(named, shell, "backprop status ", "2" if shell == "zsh" else "")
        assert "hostile0" in told
        assert all(character.isprintable() for line in told.splitlines() for character in line.replace("\t", ""))


def test_zsh_and_fish_show_what_a_run_is(named: Runs):
    """Status and name beside an id."""
    assert "alpha\ncompleted first" in asked(named, "zsh", "backprop status al", "2")
    assert "beta\tfailed twice" in asked(named, "fish", "backprop status be", "be")


def test_nothing_is_made_where_there_is_no_home(runs: Runs):
    """Tab in a new account leaves no trace and says nothing."""
    assert in_bash(runs, "status", "") == []
    assert not runs.home.exists()


@pytest.mark.parametrize("content", [b"", b"rubbish" * 1000])
def test_a_broken_index_is_silent(runs: Runs, content: bytes):
    """A shell shows what goes to stderr in the midst of a command line; and nothing is mended by Tab."""
    runs.home.mkdir()
    (runs.home / "index.db").write_bytes(content)
    assert in_bash(runs, "status", "") == []
    if content:
        assert (runs.home / "index.db").read_bytes() == content


def test_nothing_is_settled(runs: Runs):
    """A run whose supervisor is dead is left for a command that looks."""
    runs.script('print("here", flush=True); time.sleep(1000)')
    supervisor = runs.start("run", "train.py", "--run-id", "dead")
    wait_for(lambda: runs.output("dead"))
    runs.call("list")
    supervisor.kill()
    supervisor.wait()
    assert in_bash(runs, "stop", "") == ["dead"]
    assert runs.journal("dead")[-1]["event"] != "session_ended"
    assert runs.document("dead")["status"] == "interrupted"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_printed(runs: Runs, shell: str):
    """By name, or that of the shell one works in."""
    done = runs.call("completion", shell)
    assert done.returncode == 0
    assert "_BACKPROP_COMPLETE" in done.stdout
    assert runs.call("completion", SHELL=f"/usr/bin/{shell}").stdout == done.stdout


def test_an_unknown_shell_is_an_error(runs: Runs):
    """It names those that are known."""
    done = runs.call("completion", "tcsh")
    assert done.returncode == 2
    assert "bash, zsh, fish" in done.stderr
