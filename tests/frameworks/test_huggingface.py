"""The Hugging Face Trainer, in scripts that know nothing of Backprop, goes on where it was cut, bit for bit."""

import json
import os
import signal
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from tests.conftest import HANG_S, IS_NIGHTLY, wait_for
from tests.frameworks.conftest import EXAMPLES, FrameworkRuns

EPOCHS = 4 if IS_NIGHTLY else 2
STEPS_PER_EPOCH = 45  # 1437 images, 32 a step
STEPS = EPOCHS * STEPS_PER_EPOCH
PREDICTION_STEPS = 12  # 360 images, 32 a step
CURVES = ("loss", "grad_norm", "learning_rate", "eval_loss", "eval_accuracy")

# the example, but a step takes its time, and one for which there is a file hold-train-N or hold-eval-N waits in the
# middle until that file, which is now called `held`, is taken away. N counts the calls of this process
SLOW = """
    import functools, multiprocessing, pathlib, sys, time
    sys.path.insert(0, {examples!r})
    import digits_transformers as example
    import transformers

    forward, calls = example.Network.forward, {{"train": 0, "eval": 0}}

    @functools.wraps(forward)
    def slow_forward(self, *args, **kwargs):
        phase = "train" if self.training else "eval"
        calls[phase] += 1
        held = pathlib.Path("held")
        try:
            pathlib.Path(f"hold-{{phase}}-{{calls[phase]}}").rename(held)
        except FileNotFoundError:
            if self.training:
                time.sleep({pause_s})
        while held.exists():
            time.sleep(0.01)
        return forward(self, *args, **kwargs)

    example.Network.forward = slow_forward
    {more}
    example.main()
"""


def slow_example(runs: FrameworkRuns, pause_s: float = 0.02, more: str = "") -> Path:
    """more: lines that change the example, before it runs."""
    more = textwrap.indent(textwrap.dedent(more), "    ").strip()
    return runs.script(SLOW.format(examples=str(EXAMPLES), pause_s=pause_s, more=more))


def history(out: Path) -> dict[str, dict[int, float]]:
    """What the Trainer logged, as its last checkpoint has it: metric -> step -> value."""
    last = max(out.glob("checkpoint-*"), key=lambda path: int(path.name.partition("-")[2]))
    state = json.loads((last / "trainer_state.json").read_text())
    return {name: {entry["step"]: entry[name] for entry in state["log_history"] if name in entry} for name in CURVES}


@pytest.fixture(scope="module")
def uncut(tmp_path_factory: pytest.TempPathFactory):
    """The output folder of a run that was left alone, without Backprop."""
    runs = FrameworkRuns(tmp_path_factory.mktemp("uncut"))
    runs.python = os.environ["FRAMEWORKS_PYTHON"]
    runs.bare(EXAMPLES / "digits_transformers.py", "--epochs", EPOCHS)
    out = runs.work / "digits-transformers"
    assert len(history(out)["loss"]) == STEPS // 5
    assert len(history(out)["eval_loss"]) == EPOCHS
    yield out
    runs.clean_up()


def assert_same(runs: FrameworkRuns, run_id: str, uncut: Path, names: Sequence[str] = CURVES) -> None:
    """The run's recorded curves and its final weights are those of the one that was left alone."""
    expected = history(uncut)
    assert {name: runs.curve(run_id, name) for name in names} == {name: expected[name] for name in names}
    weights = "final/model.safetensors"
    assert (runs.work / "digits-transformers" / weights).read_bytes() == (uncut / weights).read_bytes()


def saved_steps(document: dict) -> list[int]:
    """Of the checkpoints that were reported."""
    return sorted(checkpoint["step"] for checkpoint in document["checkpoints"])


def stop_while_held(
    runs: FrameworkRuns, run_id: str, hold: str, *words: object, then: Callable[[], None] = lambda: None
) -> dict:
    """Start a session that waits in the middle of a step, ask it to stop, let it go on; gives its record.

    then: what is done while it goes on.
    """
    runs.work.joinpath(hold).touch()
    running = runs.start(*words)
    wait_for(runs.work.joinpath("held").exists)
    stopping = runs.start("stop", run_id)
    wait_for(lambda: json.loads((runs.rundir(run_id) / "control.json").read_text())["stop_wanted"])
    runs.work.joinpath("held").unlink()
    then()
    assert running.wait(HANG_S) == 0
    assert stopping.wait(HANG_S) == 0
    document = runs.document(run_id)
    assert document["status"] == "stopped"
    return document


@pytest.mark.nightly
def test_cut_by_its_timebox_and_resumed_it_is_the_run_that_was_not_cut(
    framework_runs: FrameworkRuns, uncut: Path
) -> None:
    """Its second session has a whole timebox again, whatever the first one spent."""
    script = slow_example(framework_runs, pause_s=0.1)  # at least 18 s of training
    timebox_s = 8.0  # two of them are too short, whatever a busy machine takes to import torch
    options = ("--run-id", "cut", "-m", timebox_s / 60, "-c", 0.02)
    done = framework_runs.call("run", script, *options, "--", "--epochs", EPOCHS)
    assert done.returncode == 0, done.stderr
    done = framework_runs.call("resume", "cut")
    assert done.returncode == 0, done.stderr
    sessions = framework_runs.document("cut")["sessions"]
    assert [session["status"] for session in sessions] == ["timeboxed", "timeboxed"]
    assert sessions[1]["elapsed_s"] >= timebox_s * 2 / 3, "no more than a third of it is notice"
    while framework_runs.document("cut")["status"] == "timeboxed":
        # by less than the training takes: the session that completes it cannot have done all of it
        timebox_s += 12
        done = framework_runs.call("resume", "cut", "-m", timebox_s / 60)
        assert done.returncode == 0, done.stderr
    document = framework_runs.document("cut")
    assert document["status"] == "completed"
    assert document["sessions"][-1]["resumed_from"] is not None
    wanted = [step for step in saved_steps(document) if step % STEPS_PER_EPOCH]  # the script saves after epochs only
    assert len(wanted) > 2, "those at the cuts, and those that -c asked for"
    assert_same(framework_runs, "cut", uncut)


def test_stopped_at_any_step_with_workers_that_load_data_it_is_the_run_that_was_not_cut(
    framework_runs: FrameworkRuns, uncut: Path
) -> None:
    words = ["run", "--run-id", "stopped", slow_example(framework_runs, pause_s=0)]
    words += ["--", "--epochs", EPOCHS, "--workers", 2]
    before = 0
    for cut in [33, 110] if IS_NIGHTLY else [60]:
        stop_while_held(framework_runs, "stopped", f"hold-train-{cut - before}", *words)
        words, before = ["resume", "stopped"], cut
    assert framework_runs.call("resume", "stopped").returncode == 0
    assert framework_runs.document("stopped")["status"] == "completed"
    sessions = framework_runs.document("stopped")["sessions"]
    assert sessions[-1]["resumed_from"] == sessions[-1]["offered"]
    events = framework_runs.events("stopped")
    assert f'"total_steps": {STEPS}' in events
    assert '"epoch": ' in events
    assert_same(framework_runs, "stopped", uncut)


@pytest.mark.nightly
def test_a_stop_while_it_warms_up_or_evaluates_is_obeyed_at_once_and_changes_nothing(
    framework_runs: FrameworkRuns, uncut: Path
) -> None:
    script = slow_example(framework_runs, pause_s=0)
    run = ["run", "--run-id", "held", script, "--", "--epochs", EPOCHS]
    resume = ["resume", "held"]
    # in the first step, which is the one that compiles
    document = stop_while_held(framework_runs, "held", "hold-train-1", *run)
    assert saved_steps(document) == [1]
    # in an epoch's last step, after which an evaluation is due
    document = stop_while_held(framework_runs, "held", f"hold-train-{STEPS_PER_EPOCH - 1}", *resume)
    assert saved_steps(document) == [1, STEPS_PER_EPOCH]
    assert "eval_loss" not in document["metrics"]
    # in the second evaluation, the first being the one that was put off
    document = stop_while_held(framework_runs, "held", f"hold-eval-{PREDICTION_STEPS + 3}", *resume)
    assert saved_steps(document) == [1, STEPS_PER_EPOCH, 2 * STEPS_PER_EPOCH]
    assert list(framework_runs.curve("held", "eval_loss")) == [STEPS_PER_EPOCH]
    # in the evaluation that was put off
    document = stop_while_held(framework_runs, "held", "hold-eval-2", *resume)
    assert framework_runs.call("resume", "held").returncode == 0
    assert framework_runs.document("held")["status"] == "completed"
    assert_same(framework_runs, "held", uncut)


@pytest.mark.nightly
def test_a_sigterm_that_also_hits_the_workers_that_load_data_does_not_lose_the_save(
    framework_runs: FrameworkRuns, uncut: Path
) -> None:
    more = """
        class Trainer(example.Trainer):
            def _save(self, output_dir=None, state_dict=None):
                workers = multiprocessing.active_children()
                if output_dir.endswith("-60") and workers:
                    pathlib.Path("saving").write_text(str(len(workers)))
                    while any(worker.is_alive() for worker in workers):
                        time.sleep(0.01)
                super()._save(output_dir, state_dict)

        example.Trainer = Trainer
    """
    script = slow_example(framework_runs, pause_s=0, more=more)
    saving = framework_runs.work / "saving"

    def hit_them_all() -> None:
        wait_for(saving.exists)
        for process in framework_runs.tree():
            process.send_signal(signal.SIGTERM)

    run = ("run", "--run-id", "hit", script, "--", "--epochs", EPOCHS, "--workers", 2)
    document = stop_while_held(framework_runs, "hit", "hold-train-60", *run, then=hit_them_all)
    assert saving.read_text() == "2"
    assert saved_steps(document) == [45, 60]
    assert framework_runs.call("resume", "hit").returncode == 0
    assert framework_runs.document("hit")["sessions"][1]["resumed_from"].endswith("checkpoint-60")
    assert_same(framework_runs, "hit", uncut)


@pytest.mark.nightly
def test_a_subclass_that_saves_nothing_is_stopped_with_all_it_takes_to_continue(
    framework_runs: FrameworkRuns, uncut: Path
) -> None:
    more = """
        example.Trainer = transformers.Seq2SeqTrainer
        changes = dict(save_strategy="no", save_only_model=True)
        example.TrainingArguments = lambda **given: transformers.Seq2SeqTrainingArguments(**{**given, **changes})
    """
    script = slow_example(framework_runs, pause_s=0, more=more)
    run = ("run", "--run-id", "spare", script, "--", "--epochs", EPOCHS)
    document = stop_while_held(framework_runs, "spare", "hold-train-122", *run)
    assert saved_steps(document) == [122]
    assert framework_runs.call("resume", "spare").returncode == 0
    document = framework_runs.document("spare")
    assert document["status"] == "completed"
    # the end, if the rest of it took more than a second
    assert saved_steps(document) in ([122], [122, STEPS])
    # a Seq2SeqTrainer has its own idea of an evaluation's loss
    assert_same(framework_runs, "spare", uncut, [name for name in CURVES if name != "eval_loss"])


@pytest.mark.nightly
def test_a_script_that_names_its_checkpoint_gets_that_one(framework_runs: FrameworkRuns) -> None:
    more = """
        changes = dict(save_total_limit=None)
        arguments = example.TrainingArguments
        example.TrainingArguments = lambda **given: arguments(**{**given, **changes})
        named = pathlib.Path("digits-transformers/checkpoint-45")
        if named.exists():
            train = example.Trainer.train
            example.Trainer.train = lambda self: train(self, resume_from_checkpoint=str(named))
    """
    script = slow_example(framework_runs, pause_s=0, more=more)
    stop_while_held(framework_runs, "named", "hold-train-60", "run", "--run-id", "named", script, "--", "--epochs", 2)
    assert framework_runs.call("resume", "named").returncode == 0
    session = framework_runs.document("named")["sessions"][1]
    assert session["offered"].endswith("checkpoint-60")
    assert session["resumed_from"].endswith("checkpoint-45")
    lines = map(json.loads, framework_runs.events("named", 2).splitlines())
    steps = [line["step"] for line in lines if "loss" in line and "sampled" not in line]
    assert steps[0] == 50


@pytest.mark.nightly
def test_a_newest_checkpoint_that_is_half_written_is_not_what_true_means(
    framework_runs: FrameworkRuns, uncut: Path
) -> None:
    more = """
        if pathlib.Path("digits-transformers").exists():
            train = example.Trainer.train
            example.Trainer.train = lambda self: train(self, resume_from_checkpoint=True)
    """
    script = slow_example(framework_runs, pause_s=0, more=more)
    run = ("run", "--run-id", "newest", script, "--", "--epochs", EPOCHS)
    stop_while_held(framework_runs, "newest", "hold-train-60", *run)
    framework_runs.work.joinpath("digits-transformers/checkpoint-90").mkdir()
    assert framework_runs.call("resume", "newest").returncode == 0
    assert_same(framework_runs, "newest", uncut)


@pytest.mark.nightly
def test_a_checkpoint_continues_the_call_of_train_that_saved_it_though_all_share_a_folder(
    framework_runs: FrameworkRuns,
) -> None:
    more = """
        if "_backprop_trainer" in sys.modules:
            from _backprop_trainer.hooks.huggingface import loop as huggingface_loop
            huggingface_loop.WORTH_SAVING_S = float("inf")  # else the first may be given back, on a busy machine

        class Folds(transformers.Trainer):
            def train(self):
                self.args.save_strategy = "no"
                for fold in range(2):
                    example.set_seed(fold)
                    data = dict(train_dataset=self.train_dataset, eval_dataset=self.eval_dataset)
                    trainer = transformers.Trainer(model=example.Network(), args=self.args, **data)
                    trainer.train()
                    trainer.save_model(f"fold-{fold}")
                    calls["train"] = 100

        example.Trainer = Folds
    """
    script = slow_example(framework_runs, pause_s=0, more=more)
    framework_runs.bare(script, "--epochs", 2)
    weights = [framework_runs.work / f"fold-{fold}" / "model.safetensors" for fold in range(2)]
    expected = [path.read_bytes() for path in weights]
    for path in weights:
        path.unlink()
    run = ("run", "--run-id", "folds", script, "--", "--epochs", 2)
    document = stop_while_held(framework_runs, "folds", "hold-train-160", *run)
    assert saved_steps(document) == [60]
    weights[0].unlink()
    assert framework_runs.call("resume", "folds").returncode == 0
    assert [path.read_bytes() for path in weights] == expected
    lines = map(json.loads, framework_runs.events("folds", 2).splitlines())
    steps = [line["step"] for line in lines if "loss" in line and "sampled" not in line]
    assert steps == [*range(5, 91, 5), *range(65, 91, 5)]


@pytest.mark.nightly
def test_a_save_that_nobody_but_us_wants_and_that_cannot_be_does_not_end_the_script(
    framework_runs: FrameworkRuns,
) -> None:
    more = """
        make = example.Network.__init__

        def make_tied(self):
            make(self)
            self.twin = self.layers[0]  # safetensors saves no weights twice

        example.Network.__init__ = make_tied
        changes = dict(save_strategy="epoch" if "--wanted" in sys.argv else "no")
        sys.argv = [word for word in sys.argv if word != "--wanted"]
        arguments = example.TrainingArguments
        example.TrainingArguments = lambda **given: arguments(**{**given, **changes})
    """
    script = slow_example(framework_runs, more=more)
    running = framework_runs.start("run", "--run-id", "tied", "-c", 0.01, script)
    errors = framework_runs.rundir("tied") / "session-1.err"
    wait_for(lambda: errors.exists() and errors.read_text().count("backprop: no checkpoint at step") > 1)
    assert framework_runs.call("stop", "tied").returncode == 0
    assert running.wait(HANG_S) == 0
    document = framework_runs.document("tied")
    assert (document["status"], document["checkpoints"]) == ("stopped", [])
    assert "Traceback" not in errors.read_text()
    assert not list(framework_runs.work.glob("digits-transformers/checkpoint-*")), "half of one"
    wanted = framework_runs.call("run", "--run-id", "wanted", script, "--", "--wanted")
    assert wanted.returncode != 0
    assert "RuntimeError" in framework_runs.rundir("wanted").joinpath("session-1.err").read_text()


@pytest.mark.nightly
def test_two_processes_stop_at_the_same_step_and_go_on_as_if_they_had_not(framework_runs: FrameworkRuns) -> None:
    """Nobody is left waiting for the other: neither in a step, nor in an evaluation."""
    more = """
        changes = dict(metric_for_best_model="accuracy")  # with a best one, ranks meet in the middle of a save
        arguments = example.TrainingArguments
        example.TrainingArguments = lambda **given: arguments(**{**given, **changes})

        class Trainer(example.Trainer):
            def _save(self, output_dir=None, state_dict=None):
                if output_dir.endswith("-57"):
                    raise OSError("the disk is full")
                super()._save(output_dir, state_dict)

        example.Trainer = Trainer
    """
    script = slow_example(framework_runs, pause_s=0.01, more=more)
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, script, "--epochs", EPOCHS]
    uncut = framework_runs.work / "uncut"
    framework_runs.bare(*torchrun, "--out", uncut)
    command = [framework_runs.python, *torchrun]
    # 45 steps an epoch become 23, and 12 prediction steps 6. What rank 0 wants at the end of a step, all do after the
    # next one
    document = stop_while_held(framework_runs, "pair", "hold-train-30", "run", "--run-id", "pair", "--", *command)
    assert saved_steps(document) == [23, 31]
    document = stop_while_held(framework_runs, "pair", "hold-eval-2", "resume", "pair")
    assert max(saved_steps(document)) == 46
    # rank 0 cannot save: they stop all the same, and nothing is deleted in favour of half a checkpoint
    document = stop_while_held(framework_runs, "pair", "hold-train-10", "resume", "pair")
    assert max(saved_steps(document)) == 46
    assert "no checkpoint at step 57: OSError" in (framework_runs.rundir("pair") / "session-3.err").read_text()
    assert framework_runs.call("resume", "pair").returncode == 0
    document = framework_runs.document("pair")
    assert document["status"] == "completed"
    assert "SIGTERM" not in {entry.get("signal") for entry in framework_runs.journal("pair")}
    assert_same(framework_runs, "pair", uncut)


# Trainings of seconds, which learn a constant. `cut_at` interrupts its own process, as Ctrl-C in a terminal does. Whether
# their end is worth saving is `ends`, and not left to how busy the machine is.
TINY = """
    import os, signal, subprocess, sys
    from pathlib import Path
    import torch
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from _backprop_trainer.hooks.huggingface import loop as huggingface_loop

    session = int(os.environ["BACKPROP_SESSION"])

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = torch.nn.Linear(1, 1)
        def forward(self, x, labels=None):
            scores = self.layer(x)[:, 0]
            return {"loss": ((scores - labels) ** 2).mean(), "logits": scores}

    class Steps(TrainerCallback):
        def __init__(self, cut_at):
            self.seen, self.cut_at = [], cut_at
        def on_step_end(self, args, state, control, **_):
            self.seen.append(state.global_step)
            if state.global_step == self.cut_at:
                os.kill(os.getpid(), signal.SIGINT)

    def train(constant, cut_at=None, ends=False, out="out", max_steps=20):
        huggingface_loop.WORTH_SAVING_S = 0.0 if ends else float("inf")
        data = [{"x": torch.ones(1), "labels": torch.tensor(float(constant))} for _ in range(96)]
        given = dict(max_steps=max_steps, save_strategy="no", report_to="none", use_cpu=True, disable_tqdm=True)
        steps = Steps(cut_at)
        trainer = Trainer(Net(), TrainingArguments(out, **given), train_dataset=data, callbacks=[steps])
        trainer.train()
        return trainer, steps.seen
"""


def test_folds_that_are_skipped_or_reordered_never_get_another_folds_checkpoint(framework_runs: FrameworkRuns) -> None:
    script = framework_runs.script(
        textwrap.dedent(TINY)
        + textwrap.dedent("""
            for fold in range(4) if session == 1 else (3, 2, 0):
                if Path(f"fold{fold}").exists():
                    continue
                _, seen = train(fold, cut_at=7 if (session, fold) == (1, 2) else None)
                Path(f"fold{fold}").write_text(f"{seen[0]}-{seen[-1]}")
                if fold < 1:
                    Path(f"fold{fold}").rename("other")
        """)
    )
    framework_runs.call("run", "--run-id", "folds", script)
    assert saved_steps(framework_runs.document("folds")) == [8]
    done = framework_runs.call("resume", "folds")
    assert done.returncode == 0, done.stderr
    folds = [framework_runs.work / name for name in ("other", "fold1", "fold2", "fold3")]
    assert [path.read_text() for path in folds] == ["1-20", "1-20", "9-20", "1-20"]
    assert framework_runs.document("folds")["sessions"][1]["resumed_from"].endswith("checkpoint-8")
    assert "train() starts over: " in done.stderr
    assert "which differs in the content of its data" in done.stderr


@pytest.mark.nightly
def test_a_training_that_had_ended_is_given_back_and_goes_on_when_it_is_to_be_longer(
    framework_runs: FrameworkRuns,
) -> None:
    """Its last step is not the last of an epoch, and the script, which sets no seed, was cut in what follows."""
    script = framework_runs.script(
        textwrap.dedent(TINY)
        + textwrap.dedent("""
            trainer, seen = train(torch.rand(()), ends=True, max_steps=40 if session == 3 else 30)
            weights = trainer.model.layer.weight.item(), trainer.model.layer.bias.item()
            Path(f"session{session}").write_text(repr((weights, trainer.state.global_step, seen[:1])))
            if session == 1:
                os.kill(os.getpid(), signal.SIGINT)
        """)
    )
    assert framework_runs.call("run", "--run-id", "over", script).returncode != 0
    assert saved_steps(framework_runs.document("over")) == [30]
    done = framework_runs.call("resume", "over")
    assert done.returncode == 0, done.stderr
    assert framework_runs.call("resume", "over", "--again").returncode == 0
    first, again, longer = (eval((framework_runs.work / f"session{number}").read_text()) for number in (1, 2, 3))
    assert first[1:] == (30, [1])
    assert again == (first[0], 30, [])
    assert longer[1:] == (40, [31])
    # what the Trainer prints of the one that is given back is of its last step
    assert 30 in [json.loads(line).get("step") for line in framework_runs.events("over", 2).splitlines()]


@pytest.mark.nightly
def test_folds_in_processes_of_their_own_never_get_another_folds_checkpoint(framework_runs: FrameworkRuns) -> None:
    script = framework_runs.script(
        textwrap.dedent(TINY)
        + textwrap.dedent("""
            if len(sys.argv) == 1:
                for fold in range(3):
                    subprocess.run([sys.executable, __file__, str(fold)], check=True)
            else:
                fold = int(sys.argv[1])
                _, seen = train(fold, cut_at=7 if (session, fold) == (1, 2) else None, out=f"out{fold}")
                with open("seen", "a") as file:
                    file.write(f"{fold}: {seen[0]}-{seen[-1]}\\n")
        """)
    )
    assert framework_runs.call("run", "--run-id", "folds", script).returncode != 0
    done = framework_runs.call("resume", "folds")
    assert done.returncode == 0, done.stderr
    lines = (framework_runs.work / "seen").read_text().splitlines()
    assert lines == ["0: 1-20", "1: 1-20", "0: 1-20", "1: 1-20", "2: 9-20"]


@pytest.mark.nightly
def test_a_search_with_storage_starts_each_trial_from_the_beginning_and_says_so(framework_runs: FrameworkRuns) -> None:
    """A study in a database. The second trial is cut; the next session makes others, and none continues from it."""
    script = framework_runs.script(
        textwrap.dedent(TINY)
        + textwrap.dedent("""
            import optuna

            class Seen(TrainerCallback):
                def on_step_end(self, args, state, control, **_):
                    with open("seen", "a") as file:
                        file.write(f"{session} {state.trial_name} {state.global_step}\\n")
                    if (session, state.trial_name, state.global_step) == (1, "t1", 2):
                        os.kill(os.getpid(), signal.SIGINT)

            data = [{"x": torch.ones(1), "labels": torch.tensor(1.0)} for _ in range(8)]
            given = dict(max_steps=3, save_strategy="no", eval_strategy="steps", report_to="none", use_cpu=True)
            trainer = Trainer(
                None, TrainingArguments("out", disable_tqdm=True, **given), train_dataset=data, eval_dataset=data,
                model_init=lambda trial=None: Net(), callbacks=[Seen()],
            )
            trainer.hyperparameter_search(
                hp_space=lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 0.001, 0.1)},
                hp_name=lambda trial: f"t{trial.number}", compute_objective=lambda metrics: metrics["eval_loss"],
                backend="optuna", n_trials=2, storage="sqlite:///study.db", study_name="s", load_if_exists=True,
            )
            print([trial.state.name for trial in optuna.load_study(study_name="s", storage="sqlite:///study.db").trials])
        """)
    )
    framework_runs.call("run", "--run-id", "search", script)
    assert saved_steps(framework_runs.document("search")) == [3]
    done = framework_runs.call("resume", "search")
    assert done.returncode == 0, done.stderr
    assert "['COMPLETE', 'FAIL', 'COMPLETE', 'COMPLETE']" in done.stdout
    seen = [f"{session} t{trial} {step}" for session, trial in ((1, 0), (1, 1), (2, 2), (2, 3)) for step in (1, 2, 3)]
    assert (framework_runs.work / "seen").read_text().splitlines() == seen
    assert "is off from here on" not in "".join(
        path.read_text() for path in framework_runs.rundir("search").glob("*.err")
    )
    assert done.stderr.count("starts each trial from the beginning: none continues from ") == 1
    assert framework_runs.document("search")["sessions"][1]["resumed_from"] is None
