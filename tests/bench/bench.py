#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Times allocators, and recording, side by side: `./dev bench allocator`, `./dev bench recording`.

Every round runs each candidate once on each workload, in an order that changes from round to round,
so that what disturbs the machine disturbs all alike. The tables give the medians of the rounds' ratios to
plain glibc in the same round, with half the spread between the quartiles. Nothing here is a test: no
figure passes or fails.

On a virtual machine the host moves CPUs about: a cache line then goes between them in one of two times,
and programs of several threads, which a recorded one always is, take one of two. So that time is taken
before and after each workload's runs of a round. If it has changed meanwhile they are made once more;
and rounds with near and with far CPUs have tables of their own.
"""

import argparse
import json
import math
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEERS = {
    'jemalloc': 'libjemalloc.so.2',
    'mimalloc': 'libmimalloc.so.2',
    'tcmalloc': 'libtcmalloc_minimal.so.4',
}
LIBRARY_FOLDERS = [Path('/usr/lib/x86_64-linux-gnu'), Path('/usr/lib64'), Path('/usr/local/lib')]
HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / 'fidelity'))
sys.dont_write_bytecode = True
REAL_PROGRAMS = ['sqlite3', 'gcc', 'python3 malloc', 'redis-server']
START_RUNS = 21
MOVED = 2       # the CPUs have been moved if a line's time changes by this factor
AGAIN = 3       # as often at most are runs made again for that
# What a run gives: wall seconds, CPU seconds, peak RSS in bytes, and of a recording, its events and
# bytes an event.
WALL, CPU, RSS, EVENTS, EVENT_BYTES = range(5)


class Candidate:
    """One way of running a program: an environment, or a command before it."""

    def __init__(self, name, preload=None, prefix=()):
        self.name, self.preload, self.prefix = name, preload, list(prefix)

    def words(self, folder, plain=''):
        """What stands before the program. `plain`: what it needs to run on glibc's malloc."""
        words = [word.replace('@OUT@', str(folder / 'out')) for word in self.prefix]
        variable = f'LD_PRELOAD={self.preload}' if self.preload else '' if words else plain
        return (['/usr/bin/env', variable] if variable else []) + words


def events_of(folder):
    """How many a recording has and the bytes of each; None if there is none."""
    try:
        session = json.loads((folder / 'out' / 'session.json').read_text())
    except (OSError, NotADirectoryError):
        return None, None
    events = sum(stream['events'] for stream in session['streams'])
    size = sum(file.stat().st_size for file in (folder / 'out').glob('*.hl[ts]'))
    return events, size / events if events else None


class Workload:
    """A command of our own, started by a small program: what Python held before exec would count as
    the program's."""

    def __init__(self, argv):
        self.argv = argv

    def run(self, candidate, folder, build):
        environment = {key: value for key, value in os.environ.items() if key != 'LD_PRELOAD'}
        argv = [str(build / 'tests/fidelity/peak'), str(folder / 'peak'),
                *candidate.words(folder), *self.argv]
        shutil.rmtree(folder / 'out', ignore_errors=True)
        start = time.perf_counter()
        child = subprocess.Popen(argv, env=environment, stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(child.pid, 0)
        seconds = time.perf_counter() - start
        child.returncode = status
        if status != 0:
            sys.exit(f'bench: {candidate.name}: {" ".join(argv)}: wait status {status}')
        peak = int((folder / 'peak').read_text()) * 1024
        return seconds, usage.ru_utime + usage.ru_stime, peak, *events_of(folder)


class RealProgram:
    """One of the fidelity table's, in a folder of its own for each run; what loads it is part of
    the time."""

    def __init__(self, program):
        self.program = program

    def run(self, candidate, folder, build):
        place = folder / 'program'
        shutil.rmtree(folder / 'out', ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        self.program.prepare(place)
        prefix = [str(build / 'tests/fidelity/peak'), str(folder / 'peak'),
                  *candidate.words(folder, self.program.plain)]
        before = os.times()
        start = time.perf_counter()
        self.program.run(place, prefix)
        seconds = time.perf_counter() - start
        after = os.times()
        cpu = (after.children_user + after.children_system - before.children_user -
               before.children_system)
        peak = int((folder / 'peak').read_text()) * 1024
        return seconds, cpu, peak, *events_of(folder)


def peers():
    for name, file in PEERS.items():
        for folder in LIBRARY_FOLDERS:
            if (folder / file).exists():
                yield Candidate(name, preload=folder / file)
                break
        else:
            print(f'bench: {name}: {file} is not installed, left out', file=sys.stderr)


def line_time(build):
    """Nanoseconds of a cache line from one CPU to another and back, 0 if there is but one CPU."""
    return int(subprocess.run([build / 'tests/bench/cores'], check=True, capture_output=True).stdout)


def have_moved(before, after):
    return max(before, after) > MOVED * min(before, after)


def measure(candidates, tasks, rounds, folder, build, quiet=False):
    """results[task][candidate] = list of what a run gives, one a round; lines[task] = the cache line's
    time in that round, None if it was not the same before and after."""
    results = {name: {c.name: [] for c in candidates} for name in tasks}
    lines = {name: [] for name in tasks}
    before = line_time(build)
    for turn in range(rounds):
        for name, task in tasks.items():
            shift = turn % len(candidates)
            order = candidates[shift:] + candidates[:shift]
            for _ in range(AGAIN):
                runs = {c.name: task.run(c, folder, build) for c in order}
                start, before = before, line_time(build)
                if not have_moved(start, before):
                    break
            for candidate, run in runs.items():
                results[name][candidate].append(run)
            lines[name].append(None if have_moved(start, before) else before)
        if not quiet:
            print(f'bench: round {turn + 1} of {rounds}', file=sys.stderr)
    return results, lines


def spread(values):
    low, _, high = statistics.quantiles(values, n=4)
    return (high - low) / 2


def geometric_mean(values):
    return math.exp(statistics.fmean(math.log(value) for value in values))


def table(results, names, column, base, title):
    lines = [f'{title}: median of the rounds\' ratios to {base}, ± half the quartiles\' distance', '',
             '| workload | ' + ' | '.join(names) + ' |', '|---|' + '---|' * len(names)]
    ratios = {name: [] for name in names}
    for workload, runs in results.items():
        cells = []
        for name in names:
            values = [run[column] / reference[column]
                      for run, reference in zip(runs[name], runs[base])]
            ratio = statistics.median(values)
            ratios[name].append(ratio)
            cells.append(f'{ratio:.2f} ± {spread(values):.2f}' if len(values) > 1
                         else f'{ratio:.2f}')
        lines.append(f'| {workload} | ' + ' | '.join(cells) + ' |')
    lines.append('| geometric mean | ' +
                 ' | '.join(f'**{geometric_mean(ratios[name]):.3f}**' for name in names) + ' |')
    return lines


def placed_tables(results, lines, names):
    """The times by how near the CPUs were, where they have been moved."""
    known = [line for times in lines.values() for line in times if line]
    if not known or not have_moved(min(known), max(known)):
        return []
    limit = math.sqrt(min(known) * max(known))
    out = []
    for title, is_wanted in (('near', lambda line: line < limit), ('far', lambda line: line >= limit)):
        part, took = {}, []
        for workload, runs in results.items():
            rounds = [i for i, line in enumerate(lines[workload]) if line and is_wanted(line)]
            took += [lines[workload][i] for i in rounds]
            if rounds:
                part[f'{workload} ({len(rounds)})'] = {
                    name: [values[i] for i in rounds] for name, values in runs.items()}
        out += ['', *table(part, names, WALL, 'glibc',
                           f'Time with {title} CPUs (a cache line there and back in '
                           f'{min(took)} to {max(took)} ns) and (rounds)')]
        if len(part) < len(results):
            out.pop() # a mean of the workloads that happen to be there would say nothing
    return out


def event_table(results):
    """What recording adds to the time of the whole command, loading and the collector included, by the
    number of events."""
    names = [name for name in ('recorded', 'stacks 16') if name in next(iter(results.values()))]
    titles = [f'{name}: {what}' for name in names for what in ('ns', 'bytes on disk')]
    lines = ['An event: added time of the medians to that of glibc, and median of bytes', '',
             '| workload | events | ' + ' | '.join(titles) + ' |', '|---|---|' + '---|' * len(titles)]

    def median(runs, column):
        return statistics.median(run[column] for run in runs)

    for workload, runs in results.items():
        cells = [f'{median(runs[names[0]], EVENTS):,.0f}']
        for name in names:
            added = median(runs[name], WALL) - median(runs['glibc'], WALL)
            cells += [f"{added / median(runs[name], EVENTS) * 1e9:.1f}",
                      f'{median(runs[name], EVENT_BYTES):.2f}']
        lines.append(f'| {workload} | ' + ' | '.join(cells) + ' |')
    return lines


def start_line(candidates, folder, build):
    """What a recording costs once: /bin/true, which does nothing."""
    task = Workload(['/bin/true'])
    results, _ = measure(candidates, {'true': task}, START_RUNS, folder, build, quiet=True)
    runs = results['true']
    plain = statistics.median(run[WALL] for run in runs['glibc'])
    cost = {c.name: (statistics.median(run[WALL] for run in runs[c.name]) - plain) * 1e3
            for c in candidates if c.name != 'glibc'}
    return (f'Start and end, once a recording (/bin/true, medians of {START_RUNS}): ' +
            ', '.join(f'{name} {ms:.1f} ms' for name, ms in cost.items()))


def report(results, placed, candidates, arguments, elapsed):
    names = [c.name for c in candidates if c.name != 'glibc']
    lines = [f'`./dev bench {arguments.what} --rounds {arguments.rounds}`, {elapsed:.0f} s, '
             f'{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, '
             f'glibc {platform.libc_ver()[1]}']
    sets = {'': {name: runs for name, runs in results.items() if name not in REAL_PROGRAMS},
            ', real programs': {name: results[name] for name in results if name in REAL_PROGRAMS}}
    for title, part in sets.items():
        if part:
            lines += ['', *table(part, names, WALL, 'glibc', 'Time' + title)]
            lines += placed_tables(part, {name: placed[name] for name in part}, names)
            lines += ['', *table(part, names, RSS, 'glibc', 'Peak RSS' + title)]
    if 'recorded' in names:
        lines += ['', *event_table(results)]
    return '\n'.join(lines)


def library(build):
    return build / 'interposer/libheapledger.so'


def workloads(build):
    program = str(build / 'tests/bench/workloads')
    names = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    return {name: Workload([program, name]) for name in names}


def allocator(build):
    candidates = [Candidate('glibc'), Candidate('heapledger', preload=library(build)), *peers()]
    return candidates, workloads(build)


def recorded(build, name, *options):
    return Candidate(name, prefix=[str(build / 'analyzer/heapledger'), 'record', '-q',
                                   '--kernel', 'off', *options, '-o', '@OUT@', '--'])


def recording(build):
    from programs import programs, python, sqlite

    candidates = [Candidate('glibc'), Candidate('unrecorded', preload=library(build)),
                  recorded(build, 'recorded'),
                  recorded(build, 'stacks 16', '--stacks', '16')]
    heaptrack = shutil.which('heaptrack')
    if heaptrack:
        candidates.append(Candidate('heaptrack', prefix=[heaptrack, '-r', '-o', '@OUT@']))
    else:
        print('bench: heaptrack is not installed, left out', file=sys.stderr)
    # A second of each: what a recording costs once, whatever it records, has a line of its own.
    real = {program.name: RealProgram(program)
            for program in (*programs(), sqlite(16000), python('malloc', 120000))
            if program.name in REAL_PROGRAMS}
    return candidates, {**workloads(build), **real}


def main():
    parser = argparse.ArgumentParser(prog='./dev bench', description=__doc__.split('\n')[0])
    parser.add_argument('what', choices=['allocator', 'recording'])
    parser.add_argument('--rounds', type=int, default=7)
    parser.add_argument('--only', metavar='WORKLOAD,...', help='leave the others out')
    parser.add_argument('--without', metavar='CANDIDATE,...', default='')
    parser.add_argument('--json', type=Path, help='every single run, for the record')
    arguments = parser.parse_args()
    build = Path(os.environ['HEAPLEDGER_BUILD'])

    with tempfile.TemporaryDirectory(prefix='heapledger-bench-') as folder:
        make = allocator if arguments.what == 'allocator' else recording
        candidates, tasks = make(build)
        candidates = [c for c in candidates if c.name not in arguments.without.split(',')]
        if arguments.only:
            wanted = arguments.only.split(',')
            unknown = set(wanted) - set(tasks)
            if unknown:
                parser.error(f'no workload {", ".join(sorted(unknown))}')
            tasks = {name: tasks[name] for name in wanted}
        start = time.perf_counter()
        results, placed = measure(candidates, tasks, arguments.rounds, Path(folder), build)
        text = report(results, placed, candidates, arguments, time.perf_counter() - start)
        if arguments.what == 'recording':
            text += '\n\n' + start_line(candidates, Path(folder), build)
    print(text)
    if arguments.json:
        arguments.json.write_text(json.dumps({'command': sys.argv[1:], 'runs': results, 'cache_line_ns': placed}))


if __name__ == '__main__':
    main()
