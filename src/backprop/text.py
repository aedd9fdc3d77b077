"""Untrusted text: whether it can be stored, and made safe for a terminal."""

import re


def is_utf8(text: str) -> bool:
    """Whether the text can be written as UTF-8, as JSON is. Names of files and arguments may be any bytes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shortened(text: str, length: int) -> str:
    """The text, truncated to `length` characters."""
    return text if len(text) <= length else text[: length - 1] + "…"


def printable_lines(text: str) -> str:
    """Like `printable`, but tabs, newlines and carriage returns stay."""
    return re.sub(r"[^\n\r\t]+", lambda found: printable(found[0]), text)


def printable(text: str) -> str:
    """The text on one line, with control characters as Python escapes."""
    if text.isprintable():
        return text
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
