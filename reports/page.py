# SPDX-License-Identifier: MIT
#
# The report as one HTML page that needs nothing else: text, tables and the figures as inline SVG.
# Called by report.py. Puts in order what words.py and the figure modules say; judges nothing.

import datetime
import html
import os
import re
import shlex

import figure_map
import plain
import style
import units
import words

FACTS = (("peak requested", "peak.requested_bytes", units.size, "at once, by the program"),
         ("peak mapped", "peak.mapped_bytes", units.size, "at once, by its heap"),
         ("peak resident", "peak.rss_bytes", units.size, "as the kernel counts"),
         ("returned", "returned_bytes", units.size, "to the kernel, in all"),
         ("allocator calls", "events.calls", units.count, "each one recorded"),
         ("system calls", "syscalls.total", units.count, "made by the allocator"))

CAPTIONS = {
    "memory": "Requested: bytes the program asked for and has not freed. Mapped: what the heap has "
              "from the kernel, metadata included. Resident: the whole process as the kernel "
              "counts it, with code and stacks, without heapledger's buffers. The dots are the "
              "peaks; shading shows the highest value within an interval.",
    "fragmentation": "Free bytes of the break and of arenas, by their pages: on one that is used, "
                     "which holds a block too, they cannot go back to the kernel, and pieces that "
                     "are too short serve no larger request, however much is free in all (shares "
                     "are drawn while a fiftieth of the most is free). The last curves say by "
                     "size how many blocks fewer fit into the free pieces than into one of the "
                     "same bytes. What caches hold is known at the end only, and counts as free "
                     "before.",
    "syscalls": "brk, mmap, munmap, mremap, madvise and mprotect as the allocator made them, each "
                "with its reason; calls which the recording itself made are left out.",
    "ledger": "Each mapped byte twice: by what it holds and by where it lies. Slack is headers and "
              "rounding of live blocks. Free memory is still mapped; whether it is resident is not "
              "said here.",
    "return": "The clock of a page starts when the last block on it is freed. A page that is used "
              "again can no longer go back, so the two curves add up to what became of all; one "
              "that was free at the end counts for as long as it was seen.",
}

MODES = {"allocator": "heapledger's own allocator served the program",
         "observe": "the program's own allocator, observed",
         "imported": "the log of another tool",
         "attached": "the process ran before, on its own allocator"}

# Of a process that was attached to, system calls and mappings are all of it, whoever made them.
ATTACHED_NOTES = {"peak.mapped_bytes": "private and anonymous, at once",
                  "events.calls": "since the attach", "syscalls.total": "for memory, by the process"}
ATTACHED_CAPTIONS = {
    "syscalls": "brk, mmap, munmap, mremap, madvise and mprotect of the process since it was "
                "attached to, as the kernel saw them.",
    "memory": "Mapped: private anonymous memory and the break, whoever in the process mapped it. "
              "Resident: the whole process as the kernel counts it.",
    "ledger": "Each mapped byte by where it lies: at the break, or in a mapping of any kind. What "
              "the allocator keeps in it is not known.",
}


def escape(text):
    return html.escape(plain.replaced(str(text)), quote=True)


def prose(text):
    """Escaped, and with no line broken between a number and its unit."""
    return re.sub(r"(?<=\d) (?=(?:%|B|[KMGT]iB|ns|µs|ms|s|min)(?!\w))", "&nbsp;", escape(text))


def render(analysis, modules):
    command = command_text(analysis)
    body = [header(analysis, command), facts(analysis), advice(analysis), found(analysis)]
    body += [figure_section(analysis, module) for module in modules]
    body += [phases(analysis), processes(analysis), method(analysis)]
    return (f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
            f'<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f'<meta name="generator" content="heapledger {escape(analysis.get("version", ""))}">\n'
            f"<title>heapledger: {escape(command)}</title>\n<style>{stylesheet()}</style>\n"
            f"</head>\n<body>\n<main>\n{''.join(body)}</main>\n</body>\n</html>\n")


def stylesheet():
    path = os.path.join(os.path.dirname(os.path.abspath(__file__)), "page.css")
    with open(path, encoding="utf-8") as file:
        text = file.read()
    return text.replace("/*light*/", style.css_variables(0)).replace(
        "/*dark*/", style.css_variables(1))


def command_text(analysis):
    """The command, or the file of an imported log."""
    command = analysis.get("command") or [analysis.get("imported.file", "unknown program")]
    return " ".join(shlex.quote(word) for word in command) or "unknown program"


def date_text(analysis):
    try:
        moment = datetime.datetime.fromisoformat(analysis.session["started"])
    except (KeyError, TypeError, ValueError):
        return "date not recorded"
    return moment.strftime("%-d %B %Y, %H:%M") + (" UTC" if moment.utcoffset() is not None else "")


def exit_text(analysis):
    status = analysis.get("exit")
    if not status:
        return "how it ended was not seen"
    if "signal" in status:
        return f"ended by signal {status['signal']}"
    return f"exit status {status.get('status')}"


def tunables_text(analysis):
    """Those that were set, in a list of one; an empty one if there are none."""
    values = analysis.get("tunables", {})
    given = [f"{name}={values.get(name)}" for name in analysis.get("tunables_set", [])]
    return ["tunables " + ", ".join(given)] if given else []


def header(analysis, command):
    kind, text = words.verdict(analysis)
    duration = analysis.get("duration_ns")
    details = [date_text(analysis),
               "times unknown" if duration is None else f"ran for {units.time(duration)}",
               exit_text(analysis)]
    mode = analysis.get("mode")
    details2 = [f"mode {mode}: {MODES.get(mode, 'see the manual')}"]
    if not analysis.observed:
        details2 += [f"policy {analysis.get('policy')}", f"rules of {analysis.get('model')}"]
    details2 += tunables_text(analysis)
    return (f'<header>\n<p class="brand">heapledger report</p>\n<h1>{escape(command)}</h1>\n'
            f'<p class="details">{escape(" · ".join(details))}<br>{escape(" · ".join(details2))}'
            f'</p>\n<p class="verdict {kind}">{escape(text)}</p>\n</header>\n')


def shown(analysis, form, value):
    """What cannot be known of an allocator that was observed is not just left unmeasured."""
    return "unknown" if value is None and analysis.observed else form(value)


def facts(analysis):
    cells = []
    for name, path, form, note in FACTS:
        value = analysis.get(path)
        exact = units.exact_size if form is units.size else units.count
        note = ATTACHED_NOTES.get(path, note) if analysis.attached else note
        if path.startswith("peak.") and len(analysis.get("processes", [])) > 1:
            note = "of the largest process"
        missing = ' class="missing"' if value is None else ""
        cells.append(f'<div><dt>{escape(name)}</dt><dd{missing} title="{escape(exact(value))}">'
                     f"{escape(shown(analysis, form, value))}</dd><p>{escape(note)}</p></div>\n")
    return f'<dl class="facts">\n{"".join(cells)}</dl>\n'


def advice(analysis):
    """The analyzer's findings (docs/findings.md), the largest first."""
    items = "".join(
        f"<li><p>{prose(finding['sentence'])}</p>"
        + (f"<p class=\"remedy\">{prose(finding['remedy'])}</p>" if finding["remedy"] else "")
        + "</li>\n" for finding in analysis.get("findings", []))
    if not items:
        return ""
    of = f", process {escape(analysis.get('main_stream'))}" if len(
        analysis.get("processes", [])) > 1 else ""
    return (f"<section>\n<h2>What to make of it</h2>\n<p>The heap at its end{of}; the largest part "
            f'first.</p>\n<ol class="advice">\n{items}</ol>\n</section>\n')


def found(analysis):
    items = "".join(f'<li class="{f.kind}"><h3>{escape(f.title)}</h3><p>{prose(f.text)}</p></li>\n'
                    for f in words.findings(analysis))
    return (f"<section>\n<h2>What was found</h2>\n<p>{prose(words.summary(analysis))}</p>\n"
            f'<ul class="found">\n{items}</ul>\n</section>\n')


def figure_section(analysis, module):
    figure = module.draw(analysis)
    if figure is None:
        inner = '<p class="missing">Nothing of this kind was measured in this run.</p>\n'
    else:
        drawing = style.inline_svg(figure, escape(f"{module.TITLE}: {style.titles(figure)}"))
        inner = (f'<figure>\n<div class="wide">{drawing}</div>\n'
                 f"<figcaption>{escape(caption(analysis, module.NAME))}</figcaption>\n</figure>\n")
        style.close(figure)
    table = {"syscalls": syscall_table, "ledger": ledger_table}.get(module.NAME)
    extra = table(analysis) if table and figure is not None else ""
    return (f"<section>\n<h2>{escape(module.TITLE)}</h2>\n{scope(analysis, module)}{inner}{extra}"
            f"</section>\n")


def caption(analysis, name):
    if name == "map":
        return figure_map.caption(analysis)
    return (ATTACHED_CAPTIONS if analysis.attached else {}).get(name, CAPTIONS[name])


def scope(analysis, module):
    """Which process a figure is about, when there is a choice."""
    streams = analysis.get("processes", [])
    if len(streams) < 2:
        return ""
    if module.NAME in ("syscalls", "return"):
        text = f"All {len(streams)} processes together."
    else:
        text = f"The process with the largest heap: {main_process(analysis)}."
    return f'<p class="scope">{escape(text)}</p>\n'


def main_process(analysis):
    for stream in analysis.get("processes", []):
        if stream.get("stream") == analysis.get("main_stream"):
            return f"{process_command(stream)} (pid {stream.get('pid')})"
    return analysis.get("main_stream", "unknown")


def process_command(stream):
    value = stream.get("command")
    return " ".join(value) if isinstance(value, list) else str(value)


def shorten(text, limit=90):
    return text if len(text) <= limit else text[:limit - 1] + "…"


def table(heads, rows, foot=None):
    """heads: (text, is a number)."""
    def line(cells, tag):
        return "<tr>" + "".join(
            f'<{tag}{" class=n" if number else ""}>{escape(cell)}</{tag}>'
            for cell, (_, number) in zip(cells, heads)) + "</tr>\n"
    head = line([text for text, _ in heads], "th")
    tail = f"<tfoot>\n{line(foot, 'td')}</tfoot>\n" if foot else ""
    return (f'<div class="wide"><table>\n<thead>\n{head}</thead>\n<tbody>\n'
            f'{"".join(line(row, "td") for row in rows)}</tbody>\n{tail}</table></div>\n')


def syscall_table(analysis):
    rows = [(row["syscall"], row["reason_text"], row.get("call") or "–", units.count(row["count"]),
             units.size(row.get("bytes")), units.time(row.get("time_ns")),
             units.count(row.get("failed"))) for row in words.causes(analysis)]
    heads = (("system call", False), ("because", False), ("during", False), ("calls", True),
             ("memory", True), ("time", True), ("failed", True))
    foot = ("all", "", "", units.count(analysis.get("syscalls.total")), "",
            units.time(analysis.get("syscalls.time_ns")), "")
    return table(heads, rows, foot)


LEDGER_ROWS = (("requested", "requested_bytes"), ("slack (headers, rounding)", "slack_bytes"),
               ("free, still mapped", "free_bytes"), ("metadata", "metadata_bytes"),
               ("mapped", "mapped_bytes"), ("of it at the break", "break_bytes"),
               ("of it in arenas", "arena_bytes"), ("of it in mapped blocks", "block_bytes"),
               ("reserved, not accessible", "reserved_bytes"))


def ledger_table(analysis):
    moments = [("at the peak", analysis.get("peak.at_mapped", {})),
               ("at the end", analysis.get("end", {}))]
    rows = []
    for text, key in LEDGER_ROWS:
        cells = [text]
        for _, ledger in moments:
            value, mapped = ledger.get(key), ledger.get("mapped_bytes")
            part = "" if key == "reserved_bytes" or not mapped else units.share_text(value, mapped)
            cells += [shown(analysis, units.count, value), part if value is not None else ""]
        rows.append(cells)
    blocks = ["live blocks"]
    for _, ledger in moments:
        blocks += [units.count(ledger.get("live_blocks")), ""]
    heads = [("bytes", False)]
    for text, _ in moments:
        heads += [(text, True), ("of mapped", True)]
    return table(heads, rows + [blocks])


PHASES_SHOWN = 200


def phases(analysis):
    every = analysis.get("phases", [])
    if not every:
        return ""
    rows = []
    for number, phase in enumerate(every[:PHASES_SHOWN], 1):
        inner = lambda *path: dig(phase, path)
        rows.append((str(number), phase_name(phase.get("name")),
                     units.time(phase["start_ns"]), units.time(phase["end_ns"] - phase["start_ns"]),
                     units.count(phase.get("calls")), units.count(inner("syscalls", "total")),
                     units.size(inner("peak", "requested_bytes")),
                     units.size(inner("peak", "mapped_bytes")),
                     units.size(inner("peak", "rss_bytes")),
                     units.size(inner("end", "requested_bytes"))))
    heads = (("", True), ("phase", False), ("begins", True), ("lasts", True), ("calls", True),
             ("system calls", True), ("requested", True), ("mapped", True), ("resident", True),
             ("requested at its end", True))
    rest = len(every) - len(rows) + analysis.get("phases_beyond", 0)
    note = f"<p>{rest:,} more phases are not listed.</p>\n" if rest else ""
    of = (f" Those of {escape(main_process(analysis))}."
          if len(analysis.get("processes", [])) > 1 else "")
    return (f"<section>\n<h2>Phases</h2>\n<p>Memory columns are the highest in each phase. The "
            f"numbers are those of the dashed lines in the figures, where a phase begins.{of}</p>"
            f"\n{table(heads, rows)}{note}</section>\n")


def phase_name(name):
    return "before the first mark" if name is None else name


def processes(analysis):
    streams = analysis.get("processes", [])
    if len(streams) < 2:
        return ""
    rows = []
    for stream in streams[:200]:
        inner = lambda *path: dig(stream, path)
        rows.append((str(stream.get("pid")), shorten(process_command(stream)),
                     units.count(inner("events", "calls")), units.count(inner("syscalls", "total")),
                     units.size(inner("peak", "requested_bytes")),
                     units.size(inner("peak", "mapped_bytes")),
                     units.size(inner("peak", "rss_bytes")),
                     "yes" if stream.get("complete") is True else "no"))
    heads = (("pid", True), ("command", False), ("calls", True), ("system calls", True),
             ("requested", True), ("mapped", True), ("resident", True), ("complete", False))
    rest = len(streams) - len(rows)
    note = f"<p>{rest:,} more processes are not listed.</p>\n" if rest else ""
    return (f"<section>\n<h2>All {len(streams):,} processes</h2>\n"
            f"<p>Memory columns are the highest of each process.</p>\n"
            f"{table(heads, rows)}{note}</section>\n")


def dig(value, path):
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def method(analysis):
    ratios = []
    for name in ("mapped", "resident"):
        values = analysis.get(f"fragmentation.{name}", {})
        ratios.append((name, *(units.percent(values.get(key)) for key in (
            "mean", "at_peak_live", f"at_peak_{name}", "peaks"))))
    heads = (("memory above the live requested bytes", False), ("mean", True),
             ("when most was live", True), ("when most was held", True),
             ("peak against peak", True))
    return (f"<section>\n<h2>Fragmentation</h2>\n{table(heads, ratios)}"
            f"<p>The four measures of Johnstone and Wilson (1998), over the byte clock.</p>\n"
            f"</section>\n<footer><p>Made by heapledger {escape(analysis.get('version', ''))} from "
            f"{units.count(analysis.get('events.total'))} recorded events. Counts are exact; "
            f"resident memory is sampled. “Not measured” means just that. Sizes are in "
            f"binary units (1 MiB = 1,048,576 bytes).</p></footer>\n")
