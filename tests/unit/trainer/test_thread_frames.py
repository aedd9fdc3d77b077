"""Threads are looked at without a deadlock."""

import gc
import subprocess
import sys
import threading

from backprop.trainer.thread_frames import thread_frames
from tests.conftest import HANG_S

COLLECTED_MEANWHILE = """
import gc, threading, time
from backprop.trainer.thread_frames import thread_frames

class Garbage:
    def __init__(self):
        self.itself, self.local = self, threading.local()
        self.local.value = 1

def waits():
    time.sleep(0.001)

def works():
    while True:
        waits()

for _ in range(4):
    threading.Thread(target=works, daemon=True).start()
gc.set_threshold(1)
for _ in range(200):
    Garbage()
    thread_frames()
print("done")
"""


def test_it_is_seen_what_threads_execute():
    assert thread_frames()[threading.get_ident()].f_code.co_name == "thread_frames"
    assert gc.isenabled()


def test_objects_of_threads_that_become_garbage_are_no_deadlock():
    """CPython collects garbage while it looks, with a lock held that freeing them needs."""
    done = subprocess.run(
        [sys.executable, "-c", COLLECTED_MEANWHILE], capture_output=True, text=True, timeout=HANG_S, check=False
    )
    assert done.stdout == "done\n", done.stderr
