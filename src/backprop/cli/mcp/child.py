"""A command of ours as a child process: what it prints, within bounds, and how it ended."""

import subprocess
import threading
from typing import IO

from backprop.cli.mcp import answer
from backprop.cli.mcp.answer import Window
from backprop.lifecycle import requests


class Child:
    """A running command, read as it prints."""

    def __init__(
        self, words: list[str], cwd: str, out: Window, err: Window, *, line_chars: int | None, is_kept: bool
    ) -> None:
        """cwd: where it runs; the settings of a project lie there. line_chars: see `answer.read`.

        is_kept: whatever happens to this process and its group, as when its client ends both, it goes on to its end.
        Raises OSError where it cannot be started.
        """
        self._is_kept = is_kept
        self._process = subprocess.Popen(
            requests.command_line(words),
            cwd=cwd,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            start_new_session=is_kept,
        )
        streams = ((self._process.stdout, out, line_chars), (self._process.stderr, err, None))
        self._readers = [
            threading.Thread(target=_read, args=(stream, window, width), daemon=True)
            for stream, window, width in streams
        ]
        for reader in self._readers:
            reader.start()

    def wait(self, limit_s: float) -> int | None:
        """Its exit code, once all that it printed is read; None if it has not ended after `limit_s` seconds."""
        try:
            code = self._process.wait(limit_s)
        except subprocess.TimeoutExpired:
            return None
        for reader in self._readers:
            reader.join()
        return code

    def leave(self) -> None:
        """Nobody waits for it any more: end it, unless it is kept or has ended."""
        if not self._is_kept:
            self._process.kill()
            self._process.wait()


def _read(stream: IO[bytes], window: Window, line_chars: int | None) -> None:
    with stream:
        answer.read(stream, window, line_chars)
