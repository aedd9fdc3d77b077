"""A reported checkpoint is found, and measured once; the journal keeps the measurement."""

import os
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import msgspec
import pytest

from backprop.records import Checkpoint, Run, RunSpec, SlurmRequest, Source, Status
from backprop.store.journal import file as journals
from backprop.store.journal.file import Journal
from backprop.store.output.protocol import Batch, digest
from backprop.store.reported_checkpoints import ReportedCheckpoints
from tests.records import SPEC


@pytest.fixture
def spec(tmp_path: Path) -> RunSpec:
    (tmp_path / "work").mkdir()
    return msgspec.structs.replace(SPEC, cwd=str(tmp_path / "work"))


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    with closing(Journal(tmp_path / "journal.jsonl")) as opened:
        yield opened


def reports(*paths: str) -> Batch:
    lines = [msgspec.json.encode({"event": "checkpoint_saved", "path": path, "step": 1}) for path in paths]
    return digest(b"".join(line + b"\n" for line in lines), 0)


def reported(tmp_path: Path, spec: RunSpec, journal: Journal) -> ReportedCheckpoints:
    """As a process makes it that opens the journal now."""
    entries, _ = journals.read(tmp_path / "journal.jsonl")
    return ReportedCheckpoints(spec, journal, entries, lambda: Run(spec=spec, status=Status.RUNNING))


def only(found: list[tuple[int, Checkpoint]]) -> Checkpoint:
    [(_, checkpoint)] = found
    return checkpoint


def test_it_is_measured_when_it_is_first_reported(tmp_path: Path, spec: RunSpec, journal: Journal):
    """What is written to the file later does not count, for a process that comes later neither."""
    path = Path(spec.cwd) / "last.bin"
    path.write_bytes(b"12345")
    assert only(reported(tmp_path, spec, journal).measured(1, Source.OUT, reports("last.bin"))).path == str(path)
    path.write_bytes(b"")
    found = only(reported(tmp_path, spec, journal).measured(1, Source.OUT, reports("last.bin")))
    assert (found.path, found.measure.size_bytes) == (str(path), 5)
    assert len(journals.read(tmp_path / "journal.jsonl")[0]) == 1


def test_a_path_reported_over_and_over_is_one_checkpoint(tmp_path: Path, spec: RunSpec, journal: Journal):
    """What lies there is what was saved last."""
    batch = reports("a", "b", "a", "a")
    found = reported(tmp_path, spec, journal).measured(1, Source.OUT, batch)
    assert sorted(Path(one.path).name for _, one in found) == ["a", "b"]
    assert max(offset for offset, _ in found) == batch.checkpoints[-1][0]


def test_of_several_files_the_newest_is_meant(tmp_path: Path, spec: RunSpec, journal: Journal):
    """Where processes of the trainer are in several folders, an older file of that name is another training's."""
    folders = [tmp_path / name for name in ("new", "old")]
    for age, folder in enumerate(folders):
        folder.mkdir()
        (folder / "last.bin").write_text("x")
        os.utime(folder / "last.bin", (1e9 - age, 1e9 - age))
    found = reported(tmp_path, spec, journal)
    found.trainer_folders = lambda: [str(folder) for folder in reversed(folders)]
    assert only(found.measured(1, Source.OUT, reports("last.bin"))).path == str(folders[0] / "last.bin")


def test_only_its_job_journals_those_of_a_slurm_run(tmp_path: Path, spec: RunSpec, journal: Journal):
    """Who only reads must not write into the journal of a job on another machine."""
    on_slurm = msgspec.structs.replace(spec, slurm=SlurmRequest())
    reported(tmp_path, on_slurm, journal).measured(1, Source.OUT, reports("last.bin"))
    assert journals.read(tmp_path / "journal.jsonl")[0] == []
    assert journal.try_lock()
    reported(tmp_path, on_slurm, journal).measured(1, Source.OUT, reports("last.bin"))
    assert len(journals.read(tmp_path / "journal.jsonl")[0]) == 1
