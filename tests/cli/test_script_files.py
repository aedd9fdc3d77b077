"""Checkpoints of scripts that use no framework: what is noticed, under which name and step, and what is none."""

from pathlib import Path

from tests.conftest import Runs

BEGIN = """
    import array, io, pickle, shutil, tempfile, zipfile
    TENSOR = array.array("d", [0.5] * 8)

    def state(step, **more):
        return {"params": {"w": TENSOR}, "opt_state": [TENSOR], "step": step, **more}

    def weights(**more):
        return {"params": {"w": TENSOR}, **more}

    def dump(content, path):
        with open(path, "wb") as file: pickle.dump(content, file)
"""


def saved(runs: Runs, body: str, code: int = 0) -> list[tuple[str, int | None]]:
    """Path below the working folder and step of what is reported, in that order; weights have a star."""
    runs.script(BEGIN + body)
    done = runs.call("run", "train.py", "--run-id", "r")
    assert done.returncode == code, done.stderr
    assert "is off from here on" not in done.stderr
    return noticed(runs)


def noticed(runs: Runs) -> list[tuple[str, int | None]]:
    return [
        (str(Path(c["path"]).relative_to(runs.work)) + "*" * c["weights_only"], c["step"])
        for c in runs.document("r")["checkpoints"]
    ]


def test_what_is_a_checkpoint(runs: Runs):
    """Training states under the names they keep, however they get there."""
    assert saved(
        runs,
        """
    dump(state(1), "plain.pkl")
    pickle.dump(state(2), open("unclosed.pickle", "wb"))
    dump(state(3), "a.pkl.tmp"); os.replace("a.pkl.tmp", "a.pkl")
    with tempfile.NamedTemporaryFile(dir=".", delete=False) as file: pickle.dump(state(4), file)
    os.rename(file.name, "b.ckpt")
    descriptor, name = tempfile.mkstemp(dir=".")
    with os.fdopen(descriptor, "wb") as file: pickle.dump(state(5), file)
    shutil.move(name, "c.ckpt")
    with zipfile.ZipFile("d.zip", "w") as archive: archive.writestr("policy.pth", pickle.dumps(state(6)))
    buffer = io.BytesIO(); pickle.dump(state(7), buffer); open("e.pt", "wb").write(buffer.getvalue())
    os.makedirs("run/checkpoints"); dump({**state(0), "step": None, "epoch": 8}, "run/checkpoints/last.pkl")
    dump({"params": {"w": TENSOR}, "opt_state": [TENSOR]}, "checkpoint_9")
    os.makedirs("f/10.tmp"); open("f/10.tmp/_METADATA", "w").write("opt_state"); os.rename("f/10.tmp", "f/step-10")
    file = open("last.pkl", "wb"); pickle.dump(state(11), file)
    """,
    ) == [
        ("plain.pkl", 1),
        ("unclosed.pickle", 2),
        ("a.pkl", 3),
        ("b.ckpt", 4),
        ("c.ckpt", 5),
        ("d.zip", 6),
        ("e.pt", 7),
        ("run/checkpoints/last.pkl", 8),
        ("checkpoint_9", 9),
        ("f/step-10", 10),
        ("last.pkl", 11),
    ]


def test_a_first_run_that_writes_bytecode_misses_no_checkpoint(runs: Runs, tmp_path: Path):
    """Python renames the bytecode of what it imports, ours included, while that is being imported."""
    runs.environment.pop("PYTHONDONTWRITEBYTECODE", None)
    runs.environment["PYTHONPYCACHEPREFIX"] = str(tmp_path / "bytecode")
    body = """
    import _backprop_trainer.hooks.saved_files.script_files  # as PyTorch's hook does
    dump(state(1), "a.pkl")
    dump(state(2), "b.pkl")
    """
    assert saved(runs, body) == [("a.pkl", 1), ("b.pkl", 2)]
    assert list(tmp_path.joinpath("bytecode").rglob("script_files.*.pyc"))


def test_a_folder_of_orbax_is_reported_once_and_by_its_step(runs: Runs):
    """What is in it gets its name first, and then the whole."""
    body = """
    for step in (3, 12):
        folder = f"run/{step}.orbax-checkpoint-tmp"
        os.makedirs(folder + "/default.orbax-checkpoint-tmp")
        with open(folder + "/default.orbax-checkpoint-tmp/_METADATA", "w") as file: file.write("('opt_state', 'mu')")
        os.rename(folder + "/default.orbax-checkpoint-tmp", folder + "/default")
        dump(TENSOR, "other.pkl")
        os.rename(folder, f"run/{step}")
    """
    assert saved(runs, body) == [("run/3", 3), ("run/12", 12)]


def test_what_is_none(runs: Runs):
    """Data, metrics, settings, caches, final weights, and what another process or Backprop itself writes."""
    assert (
        saved(
            runs,
            """
    import multiprocessing
    dump({"x": TENSOR, "y": TENSOR}, "dataset.pkl")
    dump({"loss": [1.0, 0.5], "epoch": [1, 2]}, "history.pkl")
    dump({"optimizer": {"name": "adam"}, "model": {"name": "mlp"}}, "config.pkl")
    for epoch in range(2): dump({"loss": TENSOR, "epoch": epoch}, "metrics.pkl")
    dump(weights(), "model.pkl")
    dump(state(1), "notes.txt")
    for folder in (".cache", "a/.hidden/b", "lib/site-packages", "wandb/files", os.environ["BACKPROP_RUN_DIR"]):
        os.makedirs(folder, exist_ok=True); dump(state(1), folder + "/state.pkl")
    with open("torn.pkl", "wb") as file: file.write(pickle.dumps(state(1))[:-20])
    open("empty.pkl", "wb").close()
    child = multiprocessing.get_context("fork").Process(target=dump, args=(state(1), "child.pkl"))
    child.start(); child.join()
    os.environ["RANK"] = "1"; dump(state(1), "rank.pkl")
    """,
        )
        == []
    )


def test_weights_are_better_than_nothing(runs: Runs):
    """Where they are saved again and again, or say how far training was: but not once there is a state."""
    assert saved(
        runs,
        """
    dump(weights(), "model.pkl")
    dump(weights(), "model.pkl")
    dump(weights(epoch=3), "w.pkl")
    dump(weights(), "model-1.pkl")
    dump(weights(), "model-2.pkl")
    dump(weights(), "ckpt-7.pkl")
    dump(state(9), "last.pkl")
    dump(weights(epoch=10), "best.pkl")
    """,
    ) == [("model.pkl*", None), ("w.pkl*", 3), ("model-2.pkl*", None), ("ckpt-7.pkl*", 7), ("last.pkl", 9)]


def test_a_framework_and_a_save_of_ours_keep_it_quiet(runs: Runs):
    assert saved(
        runs,
        """
    from _backprop_trainer.link import current
    with current().training("framework"): dump(state(1), "framework.pkl")
    with current().saving(): dump(state(2), "ours.pkl")
    dump(state(3), "own.pkl")
    """,
    ) == [("own.pkl", 3)]


def test_it_is_resumed_from_the_last_state(runs: Runs):
    """Not from the best, which is saved right after it; nor from weights that a later session saves first."""
    body = """
    import argparse
    parser = argparse.ArgumentParser(); parser.add_argument("--resume")
    resumed = parser.parse_args().resume
    print("from", resumed and os.path.relpath(resumed), flush=True)
    step = 0
    if resumed:
        with open(resumed, "rb") as file: step = pickle.load(file)["step"]
        dump(weights(step=step), "best-weights.pkl")
        sys.exit(3)
    for step in (1, 2):
        dump(state(step), "last.pkl")
        dump(state(step), "best.pkl")
    os.kill(os.getpid(), signal.SIGKILL)
    """
    assert saved(runs, body, code=137)[-1] == ("best.pkl", 2)
    for session in (2, 3):
        assert runs.call("resume", "r").returncode == 3
        assert runs.output("r", session) == "from last.pkl\n"
    assert noticed(runs)[-1] == ("best.pkl", 2)
