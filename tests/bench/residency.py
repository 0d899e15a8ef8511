#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What snapshots of resident pages cost: `./dev bench residency`.

The share is the CPU time of all that makes and writes them, as the recording counts it, of the time that
the recording took; "behind" is by how much the anonymous memory in the sample before a snapshot is below that in the
highest sample, at best. With --rounds, recordings with and without them alternate, and the ratio of their times
is given. Nothing here is a test: no figure passes or fails.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

ARRAYS = '''import time
kept = []
for i in range(100):
    kept.append(bytearray(4 << 20)); time.sleep(0.02)
time.sleep(0.5); del kept[::2]; time.sleep(0.5)'''
COLUMNS = '{:22} {:>7} {:>9} {:>9} {:>7} {:>8} {:>8} {:>8}'


def programs(build):
    heap, work = str(build / 'tests/bench/heap'), str(build / 'tests/bench/workloads')
    names = subprocess.run([work], check=True, capture_output=True, text=True).stdout.split()
    return {'heap of 64 MiB': [heap, '64', '2000000'], 'heap of 1 GiB': [heap, '1024', '2000000'],
            'python3, 400 MiB': ['/usr/bin/python3', '-c', ARRAYS],
            **{name: [work, name] for name in names}}


class Bench:
    def __init__(self, build):
        self.command = build / 'analyzer' / 'heapledger'

    def dump(self, trace, kinds):
        done = subprocess.run([self.command, 'dump', '--kind', kinds, trace], check=True,
                              capture_output=True, text=True)
        for line in done.stdout.splitlines():
            words = line.split()
            yield words[3], dict(word.split('=') for word in words[4:] if '=' in word)

    def record(self, argv, residency):
        """Seconds, and what was found of snapshots."""
        with tempfile.TemporaryDirectory(prefix='heapledger-bench-') as folder:
            trace = f'{folder}/trace'
            subprocess.run([self.command, 'record', '-q', '-o', trace, '--kernel', 'off',
                            '--residency', residency, '--', *argv], check=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            session = json.loads(Path(trace, 'session.json').read_text())
            return session['duration_ns'] / 1e9, session['streams'][-1]['residency'], list(
                self.dump(trace, 'sample,resident_begin')) if residency != 'off' else []


def highest(records):
    """Anonymous bytes in the highest sample that a snapshot follows, and in the highest; runs and
    milliseconds of each snapshot."""
    sizes, runs, spans, anon = [], [], [], [0]
    for kind, fields in records:
        if kind == 'resident_begin':
            sizes.append(anon[-1])
            runs.append(int(fields['runs']))
            spans.append(int(fields['ns']) / 1e6)
        else:
            anon.append(int(fields['rss_anon']))
    return max(sizes, default=0), max(anon), runs or [0], spans or [0.0]


def row(bench, name, argv, rounds):
    seconds, of, records = bench.record(argv, '100ms')
    size, anon, runs, spans = highest(records)
    cells = [f'{seconds:.2f} s', of['snapshots'], f'{of["work_ns"] / seconds / 1e7:.2f} %',
             f'{statistics.median(spans):.2f}', f'{statistics.median(runs):.0f}',
             f'{max(0, 1 - size / anon) * 100:.1f} %' if anon else '-']
    ratios = []
    for number in range(rounds):
        order = ['100ms', 'off'] if number % 2 else ['off', '100ms']
        times = {way: bench.record(argv, way)[0] for way in order}
        ratios.append(times['100ms'] / times['off'])
    cells.append(f'{statistics.median(ratios):.3f}' if ratios else '-')
    print(COLUMNS.format(name, *cells), flush=True)


def main():
    parser = argparse.ArgumentParser(prog='./dev bench residency', description=__doc__.split('\n')[0])
    parser.add_argument('--only', metavar='PROGRAM,...', help='leave the others out')
    parser.add_argument('--rounds', type=int, default=0, help='pairs with and without')
    arguments = parser.parse_args()
    build = Path(os.environ.get('HEAPLEDGER_BUILD', 'build')).resolve()
    chosen = programs(build)
    if arguments.only:
        unknown = set(arguments.only.split(',')) - set(chosen)
        if unknown:
            parser.error(f'not known: {", ".join(sorted(unknown))}; there are {", ".join(chosen)}')
        chosen = {name: chosen[name] for name in arguments.only.split(',')}
    print(f'Linux {platform.release()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}')
    print(COLUMNS.format('', 'took', 'snapshots', 'share', 'ms', 'runs', 'behind', 'time'), flush=True)
    for name, argv in chosen.items():
        row(Bench(build), name, argv, arguments.rounds)
    return 0


if __name__ == '__main__':
    sys.exit(main())
