# SPDX-License-Identifier: MIT
#
# `heapledger check`: holds traces, or runs that it records, against a budget and a baseline, for CI.
# Started by heapledger with its own path in HEAPLEDGER_BIN. The verdict is the exit code: 0 kept,
# 1 exceeded, 4 cannot be told. The pieces are in gate_*.py.

import os
import sys
import tempfile

sys.dont_write_bytecode = True  # an installed or read-only folder is left as it is

import budget
import command
import execute
import gate_baseline
import gate_figures
import gate_files
import gate_github
import gate_judge
import gate_text
import plain
import units
from gate_tolerance import Tolerances
from load import Failure, NO_EVIDENCE, OK, USAGE, load

_USAGE = """heapledger check DIR... [--budget FILE] [--baseline FILE] [OPTION...]
       heapledger check --runs N [OPTION...] -- CMD...
       heapledger check --self-test"""


def arguments(argv):
    parser = command.Parser(
        "check", usage=_USAGE,
        description="Holds recordings of a program against a budget, a baseline or both. Of several "
                    "runs the lowest figure counts.",
        epilog="Exit status: 0 kept, 1 exceeded, 2 wrong usage or budget file, 3 unreadable trace or "
               "baseline, 4 not enough evidence.")
    parser.add_argument("directories", nargs="*")
    parser.add_argument("--budget", metavar="FILE", help="TOML file with the limits")
    parser.add_argument("--baseline", metavar="FILE", help="JSON file with the accepted figures")
    parser.add_argument("--tolerance", metavar="[NAME=]T", action="append", default=[],
                        help="how far off the baseline: 2%%, 64KiB or 2%%,64KiB")
    parser.add_argument("--update", action="store_true",
                        help="write the baseline instead of comparing with it")
    parser.add_argument("--ratchet", action="store_true",
                        help="fail, too, where a limit or baseline can be tightened")
    parser.add_argument("--runs", metavar="N", type=int, help="record CMD so many times")
    parser.add_argument("--record", metavar="ARG", action="append", default=[],
                        help="an argument for record, as in --record=--stacks=8")
    parser.add_argument("--json", metavar="FILE", help="write the verdict as JSON")
    parser.add_argument("--junit", metavar="FILE", help="write it as JUnit XML")
    parser.add_argument("--bencher", metavar="FILE", help="write the figures for Bencher")
    parser.add_argument("--github", action="store_true",
                        help="annotations and the step's summary for GitHub Actions")
    parser.add_argument("--self-test", action="store_true",
                        help="show that each kind of limit can fail here")
    program = argv[argv.index("--") + 1:] if "--" in argv else []
    options = parser.parse_args(argv[:argv.index("--")] if "--" in argv else argv)
    options.program = program
    fault = _fault(options, argv)
    if fault:
        parser.error(fault)
    return options


def _fault(options, argv):
    if options.self_test:
        return "--self-test stands alone" if len(argv) > 1 else None
    if not options.budget and not options.baseline:
        return "name --budget FILE, --baseline FILE or both"
    if options.update and not options.baseline:
        return "--update needs --baseline FILE"
    if options.tolerance and not options.baseline and not options.ratchet:
        return "--tolerance needs --baseline or --ratchet"
    if options.runs is not None and not 1 <= options.runs <= 1000:
        return "--runs must be from 1 to 1000"
    if options.runs is None and (options.program or options.record):
        return "a command and --record need --runs N"
    if options.runs is not None and (options.directories or not options.program):
        return "--runs N needs -- CMD... and no trace directory"
    if options.runs is None and not options.directories:
        return "name a trace directory, or --runs N -- CMD..."
    paths = [os.path.realpath(path) for path in (options.json, options.junit, options.bencher,
                                                 options.baseline, options.budget) if path]
    return "two of the files are the same" if len(set(paths)) < len(paths) else None


class Outcome:
    """All that the outputs show."""

    def __init__(self, options, runs, results, baseline):
        self.runs, self.results, self.baseline = runs, results, baseline
        self.budget, self.baseline_path = options.budget, options.baseline
        self.command = runs.analyses[0].get("command") or []
        self.code, self.last = gate_judge.verdict(results, runs, options.budget)

    def reasons(self, result):
        lines = gate_text.reasons(result, self.runs, self.baseline)
        return [line.replace("\u00a0", " ") for line in lines]

    def sentence(self, result):
        limit, measured = gate_text.pair_text(result)
        bound = "at least" if result.limit.least else "at most"
        note = f", {result.note}" if result.note else ""
        return plain.escaped(f"{result.limit.name}: {measured} measured, {bound} {limit} "
                             f"allowed{note}")


def judge_all(limits, runs, tolerances, ratchet):
    def slack(limit):
        return tolerances.of(limit.name, limit.limit) if ratchet else None
    return [gate_judge.judge(limit, runs, slack(limit), ratchet) for limit in limits]


def _load(directories, limits, baseline):
    wants_places = baseline or any(limit.path[0] in ("sites", "peak", "end") for limit in limits)
    rows = gate_figures.ALL_PLACES if wants_places else None
    return gate_figures.Runs([load(name, tables=False, top=rows) for name in directories])


def check(options, directories):
    """(outcome, baseline to be written or None)"""
    limits = budget.read(options.budget) if options.budget else []
    tolerances = Tolerances(options.tolerance)
    gate_files.guard(options)
    baseline = None
    if options.update:
        gate_baseline.guard(options.baseline)
    elif options.baseline:
        baseline = gate_baseline.read(options.baseline)
    names = gate_baseline.names(baseline) if options.baseline else []
    tolerances.refuse_unused([*names, *(limit.name for limit in limits)], options.update)
    runs = _load(directories(), limits, options.baseline)
    if baseline:
        limits = limits + gate_baseline.limits(baseline, options.baseline, runs, tolerances)
    return Outcome(options, runs, judge_all(limits, runs, tolerances, options.ratchet), baseline)


def show(options, outcome):
    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    lines = gate_text.table(outcome.results, outcome.runs, colour, outcome.baseline) \
        if outcome.results else []
    better = sum(result.state.lower() == "less" and result.limit.base is not None
                 for result in outcome.results)
    if better:
        lines.append(f"Better than the baseline: {units.counted(better, 'figure')}; "
                     "accept with --update")
    new = set(gate_baseline.phases(outcome.runs)) - set(outcome.baseline["phases"]) \
        if outcome.baseline else ()
    if new:
        lines += gate_text.wrap(plain.escaped(
            f"Not in the baseline, so not judged: {units.counted(len(new), 'phase')} "
            f"({', '.join(sorted(new))}); --update takes them in"))
    print("\n".join([*lines, plain.escaped(outcome.last)]))
    if options.github:
        print("\n".join(gate_github.annotations(outcome)))
        gate_github.summarise(outcome)


def finish(options, outcome):
    show(options, outcome)
    gate_files.write(options, outcome)
    code = outcome.code
    if options.update and code == OK:
        left_out = gate_baseline.write(options.baseline, outcome.runs)
        command.say("check", f"{options.baseline}: written"
                    + (f"; not measured: {', '.join(left_out)}" if left_out else ""))
    elif options.update:
        command.say("check", f"{options.baseline}: not written")
    unrecorded = outcome.runs.weakest.unrecorded
    if unrecorded and code != NO_EVIDENCE:
        command.say("check", f"{units.counted(unrecorded, 'process', 'processes')} of this run "
                             "could not be recorded; these figures are without "
                             + ("its part" if unrecorded == 1 else "their part"))
    if code == NO_EVIDENCE:
        command.say("check", outcome.last.replace("NOT ENOUGH EVIDENCE", "not enough evidence"))
    return code


def main():
    options = arguments(sys.argv[1:])
    if options.self_test:
        import gate_selftest
        return gate_selftest.run()
    if not options.runs:
        return finish(options, check(options, lambda: options.directories))
    with tempfile.TemporaryDirectory(prefix="heapledger-") as folder:
        return finish(options, check(options, lambda: execute.record_all(
            options.program, options.runs, folder, options.record)))


if __name__ == "__main__":
    command.run("check", main)
