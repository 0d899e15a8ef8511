# SPDX-License-Identifier: MIT
#
# System calls over time by the reason for which the allocator made them, and their totals, which
# are the legend. Draws all processes together.

import numpy

import style
import units

NAME = "syscalls"
TITLE = "System calls over time, by cause"
BINS = 120
SHOWN = 6

# Short names of the reasons; calls.def has the long ones, which the table under the figure shows.
SHORT = {
    "unknown": "not recorded",
    "heap_init": "start of the heap",
    "grow_top": "grow the break",
    "brk_fallback": "break refused: map",
    "over_threshold": "map a large block",
    "arena_new": "new arena heap",
    "arena_align": "align an arena heap",
    "arena_grow": "grow an arena",
    "arena_shrink": "shrink an arena",
    "arena_free": "drop an arena heap",
    "trim_top": "trim the break",
    "trim_call": "malloc_trim",
    "free_mmapped": "unmap a large block",
    "realloc_mremap": "resize a large block",
    "interrupted": "in a signal handler",
    "metadata": "allocator's tables",
    "recorder": "heapledger itself",
    "arena_fallback": "arena full: map",
    "purge": "purge free pages",
    "huge_page": "ask for huge pages",
    "observed": "the program's allocator",
}


def totals(analysis):
    """Reason -> calls, most first, as the analyzer counted them; the recorder's own left out."""
    result = {}
    for row in analysis.get("syscalls.by_cause", []):
        if row["reason"] != "recorder":
            result[row["reason"]] = result.get(row["reason"], 0) + row["count"]
    return dict(sorted(result.items(), key=lambda item: -item[1]))


def draw(analysis):
    counts = totals(analysis)
    rows = [row for row in analysis.rows("syscalls") if row["reason"] != "recorder"]
    duration = analysis.get("duration_ns")
    if not counts or not rows or not duration:
        return None
    order = list(counts)
    shown = order if len(order) == SHOWN + 1 else order[:SHOWN]
    rest = sum(counts[reason] for reason in order if reason not in shown)
    figure, (left, right) = style.new(1, 2, (10, 3.9), gridspec_kw={"width_ratios": [2.1, 1]})
    figure.subplots_adjust(left=0.075, right=0.965, top=0.84, bottom=0.135, wspace=0.62)
    edges = _over_time(left, rows, shown, duration, analysis.get("phases", []))
    left.set_title(f"{units.share_text(counts[order[0]], sum(counts.values()))} of "
                   f"{units.counted(sum(counts.values()), 'call')}: {SHORT.get(order[0], order[0])}", pad=8)
    _mark_thrash(left, cycles(analysis), edges)
    _totals(right, [(reason, counts[reason]) for reason in shown], rest,
            len(order) - len(shown))
    return figure


def _over_time(axes, rows, shown, duration, phases):
    edges = numpy.linspace(0, max(duration, max(row["time_ns"] for row in rows)), BINS + 1)
    divisor, unit_name = units.time_scale(edges[-1])
    bottom = numpy.zeros(BINS)
    axes.grid(axis="y")
    for reason in shown + ["other"]:
        mine = [row for row in rows
                if (row["reason"] if row["reason"] in shown else "other") == reason]
        height, _ = numpy.histogram([row["time_ns"] for row in mine], edges,
                                    weights=[row["count"] for row in mine])
        # One outline: a bar each would take longer than all other figures.
        axes.stairs(bottom + height, edges / divisor, baseline=bottom, fill=True,
                    color=style.colour(reason), lw=0)
        bottom += height
    axes.set_xlim(0, edges[-1] / divisor)
    style.mark_phases(axes, phases, divisor)
    axes.set_ylim(0, max(bottom.max() * 1.08, 1))
    axes.yaxis.get_major_locator().set_params(integer=True)
    axes.yaxis.set_major_formatter("{x:,.0f}")
    axes.set_ylabel(f"calls in each {units.time(int(edges[1]))}")
    axes.set_xlabel(f"{unit_name} since the start of the recording")
    return edges


def cycles(analysis):
    """(time, number) of what went back and was asked for again, of all processes."""
    found, before = [], {}
    for row in analysis.rows("timeline"):
        number, stream = row.get("thrash_cycles"), row["stream"]
        if number is None or row["time_ns"] is None:
            continue
        if number > before.get(stream, 0):
            found.append((row["time_ns"], number - before.get(stream, 0)))
        before[stream] = number
    return found


def _mark_thrash(axes, found, edges):
    """A mark above each column in which memory was asked for again."""
    if not found:
        return
    divisor, _ = units.time_scale(edges[-1])
    numbers, _ = numpy.histogram([moment for moment, _ in found], edges,
                                 weights=[number for _, number in found])
    middles = (edges[:-1] + edges[1:])[numbers > 0] / 2 / divisor
    bottom, top = axes.get_ylim()
    axes.set_ylim(bottom, top * 1.12)
    axes.plot(middles, [0.965] * len(middles), "v", ms=5, color=style.colour("ink"), lw=0,
              transform=axes.get_xaxis_transform(), clip_on=False)
    total = units.counted(int(numbers.sum()), "time")
    axes.set_title(f"{axes.get_title('left')}\n▼ went back and was asked for again, {total}", pad=8)


def _totals(axes, counts, rest, kinds):
    bars = [(SHORT.get(reason, reason), number, style.colour(reason)) for reason, number in counts]
    if rest:
        bars.append((units.counted(kinds, "other reason"), rest, style.colour("other")))
    places = numpy.arange(len(bars))[::-1]
    axes.barh(places, [number for _, number, _ in bars], color=[tint for _, _, tint in bars],
              height=0.62)
    for place, (_, number, _) in zip(places, bars):
        axes.annotate(units.count(number), (number, place), xytext=(5, 0), va="center",
                      textcoords="offset points", fontsize=9.5, fontweight="bold",
                      annotation_clip=False)
    axes.set_yticks(places, [text for text, _, _ in bars], color=style.colour("ink"), fontsize=9.5)
    axes.tick_params(axis="y", length=0)
    axes.set_xticks([])
    axes.set_xlim(0, max(number for _, number, _ in bars) * 1.25)
    axes.set_ylim(-0.6, max(len(bars), 4) - 0.4 - (max(4 - len(bars), 0)))
    axes.spines[["bottom", "left"]].set_visible(False)
    axes.set_title("calls in all", pad=8)
