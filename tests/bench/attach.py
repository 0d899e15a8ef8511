#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What it costs a process to be attached to: `./dev bench attach`, as root.

One process does the same work with nobody attached, with `heapledger attach` and with `attach
--malloc`, in turn; the table gives medians of the processor time that it took, by the kernel's count.
Nothing here is a test: no figure passes or fails.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# A round of the victim: 13 calls of the allocator, or 5 system calls for memory and 4 page faults.
WORK = {'allocator call': ('calls 1 {}', 13, 20000), 'call or fault': ('maps {}', 9, 2000)}
WAYS = {'alone': None, 'attach': [], 'attach --malloc': ['--malloc']}


class Process:
    def __init__(self, build):
        self.process = subprocess.Popen([build / 'tests' / 'victims' / 'victim_attached'],
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def used_ns(self):
        return int(Path(f'/proc/{self.process.pid}/schedstat').read_text().split()[0])

    def time(self, order):
        before = self.used_ns()
        self.process.stdin.write(order.encode() + b'\n')
        self.process.stdin.flush()
        self.process.stdout.readline()
        return self.used_ns() - before


def attached(build, folder, pid, options):
    """None, or heapledger when it is there."""
    if options is None:
        return None
    process = subprocess.Popen([build / 'analyzer' / 'heapledger', 'attach', '-q', '--force', '-o',
                                folder / 'trace', '--kernel', 'require', *options, str(pid)])
    while not (folder / 'trace' / 'session.json').exists():
        if process.poll() is not None:
            sys.exit('heapledger attach does not work here')
        time.sleep(0.01)
    return process


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rounds', type=int, default=7)
    rounds = parser.parse_args().rounds
    build = Path(os.environ.get('HEAPLEDGER_BUILD', 'build')).resolve()
    process, found, hits = Process(build), {}, {}
    for _ in range(rounds):
        for way, options in WAYS.items():
            with tempfile.TemporaryDirectory() as name:
                recorder = attached(build, Path(name), process.process.pid, options)
                for what, (order, each, count) in WORK.items():
                    took = process.time(order.format(count)) / count / each
                    found.setdefault((what, way), []).append(took)
                if recorder:
                    recorder.terminate()
                    recorder.wait()
                    session = json.loads(Path(name, 'trace', 'session.json').read_text())
                    for kind, hit in (session['attach']['hits'] or {}).items():
                        hits.setdefault(kind, []).append(hit['ns_each'])
    print(f'{rounds} rounds, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}\n'
          f'{"":16}' + ''.join(f'{way:>20}' for way in WAYS))
    for what in WORK:
        print(f'{what:16}' + ''.join(f'{statistics.median(found[what, way]):17.0f} ns' for way in WAYS))
    print('what attach --malloc measures itself, a hit: ' +
          ', '.join(f'{kind} {statistics.median(each):.0f} ns' for kind, each in hits.items()))


if __name__ == '__main__':
    main()
