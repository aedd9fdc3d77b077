"""The names of copies of checkpoints: out of the script's way, and never another run's."""

from pathlib import Path

import pytest

from backprop.trainer.overwrites import kept_names as names


@pytest.mark.parametrize(
    "kept", [names.before_save("out/best.model.pt", "r1"), names.before_session("out/a.pt", "r1", 3)]
)
def test_a_copy_lies_beside_its_checkpoint_unseen(kept: str):
    """In the same folder and with the same suffix; `glob("*.pt")` and `ls` do not show it."""
    path = Path(kept)
    assert (str(path.parent), path.suffix, path.name[0]) == ("out", ".pt", ".")
    assert names.is_ours(kept, "r1")
    assert not names.is_draft(kept, "r1")
    assert names.is_draft(names.draft(kept), "r1")


@pytest.mark.parametrize("path", ["out/best.pt", ".best.r10.before-save.pt", "best.r1.before-save.pt", ".r1.pt"])
def test_what_is_not_a_copy_of_this_run(path: str):
    """Another run may save in the same folder, and its id may begin alike."""
    assert not names.is_ours(path, "r1")


def test_each_session_keeps_its_own_copy():
    copies = {names.before_session("a.pt", "r1", session) for session in (1, 2, 11)} | {names.before_save("a.pt", "r1")}
    assert len(copies) == 4
