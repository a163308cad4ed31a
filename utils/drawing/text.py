"""Text for people."""


def in_percent(share: float, decimals: int) -> str:
    """A share as a number of per cent; what is not 0 never looks like it: 0.000004 is "0.0004"."""
    text = f"{100 * share:.{decimals}f}"
    return text if float(text) or not share else f"{100 * share:.1g}"


def percent(value: float | None) -> str:
    """0.12345 -> "12.35 %"; "-" where there is nothing to score."""
    return "-" if value is None else f"{in_percent(value, 2)} %"
