"""On resume, a script's own resume flag gets the checkpoint, as if it had been given."""

import os
import sysconfig
import textwrap

import pytest

from tests.conftest import Runs

SAVES = """
    import argparse, pathlib
    def save():
        path = os.path.abspath(CHECKPOINT)
        open(path, "w").write("state")
        print(json.dumps({"event": "checkpoint_saved", "path": path, "step": 1}))
"""


def resumed(runs: Runs, body: str, *words: object, checkpoint: str = "state.bin", flags: tuple[str, ...] = ()):
    """(what the script prints in its first session, in its second one, stderr of the second)."""
    script = runs.script(f"CHECKPOINT = {checkpoint!r}" + textwrap.dedent(SAVES) + textwrap.dedent(body) + "\nsave()\n")
    first = runs.call("run", "--run-id", "r", *flags, script, "--", *words)
    assert first.returncode == 0, first.stderr
    second = runs.call("resume", "r", "--again")
    assert second.returncode == 0, second.stderr
    told = [done.stdout.splitlines()[0] for done in (first, second)]
    return told[0], told[1], second.stderr


def ask(declared: str, call: str = "parser.parse_args()") -> str:
    return f"""
parser = argparse.ArgumentParser()
parser.add_argument("--lr", type=float, default=0.1)
{declared}
args = {call}
print(args)
"""


@pytest.mark.parametrize(
    "name", ["--resume", "--resume_from_checkpoint", "--resume-from-checkpoint", "--resume-path", "--continue-from"]
)
def test_a_resume_flag_gets_the_checkpoint(name: str, runs: Runs):
    dest = name[2:].replace("-", "_")
    first, second, stderr = resumed(runs, ask(f"parser.add_argument('{name}')"))
    assert f"{dest}=None" in first
    path = runs.work / "state.bin"
    assert f"{dest}={str(path)!r}" in second
    assert f"backprop: {name} gets {path}\n" in stderr


def test_its_type_is_applied_and_a_path_may_have_blanks(runs: Runs):
    _, second, _ = resumed(
        runs,
        ask("parser.add_argument('-r', '--resume', type=pathlib.Path, default=None)"),
        checkpoint="my best state.bin",
    )
    assert f"resume={(runs.work / 'my best state.bin')!r}" in second


@pytest.mark.parametrize(
    "declared",
    [
        "parser.add_argument('--resume', action='store_true')",
        "parser.add_argument('--resume', action=argparse.BooleanOptionalAction)",
        "parser.add_argument('--resume', type=lambda text: {'true': True, 'false': False}[text], default=False)",
    ],
)
def test_a_switch_is_turned_on(declared: str, runs: Runs):
    first, second, _ = resumed(runs, ask(declared))
    assert "resume=True" not in first
    assert "resume=True" in second


@pytest.mark.parametrize(
    "words", [("--resume", "mine.bin"), ("--resume=mine.bin",), ("--resu", "mine.bin"), ("--lr", "1", "--resume", "")]
)
def test_what_was_given_stays(words: tuple[str, ...], runs: Runs):
    first, second, stderr = resumed(runs, ask("parser.add_argument('--resume')"), *words)
    assert first == second
    assert " gets /" not in stderr


@pytest.mark.parametrize(
    "declared",
    [
        "parser.add_argument('--checkpoint'); parser.add_argument('--ckpt'); parser.add_argument('--load')",
        "parser.add_argument('--resume', type=int, help='a step')",
        "parser.add_argument('--resume', choices=['never', 'allow'])",
        "parser.add_argument('--resume', default='latest')",
        "parser.add_argument('--resume', nargs='+')",
        "parser.add_argument('--resume', action='append')",
        "parser.add_argument('resume', nargs='?')",
    ],
)
def test_a_flag_that_means_something_else_is_left_alone(declared: str, runs: Runs):
    first, second, stderr = resumed(runs, ask(declared))
    assert first == second
    assert " gets /" not in stderr


def test_a_parser_asked_for_what_it_knows_gets_it_too_and_it_is_told_once(runs: Runs):
    body = ask("parser.add_argument('--resume')", "parser.parse_known_args()[0]") + "parser.parse_args()\n"
    _, second, stderr = resumed(runs, body)
    assert "state.bin" in second
    assert stderr.count("--resume gets") == 1


def test_a_subcommand_gets_it_and_the_others_do_not(runs: Runs):
    declared = """
commands = parser.add_subparsers(dest="command")
for name in ("train", "evaluate"):
    command = commands.add_parser(name)
    command.add_argument("data")
    command.add_argument("--resume")
"""
    first, second, stderr = resumed(runs, ask(declared), "--lr", 1, "train", "here")
    assert "resume=None" in first
    assert f"resume={str(runs.work / 'state.bin')!r}" in second
    assert "data='here'" in second
    assert stderr.count("--resume gets") == 1


@pytest.mark.parametrize(("words", "is_resumed"), [((), True), (("--from-scratch",), False), (("--from",), False)])
def test_an_exclusive_group_decides(words: tuple[str, ...], is_resumed: bool, runs: Runs):
    declared = """
group = parser.add_mutually_exclusive_group()
group.add_argument("--resume")
group.add_argument("--from-scratch", action="store_true")
"""
    first, second, _ = resumed(runs, ask(declared), *words)
    assert "resume=None" in first
    assert ("state.bin" in second) is is_resumed


def test_a_parser_of_other_words_than_the_scripts_is_left_alone(runs: Runs):
    first, second, stderr = resumed(runs, ask("parser.add_argument('--resume')", "parser.parse_args(['--lr', '2'])"))
    assert first == second
    assert " gets /" not in stderr


def test_the_parser_is_as_it_was_afterwards(runs: Runs):
    body = ask("parser.add_argument('--resume')").replace("print(args)", "print(parser.get_default('resume'))")
    assert resumed(runs, body)[1] == "None"


def test_without_hooks_nothing_happens(runs: Runs):
    first, second, _ = resumed(runs, ask("parser.add_argument('--resume')"), flags=("--no-hooks",))
    assert first == second


def test_a_flag_that_is_on_the_command_line_already_stays_as_it_is(runs: Runs):
    first, second, stderr = resumed(runs, ask("parser.add_argument('--resume-from')"))
    assert "resume_from=None" in first
    assert "state.bin" in second
    assert " gets /" not in stderr


def test_an_installed_tool_is_not_the_script(runs: Runs):
    tool = ask("parser.add_argument('--resume')")
    name = "backprop_test_tool_of_resume_flags"
    path = f"{sysconfig.get_path('purelib')}/{name}.py"
    script = runs.script(
        f"CHECKPOINT = 'state.bin'{textwrap.dedent(SAVES)}\n"
        f"print(subprocess.run([sys.executable, '-m', '{name}'], capture_output=True, text=True).stdout)\nsave()\n"
    )
    try:
        with open(path, "w") as file:
            file.write("import argparse\n" + tool)
        assert runs.call("run", "--run-id", "r", script).returncode == 0
        done = runs.call("resume", "r", "--again")
    finally:
        os.unlink(path)
    assert "resume=None" in done.stdout


ENDS = "\nsys.exit(3)\n"
HINT = "this script has"


def ended(runs: Runs, declared: str, *words: object, flags: tuple[str, ...] = ()) -> str:
    """stderr of a first session that saves and fails."""
    body = ask(declared) + "save()" + ENDS
    script = runs.script(f"CHECKPOINT = 'state.bin'{textwrap.dedent(SAVES)}\n{body}")
    done = runs.call("run", "--run-id", "r", *flags, script, "--", *words)
    assert done.returncode == 3, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", ["--load-ckpt", "--init_from"])
def test_an_option_that_looks_like_one_is_named_at_the_end(name: str, runs: Runs):
    """Already in the first session: how to resume is said when the next word is the user's."""
    stderr = ended(runs, f"parser.add_argument('{name}', type=str, default='')")
    assert stderr.rstrip().endswith(f"backprop resume r · this script has {name}; resume with --resume-arg {name}")
    done = runs.call("resume", "r", "--resume-arg", name)
    assert str(runs.work / "state.bin") in done.stdout
    assert HINT not in done.stderr


@pytest.mark.parametrize(
    ("declared", "words"),
    [
        ("parser.add_argument('--load-ckpt'); parser.add_argument('--resume')", ()),
        ("parser.add_argument('--ckpt', default='last.pt')", ()),
        ("parser.add_argument('--ckpt')", ("--ckpt", "out.pt")),
        ("parser.add_argument('--ckpt', type=int); parser.add_argument('--load', action='store_true')", ()),
        ("parser.add_argument('--ckpt', type=argparse.FileType('w')); parser.add_argument('ckpt', nargs='?')", ()),
        ("other = argparse.ArgumentParser(); other.add_argument('--ckpt'); other.parse_args(['--ckpt', 'a'])", ()),
    ],
)
def test_what_does_not_look_like_one_is_not_named(declared: str, words: tuple[str, ...], runs: Runs):
    """Only an option that takes a path, was not given, has no default, and where nothing better is there."""
    assert HINT not in ended(runs, declared, *words)


def test_no_option_is_named_where_somebody_resumes_without(runs: Runs):
    """A script whose loop listens to us, and one whose flag the user has named."""
    listens = "print(json.dumps({'event': 'listening'}))\nparser.add_argument('--ckpt')"
    assert HINT not in ended(runs, listens)
    runs.call("rm", "r", "--yes")
    assert HINT not in ended(runs, "parser.add_argument('--ckpt')", flags=("--resume-arg", "--ckpt"))


STAGES = """
first = argparse.ArgumentParser(add_help=False)
first.add_argument("-c", "--config")
known, rest = first.parse_known_args()
{between}
parser = argparse.ArgumentParser()
parser.add_argument("--epochs")
parser.add_argument("--resume", default="")
args = parser.parse_args(rest)
print(args)
"""


@pytest.mark.parametrize("words", [("-c", "cfg.yaml", "--epochs", "3"), ("-c", "cfg.yaml"), ("--epochs", "3")])
def test_a_second_parser_gets_the_rest_of_the_words(words: tuple[str, ...], runs: Runs):
    """One parser takes a configuration file, another what is left: timm's way, and many scripts'."""
    first, second, stderr = resumed(runs, STAGES.format(between="parser = None"), *words)
    assert "resume=''" in first
    assert f"resume={str(runs.work / 'state.bin')!r}" in second
    assert stderr.count("--resume gets") == 1


def test_a_second_parser_keeps_what_was_given(runs: Runs):
    """The rest of the words says what was given."""
    words = ("-c", "cfg.yaml", "--resume", "mine")
    assert "resume='mine'" in resumed(runs, STAGES.format(between=""), *words)[1]


def test_no_words_at_all_are_not_the_scripts_unless_a_parser_left_them(runs: Runs):
    """`parse_args([])` asks for a library's defaults."""
    body = ask("parser.add_argument('--resume')", "parser.parse_args([])")
    first, second, _ = resumed(runs, body, "--lr", "1")
    assert first == second


STATES = """
    import argparse, array, pickle
    TENSOR = array.array("d", [0.5] * 8)
    parser = argparse.ArgumentParser()
    parser.add_argument("--resume")
    parser.add_argument("--fold", default="all")
    parser.add_argument("--lr")
    args = parser.parse_args()
    step = 0
    if args.resume:
        with open(args.resume, "rb") as file: step = pickle.load(file)["step"]
    def save(step):
        with open(f"fold-{args.fold}.pkl", "wb") as file:
            pickle.dump({"params": {"w": TENSOR}, "opt_state": [TENSOR], "step": step}, file)
"""


def test_a_driver_of_processes_hands_each_its_own_checkpoint(runs: Runs):
    """What the process of one fold saved is not for another: it would go on from a wrong model. A finished one gets its own."""
    runs.script(
        STATES
        + """
    if args.fold == "all":
        for fold in "012": subprocess.run([sys.executable, __file__, "--fold", fold], check=True)
        sys.exit()
    print("fold", args.fold, "from", step, flush=True)
    save(step + 5)
    sys.exit(3 if args.fold == "1" and not step else 0)
    """
    )
    assert runs.call("run", "--run-id", "r", "train.py").returncode == 1
    second = runs.call("resume", "r")
    assert second.returncode == 0, second.stderr
    assert second.stdout.splitlines() == ["fold 0 from 5", "fold 1 from 5", "fold 2 from 0"]
    path = runs.work / "fold-1.pkl"
    assert second.stderr.count(f"backprop: --resume gets {path}\n") == 1
    assert second.stderr.count(f"backprop: --resume gets {runs.work / 'fold-0.pkl'}\n") == 1
    assert (
        second.stderr.count(f"--resume does not get {path}: it was saved by `train.py --fold 1`\n") == 2
    )  # the driver, too


def test_a_script_that_gets_other_arguments_gets_its_checkpoint_nevertheless(runs: Runs):
    """The user has changed them."""
    runs.script(STATES + '    print("from", step)\n    save(step + 5)\n')
    assert runs.call("run", "--run-id", "r", "train.py", "--", "--lr", "1").returncode == 0
    for number, rate in ((5, "2"), (10, "3")):
        resumed = runs.call("resume", "r", "--again", "--", "--lr", rate)
        assert resumed.stdout == f"from {number}\n", resumed.stderr
