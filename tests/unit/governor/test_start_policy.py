"""May a session start? Limits and a snapshot in, a decision out."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.governor.start_policy import AdmissionDecision, Obstacle, Reservation, admit, needed_vram_bytes
from backprop.records import Gpu, Limits, MachineState

GB = 1_000_000_000
GIB = 1 << 30


def limits(ram: int = 2 * GB, disk: int = GB // 10, **more: object) -> Limits:
    return Limits(timebox_s=600, grace_s=30, min_free_ram_bytes=ram, min_free_disk_bytes=disk, **more)  # type: ignore[arg-type]


def card(
    index: int,
    free: int | None = 70 * GB,
    temp_c: float | None = 40,
    total: int | None = 80 * GB,
    uuid: str | None = None,
) -> Gpu:
    return Gpu(
        index=index,
        uuid=uuid or f"GPU-{index}",
        name="Fake",
        vendor="nvidia",
        vram_total_bytes=total,
        vram_free_bytes=free,
        temp_c=temp_c,
    )


def chosen(decision: AdmissionDecision) -> list[int] | None:
    return None if decision.gpus is None else [gpu.index for gpu in decision.gpus]


@pytest.mark.parametrize(
    ("snapshot", "is_admitted"),
    [
        (MachineState(ram_available_bytes=2 * GB), True),
        (MachineState(ram_available_bytes=2 * GB - 1), False),
        (MachineState(ram_available_bytes=0), False),
        (MachineState(ram_available_bytes=4 * GB, disk_free_bytes={"/a": GB // 10}), True),
        (MachineState(ram_available_bytes=4 * GB, disk_free_bytes={"/a": GB, "/b": GB // 10 - 1}), False),
        (MachineState(disk_free_bytes={"/a": 0}), False),
        (MachineState(), True),  # what is unknown does not hinder
    ],
)
def test_a_session_starts_only_with_room(snapshot: MachineState, is_admitted: bool):
    """Exactly at a limit is enough, one byte less is not, and what could not be read does not hinder."""
    assert admit(limits(), snapshot).is_admitted is is_admitted


def test_a_refusal_for_want_of_ram_says_what_to_do():
    """Figures, limit and the option that changes it are in the reason."""
    reason = admit(limits(), MachineState(ram_available_bytes=GB)).reason
    assert reason == "1.0 GB of RAM available (needed: 2). Close something, or lower --min-free-ram."


def test_a_refusal_for_want_of_disk_says_where_and_what_to_do():
    """Folder, figures, limit and the option that changes it are in the reason."""
    reason = admit(limits(), MachineState(disk_free_bytes={"/full": GB // 20})).reason
    assert reason == "0.05 GB of disk free in /full (needed: 0.1). Free some space, or lower --min-free-disk."


def test_the_figures_are_told_whatever_is_decided():
    """A decision can be checked later: it carries the numbers it was made from."""
    for ram in (GB, 4 * GB):
        told = admit(limits(), MachineState(ram_available_bytes=ram, disk_free_bytes={"/a": GB})).figures
        assert told["ram_available_bytes"] == ram
        assert told["min_free_ram_bytes"] == 2 * GB
        assert told["disk_free_bytes"] == {"/a": GB}
        assert told["min_free_disk_bytes"] == GB // 10


def test_the_figures_of_what_was_promised_and_of_every_card_are_told():
    """Also when a GPU is what a session waits for: what each card had, had promised and would have needed."""
    others = [Reservation(run_id="a", ram_bytes=GB), Reservation(run_id="b", vram_bytes={"GPU-1": 3 * GB})]
    figures = admit(limits(max_parallel=3), MachineState(gpus=(card(1, free=5 * GB, temp_c=60),)), others).figures
    assert (figures["running"], figures["max_parallel"]) == (["a", "b"], 3)
    assert (figures["ram_promised_bytes"], figures["gpu_max_temp_c"]) == (GB, 85)
    assert figures["gpus"] == [
        {
            "index": 1,
            "uuid": "GPU-1",
            "vram_free_bytes": 5 * GB,
            "vram_promised_bytes": 3 * GB,
            "vram_needed_bytes": 5 * GB // 2,
            "temp_c": 60,
        }
    ]


sizes = st.integers(0, 2**50)


@given(sizes, sizes, st.none() | sizes, st.dictionaries(st.text(max_size=4), sizes, max_size=3))
@settings(deadline=None)
def test_nothing_is_admitted_below_a_limit(min_ram: int, min_disk: int, ram: int | None, disk: dict[str, int]):
    """A session is admitted exactly when every value that is known is at its limit or above."""
    decision = admit(limits(min_ram, min_disk), MachineState(ram_available_bytes=ram, disk_free_bytes=disk))
    has_room = (ram is None or ram >= min_ram) and all(free >= min_disk for free in disk.values())
    assert decision.is_admitted is has_room
    assert (decision.reason is None) is has_room


# -- slots and promises


def test_there_are_as_many_slots_as_max_parallel():
    others = [Reservation(run_id=name) for name in "abcde"]
    assert admit(limits(max_parallel=6), MachineState(), others).is_admitted
    refused = admit(limits(max_parallel=5), MachineState(), others)
    assert refused.obstacle is Obstacle.SLOT
    assert refused.reason == "5 runs active (limit 5): a, b, c, d, .... Wait, or raise -p/--max-parallel."


@pytest.mark.parametrize(
    ("names", "told"),
    [("a", "1 run active (limit 1): a."), ("abcd", "4 runs active (limit 4): a, b, c, d.")],
)
def test_the_runs_that_hold_the_slots_are_named(names: str, told: str):
    """All of them when they are few."""
    reason = admit(limits(max_parallel=len(names)), MachineState(), [Reservation(run_id=name) for name in names]).reason
    assert reason == f"{told} Wait, or raise -p/--max-parallel."


def test_without_a_limit_of_ram_promises_do_not_hinder():
    """--min-free-ram 0 asks for nothing, so that nothing can be missing."""
    others = [Reservation(run_id="a", ram_bytes=2 * GB)]
    assert admit(limits(ram=0), MachineState(ram_available_bytes=GB), others).is_admitted
    assert not admit(limits(ram=1), MachineState(ram_available_bytes=GB), others).is_admitted


def test_ram_that_was_promised_is_taken():
    """A run that has just begun has not allocated yet."""
    others = [Reservation(run_id="a", ram_bytes=3 * GB)]
    assert admit(limits(), MachineState(ram_available_bytes=5 * GB), others).is_admitted
    refused = admit(limits(), MachineState(ram_available_bytes=5 * GB - 1), others)
    assert refused.reason == (
        "5.0 GB of RAM available, 3.0 GB of it reserved for other runs (needed: 2). Close something, or lower --min-free-ram."
    )


@pytest.mark.parametrize(
    ("snapshot", "told"),
    [
        (MachineState(ram_available_bytes=GB, ram_total_bytes=GB + 1), "of 1.0 (needed: 2)"),
        (MachineState(disk_free_bytes={"/a": 1}, disk_total_bytes={"/a": 2}), "disk"),
        (MachineState(gpus=(card(0, total=GB),)), "GPU 0 has 1.0 GB of memory in total (needed: 2.5)"),
    ],
)
def test_what_no_waiting_helps_is_said_to_be_hopeless(snapshot: MachineState, told: str):
    """A machine that is too small does not grow."""
    decision = admit(limits(), snapshot)
    assert decision.is_unsatisfiable
    assert told in (decision.reason or "")


@pytest.mark.parametrize(
    ("snapshot", "others"),
    [
        (MachineState(), 2),  # no slot
        (MachineState(ram_available_bytes=GB), 0),
        (MachineState(ram_available_bytes=GB, ram_total_bytes=2 * GB), 0),  # just large enough
        (MachineState(disk_free_bytes={"/a": 1}), 0),
        (MachineState(disk_free_bytes={"/a": 1}, disk_total_bytes={"/a": GB // 10}), 0),
        (MachineState(gpus=(card(0, free=GB, total=5 * GB // 2),)), 0),
        (MachineState(gpus=(card(0, free=GB, total=None),)), 0),  # nobody knows how large it is
        (MachineState(gpus=(card(0, temp_c=90),)), 0),
    ],
)
def test_what_may_change_is_waited_for(snapshot: MachineState, others: int):
    """A machine that is large enough, or of unknown size, may have room later."""
    decision = admit(limits(), snapshot, [Reservation(run_id=str(n)) for n in range(others)])
    assert not decision.is_admitted
    assert not decision.is_unsatisfiable


# -- GPUs


@pytest.mark.parametrize(
    ("gpus", "told"), [((), "no GPU found (requested: 2)"), ((card(0),), "1 GPU(s) found (requested: 2)")]
)
def test_more_cards_than_there_are_is_hopeless(gpus: tuple[Gpu, ...], told: str):
    """No waiting brings another card into the machine."""
    decision = admit(limits(gpu_count=2), MachineState(gpus=gpus))
    assert (decision.obstacle, decision.is_unsatisfiable) == (Obstacle.GPU, True)
    assert decision.reason == f"{told}. Lower --gpus, or check CUDA_VISIBLE_DEVICES."


@pytest.mark.parametrize(
    ("gpus", "more", "expected"),
    [
        ((), {}, None),  # none there, none asked for
        ((card(0), card(1)), {}, [0]),
        ((card(0, temp_c=60), card(1, temp_c=50)), {}, [1]),  # as free: the coolest
        ((card(0, free=30 * GB), card(1, free=60 * GB, temp_c=70)), {}, [1]),  # most free first
        ((card(0), card(1), card(2, free=80 * GB)), {"gpu_count": 2}, [2, 0]),
        ((card(0), card(1)), {"gpu_count": 0}, []),
        ((card(0, temp_c=85.5), card(1, free=3 * GB)), {}, [1]),  # too hot to begin with
        ((card(0, free=None, temp_c=None), card(1, free=3 * GB)), {}, [1]),  # what is not known comes last
        ((card(0, free=None, temp_c=None, total=None),), {}, [0]),
        ((card(0, free=267 * GIB // 4, temp_c=60), card(1, free=265 * GIB // 4, temp_c=50)), {}, [1]),  # about as free
        ((card(0, free=67 * GIB, temp_c=60), card(1, free=66 * GIB, temp_c=50)), {}, [0]),  # freer by a GiB
        ((card(0, free=None, temp_c=30), card(1, free=GIB // 2)), {"gpu_min_free_vram_bytes": 0}, [1]),
        ((card(0, temp_c=85),), {}, [0]),  # at the limit is not too hot
        ((card(0, free=79 * GB, total=100 * GB), card(1, free=72 * GB)), {"gpu_memory_fraction": 0.9}, [1]),
        ((card(0, total=None),), {"gpu_memory_fraction": 0.9}, [0]),
        ((card(0, free=9 * GB, total=9 * GB),), {"gpu_memory_bytes": 9 * GB}, [0]),  # all of it
        ((card(0, free=9 * GB, total=10 * GB), card(1)), {"gpu_memory_bytes": 9 * GB}, [1]),
    ],
)
def test_the_choice_of_cards(gpus: tuple[Gpu, ...], more: dict, expected: list[int] | None):
    decision = admit(limits(**more), MachineState(gpus=gpus))
    assert decision.is_admitted
    assert chosen(decision) == expected


def test_memory_of_a_card_that_was_promised_is_taken():
    """Also where a card's promise makes another one the freer."""
    others = [Reservation(run_id="a", vram_bytes={"GPU-0": 20 * GB})]
    gpus = (card(0, free=70 * GB), card(1, free=60 * GB))
    assert chosen(admit(limits(), MachineState(gpus=gpus), others)) == [1]
    refused = admit(limits(gpu_memory_bytes=65 * GB), MachineState(gpus=gpus), others)
    assert refused.obstacle is Obstacle.GPU
    assert refused.reason == (
        "GPU 0 has 70.0 GB of memory free, 20.0 GB of it reserved for other runs (needed: 65.0); "
        "GPU 1 has 60.0 GB of memory free (needed: 65.0). "
        "Wait, or change --gpu-min-vram, --gpu-memory-limit or --gpu-max-temp."
    )


def test_blindness_hinders_nobody():
    """Whatever is asked: the rest of the governor decides, and the trainer finds what it finds."""
    decision = admit(limits(gpu_count=4), MachineState(gpus=None, gpu_problem="hangs"))
    assert decision.is_admitted
    assert decision.gpus is None
    assert decision.figures["gpu_problem"] == "hangs"


def test_no_card_is_given_to_a_run_that_asked_for_none_whatever_the_probe_says():
    """--gpus 0 holds where nobody can tell which cards there are, and where there are some."""
    for gpus in (None, (card(0),), ()):
        decision = admit(limits(gpu_count=0), MachineState(gpus=gpus))
        assert (decision.is_admitted, decision.gpus) == (True, ())


cards = st.lists(
    st.builds(
        card,
        st.integers(0, 7),
        st.none() | st.integers(0, 80 * GB),
        st.none() | st.floats(0, 110),
        st.none() | st.integers(1, 80 * GB),
    ),
    max_size=4,
    unique_by=lambda gpu: gpu.uuid,
)
asked = st.builds(
    limits,
    st.integers(0, 30 * GB),
    st.integers(0, GB),
    max_parallel=st.integers(1, 4),
    gpu_count=st.none() | st.integers(0, 4),
    gpu_min_free_vram_bytes=st.integers(0, 80 * GB),
    gpu_memory_bytes=st.none() | st.integers(1, 80 * GB),
    gpu_max_temp_c=st.floats(20, 100),
)
promised = st.lists(
    st.builds(
        Reservation,
        run_id=st.text("ab", min_size=1, max_size=3),
        ram_bytes=st.integers(0, 10 * GB),
        vram_bytes=st.dictionaries(st.sampled_from(["GPU-0", "GPU-1", "GPU-2"]), st.integers(0, 40 * GB)),
    ),
    max_size=4,
)


def fits(limits: Limits, gpu: Gpu, others: list[Reservation]) -> bool:
    taken, needed = sum(other.vram_bytes.get(gpu.uuid, 0) for other in others), needed_vram_bytes(limits, gpu)
    return (
        (gpu.vram_free_bytes is None or gpu.vram_free_bytes - taken >= needed)
        and (gpu.vram_total_bytes is None or gpu.vram_total_bytes >= needed)
        and (gpu.temp_c is None or gpu.temp_c <= limits.gpu_max_temp_c)
    )


@given(asked, cards, promised, st.none() | st.integers(0, 40 * GB))
@settings(deadline=None)
def test_nobody_is_admitted_past_a_limit_nor_refused_without_one(
    limits: Limits, gpus: list[Gpu], others: list[Reservation], ram: int | None
):
    """A session starts exactly when there is a slot, memory that nobody was promised, and as many fitting cards."""
    decision = admit(limits, MachineState(ram_available_bytes=ram, gpus=tuple(gpus)), others)
    free = None if ram is None else ram - sum(other.ram_bytes for other in others)
    count = min(1, len(gpus)) if limits.gpu_count is None else limits.gpu_count
    fitting = [gpu for gpu in gpus if fits(limits, gpu, others)]
    has_ram = free is None or limits.min_free_ram_bytes in range(free + 1) or limits.min_free_ram_bytes == 0
    assert decision.is_admitted is (len(others) < limits.max_parallel and has_ram and len(fitting) >= count)
    if decision.is_admitted:
        taken = decision.gpus or ()
        assert len({gpu.uuid for gpu in taken}) == len(taken) == count
        assert all(gpu in fitting for gpu in taken)
    else:
        assert decision.reason
        assert decision.obstacle


@given(asked, cards, promised, st.integers(0, 40 * GB), st.integers(0, 10 * GB))
@settings(deadline=None)
def test_more_of_everything_never_hinders(
    limits: Limits, gpus: list[Gpu], others: list[Reservation], ram: int, more: int
):
    """What is admitted now is admitted with more memory and fewer others as well."""
    if admit(limits, MachineState(ram_available_bytes=ram, gpus=tuple(gpus)), others).is_admitted:
        assert admit(limits, MachineState(ram_available_bytes=ram + more, gpus=tuple(gpus)), others[1:]).is_admitted
