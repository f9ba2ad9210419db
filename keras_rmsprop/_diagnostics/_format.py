"""How numbers and paths are written for a reader."""

import math

# Stands for a number that there is not.
DASH = "-"


def number(value: float) -> str:
    """Return a number with two digits, or a dash for NaN."""
    if math.isnan(value):
        return DASH
    return "0" if value == 0.0 else f"{value:.1e}"


def share(value: float) -> str:
    """Return a share in percent; 0 % and 100 % stand only for none and all."""
    if math.isnan(value):
        return DASH
    if value in (0.0, 1.0):
        return f"{value:.0%}"
    if value < 0.001:
        return "<0.1%"
    return ">99.9%" if value > 0.999 else f"{100.0 * value:.3g}%"


def several(number: int, noun: str) -> str:
    """Return a number and a noun, which has an "s" in the plural."""
    return f"{number:,} {noun}" + "s" * (number != 1)


def printable(text: str) -> str:
    """Return a text with control characters, which could move a cursor, as escapes."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def shortened(text: str, width: int) -> str:
    """Return the end of a text, which tells paths apart, if the whole is wider than `width`."""
    return text if len(text) <= width else "…" + text[len(text) - width + 1 :]
