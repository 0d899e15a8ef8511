# SPDX-License-Identifier: MIT
#
# Sizes and lifetimes: what sizes the program asked for, what the blocks took beyond that, and how
# long they lived; three views with one axis of sizes. Draws `sizes`, `lifetimes` and lifetimes.csv
# of the main stream (docs/analysis.md), summed up by doublings of size.

import style
import units

NAME = "sizes"
TITLE = "Sizes and lifetimes"

COLUMNS = ("count", "bytes", "peak_count", "peak_bytes", "peak_chunk_bytes")
LEAST_TINT = 0.07  # of a cell with anything in it
GAP = 1.6          # from the longest life to the row of what is live at the end


def draw(analysis):
    rows = by_doubling(analysis)
    if not rows:
        return None
    figure, ((upper, beside_upper), (middle, beside_middle), (lower, right)) = style.new(
        3, 2, (10, 8.6), gridspec_kw={"width_ratios": [3.4, 1], "height_ratios": [1.15, 1.15, 1.7],
                                      "wspace": 0.04, "hspace": 0.5})
    figure.subplots_adjust(left=0.095, right=0.975, top=0.955, bottom=0.075)
    for axes in beside_upper, beside_middle:
        axes.set_visible(False)
    _requested(upper, rows)
    _slack(middle, rows, analysis)
    _lives(lower, right, list(rows), analysis)
    for axes in upper, middle, lower:
        if axes.has_data():
            style.size_axis(axes, list(rows), 11)
    lower.set_xlabel("asked for, up to" if lower.has_data() else "")
    return figure


def by_doubling(analysis):
    """Largest size -> COLUMNS, for each doubling in which anything was asked for or lived; columns
    that are not known are None."""
    sums = {}
    for row in analysis.get("sizes", []):
        parts = [row[column] for column in COLUMNS]
        size = units.doubling(row["up_to_bytes"])
        sums[size] = [None if part is None else part + before
                      for part, before in zip(parts, sums.get(size, [0] * len(COLUMNS)))]
    for row in analysis.get("lifetimes.sizes", []):
        sums.setdefault(row["up_to_bytes"], [0] * len(COLUMNS))
    if not sums:
        return {}
    sizes, size = [], min(sums)
    while size <= max(sums):
        sizes.append(size)
        size *= 2
    return {size: dict(zip(COLUMNS, sums.get(size, [0] * len(COLUMNS)))) for size in sizes}


def between(size):
    """The sizes of a doubling, in words."""
    return "up to 16 bytes" if size == 16 else (
        f"{size // 2 + 1:,} to {size:,} bytes" if size <= 1024 else
        f"{units.power(size // 2)} to {units.power(size)}")


def _key(axes, names):
    """What the bars are, to the right of them."""
    for number, (colour, text) in enumerate(names):
        place = 0.92 - 0.2 * number
        axes.plot([1.03], [place], "s", ms=6.5, color=style.colour(colour), clip_on=False,
                  transform=axes.transAxes)
        axes.annotate(text, xy=(1.03, place), xycoords="axes fraction", xytext=(8, 0),
                      textcoords="offset points", va="center", fontsize=9.5, fontweight="bold",
                      annotation_clip=False)


def _requested(axes, rows):
    count, bytes_ = (sum(row[column] for row in rows.values()) for column in ("count", "bytes"))
    axes.set_title(requested_title(rows, count, bytes_), pad=8)
    axes.grid(axis="y")
    most = 0
    for shift, colour, column, total in (-0.21, "requested", "count", count), (
            0.21, "mapped", "bytes", bytes_):
        shares = [units.share(row[column], total) or 0 for row in rows.values()]
        most = max(most, *shares)
        axes.bar([place + shift for place in range(len(rows))], shares, width=0.4,
                 color=style.colour(colour), lw=0)
    high = next(high for high in (10, 25, 50, 100) if most <= high)
    axes.set_ylim(0, high)
    axes.set_yticks([0, high / 2, high], [f"{tick:g} %" for tick in (0, high / 2, high)])
    _key(axes, (("requested", f"of {units.counted(count, 'allocation')}"),
                ("mapped", f"of {units.size(bytes_)} asked for")))


def requested_title(rows, count, bytes_):
    if not count:
        return "Nothing was asked for"
    often = max(rows, key=lambda size: rows[size]["count"])
    much = max(rows, key=lambda size: rows[size]["bytes"])
    said = (f"{units.share_text(rows[often]['count'], count)} of all allocations are of "
            f"{between(often)}")
    if much == often:
        return f"{said}, with {units.share_text(rows[much]['bytes'], bytes_)} of the bytes"
    return f"{said}; {units.share_text(rows[much]['bytes'], bytes_)} of the bytes, {between(much)}"


def _slack(axes, rows, analysis):
    known = all(row["peak_chunk_bytes"] is not None for row in rows.values())
    if not known:
        _say(axes, "What blocks take beyond what was asked for is not known"
             if analysis.observed else "What was live at the peak is not known")
        return
    values = [(row["peak_bytes"], row["peak_chunk_bytes"] - row["peak_bytes"])
              for row in rows.values()]
    axes.set_title(slack_title(dict(zip(rows, values))), pad=8)
    scale, unit_name = units.size_scale(max(sum(pair) for pair in values))
    axes.grid(axis="y")
    for place, (asked, slack) in enumerate(values):
        axes.bar(place, asked / scale, width=0.82, color=style.colour("requested"), lw=0)
        axes.bar(place, slack / scale, bottom=asked / scale, width=0.82,
                 color=style.colour("slack"), lw=0)
        share = units.share(slack, asked + slack) or 0
        if share >= 1:
            axes.annotate(f"{share:.0f} %", xy=(place, (asked + slack) / scale),
                          xytext=(0, 3), textcoords="offset points", ha="center", fontsize=8.5)
    axes.margins(y=0.16)
    axes.set_ylim(bottom=0)
    axes.set_ylabel(unit_name)
    _key(axes, (("requested", f"requested {units.size(sum(asked for asked, _ in values))}"),
                ("slack", f"slack {units.size(sum(slack for _, slack in values))}")))


def slack_title(values):
    asked, slack = (sum(parts) for parts in zip(*values.values()))
    if not slack:
        return "At the peak blocks take no more than was asked for" if asked else (
            "At the peak nothing was live")
    most = max(values, key=lambda size: values[size][1])
    return (f"At the peak {units.share_text(slack, asked + slack)} of what blocks take is slack, "
            f"{units.share_text(values[most][1], slack)} of it in blocks of {between(most)}")


# ---- lifetimes ---------------------------------------------------------------------------------


def place_of(up_to):
    """Of a life on the axis: 0 bytes, then one step for each doubling."""
    return max(up_to.bit_length() - 2, 1) if up_to else 0


def life_ticks(top):
    named = [(0, "0")] + [(place_of(size - 1) + 0.5, units.power(size)) for size in (
        1 << 10, 32 << 10, 1 << 20, 32 << 20, 1 << 30, 32 << 30, 1 << 40)]
    return [tick for tick in named if tick[0] <= max(top - 0.6, 0)]


def _lives(axes, beside, sizes, analysis):
    """A column for each size: how its blocks are spread over the lengths of life."""
    rows = [row for row in analysis.rows("lifetimes", analysis.get("main_stream"))
            if row["clock"] == "allocated"]
    axes.set_title(lives_title(analysis), pad=8)
    if not rows:
        _say(axes, "No block was seen being made")
        beside.set_visible(False)
        return
    totals = {size: sum(row["freed_blocks"] + row["live_blocks"] for row in rows
                        if row["up_to_bytes"] == size) for size in sizes}
    top = max([place_of(row["lived_up_to"]) for row in rows if row["freed_blocks"]], default=1)
    live_at = top + GAP + 0.5
    live = dict.fromkeys(sizes, 0)
    for row in rows:
        live[row["up_to_bytes"]] += row["live_blocks"]
        _cell(axes, sizes.index(row["up_to_bytes"]), place_of(row["lived_up_to"]),
              row["freed_blocks"] / totals[row["up_to_bytes"]], "requested")
    for place, size in enumerate(sizes):
        _cell(axes, place, live_at, live[size] / totals[size] if live[size] else 0, "mapped")
    axes.set_ylim(-0.7, live_at + 0.7)
    ticks = life_ticks(top) + [(live_at, "still live")]
    axes.set_yticks([place for place, _ in ticks], [text for _, text in ticks])
    axes.set_ylabel("bytes allocated meanwhile, up to")
    _curve(beside, analysis.get("lifetimes.allocated.incidence", []), axes.get_ylim(), top, live_at,
           analysis)


def _cell(axes, place, height, share, colour):
    if share:
        axes.bar(place, 1, bottom=height - 0.5, width=0.94, lw=0, color=style.colour(colour),
                 alpha=max(share ** 0.5, LEAST_TINT))


def _curve(axes, steps, limits, top, live_at, analysis):
    """Of all sizes, beside the same axis: what share was freed within a life."""
    places, shares = [-0.5], [0.0]
    for step in steps:
        places += [place_of(step["up_to_bytes"]) + 0.5] * 2
        shares += [shares[-1], 100 * step["freed"]]
    places, shares = places + [top + 0.5], shares + shares[-1:]
    axes.fill_betweenx(places, 0, shares, color=style.colour("requested"), alpha=0.16, lw=0)
    axes.plot(shares, places, color=style.colour("requested"))
    axes.set_title("freed by then", pad=8)
    axes.set_ylim(limits)
    axes.set_yticks([])
    axes.set_xlim(0, 104)
    axes.set_xticks([0, 50, 100], ["0 %", "50 %", "100 %"])
    axes.grid(axis="x")
    freed, live = (analysis.get(f"lifetimes.{kind}_blocks") for kind in ("freed", "live"))
    axes.text(3, live_at, f"{units.counted(live, 'block')}, {units.share_text(live, freed + live)}",
              va="center", fontsize=8.5)


def lives_title(analysis):
    half = analysis.get("lifetimes.allocated.percentiles.p50")
    if half is None:
        return "No block that was seen being made was freed"
    if not half:
        return "Half of the freed blocks went before anything else was allocated"
    return f"Half of the freed blocks lived while {units.size(half)} or less were allocated"


def _say(axes, text):
    axes.set_xticks([])
    axes.set_yticks([])
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center",
              color=style.colour("quiet"), fontsize=11)
