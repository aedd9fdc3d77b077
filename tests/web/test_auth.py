"""Nobody comes in without the token, and no other page can use a browser that has it."""

import html
import signal
import stat
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest

from tests.conftest import HANG_S, Runs, wait_for
from tests.web.conftest import Server, start_endless

PATHS = ["/nothing", "/api/runs", "/api/runs/x/log", "/api/curves?run=x", "/api/machine", "/api/events"]


@pytest.mark.parametrize("word", ["", "wrong", "%F0%9F%92%A9", "\xe9"])
def test_without_the_token_nothing_is_served(quiet_server: Server, word: str):
    """No data, by header or address; the refusal says how to get in, and gives nothing away."""
    for path in PATHS:
        for told in (
            {},
            {"X-Backprop-Token": word},
            {"Cookie": f"token={quiet_server.token}"},
        ):
            answer = quiet_server.send(
                "GET", f"{path}{'&' if '?' in path else '?'}token={word.replace(chr(233), '')}", told
            )
            assert answer.status == 403
            assert "backprop ui" in answer.text
            assert quiet_server.token not in answer.text + str(answer.headers)


def test_the_page_is_for_everybody_and_no_cookie_is_set(quiet_server: Server):
    """Nothing of the user's is in it. A cookie would go to all other servers of this machine: they are told no ports."""
    for path in ("/", f"/?token={quiet_server.token}", "/?token=wrong", "/static/main.js"):
        answer = quiet_server.send("GET", path, {})
        assert answer.status == 200
        assert "set-cookie" not in answer.headers
        assert quiet_server.token not in answer.text + str(answer.headers)


def test_an_order_needs_more_than_an_address(quiet_server: Server):
    """One with the token in it may be behind a form."""
    headers = {"Origin": quiet_server.origin}
    path = f"/api/runs/nobody/stop?token={quiet_server.token}"
    assert quiet_server.send("POST", path, headers, "{}").status == 403
    assert quiet_server.send("POST", path, {**headers, **quiet_server.key}, "{}").status == 404


def test_nobody_orders_anything_of_the_page(quiet_server: Server):
    """What is for everybody is only to be read."""
    for path in ("/", "/static/main.js", f"/?token={quiet_server.token}"):
        assert quiet_server.send("POST", path, {}, "").status == 403


@pytest.mark.parametrize("host", ["evil.test", "evil.test:{port}", "127.0.0.1.evil.test:{port}", "10.0.0.1:{port}", ""])
def test_another_name_is_refused(quiet_server: Server, host: str):
    """DNS rebinding: a site whose name is made to lead here is not us, even with the token."""
    headers = {**quiet_server.key, "Host": host.format(port=quiet_server.port)}
    assert quiet_server.send("GET", "/api/runs", headers).status == 403


@pytest.mark.parametrize("host", ["127.0.0.1:{port}", "localhost:{port}", "LOCALHOST:{port}", "localhost:9000"])
def test_our_names_are_answered_through_a_tunnel_too(quiet_server: Server, host: str):
    """`ssh -L 9000:localhost:7860` makes another port of ours."""
    headers = {**quiet_server.key, "Host": host.format(port=quiet_server.port)}
    assert quiet_server.send("GET", "/api/runs", headers).status == 200


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "{origin}"},
        {"X-Backprop-Token": "{token}"},
        {"Origin": "http://evil.test", "X-Backprop-Token": "{token}"},
        {"Origin": "http://127.0.0.1:1", "X-Backprop-Token": "{token}"},
        {"Origin": "null", "X-Backprop-Token": "{token}"},
        {"Origin": "", "X-Backprop-Token": "{token}"},
        {"Sec-Fetch-Site": "same-site", "X-Backprop-Token": "{token}"},
        {"Sec-Fetch-Site": "cross-site", "X-Backprop-Token": "{token}"},
        {"Origin": "{origin}", "X-Backprop-Token": "wrong"},
    ],
)
def test_an_order_from_another_page_is_refused(server: Server, runs: Runs, headers: dict[str, str]):
    """Without the token, and even with it: that stops no run."""
    run_id = start_endless(runs)
    told = {name: value.format(origin=server.origin, token=server.token) for name, value in headers.items()}
    answer = server.send("POST", f"/api/runs/{run_id}/stop", told, "{}")
    assert answer.status == 403
    assert runs.document(run_id)["status"] == "running"
    assert not [entry for entry in runs.journal(run_id) if entry["event"] == "stop_asked"]


def test_an_order_without_an_origin_needs_the_browsers_own_word(quiet_server: Server):
    """Sec-Fetch-Site is set by browsers and by no script."""
    headers = {**quiet_server.key, "Sec-Fetch-Site": "same-origin"}
    assert quiet_server.send("POST", "/api/runs/nobody/stop", headers, "{}").status == 404


@pytest.mark.parametrize("path", ["/", "/static/nothing", "/api/runs", "/api/nothing", "/api/runs/x"])
def test_every_answer_binds_the_browser(quiet_server: Server, path: str):
    """No scripts but ours, no frames, no sniffing, no referrer; refused or not."""
    for key in (quiet_server.key, {}):
        headers = quiet_server.send("GET", path, key).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "no-referrer"
        assert headers["cache-control"] in {"no-store", "no-cache"}
        assert "quiet_server" not in headers


@pytest.mark.parametrize(
    "name",
    [
        "../app.py",
        "..%2fapp.py",
        "%2e%2e/app.py",
        "%2e%2e%2fapp.py",
        "....//app.py",
        "/etc/passwd",
        "%2fetc%2fpasswd",
        ".",
    ],
)
def test_no_path_leads_out_of_the_static_files(quiet_server: Server, name: str):
    """Only what the package serves has a name."""
    assert quiet_server.get(f"/static/{name}").status == 404


def test_a_file_that_the_browser_has_is_not_sent_again(quiet_server: Server):
    """The page opens at once, and a new version is there at once."""
    tag = quiet_server.get("/static/index.html").headers["etag"]
    again = quiet_server.send("GET", "/static/index.html", {"If-None-Match": tag})
    assert (again.status, again.text) == (304, "")


def test_the_token_is_said_once_and_nothing_else_is(runs: Runs):
    """No log of requests, which hold it: stdout has the address and stderr two lines."""
    server = Server(runs)
    for path in (f"/?token={server.token}", f"/api/runs?token={server.token}", "/nothing", "/api/runs"):
        server.send("GET", path, {})
    code, told = server.interrupt()
    assert code == 0
    assert server.process.stdout.read() == b""
    assert server.token not in told
    assert len(told.splitlines()) == 2


def opened_page(runs: Runs) -> tuple[Server, Path]:
    """A server that has opened a browser, which only wrote down how it was called; and the file that it was to show."""
    called = runs.work / "called"
    browser = runs.work / "browser"
    browser.write_text(f'#!/bin/sh\nprintf "%s\\n" "$0" "$@" > {called}.new && mv {called}.new {called}\n')
    browser.chmod(0o755)
    runs.environment["BROWSER"] = f"{browser} %s"
    server = Server(runs, "--port", "0", is_opened=True)
    wait_for(called.exists)
    _, address = called.read_text().splitlines()
    assert address.startswith("file://")
    assert server.token not in address
    return server, Path(unquote(urlsplit(address).path))


def test_the_browser_is_opened_by_a_file_that_only_its_user_reads(runs: Runs):
    """Its command line can be read by every user of the machine: nothing in it lets in. The file is gone once used."""
    server, file = opened_page(runs)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert file.parent == runs.home
    url = urlsplit(html.unescape(file.read_text()).partition("0;url=")[2].partition('"')[0])
    assert url.port == server.port
    assert server.send("GET", "/?token=wrong", {}).status == 200
    assert file.exists()
    assert server.send("GET", f"{url.path}?{url.query}", {}).status == 200
    assert not file.exists()
    assert server.token == url.query.removeprefix("token=")


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_the_file_that_was_not_used_goes_with_the_server(runs: Runs, how: signal.Signals):
    """What lets in is not left lying about."""
    server, file = opened_page(runs)
    assert file.exists()
    wait_for(lambda: server.get("/api/machine").status == 200)
    server.process.send_signal(how)
    server.process.wait(HANG_S)
    assert not file.exists()
