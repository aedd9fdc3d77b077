"""What becomes of signals that reach a trainer before it executes its command."""

import os
import signal
import sys
from pathlib import Path

import pytest

from backprop.supervisor.process import launch


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_that_comes_before_exec_is_not_lost(tmp_path: Path, number: signal.Signals):
    """The supervisor's own handlers are none of the trainer's: it ends, as it would a moment later."""
    before = signal.signal(number, lambda *_: None)
    try:
        trainer = launch.launch(
            [sys.executable, "-c", "print('trains')"],
            str(tmp_path),
            dict(os.environ),
            tmp_path / "out",
            tmp_path / "err",
            enter=lambda: os.kill(os.getpid(), number),
        )
        assert trainer.wait() == -number
    finally:
        signal.signal(number, before)
    assert (tmp_path / "out").read_bytes() == b""
