"""Columns that were chosen, groups, and the mean of a group's curves."""

from tests.conftest import Runs
from tests.web.conftest import Server

SCRIPT = """
    lr, seed = float(sys.argv[1]), int(sys.argv[2])
    print(json.dumps({"event": "params", "params": {"lr": lr, "seed": seed, "layers": 2}}))
    for step in (1, 2):
        print(json.dumps({"step": step, "loss": lr * seed / step, "acc": lr, "elo": 1.0}))
    sys.exit(seed == 9)
"""


def made(runs: Runs, *asked: tuple[str, float, int]) -> None:
    """Runs of a script: group, learning rate, seed."""
    script = runs.script(SCRIPT)
    for group, lr, seed in asked:
        runs.call("run", "-n", f"{group}-{lr}-{seed}", "--group", group, script, "--", lr, seed)


def test_the_usual_columns_are_the_parameters_that_differ(server: Server, runs: Runs):
    """Whatever else there is can be chosen: parameters, the best and the last value of metrics."""
    made(runs, ("a", 0.1, 1), ("a", 0.2, 2))
    told = server.get("/api/runs").json
    assert {column["key"] for column in told["columns"]} == {"param.lr", "param.seed"}
    keys = [column["key"] for column in told["columns"]]
    assert [dict(zip(keys, row["cells"], strict=True)) for row in told["runs"]] == [
        {"param.lr": 0.2, "param.seed": 2},
        {"param.lr": 0.1, "param.seed": 1},
    ]
    assert {"param.layers", "best.loss", "metric.loss", "best.acc"} <= set(told["offered"])


def test_columns_that_were_chosen(server: Server, runs: Runs):
    """In the order asked for, with what values of a metric are better; none where a run has none."""
    made(runs, ("a", 0.5, 1))
    told = server.get("/api/runs", column=["best.loss", "metric.acc", "param.lr", "param.nothing", "best.elo"]).json
    assert [(column["title"], column["goal"]) for column in told["columns"]] == [
        ("best loss", "min"), ("acc", "max"), ("lr", None), ("nothing", None), ("best elo", None),
    ]  # fmt: skip
    assert told["runs"][0]["cells"] == [0.25, 0.5, 0.5, None, None]  # nobody knows which elo is better
    assert server.get("/api/runs", column="").json["columns"] == []


def test_groups_with_how_they_ended_and_what_was_best(server: Server, runs: Runs):
    """A row for each group, and for each value of a parameter; the filter of a row finds its runs."""
    made(runs, ("old", 0.1, 1), ("old", 0.1, 3), ("new", 0.2, 9), ("new", 0.2, 1))
    told = server.get("/api/groups").json
    assert (told["metric"], told["goal"], told["total"]) == ("loss", "min", 2)
    new, old = told["groups"]
    assert (new["value"], new["runs"], new["statuses"]) == ("new", 2, {"failed": 1, "completed": 1})
    assert (old["best"]["name"], old["best"]["value"]) == ("old-0.1-1", 0.05)
    assert (old["mean"], old["counted"]) == (0.1, 2)  # of 0.05 and 0.15
    assert abs(old["deviation"] - 0.005**0.5) < 1e-12
    assert [row["name"] for row in server.get("/api/runs", filter=new["filter"]).json["runs"]] == [
        "new-0.2-1",
        "new-0.2-9",
    ]

    told = server.get("/api/groups", by="param.lr", metric="acc", filter="status=completed").json
    assert [(row["value"], row["runs"], row["best"]["value"]) for row in told["groups"]] == [
        ("0.2", 1, 0.2),
        ("0.1", 2, 0.1),
    ]
    assert len(server.get("/api/runs", filter=told["groups"][1]["filter"]).json["runs"]) == 2
    assert server.get("/api/groups", metric="elo").json["groups"][0]["best"] is None


def test_a_name_with_quotes_finds_its_own_group(server: Server, runs: Runs):
    """As the filter of a row is made from what users typed."""
    script = runs.script(SCRIPT)
    for group in ('my "best" ones', "it's", """it's "both\"""", "a=b lr>1"):
        assert runs.call("run", "--group", group, script, "--", 0.1, 1).returncode == 0
    for row in server.get("/api/groups").json["groups"]:
        assert server.get("/api/runs", filter=row["filter"]).json["shown_of"] == 1, row


def test_mean_and_spread_of_a_filter(server: Server, runs: Runs):
    """Over the runs that it finds, and with the metrics that these have."""
    made(runs, ("a", 0.1, 1), ("a", 0.1, 3), ("b", 0.5, 1))
    told = server.get("/api/bands", filter="group=a", metric="loss").json
    assert (told["xs"], told["runs_of"], told["runs"], told["metric"]) == ([1.0, 2.0], 2, [2, 2], "loss")
    assert [round(value, 9) for value in told["mean"]] == [0.2, 0.1]
    assert told["metrics"] == ["acc", "elo", "loss"]
    assert server.get("/api/bands", filter="group=none").json["runs_of"] == 0


def test_columns_of_all_runs_at_once(server: Server, runs: Runs):
    """For plots: a list for each column, the newest run first, and how many runs match."""
    made(runs, ("a", 0.5, 1), ("b", 0.25, 2))
    told = server.get("/api/values", column=["param.lr", "best.loss", "param.none"], filter="lr>0").json
    assert (told["names"], told["total"]) == (["b-0.25-2", "a-0.5-1"], 2)
    assert told["values"] == [[0.25, 0.5], [0.25, 0.25], [None, None]]


def test_what_mattered_for_a_metric(server: Server, runs: Runs):
    """By ranks, where enough runs have all of the parameters."""
    script = runs.script("""
        lr, layers = float(sys.argv[1]), int(sys.argv[2])
        print(json.dumps({"event": "params", "params": {"lr": lr, "layers": layers}}))
        print(json.dumps({"step": 1, "loss": lr}))
    """)
    asked = {"column": ["param.lr", "param.layers", "best.loss"], "of": "best.loss"}
    for number in range(9):
        runs.call("run", script, "--", number / 10, (7 * number) % 9)
    assert server.get("/api/values", **asked).json["importance"] is None
    runs.call("run", script, "--", 0.9, 4)
    assert next(iter(server.get("/api/values", **asked).json["importance"])) == "param.lr"
    assert server.get("/api/values", column="param.lr", of="best.loss").json["importance"] is None
