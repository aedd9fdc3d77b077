"""A checkpoint that a script names because Backprop handed it over: the hooks judge it as if the script named none."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backprop.trainer.hooks.huggingface import hook as huggingface
from backprop.trainer.hooks.huggingface import resume
from backprop.trainer.hooks.lightning import hook as lightning
from backprop.trainer.link import SupervisorLink
from tests.unit.trainer.links import link_in

CHOSEN = "chosen.ckpt"


@pytest.fixture
def link(tmp_path: Path) -> SupervisorLink:
    """One that was offered a checkpoint."""
    (tmp_path / "offered.ckpt").touch()
    return link_in(tmp_path, 2, offered=str(tmp_path / "offered.ckpt"))


def by_lightning(link: SupervisorLink, named: Any, chosen: str | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The ckpt_path that fit() gets."""
    training = SimpleNamespace(agreed=lambda *_: chosen)
    trainer = SimpleNamespace(world_size=1, _checkpoint_connector=SimpleNamespace())
    watch = SimpleNamespace(begin=lambda *_: None, continues=lambda _: None)
    monkeypatch.setattr(lightning, "_training", lambda *_: training)
    arguments = {"self": trainer, "ckpt_path": named}
    lightning._begin(link, watch, arguments, SimpleNamespace(parameters=()))  # type: ignore[arg-type]
    return arguments["ckpt_path"]


def by_transformers(link: SupervisorLink, named: Any, chosen: str | None, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The resume_from_checkpoint that train() gets."""
    training = SimpleNamespace(agreed=lambda _: chosen)
    monkeypatch.setattr(resume, "identity_of", lambda *_: None)
    monkeypatch.setattr(resume.registry, "of", lambda _: SimpleNamespace(begin=lambda *_: training))
    monkeypatch.setattr(huggingface, "TrainerLoop", lambda *_, **__: None)
    trainer = SimpleNamespace(model_init=None, model=None, _load_callback_state=lambda: None)
    got: list[Any] = []
    huggingface._train(lambda _, path: got.append(path), trainer, link, named, (), {})
    return got[0]


@pytest.mark.parametrize("chosen", [CHOSEN, None], ids=["of-this-training", "of-another"])
@pytest.mark.parametrize(("given", "hook"), [(by_lightning, lightning), (by_transformers, resume)])
def test_what_was_handed_over_is_judged(
    link: SupervisorLink,
    given: Any,
    hook: Any,
    chosen: str | None,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
):
    """In each of several trainings that get it, and however it is spelled."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(hook, "_stored", lambda path: {"version": 1} if Path(path).name == "offered.ckpt" else None)
    for named in (str(link.offered), Path("offered.ckpt")):
        assert given(link, named, chosen, monkeypatch) == chosen
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("given", "hook"), [(by_lightning, lightning), (by_transformers, resume)])
@pytest.mark.parametrize("name", ["other.ckpt", "offered.ckpt"])
def test_what_the_script_chose_stays_its_choice(
    link: SupervisorLink, given: Any, hook: Any, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """Another checkpoint; or one that does not say which training saved it."""
    path = tmp_path / name
    path.touch()
    monkeypatch.setattr(hook, "_stored", lambda path: {"version": 1} if Path(path).name != "offered.ckpt" else None)
    assert given(link, str(path), CHOSEN, monkeypatch) == str(path)


def test_a_read_that_only_the_supervisor_has_seen(link: SupervisorLink, tmp_path: Path):
    assert not link.is_checkpoint_read()
    wish = {"stop_wanted": False, "checkpoint_wanted": 0, "deadline_monotonic_s": 1.0, "grace_s": 1.0}
    (tmp_path / "control.json").write_text(json.dumps({**wish, "checkpoint_was_read": True}))
    link.refresh()
    assert link.is_checkpoint_read()
