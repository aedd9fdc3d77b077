"""GPUs through the vendors' command-line tools, where their libraries do not work: tens of milliseconds to seconds.

Nothing that a tool prints is trusted: a value that is missing, `[N/A]` or not a number is unknown.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from typing import Any

import msgspec

from backprop.governor.probes.nvml import throttles
from backprop.records import Gpu

_MIB = 1 << 20

_NVIDIA_FIELDS = (
    "index",
    "uuid",
    "name",
    "memory.total",
    "memory.free",
    "temperature.gpu",
    "utilization.gpu",
    "power.draw",
    "mig.mode.current",
)
_NVIDIA_THROTTLE = "clocks_throttle_reasons.active"  # renamed in newer drivers, which know it by this name, too
_NVIDIA_APP_FIELDS = ("gpu_uuid", "pid", "used_gpu_memory")
_NVIDIA_FORMAT = "--format=csv,noheader,nounits"
_NVIDIA_CARD = re.compile(r"GPU (\d+):")
_NVIDIA_SLICE = re.compile(r"\s+(MIG .+?)\s+Device\s+\d+:\s*\(UUID:\s*(MIG-\S+?)\)")
_NO_DEVICES_CODE = 6  # of nvidia-smi

_ROCM_WORDS = ("--showproductname", "--showuniqueid", "--showmeminfo", "vram", "--showtemp", "--showuse", "--showpower")
_DEATH_S = 0.2
_AMD_UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}


class ToolError(Exception):
    """A tool is missing or failed; the text says why, in one line."""


def is_present(tool: str) -> bool:
    """Whether the program is found on PATH."""
    return shutil.which(tool) is not None


# -- NVIDIA


def read_nvidia_smi(timeout_s: float) -> tuple[Gpu, ...]:
    """All cards; MIG slices instead of the cards that are cut into them. Raises ToolError.

    timeout_s: for each of up to three calls. nvidia-smi has no machine-readable output of what a slice uses.
    """
    rows = _nvidia_cards(timeout_s)
    if not rows:
        return ()
    cards = [(_read_card(row), row["mig.mode.current"] == "Enabled") for row in rows]
    held = _nvidia_processes(timeout_s)
    slices = _nvidia_slices(timeout_s) if any(is_cut for _, is_cut in cards) else {}
    found: list[Gpu] = []
    for card, is_cut in cards:
        if is_cut and card.index in slices:
            found += [_slice_of(card, name, uuid) for name, uuid in slices[card.index]]
        else:
            used = None if held is None else held.get(card.uuid, {})
            found.append(msgspec.structs.replace(card, process_vram_bytes=used))
    return tuple(found)


def _nvidia_cards(timeout_s: float) -> list[dict[str, str]]:
    """The fields of each card; without the throttle reasons where the tool does not know them."""
    for fields in ((*_NVIDIA_FIELDS, _NVIDIA_THROTTLE), _NVIDIA_FIELDS):
        try:
            rows = list(_nvidia_rows(f"--query-gpu={','.join(fields)}", len(fields), timeout_s))
        except ToolError as error:
            if _NVIDIA_THROTTLE in fields and "not a valid field" in str(error):
                continue
            raise
        return [dict(zip(fields, row, strict=True)) for row in rows]
    return []


def _nvidia_rows(query: str, width: int, timeout_s: float) -> Iterator[list[str]]:
    code, text = _ask(["nvidia-smi", query, _NVIDIA_FORMAT], timeout_s, accepted=(0, _NO_DEVICES_CODE))
    if code == _NO_DEVICES_CODE or "No devices were found" in text:
        return
    for row in csv.reader(text.splitlines(), skipinitialspace=True):
        if len(row) != width:
            raise ToolError(f"nvidia-smi printed {text.splitlines()[0][:60]!r}")
        yield [cell.strip() for cell in row]


def _read_card(row: Mapping[str, str]) -> Gpu:
    index = _number(row["index"])
    if index is None or not row["uuid"] or "N/A" in row["uuid"]:
        raise ToolError(f"nvidia-smi names a card without index or UUID: {dict(row)}")
    return Gpu(
        index=int(index),
        uuid=row["uuid"],
        name=row["name"],
        vendor="nvidia",
        vram_total_bytes=_bytes(row["memory.total"], _MIB),
        vram_free_bytes=_bytes(row["memory.free"], _MIB),
        temp_c=_number(row["temperature.gpu"]),
        utilization_percent=_number(row["utilization.gpu"]),
        power_w=_number(row["power.draw"]),
        throttled=throttles(_bits(row.get(_NVIDIA_THROTTLE))),
    )


def _nvidia_processes(timeout_s: float) -> dict[str, dict[int, int]] | None:
    """GPU UUID -> process id -> bytes that it holds there; None when that cannot be read."""
    held: dict[str, dict[int, int]] = {}
    query = f"--query-compute-apps={','.join(_NVIDIA_APP_FIELDS)}"
    with suppress(ToolError):
        for uuid, pid, used in _nvidia_rows(query, len(_NVIDIA_APP_FIELDS), timeout_s):
            size, number = _bytes(used, _MIB), _number(pid)
            if size is None or number is None:
                return None  # a container, or a driver that does not report it: unknown for all
            held.setdefault(uuid, {})[int(number)] = size
        return held
    return None


def _nvidia_slices(timeout_s: float) -> dict[int, list[tuple[str, str]]]:
    """Index of a card -> name and UUID of each of its slices; without the cards that have none yet."""
    slices: dict[int, list[tuple[str, str]]] = {}
    card = -1
    for line in _ask(["nvidia-smi", "-L"], timeout_s)[1].splitlines():
        if (match := _NVIDIA_CARD.match(line)) is not None:
            card = int(match[1])
        elif (match := _NVIDIA_SLICE.match(line)) is not None:
            slices.setdefault(card, []).append((match[1], match[2]))
    return slices


def _slice_of(card: Gpu, name: str, uuid: str) -> Gpu:
    return Gpu(
        index=card.index,
        uuid=uuid,
        name=f"{card.name} {name}",
        vendor="nvidia",
        temp_c=card.temp_c,
        power_w=card.power_w,
        throttled=card.throttled,
        is_slice=True,
    )


# -- AMD


def read_rocm_smi(timeout_s: float) -> tuple[Gpu, ...]:
    """All cards, from `rocm-smi --json`. Raises ToolError."""
    answer = _ask_json(["rocm-smi", *_ROCM_WORDS, "--json"], timeout_s)
    if not isinstance(answer, dict):
        raise ToolError("rocm-smi printed JSON that is no object")
    cards = {key: card for key, card in answer.items() if re.fullmatch(r"card\d+", key) and isinstance(card, dict)}
    return tuple(_read_rocm_card(int(key.removeprefix("card")), card) for key, card in sorted(cards.items()))


def _read_rocm_card(index: int, card: Mapping[str, Any]) -> Gpu:
    total = _bytes(card.get("VRAM Total Memory (B)"))
    used = _bytes(card.get("VRAM Total Used Memory (B)"))
    names = ("Card Series", "Card series", "Device Name", "Card Model", "Card model")
    return Gpu(
        index=index,
        uuid=_amd_uuid(card.get("Unique ID"), index),
        name=str(next((card[name] for name in names if name in card), "AMD GPU")),
        vendor="amd",
        vram_total_bytes=total,
        vram_free_bytes=None if total is None or used is None else total - used,
        temp_c=_first_number(card, "Temperature (Sensor edge) (C)", "Temperature (Sensor junction) (C)"),
        utilization_percent=_first_number(card, "GPU use (%)"),
        power_w=_first_number(
            card, "Average Graphics Package Power (W)", "Current Socket Graphics Package Power (W)", "Power (W)"
        ),
    )


def read_amd_smi(timeout_s: float) -> tuple[Gpu, ...]:
    """All cards, from `amd-smi metric --json` and `amd-smi list --json`. Raises ToolError."""
    uuids = {_number(entry.get("gpu")): entry.get("uuid") for entry in _amd_entries("list", timeout_s)}
    gpus = []
    for entry in _amd_entries("metric", timeout_s):
        index = _number(entry.get("gpu"))
        if index is not None:
            gpus.append(_read_amd_card(int(index), uuids.get(index), entry))
    return tuple(gpus)


def _amd_entries(what: str, timeout_s: float) -> list[Mapping[str, Any]]:
    """One object a card. Newer versions wrap the list."""
    answer = _ask_json(["amd-smi", what, "--json"], timeout_s)
    if isinstance(answer, dict):
        answer = answer.get("gpu_data")
    if not isinstance(answer, list):
        raise ToolError(f"amd-smi {what} printed JSON without a list of cards")
    return [entry for entry in answer if isinstance(entry, dict)]


def _read_amd_card(index: int, uuid: object, entry: Mapping[str, Any]) -> Gpu:
    memory, temperature = _section(entry, "mem_usage"), _section(entry, "temperature")
    total, used = _amd_bytes(memory.get("total_vram")), _amd_bytes(memory.get("used_vram"))
    return Gpu(
        index=index,
        uuid=_amd_uuid(uuid, index),
        name="AMD GPU",
        vendor="amd",
        vram_total_bytes=total,
        vram_free_bytes=None if total is None or used is None else total - used,
        temp_c=_first_number(temperature, "edge", "hotspot"),
        utilization_percent=_first_number(_section(entry, "usage"), "gfx_activity"),
        power_w=_first_number(_section(entry, "power"), "socket_power", "average_socket_power"),
    )


def _section(entry: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    section = entry.get(name)
    return section if isinstance(section, dict) else {}


def _amd_bytes(value: object) -> int | None:
    """`{"value": 16368, "unit": "MB"}`; a bare number is MB."""
    unit = value.get("unit") if isinstance(value, dict) else "MB"
    factor = _AMD_UNITS.get(str(unit).upper())
    return None if factor is None else _bytes(value, factor)


def _amd_uuid(value: object, index: int) -> str:
    """ROCm takes `GPU-` and the unique id of the hardware; a card without one is known by its number."""
    if isinstance(value, str) and value and "N/A" not in value:
        return value if value.startswith("GPU-") else f"GPU-{value.removeprefix('0x')}"
    return f"amd-{index}"


# -- what they print


def _number(value: object) -> float | None:
    """A number however it is wrapped; None for anything else."""
    if isinstance(value, dict):
        value = value.get("value")
    with suppress(TypeError, ValueError):
        number = float(value)  # type: ignore[arg-type]
        return number if abs(number) != float("inf") and number == number else None  # noqa: PLR0124  not a NaN
    return None


def _bits(mask: str | None) -> int | None:
    """A bit mask as nvidia-smi prints it: 0x0000000000000004."""
    try:
        return None if mask is None else int(mask, 16)
    except ValueError:
        return None


def _first_number(values: Mapping[str, Any], *names: str) -> float | None:
    return next((number for name in names if (number := _number(values.get(name))) is not None), None)


def _bytes(value: object, factor: int = 1) -> int | None:
    number = _number(value)
    return None if number is None or number < 0 else round(number * factor)


def _ask_json(command: list[str], timeout_s: float) -> Any:
    text = _ask(command, timeout_s)[1]
    try:
        return json.loads(text[text.index(next(c for c in text if c in "[{")) :])  # warnings may stand before it
    except (ValueError, StopIteration, RecursionError):
        raise ToolError(f"{command[0]} printed {text.strip()[:60]!r} where JSON was expected") from None


def _ask(command: list[str], timeout_s: float, accepted: tuple[int, ...] = (0,)) -> tuple[int, str]:
    """Exit code and stdout of a tool. Raises ToolError for one that is missing, fails or takes too long."""
    try:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,  # Ctrl-C is for us only, and processes that it starts are killed with it
        )
    except OSError as error:
        raise ToolError(f"{command[0]} cannot be started: {error.strerror}") from error
    try:
        out, err = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        _give_up(process)
        raise ToolError(f"{command[0]} did not answer within {timeout_s:g} s") from None
    if process.returncode not in accepted:
        lines = (err or out).strip().splitlines()
        raise ToolError(f"{command[0]} failed: {lines[0][:120] if lines else f'exit code {process.returncode}'}")
    return process.returncode, out


def _give_up(process: "subprocess.Popen[str]") -> None:
    for stream in (process.stdout, process.stderr):
        if stream is not None:
            stream.close()
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with suppress(subprocess.TimeoutExpired):  # one that hangs in the driver does not die: do not wait for it
        process.wait(_DEATH_S)
