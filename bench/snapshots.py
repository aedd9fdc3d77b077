"""Snapshots of the machine one after the other, as admission takes them, in a process of their own.

python -m bench.snapshots COUNT FOLDER prints {"wall_s": [...], "cpu_s": [...]}; the first snapshot, which opens the
library, is left out. With $FAKE_NVML the library is the tests' pretend one.
"""

import ctypes
import json
import os
import sys
from time import perf_counter, process_time

from backprop.governor.probes.gpus import read_gpus
from backprop.governor.probes.machine import read_snapshot


def main() -> None:
    count, folder = int(sys.argv[1]), sys.argv[2]
    if "FAKE_NVML" in os.environ:
        from tests.fakes import nvml

        ctypes.CDLL = nvml.loader()  # type: ignore[misc]
    wall_s, cpu_s = [], []
    for _ in range(count + 1):
        wall_before, cpu_before = perf_counter(), process_time()
        reading = read_gpus("nvml")
        read_snapshot([folder])
        wall_s.append(perf_counter() - wall_before)
        cpu_s.append(process_time() - cpu_before)
        if not reading.gpus:
            sys.exit(f"no GPU is seen: {reading.problem}")
    print(json.dumps({"wall_s": wall_s[1:], "cpu_s": cpu_s[1:]}))


if __name__ == "__main__":
    main()
