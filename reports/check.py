# SPDX-License-Identifier: MIT
#
# `heapledger check`: holds a trace against a budget, for CI. Started by heapledger with its own
# path in HEAPLEDGER_BIN. The verdict is the exit code: 0 kept, 1 exceeded, 4 cannot be told; a
# trace with events missing proves that a count was exceeded, never that it was kept.

import os
import sys
import textwrap
from collections import namedtuple

sys.dont_write_bytecode = True  # an installed or read-only folder is left as it is

import budget
import command
import plain
import units
from load import FINDING, NO_EVIDENCE, OK, load

# state: "ok", "OVER", or "?" (not measured, or not proven by an incomplete trace).
Result = namedtuple("Result", "limit measured state note")

CAUSES_SHOWN = 3
COLUMNS = 80
_INDENT = " " * 12
_JOIN = "\u00a0"  # a space at which no line is broken
_HOLDS = (("requested", "requested_bytes"), ("slack", "slack_bytes"), ("free", "free_bytes"),
          ("metadata", "metadata_bytes"))
_LIES = (("break", "break_bytes"), ("arenas", "arena_bytes"), ("mapped blocks", "block_bytes"),
         ("metadata", "metadata_bytes"))
_ANSI = {"ok": "\033[32m", "OVER": "\033[1;31m", "?": "\033[33m"}


def arguments(argv):
    parser = command.Parser("check", description="Holds a trace directory against a budget.",
                            epilog="Exit status: 0 kept, 1 exceeded, 2 wrong usage or budget file, "
                                   "3 unreadable trace, 4 not enough evidence.")
    parser.add_argument("directory", metavar="DIR", help="trace directory of heapledger record")
    parser.add_argument("--budget", metavar="FILE", required=True, help="TOML file with the limits")
    return parser.parse_args(argv)


def judge(limit, analysis):
    measured = analysis.get(limit.path)
    if measured is None:
        return Result(limit, None, "?", "not measured")
    if not analysis.complete and limit.name.startswith("end."):
        return Result(limit, measured, "?", "the end was not recorded")
    if measured > limit.limit:
        return Result(limit, measured, "OVER", _excess(limit, measured))
    if not analysis.complete and limit.name != "events.lost":
        return Result(limit, measured, "?", "at least; events missing")
    if analysis.overwritten and not limit.name.startswith("end.") and limit.name != "events.lost":
        return Result(limit, measured, "?", "at least; a part of the run")
    return Result(limit, measured, "ok", _used(limit, measured))


def _excess(limit, measured):
    over = measured - limit.limit
    amount = units.size(over) if limit.kind == budget.SIZE else units.count(over)
    if not limit.limit:
        return f"+{amount}"
    percent = 100 * over / limit.limit
    return f"+{amount} (+{percent:,.1f} %)" if percent >= 0.1 else f"+{amount} (+<0.1 %)"


def _used(limit, measured):
    if not limit.limit:
        return ""
    percent = 100 * measured / limit.limit
    return "<1 %" if measured and percent < 1 else f"{percent:,.0f} %"


def value_text(limit, value):
    if value is None:
        return "-"
    return units.size(value) if limit.kind == budget.SIZE else units.count(value)


def pair_text(result):
    """Limit and measured value; in bytes where rounding would make them look equal."""
    limit, measured = result.limit, result.measured
    shown = value_text(limit, limit.limit), value_text(limit, measured)
    if shown[0] == shown[1] and measured != limit.limit:
        return f"{limit.limit:,} B", f"{measured:,} B"
    return shown


def reasons(result, analysis):
    """Lines that say what made the figure so large."""
    table, key = result.limit.name.split(".")
    if table == "syscalls":
        return _syscall_causes(analysis, None if key == "total" else key)
    if table == "events":
        return _call_counts(analysis) if key == "calls" else []
    if table == "peak":
        return _ledger(analysis.get("peak.at_mapped"), "when most was mapped")
    return _ledger(analysis.get("end"), "at the end")


def _syscall_causes(analysis, syscall):
    rows = [row for row in analysis.get("syscalls.by_cause", [])
            if row["reason"] != "recorder" and syscall in (None, row["syscall"])]
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


def table(results, analysis, colour=False):
    """The results as lines of at most COLUMNS."""
    pairs = [pair_text(result) for result in results]
    name = max([6] + [len(result.limit.name) for result in results])
    first = max([5] + [len(pair[0]) for pair in pairs])
    second = max([8] + [len(pair[1]) for pair in pairs])
    lines = [f"      line  {'budget':<{name}}  {'limit':>{first}}  {'measured':>{second}}"]
    for result, (limit, measured) in zip(results, pairs):
        rows = _wrap(f"{result.state:<4}  {result.limit.line:>4}  {result.limit.name:<{name}}  "
                     f"{limit:>{first}}  {measured:>{second}}  {result.note}".rstrip())
        if colour:
            rows[0] = f"{_ANSI[result.state]}{result.state:<4}\033[0m{rows[0][4:]}"
        lines += rows
        if result.state == "OVER":
            for text in reasons(result, analysis):
                lines += _wrap(_INDENT + text)
    return lines


def _wrap(text):
    lines = textwrap.wrap(text, COLUMNS, subsequent_indent=_INDENT + "  ", break_long_words=False,
                          break_on_hyphens=False)
    return [line.replace(_JOIN, " ") for line in lines]


def verdict(results, analysis, path):
    """(exit code, last line)."""
    over = [result for result in results if result.state == "OVER"]
    unproven = [result for result in results if result.state == "?"]
    if over:
        listed = ", ".join(str(result.limit.line) for result in over)
        word = "line" if len(over) == 1 else "lines"
        return FINDING, (f"EXCEEDED: {len(over)} of {units.counted(len(results), 'budget')} "
                         f"({path}, {word} {listed})")
    if unproven or not analysis.complete:
        return NO_EVIDENCE, f"NOT ENOUGH EVIDENCE: {missing_evidence(unproven, analysis)}"
    return OK, f"KEPT: {units.counted(len(results), 'budget')}"


def missing_evidence(unproven, analysis):
    if analysis.lost:
        return f"{units.counted(analysis.lost, 'event')} lost"
    if not analysis.complete:
        if analysis.malformed_lines:
            return f"{units.counted(analysis.malformed_lines, 'line')} of the log not read"
        streams = len(analysis.incomplete_streams)
        if streams:
            return f"{units.counted(streams, 'stream')} not closed: the recording was cut short"
        missing = len(analysis.missing_streams)
        if missing:
            return f"{units.counted(missing, 'stream')} not in the trace"
        if analysis.unrecorded:
            return f"{units.counted(analysis.unrecorded, 'process', 'processes')} not recorded"
        return "the trace is incomplete"
    if analysis.overwritten:
        return f"{units.counted(analysis.overwritten, 'older event')} left out by record --ring"
    listed = ", ".join(f"{result.limit.name} (line {result.limit.line})" for result in unproven)
    return f"not measured: {listed}"


def main():
    options = arguments(sys.argv[1:])
    limits = budget.read(options.budget)
    analysis = load(options.directory, tables=False)
    results = [judge(limit, analysis) for limit in limits]
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    code, last = verdict(results, analysis, options.budget)
    print("\n".join(table(results, analysis, colour) + [plain.escaped(last)]))
    unrecorded = analysis.unrecorded
    if unrecorded and code != NO_EVIDENCE:
        command.say("check", f"{units.counted(unrecorded, 'process', 'processes')} of this run "
                             "could not be recorded; these figures are without "
                             + ("its part" if unrecorded == 1 else "their part"))
    if code == NO_EVIDENCE:
        command.say("check", last.replace("NOT ENOUGH EVIDENCE", "not enough evidence"))
    return code


if __name__ == "__main__":
    command.run("check", main)
