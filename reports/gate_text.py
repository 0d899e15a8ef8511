# SPDX-License-Identifier: MIT
#
# The verdict of the gate for people: a table of at most 80 columns, and under what was exceeded why.
# The reasons go into the other outputs, too. What comes from a trace is escaped here.

import re
import textwrap

import gate_baseline
import gate_judge
import plain
import units

CAUSES_SHOWN = 3
COLUMNS = 80
_NAME_COLUMNS = 32
_INDENT = " " * 12
_JOIN = "\u00a0"  # a space at which no line is broken
_HOLDS = (("requested", "requested_bytes"), ("slack", "slack_bytes"), ("free", "free_bytes"),
          ("metadata", "metadata_bytes"))
_LIES = (("break", "break_bytes"), ("arenas", "arena_bytes"), ("mapped blocks", "block_bytes"),
         ("metadata", "metadata_bytes"))
_GREEN, _RED, _YELLOW = "\033[32m", "\033[1;31m", "\033[33m"
_ANSI = {"ok": _GREEN, "less": _GREEN, "OVER": _RED, "LOW": _RED, "LESS": _RED, "?": _YELLOW}


def value_text(limit, value):
    return "-" if value is None else gate_judge.amount(limit, value)


def pair_text(result):
    """Limit and measured value; in full where rounding would make them look equal."""
    limit, measured = result.limit, result.measured
    shown = value_text(limit, limit.limit), value_text(limit, measured)
    if shown[0] == shown[1] and measured != limit.limit:
        unit = "%" if isinstance(measured, float) else "B"
        return f"{limit.limit:,} {unit}", f"{measured:,} {unit}"
    return shown


def reasons(result, runs, baseline=None):
    """Lines that say what made the figure so large, and what grew since the baseline."""
    if result.state != "OVER":
        return []
    limit, analysis = result.limit, runs.best_run(result.limit)
    lines = gate_baseline.growth(limit, analysis, baseline) if baseline else []
    return [plain.escaped(line) for line in (lines or _standing(limit, analysis))]


def _standing(limit, analysis):
    table, key = limit.path[:2]
    if table == "syscalls":
        return _syscall_causes(analysis, None if key == "total" else key)
    if table == "causes":
        return _syscall_causes(analysis, None, key)
    if table == "events":
        return _call_counts(analysis) if key != "lost" else []
    if table == "peak":
        return _ledger(analysis.get("peak.at_mapped"), "when most was mapped") + \
            gate_baseline.holders(analysis, "mapped_peak")
    return _ledger(analysis.get("end"), "at the end") + gate_baseline.holders(analysis, "end") \
        if table == "end" else []


def _syscall_causes(analysis, syscall, reason=None):
    rows = [row for row in analysis.get("syscalls.by_cause", [])
            if row["reason"] != "recorder" and syscall in (None, row["syscall"])
            and reason in (None, row["reason"])]
    lines = []
    for row in rows[:CAUSES_SHOWN]:
        call = f", in {row['call']}" if row.get("call") else ""
        name = f"{row['syscall']}: " if syscall is None else ""
        lines.append(f"{row['count']:,} {name}{row['reason_text']}{call}")
    rest = sum(row["count"] for row in rows[CAUSES_SHOWN:])
    if rest:
        lines.append(f"{rest:,} for {units.counted(len(rows) - CAUSES_SHOWN, 'other cause')}")
    return lines


def _call_counts(analysis):
    by_call = analysis.get("events.by_call", {})
    calls = [(row.get("count", 0), name) for name, row in by_call.items()]
    return [f"{number:,} {name}" for number, name in sorted(calls, reverse=True)[:CAUSES_SHOWN]
            if number]


def _ledger(ledger, moment):
    if not ledger:
        return ["what the heap consisted of: not measured"]
    blocks = units.counted(ledger.get("live_blocks"), "live block")
    mapped = units.size(ledger.get("mapped_bytes"))
    lines = [f"{moment}: {mapped} mapped, {blocks}" if ledger.get("mapped_bytes") is not None
             else f"{moment}: {blocks}; mapped: {mapped}"]
    parts = (("holds", _parts(ledger, _HOLDS)), ("lies in", _parts(ledger, _LIES)))
    return lines + [f"{word} {text}" for word, text in parts if text]


def _parts(ledger, rows):
    return ", ".join(f"{text} {units.size(ledger[key])}".replace(" ", _JOIN)
                     for text, key in rows if ledger.get(key))


def table(results, runs, colour=False, baseline=None):
    """The results as lines of at most COLUMNS; phases that are as in the baseline are one line."""
    kept = [result for result in results if _is_kept_phase(result)]
    results = [result for result in results if not _is_kept_phase(result)]
    pairs = [pair_text(result) for result in results]
    names = [plain.escaped(result.limit.name) for result in results]
    name = max([6] + [len(text) for text in names if len(text) <= _NAME_COLUMNS])
    first = max([5] + [len(pair[0]) for pair in pairs])
    second = max([8] + [len(pair[1]) for pair in pairs])
    lines = [f"      line  {'budget':<{name}}  {'limit':>{first}}  {'measured':>{second}}"]
    for result, title, (limit, measured) in zip(results, names, pairs):
        rows = wrap(f"{result.state:<4}  {gate_judge.line_text(result.limit):>4}  "
                    f"{title:<{name}}  {limit:>{first}}  {measured:>{second}}  "
                    f"{result.note}".rstrip())
        if colour:
            rows[0] = f"{_ANSI[result.state]}{result.state:<4}\033[0m{rows[0][4:]}"
        lines += rows
        for text in reasons(result, runs, baseline):
            lines += wrap(_INDENT + text)
    if kept:
        phases = units.counted(len({result.limit.path[1] for result in kept}), "phase")
        lines.append(f"ok    base  {units.counted(len(kept), 'figure')} of {phases}")
    return lines


def _is_kept_phase(result):
    return result.state == "ok" and result.limit.base is not None and result.limit.path[0] == "phases"


def wrap(text):
    """No line is broken between a number and its unit."""
    text = re.sub(r"(?<=\d) (?=(?:[KMGT]iB|B|%)(?!\w))", _JOIN, text)
    lines = textwrap.wrap(text, COLUMNS, subsequent_indent=_INDENT + "  ", break_long_words=False,
                          break_on_hyphens=False)
    return [line.replace(_JOIN, " ") for line in lines]
