"""Runs in a notebook that is executed by a real Jupyter kernel."""

from pathlib import Path

import pytest

from tests.conftest import Runs

pytestmark = pytest.mark.nightly


def executed(*cells: str, home: Path, folder: Path) -> list[dict]:
    """The outputs of each cell: what a notebook would show."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    prepared = f"import os; os.environ['BACKPROP_HOME'] = {str(home)!r}"
    notebook.cells.insert(0, nbformat.v4.new_code_cell(prepared))
    NotebookClient(notebook, timeout=200, resources={"metadata": {"path": str(folder)}}).execute()
    return [cell.outputs for cell in notebook.cells[1:]]


@pytest.fixture
def trained(runs: Runs) -> Runs:
    script = runs.script("""
        print(json.dumps({"event": "params", "params": {"lr": 0.1, "<b>": "<i>"}}))
        for step in range(1, 11):
            print(json.dumps({"step": step, "loss": 1 / step, "acc": 0.5}))
    """)
    assert runs.call("run", "-n", "digits", script).returncode == 0
    return runs


def test_a_run_and_its_curves_are_shown(trained: Runs):
    """The run as a table, its curves in a frame; nothing that a run says is markup."""
    run, curves, some = executed(
        "import backprop; backprop.runs()[0]",
        "backprop.find_run('digits').plot()",
        "backprop.find_run('digits').plot('acc', 'loss')",
        home=trained.home, folder=trained.work,
    )  # fmt: skip
    shown = run[0]["data"]["text/html"]
    assert "digits (" in shown
    assert "completed" in shown
    assert "&lt;b&gt;=&lt;i&gt;" in shown
    assert curves[0]["data"]["text/html"].startswith('<iframe srcdoc="')
    assert some[0]["data"]["text/html"].count("&quot;lines&quot;") == 2  # panels


def test_live_curves_follow_until_the_end(runs: Runs):
    """They are drawn again while the run trains; the cell ends with it."""
    script = runs.script("""
        for step in range(1, 9):
            print(json.dumps({"step": step, "loss": 1 / step}), flush=True)
            time.sleep(0.2)
    """)
    run_id = runs.call("run", "-d", script).stdout.strip()
    (outputs,) = executed(
        f"import backprop; p = backprop.find_run({run_id!r}).plot(live=True, every_s=0.2)",
        home=runs.home,
        folder=runs.work,
    )
    (shown,) = [output for output in outputs if output["output_type"] == "display_data"]
    assert "[1.0,2.0,3.0,4.0,5.0,6.0,7.0,8.0]" in shown["data"]["text/html"]
