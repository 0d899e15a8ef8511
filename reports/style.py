# SPDX-License-Identifier: MIT
#
# The one look of figures and page: colours by meaning, fonts, axes, direct labels, and the
# output as PNG or as SVG that follows the page between light and dark. Used by the figure_*
# modules and page.py. Imports matplotlib, so nothing the CI gate needs may come from here.

import contextlib
import functools
import io
import logging
import re

import plain
import units

# It warns about a home that cannot be written, where it would keep its cache.
logging.getLogger("matplotlib").setLevel(logging.ERROR)
try:
    import matplotlib
    matplotlib.use("Agg")
    import matplotlib.pyplot as plt
    from matplotlib import font_manager
    import numpy  # noqa: F401, checked here so that one line names all that is missing
except ImportError as missing:
    from load import Failure, USAGE
    raise Failure(USAGE, f"Python has no {missing.name}: figures need the Debian packages "
                         "python3-matplotlib and python3-numpy") from None

# Meaning -> (on white, on dark). Each is told from the paper at 3:1 and from its neighbours by readers
# who are colour-blind, as tests/commands/test_access.py computes it; every light value is unique,
# because the SVG is re-coloured by value.
COLOURS = {
    "ink": ("#1d2733", "#e6ebf0"),
    "quiet": ("#55616d", "#a5b0bb"),
    "grid": ("#dde3e9", "#2f3944"),
    "paper": ("#ffffff", "#171d24"),
    "alarm": ("#b3261e", "#ff9a8f"),
    "requested": ("#1e88ce", "#2689c7"),
    "mapped": ("#d45d00", "#f28a3d"),
    "resident": ("#00633e", "#45ce9a"),
    "returned": ("#a75287", "#f1aadc"),
    "slack": ("#cf8000", "#e3a31f"),
    "cached": ("#916fb1", "#b29ddc"),
    "partial": ("#b68948", "#ffcd70"),
    "whole": ("#972000", "#db6a33"),
    "purged": ("#8d51a8", "#a76599"),
    "untouched": ("#4e6e77", "#b1c3da"),
    "free": ("#90937b", "#8b8589"),
    "metadata": ("#51505a", "#bdc0c3"),
    "break": ("#1e385a", "#67a1d6"),
    "arena": ("#539abb", "#b1dafa"),
    "block": ("#195e90", "#2d6ea3"),
    "grow_top": ("#b04100", "#e26e2d"),
    "trim_top": ("#6f9d68", "#169870"),
    "over_threshold": ("#0963b0", "#85a5b7"),
    "free_mmapped": ("#389cc1", "#bce4f1"),
    "realloc_mremap": ("#935084", "#cda4f3"),
    "arena_grow": ("#cb8200", "#f1b730"),
    "arena_shrink": ("#7b6917", "#c8b952"),
    "arena_new": ("#653f7d", "#a48fd4"),
    "trim_call": ("#0b614c", "#48cfb8"),
    "heap_init": ("#845c36", "#e2b287"),
    "arena_align": ("#808be4", "#cbc3ff"),
    "arena_free": ("#34214a", "#5866b0"),
    "brk_fallback": ("#741927", "#f18395"),
    # The address map is a picture, and the same on white and on dark.
    "map_requested": ("#1c77c4", "#1c77c4"),
    "map_slack": ("#888fbc", "#888fbc"),
    "map_partial": ("#c58500", "#c58500"),
    "map_cached": ("#2f7d6c", "#2f7d6c"),
    "map_free": ("#b74422", "#b74422"),
    "map_absent": ("#a07b68", "#a07b68"),
    "map_purged": ("#995088", "#995088"),
    "map_untouched": ("#9a8f8b", "#9a8f8b"),
    "outside": ("#3a5076", "#a6c3e3"),
    "since": ("#76989c", "#7d5e7f"),
    "files": ("#9086b7", "#7171a9"),
    "observed": ("#0963b1", "#85a5b7"),
    "other": ("#a58b94", "#68697b"),
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
        "pdf.fonttype": 42,
        "svg.fonttype": "path",
        "svg.hashsalt": "heapledger",
    })


# It has most letters that DejaVu lacks, Chinese, Japanese and Korean ones, and can be put into a PDF:
# Debian's fonts-droid-fallback.
FALLBACK = "Droid Sans Fallback"


@functools.lru_cache(maxsize=None)
def families(mono=False):
    """The fonts of a text, the later ones for letters that the first has not."""
    there = any(font.name == FALLBACK for font in font_manager.fontManager.ttflist)
    return ["DejaVu Sans Mono" if mono else "DejaVu Sans"] + ([FALLBACK] if there else [])


@functools.lru_cache(maxsize=None)
def _letters(family):
    """Those that it has in both of its weights."""
    faces = (font_manager.get_font(font_manager.findfont(
        font_manager.FontProperties(family=family, weight=weight))).get_charmap()
        for weight in ("normal", "bold"))
    return frozenset.intersection(*map(frozenset, faces))


def legible(text, mono=False):
    """With the numbers of letters that no font here has, as \\u and \\U."""
    known = [_letters(family) for family in families(mono)]
    return "".join(c if c.isspace() or any(ord(c) in letters for letters in known)
                   else plain.number(ord(c)) for c in text)


_place = None  # of size -> the part of a sheet that figures go to


@contextlib.contextmanager
def drawn_by(place):
    """Figures made in it are parts of sheets that `place` finds room on."""
    global _place
    _place = place
    try:
        yield
    finally:
        _place = None


def new(rows=1, columns=1, size=(10, 4.2), **arguments):
    if not _place:
        return plt.subplots(rows, columns, figsize=size, **arguments)
    part = _place(size)
    return part, part.subplots(rows, columns, **arguments)


PERCENT_TICKS = ([0, 25, 50, 75, 100], ["0 %", "25 %", "50 %", "75 %", "100 %"])


def percent_axis(axes, high=100):
    axes.grid(axis="y")
    axes.set_ylim(0, high)
    axes.set_yticks(*PERCENT_TICKS)


def size_axis(axes, sizes, most):
    """A place for each doubling; so many labels, or they would touch."""
    every = -(-len(sizes) // most)
    axes.set_xlim(-0.6, len(sizes) - 0.4)
    axes.set_xticks(range(0, len(sizes), every), [units.power(size) for size in sizes[::every]])
    axes.tick_params(axis="x", length=0)


def spread(positions, gap, low, high):
    """Moves label positions apart until neighbours are `gap` away, none further than it must and all
    within low..high: those that would touch lie around the middle of where they were."""
    order = sorted(range(len(positions)), key=lambda i: positions[i])
    groups = []  # [sum, count] of where the lowest of a group would have to be
    for rank, i in enumerate(order):
        groups.append([positions[i] - rank * gap, 1])
        while len(groups) > 1 and groups[-2][0] / groups[-2][1] > groups[-1][0] / groups[-1][1]:
            total, count = groups.pop()
            groups[-1][0] += total
            groups[-1][1] += count
    top = max(high - (len(order) - 1) * gap, low)
    lowest = [min(max(total / count, low), top) for total, count in groups for _ in range(count)]
    result = [0.0] * len(positions)
    for rank, i in enumerate(order):
        result[i] = lowest[rank] + rank * gap
    return result


def label_ends(axes, labels):
    """Names each line at its right end, beside a mark in its colour: as text that would be too faint.
    labels: (y in data units, text, colour)."""
    low, high = axes.get_ylim()
    height = axes.get_window_extent().height * 72 / axes.figure.dpi
    gap = (high - low) * 13 / height
    places = spread([y for y, _, _ in labels], gap, low + gap / 3, high)
    for (_, text, tint), y in zip(labels, places):
        axes.plot([1.02], [y], "s", ms=6.5, color=tint, clip_on=False,
                  transform=axes.get_yaxis_transform())
        axes.annotate(text, xy=(1.02, y), xycoords=("axes fraction", "data"), xytext=(7, 0),
                      textcoords="offset points", va="center", ha="left",
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
