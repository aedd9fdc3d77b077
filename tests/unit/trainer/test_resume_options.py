"""Which names of options take the checkpoint, which only look so, and which function's parameters can."""

import sys
import sysconfig
from pathlib import Path
from typing import Any, Literal, Optional

import pytest

from backprop.trainer.hooks.parsers import resume_options
from backprop.trainer.hooks.parsers.resume_options import Option


@pytest.mark.parametrize(
    ("name", "is_usual"),
    [
        ("--resume", True),
        ("--resume_from_checkpoint", True),
        ("--continue-from", True),
        ("--continue_train", True),
        ("--auto-resume", True),
        ("--continue", False),
        ("-r", False),
        ("resume", False),
        ("--wandb-resume", False),
        ("--ckpt_path", False),
    ],
)
def test_usual_names(name: str, is_usual: bool):
    """Only what nobody declares for anything else."""
    assert Option((name,), is_free=True, kind=resume_options.as_path()).is_usual is is_usual


@pytest.mark.parametrize("place", ["stdlib", "purelib", "platlib", "scripts", "."])
def test_what_is_an_installed_program(monkeypatch: pytest.MonkeyPatch, place: str):
    """One that lies where Python or pip install, such as torchrun or pip itself."""
    folder = sysconfig.get_paths().get(place, place)
    monkeypatch.setattr(resume_options, "_tool", None)
    monkeypatch.setattr(sys.modules["__main__"], "__file__", f"{folder}/program.py", raising=False)
    assert resume_options.is_tool() is (place != ".")


@pytest.mark.parametrize(("key", "is_usual"), [("resume", True), ("ckpt_path", True), ("ckpt", False), ("load", False)])
def test_usual_keys(key: str, is_usual: bool):
    """A configuration's keys have a word of their own."""
    assert resume_options.is_usual_key(key) is is_usual


@pytest.mark.parametrize(
    ("name", "does"),
    [
        ("--load-ckpt", True),
        ("--checkpoint", True),
        ("--ckpt", True),
        ("--ckpt_path", True),
        ("--init_from", True),
        ("--initial-checkpoint", True),
        ("--weights-to-resume", True),
        ("--load", True),
        ("--load-model", True),
        ("--restore-path", True),
        ("--snapshot-path", True),
        ("--checkpoint-dir", False),
        ("--save-checkpoint", False),
        ("--checkpoint-every", False),
        ("--gradient-checkpointing", False),
        ("--load-data", False),
        ("--load-in-8bit", False),
        ("--load-best-model-at-end", False),
        ("--model", False),
        ("--weights", False),
        ("--init", False),
        ("--init-weights", False),
        ("--start-epoch", False),
        ("--train-file", False),
    ],
)
def test_names_that_look_like_one(name: str, does: bool):
    """What may be the checkpoint to begin from; not what says where or how often to save, or what to train on."""
    assert resume_options._looks_like_one(name) is does


@pytest.mark.parametrize(
    ("annotation", "default", "value"),
    [
        (str, None, "c.pt"),
        (Optional[str], None, "c.pt"),  # noqa: UP045  as scripts have it
        ("Path | None", None, "c.pt"),
        (Path, None, "c.pt"),
        (bool, False, True),
        (bool | str, False, "c.pt"),
        (None, None, "c.pt"),
        (None, "", "c.pt"),
        (None, False, True),
        (Any, None, "c.pt"),
        (int, None, None),
        (Optional[int], None, None),  # noqa: UP045
        (Literal["must"], None, None),
        (list, None, None),
    ],
)
def test_what_a_parameter_gets(annotation: object, default: object, value: object):
    """The path, or True for a switch, as far as it takes one."""
    assert resume_options.by_annotation(annotation, default)("c.pt") == value


def test_a_scripts_function_is_not_called_before_there_is_a_checkpoint():
    """It may open a file, for writing, too."""
    called = []
    kind = resume_options.converted(called.append)
    assert (kind(""), called) == (None, [])
    assert (kind("c.pt"), called) == ("c.pt", ["c.pt"])
