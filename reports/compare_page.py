# SPDX-License-Identifier: MIT
#
# `compare --html`: the table of all variants, and of the policies what lay at which address, side
# by side and on one scale, as a page that needs nothing else. Maps are of the first recorded run.

import shlex

import style  # the first of those that need matplotlib: it says what is missing
import compare_table
import figure_map
import page
import units
from blocks import Table

MARK = b'name="generator" content="heapledger compare'


def render(words, rounds, results, notes):
    style.setup()
    command = page.escape(" ".join(map(shlex.quote, words)))
    version = page.escape(results[0].analysis.get("version", ""))
    body = [f'<header>\n<p class="brand">heapledger compare</p>\n<h1>{command}</h1>\n'
            f'<p class="details">{_rounds(rounds)}</p>\n</header>\n',
            _table(results, *compare_table.BARE), _table(results, *compare_table.RECORDED),
            *(f"<p>{page.escape(line)}</p>\n" for line in notes if line.strip()), _maps(results)]
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="generator" content="heapledger compare {version}">\n'
            f"<title>heapledger compare: {command}</title>\n<style>{page.stylesheet()}</style>\n"
            f"</head>\n<body>\n<main>\n{''.join(body)}</main>\n</body>\n</html>\n")


def _rounds(rounds):
    runs = units.counted(rounds, "run")
    return f"{runs} of each, by turns: median (lowest-highest)" if rounds > 1 else f"{runs} of each"


def _table(results, title, rows):
    heads = [("", False)] + [(result.variant.name, True) for result in results]
    lines = []
    for name, label in rows:
        unit, cells = compare_table.cells(name, results)
        lines.append([f"{label}, {unit}" if unit else label, *cells])
    return f"<section>\n<h2>{title}</h2>\n{page.table(Table(heads, lines))}</section>\n"


def _maps(results):
    inside = [result for result in results if not result.analysis.observed]
    parts = []
    for result, figure in zip(inside, figure_map.beside([row.analysis for row in inside])):
        if figure is None:
            inner = '<p class="missing">It had neither a break nor an arena.</p>\n'
        else:
            inner = style.inline_svg(figure, page.escape(
                f"{figure_map.TITLE}, {result.variant.name}: {style.titles(figure)}"))
            style.close(figure)
            regions = len(figure_map.used(result.analysis))
            if regions > figure_map.BESIDE_DRAWN:
                inner += (f'<p class="scope">The largest {figure_map.BESIDE_DRAWN} of break and '
                          f"arenas, of {regions}.</p>\n")
        name = page.escape(result.variant.name)
        parts.append(f"<figure>\n<h3>{name}</h3>\n{inner}</figure>\n")
    note = (f"{figure_map.CAPTION} All are on one scale, and of the first recorded run, whose time "
            "is the recorder's too.") if inside else ""
    for result in results:
        if result.analysis.observed:
            note += f" What {result.variant.name} holds at which address is not known."
    return (f'<section>\n<h2>{figure_map.TITLE}</h2>\n<div class="maps">\n{"".join(parts)}</div>\n'
            f'<p class="scope">{page.escape(note)}</p>\n</section>\n')
