# SPDX-License-Identifier: MIT
#
# The tables of `heapledger compare`, for a terminal of 80 columns. Every row has one unit, chosen by
# its largest value; a value is a median with the lowest and the highest in brackets where the runs
# differ. What was not measured is a dash.

import textwrap

import plain
import units

COLUMNS = 80
_LABEL = 23
_CELLS = 3  # variants side by side; more make another table below
_CELL = (COLUMNS - _LABEL) // _CELLS
_TIMES = ((10**3, "µs"), (10**6, "ms"), (10**9, "s"))
_SIZES = ((1, "B"), (1 << 10, "KiB"), (1 << 20, "MiB"), (1 << 30, "GiB"))
_COUNTS = ((10**3, "k"), (10**6, "M"), (10**9, "G"))

BARE = ("Without recording", (
    ("wall_ns", "time"), ("user_ns", "user"), ("system_ns", "system"),
    ("minor_faults", "minor faults")))
RECORDED = ("Recorded", (
    ("allocator_calls", "allocator calls"), ("brk_calls", "brk"), ("mmap_calls", "mmap"),
    ("munmap_calls", "munmap"), ("mremap_calls", "mremap"), ("madvise_calls", "madvise"),
    ("mprotect_calls", "mprotect"), ("syscalls", "system calls"),
    ("peak_requested_bytes", "peak requested"), ("peak_mapped_bytes", "peak mapped"),
    ("peak_rss_bytes", "peak resident"), ("end_rss_bytes", "final resident"),
    ("returned_percent", "returned"), ("fragmentation_percent", "fragmentation #3")))


def scale(name, figures):
    """Divisor and unit of a row: its largest value is below 1,000 of them, but for counts, which are
    exact where there is room."""
    if not figures:
        return 1, ""
    largest = max(figure["max"] for figure in figures)
    if name.endswith("_percent"):
        return 1, "%"
    if name.endswith("_ns"):
        return _unit(_TIMES, largest)
    if name.endswith("_bytes"):
        return _unit(_SIZES, largest)
    if all(len(cell(name, figure, 1)) < _CELL for figure in figures):
        return 1, ""
    return _unit(_COUNTS, largest)


def _unit(scales, largest):
    """The smallest unit in which the value has three digits."""
    return next((row for row in scales if largest < 999.5 * row[0]), scales[-1])


def number(name, value, divisor):
    if divisor > 1 or name.endswith("_percent"):
        return units.three_digits(value / divisor)
    return f"{value:,.1f}".removesuffix(".0")


def cell(name, figure, divisor):
    if figure is None:
        return "-"
    low, middle, high = (number(name, figure[key], divisor) for key in ("min", "median", "max"))
    return middle if low == high else f"{middle} ({low}-{high})"


def cells(name, results):
    """The unit of a row, and its texts."""
    figures = [result.figure(name) for result in results]
    divisor, unit = scale(name, [figure for figure in figures if figure])
    return unit, [cell(name, figure, divisor) for figure in figures]


def row(name, label, results):
    unit, texts = cells(name, results)
    return (f"{'  ' + label + (', ' + unit if unit else ''):<{_LABEL}}"
            + "".join(f" {text:>{_CELL - 1}}" for text in texts))


def lines(results):
    """All tables, of so many variants each as fit side by side."""
    text = []
    for first in range(0, len(results), _CELLS):
        part = results[first:first + _CELLS]
        names = "".join(f"{_name(result):>{_CELL}}" for result in part)
        text += ["", f"{'':<{_LABEL}}{names}"]
        for title, rows in (BARE, RECORDED):
            text += [title] + [row(name, label, part) for name, label in rows]
    return text


def _name(result):
    name = plain.escaped(result.variant.name)
    return name if len(name) < _CELL else name[:_CELL - 4] + "..."


def wrap(text, indent="", columns=COLUMNS):
    return textwrap.wrap(plain.escaped(text), columns, subsequent_indent=indent,
                         break_long_words=False, break_on_hyphens=False)
