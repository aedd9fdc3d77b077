"""TensorBoard event files, by TensorBoard's own protocol buffers and record writer (not its slow, threaded front).

A folder a run, a file a session. Scalars are float32 there: NaN and infinities survive, digits beyond the seventh do
not. The start of each later session is marked, so that TensorBoard leaves out the steps that it trained again; the
files still hold them. What was measured of the run is a run of its own, in the folder `system`. The facts are the text
`backprop/run`, parameters are in the HPARAMS tab, too.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, groupby
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from backprop.lifecycle.optional_dependency import missing
from backprop.records import Status
from backprop.store.metric_rows import MetricRow
from backprop.views.exports.drafts import all_drafted, check_free, drafted, folder
from backprop.views.exports.record import RunExport
from backprop.views.terminal.params import text as param_text

_FACTS_TAG = "backprop/run"
_FACTS_CHARACTERS = 1 << 20  # a page that must render more than that shows nothing for seconds
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_NAME_LENGTH = 64
_MEASURED = "system"


def write(runs: Sequence[RunExport], destination: str, *, replace: bool) -> str:
    """Write the folder of each run below `destination`, a log directory."""
    board = _library()
    paths_of = [_paths(run, folder(destination) / _folder_name(run)) for run in runs]
    measured = [_measured_path(paths) if run.measured else None for run, paths in zip(runs, paths_of, strict=True)]
    for paths in paths_of:
        check_free(*paths.values(), replace=replace)
    check_free(*filter(None, measured), replace=replace)
    for run, paths, measured_path in zip(runs, paths_of, measured, strict=True):
        paths[min(paths)].parent.mkdir(exist_ok=True)
        if measured_path is not None:
            _write_measured(board, run, measured_path)
        _write_run(board, run, paths)
    return f"{destination}; to view it: tensorboard --logdir {destination}"


def _library() -> SimpleNamespace:
    """What we use of TensorBoard. Raises UsageError where it is not installed."""
    try:
        from tensorboard.compat.proto import event_pb2, summary_pb2, tensor_pb2, types_pb2
        from tensorboard.plugins.hparams import api_pb2, plugin_data_pb2, summary_v2
        from tensorboard.plugins.hparams import metadata as hparams_metadata
        from tensorboard.plugins.text import metadata as text_metadata
        from tensorboard.summary.writer.record_writer import RecordWriter
    except ImportError as error:
        raise missing("tensorboard", error) from error
    return SimpleNamespace(
        Event=event_pb2.Event,
        SessionLog=event_pb2.SessionLog,
        Summary=summary_pb2.Summary,
        Tensor=tensor_pb2.TensorProto,
        STRING=types_pb2.DT_STRING,
        hparam_statuses=api_pb2,
        plugin_data=plugin_data_pb2,
        hparams=summary_v2.hparams_pb,
        hparams_metadata=hparams_metadata,
        text_metadata=text_metadata,
        RecordWriter=RecordWriter,
    )


def _folder_name(run: RunExport) -> str:
    """What TensorBoard calls the run: its name, as far as a path takes it, and always its id."""
    name = _UNSAFE.sub("_", run.view.run.spec.name or "")[:_NAME_LENGTH].lstrip(".")
    return f"{name}-{run.id}" if name else run.id


def _paths(run: RunExport, path: Path) -> dict[int, Path]:
    """The file of each session, the first one also for a run that has none; TensorBoard reads them in this order."""
    numbers = [session.number for session in run.view.run.sessions] or [1]
    stem = f"events.out.tfevents.{int(run.created_unix_s):010d}.{run.id}"
    return {number: path / f"{stem}.session-{number:04d}" for number in numbers}


def _measured_path(paths: dict[int, Path]) -> Path:
    """The file of what was measured, beside the first of the sessions."""
    first = paths[min(paths)]
    return first.parent / _MEASURED / first.name


def _write_measured(board: SimpleNamespace, run: RunExport, path: Path) -> None:
    """Write what was measured, over seconds of training.

    As a run of its own: among the metrics, a session that repeats some steps would hide the seconds from there on.
    """
    path.parent.mkdir(exist_ok=True)
    with drafted(path, replace=True) as draft, draft.open("wb") as file:
        writer = board.RecordWriter(file)
        begin = board.Event(wall_time=run.created_unix_s, file_version="brain.Event:2")
        for event in chain([begin], _points(board, run, run.measured_rows(), is_resumed=False)):
            writer.write(event.SerializeToString())


def _write_run(board: SimpleNamespace, run: RunExport, paths: dict[int, Path]) -> None:
    first = min(paths)
    rows_of = groupby(run.rows(), key=lambda row: row.session)
    number, rows = next(rows_of, (None, iter(())))
    with all_drafted([paths[session] for session in sorted(paths)], replace=True) as drafts:
        for session, draft in zip(sorted(paths), drafts, strict=True):
            with draft.open("wb") as file:
                writer = board.RecordWriter(file)
                begin = board.Event(wall_time=run.created_unix_s, file_version="brain.Event:2")
                events = [iter([begin])]
                if session == first:
                    events.append(_facts(board, run))
                if number == session:
                    events.append(_points(board, run, rows, is_resumed=session != first))
                for event in chain.from_iterable(events):
                    writer.write(event.SerializeToString())
            if number == session:
                number, rows = next(rows_of, (None, iter(())))


def _points(board: SimpleNamespace, run: RunExport, rows: Iterable[MetricRow], *, is_resumed: bool) -> Iterator[Any]:
    unix_s = run.clock()
    for row in rows:
        at = unix_s(row.session, row.time_s)
        if is_resumed:
            # TensorBoard forgets what it has of this step and later ones
            yield board.Event(wall_time=at, step=row.step, session_log=board.SessionLog(status=board.SessionLog.START))
            is_resumed = False
        values = [board.Summary.Value(tag=metric, simple_value=value) for metric, value in row.values.items()]
        yield board.Event(wall_time=at, step=row.step, summary=board.Summary(value=values))


def _facts(board: SimpleNamespace, run: RunExport) -> Iterator[Any]:
    """The run's document as text, and its parameters and how it ended as the HPARAMS tab wants them."""
    text = json.dumps({key: run.document[key] for key in run.document if key != "metrics"}, indent=2)
    shown = "".join(f"    {line}\n" for line in text[:_FACTS_CHARACTERS].splitlines())  # Markdown: as it is
    document = board.Summary.Value(
        tag=_FACTS_TAG,
        metadata=board.text_metadata.create_summary_metadata(display_name="", description=""),
        tensor=board.Tensor(dtype=board.STRING, string_val=[shown.encode()]),
    )
    document.tensor.tensor_shape.SetInParent()
    params = {
        name: value if isinstance(value, bool | int | float) else param_text(value)
        for name, value in run.view.params.items()
    }
    started = board.hparams(params, trial_id=run.id, start_time_secs=run.created_unix_s)
    status = run.view.run.status
    summaries = [board.Summary(value=[document]), started]
    if status.is_final:
        statuses = board.hparam_statuses
        ended = board.plugin_data.SessionEndInfo(
            status=statuses.STATUS_FAILURE if status in {Status.FAILED, Status.REFUSED} else statuses.STATUS_SUCCESS,
            end_time_secs=run.view.run.ended_at.timestamp() if run.view.run.ended_at else 0.0,
        )
        metadata = board.hparams_metadata
        value = board.Summary.Value(
            tag=metadata.SESSION_END_INFO_TAG,
            metadata=metadata.create_summary_metadata(board.plugin_data.HParamsPluginData(session_end_info=ended)),
            tensor=metadata.NULL_TENSOR,
        )
        summaries.append(board.Summary(value=[value]))
    for summary in summaries:
        yield board.Event(wall_time=run.created_unix_s, step=0, summary=summary)
