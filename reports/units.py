# SPDX-License-Identifier: MIT
#
# Numbers for people: sizes, counts, times, shares. Used by every other module; knows nothing of
# traces. A value that was not measured (None) is said to be so and never turned into a number.

NOT_MEASURED = "not measured"

_SIZES = ((1 << 40, "TiB"), (1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"))
_TIMES = ((10**9, "s"), (10**6, "ms"), (10**3, "µs"), (1, "ns"))


def three_digits(value):
    """2.372 -> 2.37, 23.72 -> 23.7, 237.2 -> 237."""
    magnitude = abs(value)
    if magnitude < 9.995:
        return f"{value:.2f}"
    if magnitude < 99.95:
        return f"{value:.1f}"
    return f"{value:,.0f}"


def size(value):
    """As tool_format_size in record/tool.c writes it, so that all outputs say the same."""
    if value is None:
        return NOT_MEASURED
    for unit, name in _SIZES:
        if value >= unit:
            return f"{value / unit:.{2 if value < 10 * unit else 1}f} {name}"
    return f"{value} B"


def exact_size(value):
    return NOT_MEASURED if value is None else f"{value:,} bytes"


def count(value):
    return NOT_MEASURED if value is None else f"{value:,}"


def counted(value, noun, nouns=None):
    """1 call, 2 calls."""
    if value is None:
        return f"{nouns or noun + 's'}: {NOT_MEASURED}"
    return f"{value:,} {noun if value == 1 else nouns or noun + 's'}"


def time(nanoseconds):
    if nanoseconds is None:
        return NOT_MEASURED
    if nanoseconds >= 120 * 60 * 10**9:
        hours, minutes = divmod(round(nanoseconds / (60 * 10**9)), 60)
        return f"{hours:,} h {minutes} min"
    if nanoseconds >= 120 * 10**9:
        minutes, seconds = divmod(round(nanoseconds / 10**9), 60)
        return f"{minutes:,} min {seconds} s"
    for unit, name in _TIMES:
        if nanoseconds >= unit > 1:
            return f"{three_digits(nanoseconds / unit)} {name}"
    return f"{nanoseconds:,} ns"


def percent(value, digits=1):
    return NOT_MEASURED if value is None else f"{value:,.{digits}f} %"


def share(part, whole):
    """Percent of the whole; None when either was not measured or there is no whole."""
    if part is None or not whole:
        return None
    return 100.0 * part / whole


def share_text(part, whole):
    """A share in words that never rounds something to nothing, or nearly all to all."""
    value = share(part, whole)
    if value is None:
        return NOT_MEASURED
    if part and value < 0.1:
        return "less than 0.1 %"
    if part != whole and value > 99.9:
        return "more than 99.9 %"
    if value == int(value):
        return f"{int(value)} %"
    return f"{value:.1f} %"


def doubling(size):
    """The largest size of the doubling that a size is in, 16 at least."""
    return max(1 << (size - 1).bit_length(), 16)


def power(value):
    """A size that is a power of two: 4 KiB."""
    return size(value).replace(".00", "").replace(".0", "")


def size_scale(largest):
    """Divisor and name of the unit for an axis that reaches `largest` bytes."""
    for unit, name in _SIZES:
        if largest >= unit:
            return unit, name
    return 1, "bytes"


def time_scale(largest):
    """Divisor and name of the unit for an axis that reaches `largest` nanoseconds."""
    if largest >= 300 * 60 * 10**9:
        return 3600 * 10**9, "hours"
    if largest >= 600 * 10**9:
        return 60 * 10**9, "minutes"
    names = {"s": "seconds", "ms": "milliseconds", "µs": "microseconds", "ns": "nanoseconds"}
    for unit, name in _TIMES:
        if largest >= unit:
            return unit, names[name]
    return 1, "nanoseconds"
