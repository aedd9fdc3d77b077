"""A run is called a repeat only where all that is compared is known to be the same."""

from collections.abc import Callable
from contextlib import closing

import msgspec
import pytest

from backprop.lifecycle import same_runs
from backprop.records import CodeState, GitState, Run, RunSpec, Session, Status
from backprop.store.code.provenance import Recorded
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.store.rundir import RunDir
from tests.records import SPEC, session_record

GIT = GitState(commit="c0ffee", branch="main", dirty=False)
NOW = Recorded(git=GIT, patch=None, notes=())
replace = msgspec.structs.replace


def session(**changes: object) -> Session:
    return session_record(Status.COMPLETED, **{"code": CodeState(git=GIT), **changes})


def found(home: Home, spec: RunSpec, code: Recorded, *sessions: Session) -> Run | None:
    run = Run(spec=SPEC, status=Status.COMPLETED, latest=sessions)
    with closing(Index(home.index_path, 5.0)) as index:
        index.put_run(run, 10)
    return same_runs.find(home, spec, code)


def test_the_same_code_and_command_is_a_repeat(home: Home, rundir: RunDir):
    """Whatever its id and its name are."""
    assert found(home, replace(SPEC, id="new", name="other"), NOW, session()) is not None


@pytest.mark.parametrize(
    ("spec", "code"),
    [
        (replace(SPEC, command=("python", "train.py", "--seed=2")), NOW),
        (replace(SPEC, cwd="/elsewhere"), NOW),
        (replace(SPEC, python="/other/python"), NOW),
        (replace(SPEC, script_sha256="other"), NOW),
        (SPEC, replace(NOW, git=replace(GIT, commit="other"))),
        (SPEC, replace(NOW, git=replace(GIT, dirty=True), patch=b"changes")),
        (SPEC, replace(NOW, git=replace(GIT, dirty=True))),  # of which it is not known what they are
        (SPEC, replace(NOW, notes=("too large",))),
        (SPEC, replace(NOW, git=None)),
    ],
)
def test_another_command_or_code_is_none(home: Home, rundir: RunDir, spec: RunSpec, code: Recorded):
    """Nor is one of which something is not known."""
    assert found(home, spec, code, session()) is None


@pytest.mark.parametrize(
    "sessions",
    [
        (session(offered="/c.pt"),),
        (session(only_once=("--warm",)),),
        (session(), session(number=2, code=CodeState(git=GIT, changed=("train.py",)))),
        (session(code=CodeState(git=GIT, notes=("too large",))),),
        (),
    ],
    ids=["began from a checkpoint", "other arguments once", "changed meanwhile", "code not known", "never started"],
)
def test_a_run_that_was_more_than_one_training_is_not_repeated(home: Home, rundir: RunDir, sessions: tuple[Session]):
    """Its result is not that of this command and this code alone."""
    assert found(home, SPEC, NOW, *sessions) is None


@pytest.mark.parametrize("spoil", [lambda home: home.index_path.write_bytes(b"damaged"), lambda home: None])
def test_without_an_index_nothing_is_claimed(home: Home, spoil: Callable[[Home], object]):
    """The start of a run does not fail for it."""
    spoil(home)
    assert same_runs.find(home, SPEC, NOW) is None
