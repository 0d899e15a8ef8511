# SPDX-License-Identifier: MIT
#
# The first screen of the page as a figure, for paper: the ledger at the peak and at the end as one
# bar each, and resident memory over time. Draws what overview.py has. Used by pdf.py only.

import style
import units


def draw(bars, resident):
    figure, (left, right) = style.new(1, 2, (10, 2.5))
    figure.subplots_adjust(left=0.01, right=0.985, top=0.86, bottom=0.2, wspace=0.22)
    _bars(left, bars)
    _resident(right, resident)
    return figure


def _bars(axes, bars):
    axes.set_axis_off()
    most = max((bar.mapped for bar in bars), default=1)
    for place, bar in enumerate(bars):
        start = 0
        for colour, _, value in bar.rows:
            axes.barh(-place, value, left=start, height=0.4, color=style.colour(colour),
                      edgecolor=style.colour("paper"), lw=0.7)
            start += value
        axes.text(0, 0.28 - place, bar.title(), va="bottom", fontsize=10, fontweight="bold")
    if not bars:
        axes.text(0, 0, "What the heap held was not measured.", color=style.colour("quiet"))
    axes.set_xlim(0, most)
    axes.set_ylim(-1.4, 0.75)


def _resident(axes, data):
    if not data.points:
        axes.set_axis_off()
        axes.text(0, 0.5, data.sentence(), color=style.colour("quiet"))
        return
    scale, size_unit = units.size_scale(data.largest)
    divisor, time_unit = units.time_scale(data.end_ns)
    for points, colour in (data.mapped, "mapped"), (data.points, "resident"):
        axes.plot([moment / divisor for moment, _ in points], [value / scale for _, value in points],
                  color=style.colour(colour), ls="--" if colour == "mapped" else "-", label=colour)
    axes.grid(axis="y")
    axes.set_ylim(0)
    axes.set_title(f"{size_unit} resident, and mapped by the heap", pad=6)
    axes.set_xlabel(f"{time_unit} since the start of the recording")
    axes.legend(frameon=False, fontsize=9, loc="lower right")
