"""The machine as text: CPU, memory, disk and GPUs; the slots, and the queue with its reasons."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timezone

from backprop import host
from backprop.governor.run_queue import RunQueue, in_order
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
    entries = in_order(RunQueue(home.line_path, host.name()).read())
    tickets = [entry.ticket for entry in entries if entry.ticket is not None]
    return Occupancy(
        taken=tuple(ticket for ticket in tickets if ticket.is_running),
        queue=tuple(ticket for ticket in tickets if not ticket.is_running),
    )


def machine_summary(
    machine: MachineState,
    limits: Limits,
    occupancy: Occupancy,
    active: Sequence[RunView],
    last: RunView | None,
    now: datetime,
) -> str:
    """The machine against the limits for a start, its slots and its queue, and the runs that are active.

    last: the newest run, named if none is active.
    """
    rows = [
        *_machine_rows(machine, limits),
        *_gpu_rows(machine, limits),
        *_slot_rows(occupancy, limits, _indices(machine.gpus or ()), now),
    ]
    text = aligned(rows)
    if active:
        return f"{text}\n{runs_table(active, now)}"
    if last is None:
        return f"{text}\nnothing is running\n"
    newest = printable(f"{last.run.spec.id} {last.run.spec.name or ''}".rstrip())
    return f"{text}\nnothing is running; latest run: {newest}, {last.run.status.value} (backprop status last)\n"


def _machine_rows(machine: MachineState, limits: Limits) -> Iterator[tuple[str, str]]:
    load = "-" if machine.load_1min is None else f"{machine.load_1min:.2f}"
    yield "cpu", f"{machine.cpu_count or '-'} cores, load {load}"
    available, total = machine.ram_available_bytes, machine.ram_total_bytes
    pressure = machine.ram_pressure_percent
    stalls = f", processes stall on it {pressure:g} % of the time" if pressure else ""
    needed = f"{formatting.size(limits.min_free_ram_bytes)} needed to start"
    yield "ram", f"{_free(available, total)} available of {formatting.size(total)} ({needed}){stalls}"
    if machine.swap_total_bytes:
        yield "swap", f"{_free(machine.swap_free_bytes, machine.swap_total_bytes)} free"
    for folder, free in machine.disk_free_bytes.items():
        needed = f"{formatting.size(limits.min_free_disk_bytes)} needed to start"
        yield "disk", f"{_free(free, machine.disk_total_bytes.get(folder))} free in {folder} ({needed})"


def _gpu_rows(machine: MachineState, limits: Limits) -> Iterator[tuple[str, str]]:
    if machine.gpus is None:
        yield "gpus", f"unknown: {machine.gpu_problem}"
    for gpu in machine.gpus or ():
        label = f"gpu {gpu.index}"
        busy = "" if gpu.utilization_percent is None else f", {gpu.utilization_percent:g} % busy"
        power = "" if gpu.power_w is None else f", {gpu.power_w:.0f} W"
        yield label, f"{gpu.name}{busy}{power}"
        vram = f"{_free(gpu.vram_free_bytes, gpu.vram_total_bytes)} free of {formatting.size(gpu.vram_total_bytes)}"
        yield "  vram", f"{vram} ({formatting.size(limits.gpu_min_free_vram_bytes)} needed to start)"
        if gpu.temp_c is not None:
            yield "  temp", f"{_bar(gpu.temp_c / limits.gpu_max_temp_c)} {gpu.temp_c:g} °C of {limits.gpu_max_temp_c:g}"


def _slot_rows(
    occupancy: Occupancy, limits: Limits, indices: Mapping[str, int], now: datetime
) -> Iterator[tuple[str, str]]:
    taken = len(occupancy.taken)
    yield "slots", f"{_bar(taken / limits.max_parallel)} {taken} of {limits.max_parallel} taken"
    for ticket in occupancy.taken:
        yield "", f"{_owner(ticket, now)}: {_holdings(ticket, indices)}"
    for position, ticket in enumerate(occupancy.queue, start=1):
        reason = "suspended: later runs may start first" if ticket.is_away else ticket.waits_for or "checking resources"
        priority = f", priority {ticket.priority}" if ticket.priority else ""
        yield "queue" if position == 1 else "", f"{position}. {_owner(ticket, now)}{priority}: {reason}"


def _owner(ticket: Ticket, now: datetime) -> str:
    since = datetime.fromtimestamp(ticket.since_unix_s, timezone.utc)
    return f"{printable(ticket.label)}, {formatting.age(since, now)}, process {ticket.pid} of {ticket.user}"


def _holdings(ticket: Ticket, indices: Mapping[str, int]) -> str:
    """The memory that a run uses, and what is reserved for it."""
    parts = [f"{formatting.size(ticket.ram_seen_bytes)} of RAM (reserved {formatting.size(ticket.ram_bytes)})"]
    for uuid, reserved in ticket.vram_bytes.items():
        seen = None if ticket.vram_seen_bytes is None else ticket.vram_seen_bytes.get(uuid, 0)
        card = indices.get(uuid, uuid)
        parts.append(f"{formatting.size(seen)} of GPU {card} (reserved {formatting.size(reserved)})")
    return ", ".join(parts)


def _indices(gpus: Sequence[Gpu]) -> dict[str, int]:
    return {gpu.uuid: gpu.index for gpu in gpus}


def _free(free: int | None, total: int | None) -> str:
    """A bar of what is used, and how much is free."""
    used = 1 - free / total if free is not None and total else None
    return f"{_bar(used)} {formatting.size(free)}"


def _bar(share: float | None) -> str:
    return "".join(bar(share, _BAR_WIDTH, BLOCKS if stdout_screen().has_blocks else PLAIN_BLOCKS))
