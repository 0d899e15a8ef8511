#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""How fast traces are read: `./dev bench analyzer`.

Each workload is recorded once, by heapledger and by heaptrack (`--raw`); then both files are read in turn,
as often as --rounds says, and the medians of the CPU time of reading (one core each) are given, with events a
second and peak memory. A generated trace of --events with --live live blocks comes last; heaptrack has no
part in that. Nothing here is a test: no figure passes or fails.
"""

import argparse
import glob
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

INTERPRET = '/usr/lib/heaptrack/libexec/heaptrack_interpret'
COLUMNS = '{:14} {:26} {:>12} {:>8} {:>8} {:>9} {:>10}'


def measured(argv):
    """CPU seconds, wall seconds and peak memory in MiB of a command."""
    started = time.monotonic()
    process = subprocess.Popen([str(word) for word in argv], stdin=subprocess.DEVNULL,
                               stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    if status != 0:
        sys.exit(f'analyzer: {argv} ended with {status}')
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started, usage.ru_maxrss / 1024


def events_of(heapledger, trace):
    done = subprocess.run([heapledger, 'analyze', '--json', '-', trace], check=True, capture_output=True,
                          text=True, stdin=subprocess.DEVNULL)
    return json.loads(done.stdout)['events']['total']


class Bench:
    def __init__(self, build, rounds):
        self.heapledger = build / 'analyzer' / 'heapledger'
        self.work = build / 'tests' / 'bench' / 'workloads'
        self.tracegen = build / 'tests' / 'unit' / 'tracegen'
        self.rounds = rounds

    def show(self, name, how, events, runs):
        cpu = statistics.median(run[0] for run in runs)
        spread = (max(run[0] for run in runs) - min(run[0] for run in runs)) / 2
        memory = max(run[2] for run in runs)
        print(COLUMNS.format(name, how, f'{events:,}', f'{cpu:.2f}', f'± {spread:.2f}',
                             f'{events / cpu / 1e6:.1f}', f'{memory:.0f}'), flush=True)

    def compare(self, name, commands, events):
        runs = {how: [] for how in commands}
        for number in range(self.rounds):
            order = list(commands) if number % 2 else list(reversed(commands))
            for how in order:
                runs[how].append(measured(commands[how]))
        for how in commands:
            self.show(name, how, events, runs[how])

    def readings(self, trace, folder):
        return {'analyze': [self.heapledger, 'analyze', trace],
                'analyze --json, its peaks': [self.heapledger, 'analyze', '--json', folder / 'json', trace]}

    def workload(self, name):
        with tempfile.TemporaryDirectory(prefix='heapledger-bench-') as place:
            folder = Path(place)
            subprocess.run([self.heapledger, 'record', '-q', '--kernel', 'off', '-o', folder / 'trace',
                            '--stacks', '16', '--', self.work, name], check=True,
                           stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
            commands = self.readings(folder / 'trace', folder)
            commands.update(self.heaptrack(name, folder))
            self.compare(name, commands, events_of(self.heapledger, folder / 'trace'))

    def heaptrack(self, name, folder):
        """Its interpreter, which names what was recorded, and what prints that."""
        if not shutil.which('heaptrack') or not os.path.exists(INTERPRET):
            return {}
        subprocess.run(['heaptrack', '--raw', '-o', folder / 'heaptrack', self.work, name], check=True,
                       stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        raw, = glob.glob(f'{folder}/heaptrack*')
        named = folder / 'named.gz'
        read = {'.gz': 'zcat', '.zst': 'zstd -dc'}[Path(raw).suffix]
        commands = {'heaptrack_interpret': ['sh', '-c', f'{read} {raw} | {INTERPRET} | gzip -1 > {named}'],
                    'heaptrack_print': ['heaptrack_print', '-f', named]}
        measured(commands['heaptrack_interpret'])
        return commands

    def generated(self, events, live):
        with tempfile.TemporaryDirectory(prefix='heapledger-bench-') as place:
            folder = Path(place)
            (folder / 'trace').mkdir()
            subprocess.run([self.tracegen, '--random', str(events), str(live), '4', folder / 'trace'],
                           check=True)
            self.compare('generated', self.readings(folder / 'trace', folder), events)


def main():
    parser = argparse.ArgumentParser(prog='./dev bench analyzer', description=__doc__.split('\n')[0])
    parser.add_argument('--rounds', type=int, default=3)
    parser.add_argument('--events', type=int, default=200_000_000)
    parser.add_argument('--live', type=int, default=1_000_000)
    parser.add_argument('workloads', nargs='*', default=['churn', 'mixed', 'two-threads', 'server'])
    options = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    bench = Bench(Path(os.environ['HEAPLEDGER_BUILD']), options.rounds)
    print(f'{options.rounds} rounds, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}')
    print(COLUMNS.format('', '', 'events', 'CPU s', '', 'M/s', 'MiB'))
    for name in options.workloads:
        bench.workload(name)
    if options.events:
        bench.generated(options.events, options.live)


if __name__ == '__main__':
    main()
