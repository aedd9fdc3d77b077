"""Trainings are told apart by cheap digests, and reading them changes nothing."""

import functools
import itertools
import random
import sys
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from backprop.trainer.trainings.fingerprint import (
    command_line,
    fingerprint,
    folder,
    is_called_once,
    lasting,
    may_change,
    place,
    weights_fingerprint,
)


class Table:
    """A data set as users write them."""

    def __init__(self, rows: object, fold: int = 0) -> None:
        self.rows = rows
        self.fold = fold
        self.reads = 0

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> object:
        self.reads += 1
        random.random()
        return self.rows[index]


@pytest.mark.parametrize(
    "make", [np.asarray, list, lambda rows: Table(np.asarray(rows)), lambda rows: {"x": np.asarray(rows)}]
)
def test_other_rows_have_another_content_and_the_same_form(make):
    one, other = fingerprint(make(np.arange(5000.0))), fingerprint(make(np.arange(5000.0)[::-1].copy()))
    assert one == fingerprint(make(np.arange(5000.0)))
    assert one.form == other.form
    assert one.content != other.content


@pytest.mark.parametrize("count", [50, 5000, 200_000])
def test_folds_that_begin_and_end_with_the_same_rows_are_told_apart(count):
    """The training rows of the middle folds of a cross-validation."""
    rows, fifth = np.arange(count), count // 5
    folds = [np.delete(rows, slice(k * fifth, (k + 1) * fifth)) for k in (1, 2, 3)]
    assert len({fingerprint(fold) for fold in folds}) == 3
    assert len({fingerprint(Table(fold)) for fold in folds}) == 3
    assert len({fingerprint(fold.tolist()) for fold in folds}) == 3


def test_length_shape_and_settings_are_its_form():
    one = fingerprint(Table(np.zeros((5, 2))))
    assert one.form != fingerprint(Table(np.zeros((6, 2)))).form
    assert one.form != fingerprint(Table(np.zeros((5, 3)))).form
    assert one.form != fingerprint(Table(np.zeros((5, 2)), fold=1)).form


def test_nothing_is_consumed_read_or_drawn():
    numbers, generator, rng = iter(range(3)), (n for n in range(3)), np.random.default_rng(1)
    table = Table(np.zeros(3))
    table.parts = [numbers, generator, rng, functools.partial(max, 1), open, sys]
    states = random.getstate(), np.random.mtrand._rand.get_state()[1].tolist(), rng.bit_generator.state
    assert fingerprint(table) == fingerprint(table)
    assert (random.getstate(), np.random.mtrand._rand.get_state()[1].tolist(), rng.bit_generator.state) == states
    assert (list(numbers), list(generator), table.reads) == ([0, 1, 2], [0, 1, 2], 0)


def test_what_cannot_be_read_has_a_form_and_no_content():
    class Strange:
        shape = (3,)

        def __getattr__(self, name):
            raise RuntimeError(name)

    assert fingerprint(Strange()).content is None
    assert fingerprint(itertools.count()).content is None
    endless: list = []
    endless.append(endless)
    assert fingerprint(endless) == fingerprint(endless)


def test_a_data_set_that_has_a_shape_is_no_array():
    class Shaped(Table):
        shape = (3, 1)

    assert fingerprint(Shaped([1.0] * 20)).content != fingerprint(Shaped([2.0] * 20)).content


def test_of_an_arrow_table_what_is_stored_is_read_through_its_indices():
    class Stored:
        def __init__(self, rows):
            self.rows = rows

        def slice(self, start, length):
            return Stored(self.rows[start : start + length])

        def to_pydict(self):
            return {"x": self.rows}

        def column(self, _):
            return [SimpleNamespace(as_py=lambda row=row: row) for row in self.rows]

    class Dataset:
        column_names = ("x",)
        shape = (50, 1)

        def __init__(self, rows, indices=None):
            self._data, self._indices = Stored(rows), indices and Stored(indices)

        def __len__(self):
            return len((self._indices or self._data).rows)

        def __getitem__(self, index):
            raise AssertionError("would decode, and call the user's transforms")

    Dataset.__module__ = "datasets.arrow_dataset"
    rows = list(range(100))
    one, other = fingerprint(Dataset(rows, rows[:50])), fingerprint(Dataset(rows, rows[50:]))
    assert one.form == other.form
    assert one.content != other.content
    assert fingerprint(Dataset(rows[:50])).content == one.content


def test_of_large_values_only_a_sample_is_read():
    class Rows(list):
        def __getitem__(self, index):
            reads.append(index)
            return super().__getitem__(index)

    reads: list = []
    fingerprint(Rows(range(1_000_000)))
    assert 2 < len(reads) < 2000
    assert {0, 999_999} <= set(reads)


def test_weights_are_known_by_names_shapes_and_a_few_values():
    named = [(f"layer.{index}", np.full((100, 100), index, float)) for index in range(2000)]
    one = weights_fingerprint(iter(named))
    assert one == weights_fingerprint(named)
    changed = [*named[:-1], (named[-1][0], named[-1][1] + 1)]
    assert weights_fingerprint(changed).form == one.form
    assert weights_fingerprint(changed).content != one.content, "a head at the end"
    assert weights_fingerprint(named[:-1]).form != one.form


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("runs/2026-11-29_08-36-43/fold2", "runs/2026-11-30_23-59-00/fold2"),
        ("out-20261129-083643", "out-20261201-000000"),
        ("out-20261129", "out-20261201"),
        ("runs/Nov29_08-36-43", "runs/Dec01_18-06-40"),
        ("logs/29.11.2026 08:36:43.123456", "logs/01.12.2026 18:06:40.5"),
        ("run-1764405403", "run-1764491803.25"),
        ("/tmp/tmpab12cd_4/out", "/tmp/tmpzz99yy88/out"),
        ("/tmp/tmp.Ab3dE6gH9k", "/tmp/tmp.xxxxxx1234"),
        ("<function <lambda> at 0x7f3a2c1b4d30>", "<function <lambda> at 0x7f0000000010>"),
        ("run-3f2a9c1b", "run-91bc00ff"),
        ("123e4567-e89b-12d3-a456-426614174000", "00000000-0000-4000-8000-000000000001"),
        ("lightning_logs/version_3", "lightning_logs/version_4"),
    ],
)
def test_times_and_random_names_are_left_out(one, other):
    assert lasting(one) == lasting(other)


@pytest.mark.parametrize(
    "text", ["fold_1", "out/fold-01-02", "lr=0.00012345", "seed 12345678", "deadbeef", "run-12", "v2.1"]
)
def test_what_distinguishes_stays(text):
    assert lasting(text) == text


def test_a_folder_is_the_same_wherever_the_project_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    found = set()
    for name in ("here", "there"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        found |= {folder("out/fold1"), folder(tmp_path / name / "out" / "fold1"), folder("out/../out/fold1/")}
    assert found == {"out/fold1"}


def test_options_that_may_change_are_left_out_of_the_command_line():
    same = [
        ["--lr", "0.1", "--epochs", "3", "data"],
        ["--lr", "0.1", "--epochs=9", "--resume", "/x/y.pt", "data"],
        ["--lr", "0.1", "data", "-v", "--num-workers", "4"][:3],
        ["--lr", "0.1", "data", "trainer.ckpt_path=/x"],
        ["--lr", "0.1", "data", "--load=/offered/checkpoint"],
    ]
    assert len({command_line(words, "/offered/checkpoint") for words in same}) == 1
    others = [["--lr", "0.2", "data"], ["--lr", "0.1", "data2"], ["--lr", "0.1", "data", "--fold", "1"], ["-1"], ["-2"]]
    assert len({command_line(words) for words in [same[0], *others]}) == 6


@pytest.mark.parametrize(
    "name",
    ["num_train_epochs", "max_steps", "resume_from_checkpoint", "dataloader_num_workers", "device", "max_epochs"],
)
def test_what_may_change(name):
    assert may_change(name)


@pytest.mark.parametrize(
    "name", ["learning_rate", "warmup_steps", "gradient_accumulation_steps", "seed", "fold", "lr_step_size"]
)
def test_what_may_not_change(name):
    assert not may_change(name)


SCRIPT = """
{above}
def train(epochs=1):
    return place("train")

def fold(k):
    return train(epochs={epochs})

found = [train()]
found.append(fold(0))
found.append(train())
found.append(fold(1))
found.append([train() for _ in range(2)])
"""


def places(tmp_path: Path, above: str, epochs: int) -> list:
    path = tmp_path / "script.py"
    path.write_text(SCRIPT.format(above=above, epochs=epochs))
    import linecache

    linecache.clearcache()
    names: dict = {"place": place, "__name__": "__main__"}
    exec(compile(path.read_text(), str(path), "exec"), names)
    return names["found"]


def test_a_place_is_the_same_when_lines_are_added_and_arguments_changed(tmp_path: Path):
    before, after = places(tmp_path, "", 1), places(tmp_path, "import os  # of train(1)\n\nprint", 20)
    assert before == after
    first, in_fold, second, other_fold, (one, two) = before
    assert len({first, in_fold, second, other_fold, one}) == 5
    assert one == two
    assert "site-packages" not in first


LOOPS = """
import functools
def once():
    # a loop: for x in y
    for _ in range(2):
        pass
    if True:
        return is_called_once(
        )

@functools.lru_cache
def cached():
    return once()

found["once"] = once()
found["cached"] = cached()
for _ in range(2):
    found["loop"] = once()
while True:
    if True:
        found["while"] = (
            once()
        )
    break
found["list"] = [once() for _ in range(2)][0]
found["map"] = list(map(lambda _: once(), range(2)))[0]
found["library"] = by_library(once)
"""


def test_whether_a_call_is_in_a_loop(tmp_path: Path):
    path, library = tmp_path / "script.py", tmp_path / "site-packages" / "optuna" / "study.py"
    path.write_text(LOOPS)
    library.parent.mkdir(parents=True)
    library.write_text("def by_library(objective):\n    return objective()\n")
    names: dict = {"found": {}, "is_called_once": is_called_once}
    exec(compile(library.read_text(), str(library), "exec"), names)
    # below the stack of a thread there is nothing of pytest's
    thread = threading.Thread(target=exec, args=(compile(LOOPS, str(path), "exec"), names))
    thread.start()
    thread.join()
    assert names["found"] == {
        "once": True,
        "cached": True,
        "loop": False,
        "while": False,
        "list": False,
        "map": False,
        "library": False,
    }
