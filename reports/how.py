# SPDX-License-Identifier: MIT
#
# How a recording was made, as a table: mode and settings, the machine, what `verify` says of it, what
# was recorded and lost, and what that cost. Called by content.py; what is not known is "unknown".

import math

import units
import words
from blocks import Section, Table, Text
from load import OK

UNKNOWN = "unknown"

MODES = {"allocator": "heapledger's own allocator served the program",
         "observe": "the program's own allocator, observed",
         "imported": "the log of another tool",
         "attached": "the process ran before, on its own allocator"}

BYTES = {"mmap_threshold", "trim_threshold", "top_pad", "mxfast", "tcache_max"}
LARGEST = -1


def mode_text(analysis):
    if analysis.all_elsewhere:
        return "the program's own allocator, whose calls did not come"
    return MODES.get(analysis.get("mode"), "see the manual")


def section(analysis):
    rows = [(name, "; ".join(text for text in texts if text) or UNKNOWN)
            for name, *texts in _rows(analysis)]
    return Section("How it was recorded", [
        Table((("what", False), ("how", False)), rows),
        *(Text(text) for text in words.recording(analysis)),
        Text("Counts are exact; resident memory is sampled. “Not measured” means just that. Sizes "
             "are in binary units (1 MiB = 1,048,576 bytes).")])


def _rows(analysis):
    mode, inside = analysis.get("mode"), not analysis.observed
    yield "made by", f"heapledger {analysis.get('version', UNKNOWN)}"
    yield "mode", f"{mode}: {mode_text(analysis)}"
    if inside:
        yield "policy", (f"{analysis.get('policy', UNKNOWN)}, by the rules of "
                         f"{analysis.get('model', UNKNOWN)}")
        yield "tunables set", _given(analysis)
        yield "tunables not set", _initial(analysis)
    yield "options", *_options(analysis)
    yield "machine", *_host(analysis)
    yield "verify", *_verdict(analysis)
    yield "events", _events(analysis)
    yield "lost", *_lost(analysis)
    if not analysis.imported:
        yield "cost in the program", *_inside(analysis)
        yield "cost beside it", *_beside(analysis)


# ---- settings ------------------------------------------------------------------------------------

def _setting(name, value):
    if name not in BYTES or not isinstance(value, int):
        return f"{name} {value}"
    if value == LARGEST:
        return f"{name} as large as can be"
    return f"{name} {units.power(value) if value & (value - 1) == 0 else units.count(value) + ' B'}"


def _given(analysis):
    values, origin = analysis.get("tunables"), analysis.get("tunables_from", {})
    given = names(analysis)
    if not isinstance(values, dict) or given is None:
        return UNKNOWN
    return ", ".join(f"{_setting(name, values.get(name))} ({_origin(origin.get(name))})"
                     for name in given) or "none"


def names(analysis):
    """Of the tunables that were set."""
    given = analysis.get("tunables_set")
    return [name for name in given if isinstance(name, str)] if isinstance(given, list) else None


def _origin(variable):
    if variable is None:
        return "from where is unknown"
    return "record --set" if variable == "HEAPLEDGER_SET" else variable


def _initial(analysis):
    values, given = analysis.get("tunables"), names(analysis) or []
    if not isinstance(values, dict):
        return UNKNOWN
    text = ", ".join(_setting(name, value) for name, value in values.items() if name not in given)
    # As in glibc; any of them that is set ends it (docs/allocator.md).
    dynamic = not {"mmap_threshold", "trim_threshold", "top_pad", "mmap_max"} & set(given)
    return text + ("; the first two rise as mapped blocks are freed" if dynamic else "")


def _options(analysis):
    options = analysis.session.get("options")
    if not isinstance(options, dict) or not options:
        return
    number = lambda name: options.get(name) if isinstance(options.get(name), int) else None
    depth, every, pages = number("stacks"), number("interval_ns"), number("residency_ns")
    if "stacks" in options:
        yield (f"call stacks of up to {depth} functions" if depth else
               "callers only, no call stacks (--stacks)")
    if every:
        yield f"resident memory every {units.time(every)}"
    if "residency_ns" in options:
        yield f"resident pages every {units.time(pages)}" if pages else "resident pages not looked at"
    if "faults" in options:
        yield "each page fault" if options["faults"] else ""
    if "on_full" in options:
        yield ("the program waits while buffers are full" if options["on_full"] == "wait" else
               "events are dropped while buffers are full")
    if number("start_after_ns"):
        yield f"begun after {units.time(number('start_after_ns'))}"
    if number("duration_ns"):
        yield f"for {units.time(number('duration_ns'))}"
    if number("ring_bytes"):
        yield f"the newest {units.size(number('ring_bytes'))}"


# ---- machine and evidence ------------------------------------------------------------------------

def _host(analysis):
    host = analysis.get("host", {})
    if not host:
        return
    text = lambda name: str(host.get(name) or f"{name.replace('_', ' ')} unknown")
    kernel = host.get("kernel")
    yield f"Linux {kernel}" if kernel else "kernel unknown"
    yield text("distribution")
    yield text("libc")
    cpus = host.get("cpus")
    cpus = cpus if isinstance(cpus, int) else "unknown number"
    yield f"{cpus} × {host.get('cpu_model') or 'CPU unknown'}"
    memory = host.get("memory_bytes")
    yield f"{units.size(memory)} of memory" if isinstance(memory, int) else "memory unknown"


def _verdict(analysis):
    """As `heapledger verify` says it: its first line, and how it counted."""
    if analysis.imported:
        yield "not checked: the log of another tool has no system calls"
        return
    if not analysis.verdict:
        return
    yield analysis.verdict.lines[0] + (
        " (with those of the recorder)" if analysis.verdict.code == OK and not analysis.observed else "")
    yield from (line for line in analysis.verdict.lines if "that the kernel counted" in line)
    if analysis.verdict.lines[0].startswith("UNVERIFIED") or "by /proc" in analysis.verdict.lines[0]:
        if not analysis.observed:
            yield "as root, or with CAP_BPF and CAP_PERFMON, record has the kernel's own account"


def _events(analysis):
    calls, system = analysis.get("events.calls"), analysis.get("events.syscalls")
    return (f"{units.count(analysis.get('events.total'))}: allocator calls {_known(calls)}, "
            f"system calls {_known(system)}")


def _known(value):
    return UNKNOWN if value is None else units.count(value)


def _lost(analysis):
    lost, unrecorded = analysis.get("events.lost"), analysis.unrecorded
    yield UNKNOWN if lost is None else "0 events" if lost == 0 else units.counted(lost, "event")
    if analysis.incomplete_streams:
        yield f"{units.counted(len(analysis.incomplete_streams), 'stream')} not closed"
    yield ("0 processes not recorded" if unrecorded == 0 else
           f"{units.counted(unrecorded, 'process', 'processes')} not recorded")
    if analysis.malformed_lines:
        yield f"{units.counted(analysis.malformed_lines, 'line')} not read"
    if analysis.overwritten:
        yield f"{units.counted(analysis.overwritten, 'older event')} left out by --ring"


# ---- cost ----------------------------------------------------------------------------------------

def _inside(analysis):
    """Of the recorder's own calls and buffers; of a process that was attached to there are none."""
    if analysis.attached:
        attach = analysis.session.get("attach")
        seconds = attach.get("seconds") if isinstance(attach, dict) else None
        if isinstance(seconds, (int, float)) and math.isfinite(seconds * 1e9):
            yield f"{units.time(round(seconds * 1e9))} in probes"
        yield "no code of the recorder runs there"
        return
    own, buffers = analysis.get("syscalls.recorder"), analysis.get("recorder.peak_rss_bytes")
    yield f"{units.counted(own, 'system call')}" if own is not None else "system calls unknown"
    yield f"at most {units.size(buffers)} of buffers" if buffers is not None else "buffers unknown"
    yield "neither is in the figures"


def _beside(analysis):
    cpu, each = analysis.get("recorder_cpu_ns"), analysis.get("recorder.bytes_per_event")
    yield f"CPU time of the recorder {UNKNOWN if cpu is None else units.time(cpu)}"
    yield (f"a trace of {units.size(analysis.get('recorder.trace_bytes'))}"
           + ("" if each is None else f", {each:.2f} bytes an event"))
