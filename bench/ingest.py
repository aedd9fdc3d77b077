"""Take one run's output into the index as whoever looks first after its supervisor died, in a process of its own.

python -m bench.ingest HOME RUN prints {"elapsed_s", "peak_rss_bytes", "last_step"}.
"""

import json
import sys
from pathlib import Path
from time import perf_counter

from backprop.store.home import Home
from backprop.store.journal.file import Journal
from backprop.store.recorder import Recorder
from bench.measure import own_peak_rss_bytes


def main() -> None:
    home = Home(Path(sys.argv[1]))
    rundir = home.rundir(sys.argv[2])
    recorder = Recorder(home, rundir, rundir.read_spec(), Journal(rundir.journal_path), print)
    began = perf_counter()
    if not (recorder.record_state(publish=False) and recorder.output.ingest_all()):
        sys.exit("the index could not take it")
    elapsed_s = perf_counter() - began
    peak_rss_bytes = own_peak_rss_bytes()
    view = recorder.view()
    print(
        json.dumps(
            {"elapsed_s": elapsed_s, "peak_rss_bytes": peak_rss_bytes, "last_step": view and view.last_step},
        )
    )


if __name__ == "__main__":
    main()
