"""Parameters are what the script's parser parsed; where none was seen, what its arguments look like."""

import itertools
import textwrap

import pytest

from tests.conftest import Runs

PARSER = """
    import argparse
    parser = argparse.ArgumentParser()
    parser.add_argument("--learning-rate", "--lr", dest="lr", type=float, default="0.1")
    parser.add_argument("--layers", type=int, nargs="+", default=[64])
    parser.add_argument("--amp", action="store_true")
    parser.add_argument("--api-key")
    parser.add_argument("data", nargs="?", default="digits")
"""


def parsed(runs: Runs, body: str, *words: object) -> dict[str, object]:
    """The parameters of a run of a script with the parser above."""
    runs.script(textwrap.dedent(PARSER) + textwrap.dedent(body))
    done = runs.call("run", "--run-id", "r", "train.py", "--", *words)
    assert done.returncode == 0, done.stderr
    return runs.document("r")["params"]


def test_what_the_parser_parsed_is_recorded(runs: Runs):
    """Names, types and defaults are the parser's; the look of the arguments does not count any more."""
    params = parsed(runs, "parser.parse_args()", "--lea", "1", "--amp", "digits.csv", "--layers", "3", "4")
    assert params == {"lr": 1.0, "amp": True, "layers": [3, 4], "data": "digits.csv", "api_key": None}
    assert runs.document("r")["default_params"] == ["api_key"]


def test_defaults_are_marked(runs: Runs):
    """A value that is the default is one, whether it was given or not."""
    params = parsed(runs, "parser.parse_args()", "--lr", "0.1", "--layers", "5")
    assert params == {"lr": 0.1, "amp": False, "layers": [5], "data": "digits", "api_key": None}
    assert runs.document("r")["default_params"] == ["amp", "api_key", "data", "lr"]
    rows = runs.call("status", "r").stdout.splitlines()
    assert "params     layers=[5]" in rows
    assert "defaults   amp=False  api_key=None  data=digits  lr=0.1" in rows


def test_the_parsers_of_one_script_are_merged(runs: Runs):
    """The later one wins, also over what the first left to it."""
    body = """
        first = argparse.ArgumentParser(add_help=False)
        first.add_argument("--config", default="a")
        first.add_argument("--amp", default=False)
        _, rest = first.parse_known_args()
        parser.parse_args(rest)
    """
    params = parsed(runs, body, "--config", "b", "--lr", "3")
    assert params == {"config": "b", "lr": 3.0, "amp": False, "layers": [64], "data": "digits", "api_key": None}


def test_arguments_that_a_parser_left_are_guessed(runs: Runs):
    """The script reads them by itself."""
    params = parsed(runs, "parser.parse_known_args()", "--lr", "3", "--width=4", "model.depth=2")
    assert params["width"] == 4
    assert params["lr"] == 3.0
    assert "learning_rate" not in params


def test_subcommands_belong_to_the_parser(runs: Runs):
    """With their defaults."""
    body = """
        parser = argparse.ArgumentParser()
        parser.add_argument("--seed", type=int, default=1)
        commands = parser.add_subparsers(dest="command")
        train = commands.add_parser("train")
        train.add_argument("--lr", type=float, default=0.1)
        train.add_argument("--epochs", type=int, default=3)
        parser.parse_args()
    """
    assert parsed(runs, body, "train", "--epochs", "5") == {"seed": 1, "command": "train", "lr": 0.1, "epochs": 5}
    assert runs.document("r")["default_params"] == ["lr", "seed"]


def test_a_parser_of_something_else_is_not_recorded(runs: Runs):
    """It did not get the script's arguments."""
    body = """
        other = argparse.ArgumentParser()
        other.add_argument("--verbose", type=int)
        other.parse_args(["--verbose", "3"])
    """
    assert parsed(runs, body, "--lr", "1") == {"lr": 1}


def test_only_the_first_process_that_parses_is_recorded(runs: Runs):
    """Neither a script that it calls, nor its workers, nor other ranks."""
    body = """
        import multiprocessing, subprocess, sys
        def work():
            parser.parse_args(["--lr", "1"])
            parser.set_defaults(lr=7)
            parser.parse_args()
        if len(sys.argv) > 3:
            parser.parse_args()
            subprocess.run([sys.executable, __file__, "--lr", "2"], check=True)
            for method in ("fork", "spawn"):
                worker = multiprocessing.get_context(method).Process(target=work)
                worker.start()
                worker.join()
        else:
            parser.parse_args()
    """
    assert parsed(runs, body, "--lr", "1", "x.csv")["lr"] == 1.0


@pytest.mark.parametrize(("trains", "params"), [(True, {"lr": 1.0}), (False, {"lr": 2.0})])
def test_an_installed_program_is_recorded_if_it_trains_itself(runs: Runs, *, trains: bool, params: dict[str, float]):
    """A launcher does not: what its script parses counts."""
    place = runs.work / "site-packages" / "program.py"
    place.parent.mkdir()
    runs.script(textwrap.dedent(PARSER) + "parser.parse_args()")
    body = """
    parser.parse_args()
    if {trains}:
        import backprop  # finds the package of the hooks
        from _backprop_trainer.link import current
        current().register_process()
    import subprocess, sys
    subprocess.run([sys.executable, "train.py", "--lr", "2"], check=True)
    """
    place.write_text(textwrap.dedent(PARSER) + textwrap.dedent(body).format(trains=trains))
    done = runs.call("run", "--run-id", "r", "--", "python3", "site-packages/program.py", "--lr", "1")
    assert done.returncode == 0, done.stderr
    found = runs.document("r")["params"]
    assert {name: found[name] for name in params} == params


def test_another_rank_reports_nothing(runs: Runs):
    """Rank 0 does."""
    runs.script(textwrap.dedent(PARSER) + "parser.parse_args()")
    runs.call("run", "--run-id", "r", "--", "env", "RANK=1", "python3", "train.py", "--lr", "1")
    assert runs.document("r")["params"] == {"lr": 1}


def test_without_hooks_the_arguments_are_guessed(runs: Runs):
    """Nobody looks at the parser then."""
    runs.script(textwrap.dedent(PARSER) + "parser.parse_args()")
    runs.call("run", "--run-id", "r", "--no-hooks", "train.py", "--", "--lr", "1")
    assert runs.document("r")["params"] == {"lr": 1}


def test_secrets_are_in_no_view(runs: Runs):
    """Only the record itself has the command line as it is, to execute it again."""
    body = "args = parser.parse_args(); assert args.api_key == 'abc123'"
    assert parsed(runs, body, "--api-key", "abc123")["api_key"] == "***"
    assert "abc123" not in (runs.home / "runs" / "r" / "session-1.events").read_text()
    assert "abc123" not in runs.call("status", "r").stdout
    runs.call("reindex")
    assert runs.document("r")["params"]["api_key"] == "***"
    listed = runs.call("list", "--json").stdout + runs.call("list").stdout + runs.call("compare", "r", "r").stdout
    assert "abc123" not in listed


def test_a_secret_of_the_environment_is_hidden_under_any_name(runs: Runs):
    """`--wb`, whose default it is, say."""
    body = """
        import os
        parser.add_argument("--here", default=os.getcwd())
        parser.add_argument("--wb", default=os.environ["WANDB_API_KEY"])
        parser.add_argument("--urls", nargs="*", default=["a", f"https://host/{os.environ['WANDB_API_KEY']}/x"])
        parser.parse_args()
    """
    runs.environment["WANDB_API_KEY"] = "0123456789abcdef"
    params = parsed(runs, body)
    assert (params["wb"], params["here"]) == ("***", str(runs.work))
    assert params["urls"] == ["a", "https://host/***/x"]
    assert "0123456789abcdef" not in (runs.home / "runs" / "r" / "session-1.events").read_text()


def test_secrets_that_the_script_tells_are_hidden_as_well(runs: Runs):
    """Also in a nested configuration."""
    config = {"wandb": {"api_key": "abc", "project": "digits"}, "hub_token": "abc", "lr": 1}
    runs.script(f"print(json.dumps({{'event': 'params', 'params': {config!r}}}))")
    runs.call("run", "--run-id", "r", "train.py")
    hidden = {"wandb": {"api_key": "***", "project": "digits"}, "hub_token": "***", "lr": 1}
    assert runs.document("r")["params"] == hidden


def test_a_large_configuration_is_cut(runs: Runs):
    """Values that were given come first, and the script's stderr says that some are missing."""
    runs.script(
        """
        import argparse
        parser = argparse.ArgumentParser()
        for number in range(5000):
            parser.add_argument(f"--p{number}", type=int, default=0)
        parser.parse_args()
        """
    )
    done = runs.call("run", "--run-id", "r", "train.py", "--", "--p4999", "1")
    assert "backprop: 4,000 of 5,000 parameters are not recorded (limit 1,000)\n" in done.stderr
    params = runs.document("r")["params"]
    assert len(params) == 1000
    assert params["p4999"] == 1
    assert "defaults   999 parameters (--all shows them)" in runs.call("status", "r").stdout
    assert "p17=0" in runs.call("status", "r", "--all").stdout


def test_strange_values_disturb_nothing(runs: Runs):
    """What cannot be compared, shown or encoded is left out, or a text."""
    body = """
        class Broken:
            def __init__(self, text): pass
            def __eq__(self, other): raise RuntimeError("equal")
            def __str__(self): raise RuntimeError("text")
            __repr__ = __str__
        parser.add_argument("--broken", type=Broken, default="x")
        parser.add_argument("--file", type=argparse.FileType("w"), default="out.txt")
        parser.set_defaults(call=Broken)
        parser.parse_args()
    """
    params = parsed(runs, body, "--lr", "2")
    assert params["lr"] == 2.0
    assert "broken" not in params
    assert params["call"] == "__main__.Broken"
    assert not [line for line in runs.call("logs", "r", "--stderr").stdout.splitlines() if "hook" in line]


def test_a_resume_with_other_arguments_changes_them(runs: Runs):
    """The newest session's parser has the last word, and the checkpoint that it got from us is no parameter."""
    body = """
        parser.add_argument("--resume")
        args = parser.parse_args()
        open("state.bin", "w").write("state")
        print(json.dumps({"event": "checkpoint_saved", "path": "state.bin", "step": 1}))
        print(json.dumps({"event": "params", "params": {"said": args.lr}}))
    """
    first = parsed(runs, body, "--lr", "1", "--layers", "5")
    assert first == {
        "lr": 1.0,
        "layers": [5],
        "amp": False,
        "data": "digits",
        "api_key": None,
        "resume": None,
        "said": 1,
    }
    script = (runs.work / "train.py").read_text()
    (runs.work / "train.py").write_text(script.replace('parser.add_argument("--amp"', 'parser.add_argument("--bf16"'))
    done = runs.call("resume", "r", "--again", "--", "--lr", "2")
    assert f"--resume gets {runs.work / 'state.bin'}" in done.stderr
    second = {"lr": 2.0, "layers": [5], "bf16": False, "data": "digits", "api_key": None, "said": 2}
    assert runs.document("r")["params"] == second
    runs.call("reindex")
    assert runs.document("r")["params"] == second


def test_a_list_has_its_items(runs: Runs):
    """Filters find the runs of a sweep by each of its values."""
    runs.script("")
    runs.call("run", "--run-id", "many", "train.py", "--", "-m", "lr=0.1,0.2", "opt=adam,SGD")
    runs.call("run", "--run-id", "one", "train.py", "--", "lr=0.1", "opt=lion")
    found = {
        condition: runs.call("list", "--filter", condition, "--json").stdout.count('"id"')
        for condition in ("lr=0.1", "param.lr=0.2", "lr>0.15", "opt=sgd", "opt~ada", "opt!=sgd", "lr!=0.2", "lr=0.3")
    }
    assert found == {
        "lr=0.1": 2,
        "param.lr=0.2": 1,
        "lr>0.15": 1,
        "opt=sgd": 1,
        "opt~ada": 1,
        "opt!=sgd": 1,
        "lr!=0.2": 1,
        "lr=0.3": 0,
    }


def test_the_name_in_json_is_not_that_of_a_filter(runs: Runs):
    """The message has the right one."""
    runs.script("")
    runs.call("run", "train.py", "--", "--lr", "0.1")
    assert "did you mean param.lr?" in runs.call("list", "--filter", "params.lr=0.1").stderr


def test_compare_is_not_flooded_by_defaults(runs: Runs):
    """Of scripts with other options only those that were given are told."""
    parsed(runs, "parser.parse_args()", "--lr", "1")
    runs.script("", name="other.py")
    runs.call("run", "--run-id", "s", "other.py", "--", "--width", "3")
    rows = runs.call("compare", "r", "s").stdout.splitlines()
    section = itertools.takewhile(bool, rows[rows.index("PARAMS") + 1 :])
    assert [row.split()[0] for row in section] == ["lr", "width"]
