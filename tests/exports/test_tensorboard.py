"""Read back by TensorBoard's EventAccumulator."""

import json
from datetime import datetime
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import STORE_EVERYTHING_SIZE_GUIDANCE, EventAccumulator
from tensorboard.plugins.hparams import metadata
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from tests.conftest import Runs
from tests.exports.conftest import LOSSES, ODD, USED, exported, refused


def read(path: Path) -> EventAccumulator:
    """All that TensorBoard finds in a folder or a file."""
    found = EventAccumulator(str(path), size_guidance=STORE_EVERYTHING_SIZE_GUIDANCE)
    found.Reload()
    return found


def folder(runs: Runs, run_id: str) -> Path:
    (found,) = (runs.work / "tb").glob(f"*{run_id}")
    return found


def test_each_session_holds_all_its_points(two: Runs):
    """Steps, values (as float32) and wall times of every point, NaN and infinities too, under the metric's own name."""
    exported(two, "a", "--to", "tensorboard", "tb")
    sessions = two.document("a")["sessions"]
    for number, path in enumerate(sorted(folder(two, "a").iterdir()), start=1):
        found = read(path)
        assert set(found.Tags()["scalars"]) == {"loss", ODD, "step/../x", "_own"}
        scalars = found.Scalars("loss")
        wanted = [(step, value) for session, step, value in LOSSES if session == number]
        assert [event.step for event in scalars] == [step for step, _ in wanted]
        assert [event.value for event in scalars] == pytest.approx([value for _, value in wanted], nan_ok=True)
        begin, end = (datetime.fromisoformat(sessions[number - 1][key]) for key in ("started_at", "ended_at"))
        assert all(begin.timestamp() <= event.wall_time <= end.timestamp() for event in scalars)


def test_a_resumed_run_is_one_curve(two: Runs):
    """TensorBoard itself leaves out the steps that were trained again."""
    exported(two, "a", "--to", "tensorboard", "tb")
    found = read(folder(two, "a"))
    assert [event.step for event in found.Scalars(ODD)] == [0, 1, 2, 3, 4, 5]
    times = [event.wall_time for event in found.Scalars("loss")]
    assert times == sorted(times)


def test_what_was_measured_is_a_run_of_its_own(two: Runs):
    """Over seconds of training, which a session that repeats some steps must not hide."""
    two.set_usage("a", USED)
    exported(two, "a", "--to", "tensorboard", "tb")
    found = read(folder(two, "a") / "system")
    assert set(found.Tags()["scalars"]) == {"sys/cpu", "sys/ram"}
    assert [event.value for event in found.Scalars("sys/cpu")] == [100, 50, 100, 50]
    assert [event.step for event in found.Scalars("sys/cpu")][:2] == [1, 2]
    assert len(read(folder(two, "a")).Scalars("loss")) == 6
    assert "--force" in refused(two, "a", "--to", "tensorboard", "tb")


def test_facts_are_text_and_parameters_hparams(two: Runs):
    """The run's document, its parameters as the HPARAMS tab wants them, and how it ended."""
    exported(two, "a", "b", "--to", "tensorboard", "tb")
    found = read(folder(two, "a"))
    (told,) = found.Tensors("backprop/run")
    shown = told.tensor_proto.string_val[0].decode()
    assert all(line.startswith("    ") for line in shown.splitlines())  # a block of code: nothing in it is Markdown
    document = two.document("a")
    document.pop("metrics")
    assert json.loads(shown) == document
    plugin_data = found.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    hparams = HParamsPluginData.FromString(plugin_data).session_start_info.hparams
    assert hparams["lr"].number_value == 1e-3
    assert (hparams["amp"].bool_value, hparams["optimizer"].string_value, hparams["layers"].string_value) == (
        True,
        "=cmd()",
        "[64, 64]",
    )
    ended = read(folder(two, "b")).SummaryMetadata(metadata.SESSION_END_INFO_TAG).plugin_data.content
    assert HParamsPluginData.FromString(ended).session_end_info.status == 2  # STATUS_FAILURE


def test_a_second_export_is_refused_and_force_replaces(two: Runs):
    """No run is there twice, and one that is there already leaves the others unwritten."""
    exported(two, "a", "--to", "tensorboard", "tb")
    assert "--force" in refused(two, "b", "a", "--to", "tensorboard", "tb")
    assert len(list((two.work / "tb").iterdir())) == 1
    two.call("resume", "a", "--again")
    two.set_usage("a")
    exported(two, "a", "--force", "--to", "tensorboard", "tb")
    assert len(list(folder(two, "a").iterdir())) == 3
    assert [event.step for event in read(folder(two, "a")).Scalars("loss")] == [0, 1, 2, 3, 4, 5, 6, 7]
