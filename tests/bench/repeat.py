#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How much the counts differ from run to run: `./dev bench repeat [PROGRAM...]`.

Each program is recorded again and again, with the address space laid out anew each time (--fixed: as
the last time), and a line says for each figure of the gate whether it was the same or from what to
what it went; and how often the gate's default tolerance would call that a regression, when the least of
so many runs is held against the least of as many others, all taken at random from these. Nothing here
is a test: no figure passes or fails. What the default tolerances are worth is read from it (docs/ci.md).
"""

import argparse
import copy
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'fidelity'))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent.parent / 'reports'))
sys.dont_write_bytecode = True

import gate_baseline  # noqa: E402
import programs  # noqa: E402
from gate_tolerance import Tolerances  # noqa: E402

RUNS = (1, 3, 5)  # of the gate


def listed():
    """The programs of the fidelity table, xz with one thread, and python3 and perl as they are run,
    with hashes at random."""
    known = {program.name: program for program in programs.programs()}
    python, perl, xz = (copy.copy(known[name]) for name in ('python3 malloc', 'perl', 'xz -T2'))
    python.name, python.env = 'python3 hashes', {**python.env, 'PYTHONHASHSEED': 'random'}
    perl.name, perl.argv = 'perl hashes', ['env', '-u', 'PERL_HASH_SEED', *perl.argv]
    xz.name, xz.argv = 'xz -T1', ['xz', '-T1', *xz.argv[2:]]
    return [*known.values(), python, perl, xz]


def figures(heapledger, program, place, options):
    shutil.rmtree(place / 'trace', ignore_errors=True)
    folder = place / 'work'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / 'made', folder, symlinks=True)
    program.run(folder, [*(['setarch', '-R'] if options.fixed else []), heapledger, 'record', '-q',
                         '--kernel', 'off', '--policy', options.policy, '-o', place / 'trace', '--'])
    analysis = json.loads(subprocess.run([heapledger, 'analyze', '--json', '-', place / 'trace'],
                                         check=True, stdout=subprocess.PIPE).stdout)
    if not analysis['complete']:
        sys.exit(f'repeat: {program.name}: events are missing')
    return {name: analysis[part][key] for name, (part, key), _ in gate_baseline.NAMES}


def told(name, values):
    least, most = min(values), max(values)
    if least == most:
        return f'{name} {least:,}'
    return f'{name} {least:,} to {most:,} (+{100 * (most - least) / least if least else 100:.2f} %)'


def alarms(name, values, runs):
    """How likely the gate is to fail without a cause, when each run gives any of these."""
    tolerances, ordered, size = Tolerances(), sorted(values), len(values)

    def within(low, high):
        """All runs lie there."""
        return (max(0, high - low + 1) / size) ** runs

    likely = 0
    for low in range(size):
        for high in range(low, size):
            exactly = within(low, high) - within(low + 1, high) - within(low, high - 1) \
                + within(low + 1, high - 1)
            limit = ordered[low] + tolerances.of(name, ordered[low], ordered[high] - ordered[low])
            likely += exactly * (sum(value > limit for value in ordered) / size) ** runs
    return likely


def show(heapledger, program, options):
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / 'made').mkdir()
        program.prepare(place / 'made')
        runs = [figures(heapledger, program, place, options) for _ in range(options.runs)]
    same = [told(name, [run[name] for run in runs]) for name in runs[0]
            if len({run[name] for run in runs}) == 1]
    other = [told(name, [run[name] for run in runs]) for name in runs[0]
             if len({run[name] for run in runs}) > 1]
    print(f'{program.name}\n  the same: {", ".join(same) or "nothing"}\n'
          f'  not:      {", ".join(other) or "nothing"}', flush=True)
    for name in runs[0]:
        values = [run[name] for run in runs]
        likely = [alarms(name, values, number) for number in RUNS]
        if any(likely):
            print(f'  {name}, sorted: {" ".join(map(str, sorted(values)))}; false alarms: ' + ', '.join(
                f'{100 * part:.2g} % at --runs {number}' for part, number in zip(likely, RUNS)),
                flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = {program.name: program for program in listed()}
    parser.add_argument('what', nargs='*', help='of ' + ', '.join(known))
    parser.add_argument('--runs', type=int, default=20)
    parser.add_argument('--fixed', action='store_true', help='addresses are not at random')
    parser.add_argument('--policy', choices=['brk', 'mmap', 'hybrid'], default='hybrid')
    options = parser.parse_args()
    unknown = [name for name in options.what if name not in known]
    if options.runs < 2 or unknown:
        parser.error('--runs: 2 at least' if not unknown else f'not known: {", ".join(unknown)}')
    heapledger = Path(os.environ.get('HEAPLEDGER_BUILD', 'build')).resolve() / 'analyzer/heapledger'
    print(f'{options.runs} runs, policy {options.policy}'
          f'{", addresses fixed" if options.fixed else ""}, Linux {platform.release()}', flush=True)
    for name in options.what or known:
        show(heapledger, known[name], options)
    return 0


if __name__ == '__main__':
    sys.exit(main())
