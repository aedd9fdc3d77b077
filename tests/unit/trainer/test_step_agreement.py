"""All ranks save and stop at the end of the same step."""

from pathlib import Path

import pytest

from backprop.trainer import step_agreement
from backprop.trainer.step_agreement import Agreement, StepRequest

NOTHING, STOP = StepRequest(), StepRequest(stop=True)


@pytest.fixture
def ranks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Makes every rank take a step: each with its own request; returns what each does."""
    made = [Agreement(str(tmp_path / "agreed")) for _ in range(2)]

    def step(number: int, *requests: StepRequest) -> list[StepRequest]:
        done = []
        for rank, (agreement, request) in enumerate(zip(made, requests, strict=True)):
            monkeypatch.setattr(step_agreement, "rank", lambda rank=rank: rank)
            done.append(agreement.agree(number, request))
        return done

    def begin() -> None:
        for agreement in made:
            agreement.begin_loop()

    begin()
    step.begin_loop = begin  # type: ignore[attr-defined]
    return step


def test_what_rank_0_asks_for_is_done_by_all_at_the_next_step(ranks):
    assert ranks(1, STOP, NOTHING) == [NOTHING, NOTHING]
    assert ranks(2, STOP, NOTHING) == [STOP, STOP]


def test_what_others_ask_for_is_ignored(ranks):
    """They may see a request at another step than rank 0."""
    assert ranks(1, NOTHING, STOP) == [NOTHING, NOTHING]
    assert ranks(2, NOTHING, STOP) == [NOTHING, NOTHING]


def test_a_save_is_done_once(ranks):
    save = StepRequest(save=True)
    ranks(1, save, NOTHING)
    assert ranks(2, NOTHING, NOTHING) == [save, save]
    assert ranks(3, NOTHING, NOTHING) == [NOTHING, NOTHING]


def test_what_was_agreed_for_a_loop_is_not_done_in_the_next(ranks):
    """A loop may end at the step at which it was asked to stop."""
    ranks(5, STOP, NOTHING)
    ranks.begin_loop()
    assert ranks(6, NOTHING, NOTHING) == [NOTHING, NOTHING]
