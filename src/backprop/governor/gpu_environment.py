"""Which GPUs a session may use, and the variables that restrict its trainer to them. Pure except for one probe.

GPUs are named by UUID: by default CUDA numbers GPUs by speed and NVML by bus position, and with an ambiguous number two
runs could get the same GPU.
"""

import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from backprop.governor.start_policy import vram_limit_bytes
from backprop.records import Gpu, Limits

_PROBE_TIMEOUT_S = 10.0
_TORCH_OPTION = "per_process_memory_fraction"  # of PyTorch's allocator: github.com/pytorch/pytorch/pull/161035
_TORCH_HEADER = Path("include/c10/cuda/CUDAAllocatorConfig.h")  # comes with every wheel
_FIND_TORCH = (
    "import importlib.util as u; s = u.find_spec('torch'); print(s.submodule_search_locations[0] if s else '')"
)

# vendor -> variables by which the user may have restricted the choice already, by precedence
_VISIBLE = {
    "nvidia": ("CUDA_VISIBLE_DEVICES",),
    "amd": ("ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "CUDA_VISIBLE_DEVICES"),
}


def visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> tuple[Gpu, ...]:
    """The GPUs that the user's own environment allows, as CUDA reads it.

    A variable lists indices or UUID prefixes, up to the first entry that matches no GPU; an empty one allows none.
    Indices are in PCI_BUS_ID order whatever CUDA_DEVICE_ORDER is: the order that nvidia-smi shows.
    """
    left = []
    for gpu in gpus:
        allowed = next((environment[name] for name in _VISIBLE[gpu.vendor] if name in environment), None)
        peers = [peer for peer in gpus if peer.vendor == gpu.vendor]
        if allowed is None or gpu in _named(peers, allowed):
            left.append(gpu)
    return tuple(left)


def _named(gpus: Sequence[Gpu], allowed: str) -> list[Gpu]:
    found: list[Gpu] = []
    for word in allowed.split(","):
        entry = word.strip()
        if entry.isdecimal():
            matching = [gpu for gpu in gpus if gpu.index == int(entry)]
        else:
            matching = [gpu for gpu in gpus if entry and gpu.uuid.startswith(entry)]
        if not matching:
            break
        found += matching
    return found


def environment_for(gpus: Sequence[Gpu] | None) -> dict[str, str]:
    """Variables that make exactly these GPUs visible to a trainer; none for None, which changes nothing."""
    if gpus is None:
        return {}
    variables = {"CUDA_VISIBLE_DEVICES": ",".join(gpu.uuid for gpu in gpus), "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
    if not gpus or any(gpu.vendor == "amd" for gpu in gpus):
        indices = ",".join(str(gpu.index) for gpu in gpus)
        # HIP names GPUs by number, and PyTorch for ROCm reads both variables
        variables |= {"HIP_VISIBLE_DEVICES": indices, "CUDA_VISIBLE_DEVICES": indices}
    return variables


def allocator_environment(
    limits: Limits, gpus: Sequence[Gpu], framework: str, python: str | None, environment: Mapping[str, str]
) -> dict[str, str]:
    """Variables that make the frameworks themselves enforce --gpu-memory-limit. Starts `python` to look for PyTorch.

    PyTorch and JAX take a fraction of the GPU; TensorFlow has no such variable and is only kept from allocating all of
    it at once. framework: "pytorch", "tensorflow", or "auto" for all. python: the trainer's; None: not known.
    """
    share = _share(limits, gpus)
    if share is None:
        return {}
    variables = {}
    if framework in {"auto", "pytorch"} and python is not None and _torch_takes_a_share(python, environment):
        name = next((n for n in ("PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF") if n in environment), None)
        before = environment[name] if name is not None else ""
        if _TORCH_OPTION not in before:
            option = f"{_TORCH_OPTION}:{share:.4f}"
            variables[name or "PYTORCH_CUDA_ALLOC_CONF"] = f"{before},{option}" if before else option
    if framework in {"auto", "tensorflow"} and "TF_FORCE_GPU_ALLOW_GROWTH" not in environment:
        variables["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"
    if framework == "auto" and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in environment:
        variables["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{share:.4f}"
    return variables


def _share(limits: Limits, gpus: Sequence[Gpu]) -> float | None:
    """The limit as a fraction of the smallest of these GPUs; None without a limit or a size."""
    shares = []
    for gpu in gpus:
        limit = vram_limit_bytes(limits, gpu)
        if limit is not None and gpu.vram_total_bytes:
            shares.append(min(1.0, limit / gpu.vram_total_bytes))
    return min(shares, default=None)


def _torch_takes_a_share(python: str, environment: Mapping[str, str]) -> bool:
    """Whether this interpreter's PyTorch knows the option. An older one would fail to start with it."""
    with suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(
            [python, "-c", _FIND_TORCH],
            env=dict(environment),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=_PROBE_TIMEOUT_S,
            check=False,
        ).stdout.strip()
        return bool(found) and _TORCH_OPTION in (Path(found) / _TORCH_HEADER).read_text(errors="replace")
    return False
