"""The live view's behaviour, driven by Textual's pilot over a home with real runs in it."""

import asyncio
import json
import re
import time
from array import array
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
import psutil
import pytest
from rich.text import Text
from textual.pilot import Pilot
from textual.widgets import Input, Static

from backprop.records import Gpu, MachineState, Ticket, Usage
from backprop.store.curves import Axis, Curve
from backprop.store.home import Home
from backprop.store.query import GroupRow
from backprop.views.live_feed import LiveFeed, LiveState, Log
from backprop.views.live_rows import GroupHead
from backprop.views.terminal.machine_summary import Occupancy
from backprop.views.watch import app as view
from backprop.views.watch import texts
from backprop.views.watch.app import WatchApp
from backprop.views.watch.chart import chart, usage_charts
from backprop.views.watch.dialogs import Question
from backprop.views.watch.panes import CurvePane, RunsTable, TextPane
from tests.conftest import HANG_S, Runs, wait_for
from tests.records import LIMITS
from tests.unit.lifecycle.test_requests import hanging

HOSTILE = "[red]evil[/red] \x1b[31m\x1b]0;title\x07 <b>\u202e\n[@click=app.quit]x[/]"
ENDED = """
    for step in range(40):
        print(json.dumps({"step": step, "loss": 1 / (step + 1), "test_accuracy": step / 40}))
    print("the last words", file=sys.stderr)
"""
GOES_ON = """
    step = 0
    while not os.path.exists("go"):
        step += 1
        print(json.dumps({"step": step, "loss": 1 / step}), flush=True)
        time.sleep(0.05)
"""


@pytest.fixture(autouse=True)
def messages_stay(monkeypatch: pytest.MonkeyPatch):
    """However long a busy machine takes until somebody looks at them."""
    monkeypatch.setattr(view, "_MESSAGE_S", HANG_S)


@pytest.fixture
def home(runs: Runs) -> Iterator[Runs]:
    """A home with a run that has ended."""
    runs.script(ENDED, "ended.py")
    assert runs.call("run", "ended.py", "--run-id", "first", "-n", "digits").returncode == 0
    yield runs
    (runs.work / "go").touch()


def drive(
    runs: Runs,
    story: Callable[[Pilot[None], WatchApp], Coroutine[Any, Any, None]],
    size: tuple[int, int] = (80, 24),
    run_id: str | None = None,
) -> None:
    """Run the view without a terminal, and the story of a user in it."""

    feed = LiveFeed(Home(runs.home), LIMITS, "none")

    async def go() -> None:
        app = WatchApp(feed, run_id)
        async with app.run_test(size=size, notifications=True) as pilot:
            await until(pilot, lambda: bool(lines_of(app)))
            await pilot.pause()  # the machine's gauges have moved the table by then
            await story(pilot, app)

    asyncio.run(go())
    feed.close(HANG_S)  # the view itself waits for two seconds


def test_a_state_that_comes_late(home: Runs):
    """Taken while the view ends, whose widgets are gone."""
    apps = []

    async def end(_: Pilot[None], app: WatchApp) -> None:
        apps.append(app)

    drive(home, end)
    (app,) = apps
    app.on_watch_app_state_read(app.StateRead(app._state))
    assert app.screen_stack == []


async def until(pilot: Pilot[None], condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + HANG_S
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come true in time"
        await pilot.pause(0.02)


def text_of(app: WatchApp, selector: str) -> str:
    return str(app.screen_stack[0].query_one(selector, Static).visual)


def lines_of(app: WatchApp) -> list[str]:
    return [line.plain for line in app.screen_stack[0].query_one(RunsTable)._lines]


def title_of(app: WatchApp) -> str:
    title = app.screen_stack[0].query_one(CurvePane)._border_title
    return "" if title is None else title.plain


def picture_of(app: WatchApp) -> str:
    """Every character on the screen."""
    drawn = app.export_screenshot()
    return re.sub(r"<[^>]*>", "", drawn).replace("&#160;", " ")


def test_it_shows_runs_the_machine_and_a_curve(home: Runs):
    """What there is to see, at a glance."""

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await until(pilot, lambda: any("\u2800" < dot <= "\u28ff" for dot in text_of(app, "#curve")))  # braille
        (line,) = lines_of(app)
        assert re.search(r"first +✓ completed .*/600 s +39 +0.025 █", line)
        assert "RAM" in text_of(app, "#machine")
        assert "slots ━━━━━━━━ 0 of 2" in text_of(app, "#machine")
        assert "first · loss 0.025 · best 0.025 at 39" in title_of(app)

    drive(home, story)


@pytest.mark.parametrize("size", [(200, 50), (120, 30), (80, 24), (40, 12), (20, 5)])
def test_it_fits_every_screen(home: Runs, size: tuple[int, int]):
    """No line of the table is cut by the screen's edge, and the run can be told wherever it is shown."""

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await pilot.pause()
        assert all(Text(line).cell_len <= size[0] for line in lines_of(app))
        assert "first" in lines_of(app)[0]
        assert app.query_one(TextPane).display is True or size[0] < 120

    drive(home, story, size)


def test_enter_shows_one_run_on_the_whole_screen_and_escape_goes_back(home: Runs):
    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await pilot.press("enter")
        await until(pilot, lambda: app.query_one(CurvePane).content_size.height > 5)
        assert app.query_one(RunsTable).region.height == 0
        await pilot.press("escape")
        await until(pilot, lambda: app.query_one(RunsTable).region.height > 0)

    drive(home, story, (40, 12))


def test_keys_choose_what_is_shown_of_a_run(home: Runs):
    """Metric, scale, axis, log, stderr, details."""

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await pilot.press("m")
        await until(pilot, lambda: "first · test_accuracy 0.975 · best 0.975 at 39" in title_of(app))
        await pilot.press("g", "t")
        await until(pilot, lambda: title_of(app).endswith("· over seconds of training · log"))
        await pilot.press("l")
        await until(pilot, lambda: '"step": 39' in text_of(app, "#body"))
        await pilot.press("e")
        await until(pilot, lambda: text_of(app, "#body") == "the last words")
        await pilot.press("d")
        await until(pilot, lambda: "checkpoint" not in text_of(app, "#body") and "digits" in text_of(app, "#body"))

    drive(home, story)


def test_a_run_that_appears_is_shown_and_the_cursor_stays_on_its_run(home: Runs):
    """A new run comes first; whoever looks at another one goes on looking at it."""

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        assert app.query_one(RunsTable).run_id == "first"
        home.script(GOES_ON)
        home.start("run", "train.py", "--run-id", "second")
        await until(pilot, lambda: len(lines_of(app)) == 2 and "running" in lines_of(app)[0])
        assert app.query_one(RunsTable).run_id == "first"
        await pilot.press("up")
        await until(pilot, lambda: app._state.shown is not None and app._state.shown.view.run.spec.id == "second")
        await until(pilot, lambda: app._state.shown.view.last_step is not None)  # type: ignore[union-attr]
        steps = app._state.shown.view.last_step  # type: ignore[union-attr]
        await until(pilot, lambda: app._state.shown.view.last_step > steps)  # type: ignore[union-attr,operator]

    drive(home, story)


def test_pause_and_resume_from_the_keyboard(home: Runs):
    """`p` holds the run that the cursor is on, `r` lets it go on; what cannot be done is said."""
    home.script(GOES_ON)
    home.start("run", "train.py", "--run-id", "second")
    wait_for(lambda: home.output("second"))

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await until(pilot, lambda: "running" in lines_of(app)[0])
        await pilot.press("p")
        await until(pilot, lambda: "paused" in lines_of(app)[0])
        assert home.document("second")["reason"].startswith("`p in backprop watch` by ")
        await pilot.press("r")
        await until(pilot, lambda: "running" in lines_of(app)[0])
        await pilot.press("down", "p")
        await until(pilot, lambda: any("is not running" in n.message for n in app._notifications))

    drive(home, story, run_id="second")


def test_resume_gives_an_ended_run_another_session(home: Runs):
    """Started in the background: it outlives the view."""

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await pilot.press("r")
        await until(pilot, lambda: isinstance(app.screen, Question))  # it has completed
        await pilot.press("y")
        await until(pilot, lambda: len(app._state.rows.rows[0].view.run.sessions) == 2)

    drive(home, story)
    wait_for(lambda: home.document("first")["status"] == "completed")


def test_a_stop_is_asked_for_and_enter_is_no(home: Runs):
    """Whoever presses keys by mistake ends nothing; a run that has ended is not asked about."""
    home.script(GOES_ON)
    home.start("run", "train.py", "--run-id", "second")
    wait_for(lambda: home.output("second"))

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await until(pilot, lambda: "running" in lines_of(app)[0])
        for key in ("s", "k"):
            await pilot.press(key)
            await until(pilot, lambda: isinstance(app.screen, Question))
            await pilot.press("enter")
            await until(pilot, lambda: not isinstance(app.screen, Question))
        await pilot.press("down", "s")
        await until(pilot, lambda: any("not running" in n.message for n in app._notifications))
        assert not [entry for entry in home.journal("second") if entry["event"] == "stop_asked"]
        await pilot.press("up", "k")
        await until(pilot, lambda: isinstance(app.screen, Question))
        await pilot.press("y")
        await until(pilot, lambda: any("stopped" in line for line in lines_of(app)))

    drive(home, story, run_id="second")
    (asked,) = [entry for entry in home.journal("second") if entry["event"] == "stop_asked"]
    assert asked["now"] is True


def test_k_ends_a_supervisor_that_hangs(home: Runs):
    """As `stop --now` does; what came of it is told."""
    home.script(GOES_ON)
    supervisor = home.start("run", "train.py", "--run-id", "second")
    wait_for(lambda: home.output("second"))

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await until(pilot, lambda: "running" in lines_of(app)[0])
        with hanging(psutil.Process(supervisor.pid)):
            await pilot.press("k")
            await until(pilot, lambda: isinstance(app.screen, Question))
            await pilot.press("y")
            await until(pilot, lambda: any(n.message.startswith("run second ") for n in app._notifications))
        assert home.tree() == []

    drive(home, story, run_id="second")


def test_a_disk_that_fails_under_an_order_is_told(home: Runs):
    """And nothing but that: the view goes on."""

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        journal = home.rundir("first") / "journal.jsonl"
        journal.unlink()
        journal.mkdir()
        await pilot.press("p")
        await until(pilot, lambda: any("journal.jsonl" in n.message for n in app._notifications))

    drive(home, story)


def test_an_index_that_cannot_be_read_is_said_and_hides_nothing(home: Runs):
    """What was seen last stays, with the reason; as soon as it can be read again all is well."""

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        runs_path = home.home / "runs"
        runs_path.rename(home.home / "away")
        runs_path.write_text("not a folder")
        await until(pilot, lambda: "cannot read" in text_of(app, "#head"))
        assert "first" in lines_of(app)[0]
        runs_path.unlink()
        (home.home / "away").rename(runs_path)
        await until(pilot, lambda: "1 run" in text_of(app, "#head"))

    drive(home, story)


def test_search_filters_the_list(home: Runs):
    """Words and conditions; a condition that makes no sense is said and hides nothing; escape shows all again."""
    home.script("sys.exit(3)", "bad.py")
    home.call("run", "bad.py", "--run-id", "second")

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await until(pilot, lambda: len(lines_of(app)) == 2)
        await pilot.press("slash", *"digits")
        await until(pilot, lambda: len(lines_of(app)) == 1 and "first" in lines_of(app)[0])
        app.query_one("#search", Input).value = "status=failed"
        await until(pilot, lambda: len(lines_of(app)) == 1 and "second" in lines_of(app)[0])
        app.query_one("#search", Input).value = "status=nonsense"
        await until(pilot, lambda: "cannot parse filter" in text_of(app, "#head"))
        app.query_one("#search", Input).value = "no-such-run"
        await until(pilot, lambda: text_of(app, "#curve") == "no runs match; esc shows all")
        await pilot.press("escape")
        await until(pilot, lambda: len(lines_of(app)) == 2 and "2 runs" in text_of(app, "#head"))

    drive(home, story)


def test_the_mouse_chooses_a_run(home: Runs):
    home.script("", "other.py")
    home.call("run", "other.py", "--run-id", "second")

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await until(pilot, lambda: len(lines_of(app)) == 2)
        chosen = app.query_one(RunsTable).run_id
        await pilot.click(RunsTable, offset=(5, 2 if chosen == "second" else 1))
        await until(pilot, lambda: app.query_one(RunsTable).run_id not in {None, chosen})

    drive(home, story)


def test_hostile_text_is_shown_and_not_obeyed(runs: Runs):
    """Names, arguments, metric names and log lines full of markup and escape sequences, wherever they are shown."""
    runs.script(
        f"""
        evil = json.loads({json.dumps(json.dumps(HOSTILE))})
        print(json.dumps({{"step": 1, evil: 0.5, "x" * 100_000: 1.0}}))
        print("y" * 1_000_000)
        print(evil)
        """
    )
    assert runs.call("run", "train.py", "--run-id", "r", "-n", "[red]evil[/red] [bold", "--", HOSTILE).returncode == 0

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        (line,) = lines_of(app)
        assert "[red]evil[/red] [bold" in line
        assert "\\x1b[31m" in line
        await until(pilot, lambda: "[red]evil[/red] \\x1b[31m" in title_of(app))
        for key in ("l", "d"):
            await pilot.press(key)
            await until(pilot, lambda: "\\x1b[31m" in text_of(app, "#body"))
        await pilot.press("s")
        await until(pilot, lambda: "[red]evil[/red] [bold), completed" in picture_of(app))  # the answer, as it is shown
        shown = picture_of(app)
        assert "\x1b" not in shown
        assert "\u202e" not in shown

    drive(runs, story, (200, 50))


def test_a_state_can_be_exported(home: Runs):
    """For the documentation: an SVG of what is on the screen."""

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await pilot.pause()
        assert app.export_screenshot().startswith("<svg")

    drive(home, story)


# -- the pieces


def curve(values: list[float], axis: Axis = Axis.STEP) -> Curve:
    xs = array("d", range(len(values)))
    return Curve(
        run_id="r", metric="loss", axis=axis, xs=xs, ys=array("d", values), point_count=len(values), is_reduced=False
    )


@pytest.mark.parametrize(
    "values",
    [[1.0], [1.0, 1.0], [1e308, -1e308], [5e-324, 0.0], [float("nan"), 1.0, float("inf"), 2.0], [1.0, float("nan")]],
)
@pytest.mark.parametrize("is_log", [False, True])
def test_any_curve_can_be_drawn(values: list[float], is_log: bool):
    """In exactly the room there is."""
    drawn = chart(curve(values), 60, 12, is_log=is_log)
    assert all(len(line) <= 60 for line in drawn.splitlines())
    assert len(drawn.splitlines()) <= 12


def test_a_curve_without_a_finite_value_says_so():
    assert chart(curve([float("nan")]), 60, 12, is_log=False) == "no finite values yet"
    assert chart(curve([-1.0]), 60, 12, is_log=True) == "no positive values: press g for a linear scale"


def test_a_group_is_a_row_that_opens_and_closes(home: Runs):
    """`enter` on it, `o` also on one of its runs, `O` all of them; what is asked of a run is not asked of a group."""
    for name, loss in (("worse", 0.5), ("better", 0.25)):
        home.script(f"print(json.dumps({{'step': 1, 'loss': {loss}}}))", f"{name}.py")
        assert home.call("run", f"{name}.py", "--run-id", name, "--group", "rates").returncode == 0

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await until(
            pilot, lambda: lines_of(app)[0] == "▸ rates  2 completed · best loss 0.25 (better) · mean 0.375 ± 0.1768"
        )
        assert lines_of(app)[1].startswith("first ")
        await until(pilot, lambda: "rates: best run better · loss 0.25" in title_of(app))
        await pilot.press("s")
        await until(pilot, lambda: any("Open the group" in n.message for n in app._notifications))
        assert not isinstance(app.screen, Question)
        await pilot.press("enter")
        await until(pilot, lambda: [line[:9] for line in lines_of(app)[:3]] == ["▾ rates  ", "  better ", "  worse  "])
        assert app.query_one(RunsTable).selection.group == "rates"
        await pilot.press("down", "down")
        await until(pilot, lambda: title_of(app).startswith("worse · loss 0.5"))
        await pilot.press("o")
        await until(pilot, lambda: len(lines_of(app)) == 2)
        assert app.query_one(RunsTable).selection.group == "rates"
        for count in (4, 2):
            await pilot.press("O")
            await until(pilot, lambda count=count: len(lines_of(app)) == count)

    drive(home, story, (120, 30))


def test_the_group_of_the_run_that_was_asked_for_is_open(home: Runs):
    """And stays so when the cursor leaves it."""
    home.script("", "other.py")
    for name in ("a", "b"):
        assert home.call("run", "other.py", "--run-id", name, "--group", "pair").returncode == 0

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await until(pilot, lambda: len(lines_of(app)) == 4)
        assert app.query_one(RunsTable).run_id == "a"
        await pilot.press("down")
        await until(pilot, lambda: title_of(app).startswith("first"))
        assert len(lines_of(app)) == 4

    drive(home, story, run_id="a")


def test_what_a_run_used_is_shown_as_charts(home: Runs):
    """With units, over a common time; what is not known, or was zero all the time, has none."""
    home.set_usage(
        "first",
        '{"since":0,"until":3,"count":3,"values":{"cpu":[100,150,200],"ram":[1000,2000,3000],"machine_cpu":50,'
        '"machine_swap":0,"processes":1}}\n',
    )

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        assert app.query_one(CurvePane).display is True
        await pilot.press("u")
        await until(pilot, lambda: "CPU 200 % · mean 150 % · peak 200 %" in text_of(app, "#body"))
        drawn = text_of(app, "#body")
        assert re.findall(r"^[A-Z].*? \d", drawn, re.MULTILINE) == ["CPU 2", "RAM 3", "CPU of the machine 5"]
        assert re.search(r"^ *\d\.0 GB┤", drawn, re.MULTILINE)
        assert str(app.query_one(TextPane).border_title) == "usage over seconds of training"
        assert app.query_one(CurvePane).display is True  # beside it

    drive(home, story, (130, 40))


def test_a_run_that_was_not_measured_says_so(home: Runs):
    home.set_usage("first", "")

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await pilot.press("u")
        await until(pilot, lambda: text_of(app, "#body") == "nothing was measured yet")
        await pilot.press("u")  # the curve again
        await until(pilot, lambda: app.query_one(CurvePane).display is True)

    drive(home, story)


def group(name: str, statuses: dict[str, int], metric: str | None = "loss", **row: Any) -> GroupHead:
    whole = {"best": None, "best_id": None, "best_name": None, "counted": 0, "mean": None, "deviation": None, **row}
    return GroupHead(
        GroupRow(value=name, statuses=statuses, newest=0.0, newest_ids={}, **whole), metric, "r1", is_open=False
    )


SWEPT = {"best": 0.25, "best_id": "r1", "counted": 3, "mean": 0.5, "deviation": 0.1}


@pytest.mark.parametrize(
    ("width", "line"),
    [
        (90, "▸ rates  2 running, 1 failed · best loss 0.25 (r1) · mean 0.5 ± 0.1"),
        (60, "▸ rates  2 running, 1 failed · best loss 0.25 (r1)"),
        (48, "▸ rates  2 running, 1 failed · best loss 0.25"),
        (30, "▸ rates  2 running, 1 failed"),
        (20, "▸ rates  2 running"),
        (5, "▸ ra…"),
    ],
)
def test_a_groups_line_leaves_out_what_does_not_fit(width: int, line: str):
    """From the right; nothing is cut in the middle but a name."""
    assert texts.group_line(group("rates", {"failed": 1, "running": 2}, **SWEPT), width).plain == line


def test_a_groups_line_guesses_no_best():
    assert texts.group_line(group("g", {"failed": 2}, None), 80).plain == "▸ g  2 failed"


def test_a_hostile_group_is_text():
    """Long, with markup and escape sequences, from right to left."""
    for name in (HOSTILE, "x" * 100_000, "\u202e\n" * 50):
        line = texts.group_line(group(name, {"running": 1}, "[b]\x1b[0m", **SWEPT), 100)
        assert line.cell_len <= 100
        assert "1 running" in line.plain
        assert not {"\x1b", "\n", "\u202e"} & set(line.plain)


@pytest.mark.parametrize("size", [(200, 50), (58, 17), (40, 6), (10, 3), (1, 1)])
def test_charts_of_usage_fit_their_width(size: tuple[int, int]):
    """Where they need more lines than there are, the pane scrolls."""
    names = ("sys/cpu", "sys/ram", "sys/gpu_util", "sys/disk_write")
    curves = [msgspec.structs.replace(curve([0.0, 5e9, 1.0], Axis.TIME), metric=name) for name in names]
    own = [name.removeprefix("sys/") for name in names]
    usage = Usage(
        measured_s=3.0,
        peak=dict.fromkeys(own, 5e9),
        mean=dict.fromkeys(own, 1e9),
        energy_wh=None,
        last=dict.fromkeys(names, 1.0),
        counts=dict.fromkeys(names, 3),
    )
    lines = usage_charts(usage, curves, *size).splitlines()
    assert all(len(line) <= size[0] for line in lines)
    assert len(lines) <= max(size[1], 4 * (1 + 3) + 2)


def test_columns_leave_room_for_long_ids():
    """The status is shortened, then a column left out; none is cut by the edge."""
    for width in range(26, 200):
        for id_width in (8, 10, 14):
            columns = texts.columns_for(width, id_width)
            assert sum(column.width + 1 for column in columns) <= width + 1
    assert [column.title for column in texts.columns_for(44, 10)] == ["RUN", "STATUS", "STEP", "LOSS"]


def test_the_gauges_tell_of_cards_slots_and_the_line():
    """What is known is shown; what the probe cannot tell is said; no more lines than there is room for."""
    card = Gpu(
        index=0, uuid="u", name="x", vendor="nvidia", vram_total_bytes=80 * 10**9, vram_free_bytes=20 * 10**9, temp_c=60
    )
    tickets = [
        Ticket(run_id=name, pid=1, user="ada", since_unix_s=0, max_parallel=2, is_running=name == "a") for name in "abc"
    ]
    occupancy = Occupancy(taken=tuple(tickets[:1]), queue=tuple(tickets[1:]))
    picture = LiveState(at=texts.now(), limits=LIMITS, machine=MachineState(gpus=(card,)), occupancy=occupancy)
    told = texts.gauges(picture, 80, 4).plain
    assert "slots ━━━━━━━━ 1 of 2, 2 queued" in told
    assert "GPU 0 ━━━━━━━━ 20.0 GB free   temp ━━━━━━━━ 60 °C" in told
    assert texts.gauges(picture, 40, 2).plain.count("\n") == 1
    assert texts.queue_positions(occupancy.queue) == {"b": 1, "c": 2}
    blind = msgspec.structs.replace(picture, machine=MachineState(gpus=None, gpu_problem="no \x1b[31mdriver"))
    assert "GPUs no \\x1b[31mdriver" in texts.gauges(blind, 80, 4).plain


def test_steps_with_their_total_are_not_cut_while_names_have_room():
    widths = {column.title: column.width for column in texts.columns_for(128, 8)}
    assert widths["STEP"] == len("12,420/880,000") + 1


def test_a_long_trend_is_thinned_and_keeps_its_end():
    assert texts.trend(tuple(range(100)), 8) == "▁▂▃▄▅▆▇█"
    assert texts.trend((), 8) == ""


def test_a_log_without_a_session_says_so():
    assert texts.log_lines(None).plain == "no output yet"
    assert texts.log_lines(Log(1, ("a\tb", "\x1b[0m"), is_cut=False)).plain == "a    b\n\\x1b[0m"


def test_a_sweep_has_a_line_while_it_goes_on(home: Runs):
    """Trials by rung, the best so far and the budget; none when it has ended."""
    home.script(
        """
        step = 0
        while not os.path.exists("enough"):
            step += 1
            print(json.dumps({"step": step, "score": float(sys.argv[2])}), flush=True)
            time.sleep(0.02)
        """,
        "search.py",
    )
    words = ("--goal", "max:score", "--param", "lr=0.25,0.5", "--sampler", "grid", "--budget", 60, "-p", 1)
    done = home.call("sweep", "search.py", "-n", "hunt", *words, "--from-scratch", "-d")
    assert done.returncode == 0, done.stderr

    async def story(pilot: Pilot[None], app: WatchApp) -> None:
        await until(pilot, lambda: "rung 0: 0 done + 1 active" in text_of(app, "#sweeps"))
        assert re.search(r"sweep hunt · running · rung 0: .* of 60 min used", text_of(app, "#sweeps"))
        (home.work / "enough").touch()
        await until(pilot, lambda: text_of(app, "#sweeps") == "")
        assert not app.screen_stack[0].query_one("#sweeps").display

    drive(home, story, size=(110, 30))
