# SPDX-License-Identifier: MIT
#
# The heap at its peak and at the end: each mapped byte once by what it holds and once by where it
# lies. Draws peak.at_mapped and end of the analysis as they are.

import style
import units

NAME = "ledger"
TITLE = "The heap at its peak and at the end"

HOLDS = (("requested", "requested_bytes", "requested"), ("slack", "slack_bytes", "slack"),
         ("free", "free_bytes", "free, still mapped"), ("metadata", "metadata_bytes", "metadata"))
LIES = (("break", "break_bytes", "break"), ("arena", "arena_bytes", "arenas"),
        ("block", "block_bytes", "mapped blocks"), ("metadata", "metadata_bytes", "metadata"))

UNKNOWN = ("other", "unknown_bytes", "unknown")  # inside an allocator that was observed


def moments(analysis):
    """(heading, ledger) of the moments there is a ledger for."""
    found = []
    for heading, path in (("at the peak", "peak.at_mapped"), ("at the end", "end")):
        ledger = analysis.get(path)
        if ledger and ledger.get("mapped_bytes"):
            found.append((heading, ledger))
    return found


def with_rest(ledger, rows):
    """What is mapped beside the parts that are known, when one of them is not."""
    parts = [ledger.get(key) for _, key, _ in rows]
    if None not in parts:
        return ledger
    rest = ledger["mapped_bytes"] - sum(part for part in parts if part is not None)
    return {**ledger, "unknown_bytes": max(rest, 0)}


def draw(analysis):
    ledgers = moments(analysis)
    if not ledgers:
        return None
    figure, axes = style.new(1, 1, (10, 0.75 + 1.75 * len(ledgers)))
    figure.subplots_adjust(left=0.15, right=0.97, top=0.97,
                           bottom=0.13 if len(ledgers) > 1 else 0.2)
    largest = max(ledger["mapped_bytes"] for _, ledger in ledgers)
    scale, unit_name = units.size_scale(largest)
    for index, (heading, ledger) in enumerate(ledgers):
        top = -index * 3.0
        _bar(axes, top, with_rest(ledger, HOLDS), HOLDS + (UNKNOWN,), scale, largest)
        _bar(axes, top - 1.15, with_rest(ledger, LIES), LIES + (UNKNOWN,), scale, largest)
        axes.text(-0.165, top + 0.62, f"{heading}: {units.size(ledger['mapped_bytes'])} mapped",
                  label=style.HEADING,
                  transform=axes.get_yaxis_transform(), fontweight="bold", fontsize=11,
                  va="center", ha="left")
        for place, text in ((top, "what it holds"), (top - 1.15, "where it lies")):
            axes.text(-0.015, place, text, transform=axes.get_yaxis_transform(), ha="right",
                      va="center", color=style.colour("quiet"))
    axes.set_xlim(0, largest / scale)
    axes.set_ylim(-(len(ledgers) - 1) * 3.0 - 2.0, 0.95)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(unit_name)
    return figure


def _bar(axes, place, ledger, rows, scale, largest):
    start = left = 0.0
    full = largest / scale
    for name, key, text in rows:
        value = ledger.get(key)
        if not value:
            continue
        axes.barh(place, value / scale, left=start / scale, height=0.5, color=style.colour(name),
                  edgecolor=style.colour("paper"), lw=0.7)
        left += _name(axes, place - 0.45, left, full, style.colour(name),
                      f"{text} {units.size(value)}")
        start += value


def _name(axes, place, left, full, tint, label):
    """Below the bar, beside its colour: on it, text would be too faint. How much room it took."""
    axes.plot([left + full * 0.006], [place], "s", ms=6.5, color=tint, clip_on=False)
    axes.text(left + full * 0.016, place, label, ha="left", va="center", fontsize=9)
    return full * (0.045 + len(label) / 118)
