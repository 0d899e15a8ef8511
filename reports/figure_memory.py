# SPDX-License-Identifier: MIT
#
# Memory over time: what the program asked for, what the heap has mapped, what is resident, and
# below it what went back to the kernel. Draws the main stream's timeline and samples.

import numpy

import style
import units

NAME = "memory"
TITLE = "Memory over time"


def draw(analysis):
    stream = analysis.get("main_stream")
    timeline = analysis.rows("timeline", stream)
    if not timeline:
        return None
    figure, (upper, lower) = style.new(2, 1, (10, 5.6), sharex=True,
                                       gridspec_kw={"height_ratios": [3.2, 1], "hspace": 0.32})
    figure.subplots_adjust(left=0.075, right=0.815, top=0.93, bottom=0.095)
    samples = analysis.rows("samples", stream)
    axis, divisor, label = _axis(timeline)
    times = column(timeline, axis) / divisor
    _levels(upper, times, timeline, samples, divisor, analysis)
    _returned(lower, times, timeline)
    lower.set_xlabel(label)
    if axis == "event":
        lower.xaxis.set_major_formatter(_plain)
    begin = analysis.main_start_ns / divisor
    lower.set_xlim(begin, times[-1] if times[-1] > begin else begin + 1)
    style.mark_phases(upper, analysis.get("phases", []), divisor)
    style.mark_phases(lower, analysis.get("phases", []), divisor, numbered=False)
    return figure


def _axis(timeline):
    """The column of the axis, its unit, and its name: an imported log may have no times."""
    if timeline[-1]["time_ns"] is None:
        return "event", 1, "events of the log, by number"
    divisor, unit_name = units.time_scale(timeline[-1]["time_ns"])
    return "time_ns", divisor, f"{unit_name} since the start of the recording"


def column(rows, key):
    return numpy.array([numpy.nan if row[key] is None else row[key] for row in rows], dtype=float)


def is_known(values):
    return len(values) > 0 and not numpy.isnan(values).all()


def _plain(value, _):
    return f"{value:,.10g}"


def _levels(axes, times, timeline, samples, divisor, analysis):
    requested, mapped = column(timeline, "requested_bytes"), column(timeline, "mapped_bytes")
    bursts = {"requested": column(timeline, "peak_requested_bytes"),
              "mapped": column(timeline, "peak_mapped_bytes")}
    resident = column(samples, "rss_bytes") if samples else numpy.array([])
    known = [a for a in (bursts["requested"], bursts["mapped"], resident) if is_known(a)]
    largest = max(numpy.nanmax(a) for a in (*known, [1]))
    scale, unit_name = units.size_scale(largest)
    axes.grid(axis="y")
    axes.fill_between(times, requested / scale, color=style.colour("requested"), alpha=0.16, lw=0)
    labels = []
    for name, values in (("mapped", mapped), ("requested", requested)):
        if not is_known(values):
            labels.append((0, f"{name}: unknown", style.colour(name)))
            continue
        axes.fill_between(times, values / scale, bursts[name] / scale, lw=0, alpha=0.35,
                          color=style.colour(name))
        axes.plot(times, values / scale, color=style.colour(name))
        labels.append((values[-1] / scale, f"{name} {units.size(int(values[-1]))}",
                       style.colour(name)))
    if len(resident):
        moments = column(samples, "time_ns") / divisor
        axes.plot(moments, resident / scale, color=style.colour("resident"),
                  marker="o" if len(moments) < 3 else None, ms=4)
        labels.append((resident[-1] / scale, f"resident {units.size(int(resident[-1]))}",
                       style.colour("resident")))
    else:
        labels.append((0, "resident unknown", style.colour("resident")))
    axes.set_ylim(0, largest / scale * 1.12)
    axes.yaxis.set_major_formatter(_plain)
    axes.set_title(f"{unit_name} held at each moment; at the right, the end", pad=8)
    _mark_peak(axes, analysis, "requested", divisor, scale)
    _mark_peak(axes, analysis, "mapped", divisor, scale)
    style.label_ends(axes, labels)


def _mark_peak(axes, analysis, name, divisor, scale):
    value, moment = analysis.get(f"peak.{name}_bytes"), analysis.get(f"peak.{name}_at_ns")
    if moment is None:
        moment = analysis.get(f"peak.{name}_at_event")
    if value is None or moment is None:
        return
    axes.plot([moment / divisor], [value / scale], "o", ms=5, color=style.colour(name),
              clip_on=False, zorder=5)


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
    axes.locator_params(axis="y", nbins=4)
    axes.yaxis.set_major_formatter(_plain)
    some = numpy.nanmax(values)
    if not some:
        axes.set_yticks([0])
    axes.set_title(f"{unit_name} given back to the kernel, in all" if some else
                   "nothing given back to the kernel", pad=6)
    style.label_ends(axes, [(values[-1] / scale, f"returned {units.size(int(values[-1]))}",
                             style.colour("returned"))])
