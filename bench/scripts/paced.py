"""A JSON line every so often, with the instant it is written at as a metric.

paced.py PERIOD_S DURATION_S
"""

import json
import sys
import time

period_s, duration_s = float(sys.argv[1]), float(sys.argv[2])
started = time.monotonic()
step = 0
while time.monotonic() - started < duration_s:
    print(json.dumps({"step": step, "loss": 1 / (step + 1), "written_at": time.time()}), flush=True)
    step += 1
    time.sleep(max(0.0, started + step * period_s - time.monotonic()))
