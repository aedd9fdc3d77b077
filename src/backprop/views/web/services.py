"""What the server needs of the rest of Backprop, for one home. All methods block, some of them for seconds."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from backprop import __version__
from backprop import host as this_machine
from backprop.errors import BackpropError
from backprop.lifecycle import indexing, requests, run_state
from backprop.lifecycle.admission import read_machine
from backprop.records import Limits, MachineState, Record, Run
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.views.terminal.machine_summary import Occupancy, read_occupancy


class MachineReading(Record, frozen=True):
    """The machine at one instant, against the limits for a start, with its slots and its queue."""

    machine: MachineState
    limits: Limits
    occupancy: Occupancy


@dataclass(frozen=True, kw_only=True)
class Services:
    """One home. Each method raises BackpropError when it fails; each request returns without waiting for its effect."""

    home: Home
    limits: Limits  # for a start
    gpu_probe: str
    folders: Sequence[str]  # whose disks are shown
    say: Callable[[str], None]  # takes messages for the user who started the server
    host: str = field(default_factory=this_machine.name)
    user: str = field(default_factory=this_machine.user)
    version: str = __version__

    def open_index(self) -> Index:
        """As `indexing.open_home`."""
        return indexing.open_home(self.home, self.say)

    def why_in_memory(self, error: Exception) -> str | None:
        """As `indexing.why_in_memory`."""
        return indexing.why_in_memory(self.home, error)

    def open_in_memory(self) -> Index:
        """As `indexing.open_in_memory`."""
        return indexing.open_in_memory(self.home, self.say)

    def is_index_usable(self) -> bool:
        """As `indexing.is_usable`."""
        return indexing.is_usable(self.home)

    def catch_up(self, index: Index) -> None:
        """Bring the index in step with what is on disk."""
        indexing.catch_up(self.home, index, self.say)

    def read_machine(self) -> MachineReading:
        """The machine, its limits, and who uses it."""
        return MachineReading(
            machine=read_machine(self.folders, self.gpu_probe),
            limits=self.limits,
            occupancy=read_occupancy(self.home),
        )

    def stop(self, run: Run, *, now: bool) -> str:
        """Ask a run to stop, or with `now` kill it. Returns a message for the user."""
        if now:
            return requests.stop_now(self.home, run, self.say, by="kill button of the page").summary
        answering = requests.request_stop(self.home, run, by="stop button of the page")
        if answering.is_queued:
            return f"run {run.spec.id} was asked to leave the queue."
        return f"run {run.spec.id} was asked to stop; it is killed after {answering.grace_s:g} s."

    def pause(self, run: Run) -> str:
        """Ask a run to pause. Returns a message for the user."""
        requests.request_pause(self.home, run, by="pause button of the page")
        return f"run {run.spec.id} was asked to pause."

    def call(self, words: Sequence[str]) -> str:
        """Do what `backprop` with these words does. Returns its message, or raises BackpropError with it."""
        done = requests.call(self.home, words, str(self.home.path))
        if done.code:
            raise BackpropError(done.message or f"`backprop {words[0]}` failed with exit code {done.code}.")
        return done.message

    def resume(self, run: Run, minutes: float | None) -> str:
        """Resume a paused session, or start another one. minutes: its timebox; None: the one that the run had."""
        if run_state.current_supervisor(run) is None:
            return requests.start_resume(self.home, run.spec.id, minutes)
        requests.request_resume(self.home, run, by="resume button of the page")
        return f"run {run.spec.id} was asked to resume."
