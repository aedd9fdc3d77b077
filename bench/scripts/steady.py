"""The same work in every step and a JSON line after it; how long all steps took goes to a file.

steady.py STEPS LOOPS ELAPSED_FILE
"""

import json
import sys
import time
from pathlib import Path


def work(loops: int) -> float:
    total = 0.0
    for number in range(loops):
        total += number * 0.5
    return total


steps, loops = int(sys.argv[1]), int(sys.argv[2])
for _ in range(20):
    work(loops)  # warm: caches, clock rate, and a supervisor that has finished its own start
started = time.perf_counter()
for step in range(steps):
    loss = work(loops)
    print(json.dumps({"step": step, "loss": loss, "lr": 1e-3}))
Path(sys.argv[3]).write_text(str(time.perf_counter() - started))
