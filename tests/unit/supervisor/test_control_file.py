"""Files that are replaced while others read them, and by writers that may be killed."""

from pathlib import Path

from backprop.supervisor import control_file
from backprop.supervisor.control_file import Control


def test_a_draft_of_a_writer_that_died_is_removed(tmp_path: Path):
    """The next writer takes it away, and nothing but the file is left."""
    path = tmp_path / "control.json"
    (tmp_path / ".control.json.backprop-here-1-abc.part").write_bytes(b"{")
    control_file.write(path, Control(deadline_unix_s=1.0, deadline_monotonic_s=1.0, grace_s=1.0))
    assert [one.name for one in tmp_path.iterdir()] == ["control.json"]
    assert path.stat().st_mode & 0o777 == 0o600
