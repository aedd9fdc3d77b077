"""What the server needs of the rest of Backprop: `cli` brings it, so that a view stays a view.

Everything here blocks, some of it for seconds, and is called in worker threads.
"""

from collections.abc import Callable
from dataclasses import dataclass

from backprop.records import Limits, MachineState, Record, Run
from backprop.store.home import Home
from backprop.store.index import Index
from backprop.views.documents.run_json import IsValid
from backprop.views.terminal.machine_summary import Occupancy


class MachineReading(Record, frozen=True):
    """The machine at one instant, against the limits for a start, with its slots and its line."""

    snapshot: MachineState
    limits: Limits
    occupancy: Occupancy


@dataclass(frozen=True, kw_only=True, slots=True)
class Services:
    """One home, and what can be asked and ordered there. All but `is_valid` raise BackpropError where they cannot."""

    home: Home
    host: str
    user: str
    version: str
    open_index: Callable[[], Index]
    catch_up: Callable[[Index], None]  # bring the index in step with what is on disk
    read_machine: Callable[[], MachineReading]
    is_valid: IsValid
    # each says what was asked for, and does not wait until it has come to pass
    stop: Callable[[Run, bool], str]  # True: kill it at once
    pause: Callable[[Run], str]
    resume: Callable[[Run, float | None], str]  # minutes; None: the timebox it had
