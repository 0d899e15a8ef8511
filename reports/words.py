# SPDX-License-Identifier: MIT
#
# What was found, in words: reads the analysis and judges it. Every number in a sentence is one of
# the analysis or a share of two of them; what was not measured is said to be not measured.
# Returns plain text; page.py escapes it.

from collections import namedtuple

from units import count, counted, percent, share, share_text, size, time

# kind: "bad" (the evidence is broken), "look" (worth a look), "fine" (measured, as expected).
Finding = namedtuple("Finding", "kind title text")

TRIM_MINIMUM = 20        # break shrinks below this number are no thrash, whatever their share
THRASH_SHARE = 25        # percent: shrinks against growths
FREE_SHARE = 25          # percent of the mapped heap that is free, and at least
FREE_MINIMUM = 1 << 20   # so many bytes, and at least
FREE_OF_PEAK = 5         # percent of what was mapped at the peak
SLACK_SHARE = 25         # percent of the mapped heap at its peak
TIME_SHARE = 5           # percent of the run spent in system calls
LARGE_MINIMUM = 200      # blocks mapped and unmapped one by one
KEPT_SHARE = 50          # percent of freed pages that never went back
RESIDUAL_SHARE = 3       # percent of resident memory that is in no row of the ledger, and at least
RESIDUAL_MINIMUM = 1 << 16  # so many bytes


def findings(analysis):
    """All that is worth saying, the worst first."""
    judges = (_evidence, _observed, _attached, _anomalies, _unrecorded, _failures, _end, _trim, _large_blocks, _time,
              _slack, _kept, _live, _residual, _recorder,
              _notes)
    said = [finding for judge in judges if (finding := judge(analysis))]
    if not any(finding.kind != "fine" for finding in said):
        said.insert(0, Finding("fine", "Nothing unusual", _unremarkable(analysis)))
    return sorted(said, key=lambda finding: ("bad", "look", "fine").index(finding.kind))


def verdict(analysis):
    """(kind, short text) on how far the figures can be trusted."""
    if analysis.lost:
        return "bad", f"INCOMPLETE: {counted(analysis.lost, 'event')} lost"
    if analysis.malformed_lines:
        return "bad", f"INCOMPLETE: {counted(analysis.malformed_lines, 'line')} not read"
    streams = len(analysis.incomplete_streams)
    if streams:
        return "bad", f"INCOMPLETE: {counted(streams, 'stream')} not closed"
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


def by_reason(analysis, *reasons):
    return sum(row["count"] for row in causes(analysis) if row["reason"] in reasons)


def summary(analysis):
    """The run in two or three sentences."""
    if analysis.attached:
        return _summary_attached(analysis)
    calls, total = analysis.get("events.calls"), analysis.get("syscalls.total")
    duration = analysis.get("duration_ns")
    text = (f"{'The' if duration is None else f'In {time(duration)} the'} program made "
            f"{counted(calls, 'allocator call')}. ")
    text += (f"Beneath them the allocator made {counted(total, 'system call')}"
             if total is not None else "How many system calls its allocator made is unknown")
    per = f", one for every {calls / total:,.0f} calls" if calls and total else ""
    peak, mapped = analysis.get("peak.requested_bytes"), analysis.get("peak.mapped_bytes")
    who = "Its largest process" if len(analysis.get("processes", [])) > 1 else "The program"
    text += f"{per}. {who} held at most {size(peak)}; "
    text += (f"for that the heap had at most {size(mapped)} mapped" if mapped is not None
             else "how much its heap had mapped for that is unknown")
    above = analysis.get("fragmentation.mapped.peaks")
    if above is not None:
        text += f", {percent(above)} above it"
    rss = analysis.get("peak.rss_bytes")
    text += (f", and the kernel counted at most {size(rss)} of the whole process as resident."
             if rss is not None else "; resident memory was not measured.")
    return text


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
    missing = analysis.missing_streams
    if missing:
        parts.append(f"{counted(len(missing), 'stream')} that session.json names "
                     f"{'is' if len(missing) == 1 else 'are'} not in the trace directory: what "
                     f"those processes did is in none of the figures.")
    if not parts:
        parts.append("The analyzer found the trace incomplete: counts are lower bounds.")
    return Finding("bad", "The trace is incomplete", " ".join(parts))


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


def _main_figure(analysis, path):
    """A figure of the process that `end` is of, where the one at the top is a sum over all."""
    if not _several(analysis):
        return analysis.get(path)
    for value in analysis.get("processes"):
        if value.get("stream") == analysis.get("main_stream"):
            for key in path.split("."):
                value = value.get(key) if isinstance(value, dict) else None
            return value
    return None


def _end(analysis):
    mapped, free = analysis.get("end.mapped_bytes"), analysis.get("end.free_bytes")
    if not mapped or free is None:
        return None
    part = share(free, mapped)
    text = "In the largest process, at" if _several(analysis) else "At"
    text += (f" the end {size(free)} of {size(mapped)} mapped heap ({share_text(free, mapped)}) "
            f"was free and still mapped")
    requested, blocks = analysis.get("end.requested_bytes"), analysis.get("end.live_blocks")
    if requested is not None and blocks is not None:
        text += f", beside {size(requested)} in {counted(blocks, 'live block')}"
    text += ". "
    of_peak = share(free, analysis.get("peak.mapped_bytes"))
    if part < FREE_SHARE or free < FREE_MINIMUM or (of_peak is not None and of_peak < FREE_OF_PEAK):
        return Finding("fine", "Little free memory is held at the end", text.strip())
    return Finding("look", "Free memory that did not go back", text + _why_kept(analysis))


def _why_kept(analysis):
    at_break, in_arenas = analysis.get("end.break_bytes"), analysis.get("end.arena_bytes") or 0
    free, whole = analysis.get("end.free_bytes"), _main_figure(
        analysis, "free_to_return.never_page_bytes")
    trims = by_reason(analysis, "trim_top")
    parts = []
    if whole is not None:
        parts.append(f"{size(whole)} of it ({share_text(whole, free)}) were whole pages that had "
                     f"been used and freed; the rest was never used, or lay on pages with live "
                     f"blocks, which cannot go back.")
    if in_arenas > (at_break or 0):
        whose = "" if analysis.get("policy") == "mmap" else ", the heaps of other threads"
        parts.append(f"{size(in_arenas)} of the heap lay in arenas{whose}; "
                     f"one shrinks only from its end, so that a live block there keeps everything "
                     f"free before it.")
    elif at_break:
        parts.append(f"{size(at_break)} of the heap lay at the break, which can only shrink from "
                     f"its top: one block near the top, live or kept by a thread's cache, keeps everything "
                     f"free below it.")
        if trims:
            parts.append(f"The top was trimmed {counted(trims, 'time')} during the run.")
        else:
            parts.append("The top was never trimmed: glibc does so only when a freed run of 64 KiB "
                         "or more meets a free top of at least trim_threshold.")
    calls = analysis.get("events.by_call.malloc_trim.count", 0)
    released = by_reason(analysis, "trim_call")
    if not calls:
        parts.append("malloc_trim was never called; it is the call that also gives back whole free "
                     "pages inside the heap.")
    else:
        parts.append(f"malloc_trim was called {counted(calls, 'time')} and made "
                     f"{counted(released, 'system call')}.")
    return " ".join(parts)


def _trim(analysis):
    shrinks, grows = by_reason(analysis, "trim_top"), by_reason(analysis, "grow_top")
    if shrinks < TRIM_MINIMUM or not grows or share(shrinks, grows) < THRASH_SHARE:
        return None
    spent = sum(row.get("time_ns") or 0 for row in causes(analysis, "brk"))
    given = sum(row.get("bytes") or 0 for row in causes(analysis) if row["reason"] == "trim_top")
    return Finding("look", "The break moves up and down",
                   f"The break grew {counted(grows, 'time')} and was trimmed "
                   f"{counted(shrinks, 'time')}; {size(given)} went back to the kernel that way, "
                   f"and brk took {time(spent)}. Memory that is given back and asked for again "
                   f"also costs a page fault for each page. A higher trim_threshold (or top_pad) "
                   f"stops it: mallopt(M_TRIM_THRESHOLD, ...), or "
                   f"GLIBC_TUNABLES=glibc.malloc.trim_threshold=BYTES.")


def _large_blocks(analysis):
    maps, unmaps = by_reason(analysis, "over_threshold"), by_reason(analysis, "free_mmapped")
    if min(maps, unmaps) < LARGE_MINIMUM:
        return None
    spent = sum(row.get("time_ns") or 0 for row in causes(analysis)
                if row["reason"] in ("over_threshold", "free_mmapped"))
    return Finding("look", "Large blocks come and go one by one",
                   f"{counted(maps, 'block')} at or over mmap_threshold got a mapping each, and "
                   f"{count(unmaps)} were unmapped when freed; that took {time(spent)} in system "
                   f"calls, and each fresh page is a page fault. A higher mmap_threshold serves "
                   f"such blocks from the heap: mallopt(M_MMAP_THRESHOLD, ...), or "
                   f"GLIBC_TUNABLES=glibc.malloc.mmap_threshold=BYTES.")


def _time(analysis):
    spent, duration = analysis.get("syscalls.time_ns"), analysis.get("duration_ns")
    total = analysis.get("syscalls.total")
    if spent is None or not duration or not total:
        return None
    text = f"{counted(total, 'system call')} took {time(spent)}, {share_text(spent, duration)} of "
    text += "the recorded time" + (" (all processes together)"
                                   if _several(analysis) else "") + ". "
    if analysis.attached:
        return Finding("look" if share(spent, duration) >= TIME_SHARE else "fine",
                       "Time in system calls for memory", text.rstrip())
    text += _main_cause(analysis)
    if share(spent, duration) >= TIME_SHARE:
        return Finding("look", "System calls for the heap take time", text)
    return Finding("fine", "System calls cost little", text)


def _main_cause(analysis):
    parts = []
    for name in ("brk", "mmap", "munmap", "mremap", "madvise", "mprotect"):
        number = analysis.get(f"syscalls.{name}")
        if not number:
            continue
        reasons = {}
        for row in causes(analysis, name):
            reasons[row["reason_text"]] = reasons.get(row["reason_text"], 0) + row["count"]
        if not reasons:
            continue
        text, most = max(reasons.items(), key=lambda item: item[1])
        parts.append((number, f"{name} was called {counted(number, 'time')}, "
                              f"{share_text(most, number)} of them for this reason: “{text}”"))
    parts.sort(key=lambda part: -part[0])
    return "; ".join(text for _, text in parts[:2]) + "." if parts else ""


def _slack(analysis):
    ledger = analysis.get("peak.at_mapped", {})
    slack, mapped = ledger.get("slack_bytes"), ledger.get("mapped_bytes")
    if slack is None or not mapped:
        return None
    text = (f"When most was mapped, headers and rounding of live blocks took {size(slack)} of "
            f"{size(mapped)} ({share_text(slack, mapped)}).")
    blocks = ledger.get("live_blocks")
    if share(slack, mapped) < SLACK_SHARE:
        return None
    if blocks:
        text += f" They were {counted(blocks, 'block')}: many small blocks, each with its header."
    return Finding("look", "Much of the heap is headers and rounding", text)


def _kept(analysis):
    parts = [analysis.get(f"free_to_return.{name}_page_bytes")
             for name in ("returned", "reused", "never")]
    if None in parts or not sum(parts):
        return None
    returned, reused, never = parts
    total = sum(parts)
    together = " (all processes together)" if _several(analysis) else ""
    text = (f"Of {size(total)} in pages that became free{together}, {share_text(returned, total)} went back "
            f"to the kernel, {share_text(reused, total)} were used again first and "
            f"{share_text(never, total)} were still free at the end.")
    middle, slow = analysis.get("free_to_return.latency_ns.p50"), analysis.get(
        "free_to_return.latency_ns.p99")
    if returned and middle is not None and slow is not None:
        text += f" Half of what was returned went within {time(middle)}, 99 % within {time(slow)}."
    if share(never, total) >= KEPT_SHARE and never >= FREE_MINIMUM:
        return Finding("look", "Most freed pages never went back", text)
    return Finding("fine", "What became of freed pages", text)


def _live(analysis):
    blocks, requested = analysis.get("end.live_blocks"), analysis.get("end.requested_bytes")
    peak = analysis.get("peak.requested_bytes")
    if not blocks or requested is None or not peak:
        return None
    where = " of the largest process" if _several(analysis) else ""
    text = (f"{counted(blocks, 'block')} with {size(requested)}{where} "
            f"{'was' if blocks == 1 else 'were'} not freed when the last record was made, {share_text(requested, peak)} of the peak. "
            f"A program that ends without freeing is not at fault; one that should have been idle "
            f"then is worth a look.")
    return Finding("fine", "Still live at the end", text)


def _residual(analysis):
    """How far the ledger holds against the kernel's own count, where pages were looked at."""
    parts, worst = [], "fine"
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
            worst = "look"
    if not parts:
        return None
    text = "; ".join(parts)
    title = ("The kernel counts other memory than was found" if worst == "look"
             else "What the ledger leaves over")
    return Finding(worst, title, text[0].upper() + text[1:] + ".")


def _recorder(analysis):
    if analysis.attached:
        return None
    own, buffers = analysis.get("syscalls.recorder"), analysis.get("recorder.peak_rss_bytes")
    if own is None and buffers is None:
        return None
    return Finding("fine", "What the recording itself cost",
                   f"heapledger made {counted(own, 'system call')} of its own in the program"
                   + (f" and held at most {size(buffers)} of buffers there; neither is in the "
                      f"figures. " if buffers is not None else
                      ", which are not in the figures; its buffers there were not measured. ")
                   + f"The trace takes {size(analysis.get('recorder.trace_bytes'))}"
                   + _per_event(analysis) + ".")


def _per_event(analysis):
    value = analysis.get("recorder.bytes_per_event")
    return "" if value is None else f", {value:.2f} bytes an event"


def _notes(analysis):
    notes = "; ".join(analysis.notes)
    return Finding("fine", "What the recording noted", notes + ".") if notes else None


def _unremarkable(analysis):
    if analysis.imported:
        return "No failed call, and no contradiction in the log."
    return ("No thrash of the break, no flood of mapped blocks, no large free heap at the end, no "
            "failed call. The figures below say what was measured.")
