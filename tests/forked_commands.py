"""`backprop` commands without the start of an interpreter each time: forks of a process that has imported it.

Half of what the tests cost was Python starting and importing the same modules again. `call` gives what `subprocess.run`
would, `start` what `subprocess.Popen` would: a real process with its own id, environment, folder, files and exit code.
What an interpreter reads at its start cannot be given to a fork: `needs_interpreter` says when it must be the installed
command itself.
"""

import atexit
import gc
import importlib
import io
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

ROOT = Path(__file__).resolve().parent.parent
_READ_AT_START = ("PYTHON", "LC_", "LANG", "LD_")
# what most commands import when they are called; the page and the full-screen view are too heavy to have in all of them
_MODULES = [
    "__main__",
    "cli.annotating",
    "cli.app",
    "cli.commands.run",
    "cli.commands.resume",
    "cli.commands.list",
    "cli.commands.status",
    "cli.commands.logs",
    "cli.commands.compare",
    "cli.commands.wait",
    "cli.commands.rm",
    "cli.commands.stop",
    "cli.commands.pause",
    "cli.commands.rename",
    "cli.commands.reindex",
    "cli.slurm.job",
    "cli.start",
    "cli.background",
    "store.output.printed_metrics",
    "lifecycle.indexing",
    "lifecycle.annotating",
    "lifecycle.recovery",
    "lifecycle.removed_runs",
    "lifecycle.same_runs",
    "supervisor.estimate",
    "supervisor.process.tree_usage",
    "supervisor.roster",
    "supervisor.session",
    "lifecycle.driver",
    "lifecycle.admission",
    "supervisor.monitor",
    "views.notification",
    "lifecycle.notifier",
    "lifecycle.requests",
    "supervisor.environment",
    "engines.local",
    "engines.slurm.engine",
    "trainer.hooks.saved_files.contents",
    "views.terminal.runs_table",
    "views.terminal.run_details",
    "views.terminal.machine_summary",
    "views.documents.fields",
    "views.documents.run_json",
    "views.terminal.live_line",
]

ALSO: list[str] = []  # what commands of an extra import, which takes seconds: to be set before the first call


def needs_interpreter(environment: Mapping[str, str]) -> bool:
    """Whether it differs from ours in something that Python, or the loader, reads only once."""
    names = environment.keys() | os.environ.keys()
    return not hasattr(os, "pidfd_open") or any(
        environment.get(name) != os.environ.get(name) for name in names if name.startswith(_READ_AT_START)
    )


class ForkServer:
    """One for each process of pytest, begun at the first call, ended by `close`."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-c", "from tests.forked_commands import serve; serve()", str(theirs.fileno()), *ALSO],
                cwd=ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._control = ours
        self.pid = self._process.pid

    def close(self) -> None:
        self._control.close()
        self._process.wait()

    def call(
        self, words: Sequence[str], cwd: Path, environment: Mapping[str, str], timeout_s: float
    ) -> "subprocess.CompletedProcess[str]":
        """A command to its end, as `subprocess.run` would. Raises subprocess.TimeoutExpired, after killing it."""
        streams = [os.pipe(), os.pipe()]
        with open(os.devnull) as nothing:
            ours = self._ask(words, cwd, environment, [nothing.fileno(), *(write for _, write in streams)])
        with ours:
            for _, write in streams:
                os.close(write)
            pid = int(_read_exactly(ours, 9))
            ours.settimeout(timeout_s)
            texts = [b"", b""]
            readers = [
                threading.Thread(target=_read_all, args=(streams[number][0], texts, number)) for number in range(2)
            ]
            for reader in readers:
                reader.start()
            try:
                code = int(_read_exactly(ours, 9))
            except TimeoutError:
                os.kill(pid, signal.SIGKILL)
                raise subprocess.TimeoutExpired(list(words), timeout_s) from None
            finally:
                for reader in readers:  # whoever inherited a stream keeps it open, as with subprocess.run
                    reader.join(timeout_s)
        out, err = (text.decode() for text in texts)
        return subprocess.CompletedProcess(list(words), code, out, err)

    def start(self, words: Sequence[str], cwd: Path, environment: Mapping[str, str], streams: Sequence[int]) -> int:
        """Begin a command, a child of ours, which must be a child sub-reaper. Gives its id.

        streams: what is its stdin, stdout and stderr.
        """
        read, write = os.pipe()
        with open(read, "rb") as told, self._ask(words, cwd, environment, [*streams, write]) as ours:
            os.close(write)
            _read_exactly(ours, 18)  # the fork that began it has ended, which made it ours
            return int(told.read())

    def _ask(
        self, words: Sequence[str], cwd: Path, environment: Mapping[str, str], fds: Sequence[int]
    ) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(self._control, [b"."], [theirs.fileno()])
        request = json.dumps([list(words), str(cwd), dict(environment)]).encode("ascii")
        socket.send_fds(ours, [f"{len(request):09}".encode()], fds)
        ours.sendall(request)
        return ours


class ForkedProcess(subprocess.Popen[bytes]):
    """One that `ForkServer.start` began."""

    def __init__(self, server: ForkServer, words: Sequence[str], cwd: Path, **streams: object) -> None:
        self._server = server
        super().__init__(words, cwd=cwd, **streams)  # type: ignore[call-overload]

    def _execute_child(
        self, args, _executable, _preexec_fn, _close_fds, _pass_fds, cwd, env, _startupinfo, _creationflags, _shell,
        *pipes_and_more,
    ) -> None:  # fmt: skip
        pipes = pipes_and_more[:6]
        streams = [own if given == -1 else given for own, given in enumerate((pipes[0], pipes[3], pipes[5]))]
        self.pid = self._server.start(args, cwd, env, streams)
        self._child_created = True
        self._close_pipe_fds(*pipes)


def _read_all(fd: int, texts: list[bytes], number: int) -> None:
    with open(fd, "rb") as stream:
        texts[number] = stream.read()


def _read_exactly(stream: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        part = stream.recv(size - len(data))
        if not part:
            raise EOFError("the other side has ended")
        data += part
    return data


# -- the process that forks


def serve() -> None:
    """Fork for whoever asks, and tell how each fork ended, until nobody can ask any more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for pytest
    for name in _MODULES:
        importlib.import_module(f"backprop.{name}")
    for name in sys.argv[2:]:
        importlib.import_module(name)
    for name, module in list(sys.modules.items()):
        if name.startswith("backprop.store.output."):
            for value in vars(module).values():
                getattr(value, "finditer", None)  # compiles expressions that wait for their first use
    gc.collect()
    gc.freeze()  # what is here is never garbage: a fork whose collector went through it would copy all of it
    control = socket.socket(fileno=int(sys.argv[1]))
    waiting = selectors.DefaultSelector()
    waiting.register(control, selectors.EVENT_READ)
    asking: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    while True:
        for key, _ in waiting.select():
            if key.fileobj is control:
                _, fds, _, _ = socket.recv_fds(control, 1, 1)
                if not fds:
                    return
                connection = socket.socket(fileno=fds[0])
                pid = os.fork()
                if pid == 0:
                    waiting.close()
                    control.close()
                    _run(connection)
                connection.sendall(f"{pid:09}".encode())
                pidfd = os.pidfd_open(pid)
                asking[pidfd] = pid, connection
                waiting.register(pidfd, selectors.EVENT_READ)
            else:
                waiting.unregister(key.fd)
                os.close(key.fd)
                pid, connection = asking.pop(key.fd)
                code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
                with connection, suppress(BrokenPipeError):  # it gave up
                    connection.sendall(f"{code:+09}".encode())


def _run(connection: socket.socket) -> NoReturn:
    """In the fork: become the command that is asked for."""
    size, fds, _, _ = socket.recv_fds(connection, 9, 4)
    words, cwd, environment = json.loads(_read_exactly(connection, int(size)))
    for target, fd in enumerate(fds[:3]):
        os.dup2(fd, target)
    if len(fds) > 3 and (pid := os.fork()):  # `start`: whoever asked inherits it
        os.write(fds[3], str(pid).encode())
        os._exit(0)
    os.closerange(3, os.sysconf("SC_OPEN_MAX") if sys.platform != "linux" else 1024)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = words
    out, err = io.BufferedWriter(io.FileIO(1, "w", closefd=False)), io.FileIO(2, "w", closefd=False)
    sys.stdout = io.TextIOWrapper(out, sys.stdout.encoding)
    sys.stderr = io.TextIOWrapper(err, sys.stderr.encoding, "backslashreplace", write_through=True)
    code = 1
    try:
        from backprop.__main__ import main

        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else end.code is not None
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:  # before anybody listens, as an interpreter that ends of it
        traceback.print_exc()
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGINT)
    except BaseException:  # noqa: BLE001  a bug, told as Python tells it
        traceback.print_exc()
    threading._shutdown()
    atexit._run_exitfuncs()
    with suppress(OSError):
        sys.stdout.flush()
    os._exit(int(code) & 0xFF)
