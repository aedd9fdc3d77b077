"""One line of stdout <-> one event: arbitrary bytes in, never a crash, nothing misunderstood."""

import json
import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backprop.records import Goal, Origin, ParamOrigin
from backprop.store.output.protocol import (
    MAX_LINE_BYTES,
    BarBegan,
    CheckpointSaved,
    Listening,
    Metrics,
    OtherEvent,
    ParamsGiven,
    TrainingBegan,
    digest,
    json_safe,
    parse,
)

MARKS = (b"counted", b"printed", b"tracked")

UNDERSTOOD = {
    b'{"step": 12, "loss": 0.31, "lr": 1e-3}': Metrics(step=12, values={"loss": 0.31, "lr": 0.001}),
    b'  {"step": 1, "n": 2}\r': Metrics(step=1, values={"n": 2.0}),
    b'{"step": 3}': Metrics(step=3, values={}),
    b'{"step": 3.0, "a": 1}': Metrics(step=3, values={"a": 1.0}),
    b'{"step": -1, "a": 1}': Metrics(step=-1, values={"a": 1.0}),
    b'{"step": 9223372036854775807}': Metrics(step=2**63 - 1, values={}),
    b'{"step": -9223372036854775807}': Metrics(step=1 - 2**63, values={}),
    b'{"step": 1, "ok": true, "name": "x", "deep": {"a": 1}, "none": null, "a": 1}': Metrics(step=1, values={"a": 1.0}),
    b'{"step": 1, "a": 1, "a": 2}': Metrics(step=1, values={"a": 2.0}),
    b'{"step": 1, "a": Infinity, "b": -Infinity}': Metrics(step=1, values={"a": math.inf, "b": -math.inf}),
    b'{"step": 1, "a": 1e999}': Metrics(step=1, values={"a": math.inf}),
    b'{"step": 1, "a": -' + b"9" * 400 + b"}": Metrics(step=1, values={"a": -math.inf}),
    b'{"event": "checkpoint_saved", "path": "c.pt", "step": 12}': CheckpointSaved(path="c.pt", step=12),
    b'{"event": "checkpoint_saved", "path": "c.pt"}': CheckpointSaved(path="c.pt", step=None),
    b'{"event": "params", "params": {"lr": [1, {"a": null}]}}': ParamsGiven(params={"lr": [1, {"a": None}]}),
    b'{"event": "params", "params": {"lr": 1}, "origin": "parser", "defaults": ["lr", 1, []], "guessed": {"x": 1}}': (
        ParamsGiven(params={"lr": 1}, origin=ParamOrigin.PARSER, defaults=frozenset({"lr"}), guessed={"x": 1})
    ),
    b'{"event": "params", "params": {}, "origin": "settings", "defaults": 1, "guessed": []}': (
        ParamsGiven(params={}, origin=ParamOrigin.SETTINGS)
    ),
    b'{"event": "params", "params": {"lr": 1}, "origin": ["?"], "defaults": ["lr"]}': ParamsGiven(params={"lr": 1}),
}

NOTES = [
    b'{"event": "epoch_done", "step": 3, "loss": 1}',
    b'{"event": "checkpoint_saved"}',
    b'{"event": "checkpoint_saved", "path": 7}',
    b'{"event": "checkpoint_saved", "path": ""}',
    b'{"event": "checkpoint_saved", "path": "a\\u0000b"}',
    b'{"event": "params", "params": [1]}',
    b'{"event": "params", "params": {"a": ' + b"[" * 100 + b"]" * 100 + b"}}",
    b'{"event": null}',
    b'{"event": {"a": NaN}}',
]

JUST_OUTPUT = [
    b"",
    b"hello",
    b"{",
    b"{}",
    b"[1]",
    b'{"loss": 0.3}',
    b'{"step": "12", "loss": 1}',
    b'{"step": 1.5, "loss": 1}',
    b'{"step": true, "loss": 1}',
    b'{"step": null, "loss": 1}',
    b'{"step": NaN, "loss": 1}',
    b'{"step": 9223372036854775808, "loss": 1}',
    b'{"step": 1, "loss": 0.3',
    b'{"step": 1, "loss": 0.3} trailing',
    b'{"step": 1, "name": "\xff"}',
    b'{"step": 1, "\\ud800": 1}',
    b'{"step": 1, "a": ' + b"[" * 5000 + b"]" * 5000 + b"}",
    b'{"step": 1, "pad": "' + b"x" * MAX_LINE_BYTES + b'"}',
]


@pytest.mark.parametrize("line", UNDERSTOOD)
def test_the_contract_is_understood(line: bytes):
    """Every row of the contract's table gives its event."""
    assert parse(line) == UNDERSTOOD[line]


@pytest.mark.parametrize("line", NOTES)
def test_other_events_are_kept_as_notes(line: bytes):
    """An object with `event` that means nothing else is kept word for word."""
    event = parse(line)
    assert isinstance(event, OtherEvent)
    assert event.text == line.decode()
    kind = json.loads(line)["event"]
    assert event.kind == (kind if isinstance(kind, str) else "")


@pytest.mark.parametrize("line", JUST_OUTPUT, ids=lambda line: repr(line[:30]))
def test_anything_else_is_just_output(line: bytes):
    """Half lines, other types, garbage, the huge and the deep: passed over."""
    assert parse(line) is None


def test_nan_is_understood():
    """json.dumps prints NaN when training diverges."""
    event = parse(b'{"step": 1, "loss": NaN}')
    assert isinstance(event, Metrics)
    assert math.isnan(event.values["loss"])


@given(st.binary(max_size=300))
def test_no_bytes_crash_the_parser(data: bytes):
    """Whatever a script prints."""
    parse(data)
    parse(b"{" + data + b"}")
    parse(b'{"step": 1, ' + data + b"}")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from(["step", "event", "path", "params", "loss"]), JSON))
def test_whatever_is_understood_can_be_written_as_json(value: dict):
    """No event holds what the index or --json could not store: numbers out of range, lone surrogates."""
    event = parse(json.dumps(value).encode())
    if isinstance(event, Metrics):
        assert all(type(number) is float for number in event.values.values())
        assert abs(event.step) < 2**63
    elif isinstance(event, ParamsGiven):
        json.dumps(json_safe(event.params), allow_nan=False).encode()
    elif isinstance(event, CheckpointSaved):
        event.path.encode()


@given(st.integers(-(2**53), 2**53), st.dictionaries(st.text(max_size=8), st.floats(allow_nan=False), max_size=5))
def test_what_json_dumps_prints_is_understood_exactly(step: int, values: dict[str, float]):
    """Every float survives, infinities included."""
    values = {key: value for key, value in values.items() if key not in {"step", "event"} and _is_text(key)}
    assert parse(json.dumps({"step": step, **values}).encode()) == Metrics(step=step, values=values)


def _is_text(key: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in key)


LINES = st.lists(
    st.sampled_from([*UNDERSTOOD, *NOTES, b"", b"out", b'{"step": 4, "loss": NaN}', b"\xff\xfe", b'{"step":']),
    max_size=20,
)


@given(LINES, st.integers(0, 20), st.integers(0, 1000))
def test_a_digest_does_not_depend_on_where_it_is_cut(lines: list[bytes], cut: int, start: int):
    """Two stretches amount to what the whole does; offsets are those of the lines' first bytes."""
    whole = b"".join(line + b"\n" for line in lines)
    head = b"".join(line + b"\n" for line in lines[:cut])
    both = (digest(head, start), digest(whole[len(head) :], start + len(head)))
    one = digest(whole, start)
    names = set(one.series)
    assert names == set(both[0].series) | set(both[1].series)
    for name in names:
        parts = [batch.series[name] for batch in both if name in batch.series]
        assert one.series[name].steps.tobytes() == b"".join(part.steps.tobytes() for part in parts)
        assert one.series[name].values.tobytes() == b"".join(part.values.tobytes() for part in parts)
    assert one.checkpoints == both[0].checkpoints + both[1].checkpoints
    assert one.notes == both[0].notes + both[1].notes
    assert one.params == both[0].params | both[1].params
    assert one.last_step == (both[1].last_step if both[1].last_step is not None else both[0].last_step)
    for offset, note in one.notes:
        line = whole[offset - start :].partition(b"\n")[0]
        assert line.decode().strip() == note.text


def test_steps_are_kept_in_the_order_they_were_written():
    """Duplicate steps and steps that go back are the script's business."""
    batch = digest(b'{"step": 5, "a": 1}\n{"step": 5, "a": 2}\n{"step": 3, "a": 3}\n')
    assert list(batch.series["a"].steps) == [5, 5, 3]
    assert list(batch.series["a"].values) == [1, 2, 3]
    assert batch.last_step == 3


def test_json_safe_says_what_json_cannot():
    """Non-finite numbers become the documented strings, at any depth."""
    value = {"a": [math.nan, {"b": (math.inf, -math.inf)}], "c": 1.5}
    assert json_safe(value) == {"a": ["NaN", {"b": ["Infinity", "-Infinity"]}], "c": 1.5}


@pytest.mark.parametrize("digits", [30, 309, 310, 4000])
@pytest.mark.parametrize("sign", [1, -1])
def test_a_huge_integer_is_a_value(digits: int, sign: int):
    """An integer too large for a float counts as infinite, with its sign."""
    number = sign * int("9" * digits)
    event = parse(b'{"step": 1, "a": %d}' % number)
    assert isinstance(event, Metrics)
    assert event.values["a"] == (sign * math.inf if digits > 308 else float(number))


@pytest.mark.parametrize(
    "line",
    [
        b'{"step": 1, "a": ' + b"9" * 5000 + b"}",  # more digits than Python reads
        b'{"step": ' + b"9" * 400 + b"}",
        b'{"step": 1e300, "a": 1}',
        b'{"step": 1e999, "a": 1}',
        b'{"event": "x", "a": ' + b'{"a":' * 5000 + b"1" + b"}" * 5001,
        b"{" * 100_000,
        b'{"event": "\\udfff"}',
        b'{"step": 1, "\xed\xa0\x80": 1}',
        '{"step": 1}'.encode("utf-16"),
        '{"step": 1}'.encode("utf-16-le"),
    ],
    ids=lambda line: repr(line[:30]),
)
def test_the_huge_the_deep_and_other_encodings_are_just_output(line: bytes):
    """What cannot be stored is passed through, never a crash."""
    assert parse(line) is None


@pytest.mark.parametrize("nesting", [1, 31, 32, 100, 800])
def test_params_are_nested_moderately_or_a_note(nesting: int):
    """Parameters nested so deep that recursive code could not walk them are kept as text."""
    event = parse(b'{"event": "params", "params": {"a": ' + b"[" * nesting + b"]" * nesting + b"}}")
    assert isinstance(event, ParamsGiven if nesting < 32 else OtherEvent)


def test_the_longest_line_is_understood_and_a_longer_one_is_not():
    """A line of 1 MiB is understood; one byte more is passed through."""
    longest = b'{"step": 1, "x": "' + b"x" * (MAX_LINE_BYTES - 20) + b'"}'
    assert len(longest) == 1_048_576
    assert parse(longest) == Metrics(step=1, values={})
    assert parse(b" " + longest) is None


def test_a_line_that_is_too_long_does_not_hide_the_next_one():
    """What follows a line of more than 1 MiB is understood, at its right offset."""
    long_line = b'{"step": 1, "x": "' + b"x" * MAX_LINE_BYTES + b'"}\n'
    batch = digest(long_line + b'{"event": "x"}\n{"step": 2, "a": 1}\n')
    assert list(batch.series["a"].steps) == [2]
    assert batch.notes[0][0] == len(long_line)


def test_offsets_of_checkpoints_are_those_of_the_beginnings_of_lines():
    """A report is found again at its offset in the session's output, blanks and broken lines before it or not."""
    lines = [b"text \xff\n", b'  {"event": "checkpoint_saved", "path": "a"}\r\n', b"\n", JUST_OUTPUT[3] + b"\n"]
    last = b'{"event": "checkpoint_saved", "path": "b"}'
    batch = digest(b"".join(lines) + last, offset=1000)
    assert [(offset, saved.path) for offset, saved in batch.checkpoints] == [
        (1000 + len(lines[0]), "a"),
        (1000 + sum(map(len, lines)), "b"),
    ]


STEP, SAVED = b'{"step": 23, "value": 69}', b'{"event": "checkpoint_saved", "path": "a", "step": 23}'


@pytest.mark.parametrize(
    ("line", "steps", "saved_at"),
    [
        (STEP + SAVED, [23], [len(STEP)]),
        (SAVED + STEP, [23], [0]),
        (STEP + STEP + SAVED + SAVED, [23, 23], [2 * len(STEP), 2 * len(STEP) + len(SAVED)]),
        (b"  " + STEP + SAVED + b" \r", [23], [2 + len(STEP)]),
        (
            '{"step": 23, "ä": "}{", "value": 69}'.encode() + SAVED,
            [23],
            [len('{"step": 23, "ä": "}{", "value": 69}') + 1],
        ),
        (b'{"step": 23, "value": NaN}' + SAVED, [23], [len(STEP) + 1]),
        (b'{"a": {"b": {}}}' + b"{}" + SAVED, [], [18]),
        (STEP + SAVED[:-1], [], []),  # only a line of whole objects
        (STEP + SAVED + b"100%", [], []),
        (b"100%" + STEP + SAVED, [], []),
        (STEP + b" " + SAVED, [], []),
        (STEP + b"{}}" + SAVED, [], []),
        (STEP + b"{" * 100_000 + b"}", [], []),
        (b"[" + STEP + SAVED, [], []),
        (STEP + b'{"x": "' + b"x" * (MAX_LINE_BYTES - len(STEP) - 9) + b'"}', [23], []),
        (STEP + b'{"x": "' + b"x" * (MAX_LINE_BYTES - len(STEP) - 8) + b'"}', [], []),
        (STEP + SAVED + b"100", [], []),
    ],
    ids=lambda value: repr(value[:90]) if isinstance(value, bytes) else "",
)
def test_objects_on_one_line(line: bytes, steps: list[int], saved_at: list[int]):
    """print() ends its line in a second write, and what a signal's handler prints before that is understood all the same."""
    batch = digest(b"before\n" + line + b"\n" + STEP + b"\n", offset=100)
    assert [offset - 107 for offset, _ in batch.checkpoints] == saved_at
    assert list(batch.series["value"].steps) == [*steps, 23]
    assert list(batch.series["value"].ends)[-1] == 107 + len(line) + 1 + len(STEP) + 1


@given(st.lists(st.sampled_from([*UNDERSTOOD, *NOTES]), min_size=1, max_size=6), st.integers(0, 1000))
def test_objects_on_one_line_mean_what_they_mean_on_lines_of_their_own(lines: list[bytes], start: int):
    """Whatever they are, and in their order; each is found again at its first byte."""
    objects = [line.strip() for line in lines]
    joined, apart = digest(b"".join(objects), start), digest(b"\n".join(objects), start)
    assert {name: list(series.values) for name, series in joined.series.items()} == {
        name: list(series.values) for name, series in apart.series.items()
    }
    assert [saved for _, saved in joined.checkpoints] == [saved for _, saved in apart.checkpoints]
    assert [note for _, note in joined.notes] == [note for _, note in apart.notes]
    assert (joined.params, joined.last_step) == (apart.params, apart.last_step)
    whole = b"".join(objects)
    for offset, event in (*joined.checkpoints, *joined.notes):
        assert any(parse(one) == event and whole.startswith(one, offset - start) for one in objects)


def test_later_params_win():
    """A parameter told twice is what it was told last."""
    batch = digest(b'{"event": "params", "params": {"a": 1, "b": 1}}\n{"event": "params", "params": {"a": 2}}\n')
    assert batch.params == {"a": 2, "b": 1}


@pytest.mark.parametrize(
    ("output", "option"),
    [
        (b'{"event": "resume_option", "option": "--ckpt"}\n', "--ckpt"),
        (b'{"event": "resume_option", "option": "--ckpt"}\n{"event": "resume_option", "option": null}\n', None),
        (b'{"event": "resume_option", "option": 3}\n', None),
        (b'{"event": "resume_option", "option": "c"}\n', "c"),
        (b'{"event": "resume_option", "option": "' + b"x" * 200 + b'"}\n', "x" * 200),
        (b'{"event": "resume_option", "option": "' + b"x" * 201 + b'"}\n', None),
        (b'{"event": "resume_option", "option": ""}\n', None),
    ],
)
def test_a_script_says_how_it_would_take_a_checkpoint(output: bytes, option: str | None):
    """The last word counts; what is no option is none."""
    told = digest(output).resume_option
    assert told is not None
    assert told.option == option


@pytest.mark.parametrize(
    ("output", "is_listening"),
    [(b'{"event": "listening"}\n', True), (b'{"event": "other"}\n', False), (b"listening\n", False)],
)
def test_a_script_says_that_it_listens(output: bytes, is_listening: bool):
    """`listening` tells that a script watches control.json."""
    assert (digest(output).listening is not None) is is_listening


@pytest.mark.parametrize("wrong", ["NaN", "-1", "true", '"1"', "1e300", "1e9", "null"])
def test_a_pace_that_is_none_is_not_believed(wrong: str):
    """Whoever says nonsense listens all the same."""
    line = f'{{"event": "listening", "longest_step_s": {wrong}, "longest_save_s": 2}}'
    assert parse(line.encode()) == Listening(longest_step_s=None, longest_save_s=2.0)


@pytest.mark.parametrize("pace_s", [0, 0.5, 999_999_999])
def test_a_pace_of_any_sensible_length_is_believed(pace_s: float):
    """From a step that takes no time to one of thirty years."""
    line = json.dumps({"event": "listening", "longest_step_s": pace_s, "longest_save_s": pace_s})
    assert parse(line.encode()) == Listening(longest_step_s=pace_s, longest_save_s=pace_s)


def test_a_training_is_finished_until_the_next_one_begins():
    """A script may train more than once; whoever listens again is not at its end."""
    listening, finished = b'{"event": "listening"}\n', b'{"event": "finished"}\n'
    assert not digest(b"").is_finished
    assert not digest(listening).is_finished
    assert digest(listening + finished).is_finished
    assert not digest(listening + finished + listening).is_finished


def test_a_point_ends_where_its_line_does():
    """That tells when it was written: the offset behind its newline, in the session's output."""
    lines = [b"text\n", b'{"step": 1, "a": 1, "b": 2}\n', b"\n", b'{"step": 2, "a": 3}\n']
    batch = digest(b"".join(lines), offset=1000)
    assert list(batch.series["a"].ends) == [1000 + len(b"".join(lines[:2])), 1000 + len(b"".join(lines))]
    assert list(batch.series["b"].ends) == [1000 + len(b"".join(lines[:2]))]


def test_the_newest_value_of_a_metric():
    """The last that was written, not that of the last step; None of what is not there."""
    batch = digest(b'{"step": 5, "a": 1}\n{"step": 3, "a": 2}\n{"step": 6, "b": 7}\n')
    assert (batch.last("a"), batch.last("b"), batch.last("c")) == (2.0, 7.0, None)


def test_counted_steps_are_no_reported_ones():
    batch = digest(b'{"step": 4, "loss": 1.0}\n{"step": 9, "counted": true, "a": 1.0}\n')
    assert (batch.last_step, batch.counted_step, list(batch.series)) == (4, 9, ["loss"])


@pytest.mark.parametrize(
    ("line", "origin", "has_training"),
    [
        (b"text", Origin.REPORTED, False),
        (b'{"step": 0, "loss": 1}', Origin.REPORTED, True),
        (b'{"step": 0, "loss": 1, "printed": true}', Origin.PRINTED, False),
        (b'{"step": 0, "loss": 1, "tracked": true}', Origin.TRACKED, False),
        (b'{"step": 0, "counted": true}', Origin.REPORTED, True),
        (b'{"event": "checkpoint_saved", "path": "a"}', Origin.REPORTED, True),
    ],
)
def test_what_a_batch_has(line: bytes, origin: Origin, has_training: bool):
    """Steps that were printed or logged may be those of anything: only reported and counted ones are of a training."""
    batch = digest(line + b"\n")
    assert (batch.origin, batch.has_training) == (origin, has_training)


def test_steps_of_each_source_are_apart():
    """The last that was reported, counted or printed; the greatest that was logged to a tracker."""
    lines = [b'{"step": %d, "a": 1, "%s": true}\n' % (step, mark) for mark in MARKS for step in (7, 3)]
    batch = digest(b'{"step": 8, "a": 1}\n{"step": 4, "a": 1}\n' + b"".join(lines))
    assert (batch.last_step, batch.counted_step, batch.printed_step, batch.tracked_step) == (4, 3, 3, 7)
    assert digest(b'{"step": 0, "tracked": true}\n').tracked_step == 0


def test_the_number_of_counted_steps_is_known_until_another_is_given():
    line = b'{"step": 1, "counted": true%s}\n'
    assert digest(line % b"").counted_total is None
    assert digest((line % b', "total_steps": 9') + (line % b"")).counted_total == 9
    assert digest((line % b', "total_steps": 9') + (line % b', "total_steps": 7')).counted_total == 7


def test_what_hooks_report_is_kept_in_its_order():
    """Params that a hook saw are not the script's own; a training finishes at the last step that was reported."""
    params, bars, began = (
        [b'{"event": "params", "params": {"a": %d}, "origin": "parser"}' % number for number in (1, 2)],
        [b'{"event": "bar", "total": %d}' % number for number in (5, 6)],
        [b'{"event": "training_began", "resumed_from": "%d"}' % number for number in (1, 2)],
    )
    batch = digest(b"\n".join([*params, *bars, *began, b'{"step": 3}', b'{"event": "finished"}', b'{"step": 4}']))
    assert (batch.params, batch.params_seen) == ({}, [parse(line) for line in params])
    assert (batch.bars, batch.trainings) == ([parse(line) for line in bars], [parse(line) for line in began])
    assert (batch.is_finished, batch.finished_step) == (True, 3)


@pytest.mark.parametrize("unit", ['"epoch"', '"optimizer step"', json.dumps("x" * 40)])
def test_a_unit_of_steps(unit: str):
    """Of those that are reported, or of those that we count; the last one counts."""
    batch = digest(f'{{"event": "unit", "unit": "x"}}\n{{"event": "unit", "unit": {unit}}}\n'.encode())
    assert (batch.unit, batch.counted_unit, batch.notes) == (json.loads(unit), None, [])
    batch = digest(f'{{"event": "unit", "unit": {unit}, "counted": true}}\n'.encode())
    assert (batch.unit, batch.counted_unit) == (None, json.loads(unit))


@pytest.mark.parametrize("unit", ["null", "1", '""', '["epoch"]', json.dumps("x" * 41)])
def test_what_is_no_unit_is_a_note(unit: str):
    batch = digest(f'{{"event": "unit", "unit": {unit}}}\n'.encode())
    assert (batch.unit, len(batch.notes)) == (None, 1)


@pytest.mark.parametrize("length", [1, 1000])
def test_a_goal_of_a_metric(length: int):
    """Without a name, or with one that is too long, it is a note."""
    line = '{"event": "metric", "name": "%s", "goal": "max"}\n'
    assert digest((line % ("x" * length)).encode()).goals == {"x" * length: Goal.MAX}
    assert digest((line % "").encode()).goals == digest((line % ("x" * 1001)).encode()).goals == {}


@pytest.mark.parametrize("mark", ["counted", "printed", "tracked", "sampled"])
def test_only_true_itself_marks_metrics(mark: str):
    for value, is_meant in (("true", True), ("1", False), ('"true"', False)):
        event = parse(f'{{"step": 1, "a": 1, "{mark}": {value}}}'.encode())
        assert isinstance(event, Metrics)
        assert {name: getattr(event, f"is_{name}") for name in ("counted", "printed", "tracked", "sampled")} == {
            name: is_meant and name == mark for name in ("counted", "printed", "tracked", "sampled")
        }


def test_only_true_itself_makes_a_bar_that_of_an_optimizer_or_a_checkpoint_copied():
    for value, is_meant in (("true", True), ("1", False)):
        bar = parse(f'{{"event": "bar", "total": 1, "has_optimizer": {value}}}'.encode())
        assert bar == BarBegan(total=1, has_optimizer=is_meant)
        began = parse(f'{{"event": "training_began", "resumed_from": "a", "copied": {value}}}'.encode())
        assert began == TrainingBegan(is_decided=True, resumed_from="a", is_copied=is_meant)
    assert parse(b'{"event": "training_began", "resumed_from": ""}') == TrainingBegan(is_decided=True)
    assert parse(b'{"event": "training_began"}') == TrainingBegan(is_decided=False)
    assert parse(b'{"event": "bar", "total": 0}') == OtherEvent(kind="bar", text='{"event": "bar", "total": 0}')


@pytest.mark.parametrize("key", ["emergency", "kept", "weights_only"])
def test_only_true_itself_marks_a_checkpoint(key: str):
    for value, is_meant in (("true", True), ("1", False), ('"true"', False)):
        event = parse(f'{{"event": "checkpoint_saved", "path": "a", "{key}": {value}}}'.encode())
        assert event == CheckpointSaved(path="a", step=None, **{f"is_{key}": is_meant})


@given(st.binary(max_size=400), st.integers(0, 2**40))
@settings(deadline=None)
def test_no_bytes_crash_the_digest(data: bytes, offset: int):
    """Whatever a script prints, summing it up never fails, and offsets lie inside it."""
    batch = digest(data, offset)
    assert all(offset <= at < offset + len(data) for at, _ in (*batch.checkpoints, *batch.notes))


def test_a_sampled_loss_is_apart_from_what_is_reported():
    """It moves no step, and is no reported metric; only true itself marks it."""
    batch = digest(
        b'{"step": 4, "loss": 1.0}\n{"step": 9, "loss": NaN, "sampled": true}\n{"step": 5, "a": 1, "sampled": 1}\n'
    )
    assert (batch.last_step, batch.counted_step, batch.printed_step) == (5, None, None)
    assert {name: list(series.steps) for name, series in batch.series.items()} == {
        "loss": [4],
        "a": [5],
        "sampled": [5],
    }
    (sampled,) = batch.sampled["loss"].values
    assert math.isnan(sampled)
    assert list(batch.sampled["loss"].steps) == [9]
