"""Must a session be paused, saved or stopped? One sample after the other in, verdicts out."""

from collections.abc import Sequence

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.governor.run_policy import (
    COOLER_BY_C,
    VRAM_PATIENCE_S,
    Action,
    PauseState,
    PolicyDecision,
    Sample,
    State,
    hard_ram_limit_bytes,
    judge,
    time_to_exhaustion_s,
)
from backprop.records import Gpu, Limits, Pauser

GB = 10**9
HOT, COOL = 90.0, 50.0


def limits(**changes: object) -> Limits:
    told = {"timebox_s": 600, "grace_s": 30, "min_free_ram_bytes": 0, "min_free_disk_bytes": 0, **changes}
    return Limits(**told)  # type: ignore[arg-type]


def card(temp_c: float | None = None, uuid: str = "GPU-0", total: int | None = 80 * GB) -> Gpu:
    return Gpu(index=0, uuid=uuid, name="Fake", vendor="nvidia", vram_total_bytes=total, temp_c=temp_c)


def obeyed(pauses: PauseState, verdict: PolicyDecision, now: float) -> PauseState:
    """The pauses after a supervisor did what the verdict says."""
    match verdict.action:
        case Action.PAUSE:
            return pauses.held(Pauser.GOVERNOR, verdict.reason, now)
        case Action.CONTINUE:
            return pauses.released(Pauser.GOVERNOR, now)
        case Action.STOP | Action.KILL:
            return pauses.ended(now)
        case _:
            return pauses


def judged_from(
    pauses: PauseState, asked: Limits, samples: Sequence[Sample]
) -> tuple[PauseState, list[PolicyDecision]]:
    """The pauses after these samples, and the verdict on each."""
    state, verdicts = State(), []
    for sample in samples:
        state, verdict = judge(asked, state, msgspec.structs.replace(sample, pauses=pauses))
        pauses = obeyed(pauses, verdict, sample.at)
        verdicts.append(verdict)
    return pauses, verdicts


def judged(asked: Limits, samples: Sequence[Sample]) -> list[PolicyDecision]:
    return judged_from(PauseState(), asked, samples)[1]


def actions(asked: Limits, samples: Sequence[Sample]) -> list[Action]:
    return [verdict.action for verdict in judged(asked, samples)]


def temperatures(*values: float | None) -> list[Sample]:
    """A sample a second; None: the probe is blind."""
    return [Sample(at=100.0 + n, gpus=None if t is None else (card(t),)) for n, t in enumerate(values)]


# -- heat


def test_a_hot_card_pauses_and_a_cooler_one_goes_on():
    """At the limit nothing happens; above it a pause, until it is five degrees below."""
    assert actions(limits(), temperatures(85, 86, 85, 80.5, 80, 85, 70)) == [
        Action.NONE,
        Action.PAUSE,
        Action.NONE,
        Action.NONE,
        Action.CONTINUE,
        Action.NONE,
        Action.NONE,
    ]


def test_the_hottest_of_the_sessions_cards_counts():
    hot = Sample(at=1.0, gpus=(card(50, "a"), card(91, "b"), card(None, "c")))
    (verdict,) = judged(limits(), [hot])
    assert (verdict.action, verdict.reason) == (Action.PAUSE, "GPU 0 is at 91 °C (limit 85)")
    assert verdict.figures == {"gpu": "b", "temp_c": 91, "gpu_max_temp_c": 85}


def test_a_pause_that_takes_too_long_ends_the_session():
    """All pauses of a session add up; the reading and the time are told."""
    asked = limits(max_pause_s=3)
    verdicts = judged(asked, temperatures(HOT, HOT, COOL, HOT, HOT, HOT))
    assert [verdict.action for verdict in verdicts] == [
        Action.PAUSE,
        Action.NONE,
        Action.CONTINUE,  # after 2 s
        Action.PAUSE,
        Action.STOP,  # after 1 s more
        Action.PAUSE,  # whoever is being stopped need not be asked
    ]
    assert verdicts[4].reason == "GPU 0 is at 90 °C after 0.05 min of pause (limit 85)"


def held_since(at: float) -> PauseState:
    return PauseState().held(Pauser.USER, "backprop pause", at)


def test_a_cool_card_does_not_end_a_pause_of_the_user():
    """Only the governor's own pause ends with the heat; the session stays paused until the user ends theirs."""
    pauses, verdicts = judged_from(held_since(100.0), limits(), temperatures(HOT, HOT, COOL, COOL))
    made = [verdict.action for verdict in verdicts]
    assert made == [Action.PAUSE, Action.NONE, Action.CONTINUE, Action.NONE]
    assert pauses.reasons == {Pauser.USER: "backprop pause"}
    assert pauses.limited.since == 100.0


def test_the_end_of_a_users_pause_does_not_end_that_for_heat():
    """The session stays paused, and its time counts from when the user paused it."""
    pauses, _ = judged_from(held_since(100.0), limits(), temperatures(HOT))
    pauses = pauses.released(Pauser.USER, 103.0)
    assert tuple(pauses.reasons) == (Pauser.GOVERNOR,)
    assert pauses.limited.elapsed_s(105.0) == pauses.paused.elapsed_s(105.0) == 5.0


def test_a_session_that_was_never_paused_has_no_paused_time():
    assert PauseState().limited.elapsed_s(100.0) == 0.0
    assert held_since(90.0).limited.elapsed_s(100.0) == 10.0


def test_the_total_time_of_a_users_pauses_is_limited():
    """All pauses of a session add up, no matter who paused it; the reason says so."""
    before = held_since(90.0).released(Pauser.USER, 92.0)
    pauses = before.held(Pauser.USER, "backprop pause", 100.0)
    asked = limits(max_pause_s=5)
    _, verdicts = judged_from(pauses, asked, [Sample(at=100.0 + n) for n in range(4)])
    assert [verdict.action for verdict in verdicts] == [Action.NONE, Action.NONE, Action.NONE, Action.STOP]
    assert verdicts[-1].reason == "it was paused for 0.0833 min in all (--max-pause-minutes 0.0833333)"


@pytest.mark.parametrize("by", [Pauser.CTRL_Z, Pauser.SLURM])
def test_a_suspension_is_not_limited(by: Pauser):
    """Ctrl-Z and Slurm suspend the supervisor as well: their time is neither training nor a limited pause."""
    pauses = PauseState().held(by, "suspended", 90.0).held(Pauser.USER, "backprop pause", 100.0)
    pauses = pauses.released(Pauser.USER, 105.0)
    assert pauses.is_paused
    assert pauses.limited.elapsed_s(200.0) == 5.0
    assert pauses.ended(200.0).paused.elapsed_s(300.0) == 110.0


def test_a_second_pause_of_the_same_pauser_changes_only_the_reason():
    pauses = held_since(90.0).held(Pauser.GOVERNOR, "hot", 92.0).held(Pauser.USER, "again", 95.0)
    assert pauses.reason == "again; hot"
    assert pauses.paused.since == pauses.limited.since == 90.0
    assert pauses.released(Pauser.SLURM, 99.0) == pauses


def test_a_paused_session_is_stopped_like_any_other():
    """Whatever it was paused for, and whatever it is stopped for: it must run in order to save."""
    pauses = held_since(90.0).held(Pauser.GOVERNOR, "hot", 90.0)
    over = Sample(at=100.0, tree_ram_bytes=3 * GB, gpus=(card(HOT),))
    pauses, (verdict,) = judged_from(pauses, limits(ram_limit_bytes=2 * GB), [over])
    assert verdict.action is Action.STOP
    assert (pauses.reasons, pauses.limited.since, pauses.limited.elapsed_s(200.0)) == ({}, None, 10.0)


def test_blindness_ends_a_pause():
    """Better a warm card, which protects itself, than a run that stands still for ever."""
    verdicts = judged(limits(), temperatures(HOT, None, None))
    assert [verdict.action for verdict in verdicts] == [Action.PAUSE, Action.CONTINUE, Action.NONE]
    assert verdicts[1].reason == "the temperature cannot be read any more"


readings = st.lists(st.none() | st.floats(20, 110), max_size=60)


@given(readings, st.floats(0, 20))
@settings(deadline=None)
def test_a_pause_always_ends(values: list[float | None], max_pause_s: float):
    """However the temperature goes: no pause lasts longer than it may, nor do all together."""
    asked, paused_s = limits(max_pause_s=max_pause_s), 0.0
    state, pauses, paused_at = State(), PauseState(), None
    for sample in [*temperatures(*values), *temperatures(*[HOT] * 90)[60:]]:
        state, verdict = judge(asked, state, msgspec.structs.replace(sample, pauses=pauses))
        pauses = obeyed(pauses, verdict, sample.at)
        if verdict.action is Action.PAUSE:
            paused_at = sample.at
        elif paused_at is not None and verdict.action in {Action.CONTINUE, Action.STOP}:
            paused_s += sample.at - paused_at
            paused_at = None
        if verdict.action is Action.STOP:
            break
        if paused_at is not None and sample.at > paused_at:
            assert paused_s + sample.at - paused_at < max_pause_s
    assert paused_at is None
    assert verdict.action is Action.STOP


@given(readings)
@settings(deadline=None)
def test_the_band_between_the_thresholds_changes_nothing(values: list[float | None]):
    """Pauses begin above the limit and end below the band: between two changes lie five degrees, so it never flaps."""
    samples = temperatures(*values)
    verdicts = judged(limits(max_pause_s=1e9), samples)
    changes = [
        (verdict.action, sample)
        for verdict, sample in zip(verdicts, samples, strict=True)
        if verdict.action is not Action.NONE
    ]
    expected = [Action.PAUSE, Action.CONTINUE] * len(changes)
    assert [action for action, _ in changes] == expected[: len(changes)]
    for action, sample in changes:
        temp_c = None if sample.gpus is None else sample.gpus[0].temp_c
        if action is Action.PAUSE:
            assert temp_c is not None
            assert temp_c > 85
        else:
            assert temp_c is None or temp_c <= 85 - COOLER_BY_C


# -- what it may use itself


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (2 * GB, Action.NONE),
        (2 * GB + 1, Action.STOP),
        (3 * GB, Action.STOP),
        (3 * GB + 1, Action.KILL),
        (None, Action.NONE),
    ],
)
def test_the_limit_of_ram(used: int | None, expected: Action):
    """Over it the ladder; over the hard limit there is no time for one."""
    (verdict,) = judged(limits(ram_limit_bytes=2 * GB), [Sample(at=1.0, tree_ram_bytes=used)])
    assert verdict.action is expected
    assert verdict.is_over_own_limit is (expected is not Action.NONE)


def test_who_is_over_its_limit_of_ram_hears_how_far():
    (verdict,) = judged(limits(ram_limit_bytes=2 * GB), [Sample(at=1.0, tree_ram_bytes=5 * GB // 2)])
    assert verdict.reason == "its processes hold 2.50 GB of RAM (--ram-limit 2)"
    assert verdict.figures == {
        "tree_ram_bytes": 5 * GB // 2,
        "ram_limit_bytes": 2 * GB,
        "hard_ram_limit_bytes": 3 * GB,
    }


def test_room_above_the_limit_of_ram():
    """A quarter more, and a gigabyte at least: enough to hear of it and to save."""
    assert hard_ram_limit_bytes(2 * GB) == 3 * GB
    assert hard_ram_limit_bytes(40 * GB) == 50 * GB


def vram(*held: int | None, asked: Limits) -> list[Action]:
    samples = [
        Sample(at=float(n), gpus=(card(),), tree_vram_bytes={} if size is None else {"GPU-0": size})
        for n, size in enumerate(held)
    ]
    return actions(asked, samples)


def test_too_much_vram_for_three_seconds_ends_the_session():
    """A moment over the limit is forgiven, and what is not known does not count."""
    asked, over = limits(gpu_memory_fraction=0.5), 41 * GB
    assert vram(over, over, over, over, asked=asked) == [Action.NONE] * 3 + [Action.STOP]
    assert set(vram(over, over, over, 40 * GB, over, over, over, asked=asked)) == {Action.NONE}
    assert set(vram(over, over, over, None, over, over, over, asked=asked)) == {Action.NONE}
    assert set(vram(over, over, over, over, over, asked=limits())) == {Action.NONE}


def test_a_limit_in_bytes_is_one_of_each_card():
    samples = [
        Sample(
            at=10.0 + n, gpus=(card(uuid="a", total=None), card(uuid="b")), tree_vram_bytes={"a": 5 * GB, "b": 7 * GB}
        )
        for n in range(4)
    ]
    verdict = judged(limits(gpu_memory_bytes=6 * GB), samples)[-1]
    assert verdict.action is Action.STOP
    assert verdict.figures == {"gpu": "b", "tree_vram_bytes": 7 * GB, "vram_limit_bytes": 6 * GB}
    assert verdict.is_over_own_limit
    assert verdict.reason == "it has held 7.0 GB of GPU 0 for 3 s (--gpu-memory-limit 6.0 GB)"


@given(st.lists(st.booleans(), max_size=30), st.floats(0.1, 2.0))
@settings(deadline=None)
def test_vram_is_judged_by_time_not_by_samples(over: list[bool], period_s: float):
    """It ends the session exactly when it was over the limit for the whole of the last three seconds."""
    asked = limits(gpu_memory_bytes=GB)
    since = None
    state = State()
    for n, is_over in enumerate(over):
        at = n * period_s
        since = (at if since is None else since) if is_over else None
        sample = Sample(at=at, gpus=(card(),), tree_vram_bytes={"GPU-0": 2 * GB if is_over else 0})
        state, verdict = judge(asked, state, sample)
        assert (verdict.action is Action.STOP) is (since is not None and at - since >= VRAM_PATIENCE_S)


# -- what the machine has left


def test_the_forecast():
    """Falling by a byte a second from ten is nothing in ten seconds; what does not fall lasts."""
    assert time_to_exhaustion_s([(0.0, 12), (1.0, 11), (2.0, 10)]) == pytest.approx(10)
    assert time_to_exhaustion_s([(0.0, 12), (1.0, 12)]) is None
    assert time_to_exhaustion_s([(0.0, 12), (1.0, 13)]) is None
    assert time_to_exhaustion_s([(5.0, 12), (5.0, 11)]) is None  # no time has passed
    assert time_to_exhaustion_s([(0.0, 3), (1.0, -1)]) == 0


def leaking(rate: float, save_s: float, what: str = "ram") -> tuple[Action, float, list[Action]]:
    """The first final verdict on a machine whose memory, or disk, falls at this rate; what is left then, in seconds."""
    free, state, seen = 24.0 * GB, State(), []
    for n in range(100_000):
        if what == "ram":
            sample = Sample(
                at=float(n), ram_available_bytes=int(free), ram_total_bytes=24 * GB, tree_ram_bytes=GB, save_s=save_s
            )
        else:
            sample = Sample(at=float(n), disk_free_bytes={"/w": int(free)}, save_s=save_s)
        state, verdict = judge(limits(), state, sample)
        seen.append(verdict.action)
        if verdict.action in {Action.STOP, Action.KILL}:
            assert "at this rate for" in verdict.reason
            return verdict.action, free / rate, [action for action in seen if action is not Action.NONE]
        free -= rate
        assert free > 0, "it ran out without a word"
    raise AssertionError("no verdict")


@given(st.floats(0.01, 1.0), st.floats(0.1, 10))
@settings(deadline=None)
def test_a_steady_leak_is_stopped_with_time_left_to_save(rate_gb_s: float, save_s: float):
    """Of the machine's memory as of its disk: never too late, and never long before it must be."""
    for what, low_bytes in (("ram", 0.15 * 24 * GB), ("disk", 5 * GB)):
        action, left_s, seen = leaking(rate_gb_s * GB, save_s, what)
        assert action is Action.STOP
        low_s = low_bytes / (rate_gb_s * GB)  # a leak faster than its save is caught where there is little left
        assert left_s >= min(2 * save_s, low_s) - 1.001  # a sample a second
        assert left_s <= 2 * save_s + 11
        assert seen.count(Action.SAVE) <= 1


UNIT = 1 << 24  # bytes that a float holds exactly, however they are divided


def when(seen: Sequence[Action]) -> list[tuple[int, Action]]:
    """Where in a sequence something is to be done."""
    return [(at, action) for at, action in enumerate(seen) if action is not Action.NONE]


@pytest.mark.parametrize(
    ("what", "more", "save_left_s", "stop_left_s"),
    [
        ("ram", {}, 14, 7),  # no save was seen yet: it takes two seconds
        ("ram", {"save_s": 5.0}, 26, 13),
        ("disk", {}, 28, 14),
        ("disk", {"save_s": 5.0}, 40, 20),
    ],
)
def test_a_leak_is_stopped_when_twice_the_longest_save_is_left(
    what: str, more: dict, save_left_s: int, stop_left_s: int
):
    """With seconds to spare to hear of it: three for memory, ten for a disk. A save is asked for at twice that."""
    samples = [
        Sample(at=float(n), ram_available_bytes=free, ram_total_bytes=1000 * UNIT, **more)
        if what == "ram"
        else Sample(at=float(n), disk_free_bytes={"/w": free}, **more)
        for n, free in enumerate(range(60 * UNIT, 0, -UNIT))
    ]
    made = when(actions(limits(), samples))
    assert made[:2] == [(60 - save_left_s, Action.SAVE), (60 - stop_left_s, Action.STOP)]


def test_a_forecast_is_told_with_what_it_was_made_from():
    memory = [Sample(at=float(n), ram_available_bytes=(10 - n) * UNIT, ram_total_bytes=1000 * UNIT) for n in range(4)]
    verdict = judged(limits(), memory)[-1]
    assert verdict.reason == "0.12 GB of RAM are left, at this rate for 7 s more"
    assert verdict.figures == {
        "ram_available_bytes": 7 * UNIT,
        "ram_total_bytes": 1000 * UNIT,
        "tree_ram_bytes": None,
        "forecast_s": 7.0,
        "save_s": 2.0,
    }
    disk = [Sample(at=float(n), disk_free_bytes={"/w": (10 - n) * UNIT}, save_s=1.0) for n in range(4)]
    verdict = judged(limits(), disk)[-1]
    assert verdict.reason == "0.12 GB of disk are left in /w, at this rate for 7 s more"
    assert verdict.figures == {"folder": "/w", "disk_free_bytes": 7 * UNIT, "forecast_s": 7.0, "save_s": 1.0}


def test_a_leak_that_goes_on_is_saved_once_a_minute():
    """A save that takes long is asked for early, and again as long as there is time."""
    samples = [
        Sample(at=float(n), disk_free_bytes={"/w": (290 - n) * UNIT}, save_s=60.0) for n in range(170)
    ]  # needs 130 s
    made = when(actions(limits(), samples))
    assert made[:4] == [(30, Action.SAVE), (90, Action.SAVE), (150, Action.SAVE), (160, Action.STOP)]


@pytest.mark.parametrize(
    ("left", "expected"), [(15 * GB, Action.STOP), (15 * GB + 1, Action.NONE)], ids=["at 15 %", "above"]
)
def test_memory_is_low_at_15_percent(left: int, expected: Action):
    """However fast it falls above that."""
    samples = [
        Sample(at=float(n), ram_available_bytes=left + (5 - n) * 3 * GB, ram_total_bytes=100 * GB) for n in range(6)
    ]
    assert actions(limits(), samples) == [Action.NONE] * 5 + [expected]


@pytest.mark.parametrize(("left", "expected"), [(5 * GB - 1, Action.STOP), (5 * GB, Action.NONE)])
def test_a_disk_is_low_below_5_gb(left: int, expected: Action):
    """However fast it fills above that."""
    samples = [Sample(at=float(n), disk_free_bytes={"/w": left + (5 - n) * GB}) for n in range(6)]
    assert actions(limits(), samples) == [Action.NONE] * 5 + [expected]


@pytest.mark.parametrize(
    ("left", "held", "expected"),
    [
        (GB - 1, 10 * GB + 1, Action.KILL),
        (GB, 10 * GB + 1, Action.NONE),  # a hundredth is left
        (GB - 1, 10 * GB, Action.NONE),  # a tenth is not much
        (GB - 1, None, Action.NONE),
    ],
)
def test_only_who_holds_much_is_killed_when_next_to_nothing_is_left(left: int, held: int | None, expected: Action):
    """Less than a hundredth of the memory is left, and the run holds more than a tenth of it."""
    sample = Sample(at=1.0, ram_available_bytes=left, ram_total_bytes=100 * GB, tree_ram_bytes=held)
    (verdict,) = judged(limits(), [sample])
    assert verdict.action is expected
    if expected is Action.KILL:
        assert verdict.reason == "1.00 GB of RAM are left, and this run holds the most"


def test_three_samples_are_no_trend():
    """Whatever they say."""
    samples = [
        Sample(at=float(n), ram_available_bytes=(10 - n) * GB, ram_total_bytes=100 * GB, disk_free_bytes={"/w": GB})
        for n in range(4)
    ]
    assert actions(limits(), samples) == [Action.NONE] * 3 + [Action.STOP]


def drop(seconds_ago: float, what: str) -> Action:
    """The verdict on a machine with next to nothing left since a fall so long ago."""
    state, verdict = State(), PolicyDecision()
    for at in (0.0, *(seconds_ago - 0.1 * n for n in (3, 2, 1, 0))):
        free = 3 * GB if at == 0.0 else GB // 100
        sample = (
            Sample(at=at, ram_available_bytes=free, ram_total_bytes=24 * GB, save_s=50.0)
            if what == "ram"
            else Sample(at=at, disk_free_bytes={"/w": free}, save_s=50.0)
        )
        state, verdict = judge(limits(), state, sample)
    return verdict.action


@pytest.mark.parametrize(("what", "window_s"), [("ram", 5.0), ("disk", 20.0)])
def test_a_fall_that_is_long_over_says_nothing(what: str, window_s: float):
    """A trend is one of the last seconds: five of memory, twenty of a disk, to which checkpoints go in bursts."""
    assert drop(window_s, what) is Action.STOP
    assert drop(window_s + 0.5, what) is Action.NONE


def test_what_is_older_than_half_a_minute_is_forgotten():
    """The memory of a session of days stays as small as that of one of minutes."""
    state = State()
    for n in range(100):
        state, _ = judge(limits(), state, Sample(at=float(n)))
    assert [sample.at for sample in state.samples] == [float(n) for n in range(69, 100)]


def test_a_slow_leak_is_saved_before_it_is_stopped():
    """A checkpoint is asked for once, at twice the time that is needed."""
    assert leaking(GB / 10, 2.0)[2] == [Action.SAVE, Action.STOP]


def test_memory_that_falls_while_there_is_plenty_says_nothing():
    """Loading data looks just the same."""
    samples = [Sample(at=float(n), ram_available_bytes=(20 - n) * GB, ram_total_bytes=24 * GB) for n in range(16)]
    assert set(actions(limits(), samples)) == {Action.NONE}


def test_only_the_biggest_run_pays_for_the_machines_memory():
    falling = [
        Sample(at=float(n), ram_available_bytes=3 * GB - n * GB // 2, ram_total_bytes=24 * GB, is_biggest=False)
        for n in range(6)
    ]
    assert set(actions(limits(), falling)) == {Action.NONE}


def test_memory_that_is_all_but_gone_ends_the_run_that_holds_it():
    """When the kernel is about to choose somebody, there is no time for a ladder."""
    sample = Sample(at=1.0, ram_available_bytes=GB // 10, ram_total_bytes=24 * GB, tree_ram_bytes=20 * GB)
    assert actions(limits(), [sample]) == [Action.KILL]
    small = Sample(at=1.0, ram_available_bytes=GB // 10, ram_total_bytes=24 * GB, tree_ram_bytes=GB)
    assert actions(limits(), [small]) == [Action.NONE]


def test_a_checkpoint_written_in_a_burst_is_no_trend():
    """Disk that falls once and stays is not running out."""
    values = [4.9, 4.9, 4.9, 4.9, 4.4, 4.4, 4.4, 4.4, 4.4, 4.4]
    samples = [Sample(at=float(n), disk_free_bytes={"/w": int(v * GB)}) for n, v in enumerate(values)]
    assert set(actions(limits(), samples)) == {Action.NONE}


any_sample = st.builds(
    Sample,
    at=st.just(0.0),
    ram_available_bytes=st.none() | st.integers(0, 30 * GB),
    ram_total_bytes=st.none() | st.integers(0, 24 * GB),
    tree_ram_bytes=st.none() | st.integers(0, 30 * GB),
    disk_free_bytes=st.dictionaries(st.sampled_from(["/a", "/b"]), st.integers(0, 10 * GB)),
    gpus=st.none()
    | st.lists(st.builds(card, st.none() | st.floats(0, 120), st.sampled_from(["a", "b"])), max_size=2).map(tuple),
    tree_vram_bytes=st.dictionaries(st.sampled_from(["a", "b"]), st.integers(0, 90 * GB)),
    is_biggest=st.booleans(),
    save_s=st.floats(0, 100),
)


@given(st.lists(any_sample, max_size=20), st.lists(st.floats(0, 5), min_size=20, max_size=20))
@settings(deadline=None)
def test_every_verdict_has_a_reason_and_figures(samples: list[Sample], gaps: list[float]):
    """Whatever the machine says, or does not: a decision that cannot be explained is none."""
    asked = limits(ram_limit_bytes=5 * GB, gpu_memory_fraction=0.8)
    at, timed = 0.0, []
    for sample, gap in zip(samples, gaps, strict=False):
        at += gap
        timed.append(msgspec.structs.replace(sample, at=at))
    for verdict in judged(asked, timed):
        assert (verdict.action is Action.NONE) is (verdict.reason == "")
        is_blind = verdict.reason == "the temperature cannot be read any more"
        assert bool(verdict.figures) is (verdict.action is not Action.NONE and not is_blind)
