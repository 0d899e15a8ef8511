# SPDX-License-Identifier: MIT
#
# Two traces side by side for compare.py: figures, system calls by cause, blocks by place in the code
# and, where both have call stacks, system calls by stack. Places and stacks are paired by pairing.py,
# since lines and addresses are other ones in another build. Times are not compared: those of a
# recording are the recorder's too.

import collections
import re
import subprocess

import compare_runs
import compare_table
import pairing
import units
from load import Failure, UNREADABLE, load, program

_SHOWN = 8
_PLACES = 1_000_000  # of each moment: as many as the analyzer lists
_INDENT = " " * 4
_LABEL, _CELL = 25, 13
_BEYOND = " " * 2
_MOMENTS = (("mapped_peak", "when most was mapped"), ("end", "at the end"))
# 4711.1 4711 brk from=... reason=grow_top ... call=malloc ... stack=98, and then its frames, indented:
#     0x4011d6 parse at parse.c:17 (inlined) in /usr/bin/program+0x11d6
_EVENT = re.compile(r"\S+ \d+ (?P<syscall>\w+) .*\breason=(?!recorder )\S+ .*"
                    r"\bcall=(?P<call>\w+) .*\bstack=\d+")
_FRAME = re.compile(r" +0x\w+(?: (?!in )(?P<function>.*?))?(?: at .*?)?(?: \(inlined\))?"
                    r"(?: in (?P<module>.*)\+0x[0-9a-f]+(?:, which .*)?)?$")

# was: what a place or a stack was called before, if it was another name.
Change = collections.namedtuple("Change", "name before after was", defaults=(None,))


def compare(before, after):
    return Comparison(*(load(path, tables=False, top=_PLACES) for path in (before, after)),
                      before, after)


class Comparison:
    def __init__(self, before, after, *paths):
        self.sides, self.paths = (before, after), paths
        self.figures = [Change(name, *values) for name, *values in _figures(before, after)]
        self.causes = _changed([_causes(side) for side in self.sides], "count",
                               lambda *rows: pairing.equal(*rows, _cause_name))
        self.places = {moment: _changed([_sites(side, moment) for side in self.sides],
                                        "requested_bytes", pairing.nearest)
                       for moment, _ in _MOMENTS}
        self.stacks = self._stacks()

    @property
    def complete(self):
        return all(side.complete and not side.overwritten for side in self.sides)

    def _stacks(self):
        """None where a side has no stacks of its calls."""
        if not all(_has_stacks(side) for side in self.sides):
            return None
        rows = [_calls_with_stacks(path) for path in self.paths]
        return _largest([Change(pair.name, len(pair.before), len(pair.after), pair.was)
                         for pair in pairing.nearest(*rows, name=_stack_name)])

    def data(self):
        """As JSON (docs/man/heapledger-compare.1)."""
        return {
            "before": self.paths[0], "after": self.paths[1], "complete": self.complete,
            "figures": {change.name: _two(change) for change in self.figures},
            "causes": None if self.causes is None else [
                {"syscall": change.name[0], "call": change.name[1],
                 "reason_text": change.name[2], **_two(change)} for change in self.causes],
            "places": {moment: None if rows is None else [
                {**_frame_data(change.name.head[-2:]), "function_before": _function_before(change),
                 **_stack_data(change), **_two(change)} for change in rows]
                for moment, rows in self.places.items()},
            "stacks": None if self.stacks is None else [
                {"syscall": change.name.head[0], "call": change.name.head[1],
                 **_stack_data(change), **_two(change)} for change in self.stacks]}

    def lines(self):
        text = [f"{'':<{_LABEL}}{'before':>{_CELL}}{'after':>{_CELL}}{'change':>{_CELL}}"]
        text += [_figure_line(change, label) for change, label in self._labelled()]
        text += _section("System calls by cause", self.causes, _cause_text, units.count)
        for moment, title in _MOMENTS:
            text += _section(f"Bytes requested by place, {title}", self.places[moment], pairing.text,
                             units.size)
        if self.stacks is not None:
            text += _section("System calls by call stack", self.stacks, _stack_text, units.count)
        return text + self._notes()

    def _labelled(self):
        labels = dict(compare_table.RECORDED[1])
        return [(change, labels[change.name]) for change in self.figures if change.name in labels]

    def _notes(self):
        lines = []
        for path, side in zip(self.paths, self.sides):
            if not side.complete:
                lines += compare_table.wrap(f"{path}: not enough evidence: events are missing", "  ")
            elif side.overwritten:
                lines += compare_table.wrap(f"{path}: not enough evidence: record --ring left a part "
                                            "of the run out", "  ")
        return [""] + lines if lines else []


def _figures(before, after):
    old, new = compare_runs.figures(before), compare_runs.figures(after)
    return [(name, old[name], new[name]) for name in old if not name.endswith("_ns")]


def _two(change):
    return {"before": change.before, "after": change.after}


def _has_stacks(side):
    options = side.session.get("options")
    return isinstance(options, dict) and bool(options.get("stacks"))


def _causes(side):
    rows = side.get("syscalls.by_cause")
    return rows if rows is None else [row for row in rows if row["reason"] != "recorder"]


def _cause_name(row):
    return row["syscall"], row["call"], row["reason_text"]


def _changed(rows, column, pairs):
    """Sums by name, the largest change first; None where a side does not know its own."""
    if None in rows:
        return None
    return _largest([Change(pair.name, *(sum(row[column] or 0 for row in side)
                                         for side in (pair.before, pair.after)), pair.was)
                     for pair in pairs(*rows)])


def _largest(changes):
    return sorted(changes, key=lambda change: (-abs(_difference(change) or 0), str(change.name)))


def _difference(change):
    return None if None in (change.before, change.after) else change.after - change.before


def _sites(side, moment):
    """Places of blocks; those of blocks that a cache keeps were asked for by nobody."""
    for row in side.get("moments") or []:
        if row["moment"] == moment:
            return [site for site in row["sites"] if site["kept"] is None]
    return None


def _calls_with_stacks(path):
    """(system call, allocator call, frames) of all system calls of a trace."""
    command = [program(), "dump", "--stacks", "--no-time", "--kind",
               ",".join(compare_runs.SYSCALLS), path]
    calls = []
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL,  # the analyzer has said it
                          encoding="utf-8", errors="surrogateescape") as child:
        for line in child.stdout:
            if not line.startswith(" "):
                event = _EVENT.match(line)
                calls.append((event["syscall"], event["call"], []) if event else None)
            elif calls and calls[-1] and (frame := _FRAME.match(line.rstrip("\n"))):
                calls[-1][2].append(frame.groupdict())
    if child.returncode:
        raise Failure(UNREADABLE, f"{path}: its call stacks cannot be read")
    return [call for call in calls if call and call[2]]


def _stack_name(call):
    frames = tuple(map(pairing.frame, call[2]))
    return pairing.Name((call[0], call[1], *frames[0]), frames)


def _frame_data(frame):
    return {"module": frame[0], "function": frame[1]}


def _function_before(change):
    """Of a place that was called something else."""
    was = change.was.head[-1] if change.was else None
    return was if was != change.name.head[-1] else None


def _stack_data(change):
    """Without stacks there are no frames; frames_before: of another name before."""
    return {name: [_frame_data(frame) for frame in key.frames] if key and key.frames else None
            for name, key in (("frames", change.name), ("frames_before", change.was))}


def _figure_line(change, label):
    kind = change.name
    text = (units.size if kind.endswith("_bytes") else units.percent if kind.endswith("_percent")
            else units.count)
    before, after = (text(value) if value is not None else "-"
                     for value in (change.before, change.after))
    return (f"{label:<{_LABEL}}{before:>{_CELL}}{after:>{_CELL}}{_signed(change, text):>{_CELL}}"
            f"{_BEYOND}{_relative(change)}").rstrip()


def _signed(change, text):
    difference = _difference(change)
    if difference is None:
        return "-"
    if difference and text is units.percent:
        return f"{difference:+,.1f} points"
    return text(0) if not difference else ("+" if difference > 0 else "-") + text(abs(difference))


def _relative(change):
    difference = _difference(change)
    if not difference or change.name.endswith("_percent") or not change.before:
        return ""
    percent = 100 * difference / change.before
    return f"{percent:+,.1f} %" if abs(percent) >= 0.1 else f"{'+' if percent > 0 else '-'}<0.1 %"


def _section(title, changes, name, text):
    """The largest changes of a table, and what the others come to."""
    if changes is None:
        return ["", f"{title}: not known of both"]
    rows = [change for change in changes if _difference(change)]
    lines = ["", title if rows else f"{title}: no change"]
    for change in rows[:_SHOWN]:
        numbers = (f"{_INDENT}{text(change.before):>{_CELL}}{text(change.after):>{_CELL}}"
                   f"{_signed(change, text):>{_CELL}}  ")
        lines += _beside(numbers, name(change))
    rest = rows[_SHOWN:]
    if rest:
        lines.append(f"{_INDENT}... and {units.counted(len(rest), 'smaller change')} (--json)")
    return lines


def _beside(numbers, words):
    wrapped = compare_table.wrap(words, "", compare_table.COLUMNS - len(numbers)) or [""]
    return [numbers + wrapped[0]] + [" " * len(numbers) + line for line in wrapped[1:]]


def _cause_text(change):
    syscall, call, reason = change.name
    return f"{syscall}{' in ' + call if call else ''}: {reason}"


def _stack_text(change):
    syscall, call, *_ = change.name.head
    return f"{syscall} in {call}: {pairing.text(change)}"
