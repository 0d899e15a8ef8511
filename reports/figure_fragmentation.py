# SPDX-License-Identifier: MIT
#
# Fragmentation over time: where the free bytes lie, and what share of them is too short for a size;
# below, by size, how many blocks of it fewer would fit than into one piece, at the peak and at the
# end. Draws fragmentation.csv of the main stream and `moments` (docs/analysis.md) as they are.

import numpy

import style
import units

NAME = "fragmentation"
TITLE = "Fragmentation over time"

# Column, colour, name: from the bottom up. Together they are the free bytes.
PLACES = (("partial_bytes", "map_partial", "on used pages"),
          ("whole_touched_bytes", "map_free", "whole pages"),
          ("whole_purged_bytes", "map_purged", "given back"),
          ("whole_untouched_bytes", "map_untouched", "never used"),
          ("top_bytes", "arena", "at the top"))
UNUSABLE = ((4096, "requested"), (65536, "slack"), (131072, "mapped"))
# Moment, colour, name.
CURVES = (("mapped_peak", "mapped", "at the peak"), ("end", "ink", "at the end"))
LITTLE = 50  # of less than one part in this of the most free bytes a share says nothing


def draw(analysis):
    rows = analysis.rows("fragmentation", analysis.get("main_stream"))
    if not any(row["mapped_bytes"] for row in rows):
        return None
    figure, (upper, middle, lower) = style.new(
        3, 1, (10, 7.6), gridspec_kw={"height_ratios": [2.4, 1.3, 1.5], "hspace": 0.55})
    figure.subplots_adjust(left=0.075, right=0.78, top=0.95, bottom=0.06)
    divisor, unit_name = units.time_scale(rows[-1]["time_ns"])
    times = numpy.array([row["time_ns"] / divisor for row in rows])
    _places(upper, times, rows)
    _unusable(middle, times, rows)
    middle.set_xlabel(f"{unit_name} since the start of the recording")
    begin = analysis.main_start_ns / divisor
    for axes in upper, middle:
        axes.set_xlim(begin if begin < times[-1] else 0, times[-1] or 1)
        style.mark_phases(axes, analysis.get("phases", []), divisor, numbered=axes is upper)
    _curves(lower, analysis)
    return figure


def _places(axes, times, rows):
    most = max(rows, key=lambda row: row["free_bytes"])
    scale, unit_name = units.size_scale(most["free_bytes"])
    below, labels = numpy.zeros(len(rows)), []
    axes.grid(axis="y")
    for column, colour, name in PLACES:
        values = numpy.array([row[column] for row in rows]) / scale
        if not values.any():
            continue
        axes.fill_between(times, below, below + values, color=style.colour(colour), lw=0)
        labels.append((below[-1] + values[-1] / 2, f"{name} {units.size(rows[-1][column])}",
                       style.colour(colour)))
        below = below + values
    axes.set_ylim(0, most["free_bytes"] / scale * 1.08 or 1)
    axes.set_title(_where(most, unit_name), pad=8)
    style.label_ends(axes, labels)


def _where(most, unit_name):
    """The finding: when most was free, and where most of it was."""
    if not most["free_bytes"]:
        return "no byte of the break and the arenas was free at any of these times"
    column, _, name = max(PLACES, key=lambda place: most[place[0]])
    return (f"{unit_name} free: at most {units.size(most['free_bytes'])}, at "
            f"{units.time(most['time_ns'])}, {units.share_text(most[column], most['free_bytes'])} "
            f"of it {name}")


def _share(value):
    return numpy.nan if value is None else 100 * value


def _unusable(axes, times, rows):
    labels, least = [], max(row["free_bytes"] for row in rows) / LITTLE
    style.percent_axis(axes, 103)
    for size, colour in UNUSABLE:
        values = [_share(row[f"unusable_{size}"]) if row["free_bytes"] >= least else numpy.nan
                  for row in rows]
        last = values[-1]
        axes.plot(times, values, color=style.colour(colour))
        labels.append((0 if numpy.isnan(last) else last,
                       f"for {units.power(size)}" if numpy.isnan(last) else
                       f"for {units.power(size)}: {units.percent(last)}", style.colour(colour)))
    axes.set_title("share of the free bytes that is in pieces too short for a size: "
                   + ("little is free at the end" if numpy.isnan(last) else "at the right, the end"),
                   pad=6)
    style.label_ends(axes, labels)


def _split(sizes):
    """The finding: of the largest size that would fit into all that is free at the end."""
    for size in reversed(sizes):
        if size["split"] == 0:
            return (f"At the end as many blocks of {units.power(size['size_bytes'])} fit as in one "
                    "free piece")
        if size["split"] is not None:
            return (f"At the end {units.percent(_share(size['split']))} fewer blocks of "
                    f"{units.power(size['size_bytes'])} fit than in one free piece")
    return "How many blocks of a size fewer fit than in one free piece"


def _curves(axes, analysis):
    moments = {moment["moment"]: moment["free_space"]["sizes"]
               for moment in analysis.get("moments", [])}
    names, labels = [], []
    style.percent_axis(axes, 103)
    axes.set_title(_split(moments.get("end", [])), pad=6)
    for moment, colour, text in CURVES:
        sizes = moments.get(moment, [])
        names = names or [units.power(size["size_bytes"]) for size in sizes]
        for key, dashes, also in ("split", "-", ""), ("split_without_top", "--", ", without top"):
            values = [_share(size[key]) for size in sizes]
            known = [value for value in values if not numpy.isnan(value)]
            if not known:
                continue
            axes.plot(range(len(values)), values, dashes, marker="o", ms=4, clip_on=False,
                      color=style.colour(colour))
            labels.append((known[-1], f"{text}{also}", style.colour(colour)))
    if not labels:
        axes.text(0.5, 0.5, "not known, or nothing free that one would fit into",
                  transform=axes.transAxes, ha="center", va="center", color=style.colour("quiet"))
    axes.set_xticks(range(len(names)), names)
    style.label_ends(axes, labels)
