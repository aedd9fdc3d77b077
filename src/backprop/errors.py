"""Everything that can go wrong in a way its user can mend.

    BackpropError
    ├── UsageError            exit 2: the command line asks for something impossible
    │   └── ConfigError       exit 2: a configuration file, an environment variable or the home folder
    │       └── NoRoomError   exit 2: the home folder's disk is full
    ├── NoSuchRunError        exit 3: no run has that id or name
    └── BusyError             exit 75: another process is running it; try again later

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
    STALLED = 69  # EX_UNAVAILABLE of sysexits.h: a run that is waited for is alive and makes no step
    REFUSED = 75  # EX_TEMPFAIL of sysexits.h: try again later
    TIMED_OUT = 124  # `wait --timeout` has passed, as from timeout(1)
    NOT_EXECUTED = 127  # the trainer could not be started, as shells report it
    INTERRUPTED = 130  # 128 + SIGINT, as shells report Ctrl-C
    KILLED = 137  # 128 + SIGKILL


class BackpropError(Exception):
    """The root: a problem with a one-line explanation for the user."""

    exit_code: ExitCode = ExitCode.USAGE


class UsageError(BackpropError):
    """The command line asks for something impossible."""


class ConfigError(UsageError):
    """A setting, wherever it comes from, is unknown or wrong."""


class NoRoomError(ConfigError):
    """The disk that the home folder lies on is full."""


class NoSuchRunError(BackpropError):
    """No run has that id or name."""

    exit_code = ExitCode.NO_SUCH_RUN


class BusyError(BackpropError):
    """Another process holds the run right now."""

    exit_code = ExitCode.REFUSED
