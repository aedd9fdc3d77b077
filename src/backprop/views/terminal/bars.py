"""How full something is, drawn as a bar."""

LINES, BLOCKS = ("━", "─"), ("█", "░")
PLAIN_LINES, PLAIN_BLOCKS = ("=", "."), ("#", ".")  # for a terminal that knows no others


def bar(share: float | None, width: int, characters: tuple[str, str]) -> tuple[str, str]:
    """Its full and its empty part, together so many characters; empty when the share is not known."""
    full, empty = characters
    filled = round(min(1.0, max(0.0, share or 0.0)) * width)
    return full * filled, empty * (width - filled)
