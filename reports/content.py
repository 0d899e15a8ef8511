# SPDX-License-Identifier: MIT
#
# What a report says and in what order, as sections of plain blocks: page.py makes HTML of them and
# pdf.py pages. Puts in order what words.py, overview.py and the figure modules say; judges nothing.

import datetime
import shlex

import figure_map
import figure_memory
import flame
import how
import pins
import places
import units
import words
from blocks import Bars, Drawing, Findings, Flame, Section, Table, Text

NOTHING = "Nothing of this kind was measured in this run."

FACTS = (("peak requested", "peak.requested_bytes", units.size, "at once, by the program"),
         ("peak mapped", "peak.mapped_bytes", units.size, "at once, by its heap"),
         ("peak resident", "peak.rss_bytes", units.size, "as the kernel counts"),
         ("returned", "returned_bytes", units.size, "to the kernel, in all"),
         ("allocator calls", "events.calls", units.count, "counted, not sampled"),
         ("system calls", "syscalls.total", units.count, "made by the allocator"))

CAPTIONS = {
    "fragmentation": "Free bytes of the break and of arenas, by their pages: on one that is used, "
                     "which holds a block too, they cannot go back to the kernel, and pieces that "
                     "are too short serve no larger request, however much is free in all (shares "
                     "are drawn while a fiftieth of the most is free). The last curves say by "
                     "size how many blocks fewer fit into the free pieces than into one of the "
                     "same bytes. Where it is not known what caches hold, that counts as free, too.",
    "syscalls": "brk, mmap, munmap, mremap, madvise and mprotect as the allocator made them, each "
                "with its reason; calls which the recording itself made are left out.",
    "ledger": "Each mapped byte twice: by what it holds and by where it lies. Slack is headers and "
              "rounding of live blocks. Free memory is still mapped; whether it is resident is not "
              "said here.",
    "sizes": "One column for each doubling of what was asked for, the same in all three views. "
             "Above: how many allocations, and how many of the bytes. In the middle: what was live "
             "when the most was mapped, and its slack, headers and rounding, with its share of what "
             "such blocks take. Below, from the bottom up, how long blocks lived, by the bytes that "
             "were allocated from their allocation to their free: the stronger the colour, the more "
             "of this size; at the top, apart, what was not freed. A resized block lives on. The "
             "curve at the right has all sizes together.",
    "return": "The share of freed pages that went back, or was used again, within a time. The clock of "
              "a page starts when the last block on it is freed. A page that is used again can no "
              "longer go back, so the two curves add up to what became of all; one that was free at "
              "the end counts for as long as it was seen. Below, in the same "
              "colours, the pages that blocks of each size were the last to leave: how soon, and how "
              "it was at the end.",
}

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
    given = [f"{name}={values.get(name)}" for name in how.names(analysis) or []]
    return ["tunables " + ", ".join(given)] if given else []


def verdict(analysis):
    """(kind, text): how far the figures can be trusted."""
    return words.verdict(analysis)


def details(analysis):
    """Two lines: of the run, and of how it was recorded."""
    duration, mode = analysis.get("duration_ns"), analysis.get("mode")
    run = [date_text(analysis),
           "times unknown" if duration is None else f"ran for {units.time(duration)}",
           exit_text(analysis)]
    made = [f"mode {mode}: {how.mode_text(analysis)}"]
    if not analysis.observed:
        made += [f"policy {analysis.get('policy')}", f"rules of {analysis.get('model')}"]
    return [" · ".join(run), " · ".join(made + tunables_text(analysis))]


def shown(analysis, form, value):
    """What cannot be known of an allocator that was observed is not just left unmeasured."""
    return "unknown" if value is None and analysis.observed else form(value)


def facts(analysis):
    """(name, value as text, exact value, note, whether it was measured)."""
    rows = []
    for name, path, form, note in FACTS:
        value = analysis.get(path)
        exact = units.exact_size if form is units.size else units.count
        note = ATTACHED_NOTES.get(path, note) if analysis.attached else note
        if path.startswith("peak.") and len(analysis.get("processes", [])) > 1:
            note = f"of process {words.main_name(analysis)}"
        rows.append((name, shown(analysis, form, value), exact(value), note, value is not None))
    return rows


def sections(analysis, modules):
    """All that follows the first screen, which has the first finding."""
    made = [in_short(analysis), found(analysis)]
    made += [figure_section(analysis, module) for module in modules]
    made += [part(analysis) for part in (
        sites, pins.section, phases, processes, fragmentation, how.section)]
    return [section for section in made if section]


def in_short(analysis):
    summary = words.summary(analysis)
    said = any(one.text == summary for one in words.findings(analysis))
    return None if said else Section("The run in short", [Text(summary)])


def found(analysis):
    rest = words.findings(analysis)[1:]
    return Section("What else was found", [Findings(rest, 2)]) if rest else None


def figure_section(analysis, module):
    lead = words.lead(analysis, module.NAME)
    blocks = [Text(lead)] if lead else []
    scope = scope_text(analysis, module)
    blocks += [Text(scope, "scope")] if scope else []
    figure = module.draw(analysis)
    if figure is None:
        blocks.append(Text(NOTHING, "missing"))
        return Section(module.TITLE, blocks)
    blocks.append(Drawing(module, figure, caption(analysis, module.NAME)))
    table = {"syscalls": syscall_table, "ledger": ledger_table, "return": return_table}.get(module.NAME)
    made = table(analysis) if table else None
    return Section(module.TITLE, blocks + ([made] if made else []))


def caption(analysis, name):
    if analysis.attached and name in ATTACHED_CAPTIONS:
        return ATTACHED_CAPTIONS[name]
    made = {"map": figure_map, "memory": figure_memory}.get(name)
    return made.caption(analysis) if made else CAPTIONS[name]


def scope_text(analysis, module):
    """Which process a figure is about, when there is a choice."""
    streams = analysis.get("processes", [])
    if len(streams) < 2:
        return ""
    if module.NAME in ("syscalls", "return"):
        known = len(streams) - len(analysis.elsewhere)
        if known < len(streams):
            return f"The {units.counted(known, 'process', 'processes')} whose calls are known, together."
        return f"All {len(streams)} processes together."
    return f"The process with the largest heap: {words.main_process(analysis)}."


def syscall_table(analysis):
    rows = [(row["syscall"], row["reason_text"], row.get("call") or "–", units.count(row["count"]),
             units.size(row.get("bytes")), units.time(row.get("time_ns")),
             units.count(row.get("failed"))) for row in words.causes(analysis)]
    heads = (("system call", False), ("because", False), ("during", False), ("calls", True),
             ("memory", True), ("time", True), ("failed", True))
    foot = ("all", "", "", units.count(analysis.get("syscalls.total")), "",
            units.time(analysis.get("syscalls.time_ns")), "")
    return Table(heads, rows, foot)


RETURNS_SHOWN = 10


def return_table(analysis):
    """The calls that gave memory back, and what made the heap do it."""
    calls = (analysis.get("returning") or {}).get("calls", [])
    rows = [(row["syscall"], row["reason_text"], row["call"] or "–", places.site_name(row),
             units.count(row["count"]), units.size(row["returned_bytes"]),
             units.time(row["time_ns"])) for row in calls[:RETURNS_SHOWN]]
    heads = (("given back by", False), ("because", False), ("during", False), ("from", False),
             ("calls", True), ("memory", True), ("time", True))
    return Table(heads, rows) if rows else None


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
    return Table(heads, rows + [blocks])


def sites(analysis):
    """Places in the code, with their callers if they were recorded."""
    rows = flame.rows_of(analysis)
    if rows is None:
        return Section("Where in the code", [Text(NOTHING, "missing")])
    several = len(analysis.get("processes", [])) > 1
    blocks = [Text(f"The process with the largest heap: {words.main_process(analysis)}.", "scope")
              ] if several else []
    if flame.have_stacks(rows):
        made = [Flame(each) for each in flame.flames(analysis)]
        cut = " Some stacks have more callers than were recorded." if any(
            each.flame.is_cut for each in made) else ""
        blocks.append(Text("A function is as wide as what the stacks through it hold; its callers "
                           "are above it, and what it called below. Functions under a thousandth "
                           f"of the whole are left out.{cut}"))
    else:
        made = [_bars(*each) for each in flame.lists(analysis)]
        blocks.append(Text("The places that called the allocator. With record --stacks 16 they are "
                           "the functions of the program, with all their callers."))
    return Section("Where in the code", blocks + (made or [
        Text("The allocator was not called.", "missing")]))


def _bars(heading, form, total, rows, others):
    rest = total - sum(value for _, value in rows)
    shown_rows = rows + ([(units.counted(others, "other place"), rest)] if others else [])
    return Bars(heading, [(name, f"{form(value)}, {units.share_text(value, total)}", value / total)
                          for name, value in shown_rows],
                next(colour for _, colour, text, _ in flame.VALUES if text == heading))


PHASES_SHOWN = 200


def phases(analysis):
    every = analysis.get("phases", [])
    if not every:
        return None
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
    heads = (("no.", True), ("phase", False), ("begins", True), ("lasts", True), ("calls", True),
             ("system calls", True), ("requested", True), ("mapped", True), ("resident", True),
             ("requested at its end", True))
    rest = len(every) - len(rows) + analysis.get("phases_beyond", 0)
    note = [Text(f"{rest:,} more phases are not listed.")] if rest else []
    of = (f" Those of {words.main_process(analysis)}."
          if len(analysis.get("processes", [])) > 1 else "")
    return Section("Phases", [
        Text("Memory columns are the highest in each phase. The numbers are those of the dashed "
             f"lines in the figures, where a phase begins.{of}"), Table(heads, rows), *note])


def phase_name(name):
    return "before the first mark" if name is None else name


def processes(analysis):
    streams = analysis.get("processes", [])
    if len(streams) < 2:
        return None
    rows = []
    for stream in streams[:200]:
        inner = lambda *path: dig(stream, path)
        rows.append((str(stream.get("pid")), words.shorten(words.process_command(stream)),
                     units.count(inner("events", "calls")), units.count(inner("syscalls", "total")),
                     units.size(inner("peak", "requested_bytes")),
                     units.size(inner("peak", "mapped_bytes")),
                     units.size(inner("peak", "rss_bytes")),
                     "yes" if stream.get("complete") is True else "no"))
    heads = (("pid", True), ("command", False), ("calls", True), ("system calls", True),
             ("requested", True), ("mapped", True), ("resident", True), ("complete", False))
    rest = len(streams) - len(rows)
    note = [Text(f"{rest:,} more processes are not listed.")] if rest else []
    return Section(f"All {len(streams):,} processes", [
        Text("Memory columns are the highest of each process."), Table(heads, rows), *note])


def dig(value, path):
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def fragmentation(analysis):
    ratios = []
    for name in ("mapped", "resident"):
        values = analysis.get(f"fragmentation.{name}", {})
        ratios.append((name, *(units.percent(values.get(key)) for key in (
            "mean", "at_peak_live", f"at_peak_{name}", "peaks"))))
    heads = (("memory above the live requested bytes", False), ("mean", True),
             ("when most was live", True), ("when most was held", True),
             ("peak against peak", True))
    return Section("Fragmentation", [
        Table(heads, ratios),
        Text("The four measures of Johnstone and Wilson (1998), over the byte clock.")])
