"""What held a run back: each rule on made-up figures, and all of them on what was measured of real scripts."""

import math
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import msgspec
import pytest

from backprop.lifecycle.diagnosis import evidence as gathering
from backprop.lifecycle.diagnosis.rules import Diverged, Evidence, Saves, diagnose
from backprop.store.journal.entries import Queued, Refused
from backprop.store.usage import blocks
from backprop.store.usage.blocks import Moment
from tests.unit.supervisor.fake_session import limits

RECORDED = Path(__file__).parents[2] / "fixtures" / "usage"
GB = 1e9
CALM = {
    "cpu": 60.0,
    "machine_cpu": 30.0,
    "ram": 2 * GB,
    "machine_ram": 20 * GB,
    "machine_ram_total": 64 * GB,
    "machine_swap": 0.0,
    "ram_pressure": 0.0,
    "disk_read": 0.0,
    "gpu_util": 95.0,
    "vram": 10 * GB,
    "vram_others": 0.0,
    "vram_used": 11 * GB,
    "vram_total": 80 * GB,
    "gpu_temp": 60.0,
    "gpu_throttle_thermal": 0.0,
    "gpu_throttle_power": 0.0,
    "gpu_throttle_hardware": 0.0,
}
WITHOUT_GPU = {name: value for name, value in CALM.items() if not name.startswith(("gpu", "vram"))}


def during(*stretches: tuple[int, dict[str, float]], of: dict[str, float] = CALM) -> tuple[Moment, ...]:
    """Stretches of so many seconds, in which some figures are other than in `of`."""

    def moments() -> Iterator[Moment]:
        at_s = 0.0
        for seconds, changes in stretches:
            for _ in range(seconds):
                at_s += 1.0
                yield Moment(at_s, 1.0, {**of, **changes})

    return tuple(moments())


def evidence(*stretches: tuple[int, dict[str, float]], of: dict[str, float] = CALM, **changes: object) -> Evidence:
    measured = during(*(stretches or ((100, {}),)), of=of)
    seconds = float(len(measured))
    known = {"limits": limits(), "moments": measured, "trained_s": seconds, "last_session_s": seconds}
    return Evidence(**{**known, "stepped_s": seconds, "saves": Saves(count=3, longest_s=0.1), **changes})  # type: ignore[arg-type]


def checks(one: Evidence) -> list[str]:
    return [finding.check for finding in diagnose(one).findings]


def test_where_nothing_stands_out_nothing_is_said():
    found = diagnose(evidence())
    assert found.findings == ()
    assert found.unseen == ()


@pytest.mark.parametrize(
    ("given", "check", "figures"),
    [
        (evidence((60, {"gpu_util": 20, "cpu": 400}), (40, {})), "waits for data", ["60 %", "mean 50 %", "4.0 cores"]),
        (evidence((100, {"gpu_util": 10, "cpu": 5, "disk_read": 90e6})), "waits for data", ["100 %", "90 MB/s"]),
        (evidence((50, {"gpu_util": 10, "cpu": 5}), (50, {})), "GPU idle", ["50 %", "0.1 cores", "not measured"]),
        (evidence((100, {"cpu": 300, "machine_cpu": 99}), of=WITHOUT_GPU), "CPU full", ["100 %", "3.0 cores"]),
        (evidence((100, {"cpu": 100, "machine_cpu": 13}), of=WITHOUT_GPU), "one core", ["1.0 cores", "13 % busy"]),
        (evidence((100, {"cpu": 10, "disk_read": 2e8}), of=WITHOUT_GPU), "waits for the disk", ["200 MB/s", "100 %"]),
        (
            evidence((100, {"gpu_util": 10, "cpu": 100})),
            "GPU idle",
            ["1.0 cores", "not measured"],
        ),  # it may launch kernels
        (evidence((100, {"cpu": 1}), of=WITHOUT_GPU), "idle", ["100 %", "0.0 cores", "nor was a GPU"]),
        (evidence(limits=limits(ram_limit_bytes=2_050_000_000)), "RAM near its limit", ["2.0 GB", "--ram-limit"]),
        (evidence((100, {"machine_ram": 62 * GB})), "machine's RAM full", ["62.0 GB", "64.0 GB", "2.0 GB"]),
        (evidence((100, {"vram_used": 79 * GB})), "VRAM full", ["79.0 GB", "80.0 GB"]),
        (
            evidence(*((1, {"ram": GB + n * GB / 10}) for n in range(60))),
            "memory grows",
            ["1.0 GB", "6.9 GB", "5.9 GB a minute"],
        ),
        (evidence((50, {}), (50, {"machine_swap": 3 * GB})), "swap", ["0 MB", "3.0 GB"]),
        (evidence((100, {"ram_pressure": 12.0})), "waits for memory", ["12 %"]),
        (evidence((100, {"gpu_throttle_thermal": 30, "gpu_temp": 91})), "throttled by heat", ["30 %", "91 °C"]),
        (evidence((100, {"gpu_throttle_power": 60})), "throttled by its power limit", ["60 %"]),
        (evidence((100, {"gpu_throttle_hardware": 60})), "throttled by its hardware", ["60 %"]),
        (evidence(governor_paused_s=90.0, paused_for="too hot"), "paused by the governor", ["90 s", "too hot"]),
        (evidence((30, {"vram_others": 7 * GB}), (70, {})), "others on its GPU", ["7.0 GB", "30 %"]),
        (evidence(saves=Saves(count=10, longest_s=2.5)), "saves", ["10 saves", "2.5 s", "up to 25 %"]),
        (evidence(queued_s=600.0), "queue", ["10 min", "100 s"]),
        (evidence(diverged=Diverged(metric="loss", step=1200, last=math.nan)), "not finite", ["loss", "1,200"]),
        (evidence(stepped_s=20.0), "no progress", ["20 s", "100 s"]),
        (evidence((400, {}), stepped_s=150.0, steps=3), "no progress", ["2 min", "7 min"]),
    ],
)
def test_each_rule_says_what_was_measured_and_what_to_try(given: Evidence, check: str, figures: list[str]):
    """And nothing else does, of the same figures."""
    (finding,) = diagnose(given).findings
    assert finding.check == check
    assert [figure for figure in figures if figure not in finding.text] == []
    assert finding.advice


@pytest.mark.parametrize(
    "given",
    [
        evidence((20, {"gpu_util": 20, "cpu": 400}), (80, {})),  # at the beginning, say
        evidence((5, {"gpu_util": 0, "cpu": 0})),  # too short to say anything
        evidence((100, {"gpu_throttle_power": 10})),
        evidence((100, {"vram_others": 3e8})),  # a desktop
        evidence((100, {"machine_swap": 3 * GB})),  # from before
        evidence((50, {"ram": GB}), (50, {"ram": 5 * GB})),  # it loaded its data, and has not grown since
        evidence(saves=Saves(count=1, longest_s=60.0)),
        evidence(queued_s=20.0),
        evidence(stepped_s=95.0),
        evidence((480, {}), stepped_s=300.0, steps=1),  # in the middle of its second epoch
        evidence((100, {}), limits=limits(ram_limit_bytes=4_000_000_000)),
    ],
)
def test_little_is_no_finding(given: Evidence):
    assert checks(given) == []


def test_what_could_not_be_seen_is_said():
    """Silence of a rule that had no figures is no all-clear."""
    blind = Evidence(limits=limits())
    assert checks(blind) == []
    assert [text.partition(":")[0] for text in diagnose(blind).unseen] == [
        "CPU, memory, disk and GPUs",
        "progress",
        "how long saves take",
    ]
    no_gpu = diagnose(evidence(of=WITHOUT_GPU)).unseen
    assert [text.partition(":")[0] for text in no_gpu] == ["GPUs"]
    hidden = {name: value for name, value in CALM.items() if name not in {"vram", "vram_others"}}
    assert [text.partition(":")[0] for text in diagnose(evidence(of=hidden)).unseen] == ["other processes on its GPUs"]


@pytest.mark.parametrize(
    "sessions",
    [
        [during((20, {"ram": n * GB})) for n in range(1, 6)],  # each with a larger batch
        [during((20, {"machine_swap": swap})) for swap in (0.0, 3 * GB)],  # filled between them
        [during((20, {"ram": ram})) for ram in (4 * GB, GB)],
    ],
)
def test_what_changed_between_sessions_did_not_grow_in_one(sessions: list[tuple[Moment, ...]]):
    """And the limit is that of the last one."""
    given = evidence(limits=limits(ram_limit_bytes=6_000_000_000))
    measured = tuple(moment for session in sessions for moment in session)
    assert checks(msgspec.structs.replace(given, moments=measured)) == []


def test_a_day_is_looked_through_at_once():
    """A second of each of its 86,400: no rule compares all with all."""
    day = during((86_400, {"cpu": 100, "machine_cpu": 99}), of=WITHOUT_GPU)
    assert checks(msgspec.structs.replace(evidence(), moments=day)) == ["CPU full"]


def test_time_after_the_death_of_a_queued_supervisor_is_no_time_in_the_queue():
    """Only when somebody looked is known: a day later, perhaps."""

    def at(minute: int) -> datetime:
        return datetime(2026, 1, 1, 0, minute, tzinfo=timezone.utc)

    queued = Queued(at=at(0), session=1, reason="full", figures={}, host="h", supervisor_pid=1)
    died = Refused(at=at(50), reason="its supervisor died", figures={}, is_presumed=True)
    again = msgspec.structs.replace(queued, at=at(55))
    gave_up = Refused(at=at(56), reason="not started in time", figures={})
    assert gathering._queued_s([queued, died, again, gave_up], None) == 60
    assert gathering._queued_s([queued, died, again], at(57)) == 120


def test_a_long_run_is_seen_whole_in_fewer_moments(monkeypatch: pytest.MonkeyPatch):
    """Its time and its peaks stay, whatever its length and however many cards it had."""
    monkeypatch.setattr(gathering, "_MOST_MOMENTS", 10)
    found = gathering._bounded(during((50, {"gpu7/util": 3.0}), (1, {"ram": 9 * GB, "cpu": 160.0}), (50, {})))
    assert len(found) < 10
    assert sum(moment.seconds for moment in found) == found[-1].at_s == 101
    assert max(moment.values["ram"] for moment in found) == 9 * GB
    assert all("gpu7/util" not in moment.values for moment in found)
    assert sum(moment.values["cpu"] * moment.seconds for moment in found) == pytest.approx(101 * 60 + 100)


@pytest.mark.parametrize("name", sorted(CALM))
def test_no_rule_needs_a_figure_that_may_be_missing(name: str):
    fewer = {other: value for other, value in CALM.items() if other != name}
    diagnose(evidence((100, {}), of=fewer))


@pytest.mark.parametrize(
    ("script", "expected"),
    [
        ("sleeps", ["idle"]),  # a second a step; other processes kept the machine busy
        ("grows", ["idle", "memory grows"]),  # 30 MB a step that it keeps
        ("cpu", ["CPU full"]),  # computes, on the same machine
        ("reads", ["waits for the disk"]),  # a file that is never in the cache
    ],
)
def test_real_scripts(script: str, expected: list[str]):
    """As their supervisors measured them, of 25 s each."""
    measured = tuple(blocks.moments((RECORDED / f"{script}.usage").read_bytes()))
    given = msgspec.structs.replace(evidence(), moments=measured)
    assert checks(given) == expected
