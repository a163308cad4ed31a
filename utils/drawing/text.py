"""Text for people."""


def in_percent(share: float, decimals: int) -> str:
    """A share as a number of per cent; what is not 0 never looks like it: 0.000004 is "0.0004"."""
    text = f"{100 * share:.{decimals}f}"
    return text if float(text) or not share else f"{100 * share:.1g}"


def percent(value: float | None) -> str:
    """0.12345 -> "12.35 %"; "-" where there is nothing to score."""
    return "-" if value is None else f"{in_percent(value, 2)} %"


def duration(seconds: float) -> str:
    """A time in at most six letters: "45s", "12m", "1h05m", "3d04h"."""
    minutes, hours = seconds / 60, seconds / 3600
    if seconds < 100:
        return f"{seconds:.0f}s"
    if minutes < 100:
        return f"{minutes:.0f}m"
    units = ("h", int(hours), "m", int(minutes) % 60)
    if hours >= 48:
        units = ("d", int(hours) // 24, "h", int(hours) % 24)
    return f"{units[1]}{units[0]}{units[3]:02}{units[2]}"
