"""What held a run back. Pure: evidence in, findings out; each says only what was measured, and what to try.

A rule is a function in `RULES`. It yields nothing where its figures are not known: `unseen` says which are not.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise

from backprop.records import GB, Finding, Level, Limits, Record
from backprop.store.usage.blocks import Moment

_BUSY_GPU = 50.0  # percent: below it, a GPU is said to wait
_WAITS_SHARE = 0.3  # of the time, from which on waiting is worth a word
_BUSY_CPU = 80.0  # percent of a core
_BUSY_WORKERS = 150.0  # the process that trains takes up to a core, also while it only launches what the GPU does
_READS = 20e6  # bytes a second: more than logging and imports take
_IDLE_CPU = 10.0
_FULL = 0.95  # of memory
_FULL_CPU = 90.0  # percent of the machine
_THROTTLED = 5.0  # percent of the time
_CAPPED = 20.0  # the same by the power limit, at which a busy card is now and then
_FOREIGN_BYTES = 500e6  # a desktop holds less
_SWAPPED_BYTES = 100e6
_PRESSED = 5.0  # percent of the time
_PARTS = 5  # of the time
_GROWS, _GROWS_BYTES = 1.05, 20e6  # from each part to the next, by both
_SAVES_SHARE = 0.1
_QUEUED_SHARE, _QUEUED_S = 0.1, 30.0
_STUCK_SHARE, _STUCK_S = 0.2, 60.0
_FEW_S = 10.0  # what is shorter tells nothing


class Saves(Record, frozen=True):
    """How many checkpoints the last session reported, and how long the longest save took by the trainer's clock."""

    count: int
    longest_s: float


class Diverged(Record, frozen=True):
    """Since when a metric is not finite."""

    metric: str
    step: int
    last: float


class Evidence(Record, frozen=True):
    """What is known of a run. None: not known."""

    limits: Limits
    moments: Sequence[Moment] = ()  # what was measured, of all sessions, oldest first
    trained_s: float = 0.0
    queued_s: float = 0.0  # before its sessions
    paused_for: str | None = None  # why the governor paused it last
    governor_paused_s: float = 0.0
    last_session_s: float = 0.0  # how long the last session has trained
    stepped_s: float | None = None  # when in it the last metric came
    steps: int = 1  # at how many moments of it metrics came
    saves: Saves | None = None
    diverged: Diverged | None = None


class Diagnosis(Record, frozen=True):
    """What held a run back, and what could not be seen."""

    findings: tuple[Finding, ...]
    unseen: tuple[str, ...]


def diagnose(evidence: Evidence) -> Diagnosis:
    """All findings, in the order of `RULES`."""
    findings = [finding for rule in RULES for finding in rule(evidence)]
    return Diagnosis(findings=tuple(findings), unseen=tuple(unseen(evidence)))


def unseen(evidence: Evidence) -> Iterator[str]:
    """What the rules had no figures for."""
    if _seconds(evidence.moments) < _FEW_S:
        yield "CPU, memory, disk and GPUs: it was measured for less than ten seconds"
    elif not _known(evidence, "gpu_util"):
        yield "GPUs: it had none, or they could not be read"
    elif not _known(evidence, "vram_others"):
        yield "other processes on its GPUs: the driver does not tell"
    if evidence.stepped_s is None:
        yield "progress: it reported no metrics"
    if evidence.saves is None:
        yield "how long saves take: nothing in the script measures it"


# -- rules


def waits_for_data(evidence: Evidence) -> Iterator[Finding]:
    """A GPU that has little to do while the run's processes compute or read."""
    known = _known(evidence, "gpu_util")
    waiting = [moment for moment in known if moment.values["gpu_util"] < _BUSY_GPU]
    if not _is_long(known) or _share(waiting, known) < _WAITS_SHARE:
        return
    feeding = [moment for moment in waiting if moment.values.get("cpu", 0.0) >= _BUSY_WORKERS or _is_reading(moment)]
    mean = f"(mean {_mean(known, 'gpu_util'):.0f} %)"
    begin = f"The GPU was below {_BUSY_GPU:.0f} % for {_percent(waiting, known)} of the time {mean}"
    if _share(feeding, waiting) >= 0.5:
        yield Finding(
            check="waits for data",
            level=Level.PROBLEM,
            text=f"{begin}. Meanwhile its processes used {_cores(feeding)} and read {_rate(feeding)} from disk.",
            advice="More workers that load data, a faster disk, or data that is decoded beforehand.",
        )
    else:
        yield Finding(
            check="GPU idle",
            level=Level.PROBLEM,
            text=f"{begin}, and its processes used {_cores(waiting)}. What it waited for was not measured.",
            advice="A profiler shows it: data that the training process loads, small batches, a lock, a network.",
        )


def waits_on_cpu(evidence: Evidence) -> Iterator[Finding]:
    """A run without a busy GPU: what its processors or disks have to do."""
    known = [moment for moment in _known(evidence, "cpu") if moment.values.get("gpu_util", 0.0) < _THROTTLED]
    if not _is_long(known) or _share(known, _known(evidence, "cpu")) < 0.5:
        return
    full = [moment for moment in known if _is_full(moment)]
    reading = [moment for moment in known if _is_reading(moment) and not _is_busy(moment)]
    idle = [moment for moment in known if moment.values["cpu"] < _IDLE_CPU and not _is_reading(moment)]
    one_core = [moment for moment in known if _BUSY_CPU <= moment.values["cpu"] <= 120.0 and not _is_full(moment)]
    unread = "" if _known(evidence, "gpu_util") else ", nor was a GPU, if it uses one"
    if _share(reading, known) >= _WAITS_SHARE:
        yield Finding(
            check="waits for the disk",
            level=Level.PROBLEM,
            text=f"For {_percent(reading, known)} of the time its processes read {_rate(reading)} from disk "
            f"and used only {_cores(reading)}.",
            advice="A faster disk, data that fits into memory, or fewer and larger files.",
        )
    elif _share(idle, known) >= 0.5:
        yield Finding(
            check="idle",
            level=Level.PROBLEM,
            text=f"For {_percent(idle, known)} of the time its processes used {_cores(idle)} and read hardly anything; "
            f"the machine was {_mean(idle, 'machine_cpu'):.0f} % busy. What it waited for was not measured{unread}.",
            advice="A profiler shows it: the network, a lock, a sleep, or other processes that take every core.",
        )
    elif _share(full, known) >= 0.5:
        yield Finding(
            check="CPU full",
            level=Level.NOTE,
            text=f"The machine's processors were busy for {_percent(full, known)} of the time; "
            f"its processes used {_cores(full)}.",
            advice="Fewer runs at a time (-p), or a machine with more cores.",
        )
    elif _share(one_core, known) >= 0.5:
        yield Finding(
            check="one core",
            level=Level.NOTE,
            text=f"For {_percent(one_core, known)} of the time its processes used {_cores(one_core)}; "
            f"the whole machine was {_mean(one_core, 'machine_cpu'):.0f} % busy.",
            advice="More threads or workers, if the work can be divided.",
        )


def memory_near_its_limit(evidence: Evidence) -> Iterator[Finding]:
    """RAM came close to the limit that counts for the run."""
    limit, ram = evidence.limits.ram_limit_bytes, _peak(evidence, "ram")
    last = max((moment.values["ram"] for moment in _of_last_session(_known(evidence, "ram"))), default=0.0)
    if limit is not None and last >= _FULL * limit:
        yield Finding(
            check="RAM near its limit",
            level=Level.PROBLEM,
            text=f"Its processes held up to {_size(last)} of RAM (--ram-limit: {_size(limit)}).",
            advice="Raise --ram-limit, or load less at a time.",
        )
    machine, total = _peak(evidence, "machine_ram"), _peak(evidence, "machine_ram_total")
    if machine is not None and total and machine >= _FULL * total:
        yield Finding(
            check="machine's RAM full",
            level=Level.PROBLEM,
            text=f"{_size(machine)} of the machine's {_size(total)} of RAM were taken, "
            f"up to {_size(ram or 0)} of it by this run.",
            advice="Fewer workers or runs at a time, or less data in memory.",
        )
    used, vram_total = _peak(evidence, "vram_used"), _peak(evidence, "vram_total")
    if used is not None and vram_total and used >= _FULL * vram_total:
        yield Finding(
            check="VRAM full",
            level=Level.NOTE,
            text=f"{_size(used)} of {_size(vram_total)} of GPU memory were taken, which may be more than needed.",
            advice="A smaller batch or mixed precision, if it ends with out-of-memory errors.",
        )


def memory_grows(evidence: Evidence) -> Iterator[Finding]:
    """RAM grew all the time: a leak, perhaps."""
    known = _of_last_session(_known(evidence, "ram"))
    part = len(known) // _PARTS
    if part < 2 or not _is_long(known):
        return
    means = [_mean(known[number * part : (number + 1) * part], "ram") for number in range(_PARTS)]
    if all(later >= _GROWS * before and later - before >= _GROWS_BYTES for before, later in pairwise(means)):
        minutes = _seconds(known) / 60
        begin, end = known[0].values["ram"], known[-1].values["ram"]
        yield Finding(
            check="memory grows",
            level=Level.PROBLEM,
            text=f"Its RAM grew in each fifth of the session, from {_size(begin)} to {_size(end)}: "
            f"{_size((end - begin) / minutes)} a minute.",
            advice="Something may be kept that need not be: losses with their graphs, samples in a list, a cache.",
        )


def throttled(evidence: Evidence) -> Iterator[Finding]:
    """A GPU was slowed down by heat or its power limit, or the run was paused for that."""
    for name, least, why, advice in (
        ("thermal", _THROTTLED, "heat", "Better cooling, or a lower power limit."),
        (
            "power",
            _CAPPED,
            "its power limit",
            "Expected of a busy card; nvidia-smi -pl raises the limit where it is low.",
        ),
        ("hardware", _THROTTLED, "its hardware", "nvidia-smi -q -d PERFORMANCE names the reason."),
    ):
        known = _known(evidence, f"gpu_throttle_{name}")
        if _is_long(known) and (percent := _mean(known, f"gpu_throttle_{name}")) >= least:
            hottest = _peak(evidence, "gpu_temp")
            at = f" (up to {hottest:.0f} °C)" if name == "thermal" and hottest is not None else ""
            yield Finding(
                check=f"throttled by {why}",
                level=Level.NOTE if name == "power" else Level.PROBLEM,
                text=f"The GPU's clocks were held back by {why} for {percent:.0f} % of the time{at}.",
                advice=advice,
            )
    if evidence.governor_paused_s >= _FEW_S:
        yield Finding(
            check="paused by the governor",
            level=Level.PROBLEM,
            text=f"It was paused for {_time(evidence.governor_paused_s)}: {evidence.paused_for}.",
            advice="Better cooling, or a higher --gpu-max-temp.",
        )


def others_on_the_card(evidence: Evidence) -> Iterator[Finding]:
    """Other processes used the run's GPU."""
    known = _known(evidence, "vram_others")
    foreign = [moment for moment in known if moment.values["vram_others"] >= _FOREIGN_BYTES]
    if _is_long(known) and _share(foreign, known) >= 0.1:
        yield Finding(
            check="others on its GPU",
            level=Level.PROBLEM,
            text=f"Other processes held up to {_size(_peak(evidence, 'vram_others') or 0)} on its GPU, for "
            f"{_percent(foreign, known)} of the time.",
            advice="nvidia-smi shows whose they are; --gpu-min-vram keeps runs from a card that is taken.",
        )


def swaps(evidence: Evidence) -> Iterator[Finding]:
    """The machine moved memory to its disk."""
    known, pressed = _of_last_session(_known(evidence, "machine_swap")), _known(evidence, "ram_pressure")
    first = known[0].values["machine_swap"] if known else 0.0
    peak = max((moment.values["machine_swap"] for moment in known), default=0.0)
    if peak - first >= _SWAPPED_BYTES:
        yield Finding(
            check="swap",
            level=Level.PROBLEM,
            text=f"The machine's swap grew from {_size(first)} to {_size(peak)} in the last session.",
            advice="Fewer runs or workers at a time, or less data in memory: swap is hundreds of times slower.",
        )
    if _is_long(pressed) and (percent := _mean(pressed, "ram_pressure")) >= _PRESSED:
        yield Finding(
            check="waits for memory",
            level=Level.PROBLEM,
            text=f"Processes of the machine waited for memory for {percent:.0f} % of the time.",
            advice="Fewer runs or workers at a time, or less data in memory.",
        )


def saves_take_long(evidence: Evidence) -> Iterator[Finding]:
    """Saving took a large share of the training time."""
    if evidence.saves is None or not evidence.last_session_s:
        return
    count, longest_s = evidence.saves.count, evidence.saves.longest_s
    share = min(1.0, count * longest_s / evidence.last_session_s)
    if count > 1 and share >= _SAVES_SHARE:
        yield Finding(
            check="saves",
            level=Level.NOTE,
            text=f"{count} saves, the longest of {longest_s:.1f} s, took up to {100 * share:.0f} % of the session.",
            advice="Save less often (-c MINUTES), less (no copies of the data), or to a faster disk.",
        )


def queued_long(evidence: Evidence) -> Iterator[Finding]:
    """It waited long for a slot, compared with its training."""
    queued_s = evidence.queued_s
    if queued_s >= _QUEUED_S and queued_s >= _QUEUED_SHARE * (queued_s + evidence.trained_s):
        yield Finding(
            check="queue",
            level=Level.NOTE,
            text=f"It was queued for {_time(queued_s)}, and has trained for {_time(evidence.trained_s)}.",
            advice="backprop status shows who holds the slots; -p allows more runs at a time.",
        )


def diverged(evidence: Evidence) -> Iterator[Finding]:
    """A loss is not finite any more."""
    if (found := evidence.diverged) is not None:
        yield Finding(
            check="not finite",
            level=Level.PROBLEM,
            text=f"{found.metric} is {found.last} since step {found.step:,}.",
            advice="A lower learning rate, clipped gradients, or a look at the data of that step.",
        )


def makes_no_progress(evidence: Evidence) -> Iterator[Finding]:
    """It runs, but has reported no step for long."""
    if evidence.stepped_s is None:
        return
    since_s = evidence.last_session_s - evidence.stepped_s
    interval_s = evidence.stepped_s / max(1, evidence.steps)
    if since_s >= max(_STUCK_S, _STUCK_SHARE * evidence.last_session_s, 2 * interval_s):
        yield Finding(
            check="no progress",
            level=Level.PROBLEM,
            text=f"Its last metric came after {_time(evidence.stepped_s)} of the last session, "
            f"which has trained for {_time(evidence.last_session_s)}.",
            advice="Its log shows what it did then (backprop logs); a process that waits shows in py-spy dump.",
        )


Rule = Callable[[Evidence], Iterator[Finding]]
RULES: tuple[Rule, ...] = (
    diverged,
    makes_no_progress,
    waits_for_data,
    waits_on_cpu,
    memory_near_its_limit,
    memory_grows,
    swaps,
    throttled,
    others_on_the_card,
    saves_take_long,
    queued_long,
)


# -- figures


def _of_last_session(moments: Sequence[Moment]) -> Sequence[Moment]:
    """The newest of these, whose time only goes on: each session begins anew."""
    begins = [place for place, (one, later) in enumerate(pairwise(moments), 1) if later.at_s <= one.at_s]
    return moments[begins[-1] :] if begins else moments


def _known(evidence: Evidence, name: str) -> list[Moment]:
    """The moments in which a quantity is known."""
    return [moment for moment in evidence.moments if name in moment.values]


def _seconds(moments: Sequence[Moment]) -> float:
    return sum(moment.seconds for moment in moments)


def _is_long(moments: Sequence[Moment]) -> bool:
    return _seconds(moments) >= _FEW_S


def _share(some: Sequence[Moment], of: Sequence[Moment]) -> float:
    return _seconds(some) / (_seconds(of) or 1.0)


def _percent(some: Sequence[Moment], of: Sequence[Moment]) -> str:
    return f"{100 * _share(some, of):.0f} %"


def _mean(moments: Sequence[Moment], name: str) -> float:
    known = [moment for moment in moments if name in moment.values]
    return sum(moment.values[name] * moment.seconds for moment in known) / (_seconds(known) or 1.0)


def _peak(evidence: Evidence, name: str) -> float | None:
    return max((moment.values[name] for moment in evidence.moments if name in moment.values), default=None)


def _is_full(moment: Moment) -> bool:
    return moment.values.get("machine_cpu", 0.0) >= _FULL_CPU


def _is_busy(moment: Moment) -> bool:
    return moment.values.get("cpu", 0.0) >= _BUSY_CPU


def _is_reading(moment: Moment) -> bool:
    return moment.values.get("disk_read", 0.0) >= _READS


def _cores(moments: Sequence[Moment]) -> str:
    return f"{_mean(moments, 'cpu') / 100:.1f} cores"


def _rate(moments: Sequence[Moment]) -> str:
    return f"{_mean(moments, 'disk_read') / 1e6:.0f} MB/s"


def _size(size_bytes: float) -> str:
    return f"{size_bytes / GB:.1f} GB" if size_bytes >= GB else f"{size_bytes / 1e6:.0f} MB"


def _time(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
