"""Whom the governor asks about GPUs, and that no answer, however bad, is more than blindness."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from backprop.governor.probes import gpus as module
from backprop.governor.probes import nvml
from backprop.governor.probes.gpus import GpuPoller, GpuReading, _Pace, read_gpus
from backprop.governor.probes.nvml import Nvml
from backprop.supervisor.process.launch import RUN_DIR_VARIABLE, start_detached
from tests.conftest import HANG_S, wait_for
from tests.fakes import nvml as fake_nvml

FAKES = Path(__file__).parents[2] / "fakes"
CARD = {"index": 0, "name": "Fake", "uuid": "GPU-smi", "memory.total": 1000, "memory.used": 0, "temperature.gpu": 40}


@pytest.fixture(autouse=True)
def no_gpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without GPUs and their tools, whatever this one has. The folder that PATH begins with."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(nvml, "is_present", lambda: False)
    monkeypatch.setattr(module, "_nvml", Nvml())
    for name in ("sh", "python3", "sleep", "env"):
        (folder / name).symlink_to(Path("/bin") / name if name != "python3" else sys.executable)
    return folder


@pytest.fixture
def smi(no_gpu: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A pretend nvidia-smi, whose state is what is said last."""
    state = no_gpu / "state.json"
    (no_gpu / "nvidia-smi").symlink_to(FAKES / "nvidia-smi")
    monkeypatch.setenv("FAKE_NVIDIA_SMI", str(state))

    def say(*cards: dict[str, Any], **more: Any) -> None:
        fake_nvml.write_state(state, {"gpus": cards, **more})

    say(CARD)
    return say


@pytest.fixture
def driver(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A pretend NVML, whose state is what is said last."""
    state = tmp_path / "nvml.json"
    fake_nvml.install(monkeypatch, state)
    monkeypatch.setattr(nvml, "is_present", lambda: True)

    def say(*cards: dict[str, Any], **more: Any) -> None:
        fake_nvml.write_state(state, {"gpus": cards, **more})

    say({"uuid": "GPU-nvml", "name": "Fake", "total": 10, "used": 1})
    return say


def uuids(reading: GpuReading) -> list[str] | None:
    return None if reading.gpus is None else [gpu.uuid for gpu in reading.gpus]


# -- one reading


@pytest.mark.parametrize("kind", ["auto", "none"])
def test_a_machine_without_gpus_is_not_a_blind_governor(kind: str):
    """There is nothing to see, and that is known."""
    assert read_gpus(kind) == GpuReading(gpus=(), problem=None, source="none")


@pytest.mark.parametrize("kind", ["nvml", "nvidia-smi", "rocm"])
def test_a_probe_that_was_asked_for_and_is_not_there(kind: str):
    """Is a problem to be told: somebody expects GPUs."""
    reading = read_gpus(kind)
    assert reading.gpus is None
    assert "cannot be found" in (reading.problem or "")


def test_nvml_is_asked_first(driver: Callable[..., None], smi: Callable[..., None]):
    """The tool would say the same, much later."""
    reading = read_gpus("auto", HANG_S)
    assert (uuids(reading), reading.source) == (["GPU-nvml"], "nvml")
    assert uuids(read_gpus("nvidia-smi", HANG_S)) == ["GPU-smi"]
    assert read_gpus("none").gpus == ()


def test_a_tool_answers_where_nvml_cannot(driver: Callable[..., None], smi: Callable[..., None]):
    driver(error=18)
    reading = read_gpus("auto", HANG_S)
    assert (uuids(reading), reading.source, reading.problem) == (["GPU-smi"], "nvidia-smi", None)


@pytest.mark.parametrize(
    ("state", "timeout_s", "problem"),
    [
        ({"exit": 9}, HANG_S, "nvidia-smi failed: NVIDIA-SMI has failed because it couldn't communicate"),
        ({"stdout": "<html>oops</html>"}, HANG_S, "nvidia-smi printed '<html>oops</html>'"),
        ({"delay_s": 2 * HANG_S}, 0.5, "nvidia-smi did not answer within 0.5 s"),
    ],
)
def test_the_problem_of_each_failed_source_is_named(
    driver: Callable[..., None], smi: Callable[..., None], state: dict, timeout_s: float, problem: str
):
    driver(error=18)
    smi(**state)
    reading = read_gpus("auto", timeout_s)
    assert reading.gpus is None
    # the driver's own answer is late on a busy machine, when the time is short
    assert (reading.problem or "").startswith("NVML ")
    assert problem in (reading.problem or "")


def test_a_driver_that_hangs_costs_its_time_limit_and_no_more(driver: Callable[..., None]):
    """Nobody waits for the driver, and it is asked afresh the next time."""
    driver(delay_s=3)
    reading = read_gpus("auto", 0.2)
    assert (reading.gpus, reading.problem) == (None, "NVML did not answer within 0.2 s")
    driver({"uuid": "GPU-back", "name": "Fake"})
    assert uuids(read_gpus("auto", HANG_S)) == ["GPU-back"]


def test_a_binding_that_breaks_is_a_problem_too(driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch):
    """Whatever a driver makes of it: a run never fails over its probe."""
    monkeypatch.setattr("pynvml.nvmlDeviceGetCount", lambda: 1 / 0)
    assert read_gpus("auto", HANG_S).problem == "NVML failed: ZeroDivisionError: division by zero"


# -- readings beside the supervisor's loop


@pytest.fixture
def poller() -> Iterator[Callable[[str], GpuPoller]]:
    """Makes pollers that ask ten times a second, and closes them."""
    made = []

    def make(kind: str) -> GpuPoller:
        made.append(GpuPoller(kind, period_s=0.1))
        made[-1].start(start_detached)
        return made[-1]

    yield make
    for one in made:
        one.close()


def helpers() -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        try:
            is_one = "backprop.governor.probes.gpus" in process.cmdline() and process.status() != psutil.STATUS_ZOMBIE
            # of this test, not of somebody else's run
            if is_one and process.environ().get("FAKE_NVIDIA_SMI") == os.environ.get("FAKE_NVIDIA_SMI"):
                found.append(process)
        except psutil.Error:
            continue
    return [
        one for one in found if one.ppid() not in {other.pid for other in found}
    ]  # not what is about to be its tool


def told(poller: GpuPoller) -> GpuReading:
    latest = poller.latest()
    return GpuReading() if latest is None else latest[0]


def temperature(poller: GpuPoller) -> float | None:
    gpus = told(poller).gpus
    return gpus[0].temp_c if gpus else None


def test_a_tool_is_polled_by_a_process_that_is_none_of_ours(
    poller: Callable[[str], GpuPoller], smi: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    """It descends from nobody here, bears no mark of a run, and is gone soon after nobody listens any more."""
    monkeypatch.setenv(RUN_DIR_VARIABLE, "/runs/x")
    polling = poller("nvidia-smi")
    wait_for(lambda: temperature(polling) == 40)
    smi(CARD | {"temperature.gpu": 90})
    wait_for(lambda: temperature(polling) == 90)
    (helper,) = helpers()
    assert helper not in psutil.Process().children(recursive=True)
    assert RUN_DIR_VARIABLE not in helper.environ()
    polling.close()
    wait_for(lambda: not helpers())


def open_files(pid: int) -> set[str]:
    links = set()
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed meanwhile
            links.add(os.readlink(path))
    return links


def test_a_helper_keeps_none_of_our_files(poller: Callable[[str], GpuPoller], smi: Callable[..., None], tmp_path: Path):
    """A lock that it held on to would outlive a supervisor that is killed."""
    with (tmp_path / "lock").open("w") as lock:
        os.set_inheritable(lock.fileno(), True)  # noqa: FBT003
        polling = poller("nvidia-smi")
        wait_for(lambda: temperature(polling) == 40)
        (helper,) = helpers()
        held, ours = open_files(helper.pid), open_files(os.getpid())
    assert str(tmp_path / "lock") not in held
    assert sum(name.startswith("pipe:") for name in held & ours) == 1  # it has more while its tool answers


SUPERVISOR = """
import time, psutil
from backprop.governor.probes.gpus import GpuPoller
from backprop.supervisor.process.launch import adopt_orphans, start_detached
adopt_orphans()  # as after an earlier session
poller = GpuPoller("nvidia-smi", 0.1)
poller.start(start_detached)
print(len(psutil.Process().children(recursive=True)), flush=True)
time.sleep(60)
"""


def test_a_helper_neither_joins_its_supervisors_tree_nor_outlives_it(smi: Callable[..., None]):
    """A supervisor that is killed is not heard of any more, and one of many sessions adopts no helper."""
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"0\n"
        wait_for(helpers)
        process.kill()
    wait_for(lambda: not helpers())


def test_a_tool_that_begins_to_fail_is_told(poller: Callable[[str], GpuPoller], smi: Callable[..., None]):
    """And one that works again is believed again."""
    polling = poller("auto")
    wait_for(lambda: temperature(polling) == 40)
    smi(exit=9)
    wait_for(lambda: "nvidia-smi failed" in (told(polling).problem or ""))
    smi(CARD)
    wait_for(lambda: temperature(polling) == 40)


def test_a_reading_tells_when_it_was_taken(poller: Callable[[str], GpuPoller], smi: Callable[..., None]):
    """In the clock of the supervisor, whichever process took it."""
    started = time.monotonic()
    _, at = wait_for(poller("nvidia-smi").latest)
    assert started < at < time.monotonic()


def test_nvml_is_polled_on_a_thread(poller: Callable[[str], GpuPoller], driver: Callable[..., None]):
    """The first answer comes a moment after the first question; there is no other process."""
    polling = poller("auto")
    wait_for(lambda: told(polling).source == "nvml")
    assert not helpers()
    driver(error=9)
    wait_for(lambda: told(polling).gpus is None)
    driver({"uuid": "GPU-0", "name": "Fake", "temp": 77})
    wait_for(lambda: temperature(polling) == 77)


@pytest.mark.parametrize("state", [{"error": 15}, {"delay_s": 3}], ids=["fails", "is slow"])
def test_a_driver_that_does_not_answer_at_first_is_asked_again(
    poller: Callable[[str], GpuPoller], driver: Callable[..., None], state: dict
):
    """Else the governor would not see the GPU for a whole session."""
    driver(**state)
    polling = poller("nvml")
    driver({"uuid": "GPU-0", "name": "Fake", "temp": 77})
    wait_for(lambda: temperature(polling) == 77)


def test_there_is_no_thread_before_the_first_question(poller: Callable[[str], GpuPoller], driver: Callable[..., None]):
    """A trainer is launched in between, and a fork with threads may hang."""
    import threading

    before = threading.active_count()
    polling = poller("nvml")
    assert threading.active_count() == before
    polling.latest()
    assert threading.active_count() == before + 1
    polling.close()
    wait_for(lambda: threading.active_count() == before)  # one that is slow is left behind


def test_a_driver_that_hangs_does_not_hold_up_the_loop(poller: Callable[[str], GpuPoller], driver: Callable[..., None]):
    """Its last word grows old; asking costs nothing."""
    polling = poller("nvml")
    latest = wait_for(polling.latest)
    driver(delay_s=2)
    started = time.monotonic()
    assert latest[1] <= polling.latest()[1] <= started


def test_where_no_source_has_worked_the_launch_does_not_wait_for_one(
    smi: Callable[..., None], driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    """The helper asks them, in its own time."""
    asked: list[str] = []
    monkeypatch.setattr(module, "read_gpus", lambda kind: asked.append(kind) or GpuReading())
    for has_failed in (False, True):
        started: list[object] = []
        polling = GpuPoller("auto")
        polling.start(lambda command, _, to=started: to.append(command), has_failed=has_failed)
        polling.close()
        assert (asked, len(started)) == (["nvml"], int(has_failed))


def test_what_cannot_be_read_for_long_is_read_less_often():
    """Not after a moment: a pause for heat would end because of that."""
    pace, failed = _Pace(1.0), GpuReading(gpus=None, problem="no driver")
    assert [pace.wait_s(failed, at) for at in (0.0, 15.0, 29.0, 30.0, 40.0)] == [1.0, 1.0, 1.0, 10.0, 10.0]
    assert [pace.wait_s(GpuReading(), 50.0), pace.wait_s(failed, 51.0)] == [1.0, 1.0]


@pytest.mark.parametrize("kind", ["none", "auto"])
def test_where_there_is_nothing_to_ask_nothing_is_started(poller: Callable[[str], GpuPoller], kind: str):
    polling = poller(kind)
    assert polling.latest() is None
    assert not helpers()


def test_where_no_thread_can_be_started_the_governor_is_blind(
    poller: Callable[[str], GpuPoller], driver: Callable[..., None], monkeypatch: pytest.MonkeyPatch
):
    """And sees again when one can: the user has as many as `ulimit -u` allows."""

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    driver()
    made = poller("nvml")
    with monkeypatch.context() as limited:
        limited.setattr(threading.Thread, "start", refuse)
        assert read_gpus("nvml").problem == "NVML cannot be read: can't start new thread"
        assert made.latest() is None
    wait_for(made.latest)
