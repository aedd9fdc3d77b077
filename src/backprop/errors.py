"""Everything that can go wrong in a way its user can mend.

    BackpropError
    ├── UsageError            exit 2: the command line asks for something impossible
    │   └── ConfigError       exit 2: a configuration file, an environment variable or the home folder
    │       └── NoRoomError   exit 2: the home folder's disk is full, or read-only
    ├── NoSuchRunError        exit 3: no run has that id or name
    ├── BusyError             exit 75: another process is running it; try again later
    └── NoCheckpointError     exit 76: there is no checkpoint to continue from

A message says what happened, what was found against what is allowed, and what to do next. Only `cli` catches
these, and a PermissionError that names a file. Anything else that is raised is a bug and crashes loudly.
"""

from enum import IntEnum


class ExitCode(IntEnum):
    """What the `backprop` process exits with; a failed trainer's own code passes through instead."""

    OK = 0
    PROBLEM = 1  # `doctor` found one
    USAGE = 2
    NO_SUCH_RUN = 3
    WORSE = 20  # `verdict`: 0 is better
    TIE = 21
    UNDECIDED = 22
    NO_METRIC = 65  # EX_DATAERR of sysexits.h: no trial of a sweep has the metric of its goal
    SAME_FAILURE = 66  # EX_NOINPUT: the first trials of a sweep failed with the same error
    STALLED = 69  # EX_UNAVAILABLE of sysexits.h: a run that is waited for is alive and makes no step
    REFUSED = 75  # EX_TEMPFAIL of sysexits.h: try again later
    NO_CHECKPOINT = 76  # EX_PROTOCOL: `resume --strict` found no checkpoint to continue from
    CANNOT_RESUME = 78  # EX_CONFIG: the first trial of a sweep did not continue from its checkpoint
    TIMED_OUT = 124  # `wait --timeout` has passed, as from timeout(1)
    NOT_EXECUTED = 127  # the trainer could not be started, as shells report it
    INTERRUPTED = 130  # 128 + SIGINT, as shells report Ctrl-C
    KILLED = 137  # 128 + SIGKILL


class BackpropError(Exception):
    """The root: a problem with a one-line explanation for the user."""

    exit_code: ExitCode = ExitCode.USAGE
    code: str = "error"  # a word for programs


class UsageError(BackpropError):
    """The command line asks for something impossible."""

    code = "usage"


class ConfigError(UsageError):
    """A setting, wherever it comes from, is unknown or wrong."""

    code = "config"


class NoRoomError(ConfigError):
    """The disk that the home folder lies on is full, or read-only."""

    code = "no_room"


class NoSuchRunError(BackpropError):
    """No run has that id or name."""

    exit_code = ExitCode.NO_SUCH_RUN
    code = "no_such_run"


class BusyError(BackpropError):
    """Another process holds the run right now."""

    exit_code = ExitCode.REFUSED
    code = "busy"


class NoCheckpointError(BackpropError):
    """There is no checkpoint to continue from."""

    exit_code = ExitCode.NO_CHECKPOINT
    code = "no_checkpoint"
