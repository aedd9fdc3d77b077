"""Horizontal bars."""

LINES, BLOCKS = ("━", "─"), ("█", "░")
PLAIN_LINES, PLAIN_BLOCKS = ("=", "."), ("#", ".")  # for terminals without block characters


def bar(share: float | None, width: int, characters: tuple[str, str]) -> tuple[str, str]:
    """The filled and the empty part, `width` characters in all; empty when the share is unknown."""
    full, empty = characters
    filled = round(min(1.0, max(0.0, share or 0.0)) * width)
    return full * filled, empty * (width - filled)
