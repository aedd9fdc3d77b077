"""What all parts of a session share: which session it is, its limits, and where it is recorded."""

from dataclasses import dataclass, field

from backprop.records import Limits, RunSpec
from backprop.store.journal.entries import Entry
from backprop.store.journal.file import Journal
from backprop.store.output.progress import ProgressMeter
from backprop.store.recorder import Recorder
from backprop.store.rundir import RunDir
from backprop.supervisor.plan import Clock, Observer
from backprop.supervisor.signals import Signals


@dataclass
class SessionContext:
    """One session of one run. The run's journal is locked by this process."""

    rundir: RunDir
    spec: RunSpec  # replaced when the run is renamed
    number: int  # of the session, 1-based
    limits: Limits
    is_job: bool  # the session runs in a Slurm job
    journal: Journal
    recorder: Recorder
    observer: Observer
    signals: Signals
    clock: Clock
    meter: ProgressMeter = field(default_factory=ProgressMeter)
    entries: list[Entry] = field(default_factory=list)  # that this session wrote, oldest first

    def write(self, entry: Entry) -> bool:
        """Append an entry to the journal. False while a full disk keeps it in memory."""
        self.entries.append(entry)
        return self.journal.append(entry)
