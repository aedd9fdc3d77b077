"""--json, --jsonl and --fields, and errors under them."""

import json

import pytest

from tests.conftest import Runs, recorded

SCRIPT = """
for step in (1, 2, 3):
    print(json.dumps({"step": step, "loss": abs(2 - step) + 1.0, "x.y": step}))
"""


@recorded
def two(runs: Runs) -> None:
    runs.script(SCRIPT)
    for run_id in "ab":
        assert runs.call("run", "train.py", "--run-id", run_id).returncode == 0


def test_only_the_fields_asked_for(two: Runs):
    """They alone mean --json; one line a run."""
    done = two.call("list", "--fields", "id,status,last_step,metrics.loss.best,best.loss.step,metrics.x.y")
    assert json.loads(done.stdout) == [
        {
            "id": run_id,
            "status": "completed",
            "last_step": 3,
            "metrics.loss.best": 1.0,
            "best.loss.step": 2,
            "metrics.x.y": 3.0,
        }
        for run_id in "ba"
    ]
    assert len(done.stdout.splitlines()) == 4
    assert json.loads(two.call("status", "a", "--json", "--fields", "id").stdout) == {"id": "a"}


def test_a_line_a_run(two: Runs):
    """Each is the whole document, or the fields of it."""
    lines = two.call("list", "--jsonl").stdout.splitlines()
    assert [json.loads(line) for line in lines] == json.loads(two.call("list", "--json").stdout)
    assert two.call("list", "--jsonl", "--fields", "id").stdout == '{"id": "b"}\n{"id": "a"}\n'


def test_a_long_list_says_how_to_get_a_short_one(two: Runs):
    """On stderr, to a program that has not said which fields it wants; none is left out of what it gets."""
    assert two.call("list", "--json").stderr == ""
    two.script("print(json.dumps({'event': 'params', 'params': {'text': 'x' * 21_000}}))", "long.py")
    assert two.call("run", "long.py").returncode == 0
    done = two.call("list", "--json")
    count = f"{len(done.stdout):,} characters"
    assert (len(json.loads(done.stdout)), done.stderr) == (
        3,
        f"backprop: {count}; for fewer: --fields id,status,last_step,best\n",
    )
    assert two.call("list", "--fields", "id,params").stderr == ""


def test_an_unknown_field_is_an_error(two: Runs):
    """It names the nearest one. But it never takes the place of what a run came to."""
    done = two.call("list", "--fields", "id,metrics.los.best")
    assert done.returncode == 2
    error = json.loads(done.stdout)["error"]
    assert error == {
        "code": "usage",
        "message": "--fields: there is no 'metrics.los.best'",
        "hint": "did you mean metrics.loss.best?",
        "exit": 2,
    }
    two.script("sys.exit(7)", "fails.py")
    done = two.call("run", "fails.py", "--fields", "staus,status")
    assert done.returncode == 7
    assert json.loads(done.stdout) == {"staus": None, "status": "failed"}
    assert "did you mean status?" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "exit_code"),
    [
        (["status", "nobody", "--json"], "no_such_run", 3),
        (["list", "--json", "--nonsense"], "usage", 2),
        (["list", "--jsonl", "--filter", "x"], "usage", 2),
        (["nonsense", "--json"], "usage", 2),
        (["run", "train.py", "--config", "none.toml", "--json"], "usage", 2),
    ],
)
def test_an_error_is_json_too(two: Runs, arguments: list[str], code: str, exit_code: int):
    """On stdout, and as a line on stderr; without --json stdout stays empty."""
    done = two.call(*arguments)
    error = json.loads(done.stdout)["error"]
    assert (error["code"], error["exit"], done.returncode) == (code, exit_code, exit_code)
    assert error["message"] in done.stderr
    assert len(done.stderr.splitlines()) == 1
    bare = [word for word in arguments if not word.startswith("--json")]
    assert two.call(*bare).stdout == ""


def test_an_error_of_a_script_that_takes_json_is_none_of_ours(two: Runs):
    """What follows -- is the script's."""
    assert two.call("run", "nowhere.py", "--", "--json").stdout == ""


def test_several_runs_in_few_words(two: Runs):
    """wait and run --vary print the most important fields of each, all of them with --full."""
    done = two.call("wait", "a", "b", "--json")
    assert json.loads(done.stdout) == [
        {
            "id": run_id,
            "name": None,
            "status": "completed",
            "reason": None,
            "exit_code": 0,
            "last_step": 3,
            "stalled_s": None,
            "best": {"loss": {"value": 1.0, "step": 2, "goal": "min"}},
        }
        for run_id in "ab"
    ]
    full = json.loads(two.call("wait", "a", "b", "--json", "--full").stdout)
    assert full == json.loads(two.call("list", "--json", "--reverse").stdout)
    done = two.call("run", "train.py", "--vary", "lr=1,2", "--json")
    assert [set(run) for run in json.loads(done.stdout)] == [
        set(json.loads(two.call("wait", "a", "--json").stdout)[0])
    ] * 2
    assert two.call("wait", "--all").returncode == 0
