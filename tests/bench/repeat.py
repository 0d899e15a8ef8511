#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How much the counts differ from run to run: `./dev bench repeat [PROGRAM...]`.

Each program is recorded again and again, with the address space laid out anew each time, and a line
says for each system call of the heap, the allocator's calls and the peaks whether they were the same
or from what to what they went. Nothing here is a test: no figure passes or fails. What the gate's
default tolerances are worth is read from it (docs/ci.md).
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'fidelity'))
sys.dont_write_bytecode = True

import programs  # noqa: E402

SYSCALLS = ('brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect')
FIGURES = (('calls', 'events', 'calls'), ('requested', 'peak', 'requested_bytes'),
           ('mapped', 'peak', 'mapped_bytes'), ('RSS', 'peak', 'rss_bytes'))


def listed():
    """The programs of the fidelity table, and python3 as it is run, with hashes at random."""
    random = programs.python('malloc')
    random.name, random.env = 'python3 hashes', {**random.env, 'PYTHONHASHSEED': 'random'}
    return [*programs.programs(), random]


def figures(heapledger, program, place, policy):
    shutil.rmtree(place / 'trace', ignore_errors=True)
    folder = place / 'work'
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(place / 'made', folder, symlinks=True)
    program.run(folder, [heapledger, 'record', '-q', '--kernel', 'off', '--policy', policy, '-o',
                         place / 'trace', '--'])
    analysis = json.loads(subprocess.run([heapledger, 'analyze', '--json', '-', place / 'trace'],
                                         check=True, stdout=subprocess.PIPE).stdout)
    if not analysis['complete']:
        sys.exit(f'repeat: {program.name}: events are missing')
    return {**{name: analysis['syscalls'][name] for name in SYSCALLS},
            **{name: analysis[part][key] for name, part, key in FIGURES}}


def told(name, values):
    least, most = min(values), max(values)
    if least == most:
        return f'{name} {least:,}'
    return f'{name} {least:,} to {most:,} (+{100 * (most - least) / least if least else 100:.2f} %)'


def show(heapledger, program, rounds, policy):
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch)
        (place / 'made').mkdir()
        program.prepare(place / 'made')
        runs = [figures(heapledger, program, place, policy) for _ in range(rounds)]
    same = [told(name, [run[name] for run in runs]) for name in runs[0]
            if len({run[name] for run in runs}) == 1]
    other = [told(name, [run[name] for run in runs]) for name in runs[0]
             if len({run[name] for run in runs}) > 1]
    print(f'{program.name}\n  the same: {", ".join(same) or "nothing"}\n'
          f'  not:      {", ".join(other) or "nothing"}', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    known = {program.name: program for program in listed()}
    parser.add_argument('what', nargs='*', help='of ' + ', '.join(known))
    parser.add_argument('--runs', type=int, default=20)
    parser.add_argument('--policy', choices=['brk', 'mmap', 'hybrid'], default='hybrid')
    options = parser.parse_args()
    unknown = [name for name in options.what if name not in known]
    if options.runs < 2 or unknown:
        parser.error('--runs: 2 at least' if not unknown else f'not known: {", ".join(unknown)}')
    heapledger = Path(os.environ.get('HEAPLEDGER_BUILD', 'build')).resolve() / 'analyzer/heapledger'
    print(f'{options.runs} runs, policy {options.policy}, Linux {platform.release()}', flush=True)
    for name in options.what or known:
        show(heapledger, known[name], options.runs, options.policy)
    return 0


if __name__ == '__main__':
    sys.exit(main())
