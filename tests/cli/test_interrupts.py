"""Stop reaches the one that trains, whatever started it, and none of its workers. Real processes."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.conftest import HANG_S, OWN_CLOCK, Runs, wait_for

# saving takes longer than `subprocess.run` lets a child live once it has been interrupted itself: a quarter of a second
TRAINER = """
    try:
        print("trains", os.getpid(), flush=True)
        time.sleep(1000)
    except KeyboardInterrupt:
        time.sleep(0.6)
        print("saved", flush=True)
"""
LAUNCHERS = {
    "wait": "subprocess.Popen([sys.executable, 'train.py']).wait()",
    "run": "sys.exit(subprocess.run([sys.executable, 'train.py']).returncode)",
    "system": "os.system(sys.executable + ' train.py')",
    "shell": "subprocess.run(sys.executable + ' train.py | tee log', shell=True)",
    "new session": "subprocess.run([sys.executable, 'train.py'], start_new_session=True)",
    "fork": "import multiprocessing as m, runpy\n"
    "p = m.get_context('fork').Process(target=runpy.run_path, args=('train.py',)); p.start(); p.join()",
    "spawn": "import multiprocessing as m, runpy\nif __name__ == '__main__':\n"
    "    p = m.get_context('spawn').Process(target=runpy.run_path, args=('train.py',)); p.start(); p.join()",
    "polls": "p = subprocess.Popen([sys.executable, 'train.py'])\nwhile p.poll() is None: time.sleep(0.1)",
    "polls a process": "import multiprocessing as m, runpy\n"
    "p = m.get_context('fork').Process(target=runpy.run_path, args=('train.py',)); p.start()\n"
    "while p.is_alive(): time.sleep(0.1)",
}
WRAPPERS = {
    "make": ["make", "train"],
    "xargs": ["xargs", "-a", "/dev/null", sys.executable, "train.py"],
    "script": ["script", "-qec", f"{sys.executable} train.py", "/dev/null"],
    "bash": ["bash", "-c", f"cd . && {sys.executable} train.py; true"],
    "bash, make": ["bash", "-c", "make train; true"],
    "env": ["env", "A=1", "nice", sys.executable, "train.py"],
}


def stop(
    runs: Runs,
    *words: str,
    ready: int = 1,
    until_s: float | None = None,
    has_reacted: Callable[[list[int]], bool] = lambda pids: True,
) -> str:
    """Run this, and stop it once its stdout has so many lines; all of its stdout.

    until_s: of its grace of 600 s, this much is over once those that were interrupted have reacted.
    """
    options = ("run", "--run-id", "r", "--grace", 600, *words)
    process = runs.start(*options) if until_s is None else runs.start_patched(OWN_CLOCK, *options)
    wait_for(lambda: runs.output("r").count("\n") >= ready or process.poll() is not None)
    assert process.poll() is None, runs.rundir("r").joinpath("session-1.err").read_text()
    stopping = runs.start("stop", "r")
    if until_s is not None:
        (pids,) = wait_for(lambda: interrupted(runs))
        wait_for(lambda: has_reacted(pids))
        runs.set_clock(until_s)
    assert stopping.wait(HANG_S) == 0
    assert process.wait(HANG_S) == 0
    return runs.output("r")


def interrupted(runs: Runs) -> list[list[int]]:
    """Who got SIGINT, entry by entry."""
    return [e["pids"] for e in runs.journal("r") if e["event"] == "signalled" and e["signal"] == "SIGINT"]


def is_joining(pid: int) -> bool:
    """Whether a process waits for a child to end."""
    return Path(f"/proc/{pid}/wchan").read_text() == "do_wait"


@pytest.mark.parametrize("name", LAUNCHERS)
def test_a_trainer_below_a_python_launcher_saves(runs: Runs, name: str):
    """It gets SIGINT, and the launcher does nothing to it before it has saved."""
    runs.script(TRAINER)
    runs.script(LAUNCHERS[name], "launch.py")
    # a launcher that polls cannot be told from a trainer: for a third of the grace its process counts as a worker
    until_s = 201 if name == "polls a process" else None
    words = stop(runs, "launch.py", until_s=until_s, has_reacted=lambda pids: is_joining(pids[0])).split()
    assert words[:1] + words[2:] == ["trains", "saved"]
    assert any(int(words[1]) in pids for pids in interrupted(runs))
    assert runs.tree() == []


@pytest.mark.parametrize("name", WRAPPERS)
def test_a_trainer_below_a_wrapper_saves(runs: Runs, name: str):
    """As at Ctrl-C in a terminal, and also where the wrapper would end before its child, or end it."""
    runs.script(TRAINER)
    (runs.work / "Makefile").write_text(f"train:\n\t@{sys.executable} train.py\n")
    words = stop(runs, "--", *WRAPPERS[name]).split()
    assert words[:1] + words[2:] == ["trains", "saved"]
    assert any(int(words[1]) in pids for pids in interrupted(runs))
    assert runs.tree() == []


def test_a_launcher_starts_nothing_else_after_a_trainer_that_was_stopped(runs: Runs):
    """It is interrupted as soon as that has ended; what it has started by then is, too."""
    runs.script(TRAINER)
    runs.script("for seed in range(3):\n    subprocess.run([sys.executable, 'train.py'])", "launch.py")
    assert stop(runs, "launch.py").split().count("saved") == 1
    first, second = interrupted(runs)
    assert len(first) == 1
    assert first[0] not in second


def test_a_launcher_that_never_gets_its_turn_is_interrupted_all_the_same(runs: Runs):
    """A trainer that ignores the interrupt does not keep it from whoever waits for it: a third of the grace."""
    runs.script(
        """
        signal.signal(signal.SIGINT, lambda *_: print("not now", flush=True))
        print("trains", flush=True)
        while True:
            time.sleep(1000)
        """
    )
    runs.script(
        """
        child = subprocess.Popen([sys.executable, "train.py"])
        try:
            child.wait()
        except KeyboardInterrupt:
            print("launcher saved", flush=True)
            child.kill()
        """,
        "launch.py",
    )
    has_reacted = lambda _: "not now" in runs.output("r")  # noqa: E731
    assert stop(runs, "launch.py", until_s=201, has_reacted=has_reacted) == "trains\nnot now\nlauncher saved\n"
    assert [len(pids) for pids in interrupted(runs)] == [1, 1]


WORKERS = {
    "fork": "worker = m.get_context('fork').Process(target=serve, args=(theirs,)); worker.start()",
    "spawn": "worker = m.get_context('spawn').Process(target=serve, args=(theirs,)); worker.start()",
    "forkserver": "worker = m.get_context('forkserver').Process(target=serve, args=(theirs,)); worker.start()",
    "fork pool": "pool = m.get_context('fork').Pool(2); pool.apply_async(serve, (theirs,))",
    "spawn pool": "pool = m.get_context('spawn').Pool(2); pool.apply_async(serve, (theirs,))",
    "executor": "pool = concurrent.futures.ProcessPoolExecutor(2); pool.submit(serve, theirs)",
}


@pytest.mark.parametrize("name", WORKERS)
def test_no_worker_is_interrupted(runs: Runs, name: str):
    """A data-loading worker that died would take the save with it: here the save needs its answer."""
    runs.script(
        f"""
        import concurrent.futures
        import multiprocessing as m

        def serve(connection):
            while (asked := connection.recv()) is not None:
                connection.send(asked + 1)

        if __name__ == "__main__":
            ours, theirs = m.Pipe()
            {WORKERS[name]}
            ours.send(1)
            assert ours.recv() == 2
            try:
                print("trains", flush=True)
                time.sleep(1000)
            except KeyboardInterrupt:
                time.sleep(0.3)
                ours.send(2)
                print("saved", ours.recv(), flush=True)
                ours.send(None)
        """
    )
    assert stop(runs, "train.py") == "trains\nsaved 3\n"
    assert [len(pids) for pids in interrupted(runs)] == [1]


def test_nobody_below_a_process_that_trains_is_interrupted(runs: Runs):
    """A process that is known to train keeps its helpers, also those that are programs of their own."""
    runs.script(
        """
        import backprop
        backprop.save({"weight": 1.0}, 1)
        echo = "print(input())"
        helper = subprocess.Popen([sys.executable, "-c", echo], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        try:
            print("trains", flush=True)
            time.sleep(1000)
        except KeyboardInterrupt:
            time.sleep(0.3)
            print(helper.communicate(b"saved\\n")[0].decode(), end="", flush=True)
        """
    )
    assert stop(runs, "train.py") == "trains\nsaved\n"
    assert [len(pids) for pids in interrupted(runs)] == [1]


def test_workers_of_a_pool_that_train_are_interrupted_before_whoever_waits_for_them(runs: Runs):
    """Each can save before the pool is taken down with it."""
    runs.script(
        """
        import multiprocessing as m
        import backprop

        def train(number):
            backprop.save({"weight": 1.0}, 1)
            try:
                print("trains", flush=True)
                time.sleep(1000)
            except KeyboardInterrupt:
                time.sleep(0.6)
                print("saved", flush=True)

        if __name__ == "__main__":
            with m.get_context("fork").Pool(2) as pool:
                pool.map(train, range(2), chunksize=1)
        """
    )
    assert stop(runs, "train.py", ready=2).count("saved") == 2  # two writes a line: theirs may mix
    assert len(interrupted(runs)[0]) == 2


def test_ranks_of_an_agent_are_interrupted_once(runs: Runs):
    """torchrun's agent passes on what it gets: a second interrupt would break off their save."""
    runs.script(
        """
        if "TORCHELASTIC_RUN_ID" in os.environ:
            heard = []
            signal.signal(signal.SIGINT, lambda *_: heard.append(1))
            print("trains", flush=True)
            while not heard:
                time.sleep(0.01)
            time.sleep(1)
            os.write(1, b"heard %d\\n" % len(heard))  # at once: two processes write there
            sys.exit()
        os.environ["TORCHELASTIC_RUN_ID"] = "none"
        ranks = [subprocess.Popen([sys.executable, __file__], start_new_session=apart) for apart in (False, True)]
        try:
            print("waits", flush=True)
            [rank.wait() for rank in ranks]
        except KeyboardInterrupt:
            [rank.send_signal(signal.SIGINT) for rank in ranks]
            [rank.wait() for rank in ranks]
        """
    )
    assert sorted(stop(runs, "train.py", ready=3).splitlines()[3:]) == ["heard 1", "heard 1"]
    assert [len(pids) for pids in interrupted(runs)] == [1]
