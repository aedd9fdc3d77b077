"""python tests/soak.py [--rounds N] [--order random]: all of .ci/run, N times, while every core is busy elsewhere.

Each round is a fresh clone of this repository's HEAD in a new folder, with virtual environments of its own. A table says
how each went; logs of rounds that failed are kept. Exits with 1 if any did. Standard library only: it runs before
anything is installed.
"""

import argparse
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SUMMARY = re.compile(r"^=+ (.*(?:passed|failed|error).*) =+$", re.MULTILINE)  # of each run of pytest
FAILURE = re.compile(r"^(?:FAILED|ERROR) .*$", re.MULTILINE)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1, metavar="N")
    parser.add_argument("--order", choices=("sorted", "random"), default="sorted", help="of the tests")
    parser.add_argument("--command", default="bash .ci/run", help="what a round runs in its clone")
    arguments = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that the busy processes are ended, too
    folder = Path(tempfile.mkdtemp(prefix="backprop-soak-"))
    folder.chmod(0o755)  # some tests are other users, who import from the clone
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(os.cpu_count() or 1)]
    failed = 0
    try:
        for number in range(1, arguments.rounds + 1):
            seed = str(random.randrange(10**6)) if arguments.order == "random" else ""
            failed += not run_round(folder / f"round-{number}", number, arguments.command, seed)
    finally:
        for process in busy:
            process.kill()
            process.wait()
    print(f"{arguments.rounds} rounds, {failed} failed", f"(logs in {folder})" if failed else "", flush=True)
    if not failed:
        shutil.rmtree(folder)
    sys.exit(failed > 0)


def run_round(folder: Path, number: int, command: str, seed: str) -> bool:
    """Whether it passed. seed: of the order of the tests; "" for the usual one."""
    subprocess.run(["git", "clone", "--quiet", ROOT, folder / "clone"], check=True)
    log = folder / "log"
    began = time.monotonic()
    with log.open("wb") as out:
        # a session of its own, so that whatever is left of it after Ctrl-C can be ended
        running = subprocess.Popen(
            command,
            shell=True,
            cwd=folder / "clone",
            env={**os.environ, "TEST_ORDER_SEED": seed, "CI": "true"},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            code = running.wait()
        except BaseException:
            os.killpg(running.pid, signal.SIGTERM)
            running.wait()
            raise
    told = log.read_text(errors="replace")
    print(
        f"round {number}: {'passed' if code == 0 else f'failed with {code}'} in {time.monotonic() - began:.0f} s",
        f"(order {seed})" if seed else "",
        "| " + "; ".join(SUMMARY.findall(told)),
        flush=True,
    )
    for line in sorted(set(FAILURE.findall(told))):
        print(f"  {line}", flush=True)
    shutil.rmtree(folder if code == 0 else folder / "clone")
    return code == 0


if __name__ == "__main__":
    main()
