# SPDX-License-Identifier: MIT
#
# The verdict of the gate: each limit held against what was measured, and all of them together. A
# trace with events missing proves that a count was exceeded, never that it was kept.

from collections import namedtuple

import budget
import gate_figures
import units
import words
from load import FINDING, NO_EVIDENCE, OK

# state: "ok"; "OVER", "LOW" (under a least): broken; "less": better than its tolerance explains,
# and with --ratchet "LESS", which fails; "?": not measured, or not proven by an incomplete trace.
Result = namedtuple("Result", "limit measured state note")

BROKEN = ("OVER", "LOW", "LESS")


def judge(limit, runs, slack=None, ratchet=False):
    """slack: how far below its limit a budget may stay with ratchet."""
    measured = runs.best(limit)
    if measured is None:
        nameless = limit.path[0] == "sites" and not runs.named
        return Result(limit, None, "?", "not measured" + ": no function has a name" * nameless)
    growing = limit.path[0] in gate_figures.GROWING
    if not runs.complete and not growing:
        return Result(limit, measured, "?", "the end was not recorded"
                      if limit.path[0] == "end" else "not proven: events missing")
    if not limit.least and measured > limit.limit:
        return Result(limit, measured, "OVER", excess(limit, measured))
    if not runs.complete and limit.name != "events.lost":
        return Result(limit, measured, "?", "at least; events missing")
    if runs.overwritten and limit.path[0] != "end" and limit.name != "events.lost":
        return Result(limit, measured, "?", "at least; a part of the run" if growing
                      else "not proven: a part of the run")
    if limit.least and measured < limit.limit:
        return Result(limit, measured, "LOW", f"-{amount(limit, limit.limit - measured)}")
    return _kept(limit, measured, slack, ratchet)


def _kept(limit, measured, slack, ratchet):
    state = "ok"
    if limit.base is not None and measured < limit.base - (limit.limit - limit.base):
        state = "LESS" if ratchet else "less"
    elif limit.base is None and ratchet and not limit.least and slack is not None \
            and limit.limit - measured > slack:
        state = "LESS"
    return Result(limit, measured, state, used(limit, measured))


def amount(limit, value):
    if limit.kind == budget.PERCENT:
        return f"{value:,.4g} %"
    return units.size(value) if limit.kind == budget.SIZE else units.count(value)


def excess(limit, measured):
    """Over the limit, or of a baseline over what it was."""
    base = limit.limit if limit.base is None else limit.base
    over = measured - base
    text = f"+{amount(limit, over)}"
    if base and limit.kind != budget.PERCENT:
        percent = 100 * over / base
        text += f" (+{percent:,.1f} %)" if percent >= 0.1 else " (+<0.1 %)"
    return text if limit.base is None else f"{text} since {amount(limit, base)}"


def used(limit, measured):
    if limit.base is not None:
        change = measured - limit.base
        sign = "-" if change < 0 else "+"
        return f"{sign}{amount(limit, abs(change))} since {amount(limit, limit.base)}" if change \
            else "as before"
    if not limit.limit or limit.least:
        return ""
    percent = 100 * measured / limit.limit
    return "<1 %" if measured and percent < 1 else f"{percent:,.0f} %"


def line_text(limit):
    return "base" if limit.base is not None else str(limit.line)


def verdict(results, runs, path):
    """(exit code, last line)."""
    over = [result for result in results if result.state in ("OVER", "LOW")]
    loose = [result for result in results if result.state == "LESS"]
    unproven = [result for result in results if result.state == "?"]
    if over:
        return FINDING, f"EXCEEDED: {len(over)} of {_counted(results)}{_places(over, path)}"
    if unproven or not runs.complete or runs.overwritten and not results:
        return NO_EVIDENCE, f"NOT ENOUGH EVIDENCE: {missing_evidence(unproven, runs.weakest)}"
    if loose:
        return FINDING, (f"LOOSE: {len(loose)} of {_counted(results)} can be tightened"
                         f"{_places(loose, path)}")
    return OK, f"KEPT: {_counted(results)}" if results else "COMPLETE: figures for a baseline"


def _counted(results):
    """2 budgets, 17 figures of the baseline."""
    budgets = sum(result.limit.base is None for result in results)
    texts = [units.counted(budgets, "budget")] if budgets else []
    if budgets < len(results):
        texts.append(units.counted(len(results) - budgets, "figure") + " of the baseline")
    return " and ".join(texts)


def _places(results, path):
    """Where in the budget they stand; those of the baseline have no line."""
    lines = [str(result.limit.line) for result in results if result.limit.base is None]
    word = "line" if len(lines) == 1 else "lines"
    return f" ({path}, {word} {', '.join(lines)})" if lines else ""


def missing_evidence(unproven, analysis):
    if analysis.lost:
        return f"{units.counted(analysis.lost, 'event')} lost"
    if not analysis.complete:
        if analysis.malformed_lines:
            return f"{units.counted(analysis.malformed_lines, 'line')} of the log not read"
        streams = len(analysis.incomplete_streams)
        if streams:
            return f"{units.counted(streams, 'stream')} not closed: the recording was cut short"
        if analysis.elsewhere:
            return f"{words.own_malloc(analysis)}, whose calls are not recorded"
        missing = len(analysis.missing_streams)
        if missing:
            return f"{units.counted(missing, 'stream')} not in the trace"
        if analysis.unrecorded:
            return f"{units.counted(analysis.unrecorded, 'process', 'processes')} not recorded"
        return "the trace is incomplete"
    if analysis.overwritten:
        return f"{units.counted(analysis.overwritten, 'older event')} left out by record --ring"
    listed = ", ".join(f"{result.limit.name}{_line_note(result.limit)}" for result in unproven)
    return f"not measured: {listed}"


def _line_note(limit):
    return "" if limit.base is not None else f" (line {limit.line})"
