"""The vendors' tools as they print on real machines, and as they print when something is wrong with them."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.governor.probes import gpu_tools
from backprop.governor.probes.gpu_tools import ToolError, read_amd_smi, read_nvidia_smi, read_rocm_smi
from backprop.records import Throttle
from tests.conftest import HANG_S, wait_for

MIB = 1 << 20


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for programs that PATH begins with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


def tool(folder: Path, name: str, body: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)


def printing(folder: Path, name: str, **answers: str) -> None:
    """A tool that prints a text for the first of these words that it gets."""
    cases = []
    for number, (word, text) in enumerate(answers.items()):
        folder.joinpath(f"{name}-{number}.txt").write_text(text)
        cases.append(f'*"{word.replace("_", "-")}"*) cat "{folder}/{name}-{number}.txt";;')
    tool(folder, name, 'case "$*" in ' + " ".join(cases) + " esac")


# -- nvidia-smi


def test_a_card_of_nvidia(tools: Path):
    """MiB, °C, percent and watts as it prints them; what processes hold by process id."""
    printing(
        tools,
        "nvidia-smi",
        query_gpu="0, GPU-5c3a, NVIDIA H100 80GB HBM3, 81559, 80916, 34, 7, 71.52, Disabled, 0x0000000000000024\n",
        query_compute="GPU-5c3a, 4711, 512\nGPU-5c3a, 4712, 100\n",
    )
    (gpu,) = read_nvidia_smi(HANG_S)
    assert (gpu.index, gpu.uuid, gpu.name, gpu.vendor) == (0, "GPU-5c3a", "NVIDIA H100 80GB HBM3", "nvidia")
    assert (gpu.vram_total_bytes, gpu.vram_free_bytes) == (81559 * MIB, 80916 * MIB)
    assert (gpu.temp_c, gpu.utilization_percent, gpu.power_w) == (34, 7, 71.52)
    assert gpu.process_vram_bytes == {4711: 512 * MIB, 4712: 100 * MIB}
    assert gpu.throttled == (Throttle.POWER, Throttle.THERMAL)
    assert not gpu.is_slice


def test_a_tool_that_does_not_know_why_clocks_are_held_back_tells_the_rest(tools: Path):
    tool(
        tools,
        "nvidia-smi",
        """case "$*" in
        *clocks_*) echo 'Field "clocks_throttle_reasons.active" is not a valid field to query.'; exit 2;;
        *query-gpu*) echo "0, GPU-1, A, 10, 10, 1, 1, 1, Disabled";;
        esac""",
    )
    (gpu,) = read_nvidia_smi(HANG_S)
    assert gpu.temp_c == 1
    assert gpu.throttled is None


def test_what_a_card_does_not_say_is_unknown(tools: Path):
    """`[N/A]` and its kin are not zero."""
    printing(
        tools,
        "nvidia-smi",
        query_gpu="0, GPU-1, GRID, [N/A], [Not Supported], [Unknown Error], [N/A], [N/A], [N/A], 0x0000000000000024\n",
        query_compute="GPU-1, 5, [N/A]\n",
    )
    (gpu,) = read_nvidia_smi(HANG_S)
    assert gpu.vram_total_bytes is gpu.vram_free_bytes is gpu.temp_c is gpu.utilization_percent is gpu.power_w is None
    assert gpu.process_vram_bytes is None


def test_a_card_without_processes_holds_nothing(tools: Path):
    """Known to be empty is not unknown."""
    printing(
        tools, "nvidia-smi", query_gpu="0, GPU-1, A, 10, 10, 1, 1, 1, [N/A], 0x0000000000000024\n", query_compute=""
    )
    assert read_nvidia_smi(HANG_S)[0].process_vram_bytes == {}


def test_slices_are_listed_as_what_they_are(tools: Path):
    """A card that is cut into MIG devices is not one to be used; they are."""
    printing(
        tools,
        "nvidia-smi",
        query_gpu="0, GPU-a, A100, 40960, 40000, 30, [N/A], 50.0, Enabled, 0x0000000000000024\n1, GPU-b, A100, 40960, 40000, 31, 0, 51.0, Disabled, 0x0000000000000024\n",
        query_compute="",
        L=(
            "GPU 0: A100 (UUID: GPU-a)\n"
            "  MIG 1g.5gb      Device  0: (UUID: MIG-11)\n"
            "  MIG 3g.20gb     Device  1: (UUID: MIG-GPU-a/2/0)\n"
            "GPU 1: A100 (UUID: GPU-b)\n"
        ),
    )
    gpus = read_nvidia_smi(HANG_S)
    assert [(gpu.index, gpu.uuid, gpu.is_slice) for gpu in gpus] == [
        (0, "MIG-11", True),
        (0, "MIG-GPU-a/2/0", True),
        (1, "GPU-b", False),
    ]
    assert gpus[0].name == "A100 MIG 1g.5gb"
    assert gpus[0].temp_c == 30
    assert gpus[0].vram_free_bytes is None


@pytest.mark.parametrize("body", ["echo 'No devices were found'; exit 6", "echo 'No devices were found'"])
def test_no_card_is_an_answer(tools: Path, body: str):
    tool(tools, "nvidia-smi", body)
    assert read_nvidia_smi(HANG_S) == ()


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ("echo 'NVIDIA-SMI has failed: no driver' >&2; exit 9", "nvidia-smi failed: NVIDIA-SMI has failed: no driver"),
        ("exit 3", "nvidia-smi failed: exit code 3"),
        ("echo '<html>'", "nvidia-smi printed '<html>'"),
        ("echo 'a, b, c, d, e, f, g, h, i, j'", "names a card without index or UUID"),
        ("head -c 1000 /dev/urandom; echo", "nvidia-smi"),
        ("kill -9 $$", "nvidia-smi failed"),
    ],
)
def test_rubbish_and_failure_are_one_kind_of_error(tools: Path, body: str, told: str):
    tool(tools, "nvidia-smi", body)
    with pytest.raises(ToolError) as raised:
        read_nvidia_smi(HANG_S)
    assert told in str(raised.value)
    assert "\n" not in str(raised.value)


def test_a_tool_that_hangs_is_given_up_and_killed(tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """With what it started, however it ignores signals."""
    tool(tools, "nvidia-smi", f"trap '' TERM INT; sleep 300 & echo $! > {tmp_path}/pid; wait")
    communicate = subprocess.Popen.communicate

    def with_a_child(process: "subprocess.Popen[bytes]", **options: Any) -> tuple[bytes, bytes]:
        wait_for(lambda: (tmp_path / "pid").exists() and (tmp_path / "pid").read_text().endswith("\n"))
        return communicate(process, **options)

    monkeypatch.setattr(subprocess.Popen, "communicate", with_a_child)
    with pytest.raises(ToolError, match=r"did not answer within 0\.5 s"):
        read_nvidia_smi(0.5)
    pid = int((tmp_path / "pid").read_text())
    wait_for(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text().split()[2])


def test_a_tool_that_is_not_there(tools: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tools))
    assert not gpu_tools.is_present("nvidia-smi")
    with pytest.raises(ToolError, match="cannot be started"):
        read_nvidia_smi(HANG_S)
    tool(tools, "nvidia-smi", "true")
    assert gpu_tools.is_present("nvidia-smi")


# -- AMD

ROCM = {
    "card0": {
        "Unique ID": "0x18f68e602b8a790f",
        "Temperature (Sensor edge) (C)": "41.0",
        "Temperature (Sensor junction) (C)": "43.0",
        "Average Graphics Package Power (W)": "38.0",
        "GPU use (%)": "12",
        "VRAM Total Memory (B)": "68702699520",
        "VRAM Total Used Memory (B)": "10989568",
        "Card Series": "AMD Instinct MI210",
    },
    "card1": {"Unique ID": "N/A", "Temperature (Sensor junction) (C)": "50.0"},
    "system": {"Driver version": "6.7.0"},
}


def test_cards_of_amd_by_rocm_smi(tools: Path):
    """Bytes as it prints them; warnings before the JSON do not matter."""
    printing(tools, "rocm-smi", json="WARNING: AMD GPU device(s) is/are in a low-power state.\n\n" + json.dumps(ROCM))
    first, second = read_rocm_smi(HANG_S)
    assert (first.index, first.uuid, first.name, first.vendor) == (
        0,
        "GPU-18f68e602b8a790f",
        "AMD Instinct MI210",
        "amd",
    )
    assert first.vram_total_bytes == 68702699520
    assert first.vram_free_bytes == 68702699520 - 10989568
    assert (first.temp_c, first.utilization_percent, first.power_w) == (41, 12, 38)
    assert (second.uuid, second.temp_c, second.vram_free_bytes) == ("amd-1", 50, None)


AMD = [
    {
        "gpu": 0,
        "usage": {"gfx_activity": {"value": 3, "unit": "%"}},
        "power": {"socket_power": {"value": 131, "unit": "W"}},
        "temperature": {"edge": "N/A", "hotspot": {"value": 44, "unit": "C"}},
        "mem_usage": {"total_vram": {"value": 196592, "unit": "MB"}, "used_vram": {"value": 592, "unit": "MB"}},
    },
    {"gpu": 1},
]


@pytest.mark.parametrize("wrapped", [False, True])
def test_cards_of_amd_by_amd_smi(tools: Path, wrapped: bool):
    """Its JSON of old and new versions."""
    listed = [{"gpu": 0, "uuid": "ccff74a1-0000-1000-80ee-3b3fb6a31fe9"}]
    metric, known = ({"gpu_data": AMD}, {"gpu_data": listed}) if wrapped else (AMD, listed)
    printing(tools, "amd-smi", metric=json.dumps(metric), list=json.dumps(known))
    first, second = read_amd_smi(HANG_S)
    assert first.uuid == "GPU-ccff74a1-0000-1000-80ee-3b3fb6a31fe9"
    assert (first.vram_total_bytes, first.vram_free_bytes) == (196592 * MIB, 196000 * MIB)
    assert (first.temp_c, first.utilization_percent, first.power_w) == (44, 3, 131)
    assert (second.uuid, second.temp_c, second.vram_total_bytes) == ("amd-1", None, None)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
amd_entries = st.fixed_dictionaries(
    {}, optional=dict.fromkeys(("gpu", "usage", "power", "temperature", "mem_usage", "uuid"), json_values)
)
rocm_cards = st.dictionaries(st.sampled_from([*ROCM["card0"]]), json_values)


@given(
    st.lists(amd_entries | json_values) | json_values,
    st.dictionaries(st.sampled_from(["card0", "card1", "x"]), rocm_cards | json_values),
)
@settings(deadline=None)
def test_whatever_json_they_print_is_cards_or_one_kind_of_error(entries: object, cards: object):
    """No shape of JSON is more than a tool that cannot tell."""
    for text, read in ((json.dumps(entries), read_amd_smi), (json.dumps(cards), read_rocm_smi)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(gpu_tools, "_ask", lambda command, timeout_s, accepted=(0,), text=text: (0, text))
            try:
                gpus = read(1)
            except ToolError:
                continue
            assert all(gpu.uuid and gpu.vendor == "amd" for gpu in gpus)


@given(st.text())
@settings(deadline=None)
def test_whatever_nvidia_smi_prints_is_cards_or_one_kind_of_error(text: str):
    """No text is more than a tool that cannot tell."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_tools, "_ask", lambda command, timeout_s, accepted=(0,): (0, text))
        try:
            gpus = read_nvidia_smi(1)
        except ToolError:
            return
        assert all(gpu.uuid for gpu in gpus)
