"""The page that `plot -o FILE.html` writes, in a real Chromium."""

import json
import subprocess

from tests.conftest import HANG_S, Runs

_SCRIPT = """
for step in range(1, 101):
    loss = float(sys.argv[1]) / step
    print(json.dumps({"step": step, "loss": float("nan") if 40 < step < 60 else loss}))
    print(json.dumps({"step": step, "val_loss": loss * 2}))
"""


def dumped(runs: Runs, name: str) -> str:
    """The page of a file, once its scripts have run."""
    done = subprocess.run(
        [
            "chromium", "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={runs.work / 'profile'}",
            "--virtual-time-budget=5000", "--dump-dom", (runs.work / name).as_uri(),
        ],
        capture_output=True, text=True, timeout=HANG_S, check=False,
    )  # fmt: skip
    return done.stdout


def test_a_report_is_one_file(runs: Runs):
    """Curves, a table of what differs and each run in full; names and parameters are text."""
    script = runs.script("""
        print(json.dumps({"event": "params", "params": {"lr": float(sys.argv[1]), "<b>": "</pre><script>alert(1)"}}))
        for step in range(1, 11):
            print(json.dumps({"step": step, "loss": float(sys.argv[1]) / step, "acc": 0.5}))
    """)
    for lr in (0.1, 0.2):
        assert runs.call("run", "-n", f"lr {lr}", "--note", "looks good", script, "--", lr).returncode == 0
    assert runs.call("report", "lr 0.1", "lr 0.2", "-o", "r.html").returncode == 0
    page = dumped(runs, "r.html")
    assert page.count("<canvas") == 2
    assert page.count("<details>") == 2
    assert "&lt;/pre&gt;&lt;script&gt;alert(1)" in page
    table = page.partition("<table>")[2].partition("</table>")[0]
    assert table.count("<tr>") == 3
    assert "<td>0.2</td>" in table
    assert "looks good" in page


def test_the_page_draws_from_a_file(runs: Runs):
    """A canvas for each metric, a box for each run, the names as text."""
    runs.script(_SCRIPT)
    for run_id, height in (("a", "2"), ("b", "4")):
        runs.call("run", "train.py", "--run-id", run_id, "--", height)
        path = runs.rundir(run_id) / "run.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "name": f"</script><b>{run_id}"}))
    runs.call("reindex")
    assert runs.call("plot", "a", "b", "-o", "p.html").returncode == 0
    page = dumped(runs, "p.html")
    assert page.count("<canvas") == 2
    assert page.count('type="checkbox"') == 2
    assert "&lt;/script&gt;&lt;b&gt;a (a)" in page
