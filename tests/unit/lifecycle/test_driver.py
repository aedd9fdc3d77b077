"""Which checkpoint a session is offered, and how it is passed to the script."""

from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from backprop.lifecycle.driver import choose_checkpoint, resume_args
from backprop.records import Checkpoint, Run, RunView, Status
from backprop.store import checkpoints
from backprop.store.journal import file as journals
from backprop.store.journal.entries import CheckpointSkipped
from backprop.store.journal.file import Journal
from backprop.store.rundir import RunDir
from tests.records import SPEC, session_record


def saved(path: Path, step: int) -> Checkpoint:
    path.write_bytes(b"weights")
    return Checkpoint(path=str(path), step=step, session=1, measure=checkpoints.measure(str(path)))


def chosen(rundir: RunDir, *saves: Checkpoint, is_strict: bool = False) -> tuple[Checkpoint | None, list[str]]:
    """The choice, and what the user is told of it."""
    run = Run(spec=SPEC, status=Status.TIMEBOXED, latest=(session_record(Status.TIMEBOXED),))
    view = RunView(run=run, run_dir=str(rundir.path), checkpoints=saves)
    said: list[str] = []
    with closing(Journal(rundir.journal_path)) as journal:
        found = choose_checkpoint(view, lambda _: None, journal, said.append, is_strict=is_strict)
    return found, said


def test_a_skipped_checkpoint_is_shown_and_recorded(rundir: RunDir, tmp_path: Path):
    """The user learns why the latest one is not used; so does whoever reads the record later."""
    first, second = saved(tmp_path / "1.bin", 1), saved(tmp_path / "2.bin", 2)
    Path(second.path).write_bytes(b"")
    found, said = chosen(rundir, first, second)
    assert found == first
    assert said[0].startswith(f"checkpoint {second.path} is skipped: ")
    assert said[1:] == [f"offering checkpoint {first.path} (step 1)"]
    (entry,) = journals.read(rundir.journal_path)[0]
    assert isinstance(entry, CheckpointSkipped)
    assert entry.path == second.path


@pytest.mark.parametrize(("is_broken", "words"), [(False, "no checkpoint was found"), (True, "no valid checkpoint is")])
def test_it_says_that_a_script_starts_over(rundir: RunDir, tmp_path: Path, is_broken: bool, words: str):
    """And whether that is for want of a checkpoint, or of a valid one."""
    saves = [saved(tmp_path / "1.bin", 1)] if is_broken else []
    for one in saves:
        Path(one.path).unlink()
    found, said = chosen(rundir, *saves)
    assert found is None
    assert said[-1].startswith(words)


def test_a_strict_resume_leaves_the_words_to_its_caller(rundir: RunDir):
    """It starts nothing: "the script starts over" would be wrong."""
    assert chosen(rundir, is_strict=True) == (None, [])


@pytest.mark.parametrize(
    ("kept", "script", "expected"),
    [
        ("--ckpt={path}", None, ("--ckpt={path}",)),  # a text, in records of older versions
        (("--load", "{path}"), None, ("--load", "{path}")),
        (None, "plain.py", ()),
        (None, "with_flag.py", ("--resume-from",)),
        (("--load",), "with_flag.py", ("--load",)),  # what the user chose comes first
    ],
)
def test_how_a_script_gets_its_checkpoint(
    tmp_path: Path, kept: tuple[str, ...] | str | None, script: str | None, expected: tuple[str, ...]
):
    """By the option that was chosen, by the one that it declares, or by the environment alone."""
    (tmp_path / "plain.py").write_text("print('--epochs')\n")
    (tmp_path / "with_flag.py").write_text("parser.add_argument('--resume-from')\n")
    path = None if script is None else str(tmp_path / script)
    found = resume_args(msgspec.structs.replace(SPEC, resume_arg=kept, script=path))
    assert tuple(word.removesuffix("={path}") if kept is None else word for word in found) == expected
