"""Samples of how output grows: enough in the journal to date each line again, and no more."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from backprop.records import Source
from backprop.store.journal import file as journals
from backprop.store.journal.entries import OutputSeen
from backprop.store.journal.file import Journal
from backprop.store.output_clocks import OutputClocks
from backprop.store.output_order import read
from backprop.store.rundir import RunDir


@pytest.fixture
def rundir(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def journal(rundir: RunDir) -> Iterator[Journal]:
    with closing(Journal(rundir.journal_path)) as made:
        yield made


def observe(clocks: OutputClocks, rundir: RunDir, seconds: range) -> None:
    """A line of ten bytes on stdout each second."""
    for second in seconds:
        with rundir.out_path(1).open("a") as file:
            file.write("123456789\n")
        clocks.observe(1, float(second))


def test_lines_are_dated(rundir: RunDir, journal: Journal):
    """Each is as old as the call that first saw it."""
    clocks = OutputClocks(rundir, journal, ())
    observe(clocks, rundir, range(1, 6))
    assert list(clocks.timeline(1, Source.OUT, 0).seconds([10, 30, 50])) == pytest.approx([1, 3, 5])


def test_the_journal_dates_them_again(rundir: RunDir, journal: Journal):
    """A process that comes later knows as much, to within a percent."""
    observe(OutputClocks(rundir, journal, ()), rundir, range(1, 301))
    entries, _ = journals.read(rundir.journal_path)
    assert all(isinstance(entry, OutputSeen) for entry in entries)
    later = OutputClocks(rundir, journal, entries).timeline(1, Source.OUT, 0)
    assert list(later.seconds([10, 1500, 2500])) == pytest.approx([1, 150, 250], rel=0.01)


def test_the_order_of_both_streams_is_noted(rundir: RunDir, journal: Journal):
    """For each session in a file of its own."""
    clocks = OutputClocks(rundir, journal, ())
    for session in (1, 2):
        rundir.out_path(session).write_text("out\n")
        rundir.err_path(session).write_text("error\n")
        clocks.observe(session, 1.0)
    assert [read(rundir.order_path(session)) for session in (1, 2)] == [[(4, 6)], [(4, 6)]]
