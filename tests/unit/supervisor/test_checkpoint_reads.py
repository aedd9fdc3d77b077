"""supervisor/checkpoint_reads.py: what passes for the first read of a checkpoint, and what does not. Real files."""

import mmap
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from backprop.store.output.protocol import TrainingBegan
from backprop.supervisor.checkpoint_reads import CheckpointReads, Offer, OfferFinding


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "last.pt"
    path.write_bytes(b"state" * 1000)
    return path


def _was_read(path: Path, access: object) -> bool:
    reads = CheckpointReads(str(path))
    try:
        assert not reads.look()
        access(path)  # type: ignore[operator]
        return reads.look()
    finally:
        reads.close()


def _map(path: Path) -> None:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        os.close(os.dup(file.fileno()))
        assert mapped[0] == ord("s")


def _read_through_a_link(path: Path) -> None:
    link = path.with_name("link.pt")
    link.symlink_to(path)
    link.read_bytes()


READS = {
    "read": lambda path: path.read_bytes(),
    "one byte": lambda path: os.pread(os.open(path, os.O_RDONLY), 1, 10),
    "mapped": _map,
    "through a link": _read_through_a_link,
    "under another name": lambda path: path.rename(path.with_name("old.pt")).read_bytes(),
}


@pytest.mark.parametrize("how", READS)
def test_whoever_reads_it_is_seen(checkpoint: Path, how: str):
    """Also by a memory map, and in whatever language: the kernel tells."""
    assert _was_read(checkpoint, READS[how])


def _replace(path: Path) -> None:
    path.with_suffix(".new").write_bytes(b"new")
    path.with_suffix(".new").rename(path)
    path.read_bytes()


def _write_in_place_and_read(path: Path) -> None:
    path.write_bytes(b"new")
    path.read_bytes()


NO_READS = {
    "nothing": lambda path: None,
    "looked at": lambda path: (path.stat(), list(path.parent.iterdir())),
    "deleted": lambda path: path.unlink(),
    "written over, then read": _write_in_place_and_read,
    "replaced, then read": _replace,
}


@pytest.mark.parametrize("how", NO_READS)
def test_what_is_no_read_of_it(checkpoint: Path, how: str):
    """A script that starts over, saves in the same place and loads that has not read what it was offered."""
    assert not _was_read(checkpoint, NO_READS[how])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "checkpoint-20"
    (path / "shards").mkdir(parents=True)
    for name in ("model.safetensors", "config.json", "backprop_state_0.pt", "shards/0.distcp"):
        (path / name).write_bytes(b"state")
    return path


@pytest.mark.parametrize(
    ("name", "counts"),
    [("model.safetensors", True), ("shards/0.distcp", True), ("config.json", False), ("backprop_state_0.pt", False)],
)
def test_in_a_folder_a_file_that_holds_state_counts(folder: Path, name: str, counts: bool):
    """Not what only tells about it, nor what a hook of ours has put there."""
    assert _was_read(folder, lambda path: (path / name).read_bytes()) is counts


def test_a_folder_of_json_alone_is_read_with_any_of_its_files(tmp_path: Path):
    """Then that is where the state is."""
    (tmp_path / "state.json").write_text("{}")
    assert _was_read(tmp_path, lambda path: (path / "state.json").read_text())


def test_a_file_that_was_put_there_since_does_not_count(folder: Path):
    """By a rename, or written in place; the others still do."""
    reads = CheckpointReads(str(folder))
    (folder / "optimizer.pt.new").write_bytes(b"new")
    (folder / "optimizer.pt.new").rename(folder / "optimizer.pt")
    (folder / "optimizer.pt").read_bytes()
    assert not reads.look()
    assert reads.can_tell
    (folder / "model.safetensors").read_bytes()
    assert reads.look()
    assert not reads.look()
    reads.close()


def test_what_is_not_there_cannot_be_watched(tmp_path: Path):
    """Then nothing is claimed."""
    reads = CheckpointReads(str(tmp_path / "gone.pt"))
    assert not reads.look()
    assert not reads.can_tell
    reads.close()


# -- the offer


LOOKS, ANEW = TrainingBegan(is_decided=False), TrainingBegan(is_decided=True)


@pytest.fixture
def offer(checkpoint: Path) -> Iterator[Offer]:
    made = Offer(str(checkpoint), can_be_elsewhere=False)
    yield made
    made.close()


def _verdicts(offer: Offer, *trainings: TrainingBegan, has_trained: bool = False, is_over: bool = False) -> list:
    return offer.verdicts(trainings, has_trained=has_trained, is_over=is_over)


def test_a_read_is_known_at_the_next_look_and_said_once(offer: Offer, checkpoint: Path):
    """Steps that are seen together with it do not count as trained without."""
    checkpoint.read_bytes()
    assert _verdicts(offer, has_trained=True) == []
    assert _verdicts(offer, has_trained=True) == [OfferFinding(str(checkpoint), has_trained=True)]
    assert _verdicts(offer, has_trained=True, is_over=True) == []
    assert offer.is_read


def test_a_session_that_trains_without_a_read_is_told_once(offer: Offer, checkpoint: Path):
    """A read that comes later may be another training of the script, or a last evaluation: it is told, and no more."""
    assert _verdicts(offer) == []
    assert _verdicts(offer, has_trained=True) == [OfferFinding(None, has_trained=True)]
    assert _verdicts(offer, has_trained=True) == []
    checkpoint.read_bytes()
    assert _verdicts(offer, is_over=True) == [OfferFinding(str(checkpoint), has_trained=True, is_late=True)]
    assert not offer.is_read


def test_another_checkpoint_of_the_run_may_be_read_instead(checkpoint: Path):
    """The script chooses by itself."""
    other = checkpoint.with_name("other.pt")
    other.write_bytes(b"state")
    offer = Offer(str(checkpoint), [str(other)], can_be_elsewhere=False)
    other.read_bytes()
    assert _verdicts(offer) == []
    assert _verdicts(offer, has_trained=True) == [OfferFinding(str(other), has_trained=True)]
    offer.close()


def test_at_the_end_nothing_was_read(offer: Offer):
    assert _verdicts(offer, is_over=True) == [OfferFinding(None, has_trained=False)]


def test_elsewhere_it_may_have_been_read(checkpoint: Path):
    """Where trainers run on several machines, that no read was seen here says nothing."""
    offer = Offer(str(checkpoint), can_be_elsewhere=True)
    assert _verdicts(offer, has_trained=True, is_over=True) == []
    checkpoint.read_bytes()
    assert _verdicts(offer, is_over=True) == [OfferFinding(str(checkpoint), has_trained=True)]
    offer.close()


def test_a_hook_that_looks_at_it_does_not_resume_from_it(offer: Offer, checkpoint: Path):
    """It announces that before it reads, and only what it decides counts."""
    checkpoint.read_bytes()
    assert _verdicts(offer) == []
    assert _verdicts(offer, LOOKS) == []
    assert _verdicts(offer, ANEW, has_trained=True) == [OfferFinding(None, has_trained=True, is_certain=True)]
    resumed = OfferFinding("/own", has_trained=True, is_certain=True)
    assert _verdicts(offer, TrainingBegan(is_decided=True, resumed_from="/own")) == [resumed]
    assert _verdicts(offer, ANEW, is_over=True) == []


def test_a_hook_that_fails_before_it_decides_leaves_it_open(offer: Offer, checkpoint: Path):
    checkpoint.read_bytes()
    assert _verdicts(offer, LOOKS, has_trained=True, is_over=True) == []
