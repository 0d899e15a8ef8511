#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Compares how programs take memory from the kernel under glibc's malloc and under ours, policy
hybrid: `./dev bench fidelity`.

Every round runs each program on both, in turns: once under strace for the counts of brk, mmap,
munmap, mremap and madvise (mprotect is shown for information), once without for peak RSS. Counts
are kept for every image that a program starts (gcc: gcc, cc1, as; threads belong to their process)
and medians over the rounds are compared: equal means within 10 % or 5 calls each, RSS within 5 %.
Loading a preloaded library is itself some mmaps: a program that does nothing says how many, and
they are subtracted from every image. glibc's runs have a variable as long as LD_PRELOAD, because
programs copy their environment into the heap. Exits 1 if anything is outside.
"""

import argparse
import os
import platform
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import programs
import strace

COMPARED = ['brk', 'mmap', 'munmap', 'mremap', 'madvise']
SHOWN = [*COMPARED, 'mprotect']
LOADER_CALLS = ['mmap', 'munmap', 'mprotect']  # what the dynamic linker makes for a library
RATIO, CALLS, RSS_RATIO = 0.10, 5, 0.05


def with_copy(program, master, action):
    """Runs action(folder) in a fresh copy of what the program was prepared with."""
    folder = master.with_name('run')
    shutil.copytree(master, folder, symlinks=True)
    try:
        return action(folder)
    finally:
        shutil.rmtree(folder)


def count_calls(program, master, variable):
    traces = master.with_name('traces')
    traces.mkdir()

    def action(folder):
        prefix = [*strace.command(traces), '-E', variable]
        program.run(folder, prefix)
        return strace.images(traces)
    try:
        return with_copy(program, master, action)
    finally:
        shutil.rmtree(traces)


def peak_rss(program, master, variable, helper):
    result = master.with_name('peak')

    def action(folder):
        program.run(folder, [helper, result, 'env', variable])
        return int(result.read_text())
    return with_copy(program, master, action)


def measure(program, library, rounds, helper, folder):
    """{way: ([images of a round], [KiB of a round])}"""
    variables = {'glibc': program.plain or f'NO_PRELOAD={library}',
                 'heapledger': f'LD_PRELOAD={library}'}
    master = folder / 'master'
    master.mkdir()
    program.prepare(master)
    found = {way: ([], []) for way in variables}
    for turn in range(rounds):
        for way in sorted(variables, reverse=turn % 2 == 1):
            found[way][0].append(count_calls(program, master, variables[way]))
            found[way][1].append(peak_rss(program, master, variables[way], helper))
    shutil.rmtree(master)
    print(f'fidelity: {program.name}: {rounds} rounds', file=sys.stderr)
    return found


def medians(rounds):
    """{image: (how many, {call: median over the rounds of the mean per process})}"""
    names = sorted({name for images in rounds for name in images})
    result = {}
    for name in names:
        seen = [images[name] for images in rounds if name in images]
        number = statistics.median_low(len(processes) for processes in seen)
        result[name] = (number, {
            call: statistics.median(statistics.fmean(p[call] for p in processes)
                                    for processes in seen) for call in SHOWN})
    return result


def is_equal(mine, theirs):
    return abs(mine - theirs) <= max(CALLS, RATIO * theirs)


def pair(theirs, mine, outside):
    text = f'{round(theirs, 1):.9g} / {round(mine, 1):.9g}'
    return f'**{text}**' if outside else text


def total(images):
    """Of all processes: the mean of each kind times their number."""
    return {call: sum(number * calls[call] for number, calls in images.values()) for call in SHOWN}


class Table:
    """A row for each program, with its peak RSS, and under it one for each image, if many."""

    def __init__(self, constant):
        self.constant, self.outside = constant, []
        self.lines = ['| program | ' + ' | '.join(SHOWN) + ' | peak RSS, KiB | equal |',
                      '|---|' + '---|' * (len(SHOWN) + 2)]

    def row(self, label, theirs, mine, rss=None):
        cells, outside = [], []
        for call in SHOWN:
            wrong = call in COMPARED and not is_equal(mine[call], theirs[call])
            outside += [call] if wrong else []
            cells.append(pair(theirs[call], mine[call], wrong))
        cells.append('')
        if rss:
            wrong = abs(rss[1] - rss[0]) > RSS_RATIO * rss[0]
            outside += ['RSS'] if wrong else []
            cells[-1] = f'{pair(*rss, wrong)} ({rss[1] / rss[0] - 1:+.1%})'
        self.lines.append(f'| {label} | ' + ' | '.join(cells) +
                          f' | {"no: " + ", ".join(outside) if outside else "yes"} |')
        self.outside += [f'{label}: {what}' for what in outside]

    def without_loading(self, images):
        """A forked child has its parent's libraries: nothing was loaded."""
        return {name: (number, calls if strace.is_forked(name) else
                       {call: calls[call] - self.constant[call] for call in SHOWN})
                for name, (number, calls) in images.items()}

    def program(self, program, found):
        theirs = medians(found['glibc'][0])
        mine = self.without_loading(medians(found['heapledger'][0]))
        rss = [statistics.median(found[way][1]) for way in ('glibc', 'heapledger')]
        nothing = (0, dict.fromkeys(SHOWN, 0))
        names = sorted({*theirs, *mine})
        label = program.name + (f', {len(names)} kinds of process' if len(names) > 1 else '')
        self.row(label, total(theirs), total(mine), rss)
        for name in names if len(names) > 1 else []:
            number, calls = theirs.get(name, nothing)
            self.row(f'{program.name}: {name}' + (f' ({number})' if number > 1 else ''),
                     calls, mine.get(name, nothing)[1])


def loading_cost(found):
    """What preloading costs an image. Only what the dynamic linker does: anything else of ours that
    every program pays stays in the table."""
    theirs, mine = (medians(found[way][0])['cat'][1] for way in ('glibc', 'heapledger'))
    cost = {call: mine[call] - theirs[call] if call in LOADER_CALLS else 0 for call in SHOWN}
    if cost['mmap'] <= 0:
        sys.exit('fidelity: the library was not loaded')
    return cost


def report(table, trivial, arguments, elapsed):
    rss = [statistics.median(trivial[way][1]) for way in ('glibc', 'heapledger')]
    cost = ', '.join(f'{table.constant[call]:g} {call}' for call in LOADER_CALLS)
    words = f' --tunables {arguments.tunables}' if arguments.tunables else ''
    return '\n'.join([
        f'`./dev bench fidelity --rounds {arguments.rounds}{words}`, {elapsed:.0f} s, '
        f'{os.cpu_count()} cores, Linux {platform.release()}, '
        f'glibc {platform.libc_ver()[1]}; '
        'glibc / heapledger: the whole program, and below it the median of one process of a kind.',
        '',
        f'Loading the library costs every process {cost}, subtracted below '
        f'(RSS of `cat`: {rss[0]:.0f} / {rss[1]:.0f} KiB, not subtracted).', '',
        *table.lines, '',
        'Outside: ' + ('; '.join(table.outside) if table.outside else 'nothing') + '.'])


def main():
    parser = argparse.ArgumentParser(prog='./dev bench fidelity')
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--tunables', help='GLIBC_TUNABLES for both')
    parser.add_argument('--only', metavar='PROGRAM,...', help='leave the others out')
    arguments = parser.parse_args()
    build = Path(os.environ['HEAPLEDGER_BUILD']).resolve()
    library = build / 'interposer' / 'libheapledger.so'
    helper = build / 'tests' / 'fidelity' / 'peak'
    if arguments.tunables:
        programs.ENVIRONMENT['GLIBC_TUNABLES'] = arguments.tunables
    chosen = programs.programs()
    if arguments.only:
        wanted = arguments.only.split(',')
        unknown = set(wanted) - {program.name for program in chosen}
        if unknown:
            parser.error(f'no program {", ".join(sorted(unknown))}')
        chosen = [program for program in chosen if program.name in wanted]

    start = time.monotonic()
    with tempfile.TemporaryDirectory(prefix='heapledger-fidelity-') as folder:
        def one(program):
            return measure(program, library, arguments.rounds, helper, Path(folder))
        trivial = one(programs.trivial())
        table = Table(loading_cost(trivial))
        for program in chosen:
            table.program(program, one(program))
    print(report(table, trivial, arguments, time.monotonic() - start))
    sys.exit(1 if table.outside else 0)


if __name__ == '__main__':
    main()
