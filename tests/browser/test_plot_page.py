"""The page that `plot -o FILE.html` writes, in a real Chromium."""

import json
import subprocess

from tests.conftest import Runs

_SCRIPT = """
for step in range(1, 101):
    loss = float(sys.argv[1]) / step
    print(json.dumps({"step": step, "loss": float("nan") if 40 < step < 60 else loss}))
    print(json.dumps({"step": step, "val_loss": loss * 2}))
"""


def test_the_page_draws_from_a_file(runs: Runs):
    """A canvas for each metric, a box for each run, the names as text."""
    runs.script(_SCRIPT)
    for run_id, height in (("a", "2"), ("b", "4")):
        runs.call("run", "train.py", "--run-id", run_id, "--", height)
        path = runs.rundir(run_id) / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "name": f"</script><b>{run_id}"}))
    runs.call("reindex")
    assert runs.call("plot", "a", "b", "-o", "p.html").returncode == 0
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={runs.work / 'profile'}",
            "--virtual-time-budget=5000", "--dump-dom", (runs.work / "p.html").as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert done.stdout.count("<canvas") == 2
    assert done.stdout.count('type="checkbox"') == 2
    assert "&lt;/script&gt;&lt;b&gt;a (a)" in done.stdout
