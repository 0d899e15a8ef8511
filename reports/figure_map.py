# SPDX-License-Identifier: MIT
#
# The address map: the break and the arenas, address by time, each stretch in the colour of what it
# held. Draws what `heapledger analyze --map` wrote; colours are mixed by bytes within a cell.

import textwrap

import matplotlib.colors
import matplotlib.lines
import matplotlib.patches
import numpy

import places
import style
import units

NAME = "map"
TITLE = "The heap by address"

# State -> its name in the key. What was never used is hardly there.
STATES = {"requested": "requested", "slack": "slack", "cached": "kept by caches",
          "partial": "free beside blocks", "free": "free, in memory",
          "absent": "free, not in memory", "purged": "given back", "untouched": "never used"}
NOBODY_LOOKED = {"free": "free, whole pages"}
FAINT = {"untouched": 0.3}
ARENAS_DRAWN = 6
BESIDE_DRAWN = 2
ONE_LINE = 7  # entries of the key
SEEN = 1 / 256  # of a column: a state that is never more is not in the key
CAPTION = ("Time runs to the right, addresses go up; the line is where memory ends. A cell that holds "
           "several things has their colours mixed by bytes. At the break, a block high up keeps all "
           "below it mapped. Blocks with a mapping of their own are not shown; what caches keep counts "
           "as free but where it is known, at the end mostly.")
# How it is known what is in memory.
HELD = " A free page that has held a block counts as in memory until it is given back"
LOOKED = HELD + ", or until a snapshot does not find it. There were {}{}."
LEDGER_ONLY = HELD + ": no snapshot tells."


def draw(analysis):
    regions = used(analysis)
    if not regions:
        return None
    heap = [region for region in regions if region.kind == "break"]
    arenas = sorted((region for region in regions if region.kind != "break"),
                    key=_most, reverse=True)[:ARENAS_DRAWN]
    drawn = heap + arenas
    largest = not arenas or (heap and _most(heap[0]) >= _most(arenas[0]))
    share = [4.6 if largest else 2.6] * len(heap) + [1.5 if heap else 2.6] * len(arenas)
    height = sum(share) + 0.6 * (len(drawn) - 1) + 1.5
    figure, axes = style.new(len(drawn), 1, (10, height), squeeze=False, sharex=True,
                             gridspec_kw={"height_ratios": share,
                                          "hspace": 0.6 * len(share) / sum(share)})
    figure.subplots_adjust(left=0.105, right=0.955, top=1 - 0.85 / height, bottom=0.58 / height)
    divisor, unit_name = units.time_scale(analysis.map["end_ns"])
    begin, end = (analysis.map[key] / divisor for key in ("start_ns", "end_ns"))
    end = end if end > begin else begin + 1
    for place, region in zip(axes[:, 0], drawn):
        _region(place, region, begin, end)
        if region.kind == "break":
            _mark_pins(place, region, pins(analysis), divisor, begin, end)
    _legend(figure, drawn, height, names(analysis), bool(heap and pins(analysis)))
    last = axes[-1, 0]
    last.set_xlim(begin, end)
    last.set_xlabel(f"{unit_name} since the start of the recording")
    for place in axes[:, 0]:
        style.mark_phases(place, analysis.get("phases", []), divisor, numbered=place is axes[0, 0])
    return figure


def beside(analyses):
    """A narrow figure for each, of its largest regions, all on one scale; None without any."""
    drawn = [sorted(used(analysis), key=_most, reverse=True)[:BESIDE_DRAWN] for analysis in analyses]
    top = max((region.size for regions in drawn for region in regions), default=0)
    end = max([1, *(analysis.map.get("end_ns", 0) for analysis in analyses)])
    return [_narrow(analysis, regions, top, end) if regions else None
            for analysis, regions in zip(analyses, drawn)]


def _narrow(analysis, regions, top, end):
    height = 3 * len(regions) + 1.55
    figure, axes = style.new(len(regions), 1, (4.6, height), squeeze=False, sharex=True)
    figure.subplots_adjust(left=0.15, right=0.97, top=1 - 1.3 / height, bottom=0.55 / height,
                           hspace=0.35)
    divisor, unit_name = units.time_scale(end)
    scale, _ = units.size_scale(top)
    begin, own_end = (analysis.map[key] / divisor for key in ("start_ns", "end_ns"))
    for place, region in zip(axes[:, 0], regions):
        _region(place, region, begin, max(own_end, begin + 1e-9), scale)
        place.set_ylim(0, 1.04 * top / scale)
        place.set_title(textwrap.fill(_finding(region), 54), fontsize=8.5, pad=5)
        place.locator_params(axis="y", nbins=6)
    axes[-1, 0].set_xlim(0, end / divisor)
    axes[-1, 0].set_xlabel(unit_name)
    _legend(figure, regions, height, names(analysis), columns=2, size=8)
    return figure


def used(analysis):
    """The regions that something was mapped in."""
    return [region for region in map(Region, _regions(analysis)) if region.mapped.any()]


def _most(region):
    return region.mapped.sum(axis=0).max()


def _regions(analysis):
    return (analysis.map or {}).get("regions") or []


class Region:
    """Bytes by state, row and column."""

    def __init__(self, data):
        self.kind, self.start = data["kind"], int(data["start"], 16)
        self.row_bytes = data["row_bytes"]
        rows = [_row(row) for row in data["rows"]]
        self.cells = numpy.stack(rows) if rows else numpy.zeros((0, 1, len(STATES)))
        self.mapped = self.cells.sum(axis=2)

    @property
    def size(self):
        return self.mapped.shape[0] * self.row_bytes

    def total(self, state, column=-1):
        return int(self.cells[:, column, list(STATES).index(state)].sum())

    def end(self):
        """For each column where the last mapped row ends, in bytes above the start, or NaN."""
        there = self.mapped > 0
        last = there.shape[0] - there[::-1].argmax(axis=0)
        return numpy.where(there.any(axis=0), last, numpy.nan) * self.row_bytes


def _row(runs):
    table = numpy.array(runs, dtype=float).reshape(-1, 1 + len(STATES))
    return numpy.repeat(table[:, 1:], table[:, 0].astype(int), axis=0)


def image(region):
    """Red, green, blue and opacity of each cell: the states' colours mixed by their bytes."""
    tints = numpy.array([_tint(state) for state in STATES])
    weights = region.cells / numpy.maximum(region.mapped, 1)[..., None] * tints[:, 3]
    opacity = weights.sum(axis=2, keepdims=True)
    colours = weights @ tints[:, :3] / numpy.where(opacity > 0, opacity, 1)
    return numpy.clip(numpy.concatenate([colours, opacity], axis=2), 0, 1)


def _tint(state):
    return matplotlib.colors.to_rgba(style.colour("map_" + state), FAINT.get(state, 1))


def _region(axes, region, begin, end, scale=None):
    scale, unit_name = units.size_scale(scale or region.size)
    top = region.size / scale
    axes.imshow(image(region), origin="lower", aspect="auto", interpolation="none",
                extent=(begin, end, 0, top))
    edges = numpy.linspace(begin, end, region.mapped.shape[1] + 1)
    axes.stairs(region.end() / scale, edges, baseline=None, color=style.colour("ink"), lw=1.1)
    axes.set_ylim(0, top * 1.04)
    axes.set_ylabel(f"{unit_name} above start")
    axes.locator_params(axis="y", nbins=6 if region.kind == "break" else 3)
    axes.set_title(_finding(region), pad=6)


PINS_MARKED = 4


def pins(analysis):
    """(number from the top, holder, free bytes between it and the next lower block) of the blocks
    that keep the break up at the end: the highest one, and those with the most below."""
    end = next((moment for moment in reversed(analysis.get("moments", []))
                if moment["moment"] == "end"), {})
    before, found = end.get("break", {}).get("top_bytes", 0), []
    for number, holder in enumerate(end.get("break", {}).get("holders", []), 1):
        gain = max(holder["returned_bytes"] - before, 0)
        before = max(before, holder["returned_bytes"])
        if gain or number == 1:
            found.append((number, holder, gain))
    most = sorted(found[1:], key=lambda pin: -pin[2])[:PINS_MARKED - 1]
    return found[:1] + sorted(most, key=lambda pin: pin[0])


def _mark_pins(axes, region, found, divisor, begin, end):
    """A line for as long as the block was there: of one that caches keep, its end is all that is
    known. Numbers of blocks that lie close together are moved apart, and a line leads to each."""
    scale, _ = units.size_scale(region.size)
    low, high = axes.get_ylim()
    heights = [(int(holder["address"], 16) - region.start) / scale for _, holder, _ in found]
    places = style.spread(heights, (high - low) / 22, low, high)
    ink = style.colour("ink")
    beside = axes.get_yaxis_transform()
    for (number, holder, _), height, place in zip(found, heights, places):
        since = holder["allocated_at_ns"]
        if since is not None:
            axes.plot([max(since / divisor, begin), end], [height] * 2, lw=1.6, color="white")
            axes.plot([max(since / divisor, begin), end], [height] * 2, lw=0.9, color=ink)
        axes.plot([1.004], [height], "<", ms=5, color=ink, clip_on=False, transform=beside)
        axes.plot([1.004, 1.016], [height, place], lw=0.7, color=ink, clip_on=False,
                  transform=beside)
        axes.annotate(str(number), xy=(1.018, place), xycoords=beside, va="center", fontsize=9,
                      fontweight="bold", annotation_clip=False)


def _finding(region):
    name = "Break" if region.kind == "break" else f"Arena at {region.start:#x}"
    mapped = int(region.mapped[:, -1].sum())
    if not mapped:
        most = int(region.mapped.sum(axis=0).max())
        return f"{name}: all of its {units.size(most)} is unmapped at the end"
    free = sum(region.total(state) for state in ("cached", "partial", "free", "absent"))
    return (f"{name}: {units.size(mapped)} mapped at the end, "
            f"{units.share_text(free, mapped)} of it free and not given back")


def names(analysis):
    """Of the states: what is not known is not said."""
    looked = any(at is not None for at in (analysis.map or {}).get("snapshots_ns") or [])
    return STATES if looked else {**STATES, **NOBODY_LOOKED}


def _legend(figure, drawn, height, state_names, has_pins=False, columns=None, size=9):
    present = [i for i in range(len(STATES)) if any(
        (region.cells[..., i].sum(axis=0) > SEEN * region.mapped.sum(axis=0)).any()
        for region in drawn)]
    entries = list(STATES)
    keys = [matplotlib.patches.Patch(color=_tint(entries[i]), lw=0) for i in present]
    texts = [state_names[entries[i]] for i in present]
    ink = style.colour("ink")
    keys.append(matplotlib.lines.Line2D([], [], color=ink, lw=1.1))
    texts.append("the break" if drawn[0].kind == "break" else "end of the memory")
    if has_pins:
        keys.append(matplotlib.lines.Line2D([], [], color=ink, marker="<", ms=6, lw=0))
        texts.append("pins it")
    columns = columns or (len(keys) if len(keys) <= ONE_LINE else -(-len(keys) // 2))
    figure.legend(keys, texts, loc="upper left", ncols=min(columns, len(keys)),
                  frameon=False, fontsize=size,
                  bbox_to_anchor=(0.06, 1 - 0.06 / height), handlelength=1, handleheight=1,
                  columnspacing=1.1, borderpad=0.2)


def caption(analysis):
    beyond = (analysis.map or {}).get("beyond_bytes")
    regions = _regions(analysis)
    arenas = sum(region["kind"] != "break" for region in regions)
    text = CAPTION + _looked(analysis)
    found = pins(analysis)
    if found and any(region["kind"] == "break" for region in regions):
        text += (" What keeps the break up at the end, by number from the top: "
                 + "; ".join(map(_pin_text, found)) + ".")
    if arenas > ARENAS_DRAWN:
        text += f" The {ARENAS_DRAWN} largest of {arenas} arenas are drawn."
    if beyond:
        text += f" Up to {units.size(beyond)} more lay in arenas that are not in the map."
    return text


def _looked(analysis):
    looks = (analysis.map or {}).get("snapshots_ns") or []
    known = [at for at in looks if at is not None]
    if not known:
        return LEDGER_ONLY
    part = "" if len(known) == len(looks) else (
        f", a recent one for {units.share_text(len(known), len(looks))} of the time")
    return LOOKED.format(units.counted(len(set(known)), "snapshot"), part)


def _pin_text(pin):
    number, holder, gain = pin
    what = (places.KEPT.get(holder["kept"], holder["kept"]) if holder["kept"] else
            f"{units.size(holder['size_bytes'])} of {places.site_name(holder)} since "
            f"{units.time(holder['allocated_at_ns'])}")
    return f"({number}) {what}" + (f", {units.size(gain)} free below it" if gain else "")
