"""All checks, in the order in which their findings are shown."""

from functools import partial

from backprop import config
from backprop.cli.doctor import cluster, home, machine, scripts
from backprop.cli.doctor.findings import Check
from backprop.errors import BackpropError
from backprop.records import Limits

_TOOL_S = 15.0  # four tools that hang for two seconds each, and a slow machine
_SIGHT_S = 200.0


def all_checks(folder: str, version: str, python: str | None) -> list[Check]:
    """What there is to look at, for scripts in this folder. version: Backprop's own. python: that the user chose."""
    return [
        Check("backprop", partial(machine.own_python, version)),
        Check("settings", partial(scripts.configuration, folder)),
        Check("python", partial(scripts.script_python, folder, python), 30.0),
        Check("gpu", machine.gpus, _TOOL_S),
        Check("frameworks", partial(scripts.sight, folder, python), _SIGHT_S),
        Check("memory", lambda: machine.memory(_limits(folder))),
        Check("ram limit", machine.hard_limit),
        Check("processes", machine.process_table),
        Check("limits", machine.user_limits),
        Check("disk", lambda: home.disks(_limits(folder), folder)),
        Check("file system", home.file_system),
        Check("locks", home.locks),
        Check("index", home.index),
        Check("clock", machine.clock),
        Check("slurm", cluster.slurm, _TOOL_S),
    ]


def _limits(folder: str) -> Limits:
    """What a start needs by the settings; by the defaults where those are broken, which is a finding of its own."""
    try:
        return scripts.settings_of(folder).config.limits
    except BackpropError:
        return config.Config().limits
