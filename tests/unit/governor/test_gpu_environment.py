"""Which cards a user's own environment leaves, and what a trainer is told of those that it gets."""

import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.governor.gpu_environment import allocator_environment, environment_for, visible
from backprop.records import Gpu, Limits

GB = 10**9


def card(index: int, vendor: str = "nvidia", uuid: str | None = None, total: int | None = 80 * GB) -> Gpu:
    return Gpu(index=index, uuid=uuid or f"GPU-{index}ab", name="Fake", vendor=vendor, vram_total_bytes=total)


THREE = (card(0), card(1), card(2))


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, [0, 1, 2]),
        ("0,1,2", [0, 1, 2]),
        ("2", [2]),
        ("GPU-1ab", [1]),
        ("GPU-1", [1]),  # a beginning that only one has
        ("", []),
        ("-1", []),
        ("1,-1,2", [1]),  # CUDA reads up to the first that is none
        ("1,9,2", [1]),
        (" 0 , 2 ", [0, 2]),
        ("nonsense", []),
    ],
)
def test_what_the_user_left_to_choose_from(value: str | None, expected: list[int]):
    """CUDA_VISIBLE_DEVICES as CUDA reads it, with the numbers that nvidia-smi shows."""
    environment = {} if value is None else {"CUDA_VISIBLE_DEVICES": value}
    assert [gpu.index for gpu in visible(THREE, environment)] == expected


def test_slices_are_named_by_their_uuid():
    slices = (card(0, uuid="MIG-a"), card(0, uuid="MIG-b"))
    assert visible(slices, {"CUDA_VISIBLE_DEVICES": "MIG-b"}) == slices[1:]


def test_cards_of_amd_have_variables_of_their_own():
    """The strongest that is set counts."""
    cards = (card(0, "amd"), card(1, "amd"))
    assert [gpu.index for gpu in visible(cards, {"HIP_VISIBLE_DEVICES": "1"})] == [1]
    assert [gpu.index for gpu in visible(cards, {"CUDA_VISIBLE_DEVICES": "0"})] == [0]
    both = {"ROCR_VISIBLE_DEVICES": "0", "HIP_VISIBLE_DEVICES": "1"}
    assert [gpu.index for gpu in visible(cards, both)] == [0]


@given(st.text(alphabet="012,-GPUabMI ", max_size=12))
@settings(deadline=None)
def test_no_value_gives_more_than_there_is(value: str):
    """Whatever stands in the variable."""
    left = visible(THREE, {"CUDA_VISIBLE_DEVICES": value})
    assert set(left) <= set(THREE)
    assert len(left) == len(set(left))


def test_what_a_trainer_is_told():
    """Cards by UUID and in one order; none at all where it may use none; nothing where nobody can tell."""
    assert environment_for((THREE[2], THREE[0])) == {
        "CUDA_VISIBLE_DEVICES": "GPU-2ab,GPU-0ab",
        "CUDA_DEVICE_ORDER": "PCI_BUS_ID",
    }
    assert environment_for(None) == {}
    none = environment_for(())
    assert (none["CUDA_VISIBLE_DEVICES"], none["HIP_VISIBLE_DEVICES"]) == ("", "")
    amd = environment_for((card(1, "amd"),))
    assert (amd["CUDA_VISIBLE_DEVICES"], amd["HIP_VISIBLE_DEVICES"]) == ("1", "1")


# -- the frameworks' own limits


def limits(**more: object) -> Limits:
    return Limits(timebox_s=1, grace_s=1, min_free_ram_bytes=0, min_free_disk_bytes=0, **more)  # type: ignore[arg-type]


@pytest.fixture
def torch(tmp_path: Path) -> dict[str, str]:
    """The environment of a Python whose PyTorch takes a share of the card as an option."""
    header = tmp_path / "torch/include/c10/cuda/CUDAAllocatorConfig.h"
    header.parent.mkdir(parents=True)
    header.write_text("static double per_process_memory_fraction() { ... }\n")
    (tmp_path / "torch/__init__.py").write_text("raise SystemError('nobody needs to import it')")
    return {"PYTHONPATH": str(tmp_path)}


HALF = limits(gpu_memory_fraction=0.5)


def test_the_frameworks_are_told_a_share_of_the_card(torch: dict[str, str]):
    assert allocator_environment(HALF, THREE[:1], "auto", sys.executable, torch) == {
        "PYTORCH_CUDA_ALLOC_CONF": "per_process_memory_fraction:0.5000",
        "TF_FORCE_GPU_ALLOW_GROWTH": "true",
        "XLA_PYTHON_CLIENT_MEM_FRACTION": "0.5000",
    }


@pytest.mark.parametrize(
    ("framework", "expected"),
    [("pytorch", {"PYTORCH_CUDA_ALLOC_CONF"}), ("tensorflow", {"TF_FORCE_GPU_ALLOW_GROWTH"})],
)
def test_a_framework_that_was_named_is_the_only_one(torch: dict[str, str], framework: str, expected: set[str]):
    assert set(allocator_environment(HALF, THREE[:1], framework, sys.executable, torch)) == expected


@pytest.mark.parametrize("name", ["PYTORCH_ALLOC_CONF", "PYTORCH_CUDA_ALLOC_CONF"])
def test_options_that_the_user_set_stay(torch: dict[str, str], name: str):
    """Ours is added where it is missing, under the name that is in use."""
    told = allocator_environment(HALF, THREE[:1], "pytorch", sys.executable, torch | {name: "backend:native"})
    assert told == {name: "backend:native,per_process_memory_fraction:0.5000"}
    own = torch | {name: "per_process_memory_fraction:0.1"}
    assert allocator_environment(HALF, THREE[:1], "pytorch", sys.executable, own) == {}


def test_variables_that_the_user_set_stay(torch: dict[str, str]):
    own = torch | {"XLA_PYTHON_CLIENT_MEM_FRACTION": "0.2", "TF_FORCE_GPU_ALLOW_GROWTH": "false"}
    assert set(allocator_environment(HALF, THREE[:1], "auto", sys.executable, own)) == {"PYTORCH_CUDA_ALLOC_CONF"}


def test_an_older_pytorch_is_not_told_what_it_does_not_know(torch: dict[str, str]):
    """It would refuse to start over it."""
    header = Path(torch["PYTHONPATH"]) / "torch/include/c10/cuda/CUDAAllocatorConfig.h"
    header.write_text("garbage_collection_threshold")
    assert allocator_environment(HALF, THREE[:1], "pytorch", sys.executable, torch) == {}
    header.unlink()
    assert allocator_environment(HALF, THREE[:1], "pytorch", sys.executable, torch) == {}
    assert allocator_environment(HALF, THREE[:1], "pytorch", "/no/python", torch) == {}
    assert allocator_environment(HALF, THREE[:1], "pytorch", None, torch) == {}


def test_without_a_limit_or_a_size_nobody_is_told_anything(torch: dict[str, str]):
    assert allocator_environment(limits(), THREE, "auto", sys.executable, torch) == {}
    assert allocator_environment(HALF, [card(0, total=None)], "auto", sys.executable, torch) == {}
    assert allocator_environment(HALF, [], "auto", sys.executable, torch) == {}


def test_the_smallest_card_makes_the_share():
    """A limit in bytes is one of each card, and the frameworks know one share for all."""
    asked = limits(gpu_memory_bytes=20 * GB)
    told = allocator_environment(asked, [card(0, total=80 * GB), card(1, total=40 * GB)], "tensorflow", None, {})
    assert told == {"TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    told = allocator_environment(asked, [card(0, total=80 * GB), card(1, total=40 * GB)], "auto", None, {})
    assert told["XLA_PYTHON_CLIENT_MEM_FRACTION"] == "0.2500"
