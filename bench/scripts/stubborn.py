"""A tree that will not go: it ignores every polite signal, and its children leave by setsid and by forking twice."""

import os
import signal
import time

for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    signal.signal(number, signal.SIG_IGN)
for kind in ("child", "session", "daemon") * 3:
    if os.fork() == 0:
        if kind != "child":
            os.setsid()
        if kind == "daemon" and os.fork() != 0:
            os._exit(0)
        break  # a child makes no children
time.sleep(60.0)
