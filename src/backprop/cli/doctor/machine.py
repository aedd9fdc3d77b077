"""The machine: GPUs, memory and its limits, the clock, what this user may use."""

import os
import resource
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

from backprop import host
from backprop.cli.doctor.findings import note, ok, problem
from backprop.governor.probes import cgroups, machine
from backprop.governor.probes.gpus import read_gpus
from backprop.records import Finding, Limits
from backprop.supervisor.process import memory_cgroup
from backprop.views.terminal import formatting

_FEW_FILES = 1024
_FEW_PROCESSES = 512
_CLOCK_LOOK_S = 0.3
_CLOCK_JUMP_S = 0.1
_CAGE_BYTES = 1 << 40  # never reached by an empty group


def own_python(version: str) -> Iterator[Finding]:
    """What Backprop itself runs on."""
    bits = 64 if sys.maxsize > 2**32 else 32
    text = f"Backprop {version} on Python {sys.version.split()[0]}, {bits} bit, {sys.executable}"
    if bits == 64:
        yield ok("backprop", text)
    else:
        yield note("backprop", text, "Install it for a 64-bit Python: this one cannot map large files.")


def gpus() -> Iterator[Finding]:
    """The GPUs, and the probe that found them."""
    reading = read_gpus("auto")
    if reading.gpus is None:
        advice = "Until that works, the governor cannot see GPUs. Try nvidia-smi, or rocm-smi, in a terminal."
        yield problem("gpu", reading.problem or "no probe works", advice)
        return
    for gpu in reading.gpus:
        heat = "" if gpu.temp_c is None else f", {gpu.temp_c:g} °C"
        yield ok("gpu", f"{gpu.index}: {gpu.name}, {formatting.size(gpu.vram_total_bytes)}{heat}, by {reading.source}")
        if gpu.vram_free_bytes is None:
            yield note("gpu", f"{gpu.index}: does not report its free memory", "Runs do not wait for it.")
    if not reading.gpus:
        yield _no_gpu()


def _no_gpu() -> Finding:
    if Path("/proc/driver/nvidia/version").exists() or Path("/dev/nvidiactl").exists():
        advice = "Install the driver's libnvidia-ml.so.1; a container gets it with: docker run --gpus all"
        return problem("gpu", "the NVIDIA driver is loaded, but neither NVML nor nvidia-smi is there", advice)
    if Path("/dev/kfd").exists():
        return problem("gpu", "an AMD card is there, but neither rocm-smi nor amd-smi", "Install one of the two.")
    return ok("gpu", "none found: runs train on the CPU")


def memory(limits: Limits) -> Iterator[Finding]:
    """RAM as this process can get it, against what a start needs."""
    snapshot, room = machine.read_snapshot(()), cgroups.memory_room()
    total, available = snapshot.ram_total_bytes, snapshot.ram_available_bytes
    if total is None or available is None:
        yield note("memory", "cannot be read", "The governor starts runs without checking it.")
        return
    text = f"{formatting.size(available)} available of {formatting.size(total)}"
    limited = room is not None and room.limit_bytes <= total
    text += ", which a container or a job is limited to" if limited else ""
    needed = formatting.size(limits.min_free_ram_bytes)
    if total < limits.min_free_ram_bytes:
        yield problem("memory", f"{text}; a start needs {needed}", "No run can start: --min-free-ram, or minFreeRamGB.")
    elif available < limits.min_free_ram_bytes:
        yield note("memory", f"{text}; a start needs {needed}", "Runs wait until some is free: --min-free-ram.")
    else:
        yield ok("memory", text)


def hard_limit() -> Iterator[Finding]:
    """Whether the kernel would hold a run to its --ram-limit: by making such a group, and taking it away."""
    made = memory_cgroup.build(f"doctor-{os.getpid()}", 1, _CAGE_BYTES)
    if made is not None:
        made.remove()
        yield ok("ram limit", f"enforced by the kernel (cgroup v{made.version})")
        return
    versions = [str(place.version) for place in cgroups.places()]
    why = (
        f"no permission to create a cgroup (v{' and v'.join(versions)})"
        if versions
        else "no cgroup can be created here"
    )
    advice = "It is polled instead: SIGKILL comes at most a second late."
    if sys.platform == "linux" and Path("/run/systemd/system").exists():
        advice += " For the kernel's own limit: systemd-run --user --scope backprop run ..."
    yield note("ram limit", f"--ram-limit is not enforced by the kernel: {why}", advice)


def process_table() -> Iterator[Finding]:
    """Whether the trainer's descendants can be text from strangers."""
    trouble = host.table_problem()
    if trouble is None:
        yield ok("processes", "the process table shows who is whose child")
    else:
        advice = "Processes that leave a trainer's process group are not ended. Mount it here: mount -t proc proc /proc"
        yield note("processes", trouble, advice)


def user_limits() -> Iterator[Finding]:
    """What `ulimit` takes from a trainer."""
    found = []
    for name, flag, what, few in (
        ("RLIMIT_NOFILE", "n", "open files", _FEW_FILES),
        ("RLIMIT_NPROC", "u", "processes and threads", _FEW_PROCESSES),
    ):
        soft, hard = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY and soft < few:
            may_raise = hard == resource.RLIM_INFINITY or hard >= few
            advice = (
                f"Raise it: ulimit -{flag} {few}" if may_raise else f"{hard} is the hard limit: ask whoever set it."
            )
            found.append(note("limits", f"only {soft} {what}: data loaders may fail", advice))
    for name, flag, what in (
        ("RLIMIT_CPU", "t", "the kernel kills a trainer after {} s of CPU time"),
        ("RLIMIT_FSIZE", "f", "no file may be larger than {} bytes: checkpoints are cut off"),
        ("RLIMIT_AS", "v", "no process may map more than {} bytes: CUDA maps more than it uses"),
    ):
        soft, _ = resource.getrlimit(getattr(resource, name))
        if soft != resource.RLIM_INFINITY:
            found.append(problem("limits", what.format(soft), f"Lift it: ulimit -{flag} unlimited"))
    yield from found or [ok("limits", f"{_open_files()} open files, no limit on CPU time, file size and memory")]


def _open_files() -> str:
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return "unlimited" if soft == resource.RLIM_INFINITY else str(soft)


def clock() -> Iterator[Finding]:
    """Whether the date is plausible, and whether the clock is being changed right now."""
    wall, steady = time.time(), time.monotonic()
    time.sleep(_CLOCK_LOOK_S)
    jump_s = (time.time() - wall) - (time.monotonic() - steady)
    now = datetime.now(timezone.utc)
    installed_at = datetime.fromtimestamp(Path(__file__).stat().st_mtime, timezone.utc)
    if now < installed_at:
        text = f"it says {now:%Y-%m-%d %H:%M} UTC, before Backprop was installed ({installed_at:%Y-%m-%d %H:%M})"
        yield problem("clock", text, "Set it (timedatectl set-ntp true): runs are ordered by it.")
    elif abs(jump_s) > _CLOCK_JUMP_S:
        text = f"it was changed by {jump_s:+.1f} s during the check"
        yield note("clock", text, "Timeboxes are not affected; recorded times will be off.")
    else:
        yield ok("clock", f"{now:%Y-%m-%d %H:%M:%S} UTC, steady")
