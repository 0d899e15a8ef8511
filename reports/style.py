# SPDX-License-Identifier: MIT
#
# The one look of figures and page: colours by meaning, fonts, axes, direct labels, and the
# output as PNG or as SVG that follows the page between light and dark. Used by the figure_*
# modules and page.py. Imports matplotlib, so nothing the CI gate needs may come from here.

import io
import logging
import re

# It warns about a home that cannot be written, where it would keep its cache.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
try:
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    import numpy  # noqa: F401, checked here so that one line names all that is missing
except ImportError as missing:
    from load import Failure, USAGE
    raise Failure(USAGE, f"Python has no {missing.name}: figures need the Debian packages "
                         "python3-matplotlib and python3-numpy") from None

# Meaning -> (on white, on dark). Okabe and Ito's set and neighbours of it, safe for colour-blind
# readers; every light value is unique, because the SVG is re-coloured by value.
COLOURS = {
    "ink": ("#1d2733", "#e6ebf0"),
    "quiet": ("#5c6975", "#9fabb7"),
    "grid": ("#dde3e9", "#2f3944"),
    "paper": ("#ffffff", "#171d24"),
    "requested": ("#0072b2", "#4fa8de"),
    "mapped": ("#d55e00", "#f28a3c"),
    "resident": ("#009e73", "#35c79c"),
    "returned": ("#a8548a", "#d98cbf"),
    "slack": ("#e69f00", "#f0b73d"),
    "free": ("#b4c3d1", "#8497a9"),
    "metadata": ("#56606b", "#a9b4bf"),
    "break": ("#3d6b99", "#6c9fd2"),
    "arena": ("#7fb0d0", "#a5cfe8"),
    "block": ("#1b4a73", "#3f78ab"),
    "grow_top": ("#d55e01", "#f28a3d"),
    "trim_top": ("#009e74", "#35c79d"),
    "over_threshold": ("#0072b3", "#4fa8df"),
    "free_mmapped": ("#56b4e9", "#8fd0f5"),
    "realloc_mremap": ("#cc79a7", "#dd98bf"),
    "arena_grow": ("#e69f01", "#f0b73e"),
    "arena_shrink": ("#8a7a1e", "#c9b84c"),
    "arena_new": ("#6a4c93", "#a58bd0"),
    "trim_call": ("#1b5e3b", "#5fb588"),
    "heap_init": ("#9c755f", "#c39a82"),
    "arena_align": ("#b9a0d6", "#cdbbe6"),
    "arena_free": ("#41315e", "#7d67a8"),
    "brk_fallback": ("#7a1f2b", "#d46a76"),
    # The address map is a picture, and the same on white and on dark.
    "map_requested": ("#0072b5", "#0072b5"),
    "map_slack": ("#3a9bd6", "#3a9bd6"),
    "map_partial": ("#c98a00", "#c98a00"),
    "map_free": ("#c1440e", "#c1440e"),
    "map_purged": ("#a8548b", "#a8548b"),
    "map_untouched": ("#8d99a6", "#8d99a6"),
    "observed": ("#0072b4", "#4fa8dd"),
    "other": ("#8d99a5", "#74818e"),
}


def colour(meaning):
    return COLOURS.get(meaning, COLOURS["other"])[0]


def css_variables(dark):
    return "".join(f"--{name}:{pair[dark]};" for name, pair in COLOURS.items())


def setup():
    plt.rcParams.update({
        "font.family": "DejaVu Sans",
        "font.size": 10,
        "text.color": colour("ink"),
        "axes.labelcolor": colour("quiet"),
        "axes.edgecolor": colour("quiet"),
        "axes.linewidth": 0.8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.titlelocation": "left",
        "axes.axisbelow": True,
        "axes.grid": False,
        "grid.color": colour("grid"),
        "grid.linewidth": 0.8,
        "xtick.color": colour("quiet"),
        "ytick.color": colour("quiet"),
        "xtick.labelsize": 9,
        "ytick.labelsize": 9,
        "lines.linewidth": 1.8,
        "lines.solid_joinstyle": "round",
        "figure.facecolor": colour("paper"),
        "axes.facecolor": "none",
        "svg.fonttype": "path",
        "svg.hashsalt": "heapledger",
    })


def new(rows=1, columns=1, size=(10, 4.2), **arguments):
    return plt.subplots(rows, columns, figsize=size, **arguments)


def spread(positions, gap, low, high):
    """Moves label positions apart until neighbours are `gap` away, within low..high."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    placed = [min(max(positions[i], low), high) for i in order]
    for i in range(1, len(placed)):
        placed[i] = max(placed[i], placed[i - 1] + gap)
    overflow = placed[-1] - high if placed else 0
    for i in range(len(placed) - 1, -1, -1):
        limit = high if i == len(placed) - 1 else placed[i + 1] - gap
        if overflow > 0:
            placed[i] = min(placed[i], limit)
    result = [0.0] * len(positions)
    for index, value in zip(order, placed):
        result[index] = value
    return result


def label_ends(axes, labels):
    """Names each line at its right end. labels: (y in data units, text, colour)."""
    low, high = axes.get_ylim()
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    gap = (high - low) * 13 / height
    places = spread([y for y, _, _ in labels], gap, low + gap / 3, high)
    for (_, text, tint), y in zip(labels, places):
        axes.annotate(text, xy=(1, y), xycoords=("axes fraction", "data"), xytext=(8, 0),
                      textcoords="offset points", va="center", ha="left", color=tint,
                      fontweight="bold", fontsize=9.5, annotation_clip=False)


PHASES_MARKED = 40


def mark_phases(axes, phases, divisor, numbered=True):
    """A line where each phase begins, with its number in the page's table: the name may hold
    anything. Of very many none, they would hide the figure."""
    if len(phases) > PHASES_MARKED:
        return
    end = axes.get_xlim()[1]
    for number, phase in enumerate(phases[1:], 2):
        moment = phase["start_ns"] / divisor
        inside = -2 if moment > 0.96 * end else 2
        axes.axvline(moment, color=colour("quiet"), lw=0.8, ls=(0, (3, 3)), zorder=1)
        if numbered:
            axes.annotate(str(number), xy=(moment, 1), xycoords=("data", "axes fraction"),
                          xytext=(inside, -9), textcoords="offset points", fontsize=8,
                          ha="left" if inside > 0 else "right", color=colour("quiet"),
                          annotation_clip=True)


def png(figure, path, dpi=160):
    figure.savefig(path, format="png", dpi=dpi, metadata={"Software": "heapledger"})


HEADING = "heading"  # the label of a text that is as good as a title


def svg(figure, path):
    """The figure as a file of its own, in the colours of print."""
    figure.savefig(path, format="svg", metadata={"Date": None, "Creator": "heapledger"})


def titles(figure):
    """What the parts of a figure say in their titles, as one line."""
    said = [axes.get_title(place) for axes in figure.axes for place in ("left", "center", "right")]
    said += [text.get_text() for axes in figure.axes for text in axes.texts
             if text.get_label() == HEADING]
    return "; ".join(" ".join(text.split()) for text in said if text)


def inline_svg(figure, label):
    """The figure as an <svg> element for the page: no names of other hosts, colours by variable."""
    text = io.StringIO()
    figure.savefig(text, format="svg", transparent=True,
                   metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    body = text.getvalue()
    body = body[body.index("<svg"):]
    body = re.sub(r"<metadata>.*?</metadata>", "", body, flags=re.S)
    body = re.sub(r"<!--.*?-->", "", body, flags=re.S)
    head, rest = body.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', head).group(0)
    rest = rest.replace("xlink:href", "href")
    for name, (light, _) in COLOURS.items():
        rest = rest.replace(light, f"var(--{name})")
    rest = re.sub(r"\n\s*", "\n", rest)
    return f'<svg {box} role="img" aria-label="{label}">{rest}'


def close(figure):
    plt.close(figure)
