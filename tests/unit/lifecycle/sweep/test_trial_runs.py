"""The command lines that start the sessions of a trial: what a user would have typed."""

import msgspec
import pytest

from backprop.lifecycle import requests
from backprop.lifecycle.sweep import trial_runs
from backprop.lifecycle.sweep.journal import RungContinued
from backprop.lifecycle.sweep.standing import fold
from backprop.store.home import Home
from tests.unit.lifecycle.sweep.test_standing import NOW, SPEC, asked


@pytest.fixture
def called(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The words of the last call."""
    words: list[str] = []

    def call(home: Home, given: list[str], cwd: str, **variables: str) -> requests.Called:
        assert (cwd, variables) == (SPEC.cwd, {"BACKPROP_NOTIFY": "[]"})  # no notification for each rung
        words[:] = given
        return requests.Called(0, "")

    monkeypatch.setattr(requests, "call", call)
    return words


def test_a_trial_is_started_as_a_user_would(home: Home, called: list[str]):
    """The script's own arguments come after the dashes: those of the sweep, the seed, then what is searched."""
    spec = msgspec.structs.replace(SPEC, arguments=("--data", "x"), seed_param="seed", run_options=("--gpus=1",))
    (trial,) = fold(spec, (asked(timebox_s=90.0, until_step=50, seed=7, note="--now"),)).trials
    trial_runs.make(home, spec, trial)
    options, arguments = called[: called.index("--")], called[called.index("--") + 1 :]
    assert arguments[:4] == ["--data", "x", "--seed", "7"]
    assert "lr" in " ".join(arguments[4:])
    assert options[options.index("--note") + 1] == "--now"
    assert options[options.index("--max-run-minutes") + 1] == "1.5"
    assert options[options.index("--until-step") + 1] == "50"
    assert "--gpus=1" in options


@pytest.mark.parametrize(
    ("from_scratch", "is_strict", "option"),
    [(False, True, "--strict"), (False, False, None), (True, True, "--from-scratch")],
)
def test_how_a_rung_continues(home: Home, called: list[str], from_scratch: bool, is_strict: bool, option: str | None):
    """From its checkpoint and from no other beginning; or anew, where the sweep trains each rung anew."""
    spec = msgspec.structs.replace(SPEC, from_scratch=from_scratch)
    more = RungContinued(
        at=NOW, trial=0, rung=1, request_id="q2", timebox_s=60.0, reason="promoted", is_strict=is_strict
    )
    (trial,) = fold(spec, (asked(), more)).trials
    trial_runs.resume(home, spec, trial)
    assert called[:2] == ["resume", "r0"]
    assert called[called.index("--request-id") + 1] == "q2"
    assert {"--strict", "--from-scratch"} & set(called) == ({option} if option else set())
