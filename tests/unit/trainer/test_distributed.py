"""Which rank this process has: from its process group, from its launcher's variables, or from the group that is gone."""

import sys
from types import SimpleNamespace

import pytest

from backprop.trainer import distributed


@pytest.fixture
def group(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """A process group of torch.distributed in which this process is rank 1 of 2."""
    made = SimpleNamespace(is_up=True)
    made.is_available = lambda: True
    made.is_initialized = lambda: made.is_up
    made.get_rank, made.get_world_size = (lambda: 1), (lambda: 2)
    monkeypatch.setitem(sys.modules, "torch.distributed", made)
    monkeypatch.setattr(distributed, "_last_rank", 0)
    return made


def test_a_rank_lasts_longer_than_its_group(group: SimpleNamespace):
    """What is reported at the end must still come from rank 0 only; `mp.spawn` sets no variables."""
    assert (distributed.rank(), distributed.world_size()) == (1, 2)
    group.is_up = False
    assert (distributed.rank(), distributed.world_size()) == (1, 1)


def test_a_process_without_a_group_is_rank_0(group: SimpleNamespace):
    group.is_up = False
    assert (distributed.rank(), distributed.world_size()) == (0, 1)
