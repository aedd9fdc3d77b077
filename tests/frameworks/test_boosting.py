"""XGBoost and LightGBM: scripts that nobody edited stop after a round, and end as if nothing had happened."""

import json
from pathlib import Path

import pytest

from tests.conftest import HANG_S, IS_NIGHTLY, nightly, wait_for
from tests.frameworks.conftest import EXAMPLES, FrameworkRuns, assert_first_step_has_total

LIBRARIES = ("xgboost", "lightgbm")
# rounds enough that a test can stop between them; both end early
LONG = {
    "xgboost": ("--rounds", 900, "--lr", 0.05, "--patience", 10),
    "lightgbm": ("--rounds", 900, "--lr", 0.02, "--patience", 100),
}


def example(library: str) -> Path:
    return EXAMPLES / f"digits_{library}.py"


def loss(library: str) -> str:
    return "valid-mlogloss" if library == "xgboost" else "valid-multi_logloss"


def test_xgboost_with_arguments_by_position(framework_runs: FrameworkRuns):
    """As in XGBoost's own demos: a warning of XGBoost, and all else as usual. Parameters may be a list of pairs."""
    framework_runs.script(
        """
        import numpy as np
        import xgboost
        data = xgboost.DMatrix(np.arange(40.0).reshape(20, 2), label=np.arange(20) % 2)
        params = [("objective", "binary:logistic"), ("eval_metric", "logloss"), ("eval_metric", "error")]
        xgboost.train(params, data, 7, [(data, "train")], evals_result={})
        """
    )
    done = framework_runs.call("run", "--run-id", "r", "train.py")
    assert done.returncode == 0, done.stderr
    assert "hook" not in done.stderr
    document = framework_runs.document("r")
    assert (document["total_steps"], document["printed_metrics"]) == (7, [])
    assert set(framework_runs.curve("r", "train-logloss")) == set(range(1, 8))
    assert set(framework_runs.curve("r", "train-error")) == set(range(1, 8))


@pytest.mark.parametrize("library", LIBRARIES)
def test_an_example_that_is_cut_ends_with_the_model_and_the_curve_of_one_that_is_not(
    library: str, framework_runs: FrameworkRuns
):
    """Nightly also of one without Backprop, after another cut."""
    runs, cuts = framework_runs, [60, 150][: 1 + IS_NIGHTLY]
    whole = runs.call("run", "--run-id", "whole", example(library), "--", *LONG[library], "--out", "whole")
    assert whole.returncode == 0
    last_words = {whole.stdout.splitlines()[-1]}
    if IS_NIGHTLY:
        last_words.add(runs.bare(example(library), *LONG[library], "--out", "bare").splitlines()[-1])
        assert (runs.work / "bare").read_bytes() == (runs.work / "whole").read_bytes()
    runs.cut([example(library), "--", *LONG[library], "--out", "cut"], "cut", cuts)

    assert (runs.work / "cut").read_bytes() == (runs.work / "whole").read_bytes()
    assert {runs.output("cut", session=len(cuts) + 1).splitlines()[-1]} == last_words
    curve = runs.curve("cut", loss(library))
    assert 150 < len(curve) < 900
    assert curve == runs.curve("whole", loss(library))
    assert_first_step_has_total(runs, "whole", "round")
    checkpoints = runs.document("cut")["checkpoints"]
    # the whole training is saved at its end, too, if it took more than a second
    steps = [checkpoint["step"] for checkpoint in checkpoints if "-finished-" not in checkpoint["path"]]
    assert len(steps) == len(cuts)
    assert all(step >= cut for step, cut in zip(steps, cuts, strict=True))


def saves_of_last_session(document: dict) -> int:
    session = len(document["sessions"])
    return sum(checkpoint["session"] == session for checkpoint in document["checkpoints"])


@pytest.mark.nightly
@pytest.mark.parametrize("library", LIBRARIES)
def test_a_timebox_leaves_a_checkpoint_and_one_is_saved_as_often_as_asked(library: str, framework_runs: FrameworkRuns):
    runs = framework_runs
    words = [example(library), "--", "--rounds", 100_000, "--lr", 1e-5, "--patience", 100_000]
    minutes = 0.15
    done = runs.call("run", "--run-id", "r", "-m", minutes, "-c", 0.01, *words)
    while saves_of_last_session(runs.document("r")) < 2:  # over before it had trained long: so busy is the machine
        minutes *= 2
        done = runs.call("resume", "r", "-m", minutes)
    assert done.returncode == 0, done.stderr
    document = runs.document("r")
    assert document["status"] == "timeboxed"
    assert document["sessions"][-1]["exit_code"] == 0
    checkpoints = document["checkpoints"]
    assert all(checkpoint["valid"] for checkpoint in checkpoints)
    assert checkpoints[-1]["step"] == document["last_step"]
    assert not (runs.work / f"digits-{library}.txt").exists()  # what comes after training was not done


# waits where there is a file hold-PLACE until that file, which is now called `held`, is taken away
DATA = """
import json, os, sys, time
import numpy
def hold(place):
    try:
        os.rename(f"hold-{place}", "held")
    except FileNotFoundError:
        return
    while os.path.exists("held"):
        time.sleep(0.01)
images = numpy.random.default_rng(7).integers(0, 17, (1797, 64)).astype(float)
labels = images[:, 20:23].sum(axis=1) // 5
"""

XGBOOST_SCRIPT = f"""{DATA}
import xgboost as xgb
BASE = {{"max_depth": 3, "nthread": 1, "seed": 7, "objective": "multi:softprob", "num_class": 10}}
class Slow(xgb.callback.TrainingCallback):
    def __init__(self, training=""):
        self.rounds, self.training = [], training
    def after_iteration(self, model, epoch, evals_log):
        time.sleep(0.01)
        self.rounds.append(epoch)
        hold(self.training + str(len(self.rounds)))
        return False
"""

LIGHTGBM_SCRIPT = f"""{DATA}
import lightgbm as lgb
BASE = {{"num_leaves": 5, "num_threads": 1, "seed": 7, "verbosity": -1, "deterministic": True,
        "objective": "multiclass", "num_class": 10}}
class Slow:
    def __init__(self, training=""):
        self.rounds, self.training = [], training
    def __call__(self, env):
        time.sleep(0.01)
        self.rounds.append(env.iteration)
        hold(self.training + str(len(self.rounds)))
def trees(booster):
    return booster.model_to_string()
"""


def stop_after(runs: FrameworkRuns, place: str) -> None:
    """Start the script, and stop it while it waits after a round: the number of that, behind the name of its training."""
    held = runs.work / "held"
    runs.work.joinpath(f"hold-{place}").touch()
    running = runs.start("run", "--run-id", "r", "train.py")
    wait_for(held.exists)
    stopping = runs.start("stop", "r")
    wait_for(lambda: json.loads((runs.rundir("r") / "control.json").read_text())["stop_wanted"])
    held.unlink()
    assert running.wait(HANG_S) == 0
    assert stopping.wait(HANG_S) == 0
    assert runs.document("r")["status"] == "stopped"


def cut_and_whole(runs: FrameworkRuns, script: str, step: int) -> tuple[str, str, str]:
    """What a script prints last when it is cut, what it prints on its own, and the stderr of its last session."""
    path = runs.work / "train.py"
    path.write_text(script)
    whole = runs.bare(path)
    stop_after(runs, str(step))
    resumed = runs.call("resume", "r")
    assert resumed.returncode == 0, resumed.stderr
    assert runs.document("r")["status"] == "completed"
    stderr = runs.rundir("r").joinpath("session-2.err").read_text()
    return runs.output("r", session=2).splitlines()[-1], whole.splitlines()[-1], stderr


@pytest.mark.parametrize(
    ("script", "fit"),
    [
        (
            XGBOOST_SCRIPT,
            """
slow = Slow()
model = xgb.XGBClassifier(n_estimators=150, max_depth=3, n_jobs=1, early_stopping_rounds=140, callbacks=[slow])
model.fit(images[:900], labels[:900], eval_set=[(images[900:], labels[900:])], verbose=False)
text = model.get_booster().save_raw("json").decode()
""",
        ),
        (
            LIGHTGBM_SCRIPT,
            """
slow = Slow()
model = lgb.LGBMClassifier(n_estimators=150, num_leaves=5, n_jobs=1, verbosity=-1, subsample=0.7, subsample_freq=1)
model.fit(images[:900], labels[:900], eval_set=[(images[900:], labels[900:])], callbacks=[slow])
text = model.booster_.model_to_string()
""",
        ),
    ],
    ids=LIBRARIES,
)
@pytest.mark.nightly
def test_scikit_learn_classes_are_covered_and_callbacks_get_their_attributes_back(
    script: str, fit: str, framework_runs: FrameworkRuns
):
    report = """
import hashlib
history = str(model.evals_result() if callable(getattr(model, "evals_result", None)) else model.evals_result_)
print(json.dumps([hashlib.sha256(said.encode()).hexdigest() for said in (text, history)] + slow.rounds))
"""
    cut, whole, _ = cut_and_whole(framework_runs, script + fit + report, 40)
    assert cut == whole


with_each_library = pytest.mark.parametrize(
    ("script", "data", "train", "text"),
    [
        (XGBOOST_SCRIPT, "xgb.DMatrix", "xgb.train", "save_raw('json').decode()"),
        (LIGHTGBM_SCRIPT, "lgb.Dataset", "lgb.train", "model_to_string()"),
    ],
    ids=LIBRARIES,
)


@with_each_library
def test_folds_that_are_skipped_or_come_in_another_order_get_their_own_models(
    script: str, data: str, train: str, text: str, framework_runs: FrameworkRuns
):
    """A fold that was finished is given back, the one that was cut continues, and the last begins with its first round."""
    body = f"""
import hashlib, os, threading
def fit(fold, callbacks):
    params = {{**BASE, "objective": {"'reg:squarederror'" if script is XGBOOST_SCRIPT else "'regression'"}}}
    del params["num_class"]
    booster = {train}(params, {data}(images, labels * 10.0 + (images[:, 20] > fold)), 120, callbacks=callbacks)
    return hashlib.sha256(booster.{text}.encode()).hexdigest()
is_first = os.environ["BACKPROP_SESSION"] == "1"
for fold in (0, 1, 2) if is_first else (3, 2, 0):
    slow = Slow("fold-" + str(fold) + "-")
    found, alone = fit(fold, [slow]), []
    # calls in other threads are left alone
    thread = threading.Thread(target=lambda: alone.append(fit(fold, [])))
    thread.start()
    thread.join()
    print(fold, found == alone[0], len(slow.rounds), flush=True)
"""
    runs = framework_runs
    path = runs.work / "train.py"
    path.write_text(script + body)
    stop_after(runs, "fold-2-50")
    assert runs.call("resume", "r").returncode == 0
    lines = runs.output("r", session=2).splitlines()
    assert lines == ["3 True 120", "2 True 120", "0 True 120"]
    errors = runs.rundir("r").joinpath("session-2.err").read_text()
    assert errors.count("continues after round") == 1
    assert errors.count("returns what an earlier session has trained") == 1


@pytest.mark.nightly
@with_each_library
def test_a_trial_of_a_study_continues_only_the_trial_with_its_parameters(
    script: str, data: str, train: str, text: str, framework_runs: FrameworkRuns
):
    """A study in a database, whose trial 2 is cut. The next session makes another trial first, and then repeats that one."""
    body = f"""
import hashlib, optuna, os
is_first = os.environ["BACKPROP_SESSION"] == "1"
study = optuna.create_study(storage="sqlite:///study.db", study_name="s", load_if_exists=True,
                            sampler=optuna.samplers.RandomSampler(seed=0 if is_first else 1))
def objective(trial):
    slow, params = Slow("trial-" + str(trial.number) + "-"), {{**BASE, "learning_rate": trial.suggest_float("learning_rate", 0.05, 0.3)}}
    params["objective"] = {"'reg:squarederror'" if script is XGBOOST_SCRIPT else "'regression'"}
    del params["num_class"]
    booster = {train}(params, {data}(images, labels * 10.0), 60, callbacks=[slow])
    digest = hashlib.sha256(booster.{text}.encode()).hexdigest()
    print(json.dumps([round(trial.params["learning_rate"], 6), len(slow.rounds), digest]), flush=True)
    return 0.0
cut = [trial for trial in study.get_trials() if trial.state.name in ("RUNNING", "FAIL")]
if "bare" in sys.argv:
    study.enqueue_trial(cut[0].params)
    study.optimize(objective, n_trials=1)
else:
    study.optimize(objective, n_trials=4 if is_first else 1)
    study.enqueue_trial(cut[0].params)
    study.optimize(objective, n_trials=1)
"""
    runs = framework_runs
    path = runs.work / "train.py"
    path.write_text(script + body)
    stop_after(runs, "trial-2-20")
    assert runs.call("resume", "r").returncode == 0
    new, repeated = [json.loads(line) for line in runs.output("r", session=2).splitlines() if line.startswith("[")]
    assert (new[1], repeated[1]) == (60, 60)
    errors = runs.rundir("r").joinpath("session-2.err").read_text()
    assert "starts over" in errors
    assert errors.count("continues after round") == 1
    bare = runs.evaluate(f"import os\nos.environ['BACKPROP_SESSION'] = '2'\n{path.read_text()}", "bare")
    assert json.loads(bare.splitlines()[-1]) == repeated


@pytest.mark.parametrize(
    ("script", "fit"),
    [
        nightly(
            XGBOOST_SCRIPT,
            """
model = xgb.XGBClassifier(n_estimators=150, max_depth=2, n_jobs=1, early_stopping_rounds=8, callbacks=[slow])
model.fit(images[:900], labels[:900] % 2, eval_set=[(images[900:], labels[900:] % 2)], verbose=False)
text = model.get_booster().save_raw("json").decode()
""",
        ),
        (
            LIGHTGBM_SCRIPT,
            """
data, valid = lgb.Dataset(images[:900], labels[:900]), lgb.Dataset(images[900:], labels[900:])
history = {}
model = lgb.train(BASE, data, 150, valid_sets=[valid],
                  callbacks=[slow, lgb.early_stopping(8, verbose=False), lgb.record_evaluation(history)])
model.evals_result_ = history
text = model.model_to_string() + model.model_to_string(num_iteration=-1)
""",
        ),
        nightly(
            LIGHTGBM_SCRIPT,
            """
model = lgb.LGBMClassifier(n_estimators=150, num_leaves=5, n_jobs=1, verbosity=-1, subsample=0.7, subsample_freq=1)
model.fit(images[:900], labels[:900] % 2, eval_set=[(images[900:], labels[900:] % 2)],
          callbacks=[slow, lgb.early_stopping(8, verbose=False)])
text = model.booster_.model_to_string() + model.booster_.model_to_string(num_iteration=-1)
""",
        ),
    ],
    ids=["xgboost-classifier", "lightgbm", "lightgbm-classifier"],
)
def test_a_script_that_is_cut_after_its_training_gets_the_model_back(
    script: str, fit: str, framework_runs: FrameworkRuns
):
    """With its history, best iteration and callbacks, and without a round of training."""
    report = """
import hashlib, os
history = str(model.evals_result() if callable(getattr(model, "evals_result", None)) else model.evals_result_)
best = getattr(model, "best_iteration", None), getattr(model, "best_iteration_", None), model.predict(images).tolist()
print(len(slow.rounds), hashlib.sha256((text + history + str(best)).encode()).hexdigest(), flush=True)
while os.environ["BACKPROP_SESSION"] == "1":
    time.sleep(0.01)
"""
    runs = framework_runs
    path = runs.work / "train.py"
    slower = "time.sleep = lambda _, sleep=time.sleep: sleep(0.2)\n"  # worth keeping, however fast the machine is
    path.write_text(script + slower + "slow = Slow()\n" + fit + report)
    running = runs.start("run", "--run-id", "r", path)
    wait_for(lambda: runs.output("r").endswith("\n"))
    assert runs.call("stop", "r").returncode == 0
    running.wait(HANG_S)
    assert runs.call("resume", "r").returncode == 0
    assert runs.output("r", session=2) == runs.output("r")
    assert "returns what an earlier session has trained" in runs.rundir("r").joinpath("session-2.err").read_text()
    # no round, but how far it is: a shorter training of the script may have been made since
    (reported,) = [json.loads(line) for line in runs.events("r", 2).splitlines() if '"step"' in line]
    assert reported["step"] == runs.document("r")["last_step"]


def test_a_model_that_the_script_itself_continues_from_is_kept(framework_runs: FrameworkRuns):
    script = (
        XGBOOST_SCRIPT
        + """
data = xgb.DMatrix(images, labels)
first = xgb.Booster(BASE, [data])
for number in range(5):
    first.update(data, number)
booster = xgb.train(BASE, data, 60, xgb_model=first, callbacks=[Slow()])
print(booster.num_boosted_rounds())
"""
    )
    cut, whole, stderr = cut_and_whole(framework_runs, script, 20)
    assert cut == whole == "65"
    assert "continues" not in stderr


@pytest.mark.parametrize(
    ("params", "word"),
    [
        nightly({"bagging_fraction": 0.6, "bagging_freq": 1}, None),
        nightly({"boosting": "dart"}, "other samples"),
        ({"boosting": "rf", "bagging_fraction": 0.6, "bagging_freq": 1}, "starts over"),
    ],
)
def test_what_lightgbm_draws_at_random_is_drawn_as_it_would_have_been_or_it_says_so(
    params: dict[str, object], word: str | None, framework_runs: FrameworkRuns
):
    script = (
        LIGHTGBM_SCRIPT
        + f"""
import hashlib
data = lgb.Dataset(images, labels)
booster = lgb.train({{**BASE, **{params!r}}}, data, 60, callbacks=[Slow()])
again = lgb.train({{**BASE, **{params!r}}}, data, 3)
print(booster.current_iteration(), again.current_iteration(),
      hashlib.sha256((trees(booster) + trees(again)).encode()).hexdigest())
"""
    )
    cut, whole, stderr = cut_and_whole(framework_runs, script, 13)
    assert cut.split()[:2] == whole.split()[:2] == ["60", "3"]
    if word is None:
        assert cut == whole
        assert "other samples" not in stderr
    else:
        assert word in stderr
    if word == "starts over":
        assert cut == whole


def test_xgboost_with_sampling_ends_with_all_rounds_and_says_that_it_is_not_exact(framework_runs: FrameworkRuns):
    script = (
        XGBOOST_SCRIPT
        + """
data = xgb.DMatrix(images, labels)
booster = xgb.train({**BASE, "subsample": 0.5}, data, 60, callbacks=[Slow()])
print(booster.num_boosted_rounds())
"""
    )
    cut, whole, stderr = cut_and_whole(framework_runs, script, 13)
    assert cut == whole == "60"
    assert "with other samples" in stderr


def test_workers_of_a_parallel_search_keep_quiet(framework_runs: FrameworkRuns):
    script = f"""{DATA}
import multiprocessing
def work(number):
    import xgboost as xgb
    return xgb.train({{"nthread": 1}}, xgb.DMatrix(images, labels), 5).num_boosted_rounds()
if __name__ == "__main__":
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        print(pool.map(work, [1, 2]))
"""
    path = framework_runs.work / "search.py"
    path.write_text(script)
    done = framework_runs.call("run", "--run-id", "r", path)
    assert (done.returncode, done.stdout) == (0, "[5, 5]\n"), done.stderr
    assert framework_runs.events("r") == ""
