"""Text from elsewhere, made fit to be shown on one line of a terminal."""

import re


def shortened(text: str, length: int) -> str:
    """The text in at most so many characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def printable_lines(text: str) -> str:
    """The same of a text of many lines: tabs and the ends of lines, a progress bar's too, stay what they are."""
    return re.sub(r"[^\n\r\t]+", lambda found: printable(found[0]), text)


def printable(text: str) -> str:
    """The text on one line, with what a terminal would obey shown as it is written in Python."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
