"""Numbers for people."""

import math
from datetime import datetime

from backprop.records import Life, LiveProgress
from backprop.store.usage.quantities import Unit
from backprop.text import printable


def duration(seconds: float | None) -> str:
    """9.4 s, 4:05, 2:03:20, 3 d 4 h; "-" for None."""
    if seconds is None or not math.isfinite(seconds):
        return "-"
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02}"
    if whole < 86_400:
        return f"{whole // 3600}:{whole % 3600 // 60:02}:{whole % 60:02}"
    return f"{whole // 86_400} d {whole % 86_400 // 3600} h"


def used(elapsed_s: float, limit_s: float) -> str:
    """How much of a limit, both in one unit: 2.4/600 s, 4.6/10 min, 275/10,000 min."""
    if min(elapsed_s, limit_s) < 60:
        decimals = 1 if elapsed_s < 9.95 else 0
        limit = f"{limit_s:.3g}" if limit_s < 60 else f"{round(limit_s, 1):,.10g}"
        return f"{max(0.0, elapsed_s):,.{decimals}f}/{limit} s"
    minutes = elapsed_s / 60
    return f"{minutes:,.{1 if minutes < 99.95 else 0}f}/{round(limit_s / 60, 2):,.10g} min"


def age(instant: datetime, now: datetime) -> str:
    """How long ago, in one unit: 12 s, 5 min, 3 h, 2 d."""
    seconds = max(0.0, (now - instant).total_seconds())
    for size, unit in ((86_400, "d"), (3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{int(seconds // size)} {unit}"
    return f"{int(seconds)} s"


def size(size_bytes: float | None) -> str:
    """1.2 GB, 340 kB, in powers of 1000; "-" for None."""
    if size_bytes is None:
        return "-"
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 999.95:  # or it would be shown as 1000.0
            return f"{size_bytes:.0f} B" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def figure(value: float | None, unit: Unit | None) -> str:
    """What a run used, with its unit (None: watt hours): 1.2 GB, 340 kB/s, 94 %, 310 W, 12.5 Wh; "-" for None."""
    if value is None:
        return "-"
    if unit is None:
        return f"{number(value)} Wh"
    if unit in {Unit.BYTES, Unit.BYTES_PER_S}:
        return size(value) + ("/s" if unit is Unit.BYTES_PER_S else "")
    return f"{round(value):,} {unit.value}".rstrip()


def number(value: float | None) -> str:
    """Four significant digits; "-" for None."""
    return "-" if value is None else f"{value:.4g}"


def units(unit: str | None, count: int | None = None) -> str:
    """The unit of a number of steps: optimizer steps, 1 epoch, batches; "" if it is not known."""
    if not unit or count == 1:
        return unit or ""
    return unit + ("es" if unit.endswith(("s", "x", "tch", "sh")) else "s")


def life_words(live: LiveProgress | None) -> str:
    """What is odd about a running session: that it is silent, or shows no sign of life; empty if nothing is."""
    if live is None:
        return ""
    return {Life.SILENT: "alive, but silent", Life.UNSEEN: "silent", Life.STALLED: "no sign of life"}.get(live.life, "")


def life(live: LiveProgress | None) -> str:
    """The same, and for how long."""
    words = life_words(live)
    return (
        f"{words} for {duration(live.lifeless_s if live.life is Life.STALLED else live.silent_s)}"
        if live and words
        else ""
    )


def eta(live: LiveProgress | None) -> str:
    """The time until training is complete, as a view shows it: 4:10, or ~4:10 for an estimate; empty if unknown."""
    if live is None or live.remaining_s is None:
        return ""
    return f"{'~' if live.is_estimate else ''}{duration(live.remaining_s)}"


def short_unit(unit: str | None) -> str:
    """The unit of steps in one word: step for optimizer steps, epoch."""
    words = (unit or "").split()
    return printable(words[-1]) if words else "step"


def pace(live: LiveProgress | None, unit: str | None) -> list[str]:
    """Rate and ETA of a running session, as far as they are known; none while it is silent: they are of the past.

    unit: of its steps.
    """
    if live is None or live.life is not Life.ALIVE:
        return []
    parts = [f"{number(live.steps_per_s)} {units(short_unit(unit))}/s"] if live.steps_per_s else []
    if shown := eta(live):
        parts.append(f"ETA {shown}")
    return parts


def steps(last: int, total: int | None) -> str:
    """How far training is: 1,200, or 1,200/44,000."""
    return f"{last:,}" if total is None else f"{last:,}/{total:,}"


def name(text: str) -> str:
    """The name of a metric or parameter; in quotes if it is blank."""
    return text if text.strip() else f'"{text}"'
