"""A failure of ours is reported once, turns its part off, and never reaches the script."""

from collections.abc import Iterator

import pytest

from backprop.trainer import failsafe


@pytest.fixture(autouse=True)
def all_on(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(failsafe, "_off", set())
    return


def test_a_part_that_fails_is_off_from_then_on(capsys: pytest.CaptureFixture[str]):
    calls: list[int] = []

    @failsafe.guarded("part", otherwise="plain")
    def ours(number: int) -> str:
        calls.append(number)
        raise ValueError("a\nbug")

    assert [ours(1), ours(2)] == ["plain", "plain"]
    assert calls == [1]
    assert failsafe.is_off("part")
    assert not failsafe.is_off("another")
    (line,) = capsys.readouterr().err.splitlines()  # on one line, whatever the message holds
    assert line.startswith("backprop: the hook for part is off from here on")
    assert r"ValueError: a\nbug" in line


def test_a_tap_sees_what_has_succeeded_and_changes_nothing():
    """The script gets its own result, and its own exceptions: neither turns the tap off."""
    seen: list[int] = []

    def original(number: int) -> int:
        if number < 0:
            raise KeyError(number)
        return number * 2

    def tap(number: int) -> None:
        seen.append(number)
        if number == 3:
            raise RuntimeError

    call = failsafe.after(original, tap, "tap")
    assert call(1) == 2
    with pytest.raises(KeyError):
        call(-1)
    assert (call(3), call(4)) == (6, 8)
    assert seen == [1, 3]


def test_a_stderr_that_is_closed_is_no_error(monkeypatch: pytest.MonkeyPatch):
    """As in a program without a console, or one that has replaced it."""
    monkeypatch.setattr("sys.stderr", None)
    failsafe.turn_off("part", ValueError())
    assert failsafe.is_off("part")


def test_what_ends_a_process_is_not_swallowed():
    """Ctrl-C and sys.exit within our code belong to the script."""

    @failsafe.guarded("part")
    def ours() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ours()
    assert not failsafe.is_off("part")
