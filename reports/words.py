# SPDX-License-Identifier: MIT
#
# What was found, in words: reads the analysis and judges it. Every number in a sentence is one of
# the analysis or a share of two of them; what was not measured is said to be not measured.
# Returns plain text; page.py escapes it, pdf.py breaks it into lines.

import os
from collections import namedtuple

from load import FINDING
from units import count, counted, percent, share_text, size, time

# kind: "bad" (the evidence is broken), "look" (worth a look), "fine" (measured, as expected).
# remedy: what can be done about it; None: nothing is known.
Finding = namedtuple("Finding", "kind title text remedy", defaults=[None])

RESIDUAL_SHARE = 3          # percent of resident memory that is in no row of the ledger, and at least
RESIDUAL_MINIMUM = 1 << 16  # so many bytes

# Of the analyzer's findings (docs/findings.md): their kinds, as the page names them.
TITLES = {"whole_pages": "Whole pages are free and still mapped",
          "top": "The end of the heap is free and still mapped",
          "partial_pages": "Free memory lies beside blocks",
          "in_use": "In use at the end",
          "slack": "Headers and rounding take much",
          "thrash": "Memory goes back and is asked for again",
          "system_calls": "System calls take time"}


def findings(analysis):
    """All that is worth saying, once: what puts the evidence in doubt, then the analyzer's findings
    in its order, then what it does not judge."""
    doubts = [_evidence(analysis), _kernel(analysis), _anomalies(analysis),
              _residual_doubt(analysis)]
    judged = [_finding(one) for one in analysis.get("findings", [])]
    rest = [_unrecorded(analysis), _failures(analysis), _observed(analysis), _attached(analysis)]
    said = [finding for finding in (*doubts, *judged, *rest) if finding]
    if not any(finding.kind != "fine" for finding in said):
        said.insert(0, _all_well(analysis))
    return said


def _finding(one):
    return Finding("fine" if one["kind"] == "in_use" else "look",
                   TITLES.get(one["kind"], one["kind"]), one["sentence"], one["remedy"])


def _all_well(analysis):
    """As the analyzer's summary says it; where it cannot judge, what was done and measured."""
    end = next((moment for moment in reversed(analysis.get("moments", []))
                if moment["moment"] == "end"), None)
    if not end:
        return Finding("fine", "What was measured", summary(analysis))
    if not analysis.get("peak.mapped_bytes"):
        return Finding("fine", "Nothing happened",
                       "No memory was asked for, and the heap had none.")
    ledger, back = end["ledger"], end["trim_bytes"] + end["trim_top_bytes"]
    needed = (" Whether all that is in use is still needed is not known here."
              if analysis.get("findings") else "")
    return Finding("fine", "Little memory lies idle in this heap",
                   f"{size(ledger['mapped_bytes'])} is mapped at the end, "
                   f"{size(ledger['requested_bytes'])} of it in use, and malloc_trim(0) would "
                   f"return {size(back)}.{needed}")


def about_heap(analysis):
    """Whose heap this is, where there is a choice."""
    if not _several(analysis) or analysis.attached:
        return ""
    return (f"The heap is that of {main_process(analysis)} at its end, the largest of "
            f"{counted(len(analysis.get('processes')), 'process', 'processes')}.")


def main_process(analysis, limit=60):
    for stream in analysis.get("processes", []):
        if stream.get("stream") == analysis.get("main_stream"):
            return f"{shorten(process_command(stream), limit)} (pid {stream.get('pid')})"
    return analysis.get("main_stream", "unknown")


def main_name(analysis):
    """Its program, as short as it goes."""
    return shorten(main_process(analysis).split(" ")[0].rsplit("/", 1)[-1], 20)


def process_command(stream):
    value = stream.get("command")
    return " ".join(value) if isinstance(value, list) else str(value)


def shorten(text, limit=90):
    return text if len(text) <= limit else text[:limit - 1] + "…"


def own_malloc(analysis):
    """redis-server has a malloc of its own; 3 of 12 process images have a malloc of their own."""
    count, images = len(analysis.elsewhere), len(analysis.get("processes", []))
    if images == 1:
        return f"{_program(analysis.elsewhere[0])} has a malloc of its own"
    return (f"{count:,} of {images:,} process images "
            f"{'has a malloc of its' if count == 1 else 'have a malloc of their'} own")


def _program(process):
    command = process.get("command")
    return (isinstance(command, list) and command and os.path.basename(command[0])) or "unknown"


def verdict(analysis):
    """(kind, short text) on how far the figures can be trusted."""
    if analysis.lost:
        return "bad", f"INCOMPLETE: {counted(analysis.lost, 'event')} lost"
    if analysis.malformed_lines:
        return "bad", f"INCOMPLETE: {counted(analysis.malformed_lines, 'line')} not read"
    streams = len(analysis.incomplete_streams)
    if streams:
        return "bad", f"INCOMPLETE: {counted(streams, 'stream')} not closed"
    if analysis.elsewhere:
        return "bad", f"INCOMPLETE: {own_malloc(analysis)}"
    missing = len(analysis.missing_streams)
    if not analysis.complete and missing:
        return "bad", f"INCOMPLETE: {counted(missing, 'stream')} not in the trace"
    if not analysis.complete and analysis.unrecorded:
        return "bad", (f"INCOMPLETE: {counted(analysis.unrecorded, 'process', 'processes')} "
                       f"not recorded")
    if not analysis.complete:
        return "bad", "INCOMPLETE"
    if analysis.overwritten:
        return "fine", (f"THE NEWEST PART, COMPLETE: {counted(analysis.overwritten, 'older event')} "
                        f"left out (record --ring)")
    if analysis.imported:
        return "fine", "COMPLETE: every line of the log was read"
    return "fine", "COMPLETE: every stream closed, no event lost"


def causes(analysis, syscall=None):
    """Rows of syscalls.by_cause, most first, without the recorder's own."""
    return [row for row in analysis.get("syscalls.by_cause", [])
            if row["reason"] != "recorder" and syscall in (None, row["syscall"])]


def summary(analysis):
    """The run in two or three sentences."""
    if analysis.attached:
        return _summary_attached(analysis)
    if analysis.all_elsewhere:
        return f"{own_malloc(analysis)}, whose calls were not recorded: {_resident(analysis)}"
    calls, total = analysis.get("events.calls"), analysis.get("syscalls.total")
    duration = analysis.get("duration_ns")
    text = (f"{'The' if duration is None else f'In {time(duration)} the'} program made "
            f"{counted(calls, 'allocator call')}. ")
    text += (f"Beneath them the allocator made {counted(total, 'system call')}"
             if total is not None else "How many system calls its allocator made is unknown")
    per = f", one for every {calls / total:,.0f} calls" if calls and total else ""
    peak, mapped = analysis.get("peak.requested_bytes"), analysis.get("peak.mapped_bytes")
    who = (f"Its process {main_name(analysis)} had the largest heap and" if _several(analysis)
           else "The program")
    text += f"{per}. {who} held at most {size(peak)}; "
    text += (f"for that the heap had at most {size(mapped)} mapped" if mapped is not None
             else "how much its heap had mapped for that is unknown")
    above = analysis.get("fragmentation.mapped.peaks")
    if above is not None:
        text += f", {percent(above)} above it"
    known = analysis.get("peak.rss_bytes") is not None
    return f"{text}{', and' if known else ';'} {_resident(analysis)}"


def _resident(analysis):
    rss = analysis.get("peak.rss_bytes")
    return (f"the kernel counted at most {size(rss)} of the whole process as resident."
            if rss is not None else "resident memory was not measured.")


def _summary_attached(analysis):
    calls, total = analysis.get("events.calls"), analysis.get("syscalls.total")
    text = f"In the {time(analysis.get('duration_ns'))} that it was attached to, the process "
    text += f"made {counted(calls, 'allocator call')} and " if calls is not None else "made "
    text += (f"{counted(total, 'system call')} for memory. " if total is not None
             else "an unknown number of system calls for memory. ")
    mapped, rss = analysis.get("peak.mapped_bytes"), analysis.get("peak.rss_bytes")
    text += (f"It had at most {size(mapped)} of private memory mapped" if mapped is not None
             else "How much memory it had mapped is unknown")
    return text + (f", and at most {size(rss)} of it was resident, files and code included."
                   if rss is not None else "; resident memory was not measured.")


def _attached(analysis):
    if not analysis.attached:
        return None
    since = analysis.get("since_attach", {})
    text = ("It ran before, so what it had asked for by then is not known, nor what its allocator "
            "keeps free, in caches or as slack: that is in none of the figures.")
    faults, major = since.get("minor_faults"), since.get("major_faults")
    if faults is not None and major is not None:
        text += f" It had {counted(faults + major, 'page fault')} since."
    if since.get("live_bytes") is not None:
        text += (f" Of what was allocated since, {size(since['live_bytes'])} in "
                 f"{counted(since['live_blocks'], 'block')} were live at the end, at most "
                 f"{size(since['peak_live_bytes'])} at a time; "
                 f"{counted(since['unseen_blocks_freed'], 'block')} that were not seen being made "
                 f"were freed.")
    else:
        text += " Its allocator's calls were not recorded (attach --malloc does)."
    return Finding("fine", "A process that was attached to", text)


def _evidence(analysis):
    if analysis.complete:
        return None
    lost, open_streams = analysis.lost, analysis.incomplete_streams
    parts = []
    if analysis.malformed_lines:
        return Finding("bad", "The trace is incomplete",
                       f"{counted(analysis.malformed_lines, 'line')} of the log could not be read: "
                       f"counts may be too low, and what is live may be wrong.")
    if lost:
        parts.append(f"{counted(lost, 'event')} could not be logged, so every count here is a "
                     f"lower bound, and what is live or mapped may be wrong.")
    if open_streams:
        names = ", ".join(str(stream.get("stream")) for stream in open_streams[:4])
        more = f" and {len(open_streams) - 4} more" if len(open_streams) > 4 else ""
        parts.append(f"{counted(len(open_streams), 'stream')} of "
                     f"{len(analysis.get('processes', []))} "
                     f"{'was' if len(open_streams) == 1 else 'were'} not closed ({names}{more}): "
                     f"“at the end” means the last record that was written.")
    if analysis.elsewhere:
        names = sorted({_program(process) for process in analysis.elsewhere})
        names = f" ({', '.join(names[:4])}{', ...' if names[4:] else ''})"
        parts.append(f"{own_malloc(analysis)}{names if _several(analysis) else ''}; those calls are "
                     f"not recorded, and in none of the figures. heapledger attach --malloc records "
                     f"them while the program runs.")
    missing = analysis.missing_streams
    if missing:
        parts.append(f"{counted(len(missing), 'stream')} that session.json names "
                     f"{'is' if len(missing) == 1 else 'are'} not in the trace directory: what "
                     f"those processes did is in none of the figures.")
    if not parts:
        parts.append("The analyzer found the trace incomplete: counts are lower bounds.")
    return Finding("bad", "The trace is incomplete", " ".join(parts))


def _kernel(analysis):
    """Where the kernel's record contradicts the log; where it is missing, nothing is said."""
    if not analysis.verdict or analysis.verdict.code != FINDING:
        return None
    return Finding("bad", "The kernel's side and the log differ",
                   f"heapledger verify says: {analysis.verdict.lines[0]}.")


def _observed(analysis):
    if not analysis.observed or analysis.attached:
        return None
    if analysis.imported:
        return _imported(analysis)
    text = ("The program kept its own allocator. Every call to it was logged; how it lays out its "
            "memory is not known: what is slack, free or in its caches, and for how long, is in "
            "none of the figures.")
    foreign = analysis.get("syscalls.foreign")
    if foreign is not None:
        text += (f" System calls are the kernel's record: the allocator's are those made during one "
                 f"of its calls. Beside them the program made {counted(foreign, 'system call')} "
                 f"for memory of its own.")
    return Finding("fine", "The program's own allocator was observed", text)


def _imported(analysis):
    text = ("The log of another tool was imported. It has calls, addresses and sizes; everything else "
            "is unknown: system calls, what was mapped or resident, and what the allocator took for "
            "itself.")
    if analysis.get("duration_ns") is None:
        text += " It has no times either: events are shown in their order, by number."
    before = analysis.get("anomalies.inherited")
    if before:
        text += (f" {counted(before, 'free')} {'is' if before == 1 else 'are'} of blocks that were made "
                 f"before the log began, or before a fork.")
    log = analysis.get("imported.format")
    return Finding("fine", f"A log of {log} was imported" if log else "A log was imported", text)


def _anomalies(analysis):
    # Frees of blocks whose parent process was not recorded contradict nothing.
    found = {name: value for name, value in analysis.get("anomalies", {}).items()
             if value and name != "inherited"}
    if not found:
        return None
    listed = ", ".join(f"{name.replace('_', ' ')}: {count(value)}" for name, value in found.items())
    return Finding("bad", "The trace contradicts itself",
                   f"A sound trace has none of these: {listed}. What is live or mapped may be "
                   f"wrong by as much.")


def _unrecorded(analysis):
    number = analysis.unrecorded
    if not number:
        return None
    return Finding("look", "Some processes were not recorded",
                   f"{counted(number, 'process', 'processes')} of this run did not load the "
                   f"library, as static, set-user-ID and 32-bit programs do not; what they did is "
                   f"in none of the figures.")


def _failures(analysis):
    by_call = analysis.get("events.by_call", {})
    calls = {name: call["failed"] for name, call in by_call.items() if call.get("failed")}
    system = sum(row.get("failed") or 0 for row in causes(analysis))
    if not calls and not system:
        return None
    parts = []
    if calls:
        listed = ", ".join(f"{name} {count(number)}" for name, number in calls.items())
        parts.append(f"{counted(sum(calls.values()), 'allocator call')} failed ({listed}).")
    if system:
        parts.append(f"The kernel refused {counted(system, 'system call')}.")
    return Finding("look", "Some calls failed", " ".join(parts))


def _several(analysis):
    return len(analysis.get("processes", [])) > 1


def lead(analysis, name):
    """What a figure's section says before the figure; "" = nothing."""
    return {"syscalls": _time, "return": _fates, "ledger": _live,
            "sizes": _lifetimes}.get(name, lambda _: "")(analysis)


def _time(analysis):
    spent, duration = analysis.get("syscalls.time_ns"), analysis.get("duration_ns")
    total = analysis.get("syscalls.total")
    found = any(one["kind"] == "system_calls" for one in analysis.get("findings", []))
    if found or spent is None or not duration or not total:
        return ""
    together = " (all processes together)" if _several(analysis) else ""
    return (f"{counted(total, 'system call')} took {time(spent)}, {share_text(spent, duration)} of "
            f"the recorded time{together}.")


def _fates(analysis):
    parts = [analysis.get(f"free_to_return.{name}_page_bytes")
             for name in ("returned", "reused", "never")]
    if None in parts or not sum(parts):
        return ""
    returned, reused, never = parts
    total = sum(parts)
    text = (f"Of {size(total)} in pages that became free, {share_text(returned, total)} went back "
            f"to the kernel, {share_text(reused, total)} were used again first and "
            f"{share_text(never, total)} were still free at the end.")
    middle, slow = (analysis.get(f"free_to_return.latency_ns.{part}") for part in ("p50", "p99"))
    if returned and middle is not None and slow is not None:
        text += (f" Half of what was returned went within {time(middle)}, 99 % within {time(slow)}."
                 if middle != slow else f" 99 % of what was returned went within {time(slow)}.")
    return text


SHORT_NS = (1 << 20) - 1  # shorter lives are not told apart (docs/analysis.md)


def _lifetimes(analysis):
    freed, live = (analysis.get(f"lifetimes.{kind}_blocks") for kind in ("freed", "live"))
    if not freed:
        return ""
    text = (f"{counted(freed, 'block')} {'was' if freed == 1 else 'were'} made and freed, "
            f"{counted(live, 'more was', 'more were')} live at the end.")
    half, most = (analysis.get(f"lifetimes.time.percentiles.{part}") for part in ("p50", "p99"))
    if half is not None and most is not None:
        text += (" Of the freed ones half lived for "
                 f"{_at_most(half)}, 99 % for {_at_most(most)}.")
    before = sum(analysis.get(f"lifetimes.before.{kind}_blocks", 0) for kind in ("freed", "live"))
    if before:
        text += f" How long {counted(before, 'other')} lived is not known: they were there before."
    return text


def _at_most(ns):
    return f"less than {time(SHORT_NS + 1)}" if ns == SHORT_NS else f"at most {time(ns)}"


def _live(analysis):
    """Where the analyzer makes no finding of it."""
    blocks, requested = analysis.get("end.live_blocks"), analysis.get("end.requested_bytes")
    peak = analysis.get("peak.requested_bytes")
    if not analysis.observed or not blocks or requested is None or not peak:
        return ""
    where = " of the process with the largest heap" if _several(analysis) else ""
    return (f"{counted(blocks, 'block')} with {size(requested)}{where} "
            f"{'was' if blocks == 1 else 'were'} not freed when the last record was made, "
            f"{share_text(requested, peak)} of the peak.")


def recording(analysis):
    """How far the ledger holds, and what the recording noted: a list of paragraphs."""
    notes = "; ".join(analysis.notes)
    holds, residual = _residual(analysis)
    return [text for text in (residual if holds else "",
                              f"It noted: {notes}." if notes else "") if text]


def _residual(analysis):
    """How far the ledger holds against the kernel's own count, where pages were looked at: whether
    it does, and in words; "" where nothing was looked at."""
    parts, holds = [], True
    for entry in analysis.get("moments", []):
        when = {"resident_peak": "at the resident peak", "end": "at the end"}.get(entry["moment"])
        resident = entry.get("resident")
        if when is None or not resident or resident["residual_bytes"] is None:
            continue
        left, found = resident["residual_bytes"], resident["all_bytes"]
        parts.append(f"{when} {size(found)} of anonymous memory was found page by page, and the kernel "
                     + (f"counted {size(abs(left))} ({share_text(abs(left), found)}) "
                        f"{'more' if left > 0 else 'less'}" if left else "counted the same"))
        if abs(left) > max(RESIDUAL_MINIMUM, found * RESIDUAL_SHARE / 100):
            holds = False
    text = "; ".join(parts)
    return holds, text[:1].upper() + text[1:] + "." if text else ""


def _residual_doubt(analysis):
    holds, text = _residual(analysis)
    return None if holds else Finding("look", "The kernel counts other memory than was found", text)
