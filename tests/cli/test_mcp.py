"""mcp: without its library, as most installations are. The server itself is tested in tests/agents."""

from tests.conftest import Runs


def test_without_its_library_it_says_how_to_install_it(runs: Runs):
    """In one line, with the extra; nothing is printed that a client would take for an answer."""
    (runs.work / "mcp.py").write_text("raise ModuleNotFoundError('No module named mcp', name='mcp')")
    done = runs.call("mcp", PYTHONPATH=str(runs.work))
    assert (done.returncode, done.stdout) == (2, "")
    assert "this needs 'mcp', which is not installed: " in done.stderr
    assert "backprop-cli[mcp]" in done.stderr
