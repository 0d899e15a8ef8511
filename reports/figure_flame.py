# SPDX-License-Identifier: MIT
#
# A flame graph as a figure, for paper, where nothing can be pointed at: the page draws its own. Used
# by pdf.py only.

import zlib

import matplotlib.colors
import matplotlib.patches

import plain
import style

ROW, LETTER = 0.21, 0.088  # inches
WIDE = 10


def draw(graph):
    high = ROW * graph.depth
    figure, axes = style.new(1, 1, (WIDE, high))
    figure.subplots_adjust(left=0, right=1, top=1, bottom=0)
    axes.set_axis_off()
    axes.set_xlim(0, WIDE)
    axes.set_ylim(high, 0)
    for box in graph.boxes:
        _box(axes, graph, box)
    return figure


def _box(axes, graph, box):
    left, wide = (WIDE * value / graph.total for value in (box.start, box.value))
    strength = 0.16 + 0.06 * (zlib.crc32(box.name.encode()) % 4)
    axes.add_patch(matplotlib.patches.Rectangle(
        (left, ROW * box.depth), wide, ROW * 0.94, lw=0.4, ec=style.colour(graph.colour),
        fc=matplotlib.colors.to_rgba(style.colour(graph.colour), strength)))
    room = int((wide - 0.08) / LETTER)
    if room > 3:
        name = style.legible(plain.replaced(box.name), mono=True)
        shown = name if len(name) <= room else name[:room - 1] + "…"
        axes.text(left + 0.04, ROW * (box.depth + 0.5), shown, va="center", fontsize=9,
                  family=style.families(mono=True), parse_math=False)
