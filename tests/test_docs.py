"""What users read says what the program does."""

import os
import re
import shlex
import shutil
import subprocess
from itertools import takewhile
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from docs import generate

from backprop import __version__, config
from backprop.cli.app import app
from backprop.cli.help import EXAMPLES
from backprop.errors import ExitCode
from backprop.records import Status
from tests.conftest import BACKPROP, HANG_S, Runs

PROJECT = Path(__file__).parents[1]
SOURCE = PROJECT / "src" / "backprop"
README = (PROJECT / "README.md").read_text()
CONTRIBUTORS_PAGES = {("contributing",), ("decisions",)}
PAGES = sorted(
    path.relative_to(PROJECT)
    for pattern in ("*.md", "docs/**/*.md", ".github/**/*.md")
    for path in PROJECT.glob(pattern)
)
_CONTEXT = click.Context(app, **app.context_settings)  # whose commands keep what their first context says
COMMANDS = [
    name for name in app.list_commands(_CONTEXT) if not getattr(app.get_command(_CONTEXT, name), "hidden", True)
]
# pages whose commands are run one after the other, in one folder
STORIES = {
    "README": ["README.md"],
    "get started": [f"docs/get-started/{name}.md" for name in ("install", "first-run", "first-resume", "your-script")],
}


def reference(name: str) -> str:
    """A page of the reference."""
    return (generate.REFERENCE / f"{name}.md").read_text()


@pytest.mark.parametrize("page", generate.PAGES)
def test_what_reference_pages_take_from_the_code_is_current(page: str):
    """Commands with all their options, settings, functions. When this fails: `make reference`."""
    assert (generate.REFERENCE / page).read_text() == generate.current(page)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_is_in_the_reference(name: str):
    """A command or an option that nobody can read about does not exist."""
    section = reference("commands").split(f"## `backprop {name}`")[1].split("\n## ")[0]
    command = app.get_command(click.Context(app), name)
    assert command is not None
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            for spelling in (*parameter.opts, *parameter.secondary_opts):
                assert re.search(rf"(?<![\w-]){re.escape(spelling)}(?![\w-])", section), f"{name} {spelling}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_and_option_has_help(name: str):
    """--help says what each is for."""
    command = app.get_command(click.Context(app), name)
    assert command is not None
    assert command.help
    assert all(parameter.help for parameter in command.params if isinstance(parameter, click.Option))


def help_of(*words: str) -> str:
    """What `--help` prints, with its lines joined."""
    done = CliRunner().invoke(app, [*words, "--help"], prog_name="backprop")
    assert done.exit_code == 0
    return " ".join(done.output.split())


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_examples_and_says_what_a_run_may_be(name: str):
    """Two of them, that its own parser takes, without a question."""
    command = app.get_command(click.Context(app), name)
    assert command is not None
    told = help_of(name)
    examples = EXAMPLES[name]
    assert len(examples) == 2
    for example in examples:
        assert f"backprop {example}" in told
        words = shlex.split(re.split(r" (?:&&|>) ", example)[0])
        words.remove(name)
        given = [word for word in words if word != "--verbose"]
        command.make_context(name, given, _CONTEXT, resilient_parsing=True)
    takes_runs = any(isinstance(param, click.Argument) and param.name in {"run", "runs"} for param in command.params)
    assert takes_runs == ("RUN is an id, a unique prefix of one, a unique name, or 'last'." in told)


def test_no_summary_is_cut_off():
    """The whole first sentence of each command."""
    told = help_of()
    assert "..." not in told.replace("[ARGS]...", "")
    for name in COMMANDS:
        command = app.get_command(click.Context(app), name)
        assert command is not None
        assert command.help is not None
        assert " ".join(re.split(r"\.(?:\s|$)", command.help)[0].split()) in told


def test_the_options_of_run_stand_under_titles():
    """None is left over; each is where one would look for it."""
    told = CliRunner().invoke(app, ["run", "--help"], prog_name="backprop").output
    sections = dict(re.findall(r"^(\w[\w ]+):\n((?:  .*\n|\n)+)", told, re.MULTILINE))
    assert {title: text.split()[:2] for title, text in sections.items()} == {
        "Timebox": ["-m,", "--max-run-minutes"],
        "Checkpoints and resume": ["-c,", "--checkpoint-every-minutes"],
        "Machine limits": ["--min-free-ram", "GB"],
        "GPUs": ["--gpus", "N"],
        "Queue": ["-p,", "--max-parallel"],
        "Where": ["--on", "ENGINE"],
        "The script": ["-f,", "--framework"],
        "Name and output": ["-n,", "--name"],
        "Help": ["-h,", "--help"],
    }


def test_resume_claims_no_default_where_it_keeps_the_runs_own():
    """`resume` without -m takes the timebox that the run has."""
    told = help_of("resume")
    assert "[default: 10]" not in told
    assert (
        "-m, --max-run-minutes MINUTES Timebox: stop gracefully after training this long. [default: the run's own]"
        in told
    )
    assert "requeue, up to N sessions in total. [default: 1]" in told


@pytest.mark.parametrize("key", config.SETTINGS)
def test_every_setting_is_in_the_reference(key: str):
    """Key, option, variable and default of every setting are in the table."""
    (row,) = [line for line in reference("settings").splitlines() if line.startswith(f"| `{key}`")]
    assert config.environment_name(key) in row
    assert config.SETTINGS[key].flag in row
    default = config.default(key)
    if isinstance(default, float):
        assert f"| {default:g} |" in row


def test_every_setting_has_a_flag_and_a_word_on_what_is_allowed():
    """No key without its entry in SETTINGS, and none left over."""
    assert set(config.SETTINGS) == set(config.KEYS)


@pytest.mark.parametrize("status", [s.value for s in Status])
def test_every_status_is_in_the_reference(status: str):
    """Every status a run can have is explained."""
    assert f"| `{status}` |" in reference("exit-codes")


@pytest.mark.parametrize("code", list(ExitCode))
def test_every_exit_code_is_in_the_reference(code: ExitCode):
    """Every exit code of ours is explained."""
    assert f"| `{code.value}` |" in reference("exit-codes")


def test_the_architecture_names_every_part_once():
    """Packages and modules at the top, and the modules of three packages; none that is not there."""
    parts = [path for path in SOURCE.iterdir() if path.suffix == ".py" or (path / "__init__.py").exists()]
    inner = [path for name in ("lifecycle", "supervisor", "store") for path in (SOURCE / name).rglob("*.py")]
    parts += [path for path in inner if path.name != "__init__.py"]
    page = (PROJECT / "docs" / "contributing" / "architecture.md").read_text()
    rows = "".join(re.findall(r"^\| Part \|.*\n\|[ -|]*\n((?:\|.*\n)+)", page, re.MULTILINE))
    assert sorted(re.findall(r"^\| `([^`]+)` \|", rows, re.MULTILINE)) == sorted(
        f"{path.relative_to(SOURCE)}{'' if path.suffix else '/'}" for path in parts
    )


@pytest.mark.parametrize("page", [page for page in PAGES if page.parts[1:2] in CONTRIBUTORS_PAGES], ids=str)
def test_every_module_that_contributors_read_of_exists(page: Path):
    """By its path below src/backprop, or below the repository."""
    packages = {path.parent.name for path in SOURCE.glob("*/__init__.py")}
    for name in re.findall(r"`((?:\w+/)+[\w.]*)`", (PROJECT / page).read_text()):
        root = SOURCE if name.partition("/")[0] in packages else PROJECT
        if root is SOURCE or name.startswith(("tests/", "docs/", "bench/", "src/")):
            assert (root / name).exists(), name


def test_every_decision_is_listed_by_its_title():
    """In the table of the folder, in order."""
    folder = PROJECT / "docs" / "decisions"
    records = sorted(folder.glob("0*.md"))
    titles = [re.fullmatch(r"# (\d+)\. (.+)", path.read_text().splitlines()[0]) for path in records]
    assert re.findall(r"^\| (\d+) \| \[(.+)\]\((.+)\) \|", (folder / "README.md").read_text(), re.MULTILINE) == [
        (title[1], title[2], path.name) for title, path in zip(titles, records, strict=True) if title
    ]


def test_the_newest_release_in_the_changelog_is_this_one():
    """Newest first, each with its date."""
    page = (PROJECT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d+\.\d+\.\d+)\] - (\d{4}-\d\d-\d\d)$", page, re.MULTILINE)
    assert released[0][0] == __version__
    assert sorted(released, reverse=True) == released
    assert page.index("## [Unreleased]") < page.index(f"## [{__version__}]")


def test_the_workflow_runs_what_ci_runs():
    """Whoever works on a public forge sees the same checks."""
    ours, theirs = (
        set(re.findall(r"\b(?:make [a-z]+|tests/[\w/]+\.sh)", (PROJECT / path).read_text()))
        for path in (".ci/run", ".github/workflows/ci.yml")
    )
    assert ours == theirs


def test_the_glossary_has_each_term_once():
    """A term with two meanings is none."""
    page = (PROJECT / "docs" / "glossary.md").read_text()
    terms = [term for term in re.findall(r"^\| ([^|]+) \|", page, re.MULTILINE) if term not in {"Term", "---"}]
    assert len(terms) > 40
    assert sorted(set(terms)) == sorted(terms)


def anchors(page: Path) -> set[str]:
    """The headings of a page, as they are spelled in links to them."""
    headings = re.findall(r"^#+ +(.+?) *$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=str)
def test_every_link_to_a_file_leads_somewhere(page: Path):
    """To a file of the repository, and to a heading on that page."""
    path = PROJECT / page
    for target in re.findall(r"\]\(([^)\s]+)\)", path.read_text()):
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        linked = (path.parent / name).resolve() if name else path
        assert linked.exists(), target
        assert not anchor or anchor in anchors(linked), target


def test_the_readme_is_short():
    """It is the way in; everything else is on a page of its own."""
    assert len(README.encode()) <= 8000


def blocks(story: str) -> list[tuple[str, str]]:
    """What stands behind ``` and the lines below it, of each block of the pages."""
    text = "\n".join((PROJECT / page).read_text() for page in STORIES[story])
    return re.findall(r"^```([^\n]+)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("story", STORIES)
def test_commands_that_are_only_shown_exist(story: str):
    """Every line of a `sh` block, with its options; what is run for real is in `console` blocks."""
    targets = re.findall(r"^([\w-]+):", (PROJECT / "Makefile").read_text(), re.MULTILINE)
    (project,) = re.findall(r'^name = "(.+)"', (PROJECT / "pyproject.toml").read_text(), re.MULTILINE)
    shown = [line for kind, text in blocks(story) if kind == "sh" for line in text.splitlines()]
    assert shown
    for line in shown:
        words = shlex.split(line)
        if words[0] == "backprop":
            command = app.get_command(_CONTEXT, words[1])
            assert command is not None, line
            command.make_context(words[1], words[2:], _CONTEXT, resilient_parsing=True)
        elif words[0] == "make":
            assert words[1] in targets, line
        else:
            assert words[0] in {"uv", "pipx", "pip"}, line
            assert words[-1] == project, line
    assert {kind.split()[0] for kind, _ in blocks(story)} <= {"sh", "console", "python"}


def shape(text: str, ids: set[str]) -> list[str]:
    """Lines of output without what differs from run to run: ids, folders, times, numbers, users, the width of columns."""
    text = re.sub("|".join(map(re.escape, ids)) or "(?!)", "ID", text)
    text = re.sub(r"(?<![\w.])/[\w/.-]*\w", "PATH", text)
    text = re.sub(r"by \S+( on \S+)?$", "by USER", text, flags=re.MULTILINE)
    text = re.sub(r"ends \d{4}-\d\d-\d\d ", "ends ", text)  # a timebox that ends after midnight
    text = re.sub(r"\b\d+(:\d\d)+\b", "TIME", text)
    text = re.sub(r"\d[\d,.]*(e-?\d+)?", "N", text)
    text = re.sub(r"(N/)?N (s|min|h)\b", "TIME", text)
    return [" ".join(line.split()) for line in text.splitlines()]


def is_like(shown: list[str], printed: list[str]) -> bool:
    """Whether lines are those that are shown, where a line `...` stands for any number of them."""
    if not shown:
        return not printed
    if shown[0] == "...":
        return any(is_like(shown[1:], printed[skipped:]) for skipped in range(len(printed) + 1))
    return bool(printed) and shown[0] == printed[0] and is_like(shown[1:], printed[1:])


@pytest.mark.parametrize("story", STORIES)
def test_commands_print_what_the_pages_show(story: str, runs: Runs):
    """Every `console` block is executed, in the order of the pages, and its output has the shape that is shown."""
    shutil.copytree(PROJECT / "examples", runs.work / "examples")
    environment = {**runs.environment, "PATH": os.pathsep.join([str(Path(BACKPROP).parent), os.environ["PATH"]])}
    shown_ids = {
        run for _, text in blocks(story) for run in re.findall(r"^backprop: run (\w{8})\b", text, re.MULTILINE)
    }
    for kind, text in blocks(story):
        if (name := re.fullmatch(r'python title="(.+)"', kind)) is not None:
            (runs.work / name[1]).write_text(text)
        rest = text.splitlines() if kind == "console" else []
        while rest:
            command, rest = rest[0].removeprefix("$ "), rest[1:]
            shown = list(takewhile(lambda line: not line.startswith("$ "), rest))
            rest = rest[len(shown) :]
            done = subprocess.run(
                command,
                shell=True,
                cwd=runs.work,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=HANG_S,
                check=False,
            )
            assert done.returncode == 0, done.stdout
            ids = {path.name for path in (runs.home / "runs").glob("*")}
            wanted, printed = shape("\n".join(shown), shown_ids), shape(done.stdout, ids)
            is_shown = is_like(wanted, printed)
            missing = [line for line in wanted if line not in {"...", *printed}]
            assert is_shown, f"{command} does not print {missing or 'these lines in this order'}:\n{done.stdout}"
