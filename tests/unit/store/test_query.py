"""What can be asked of the index: which runs, in which order, and their curves."""

import json
import math
import shutil
from array import array
from collections.abc import Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from backprop.errors import UsageError
from backprop.records import Goal, Run, RunSpec, RunView, Status
from backprop.store import filters, metric_names, query
from backprop.store.chunk_summary import outline
from backprop.store.curve_writer import CHUNK_POINTS
from backprop.store.curves import Axis, reduced
from backprop.store.filters import SORT_KEYS, Wanted
from backprop.store.index import Index
from backprop.store.output.line_times import OffsetSample, Timeline
from backprop.store.output.protocol import digest
from tests.records import LIMITS, session_record

NOW = datetime.now(timezone.utc)


def made(run_id: str, *, age_s: float = 0, status: Status = Status.RUNNING, elapsed_s: Any = None, **spec: Any) -> Run:
    """A run with as many sessions as there are in `elapsed_s` (seconds, or a list of them)."""
    sessions = tuple(
        session_record(status, number, started_at=NOW, host="here", elapsed_s=seconds)
        for number, seconds in enumerate(elapsed_s if isinstance(elapsed_s, list) else [elapsed_s], start=1)
    )
    fixed = {
        "id": run_id,
        "command": ("python", "train.py"),
        "cwd": "/tmp",
        "created_at": NOW - timedelta(seconds=age_s),
        "host": "here",
        "user": "me",
        "limits": LIMITS,
    }
    return Run(spec=RunSpec(**{**fixed, **spec}), status=status, latest=sessions)


def say(index: Index, run_id: str, *lines: dict[str, Any], session: int = 1, timeline: Timeline | None = None) -> None:
    """What a trainer printed next."""
    start = index.offset(run_id, session)
    data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
    batch = digest(data, start)
    assert index.add_output(run_id, session, start, start + len(data), batch, [], timeline=timeline)


def viewed(index: Index, run_id: str = "r") -> RunView:
    view = index.get(run_id)
    assert view is not None
    return view


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    opened = Index(tmp_path / "index.db", 5.0)
    yield opened
    opened.close()


@pytest.fixture
def several(index: Index) -> Index:
    """Four runs, newest first: dd, cc, bb, ba."""
    for run_id, age_s, status, name, elapsed_s, loss, params in (
        ("ba", 4000, Status.COMPLETED, "same", 1.0, 0.5, {"lr": 0.1, "opt": "SGD", "amp": True}),
        ("bb", 300, Status.FAILED, None, 9.0, None, {"lr": 1e-5, "tag": "007"}),
        ("cc", 200, Status.RUNNING, "same", None, math.nan, {"loss": 7, "layers": [64, 32]}),
        ("dd", 100, Status.COMPLETED, "my Run", 5.0, 0.1, {"lr": 10}),
    ):
        index.put_run(made(run_id, age_s=age_s, status=status, name=name, elapsed_s=elapsed_s, params=params), 1)
        if loss is not None:
            say(index, run_id, {"step": age_s, "loss": loss + 1, "acc": loss}, {"step": age_s + 1, "loss": loss})
    return index


def ids(index: Index, **wanted: Any) -> list[str]:
    return [view.run.spec.id for view in query.runs(index, Wanted(**wanted))]


@pytest.mark.parametrize(
    ("sort", "found"),
    [
        ("created", ["dd", "cc", "bb", "ba"]),
        ("name", ["dd", "cc", "ba", "bb"]),
        ("status", ["dd", "ba", "bb", "cc"]),
        ("elapsed", ["bb", "dd", "ba", "cc"]),
        ("step", ["ba", "cc", "dd", "bb"]),
        ("metric.loss", ["dd", "ba", "cc", "bb"]),  # smallest first; NaN and those without it last, newest first
        ("best.loss", ["dd", "ba", "cc", "bb"]),
        ("acc", ["ba", "dd", "cc", "bb"]),  # of an accuracy the greatest first
        ("lr", ["bb", "ba", "dd", "cc"]),
        ("param.opt", ["ba", "dd", "cc", "bb"]),
        ("no such metric", ["dd", "cc", "bb", "ba"]),
        ("'; DROP TABLE runs; --", ["dd", "cc", "bb", "ba"]),
    ],
)
def test_runs_come_in_the_order_that_was_asked_for(several: Index, sort: str, found: list[str]):
    """Every key sorts as its column says, the newest first among equals; any other word is a metric or parameter."""
    assert ids(several, sort=sort) == found


def test_no_sort_key_is_left_out_of_these_tests():
    """Every word that `--sort` knows is tried above."""
    assert set(SORT_KEYS) == {"created", "name", "status", "elapsed", "step"}


@pytest.mark.parametrize(("sort", "found"), [("created", "ba bb cc dd"), ("elapsed", "cc ba dd bb"), ("acc", "dd ba")])
def test_an_order_can_be_turned_round(several: Index, sort: str, found: str):
    """Least instead of greatest first; what has no value stays last."""
    assert ids(several, sort=sort, is_descending=False)[: len(found.split())] == found.split()


@pytest.mark.parametrize(
    ("statuses", "limit", "offset", "found", "count"),
    [
        (("completed",), None, 0, ["dd", "ba"], 2),
        (("completed", "failed"), None, 0, ["dd", "bb", "ba"], 3),
        (("queued",), None, 0, [], 0),
        ((), 2, 0, ["dd", "cc"], 4),
        ((), 2, 1, ["cc", "bb"], 4),
        ((), 2, 3, ["ba"], 4),
        (("completed",), 1, 0, ["dd"], 2),
        ((), 0, 0, [], 4),
    ],
)
def test_runs_can_be_chosen_by_status_and_place(
    several: Index, statuses: tuple[str, ...], limit: int | None, offset: int, found: list[str], count: int
):
    """Only runs of these statuses come, from the offset on and no more than the limit; the count knows of neither."""
    assert ids(several, statuses=statuses, limit=limit, offset=offset) == found
    assert query.count(several, Wanted(statuses=statuses, limit=limit, offset=offset)) == count


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", "dd cc bb ba"),
        ("status=completed", "dd ba"),
        ("status!=completed", "cc bb"),
        ("status~comp", "dd ba"),
        ("status=completed lr>1", "dd"),
        ("lr>1e-4", "dd ba"),
        ("lr<=0.1", "bb ba"),
        ("lr=10", "dd"),
        ("lr!=10", "bb ba"),
        ("opt=sgd", "ba"),
        ("opt~g", "ba"),
        ("amp=true", "ba"),
        ("param.tag=007", "bb"),
        ("tag=7", ""),
        ("layers~32", "cc"),
        ("name=same", "cc ba"),
        ("name='my run'", "dd"),
        ('name~"y R"', "dd"),
        ("id=BA", "ba"),
        ("command~train.py", "dd cc bb ba"),
        ("command~test.py", ""),
        ("step>=201", "cc ba"),
        ("elapsed>2s", "dd bb"),
        ("elapsed<0.1min", "dd cc ba"),
        ("age>1h", "ba"),
        ("age<1h", "dd cc bb"),
        ("loss<0.3", "dd"),
        ("loss=7", "cc"),  # what it was given comes before what it measured
        ("metric.loss=nan", "cc"),
        ("metric.loss!=nan", "dd ba"),
        ("best.acc>=0.5", "ba"),
        ("best.loss<=0.5", "dd ba"),
        ("param.loss<8", "cc"),
        ("param.acc>0", ""),
        ("nosuch=1", ""),
        ("nosuch!=1", ""),
        ("lr>-1 x;DROP=1", ""),
    ],
)
def test_a_filter_finds_what_it_says(several: Index, text: str, found: str):
    """Every operator on every kind of thing; conditions all hold; what a run does not have is not found."""
    assert ids(several, conditions=filters.parse_filter(text)) == found.split()
    assert query.count(several, Wanted(conditions=filters.parse_filter(text))) == len(found.split())


@pytest.mark.parametrize("sort", [*SORT_KEYS, "loss", "lr"])
def test_a_filter_goes_with_every_order(several: Index, sort: str):
    """No column of one is taken for a column of the other."""
    text = "id~a name~s status~c command~train step>0 elapsed>0 age>0 lr>0 metric.loss>0 best.loss>0"
    assert ids(several, sort=sort, conditions=filters.parse_filter(text), search="ba same train.py") == ["ba"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("lr", "'lr': expected NAME=VALUE"),
        ("lr>", "'lr>': expected NAME=VALUE"),
        ("=3", "'=3': expected NAME=VALUE"),
        ("name='my run", "cannot parse filter .*expected NAME=VALUE"),
        ("status=done", "queued, running"),
        ("status>running", "status takes =, !="),
        ("command=x", "command takes ~"),
        ("lr>fast", "'fast' is not a number"),
        ("step>2h", "a number"),
        ("step~2", "step is a number"),
        ("age<old", "90s, 10min, 2h, 3d"),
    ],
)
def test_a_filter_that_makes_no_sense_says_what_would(text: str, complaint: str):
    """The message names what was found and what is allowed."""
    with pytest.raises(UsageError, match=complaint):
        filters.parse_filter(text)


NAMES = st.sampled_from(["status", "name", "step", "age", "command", "lr", "best.loss", "param.x", "'", "ü"])
OPERATORS = st.sampled_from(["=", "!=", "<", "<=", ">", ">=", "~", "=="])


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.one_of(st.text(), st.builds("".join, st.tuples(NAMES, OPERATORS, st.text()))))
def test_any_text_is_a_filter_or_an_error(index: Index, text: str):
    """Nothing that is typed crashes, and what is a filter can be asked."""
    try:
        conditions = filters.parse_filter(text)
    except UsageError:
        return
    assert query.runs(index, Wanted(conditions=conditions)) == []


@pytest.mark.parametrize(
    ("search", "found"),
    [("same", "cc ba"), ("SAME b", "ba"), ("my run", "dd"), ("train", "dd cc bb ba"), ("%", ""), ("\udcff", "")],
)
def test_a_search_finds_words_anywhere(several: Index, search: str, found: str):
    """Every word must be in the id, the name or the command, in any case; wildcards are letters like any other."""
    assert ids(several, search=search) == found.split()


# -- which value is best


@pytest.mark.parametrize(
    ("name", "goal"),
    [
        *((name, "max") for name in ("acc", "val/accuracy", "test_accuracy", "top5", "eval_f1", "f1_macro", "mAP@50")),
        *((name, "max") for name in ("ep_rew_reward", "R2", "trainAcc", "val_top1_acc", "BLEU4", "roc_auc")),
        *(
            (name, "min")
            for name in ("loss", "val_loss", "perplexity", "mae", "error_rate", "acc_loss", "map_loss", "mapping_mse")
        ),
        *((name, "min") for name in ("valid_0-binary_logloss", "mlogloss", "eval_wer", "FID", "val/l1", "loss2")),
        *(
            (name, None)
            for name in ("elo", "bleurt_x", "entropy", "foo", "lr", "step_time", "", "\x1b[31m", "accident")
        ),
    ],
)
def test_what_is_better_is_told_by_the_name(name: str, goal: str | None):
    """Accuracies and rewards are better the greater, losses and errors the smaller; of other names nobody knows."""
    assert metric_names.goal(name) == goal


def goals_said(index: Index, *events: dict[str, Any]) -> Mapping[str, Goal]:
    index.put_run(made("r"), 1)
    say(index, "r", *events)
    return viewed(index).goals


def test_a_script_says_which_values_are_better(index: Index):
    """From then on the best value is the best, also of a metric whose name says nothing, or something else."""
    events = [{"event": "metric", "name": name, "goal": goal} for name, goal in (("elo", "max"), ("acc", "min"))]
    points = [{"step": step, "elo": value, "acc": value, "foo": value} for step, value in enumerate((1.0, 3.0, 2.0))]
    assert goals_said(index, *points, *events) == {"elo": "max", "acc": "min"}
    view = viewed(index)
    assert [metric_names.best(view, name) for name in ("elo", "acc", "foo")] == [(3.0, 1), (1.0, 0), None]
    assert view.note_count == 0


@pytest.mark.parametrize("event", [{"name": "elo", "goal": "up"}, {"name": 3, "goal": "max"}, {"goal": "max"}, {"name": "", "goal": "max"}, {"name": "elo", "goal": ["max"]}])  # fmt: skip
def test_a_goal_that_is_none_is_a_note(event: dict[str, Any], index: Index):
    """As any other object with an event."""
    assert goals_said(index, {"event": "metric", **event}) == {}
    assert viewed(index).note_count == 1


def test_what_the_user_says_of_a_metric_prevails(index: Index):
    """Whatever comes first, and however often the run is stored again."""
    run = made("r", goals={"elo": Goal.MAX})
    index.put_run(run, 1)
    say(index, "r", {"event": "metric", "name": "elo", "goal": "min"}, {"event": "metric", "name": "x", "goal": "min"})
    index.put_run(run, 1)
    assert viewed(index).goals == {"elo": "max", "x": "min"}


def test_runs_that_contradict_each_other_have_no_common_goal(index: Index):
    """Each has a best value of its own, and none of them is the best."""
    for run_id, goals in (("a", {"elo": Goal.MAX}), ("b", {}), ("c", {"elo": Goal.MIN})):
        index.put_run(made(run_id, goals=goals), 1)
        say(index, run_id, {"step": 1, "elo": 1.0})
    a, b, c = (viewed(index, run_id) for run_id in "abc")
    goals = [metric_names.common_goal("elo", views) for views in ([a, b], [b], [b, c], [a, c])]
    assert goals == ["max", None, "min", None]
    assert metric_names.without_goal(["elo", "loss", "lr"], [b]) == ["elo"]


def test_the_order_follows_the_goal(index: Index):
    """Best first: by what is asked for now, else by what the newest run was given, else by the name."""
    for number, run_id in enumerate("abc"):
        goals = {"elo": Goal.MAX} if run_id == "a" else {}  # the newest
        index.put_run(made(run_id, age_s=number, goals=goals), 1)
        say(index, run_id, {"step": 1, "elo": float(number), "foo": float(number)})

    def order(sort: str, **goals: Goal) -> str:
        return "".join(view.run.spec.id for view in query.runs(index, Wanted(sort=sort, goals=goals)))

    assert (order("elo"), order("best.elo"), order("elo", elo=Goal.MIN)) == ("cba", "cba", "abc")
    assert (order("foo"), order("foo", foo=Goal.MAX)) == ("abc", "cba")
    assert query.runs(index, Wanted(goals={"foo": Goal.MAX}))[0].goals["foo"] is Goal.MAX


def test_the_best_value_has_its_step(index: Index):
    """NaN and infinities are never best; a metric of nothing else has no best."""
    index.put_run(made("r"), 1)
    losses = [3.0, math.nan, 1.0, math.inf, 2.0, -math.inf]
    say(
        index,
        "r",
        *({"step": step, "loss": loss, "acc": loss, "bad_loss": math.nan} for step, loss in enumerate(losses)),
    )
    view = viewed(index)
    assert metric_names.best(view, "loss") == (1.0, 2)
    assert metric_names.best(view, "acc") == (3.0, 0)
    assert metric_names.best(view, "bad_loss") is None
    summaries = view.summaries
    assert (summaries["loss"].count, summaries["loss"].last, summaries["loss"].last_step) == (6, -math.inf, 5)


@pytest.mark.parametrize(
    ("names", "main"),
    [
        (["loss", "train_loss"], "loss"),
        (["eval_loss", "train/loss"], "train/loss"),
        (["acc", "val_loss"], "val_loss"),
        (["acc"], None),
        ([], None),
    ],
)
def test_the_metric_that_tells_how_a_run_goes(index: Index, names: list[str], main: str | None):
    """The training loss by any of the usual names, else another loss, else none."""
    index.put_run(made("r"), 1)
    say(index, "r", {"step": 1, **dict.fromkeys(names, 1.0)})
    assert metric_names.main_metric(viewed(index).summaries) == main


# -- curves


FINITE = st.floats(allow_nan=False, allow_infinity=False)
VALUES = st.lists(st.one_of(FINITE, st.sampled_from([math.nan, math.inf, -math.inf])), min_size=1, max_size=60)


@given(VALUES, st.integers(1, 40))
def test_no_spike_is_lost(values: list[float], max_points: int):
    """A reduced curve has the least and the greatest value, the last point, a mark for what is missing, in order."""
    xs, ys = reduced(array("d", range(len(values))), array("d", values), max_points)
    finite = [value for value in values if math.isfinite(value)]
    kept = [y for y in ys if math.isfinite(y)]
    assert list(xs) == sorted(set(xs))
    assert all(repr(values[int(x)]) == repr(y) for x, y in zip(xs, ys, strict=True))
    assert xs[-1] == len(values) - 1
    if finite:
        assert (min(kept), max(kept)) == (min(finite), max(finite))
    assert any(not math.isfinite(y) for y in ys) == (len(finite) < len(values))
    assert len(xs) <= max(4, 2 * max_points + 2)


@given(VALUES, VALUES)
def test_outlines_join_as_their_points_do(first: list[float], second: list[float]):
    """What is known of two stretches apart is what is known of them together."""
    both = first + second
    steps = list(range(len(both)))
    cut = len(first)
    joined = outline(steps[:cut], first, steps[:cut]).joined(outline(steps[cut:], second, steps[cut:]))
    assert repr(joined) == repr(outline(steps, both, steps))


def test_a_resume_takes_the_place_of_what_it_trained_again(index: Index):
    """Over steps the later session counts from where it went on; over time everything is there, one after the other."""
    index.put_run(made("r", elapsed_s=[10.0, 4.0]), 1)
    evenly = Timeline([OffsetSample(offset=10_000, since_s=0.0, until_s=10.0)])
    say(index, "r", *({"step": step, "loss": step} for step in range(1, 7)), timeline=evenly)
    say(index, "r", *({"step": step, "loss": step * 10} for step in range(4, 9)), session=2, timeline=evenly)
    told = query.curve(index, viewed(index), "loss")
    assert list(told.xs) == [1, 2, 3, 4, 5, 6, 7, 8]
    assert list(told.ys) == [1, 2, 3, 40, 50, 60, 70, 80]
    over_time = query.curve(index, viewed(index), "loss", Axis.TIME)
    assert list(over_time.ys) == [1, 2, 3, 4, 5, 6, 40, 50, 60, 70, 80]
    assert list(over_time.xs) == sorted(over_time.xs)
    assert over_time.xs[5] < 10.0 <= over_time.xs[6]
    points = list(query.points(index, viewed(index)))
    assert [(point.session, point.step, point.value) for point in points[5:7]] == [(1, 6, 6.0), (2, 4, 40.0)]
    assert [point.time_s for point in points] == list(over_time.xs)


@pytest.fixture(scope="session")
def long_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose loss has 200,000 points, one spike, one dip and one NaN: filled once, as that takes seconds."""
    path = tmp_path_factory.mktemp("long") / "index.db"
    with closing(Index(path, 5.0)) as index:
        index.put_run(made("r", elapsed_s=100.0), 1)
        for begin in range(0, 200_000, 20_000):
            say(index, "r", *({"step": step, "loss": _loss(step)} for step in range(begin, begin + 20_000)))
    return path


@pytest.fixture
def long(long_database: Path, tmp_path: Path) -> Iterator[Index]:
    """A copy of it."""
    with closing(Index(shutil.copy(long_database, tmp_path / "index.db"), 5.0)) as index:
        yield index


def _loss(step: int) -> float:
    return {77_777: 1e9, 100_001: -1e9, 150_000: math.nan}.get(step, 1 + 1 / (step + 1))


@pytest.mark.parametrize("max_points", [50, 500, 5_000])
def test_a_long_curve_is_drawn_from_few_points(long: Index, max_points: int):
    """However few points: the spike, the dip, the gap and the last point are there, each at its step."""
    told = query.curve(long, viewed(long), "loss", max_points=max_points)
    values = dict(zip(told.xs, told.ys, strict=True))
    assert values[77_777] == 1e9
    assert values[100_001] == -1e9
    assert values[199_999] == _loss(199_999)
    assert sum(math.isnan(y) for y in told.ys) == 1
    assert list(told.xs) == sorted(told.xs)
    assert (told.point_count, told.is_reduced) == (200_000, True)
    assert max_points / 4 < len(told.xs) <= 2 * max_points


def test_a_part_of_a_long_curve_comes_in_full(long: Index):
    """Who zooms in sees every point between the bounds, and no other."""
    told = query.curve(long, viewed(long), "loss", max_points=2000, begin=77_000, end=77_999)
    assert list(told.xs) == list(range(77_000, 78_000))
    assert list(told.ys) == [_loss(step) for step in range(77_000, 78_000)]
    assert (told.point_count, told.is_reduced) == (1000, False)


@pytest.mark.parametrize(("begin", "end"), [(77_770, None), (None, 77_780), (77_770, 180_000)])
def test_a_spike_at_the_edge_of_a_part_is_not_lost(long: Index, begin: float | None, end: float | None):
    """What lies between the bounds is shown, though the extreme of its chunk may lie beyond them."""
    say(long, "r", {"step": 200_000, "loss": 0.5})
    told = query.curve(long, viewed(long), "loss", max_points=50, begin=begin, end=end)
    assert max(y for y in told.ys if math.isfinite(y)) == 1e9
    assert told.point_count == (200_000 if end is None else int(end)) - (begin or 0) + 1


def test_what_another_session_left_of_a_chunk_is_not_lost(index: Index):
    """A spike stays where a later session took over in the middle of its chunk, after which it went higher."""
    index.put_run(made("r", elapsed_s=[1.0, 1.0]), 1)
    values = {9_800: 5.0, 9_900: 9.0}
    say(index, "r", *({"step": step, "loss": values.get(step, 1.0)} for step in range(10_000)))
    say(index, "r", *({"step": step, "loss": 1.0} for step in range(9_850, 20_000)), session=2)
    told = query.curve(index, viewed(index), "loss", max_points=20)
    assert max(told.ys) == 5.0
    assert told.point_count == 20_000


@pytest.mark.parametrize("text", ["name=ÄPFEL", "name=äpfel", "name~ÄPF"])
def test_a_name_is_found_in_any_case(index: Index, text: str):
    """Letters beyond ASCII have two cases, too."""
    index.put_run(made("r", name="Äpfel"), 1)
    assert ids(index, conditions=filters.parse_filter(text)) == ["r"]


def test_any_bytes_can_be_sorted_by(several: Index):
    """What cannot be the name of anything sorts nothing."""
    assert ids(several, sort="\udcff") == ["dd", "cc", "bb", "ba"]


def test_chunks_are_small_however_much_comes_at_once(long: Index):
    """A chunk has at most so many points: what is drawn from outlines is drawn finely."""
    assert long.rows("SELECT max(total), sum(total) FROM outlines") == [(CHUNK_POINTS, 200_000)]


def test_an_unknown_curve_is_empty(index: Index):
    """Nothing of that name is no error."""
    index.put_run(made("r"), 1)
    told = query.curve(index, viewed(index), "nothing", max_points=10)
    assert (list(told.xs), list(told.ys), told.point_count, told.is_reduced) == ([], [], 0, False)
    assert query.sparkline_values(index, viewed(index), "nothing", 8) == []


@pytest.mark.parametrize(("count", "width"), [(1, 8), (5, 8), (100, 8), (600, 8), (100_000, 8), (100, 1)])
def test_a_sparkline_has_as_many_values_as_it_is_wide(index: Index, count: int, width: int):
    """Evenly over the points, the last one among them; fewer where there are fewer."""
    index.put_run(made("r"), 1)
    say(index, "r", *({"step": step, "loss": step} for step in range(count)))
    values = query.sparkline_values(index, viewed(index), "loss", width)
    assert len(values) == min(count, width)
    assert values == sorted(values)
    assert values[-1] == count - 1


def test_the_metrics_of_several_runs_are_told_by_how_common_they_are(several: Index):
    """Most common first, then by name."""
    index = several
    say(index, "bb", {"step": 1, "loss": 1.0, "aaa": 1})
    assert metric_names.all_names(query.runs(index)) == ["loss", "acc", "aaa"]


def test_the_value_at_a_step_is_the_last_one_until_then(index: Index):
    """At the step or before it, however far away; None before the first."""
    index.put_run(made("r"), 1)
    say(index, "r", *({"step": step, "loss": step / 2} for step in (10, 20, 5000)))
    view = viewed(index)
    assert [query.at_step(index, view, "loss", step) for step in (5, 10, 15, 20, 4999, 5000, 10**12)] == [
        None,
        (10, 5.0),
        (10, 5.0),
        (20, 10.0),
        (20, 10.0),
        (5000, 2500.0),
        (5000, 2500.0),
    ]
    assert query.at_step(index, view, "no such metric", 10) is None


def test_a_value_that_was_trained_again_is_not_the_one_at_its_step(index: Index):
    """A later session's value counts; a best one that only an earlier session had is told apart."""
    index.put_run(made("r", elapsed_s=[1.0, None]), 1)
    say(index, "r", *({"step": step, "loss": loss} for step, loss in ((1, 3.0), (2, 0.5), (3, 1.0))))
    assert not query.is_best_superseded(index, viewed(index), "loss")
    say(index, "r", {"step": 2, "loss": 2.0}, session=2)
    view = viewed(index)
    assert query.at_step(index, view, "loss", 3) == (2, 2.0)
    assert query.is_best_superseded(index, view, "loss")


@pytest.mark.parametrize(
    ("name", "names", "found"),
    [
        ("loss", ["lr", "val_loss"], "val_loss"),
        ("train_loss", ["eval_loss", "train_loss"], "eval_loss"),
        ("train/loss", ["train/acc", "val/loss", "val/acc"], "val/loss"),
        ("loss/train", ["loss/val"], "loss/val"),
        ("val_loss", ["val_loss", "loss"], None),
        ("loss", ["loss", "lr"], None),
    ],
)
def test_the_twin_of_a_metric(name: str, names: list[str], found: str | None):
    """The same on held-out data, by its usual names."""
    assert metric_names.twin(name, names) == found


def test_the_metrics_to_look_at_first(index: Index):
    """Each run's main one, before their twins on held-out data; nothing else, and none twice."""
    for run_id, names in (("a", ["lr", "val_loss", "loss"]), ("b", ["loss"]), ("c", ["huber_loss"])):
        index.put_run(made(run_id), 1)
        say(index, run_id, {"step": 1, **dict.fromkeys(names, 1.0)})
    views = [viewed(index, run_id) for run_id in "abc"]
    assert metric_names.leading_metrics(views) == ["loss", "huber_loss", "val_loss"]


@pytest.mark.parametrize(("name", "is_quality"), [("loss", True), ("val/acc", True), ("loss_total", True), ("my metric", True), ("lr", False), ("epoch", False), ("grad_norm", False), ("total_steps", False), ("learning_rate", False)])  # fmt: skip
def test_not_every_metric_has_a_best(name: str, is_quality: bool, index: Index):
    """A learning rate is neither better the smaller nor the greater it is."""
    assert metric_names.is_quality(name) == is_quality
    index.put_run(made("r"), 1)
    say(index, "r", {"step": 1, name: 2.0})
    is_known = name != "my metric"
    assert (metric_names.best(viewed(index), name) is not None) == (is_quality and is_known)


@pytest.mark.parametrize(("key", "descends"), [("created", True), ("name", False), ("loss", False), ("acc", True), ("best.acc", True), ("param.acc", False)])  # fmt: skip
def test_the_usual_order_of_a_key(key: str, descends: bool):
    """Newest first, best first, names from A to Z."""
    assert filters.usually_descends(key, lambda name: name == "acc") == descends


@pytest.mark.parametrize(
    ("text", "search", "names"),
    [
        ("digits", "digits", []),
        ("  two  words ", "two words", []),
        ("digits status=failed lr>1e-4", "digits", ["status", "lr"]),
        ("it's late", "it's late", []),
        ("digits name='my run' late", "digits late", ["name"]),
        ("", "", []),
    ],
)
def test_a_search_may_hold_conditions(text: str, search: str, names: list[str]):
    """What holds a sign is a condition, all else is looked for as it stands."""
    wanted = filters.parse_search(text)
    assert wanted.search == search
    assert [condition.name for condition in wanted.conditions] == names
