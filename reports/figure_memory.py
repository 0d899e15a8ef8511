# SPDX-License-Identifier: MIT
#
# The ledger over time: what was in memory, row upon row up to what the kernel counts as resident,
# where snapshots tell it; else what was mapped, row upon row, with resident memory as a line; else
# the lines alone. Below, the system calls that moved memory and what went back; above, the phases.
# Draws the main stream's tables as they are.

import numpy

import overview
import style
import units
from layers import TOLERANCE, column, is_known, kind, layers, looks

NAME = "memory"
TITLE = "Memory over time"

FAINT = 1 / 400     # of the most: a band that is never more, and gone at the end, has no label
TALLEST = 2.5       # a line above so many times the stack does not set its scale
RESIDENT_CAPTION = (
    "What was in memory, row upon row, up to what the kernel counts for the whole process. Which "
    "pages were there is known by {}; until the next one a page counts in the row of the heap that "
    "it belongs to by then, and leaves when the heap gives it back. What came since is “not looked "
    "at”. Mapped is what the heap has from the kernel, in memory or not.")
MAPPED_CAPTION = (
    "What the heap had mapped, row upon row, whether it was in memory or not: too little is known "
    "of pages in memory over this time. Resident is the whole process as the kernel counts it, "
    "with code and stacks, without heapledger's buffers, and not a part of the rows. The dot is "
    "the peak of what was requested.")
LINES_CAPTION = (
    "Requested: bytes the program asked for and has not freed. Mapped: what the heap has from the "
    "kernel, metadata included. Resident: the whole process as the kernel counts it, with code and "
    "stacks, without heapledger's buffers. The dots are the peaks; shading shows the highest value "
    "within an interval.")
CALLS_CAPTION = ("Below, each tick is a time at which the allocator called the kernel; the more "
                 "calls the higher, by their logarithm.")

# System call, how it moves memory, colour. A break that comes down is told by why it did.
DOWN = ("trim_top", "trim_call")
CALLS = (("brk up", "mapped"), ("brk down", "returned"), ("brk", "quiet"), ("mmap", "mapped"),
         ("munmap", "returned"), ("mremap", "quiet"), ("madvise", "returned"),
         ("mprotect", "quiet"))


def draw(analysis):
    stream = analysis.get("main_stream")
    timeline = analysis.rows("timeline", stream)
    if not timeline:
        return None
    axis, divisor, label = _axis(timeline)
    times = column(timeline, axis) / divisor
    begin = analysis.main_start_ns / divisor
    span = (begin, times[-1] if times[-1] > begin else begin + 1)
    calls = _calls(analysis.rows("syscalls", stream))
    phases = analysis.get("phases", [])
    named = bool(phases) and len(phases) <= style.PHASES_MARKED
    some = numpy.nan_to_num(column(timeline, "returned_bytes")).any()
    parts = [*[("phases", 0.2)] * named, ("levels", 3.7),
             *[("calls", 0.19 * len(calls) + 0.05)] * bool(calls),
             ("returned", 0.75 if some else 0.06)]
    figure, axes = _parts([name for name, _ in parts], [height for _, height in parts])
    _levels(axes["levels"], times, timeline, divisor, analysis, span)
    if calls:
        _strip(axes["calls"], calls, span, divisor, len(timeline))
    _returned(axes["returned"], times, timeline)
    for name, each in axes.items():
        each.set_xlim(span)
        if name != "phases":
            style.mark_phases(each, phases, divisor, numbered=False)
    if named:
        _phases(axes["phases"], phases, span, divisor)
    axes["returned"].set_xlabel(label)
    if axis == "event":
        axes["returned"].xaxis.set_major_formatter(_plain)
    return figure


GAPS = {"phases": 0.3, "levels": 0.12, "calls": 0.42, "returned": 0.5}  # below each, inches


def _parts(names, heights):
    """Axes below each other, all of one time."""
    gaps = [GAPS[name] for name in names]
    if "calls" not in names:
        gaps[names.index("levels")] = 0.55
    height = 0.4 + sum(heights) + sum(gaps)
    figure, axes = style.new(len(names), 1, (10, height), squeeze=False, sharex=True)
    top = height - 0.4 + (0.15 if names[0] == "phases" else 0)
    for each, tall, gap in zip(axes[:, 0], heights, gaps):
        each.set_position([0.08, (top - tall) / height, 0.68, tall / height])
        top -= tall + gap
    return figure, dict(zip(names, axes[:, 0]))


def _axis(timeline):
    """The column of the axis, its unit, and its name: an imported log may have no times."""
    if timeline[-1]["time_ns"] is None:
        return "event", 1, "events of the log, by number"
    divisor, unit_name = units.time_scale(timeline[-1]["time_ns"])
    return "time_ns", divisor, f"{unit_name} since the start of the recording"


def _plain(value, _):
    return f"{value:,.10g}"


def _levels(axes, times, timeline, divisor, analysis, span):
    samples = analysis.rows("samples", analysis.get("main_stream"))
    made = layers(analysis, (span[0] * divisor, span[1] * divisor)) if divisor > 1 else None
    resident = column(samples, "rss_bytes") if samples else numpy.array([])
    mapped = column(timeline, "mapped_bytes")
    bursts = {name: column(timeline, f"peak_{name}_bytes") for name in ("requested", "mapped")}
    largest = _largest(made, resident, bursts)
    scale, unit_name = units.size_scale(largest)
    axes.grid(axis="y")
    axes.set_ylim(0, largest / scale * 1.1)
    axes.yaxis.set_major_formatter(_plain)
    axes.tick_params(labelbottom=False)
    labels = [] if made is None else _bands(axes, made, divisor, scale)
    stacked = kind(analysis) if made is not None else ""
    if stacked != "mapped":
        labels.append(_line(axes, "mapped", times, mapped, bursts, scale,
                            dashed=stacked == "resident"))
        _mark_peak(axes, analysis, "mapped", divisor, scale)
    if not stacked:
        requested = column(timeline, "requested_bytes")
        labels.append(_line(axes, "requested", times, requested, bursts, scale))
    if stacked != "resident":
        _mark_peak(axes, analysis, "requested", divisor, scale)
    labels.append(_resident_line(axes, samples, resident, divisor, scale))
    axes.set_title(_finding(stacked, made, unit_name, analysis) if stacked else
                   _peaks(analysis, unit_name), pad=8)
    style.label_ends(axes, labels)


def _largest(made, resident, bursts):
    """Of what is stacked; a line much above it leaves the picture."""
    known = [values for values in (resident, *bursts.values()) if is_known(values)]
    most = max((numpy.nanmax(values) for values in known), default=1)
    if made is None:
        return max(most, 1)
    base = max(made.total.max(), numpy.nanmax(resident) if is_known(resident) else 0, 1)
    return most if most <= TALLEST * base else base


def _bands(axes, made, divisor, scale):
    """One on the other: the highest is drawn first, down to the axis, and covered by the others."""
    labels, below = [], 0
    for colour, times, top in made.above:
        axes.fill_between(numpy.append(times, made.edges[-1]) / divisor,
                          numpy.append(top, top[-1:]) / scale, color=style.colour(colour), lw=0)
    by_sample = {colour for colour, *_ in made.above}
    for (colour, *_), top in reversed(list(zip(made.bands, made.tops))):
        if colour not in by_sample:
            axes.stairs(top / scale, made.edges / divisor, fill=True, color=style.colour(colour),
                        lw=0)
    for (colour, name, _, values), top in zip(made.bands, made.tops):
        middle = (below + top[-1]) / 2 / scale
        below = top[-1]
        if values[-1] or values.max() > FAINT * made.total.max():
            labels.append((middle, f"{name} {units.size(int(values[-1]))}", style.colour(colour)))
    return labels


def _line(axes, name, times, values, bursts, scale, dashed=False):
    """Its label. A band up to the highest within an interval."""
    if not is_known(values):
        return 0, f"{name}: unknown", style.colour(name)
    if not dashed:
        axes.fill_between(times, values / scale, bursts[name] / scale, lw=0, alpha=0.35,
                          color=style.colour(name))
    if name == "requested":
        axes.fill_between(times, values / scale, color=style.colour(name), alpha=0.16, lw=0)
    axes.plot(times, values / scale, color=style.colour(name), ls=(0, (4, 1.5)) if dashed else "-",
              lw=1.3 if dashed else None)
    high = axes.get_ylim()[1]
    above = " ↑" if values[-1] / scale > high else ""
    return (min(values[-1] / scale, high), f"{name} {units.size(int(values[-1]))}{above}",
            style.colour(name))


def _resident_line(axes, samples, resident, divisor, scale):
    tint = style.colour("resident")
    if not len(resident):
        return 0, "resident unknown", tint
    moments = column(samples, "time_ns") / divisor
    marker = "o" if len(moments) < 3 else None
    axes.plot(moments, resident / scale, color=style.colour("paper"), lw=3.2)
    axes.plot(moments, resident / scale, color=tint, marker=marker, ms=4)
    return resident[-1] / scale, f"resident {units.size(int(resident[-1]))}", tint


def _mark_peak(axes, analysis, name, divisor, scale):
    value, moment = analysis.get(f"peak.{name}_bytes"), analysis.get(f"peak.{name}_at_ns")
    if moment is None:
        moment = analysis.get(f"peak.{name}_at_event")
    if value is None or moment is None or value / scale > axes.get_ylim()[1]:
        return
    axes.plot([moment / divisor], [value / scale], "o", ms=5, color=style.colour(name),
              mec=style.colour("paper"), clip_on=False, zorder=5)


def _finding(stacked, made, unit_name, analysis):
    """The most there was, and what most of it was then."""
    key = "rss" if stacked == "resident" else "mapped"
    most, at = analysis.get(f"peak.{key}_bytes"), analysis.get(f"peak.{key}_at_ns")
    if most is None or at is None:
        return f"{unit_name} {stacked}"
    said = f"{unit_name} {stacked}: at most {units.size(most)}, at {units.time(at)}"
    text, part, total = _largest_part(stacked, made, analysis, at)
    return said + (f", {units.share_text(part, total)} of it {text}"
                   if part and most <= total * (1 + TOLERANCE) else "")


def _largest_part(stacked, made, analysis, at):
    """(what, its bytes, all): of what was mapped as it is laid out at the peak, which is exact."""
    if stacked == "resident":
        return made.largest_at(at)
    for bar in overview.bars(analysis)[:1]:
        _, name, part = max(bar.rows, key=lambda row: row[2])
        return name, part, bar.mapped
    return "", 0, 0


def _peaks(analysis, unit_name):
    known = [f"{units.size(analysis.get(f'peak.{key}_bytes'))} {name}" for key, name in
             (("requested", "requested"), ("mapped", "mapped"), ("rss", "resident"))
             if analysis.get(f"peak.{key}_bytes") is not None]
    return f"{unit_name} held: " + (f"at most {', '.join(known)}" if known else "nothing is known")


def caption(analysis):
    stacked = kind(analysis)
    if stacked == "resident":
        text = RESIDENT_CAPTION.format(units.counted(
            sum(bool(row["reason"]) for row in looks(analysis)), "snapshot"))
        cached = [row["cached_bytes"] for row in looks(analysis) if row["cached_bytes"] is not None]
        text += (f" Caches kept up to {units.size(max(cached))} of what is free."
                 if any(cached) else "")
    else:
        text = MAPPED_CAPTION if stacked else LINES_CAPTION
    return text + (" " + CALLS_CAPTION if _calls(analysis.rows(
        "syscalls", analysis.get("main_stream"))) else "")


# ---- system calls, phases, what went back --------------------------------------------------------

def _calls(rows):
    """(name, colour, rows) of each kind of call that there was."""
    found = {}
    for row in rows:
        if row["reason"] != "recorder" and row["time_ns"] is not None:
            found.setdefault(_direction(row), []).append(row)
    return [(name, colour, found[name]) for name, colour in CALLS if name in found]


def _direction(row):
    if row["syscall"] != "brk" or row["reason"] in ("observed", "unknown"):
        return row["syscall"]
    return "brk down" if row["reason"] in DOWN else "brk up"


TICK_COLUMNS = 360
LEAST_TICK = 0.4    # of a row's height, for a single call; more are higher, by their logarithm


def _strip(axes, calls, span, divisor, intervals):
    """A row for each kind, a tick where it was called, the higher the more often; at the right, how
    often in all."""
    edges = numpy.linspace(*span, min(TICK_COLUMNS, max(intervals, 1)) + 1)
    counted = [numpy.histogram([row["time_ns"] / divisor for row in rows], edges,
                               weights=[row["count"] for row in rows])[0] for *_, rows in calls]
    most = max(numbers.max() for numbers in counted)
    places = numpy.arange(len(calls))[::-1]
    for place, (name, colour, rows), numbers in zip(places, calls, counted):
        part = numpy.log(numpy.maximum(numbers, 1)) / max(numpy.log(most), 1)
        high = numpy.where(numbers, 0.82 * (LEAST_TICK + (1 - LEAST_TICK) * part), 0)
        axes.stairs(place + high, edges, baseline=place, fill=True, lw=0,
                    color=style.colour(colour))
        total = sum(row["count"] for row in rows)
        axes.annotate(units.counted(total, "call"), xy=(1.02, place + 0.4), va="center",
                      xycoords=("axes fraction", "data"), fontsize=8.5, annotation_clip=False)
    axes.set_ylim(0, len(calls))
    axes.set_yticks(places + 0.4, [name for name, *_ in calls], fontsize=8.5)
    axes.tick_params(length=0, labelbottom=False)
    axes.spines["left"].set_visible(False)
    for place in places:
        axes.axhline(place, color=style.colour("grid"), lw=0.8, zorder=0)


LETTER = 5.4  # points of a letter here, about


def _phases(axes, phases, span, divisor):
    """A field each, with its number in the page's table and as much of its name as has room."""
    width = axes.get_window_extent().width * 72 / axes.figure.dpi / (span[1] - span[0])
    for number, phase in enumerate(phases, 1):
        start, end = (max(phase[key] / divisor, span[0]) for key in ("start_ns", "end_ns"))
        if end <= start:
            continue
        axes.axvspan(start, end, color=style.colour("arena"), lw=0,
                     alpha=0.42 if number % 2 else 0.2)
        letters = int((end - start) * width / LETTER)
        name = "" if phase["name"] is None else f" {phase['name']}"
        text = f"{number}{name}"
        if len(text) > letters - 1:
            text = f"{text[:letters - 2]}…" if letters > len(str(number)) + 5 else str(number)
        if len(text) < letters + 1:
            axes.text((start + end) / 2, 0.46, style.legible(" ".join(text.split())), ha="center",
                      va="center", fontsize=8.5, parse_math=False, family=style.families())
    axes.set_axis_off()


def _returned(axes, times, timeline):
    values = column(timeline, "returned_bytes")
    if not is_known(values):
        axes.set_yticks([])
        axes.set_title("given back to the kernel: unknown", pad=6)
        return
    scale, unit_name = units.size_scale(max(numpy.nanmax(values), 1))
    axes.grid(axis="y")
    axes.fill_between(times, values / scale, color=style.colour("returned"), alpha=0.16, lw=0)
    axes.plot(times, values / scale, color=style.colour("returned"))
    axes.set_ylim(0, numpy.nanmax(values) / scale * 1.15 or 1)
    axes.locator_params(axis="y", nbins=3)
    axes.yaxis.set_major_formatter(_plain)
    some = numpy.nanmax(values)
    if not some:
        axes.set_yticks([])
    axes.set_title(f"{unit_name} given back to the kernel, in all" if some else
                   "nothing given back to the kernel", pad=6)
    if some:
        style.label_ends(axes, [(values[-1] / scale, f"returned {units.size(int(values[-1]))}",
                                 style.colour("returned"))])
