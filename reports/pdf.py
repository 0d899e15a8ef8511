# SPDX-License-Identifier: MIT
#
# The report as a PDF: the words, tables and figures of the page, on sheets with the shape of A4.
# Called by report.py; what it says is content.py's. A sheet is as wide as a figure is drawn, so its
# text is large, and as large as in the figures once it is printed on A4.

import functools
import math

from matplotlib.backends.backend_pdf import PdfPages
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import text_to_path

import content
import figure_flame
import figure_overview
import overview
import plain
import style
import words
from blocks import Bars, Drawing, Findings, Flame, Table, Text, Unfolding

WIDTH, MARGIN = 11.0, 0.5                  # inches
HEIGHT = WIDTH * math.sqrt(2)
BODY, SMALL = 12, 10.5                                  # points
LEAD = 1.35                                # of a line, in sizes of its text
GAP = 0.18                                 # inches between columns


@functools.lru_cache(maxsize=None)
def _font(size, bold, mono):
    return FontProperties(family=style.families(mono), size=size,
                          weight="bold" if bold else "normal")


@functools.lru_cache(maxsize=20_000)
def _width(text, size, bold=False, mono=False):
    """Inches."""
    return text_to_path.get_text_width_height_descent(
        text, _font(size, bold, mono), False)[0] / 72 if text else 0.0


def _pieces(word, room, *font):
    """A word that no line has room for, in parts of a line each."""
    while len(word) > 1 and _width(word, *font) > room:
        fit = max(1, int(len(word) * room / _width(word, *font)))
        while fit > 1 and _width(word[:fit], *font) > room:
            fit -= 1
        yield word[:fit]
        word = word[fit:]
    yield word


def wrapped(text, room, *font):
    """Lines of at most `room` inches."""
    room += 1e-6  # what was made to fit does
    lines, line, used = [], [], 0.0
    space = _width("m m", *font) - 2 * _width("m", *font)
    for word in text.split():
        for piece in _pieces(word, room, *font):
            wide = _width(piece, *font)
            if line and used + space + wide > room:
                lines.append(" ".join(line))
                line, used = [], 0.0
            used += wide + (space if line else 0)
            line.append(piece)
    return lines + [" ".join(line)] if line else lines or [""]


class Sheets:
    """Sheets that are filled from the top; what has no room begins the next one."""

    def __init__(self, file):
        self.file, self.sheet, self.number = file, None, 0

    def _begin(self):
        self.end()
        self.sheet = style.plt.figure(figsize=(WIDTH, HEIGHT))
        self.number += 1
        self.y = MARGIN  # inches from the top
        self.put(WIDTH - MARGIN, HEIGHT - 0.5 * MARGIN, str(self.number), 9, colour="quiet",
                 align="right")

    def end(self):
        if self.sheet:
            self.file.savefig(self.sheet)
            style.close(self.sheet)
        self.sheet = None

    def need(self, height):
        if not self.sheet or self.y + height > HEIGHT - MARGIN:
            self._begin()

    def put(self, x, y, text, size, bold=False, mono=False, colour="ink", align="left"):
        self.sheet.text(x / WIDTH, 1 - y / HEIGHT, text, fontproperties=_font(size, bold, mono),
                        color=style.colour(colour), ha=align, va="top", parse_math=False)

    def text(self, text, size=BODY, bold=False, mono=False, colour="ink", indent=0.0, after=0.08):
        step = size * LEAD / 72
        text = style.legible(plain.replaced(text), mono)
        for line in wrapped(text, WIDTH - 2 * MARGIN - indent, size, bold, mono):
            self.need(step)
            self.put(MARGIN + indent, self.y, line, size, bold, mono, colour)
            self.y += step
        self.y += after

    def heading(self, text, follows=0.7):
        """follows: inches of what it must not be parted from."""
        if self.sheet and self.y > MARGIN:
            self.y += 0.25
        self.need(0.5 + follows)
        self.text(text, 16, bold=True)

    def place(self, size):
        """Room for a figure, as part of the sheet: called by style.new."""
        wide, high = size
        self.need(high)
        rows = max(self.y, 1e-3), high, max(HEIGHT - self.y - high, 1e-3)
        columns = MARGIN, wide, max(WIDTH - MARGIN - wide, 1e-3)
        grid = self.sheet.add_gridspec(3, 3, width_ratios=columns, height_ratios=rows, hspace=0,
                                       wspace=0)
        self.y += high + 0.08
        part = self.sheet.add_subfigure(grid[1, 1])
        part.patch.set_alpha(0)
        return part

    def table(self, block):
        rows = [[style.legible(plain.replaced(cell)) for cell in row] for row in block.rows]
        foot = [list(block.foot)] if block.foot else []
        columns = _columns(block.heads, rows + foot)
        names = [name for name, _ in block.heads]
        self.row(block.heads, names, columns, bold=True, colour="quiet", keep=0.5)
        for row in rows:
            if self.row(block.heads, row, columns, dry=True):
                self._begin()
                self.row(block.heads, names, columns, bold=True, colour="quiet")
            self.row(block.heads, row, columns)
        for row in foot:
            self.row(block.heads, row, columns, bold=True)
        self.y += 0.12

    def row(self, heads, cells, columns, bold=False, colour="ink", dry=False, keep=0.0):
        lines = [wrapped(cell, wide - GAP, SMALL, bold) for cell, wide in zip(cells, columns)]
        step = SMALL * LEAD / 72
        high = step * max(map(len, lines)) + 0.07
        if dry:
            return self.y + high > HEIGHT - MARGIN
        self.need(high + keep)
        x = MARGIN
        for (_, number), column, wide in zip(heads, lines, columns):
            for at, line in enumerate(column):
                self.put(x + (wide - GAP if number else 0), self.y + at * step, line, SMALL, bold,
                         colour=colour, align="right" if number else "left")
            x += wide
        self.y += high
        return False


def _columns(heads, rows):
    """Widths: what each needs; where that is too much, heads of numbers are broken between words, and
    then the widest columns give way."""
    def needs(heads_of):
        return [max(_width(text, SMALL, True) for text in heads_of(*head) + [row[at] for row in rows])
                + GAP for at, head in enumerate(heads)]
    need, room = needs(lambda name, _: [name]), WIDTH - 2 * MARGIN
    if sum(need) > room:
        need = needs(lambda name, number: name.split() if number else [name])
    over = sum(need) - room
    while over > 0.001:
        most = max(need)
        widest = [at for at, wide in enumerate(need) if wide > most - 0.01]
        second = max([wide for wide in need if wide <= most - 0.01], default=0)
        cut = min(over / len(widest), max(most - second, 0.05))
        for at in widest:
            need[at] -= cut
        over -= cut * len(widest)
    return need


# ---- what it says --------------------------------------------------------------------------------

def _first(sheets, analysis):
    kind, text = content.verdict(analysis)
    sheets.text("heapledger report", bold=True, colour="quiet", after=0.03)
    sheets.text(content.command_text(analysis), 18, bold=True, mono=True)
    for line in content.details(analysis):
        sheets.text(line, SMALL, colour="quiet", after=0)
    sheets.y += 0.1
    sheets.text(text, bold=True, colour="alarm" if kind == "bad" else "ink")
    first = words.findings(analysis)[0]
    sheets.heading(first.title)
    _finding(sheets, first)
    about = words.about_heap(analysis)
    if about:
        sheets.text(about, SMALL, colour="quiet")
    sheets.y += 0.1
    facts = content.facts(analysis)
    sheets.table(Table([(name, False) for name, *_ in facts],
                               [[value for _, value, *_ in facts],
                                [note for *_, note, _ in facts]]))
    bars = overview.bars(analysis)
    sheets.heading("What the heap holds, and resident memory over time")
    resident = overview.Resident(analysis)
    with style.drawn_by(sheets.place):
        figure_overview.draw(bars, resident)
    sheets.text(resident.sentence())
    if bars:
        _keys(sheets, bars)


def _least(section):
    """Inches up to the end of a section's figure, if it has one."""
    for number, block in enumerate(section.blocks):
        if isinstance(block, Drawing):
            return block.figure.get_size_inches()[1] + 0.4 * number
    return 0.7


def _keys(sheets, bars):
    """The rows of the bars, each beside its colour."""
    names = overview.row_names(bars)
    heads = [("", False), ("bytes", False)] + [(bar.heading.lower(), True) for bar in bars]
    columns = [0.25, 3.0] + [2.0] * len(bars)
    sheets.row(heads, [name for name, _ in heads], columns, bold=True, colour="quiet",
               keep=0.3 * len(names))
    for colour, name in names:
        sheets.put(MARGIN, sheets.y - 0.02, "■", 11, colour=colour)
        sheets.row(heads, ["", name, *(bar.value(name) for bar in bars)], columns)


def _finding(sheets, finding):
    sheets.text(finding.text, after=0.02)
    if finding.remedy:
        sheets.text(finding.remedy, bold=True)


def _findings(sheets, block, _):
    for number, finding in enumerate(block.items, block.first):
        sheets.need(0.8)
        sheets.text(f"{number}. {finding.title}", bold=True, after=0.02)
        _finding(sheets, finding)
        sheets.y += 0.08


def _text(sheets, block, _):
    sheets.text(block.text, colour="quiet" if block.kind else "ink")


def _drawing(sheets, block, analysis):
    with style.drawn_by(sheets.place):
        block.module.draw(analysis)
    sheets.text(block.caption, SMALL, colour="quiet")


def _table(sheets, block, _):
    sheets.table(block)


def _unfolding(sheets, block, _):
    """The stacks follow the table, by the number of the row."""
    numbers = block.numbers or range(1, len(block.stacks) + 1)
    heads = (("no.", True), *block.table.heads)
    sheets.text(block.title, bold=True)
    sheets.table(Table(heads, [(str(number), *row)
                               for number, row in zip(numbers, block.table.rows)]))
    for number, stack in zip(numbers, block.stacks):
        if stack:
            sheets.text(f"{number}: " + " ← ".join(stack), SMALL, colour="quiet")


def _bars(sheets, block, _):
    sheets.text(block.title, bold=True)
    sheets.table(Table((("place", False), ("how much", True)),
                               [(name, value) for name, value, _ in block.rows]))


def _flame(sheets, block, _):
    sheets.need(0.5 + figure_flame.ROW * block.flame.depth)
    sheets.text(block.flame.heading, bold=True, after=0)
    with style.drawn_by(sheets.place):
        figure_flame.draw(block.flame)
    sheets.text(block.flame.sentence(), SMALL, colour="quiet")


BLOCKS = {Text: _text, Findings: _findings, Drawing: _drawing,
          Table: _table, Flame: _flame, Bars: _bars, Unfolding: _unfolding}


def write(analysis, sections, path, mark):
    """mark: goes after the end, where a comment may stand."""
    command = plain.replaced(content.command_text(analysis))
    creator = f"heapledger {analysis.get('version', '')}"
    with PdfPages(path, metadata={"Title": f"heapledger: {command}", "Creator": creator,
                                  "CreationDate": None}) as file:
        sheets = Sheets(file)
        _first(sheets, analysis)
        for section in sections:
            sheets.heading(section.title, _least(section))
            for block in section.blocks:
                BLOCKS[type(block)](sheets, block, analysis)
        sheets.end()
    with open(path, "ab") as file:
        file.write(mark)
