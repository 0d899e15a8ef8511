# SPDX-License-Identifier: MIT
#
# From free to return: how long pages took from the last block on them being freed to going back
# to the kernel, and what became of the others. Reuse is a rival of return, and a page that is free
# at the end was seen for so long only: the curves are the analyzer's cumulative incidence of both
# (docs/analysis.md), the bar beside them is how it was at the end; below are the same curves for
# four ranges of sizes, and how it was at the end for each size.

import style
import units

NAME = "return"
TITLE = "From free to return"

GROUPS = {1 << 10: "up to 1 KiB", 64 << 10: "1 KiB to 64 KiB", 1 << 20: "64 KiB to 1 MiB",
          None: "over 1 MiB"}

FATES = (("returned", "returned_page_bytes", "went back"),
         ("requested", "reused_page_bytes", "used again first"),
         ("free", "never_page_bytes", "still free"))


def freed_bytes(analysis):
    """All page bytes whose last block was freed, or None when one part was not measured."""
    parts = [analysis.get(f"free_to_return.{key}") for _, key, _ in FATES]
    return None if None in parts else sum(parts)


def draw(analysis):
    total = freed_bytes(analysis)
    if not total:
        return None
    figure, axes = style.new(3, len(GROUPS), (10, 8.6), gridspec_kw={
        "height_ratios": [1.5, 0.9, 1], "hspace": 0.55, "wspace": 0.13})
    figure.subplots_adjust(left=0.075, right=0.975, top=0.95, bottom=0.07)
    steps = analysis.get("free_to_return.incidence", [])
    upper = _joined(axes[0], len(GROUPS) - 1)
    upper.set_title(_finding(analysis, total), pad=8)
    upper.set_xlabel("from the last free on the page to its return or reuse")
    _curves(upper, steps, limits_of(steps))
    _fates(axes[0][-1], analysis, total)
    _groups(axes[1], analysis.get("free_to_return.size_groups", []), limits_of(steps))
    _sizes(_joined(axes[2], len(GROUPS)), by_size(analysis))
    return figure


def _finding(analysis, total):
    returned, reused, _ = (units.share_text(analysis.get(f"free_to_return.{key}"), total)
                           for _, key, _ in FATES)
    return f"{returned} of {units.size(total)} of freed pages went back to the kernel, {reused} were used again"


def _joined(row, count):
    """The first so many of a row as one."""
    for axes in row[1:count]:
        axes.remove()
    place = row[0].get_subplotspec()
    row[0].set_subplotspec(place.get_gridspec()[place.rowspan.start, :count])
    return row[0]


def _groups(row, groups, limits):
    """The curves for each range of sizes."""
    for number, axes in enumerate(row):
        if number >= len(groups):
            axes.set_visible(False)
            continue
        group = groups[number]
        _curves(axes, group["incidence"], limits)
        freed = sum(group[key] for _, key, _ in FATES)
        axes.set_title(f"{GROUPS[group['up_to_bytes']]}: {units.size(freed)}", pad=6, fontsize=9.5)
        if number:
            axes.tick_params(axis="y", labelleft=False)


def by_size(analysis):
    """(largest size, bytes of each fate) for each doubling of size that freed a page last."""
    sums = {}
    for size in analysis.get("free_to_return.sizes", []):
        sums.setdefault(units.doubling(size["up_to_bytes"]), []).append([size[key] for _, key, _ in FATES])
    rows = [(doubling, [sum(column) for column in zip(*parts)])
            for doubling, parts in sorted(sums.items())]
    return [row for row in rows if any(row[1])]


def _sizes(axes, rows):
    style.percent_axis(axes)
    still = [parts[-1] for _, parts in rows]
    if any(still):
        largest = max(range(len(rows)), key=still.__getitem__)
        axes.set_title(f"{units.share_text(still[largest], sum(still))} of what is still free was left by "
                       f"blocks of up to {units.power(rows[largest][0])}", pad=8)
    else:
        axes.set_title("None of it is still free, whatever the size of the block that left it", pad=8)
    for place, (_, parts) in enumerate(rows):
        start = 0.0
        for (name, _, _), part in zip(FATES, parts):
            height = 100 * part / sum(parts)
            axes.bar(place, height, bottom=start, width=0.82, color=style.colour(name),
                     edgecolor=style.colour("paper"), lw=0.7)
            start += height
    style.size_axis(axes, [size for size, _ in rows], 9)
    axes.set_xlabel("asked for, up to")


def limits_of(steps):
    """Of the axis of time."""
    ends = [max(step["up_to_ns"], 1) for step in steps] or [1]
    return min(ends[0] / 3, 1e3), max(ends[-1] * 1.5, 1e6)


def _curves(axes, steps, limits):
    style.percent_axis(axes)
    if not any(step["returned"] or step["reused"] for step in steps):
        axes.set_xticks([])
        axes.text(0.5, 0.5, "no page went back\nor was reused",
                  transform=axes.transAxes, ha="center", va="center",
                  color=style.colour("quiet"), fontsize=10)
        return
    first, last = limits
    ends = [max(step["up_to_ns"], 1) for step in steps]
    axes.set_xscale("log")
    axes.set_xlim(first, last)
    for fate, colour in ("reused", "requested"), ("returned", "returned"):
        shares = [100 * step[fate] for step in steps]
        times, values = [first] + ends + [last], [0, *shares, shares[-1]]
        axes.fill_between(times, values, step="post", color=style.colour(colour), alpha=0.16, lw=0)
        axes.step(times, values, where="post", color=style.colour(colour))
    ticks = [(10.0**power, text) for power, text in (
        (1, "10 ns"), (2, "100 ns"), (3, "1 µs"), (4, "10 µs"), (5, "100 µs"), (6, "1 ms"),
        (7, "10 ms"), (8, "100 ms"), (9, "1 s"), (10, "10 s"), (11, "100 s"), (12, "1,000 s"))]
    ticks = [tick for tick in ticks if first <= tick[0] <= last]
    columns = axes.get_subplotspec().colspan
    every = 1 if len(columns) > 1 else -(-len(ticks) // 3)  # more labels would touch
    axes.set_xticks([place for place, _ in ticks[::every]], [text for _, text in ticks[::every]])
    axes.minorticks_off()


def _fates(axes, analysis, total):
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xticks([])
    axes.set_ylim(0, 100)
    axes.set_yticks([])
    start, labels = 0.0, []
    for name, key, text in FATES:
        value = analysis.get(f"free_to_return.{key}")
        height = 100 * value / total
        axes.bar(0, height, bottom=start, width=1, color=style.colour(name),
                 edgecolor=style.colour("paper"), lw=0.7)
        labels.append((start + height / 2, text, value))
        start += height
    axes.set_xlim(-0.5, 6)
    places = style.spread([y for y, _, _ in labels], 16, 6, 94)
    for (_, text, value), place in zip(labels, places):
        axes.annotate(units.share_text(value, total), xy=(0.5, place),
                      xytext=(10, 7), textcoords="offset points", va="center", fontsize=10,
                      fontweight="bold", annotation_clip=False)
        axes.annotate(f"{units.size(value)} {text}", xy=(0.5, place), xytext=(10, -7), textcoords="offset points",
                      va="center", fontsize=9, color=style.colour("quiet"),
                      annotation_clip=False)
