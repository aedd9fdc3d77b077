"""Modal dialogs: a confirmation, and the keys."""

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import Binding, BindingType
from textual.containers import Horizontal, Vertical, VerticalScroll
from textual.screen import ModalScreen
from textual.widgets import Button, Static

KEYS = (
    ("↑ ↓", "select a run (or use the mouse)"),
    ("enter", "curve and text in full screen (or double-click); esc: back"),
    ("enter o", "open or close a group; o also on one of its runs"),
    ("O", "open or close all groups"),
    ("c l d u", "show curve, log, details, usage (charts of CPU, memory, GPU)"),
    ("e", "show stdout or stderr in the log"),
    ("m M", "next metric, previous metric"),
    ("g", "log scale on or off"),
    ("t", "x-axis: steps or time"),
    ("s", "stop gracefully (asks first)"),
    ("k S", "kill (asks first)"),
    ("p", "pause"),
    ("r", "resume: continue a paused run, or start another session of one that has ended"),
    ("/", "search: words, or status=failed lr>1e-4; esc: show all runs"),
    ("tab", "focus the text, to scroll it"),
    ("ctrl-z", "suspend watch; fg resumes it"),
    ("q", "quit; runs continue"),
)


class Question(ModalScreen[bool]):
    """Yes or no; True for yes."""

    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("y", "answer(True)", "yes"),
        Binding("n,escape,q", "answer(False)", "no"),
    ]

    def __init__(self, question: str) -> None:
        super().__init__()
        self._question = question

    def compose(self) -> ComposeResult:
        with Vertical():
            yield Static(Text(self._question))
            with Horizontal():
                yield Button("Yes (y)", variant="error", id="yes", compact=True)
                yield Button("No (n)", id="no", compact=True)

    def on_mount(self) -> None:
        self.query_one("#no").focus()  # pressing Enter by mistake is harmless

    def action_answer(self, is_yes: bool) -> None:
        self.dismiss(is_yes)

    def on_button_pressed(self, event: Button.Pressed) -> None:
        self.dismiss(event.button.id == "yes")


class Help(ModalScreen[None]):
    """The list of keys."""

    BINDINGS: ClassVar[list[BindingType]] = [Binding("escape,q,enter,question_mark", "dismiss", "close")]

    def compose(self) -> ComposeResult:
        text = Text()
        for key, action in KEYS:
            text.append(f"{key:>9}  ", style="bold cyan").append(f"{action}\n")
        text.append("\nesc to close", style="dim")
        with VerticalScroll():
            yield Static(text)
