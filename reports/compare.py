# SPDX-License-Identifier: MIT
#
# `heapledger compare`: a program under several policies and allocators, or two traces. Started by
# heapledger with its own path in HEAPLEDGER_BIN. Runs are compare_runs.py's, traces
# compare_traces.py's; this reads the arguments, writes what they give and chooses the exit code.

import json
import os
import sys

sys.dont_write_bytecode = True  # an installed or read-only folder is left as it is

import command
import compare_runs
import compare_table
import compare_traces
import output
import plain
import units
from load import FINDING, Failure, NO_EVIDENCE, OK, USAGE

RUNS_SCHEMA = "heapledger-compare/1"
TRACES_SCHEMA = "heapledger-compare-traces/1"
_MARK = b'"schema": "heapledger-compare'


def arguments(argv):
    parser = command.Parser(
        "compare", usage="heapledger compare [OPTION...] -- COMMAND [ARGUMENT...]\n"
                         "       heapledger compare [--json FILE] BEFORE AFTER",
        description="Runs a program under several policies and allocators, or compares two trace "
                    "directories.",
        epilog="Exit status: 0 compared, 1 the program failed in a run, 2 wrong usage, 3 unreadable "
               "trace, 4 not enough evidence: events are missing, or it cannot be recorded.")
    split = argv.index("--") if "--" in argv else len(argv)
    parser.add_argument("traces", nargs="*")
    parser.add_argument("--policy", metavar="NAME,...",
                        help="brk, mmap, hybrid, or none (default: all three)")
    parser.add_argument("--observe", metavar="NAME,...", default="",
                        help="also glibc, jemalloc, mimalloc, tcmalloc, a path")
    parser.add_argument("--runs", metavar="N", type=int,
                        help="runs of each, as it is and recorded (default: 5)")
    parser.add_argument("--stdin", metavar="FILE",
                        help='what each run reads; "-": our standard input')
    parser.add_argument("--show", action="store_true",
                        help="show what the program prints, on standard error")
    parser.add_argument("--json", metavar="FILE",
                        help='write the figures as JSON; "-": on standard output')
    parser.add_argument("--html", metavar="FILE",
                        help="write table and address maps as a page")
    parser.add_argument("--force", action="store_true",
                        help="replace a file that compare did not write")
    options = parser.parse_args(argv[:split])
    options.words = argv[split + 1:]
    _check(parser, options)
    return options


def _check(parser, options):
    """Exactly one of a command and two traces, and numbers and names in their ranges."""
    if options.words and options.traces:
        parser.error(f"{options.traces[0]}: is neither an option nor behind --")
    if not options.words and len(options.traces) != 2:
        parser.error("a command behind --, or two trace directories, are needed")
    if not options.words:
        for name in ("policy", "runs", "stdin", "observe", "show", "html"):
            if getattr(options, name):
                parser.error(f"--{name}: is for a command, not for traces")
    if options.html and options.json and os.path.realpath(options.html) == os.path.realpath(
            options.json):
        parser.error("--json and --html name the same file")
    if options.runs is None:
        options.runs = 5
    if not 1 <= options.runs <= 1000:
        parser.error(f"--runs {options.runs}: must be 1 to 1000")
    options.policy = _names("policy", options.policy or ",".join(compare_runs.POLICIES), parser)
    options.observe = _names("observe", options.observe, parser)
    if options.policy == ["none"]:
        options.policy = []
    for name in options.policy:
        if name not in compare_runs.POLICIES:
            parser.error(f"--policy {name}: is none of {', '.join(compare_runs.POLICIES)}")
    if not options.policy and not options.observe:
        parser.error("--policy none: needs --observe")


def _names(option, text, parser):
    names = text.split(",") if text else []
    if "" in names or len(set(names)) < len(names):
        parser.error(f"--{option} {text}: has a name twice, or an empty one")
    return names


def progress(runs):
    """Says on a terminal what is being run; the line is gone afterwards."""
    if not sys.stderr.isatty():
        return lambda number, variant: None, lambda: None

    def show(number, variant):
        text = plain.escaped(f"heapledger: compare: run {number} of {runs}, {variant.name}")
        sys.stderr.write(f"\r\033[K{text[:compare_table.COLUMNS - 1]}")
        sys.stderr.flush()

    return show, lambda: sys.stderr.write("\r\033[K")


def compare_command(options):
    if options.html:
        import compare_page  # not for everybody: it needs matplotlib
        output.guard(options.html, compare_page.MARK, options.force, "compare")
    compare_runs.refuse_for_others()
    kinds = compare_runs.variants(options.policy, options.observe)
    show, clear = progress(options.runs)
    try:
        results = compare_runs.measure(kinds, options.words, options.stdin, options.show,
                                       bool(options.html), options.runs, show)
    finally:
        clear()
    data = {"schema": RUNS_SCHEMA, "command": options.words, "runs": options.runs,
            "variants": [_variant(result) for result in results]}
    notes = _notes(results)
    if options.html:
        text = compare_page.render(options.words, options.runs, results, notes)
        with output.replacing(options.html) as path, open(path, "w", encoding="utf-8",
                                                          errors="backslashreplace") as file:
            file.write(text)
    write(options, data, [*_head(options), *compare_table.lines(results), "", *notes])
    if any(not result.complete for result in results):
        return NO_EVIDENCE
    return FINDING if any(result.failed for result in results) else OK


def _variant(result):
    names = [name for _, rows in (compare_table.BARE, compare_table.RECORDED) for name, _ in rows]
    return {"name": result.variant.name, "policy": result.variant.policy,
            "library": result.variant.preloaded, "complete": result.complete, "notes": result.notes,
            "failed": [{"run": failed.run, "recorded": failed.recorded, "status": failed.status}
                       for failed in result.failed],
            "figures": {name: result.figure(name) for name in sorted({*names, *result.values})}}


def _head(options):
    words = " ".join(options.words)
    runs = units.counted(options.runs, "run")
    return [*compare_table.wrap(f"heapledger compare  {words}"[:1000], "  "),
            f"  {runs} of each, by turns: median (lowest-highest)" if options.runs > 1
            else "  1 run of each"]


def _notes(results):
    lines = []
    for result in results:
        if result.failed:
            lines += _failures(result)
    for result in results:
        name = result.variant.name
        if result.own_malloc:
            lines += compare_table.wrap(f"{name}: {result.own_malloc}, whose calls are not recorded", "  ")
            continue
        if result.figure("syscalls") is None:
            lines += compare_table.wrap(f"{name}: system calls were not measured; the kernel probe "
                                        "sees them (heapledger doctor)", "  ")
        if not result.complete:
            lines += compare_table.wrap(f"{name}: not enough evidence: events are missing", "  ")
    return lines


def _failures(result):
    first = result.failed[0]
    runs = 2 * len(result.values["wall_ns"])
    how = {failed.status for failed in result.failed}
    status = "status " + " or ".join(str(number) for number in sorted(how))
    text = (f"{result.variant.name}: the program failed in {len(result.failed)} of "
            f"{units.counted(runs, 'run')}, with {status}")
    said = [compare_table.wrap("  " + line, "    ") for line in first.said if line.strip()]
    return compare_table.wrap(text, "  ") + [line for part in said for line in part]


def write(options, data, lines):
    if options.json == "-":
        print(json.dumps(data, indent=2))
        return
    if options.json:
        with output.replacing(options.json) as path, open(path, "w", encoding="utf-8") as file:
            file.write(json.dumps(data, indent=2) + "\n")
    while lines and not lines[-1]:
        lines.pop()
    print("\n".join(lines))


def compare_directories(options):
    comparison = compare_traces.compare(*options.traces)
    write(options, {"schema": TRACES_SCHEMA, **comparison.data()}, comparison.lines())
    return OK if comparison.complete else NO_EVIDENCE


def main():
    options = arguments(sys.argv[1:])
    if options.json and options.json != "-":
        output.guard(options.json, _MARK, options.force, "compare")
    if not options.words:
        return compare_directories(options)
    if options.stdin not in (None, "-") and not os.path.isfile(options.stdin):
        raise Failure(USAGE, f"--stdin {options.stdin}: is not a file")
    return compare_command(options)


if __name__ == "__main__":
    command.run("compare", main)
