"""Groups, tags, notes, parents, decisions, archived runs: what users say about runs, and how they find them by it."""

import csv
import json
import shutil

import pytest

from tests.conftest import HANG_S, Runs, recorded, wait_for

QUICK = """
    print(json.dumps({"step": 1, "loss": 0.5}), flush=True)
"""


def ids(runs: Runs, *words: str) -> list[str]:
    """The runs that `list` shows, sorted."""
    done = runs.call("list", "--json", *words)
    assert done.returncode == 0, done.stderr
    return sorted(run["id"] for run in json.loads(done.stdout))


@recorded
def tree(runs: Runs) -> None:
    """Runs a, b of a, and c: with a group, tags and a note."""
    runs.script(QUICK)
    first = ("--group", "lr", "--tag", "base", "--tag", "v1", "--note", "where we start")
    assert runs.call("run", "train.py", "--run-id", "a", "--name", "first", *first).returncode == 0
    done = runs.call("run", "train.py", "--run-id", "b", "--parent", "a", "--group", "LR", "--tag", "baseline")
    assert (done.returncode, done.stderr) == (0, done.stderr)
    assert runs.call("run", "train.py", "--run-id", "c").returncode == 0


def test_what_is_said_at_the_start_is_in_every_document(tree: Runs):
    """`--json` has it, `status` shows it; a run of which nothing was said has the same keys."""
    document = tree.document("a")
    assert (document["group"], document["tags"], document["parent"]) == ("lr", ["base", "v1"], None)
    assert [note["text"] for note in document["notes"]] == ["where we start"]
    assert tree.document("b")["parent"] == "a"
    nothing = {"group": None, "tags": [], "notes": [], "parent": None, "decision": None, "archived": False}
    assert {key: tree.document("c")[key] for key in nothing} == nothing
    shown = tree.call("status", "a").stdout
    assert "group" in shown
    assert "base v1" in shown
    assert "where we start" in shown


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("group=lr", "a b"),
        ("group~l", "a b"),
        ("group!=lr", "c"),
        ("tag=base", "a"),
        ("tag~base", "a b"),
        ("tag!=base", "b c"),
        ("parent=a", "b"),
        ("parent=First", "b"),  # its name
        ("parent!=first", "a c"),
        ("parent=firs", ""),
        ("parent!=a", "a c"),
        ("archived=false", "a b c"),
        ("archived=any", "a b c"),
        ("archived=true", ""),
        ("decision!=keep", "a b c"),
        ("commit=abc", ""),
    ],
)
def test_a_filter_finds_runs_by_what_was_said(tree: Runs, condition: str, found: str):
    """Each of them with the operators that make sense for it."""
    assert ids(tree, "--filter", condition) == found.split()


@pytest.mark.parametrize("condition", ["group>a", "tag<b", "archived=yes", "archived~t", "decision=maybe", "parent>=a"])
def test_a_condition_that_makes_no_sense_is_refused(runs: Runs, condition: str):
    """With what is expected."""
    done = runs.call("list", "--filter", condition)
    assert (done.returncode, "cannot parse filter" in done.stderr) == (2, True)


@pytest.mark.parametrize(
    "words", [("--tag", "two words"), ("--group", ""), ("--note", "\x1b[2J"), ("--parent", "nobody")]
)
def test_what_cannot_be_recorded_starts_nothing(runs: Runs, words: tuple[str, str]):
    """A typo does not cost an hour of training that nobody finds."""
    runs.script(QUICK)
    assert runs.call("run", "train.py", *words).returncode in {2, 3}
    assert ids(runs) == []


def test_vary_makes_a_group(runs: Runs):
    """Named as the runs are, or as the user says; without a name after the script, and only of this command."""
    runs.script(QUICK)
    for more in (("-n", "probe"), ("--group", "mine"), (), ()):
        done = runs.call("run", "train.py", "--vary", "lr=1,2", *more)
        for run_id in done.stdout.split():
            runs.own(run_id)
    assert runs.call("wait", "--all").returncode == 0
    groups = [run["group"] for run in json.loads(runs.call("list", "--json").stdout)]
    assert (groups.count("probe"), groups.count("mine"), len(set(groups))) == (2, 2, 4)
    assert sum(group.startswith("train-") for group in groups) == 4


def test_an_index_that_is_built_again_has_it(tree: Runs):
    """The files in the run directory are the truth; one that is copied takes them along."""
    before = tree.document("a")["tags"]
    (tree.home / "index.db").unlink()
    assert tree.document("a")["tags"] == before
    shutil.rmtree(tree.home / "runs" / "a" / "annotations")
    assert tree.call("reindex").returncode == 0
    assert tree.document("a")["tags"] == []


def test_a_running_run_is_found_by_its_group(runs: Runs):
    """From its start on."""
    runs.script("""
        while not os.path.exists("go"):
            time.sleep(0.02)
    """)
    runs.own("r")
    assert runs.call("run", "train.py", "-d", "--run-id", "r", "--group", "g").returncode == 0
    wait_for(lambda: ids(runs, "--filter", "group=g status=running") == ["r"])
    (runs.work / "go").touch()
    assert runs.call("wait", "r").returncode == 0


def test_tags_come_and_go(tree: Runs):
    """For several runs at once, by name or by a filter; what is said is what each has then."""
    done = tree.call("tag", "a", "c", "+x", "-v1", "+y")
    assert (done.returncode, done.stderr.splitlines()) == (
        0,
        ["backprop: run a has the tags base x y", "backprop: run c has the tags x y"],
    )
    assert tree.call("tag", "--filter", "tag=x", "-x", "-y", "-base").stderr.splitlines() == [
        "backprop: run a has no tags",
        "backprop: run c has no tags",
    ]
    assert ids(tree, "--filter", "tag=x") == []


@pytest.mark.parametrize("words", [("a",), ("+x",), ("a", "+two words"), ("a", "nobody", "+x"), ("a", "+")])
def test_a_tag_that_cannot_be_given_changes_nothing(tree: Runs, words: tuple[str, ...]):
    """No tag, no run, a tag of other characters, a run that is not there."""
    assert tree.call("tag", *words).returncode in {2, 3}
    assert tree.document("a")["tags"] == ["base", "v1"]


def test_help_of_tag_is_help(runs: Runs):
    """-h begins with a minus, too."""
    done = runs.call("tag", "-h")
    assert (done.returncode, "+TAG|-TAG..." in done.stdout) == (0, True)


def test_notes_and_decisions(tree: Runs):
    """Notes stay, of decisions the last counts; a decision may come with a note."""
    assert tree.call("note", "a", "it diverged").stderr == "backprop: run a has 2 notes\n"
    done = tree.call("note", "a", "--decide", "crash", "NaN at step 3")
    assert done.stderr == "backprop: run a has 3 notes and the decision crash\n"
    assert tree.call("note", "a", "--decide", "keep").stderr == "backprop: run a has the decision keep\n"
    document = tree.document("a")
    assert [note["text"] for note in document["notes"]] == ["where we start", "it diverged", "NaN at step 3"]
    assert (document["decision"], ids(tree, "--filter", "decision=keep")) == ("keep", ["a"])
    for words in (("a",), ("a", "--decide", "maybe"), ("a", ""), ("nobody", "text")):
        assert tree.call("note", *words).returncode in {2, 3}
    assert len(tree.document("a")["notes"]) == 3


def test_notes_on_several_runs(tree: Runs):
    """Named before the note, by a filter, or all; what may be a RUN or the note is refused."""
    assert tree.call("note", "a", "b", "too slow", "--decide", "discard").returncode == 0
    assert tree.call("note", "--filter", "decision=discard", "seen twice").returncode == 0
    assert tree.call("note", "--all", "--decide", "keep").returncode == 0
    for run_id, notes in (("a", 3), ("b", 2), ("c", 0)):
        document = tree.document(run_id)
        assert (document["decision"], len(document["notes"])) == ("keep", notes)
    for words in (
        ("a", "b", "--decide", "crash"),
        ("a", "last", "--decide", "crash"),
        ("--filter", "group=lr", "a", "x"),
    ):
        assert tree.call("note", *words).returncode == 2, words
    assert tree.call("note", "a", "nobody", "text").returncode == 3
    assert [tree.document(run_id)["decision"] for run_id in "abc"] == ["keep"] * 3


def test_archived_runs_are_hidden_and_kept(tree: Runs):
    """From `list`, --filter and --all; with a word, and until they are unarchived. By name they are there."""
    assert tree.call("archive", "a", "b").returncode == 0
    done = tree.call("list", "--json")
    assert [run["id"] for run in json.loads(done.stdout)] == ["c"]
    assert done.stderr == "backprop: 2 archived runs are hidden; to see all: --filter archived=any\n"
    assert ids(tree, "--filter", "archived=true") == ["a", "b"]
    assert ids(tree, "--filter", "archived=any") == ["a", "b", "c"]
    assert tree.document("a")["archived"] is True
    assert tree.call("rm", "--all", "--yes").stderr == "backprop: removed 1 run(s)\n"
    assert tree.call("list").stderr == "backprop: 2 archived runs are hidden; to see all: --filter archived=any\n"
    assert tree.call("unarchive", "--filter", "tag=base").returncode == 0
    assert ids(tree) == ["a"]
    assert tree.call("unarchive", "--all").returncode == 0
    assert ids(tree) == ["a", "b"]


def test_an_active_run_is_not_hidden(runs: Runs):
    """It cannot be archived; and an archived run that is resumed is shown while it trains."""
    runs.script("""
        print(json.dumps({"step": 1}), flush=True)
        while not os.path.exists("go"):
            time.sleep(0.02)
    """)
    runs.own("r")
    assert runs.call("run", "train.py", "-d", "--run-id", "r").returncode == 0
    assert runs.call("archive", "r").returncode == 75
    assert runs.call("stop", "r").returncode == 0
    assert runs.call("archive", "r").returncode == 0
    assert ids(runs) == []
    assert runs.call("resume", "r", "-d").returncode == 0
    assert ids(runs) == ["r"]
    (runs.work / "go").touch()
    assert runs.call("wait", "r").returncode == 0
    assert ids(runs) == []


def test_two_machines_annotate_one_run(tree: Runs):
    """Neither needs the lock of the journal, and each sees what the other said."""
    one, other = {"BACKPROP_MACHINE": "one"}, {"BACKPROP_MACHINE": "other"}
    assert tree.call("list", **one).returncode == tree.call("list", **other).returncode == 0
    assert tree.call("tag", "a", "+one", **one).returncode == 0
    assert tree.call("tag", "a", "+other", **other).returncode == 0
    for machine in (one, other):
        listed = json.loads(tree.call("list", "--json", "--filter", "tag=one tag=other", **machine).stdout)
        assert [run["id"] for run in listed] == ["a"]


def test_exports_have_it(tree: Runs):
    """Tables in columns of their own; a document as `--json` has it."""
    assert tree.call("note", "a", "=1+1").returncode == 0
    assert tree.call("export", "a", "c", "--to", "csv", "tables").returncode == 0
    with (tree.work / "tables" / "runs.csv").open(newline="") as file:
        told, nothing = csv.DictReader(file)
    columns = ("group", "tags", "parent", "decision", "archived", "notes")
    assert [told[name] for name in columns] == ["lr", "base v1", "", "", "false", "where we start\n=1+1"]
    assert [nothing[name] for name in columns] == ["", "", "", "", "false", ""]


def test_list_shows_groups_and_trees(tree: Runs):
    """A row a group; a run below its parent. Both for programs, too."""
    done = tree.call("list", "--groups")
    assert done.returncode == 0, done.stderr
    heading, *rows = done.stdout.splitlines()
    assert heading.split()[:6] == ["GROUP", "RUNS", "STATUS", "METRIC", "BEST", "BEST"]
    assert [row.split()[:5] for row in rows] == [
        ["LR", "1", "1", "completed", "loss"],
        ["lr", "1", "1", "completed", "loss"],
    ]
    (group,) = json.loads(tree.call("list", "--groups", "--json", "--filter", "tag=v1").stdout)
    assert group == {
        "group": "lr", "runs": 1, "statuses": {"completed": 1}, "metric": "loss", "best": 0.5, "best_run": "a",
        "over_seeds": {"mean": 0.5, "sd": None, "runs": 1},
    }  # fmt: skip
    assert tree.call("list", "--groups", "--limit", "1").stderr.endswith("1 of 2 groups; --limit 0 shows all.\n")
    assert "no matching groups" in tree.call("list", "--groups", "--filter", "group=nosuch").stderr
    lines = tree.call("list", "--tree").stdout.splitlines()
    assert [line[:4].rstrip() for line in lines] == ["RUN", "c", "a", "  b"]
    listed = json.loads(tree.call("list", "--tree", "--json").stdout)
    assert [run["id"] for run in listed] == ["c", "a", "b"]
    assert tree.call("list", "--tree", "--groups").returncode == 2


def test_what_many_say_while_others_look_is_all_there(tree: Runs):
    """No look takes away the marker of something that it has not seen."""
    looking = [tree.start("list") for _ in range(3)]
    saying = [tree.start("tag", "a", "b", f"+t{number}") for number in range(8)]
    looking += [tree.start("list") for _ in range(3)]
    assert {process.wait(HANG_S) for process in (*saying, *looking)} == {0}
    every = " ".join(f"tag=t{number}" for number in range(8))
    assert ids(tree, "--filter", every) == ["a", "b"]
