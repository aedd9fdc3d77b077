"""A real server process, a client that sends exactly the given headers, and the services of a server without its process."""

import http.client
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from urllib.parse import urlencode, urlsplit

import pytest

from backprop.store.home import Home
from backprop.store.index import Index
from backprop.views.web.index_pool import IndexPool
from backprop.views.web.poller import Poller
from backprop.views.web.services import MachineReading, Services
from tests.conftest import HANG_S, Runs, wait_for
from tests.records import LIMITS

MakePoller = Callable[[Services], Poller]

ENDLESS = """
    for step in range(10**9):
        print(json.dumps({"step": step, "loss": 1 / (step + 1)}), flush=True)
        time.sleep(0.05)
"""


class Answer:
    """What came back."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.text = response.read().decode()

    @property
    def json(self) -> dict:
        return json.loads(self.text)


class Stream:
    """Server-sent events, as they come."""

    def __init__(self, response: http.client.HTTPResponse) -> None:
        self._response = response

    def next(self) -> tuple[str, dict | list]:
        """The next event; fails when the stream has ended."""
        name = ""
        while line := self._response.readline().decode():
            if line.startswith("event: "):
                name = line.removeprefix("event: ").strip()
            if line.startswith("data: "):
                return name, json.loads(line.removeprefix("data: "))
        raise AssertionError("the stream has ended")

    def next_of(self, name: str, is_wanted=lambda _: True) -> dict | list:
        """The data of the next event of that name that is wanted."""
        while True:
            found, data = self.next()
            if found == name and is_wanted(data):
                return data

    def rest(self) -> bytes:
        """All there is until the server ends the stream."""
        return self._response.read()


_PATIENT = f"""
from backprop.views.web import app, server
app._RESPOND_WITHIN_S = server._LEAVE_WITHIN_S = {HANG_S}
"""


class Server:
    """`backprop ui` in a process of its own."""

    def __init__(self, runs: Runs, *words: str, is_opened: bool = False, is_hurried: bool = True) -> None:
        """is_hurried: it answers when the action takes long, and cuts off who does not take what it is sent."""
        unseen = () if is_opened else ("--no-open",)
        command = "ui", *unseen, *(words or ("--port", "0"))
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        self.process = (
            runs.start(*command, **streams) if is_hurried else runs.start_patched(_PATIENT, *command, **streams)
        )
        self.url = self.process.stdout.readline().decode().strip()
        assert self.url, self.process.stderr.read().decode()
        self.port = urlsplit(self.url).port
        self.origin = f"http://127.0.0.1:{self.port}"
        self.token = self.url.partition("token=")[2]
        self.key = {"X-Backprop-Token": self.token}

    def send(self, method: str, path: str, headers: dict[str, str], body: str | None = None) -> Answer:
        """A request with these headers and no others."""
        with self._connection() as connection:
            connection.request(method, path, body, headers)
            return Answer(connection.getresponse())

    def get(self, path: str, **query: object) -> Answer:
        """As the page asks."""
        words = f"?{urlencode(query, doseq=True)}" if query else ""
        return self.send("GET", path + words, self.key)

    def post(self, path: str, **order: object) -> Answer:
        """As the page orders."""
        headers = {**self.key, "Origin": self.origin}
        return self.send("POST", path, headers, json.dumps(order))

    @contextmanager
    def stream(self, **query: object) -> Iterator[Stream]:
        """Listen."""
        with self._connection() as connection:
            connection.request("GET", f"/api/events?{urlencode(query)}", headers=self.key)
            response = connection.getresponse()
            assert response.status == 200
            yield Stream(response)

    @contextmanager
    def _connection(self) -> Iterator[http.client.HTTPConnection]:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=HANG_S)
        try:
            yield connection
        finally:
            connection.close()

    def interrupt(self) -> tuple[int, str]:
        """Ctrl-C: the exit code, and what was said on stderr in all."""
        self.process.send_signal(signal.SIGINT)
        code = self.process.wait(HANG_S)
        return code, self.process.stderr.read().decode()


@pytest.fixture
def server(runs: Runs) -> Server:
    return Server(runs)


@pytest.fixture
def patient_server(runs: Runs) -> Server:
    """For what it answers at the end of an action, and what it still sends when it is to end."""
    return Server(runs, is_hurried=False)


@pytest.fixture(scope="module")
def quiet_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One without any run, for what changes nothing."""
    runs = Runs(tmp_path_factory.mktemp("quiet"))
    yield Server(runs)
    runs.clean_up()


def start_endless(runs: Runs, text: str = ENDLESS) -> str:
    """The id of a run that goes on, has said something, and is in the index: before that, the server says 503."""
    done = runs.call("run", "-d", "-m", "5", "--grace", "20", runs.script(text))
    assert done.returncode == 0, done.stderr
    run_id = done.stdout.strip()
    runs.own(run_id)
    wait_for(lambda: runs.output(run_id))
    with closing(Index(Home(runs.home).index_path, 10)) as index:
        wait_for(lambda: index.get(run_id))
    return run_id


@pytest.fixture
def make_poller() -> Iterator[MakePoller]:
    """Pollers whose threads and connections end with the test."""
    made: list[Poller] = []

    def make(services: Services) -> Poller:
        made.append(Poller(services, IndexPool(services), lambda: None))
        return made[-1]

    yield make
    for poller in made:
        poller.close()
        for pulse in (poller._runs, poller._machines):
            if pulse._thread is not None:
                pulse._thread.join()
        poller.pool.close()


def services_of(
    home: Home, open_index: Callable[[], Index], catch_up: Callable[[Index], None] = lambda _: None
) -> Services:
    """Services in this process, whose index comes from here and whose machine cannot be read."""

    class Partial(Services):
        def open_index(self) -> Index:
            return open_index()

        def catch_up(self, index: Index) -> None:
            catch_up(index)

        def read_machine(self) -> MachineReading:
            raise AssertionError("no test reads the machine here")

    limits = LIMITS
    return Partial(home=home, limits=limits, gpu_probe="none", folders=(), say=print)
