"""The machine as a person wants to see it: how full it is, who holds the slots, who waits and for what."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone

from backprop import host
from backprop.governor.run_queue import RunQueue
from backprop.records import Gpu, Limits, MachineState, Record, RunView, Ticket
from backprop.store.home import Home
from backprop.text import printable
from backprop.views.terminal import formatting
from backprop.views.terminal.bars import BLOCKS, PLAIN_BLOCKS, bar
from backprop.views.terminal.runs_table import runs_table
from backprop.views.terminal.screen import aligned, stdout_screen

_BAR_WIDTH = 20


class Occupancy(Record, frozen=True):
    """The tickets of runs that hold a slot, and of those that are queued, in order."""

    taken: tuple[Ticket, ...] = ()
    queue: tuple[Ticket, ...] = ()


def read_occupancy(home: Home) -> Occupancy:
    """Which runs of a home hold slots of this machine, and which are queued."""
    tickets = [entry.ticket for entry in RunQueue(home.line_path, host.name()).read() if entry.ticket is not None]
    return Occupancy(
        taken=tuple(ticket for ticket in tickets if ticket.is_running),
        queue=tuple(ticket for ticket in tickets if not ticket.is_running),
    )


def machine_summary(
    snapshot: MachineState,
    limits: Limits,
    occupancy: Occupancy,
    active: Sequence[RunView],
    last: RunView | None,
    now: datetime,
) -> str:
    """The machine against the limits for a start, its slots and its queue, and the runs that are active.

    last: the run that is named where none is.
    """
    rows = [
        *_machine_rows(snapshot, limits),
        *_gpu_rows(snapshot, limits),
        *_slot_rows(occupancy, limits, _indices(snapshot.gpus or ()), now),
    ]
    text = aligned(rows)
    if active:
        return f"{text}\n{runs_table(active, now)}"
    if last is None:
        return f"{text}\nnothing is running\n"
    told = printable(f"{last.run.spec.id} {last.run.spec.name or ''}".rstrip())
    return f"{text}\nnothing is running; the last run, {told}, {last.run.status.value}: backprop status last\n"


def _machine_rows(snapshot: MachineState, limits: Limits) -> Iterator[tuple[str, str]]:
    load = "-" if snapshot.load_1min is None else f"{snapshot.load_1min:.2f}"
    yield "cpu", f"{snapshot.cpu_count or '-'} cores, load {load}"
    available, total = snapshot.ram_available_bytes, snapshot.ram_total_bytes
    pressure = snapshot.ram_pressure_percent
    stalls = f", {pressure:g} % of the time somebody waits for it" if pressure else ""
    needed = f"a start needs {formatting.size(limits.min_free_ram_bytes)}"
    yield "ram", f"{_free(available, total)} available of {formatting.size(total)} ({needed}){stalls}"
    if snapshot.swap_total_bytes:
        yield "swap", f"{_free(snapshot.swap_free_bytes, snapshot.swap_total_bytes)} free"
    for folder, free in snapshot.disk_free_bytes.items():
        needed = f"a start needs {formatting.size(limits.min_free_disk_bytes)}"
        yield "disk", f"{_free(free, snapshot.disk_total_bytes.get(folder))} free in {folder} ({needed})"


def _gpu_rows(snapshot: MachineState, limits: Limits) -> Iterator[tuple[str, str]]:
    if snapshot.gpus is None:
        yield "gpus", f"blind: {snapshot.gpu_problem}"
    for gpu in snapshot.gpus or ():
        label = f"gpu {gpu.index}"
        busy = "" if gpu.utilization_percent is None else f", {gpu.utilization_percent:g} % busy"
        power = "" if gpu.power_w is None else f", {gpu.power_w:.0f} W"
        yield label, f"{gpu.name}{busy}{power}"
        vram = f"{_free(gpu.vram_free_bytes, gpu.vram_total_bytes)} free of {formatting.size(gpu.vram_total_bytes)}"
        yield "  vram", f"{vram} (a start needs {formatting.size(limits.gpu_min_free_vram_bytes)})"
        if gpu.temp_c is not None:
            yield "  heat", f"{_bar(gpu.temp_c / limits.gpu_max_temp_c)} {gpu.temp_c:g} °C of {limits.gpu_max_temp_c:g}"


def _slot_rows(
    occupancy: Occupancy, limits: Limits, indices: Mapping[str, int], now: datetime
) -> Iterator[tuple[str, str]]:
    taken = len(occupancy.taken)
    yield "slots", f"{_bar(taken / limits.max_parallel)} {taken} of {limits.max_parallel} taken"
    for ticket in occupancy.taken:
        yield "", f"{_who(ticket, now)}: {_holdings(ticket, indices)}"
    for place, ticket in enumerate(occupancy.queue, start=1):
        for_what = "suspended, others pass" if ticket.is_away else ticket.waits_for or "its turn is being looked at"
        yield "queue" if place == 1 else "", f"{place}. {_who(ticket, now)}: {for_what}"


def _who(ticket: Ticket, now: datetime) -> str:
    since = datetime.fromtimestamp(ticket.since_unix_s, timezone.utc)
    return f"{ticket.run_id}, {formatting.age(since, now)}, process {ticket.pid} of {ticket.user}"


def _holdings(ticket: Ticket, indices: Mapping[str, int]) -> str:
    """What a run was seen to hold, of what it was promised."""
    told = [f"{formatting.size(ticket.ram_seen_bytes)} of RAM (promised {formatting.size(ticket.ram_bytes)})"]
    for uuid, promised in ticket.vram_bytes.items():
        seen = None if ticket.vram_seen_bytes is None else ticket.vram_seen_bytes.get(uuid, 0)
        card = indices.get(uuid, uuid)
        told.append(f"{formatting.size(seen)} of GPU {card} (promised {formatting.size(promised)})")
    return ", ".join(told)


def _indices(gpus: Sequence[Gpu]) -> dict[str, int]:
    return {gpu.uuid: gpu.index for gpu in gpus}


def _free(free: int | None, total: int | None) -> str:
    """A bar of what is used, and how much is left."""
    used = 1 - free / total if free is not None and total else None
    return f"{_bar(used)} {formatting.size(free)}"


def _bar(share: float | None) -> str:
    return "".join(bar(share, _BAR_WIDTH, BLOCKS if stdout_screen().has_blocks else PLAIN_BLOCKS))
