# SPDX-License-Identifier: MIT
#
# The report as one HTML page that needs nothing else: text, tables and the figures as inline SVG.
# Called by report.py; what it says is content.py's. The first screen is drawn here, of boxes and
# lines that keep their place at any width.

import html
import os
import re
import zlib

import blocks
import content
import overview
import plain
import style
import units
import words


def escape(text):
    return html.escape(plain.replaced(str(text)), quote=True)


def prose(text):
    """Escaped, and with no line broken between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:%|B|[KMGT]iB|ns|µs|ms|s|min)(?!\w))", "&nbsp;", escape(text))


def render(analysis, sections):
    command = content.command_text(analysis)
    body = header(analysis, command) + first_screen(analysis)
    body += "".join(section_html(section) for section in sections)
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="generator" content="heapledger {escape(analysis.get("version", ""))}">\n'
            f"<title>heapledger: {escape(command)}</title>\n<style>{stylesheet()}</style>\n"
            f"</head>\n<body>\n<main>\n{body}</main>\n</body>\n</html>\n")


def stylesheet():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.css")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    return text.replace("/*light*/", style.css_variables(0)).replace(
        "/*dark*/", style.css_variables(1))


def header(analysis, command):
    kind, text = content.verdict(analysis)
    details = "<br>".join(prose(line) for line in content.details(analysis))
    return (f'<header>\n<p class="brand">heapledger report</p>\n<h1>{escape(command)}</h1>\n'
            f'<p class="details">{details}</p>\n<p class="verdict {kind}">{escape(text)}</p>\n'
            f"</header>\n")


# ---- the first screen ----------------------------------------------------------------------------

def first_screen(analysis):
    first = words.findings(analysis)[0]
    scope = words.about_heap(analysis)
    scope = f'<p class="scope">{prose(scope)}</p>\n' if scope else ""
    return (f'<section class="lead {first.kind}">\n<h2>{escape(first.title)}</h2>\n'
            f"{finding_text(first)}{scope}</section>\n{facts(analysis)}"
            f'<div class="glance">\n{ledger_bars(analysis)}{resident(analysis)}</div>\n')


def facts(analysis):
    cells = "".join(
        f'<div><dt>{escape(name)}</dt><dd{"" if known else missing} title="{escape(exact)}">'
        f"{escape(value)}</dd><dd class=\"note\">{escape(note)}</dd></div>\n"
        for missing in (' class="missing"',)
        for name, value, exact, note, known in content.facts(analysis))
    return f'<dl class="facts">\n{cells}</dl>\n'


def ledger_bars(analysis):
    shown = overview.bars(analysis)
    head = "<section>\n<h2>What the heap holds</h2>\n"
    if not shown:
        text = ("It held nothing." if analysis.get("peak.mapped_bytes") == 0
                else "What the heap held was not measured.")
        return f'{head}<p class="missing">{text}</p>\n</section>\n'
    most = max(bar.mapped for bar in shown)
    drawn = "".join(
        f'<p class="moment">{prose(bar.title())}</p>\n<div class="bar" role="img" '
        f'aria-label="{escape(bar.sentence())}" style="width:{100 * bar.mapped / most:.3f}%">'
        + "".join(f'<i style="flex-grow:{value};background:var(--{colour})" '
                  f'title="{escape(f"{name} {units.size(value)}")}"></i>'
                  for colour, name, value in bar.rows) + "</div>\n" for bar in shown)
    rows = "".join(
        f'<tr><th scope="row"><i class="key" style="background:var(--{colour})"></i>{escape(name)}'
        "</th>" + "".join(f"<td class=n>{prose(bar.value(name))}</td>"
                          for bar in shown) + "</tr>\n"
        for colour, name in overview.row_names(shown))
    heads = "".join(f'<th scope="col" class=n>{escape(bar.heading.lower())}</th>' for bar in shown)
    return (f'{head}{drawn}<table class="keys">\n<thead>\n<tr><th scope="col">bytes</th>{heads}'
            f"</tr>\n</thead>\n<tbody>\n{rows}</tbody>\n</table>\n</section>\n")


WIDE, HIGH = 1000, 300  # of a drawing that is stretched to its place


def resident(analysis):
    data = overview.Resident(analysis)
    head = "<section>\n<h2>Resident memory over time</h2>\n"
    if not data.points:
        return f'{head}<p class="missing">{escape(data.sentence())}</p>\n</section>\n'
    most, start, span = max(data.largest, 1), data.start_ns, max(data.end_ns - data.start_ns, 1)

    def line(points):
        points = points * 2 if len(points) == 1 else points  # else a dot would not be drawn
        return " ".join(f"{WIDE * (moment - start) / span:.1f},{HIGH - HIGH * value / most:.1f}"
                        for moment, value in points)
    path = line(data.points)
    kind = "resident single" if len(data.points) == 1 else "resident"
    left, right = (path.split(" ")[at].split(",")[0] for at in (0, -1))
    drawn = (f'<polygon points="{left},{HIGH} {path} {right},{HIGH}"/>'
             + (f'<polyline class="mapped" points="{line(data.mapped)}"/>' if data.mapped else "")
             + f'<polyline class="{kind}" points="{path}"/>')
    keys = '<i class="key resident"></i>resident' + (
        '&emsp;<i class="key mapped"></i>mapped' if data.mapped else "")
    return (f'{head}<p>{prose(data.sentence())}</p>\n<p class="axis"><span>'
            f'{prose(units.size(most))}</span><span>{keys}</span></p>\n'
            f'<svg class="spark" viewBox="0 0 {WIDE} {HIGH}" preserveAspectRatio="none" role="img" '
            f'aria-label="{escape("Resident memory over time. " + data.sentence())}">{drawn}</svg>\n'
            f'<p class="axis"><span>{prose(units.time(start))}</span><span>'
            f"{prose(units.time(data.end_ns))}</span></p>\n</section>\n")


# ---- sections ------------------------------------------------------------------------------------

def section_html(section):
    blocks = "".join(BLOCKS[type(block)](block) for block in section.blocks)
    return f"<section>\n<h2>{escape(section.title)}</h2>\n{blocks}</section>\n"


def text(block):
    kind = f' class="{block.kind}"' if block.kind else ""
    return f"<p{kind}>{prose(block.text)}</p>\n"


def finding_text(finding):
    remedy = f'<p class="remedy">{prose(finding.remedy)}</p>' if finding.remedy else ""
    return f"<p>{prose(finding.text)}</p>{remedy}\n"


def findings(block):
    items = "".join(f'<li class="{one.kind}"><h3>{escape(one.title)}</h3>{finding_text(one)}</li>\n'
                    for one in block.items)
    return f'<ol class="found" start="{block.first}">\n{items}</ol>\n'


def drawing(block):
    said = escape(f"{block.module.TITLE}: {style.titles(block.figure)}")
    return (f'<figure>\n<div class="wide" tabindex="0">{style.inline_svg(block.figure, said)}</div>\n'
            f"<figcaption>{prose(block.caption)}</figcaption>\n</figure>\n")


def table(block):
    def line(cells, tag):
        return "<tr>" + "".join(
            f'<{tag}{" class=n" if number else ""}>{escape(cell)}</{tag.split(" ")[0]}>'
            for cell, (_, number) in zip(cells, block.heads)) + "</tr>\n"
    head = line([name for name, _ in block.heads], 'th scope="col"')
    tail = f"<tfoot>\n{line(block.foot, 'td')}</tfoot>\n" if block.foot else ""
    return (f'<div class="wide" tabindex="0"><table>\n<thead>\n{head}</thead>\n<tbody>\n'
            f'{"".join(line(row, "td") for row in block.rows)}</tbody>\n{tail}</table></div>\n')


def unfolding(block):
    """A table whose first cells, but for numbers, unfold to the stack."""
    numbers = block.numbers or [None] * len(block.stacks)
    rows = "".join(
        "<tr>" + (f"<td class=n>{number}</td>" if block.numbers else "")
        + "<td>" + (_unfolding(row[0], stack) if stack else escape(row[0])) + "</td>"
        + "".join(f"<td class=n>{escape(cell)}</td>" for cell in row[1:]) + "</tr>\n"
        for number, row, stack in zip(numbers, block.table.rows, block.stacks))
    heads = (("no.", True),) * bool(block.numbers) + block.table.heads
    names = "".join(f'<th scope="col"{" class=n" if number else ""}>{escape(name)}</th>'
                    for name, number in heads)
    return (f'<h3>{escape(block.title)}</h3>\n<div class="wide" tabindex="0"><table class="pins">\n'
            f"<thead>\n<tr>{names}</tr>\n</thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n")


def _unfolding(name, stack):
    frames = "".join(f"<li>{escape(frame)}</li>" for frame in stack)
    return f"<details><summary>{escape(name)}</summary><ol>{frames}</ol></details>"


def bars(block):
    rows = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td class=n>{prose(value)}</td>'
        f'<td><i class="share" style="width:{100 * part:.2f}%;background:var(--{block.colour})"></i>'
        "</td></tr>\n" for name, value, part in block.rows)
    return (f'<h3>{escape(block.title)}</h3>\n<div class="wide" tabindex="0"><table class="places">\n'
            '<thead><tr><th scope="col">place</th><th scope="col" class=n>how much</th>'
            f'<th scope="col">share</th></tr></thead>\n<tbody>\n{rows}</tbody>\n</table></div>\n')


ROW, LETTER = 18, 6.7  # of a flame graph: pixels, at its own size


def flame(block):
    graph = block.flame
    drawn = "".join(_box(graph, box) for box in graph.boxes)
    return (f'<h3>{escape(graph.heading)}</h3>\n<div class="wide" tabindex="0"><svg class="flame" '
            f'viewBox="0 0 {WIDE} {ROW * graph.depth}" role="img" '
            f'aria-label="{escape(graph.sentence())}">{drawn}</svg></div>\n')


def _box(graph, box):
    left, wide = (WIDE * value / graph.total for value in (box.start, box.value))
    top, room = ROW * box.depth, int((wide - 6) / LETTER)
    name = f"{box.name} {graph.form(box.value)}" if room > len(box.name) + 12 else box.name
    shown = name if len(name) <= room else name[:max(room - 1, 0)] + "…"
    said = (f'<text x="{left + 4:.1f}" y="{top + 13}">{escape(shown)}</text>' if room > 3 else "")
    strength = 0.16 + 0.06 * (zlib.crc32(box.name.encode()) % 4)
    return (f'<g><title>{escape(graph.said(box))}</title><rect x="{left:.2f}" y="{top}" '
            f'width="{wide:.2f}" height="{ROW - 1}" fill="var(--{graph.colour})" '
            f'fill-opacity="{strength:.2f}" stroke="var(--{graph.colour})"/>{said}</g>')


BLOCKS = {blocks.Text: text, blocks.Findings: findings, blocks.Drawing: drawing,
          blocks.Table: table, blocks.Flame: flame, blocks.Bars: bars,
          blocks.Unfolding: unfolding}
