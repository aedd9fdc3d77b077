"""Many JSON lines at once, then none; the instant before the first goes to a file.

burst.py LINES STARTED_FILE
"""

import sys
import time
from pathlib import Path

data = b"".join(b'{"step": %d, "loss": 0.3125, "lr": 0.001}\n' % step for step in range(int(sys.argv[1])))
time.sleep(1.0)  # the supervisor has finished its own start
Path(sys.argv[2]).write_text(str(time.time()))
sys.stdout.buffer.write(data)
sys.stdout.buffer.flush()
time.sleep(60.0)
