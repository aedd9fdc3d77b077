"""The folder of a sweep."""

from contextlib import suppress
from pathlib import Path
from threading import Barrier, BrokenBarrierError, Thread

import msgspec
import pytest

from backprop.errors import UsageError
from backprop.lifecycle.sweep import spec as specs
from backprop.store.home import Home
from tests.unit.lifecycle.sweep.test_standing import SPEC


def test_of_two_starts_with_one_name_one_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Also if both look for the name before either has made its folder, which they would wait for here."""
    home, refused = Home.at(tmp_path / "home"), []
    both_have_looked, look = Barrier(2), specs.sweeps

    def look_together(home: Home) -> list[specs.SweepSpec]:
        found = list(look(home))
        with suppress(BrokenBarrierError):  # the other one may not look meanwhile
            both_have_looked.wait(0.5)
        return found

    def start(sweep_id: str) -> None:
        try:
            specs.make(home, msgspec.structs.replace(SPEC, id=sweep_id))
        except UsageError as error:
            refused.append(str(error))

    monkeypatch.setattr(specs, "sweeps", look_together)
    threads = [Thread(target=start, args=(sweep_id,)) for sweep_id in ("aaaaaaaa", "bbbbbbbb")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 1
    assert "exists already" in refused[0]
    assert [one.name for one in look(home)] == [SPEC.name]
