#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the kernel probe costs: `./dev bench kernel`, as root.

Recordings with `--kernel require` and `--kernel off` alternate. Of single operations the first table
has the nanoseconds that the probe adds, of programs the second one the processor time, in user mode
and in the kernel, of the program's own processes: the median of the pairs' ratios, with the interval
that a bootstrap of the pairs gives it with 95 %. What its events and page faults should take by the
first table is beside it. The recorder is not in this; by how much longer a recording takes, be the
program what it may, is the last line. Nothing here is a test: no figure passes or fails.
"""

import argparse
import json
import os
import platform
import random
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

SQL = '''create table t(a integer primary key, b text);
with recursive c(x) as (select 1 union all select x + 1 from c where x < 100000)
insert into t select x, hex(randomblob(50)) from c;
update t set b = b || b where a % 3 = 0; select count(*) from t; drop table t;'''
WORDS = '''import json, re
text = ' '.join(f'word{n % 997} {n}' for n in range(100000))
words = {}
for word in re.findall('[a-z0-9]+', text):
    words[word] = words.get(word, 0) + 1
json.loads(json.dumps(words))'''
CODE = '#include <stdio.h>\n' + '\n'.join(
    f'static int f{n}(int *a, int b) {{ for (int i = 0; i < b; i++) a[i] += a[i / 2] * {n}; '
    f'return a[b - 1] + printf("%d", a[0]); }}' for n in range(100)) + (
        '\nint main(void) { int a[99] = {1}; return ' + ' + '.join(f'f{n}(a, 99)' for n in range(100))
        + '; }\n')
REDIS = ['redis-server', '--port', '0', '--save', '', '--unixsocket']
PROGRAMS = {
    'sqlite3': (['sqlite3', ':memory:'], SQL),
    'gcc -O2': (['gcc', '-O2', '-x', 'c', '-c', '-o', '/dev/null', '-'], CODE),
    'python3': (['/usr/bin/python3', '-I', '-S', '-c', WORDS], ''),
    'redis': (REDIS, ''),
    'bash': (['/bin/bash', '-c', 'for i in {1..50}; do (exit 0); /bin/true; done'], ''),
}
OPERATIONS = {'munmap': 400000, 'getppid': 2000000, 'fault': 200000}
BOOTSTRAPS = 10000


def spread(values):
    quartiles = statistics.quantiles(values, n=4)
    return (quartiles[2] - quartiles[0]) / 2


def interval(values):
    """Of the median, 95 %: percentiles of the medians of samples drawn again."""
    draw = random.Random(1)
    medians = sorted(statistics.median(draw.choices(values, k=len(values))) for _ in range(BOOTSTRAPS))
    return medians[BOOTSTRAPS // 40], medians[-BOOTSTRAPS // 40]


def serve(path):
    """What redis is asked, once it listens: 60,000 values of which half is deleted; then it ends."""
    while True:
        client = socket.socket(socket.AF_UNIX)
        try:
            client.connect(str(path))
            break
        except OSError:
            client.close()
            time.sleep(0.005)
    for command in ('set', 'del'):
        lines = ''.join(f'{command} key{n}{" " + "v" * (n % 300 + 1) if command == "set" else ""}\r\n'
                        for n in range(0, 60000, 1 if command == 'set' else 2))
        client.sendall(lines.encode() + b'ping\r\n')
        answer = b''
        while not answer.endswith(b'+PONG\r\n'):
            answer = answer[-16:] + client.recv(1 << 20)
    client.sendall(b'shutdown nosave\r\n')
    client.close()


class Bench:
    def __init__(self, build, way):
        self.build, self.environment = build, dict(os.environ)
        if way:
            self.environment['HEAPLEDGER_PROBE'] = way
        self.costs = {}

    def record(self, kernel, command, text='', folder=None, asked=None):
        """What the program wrote."""
        words = [self.build / 'analyzer' / 'heapledger', 'record', '-q', '-o', f'{folder}/trace',
                 '--kernel', kernel, '--', *command]
        process = subprocess.Popen(words, env=self.environment, text=True, stdin=subprocess.PIPE,
                                   stdout=subprocess.PIPE)
        if asked:
            serve(asked)
        out, _ = process.communicate(text)
        if process.returncode:
            sys.exit(f'{" ".join(map(str, command))}: exit status {process.returncode}')
        return out

    def pairs(self, rounds, measure):
        """(with, without) of each round, whose order changes."""
        for number in range(rounds):
            order = ['require', 'off'] if number % 2 else ['off', 'require']
            result = {kernel: measure(kernel) for kernel in order}
            yield result['require'], result['off']

    def operation(self, name, rounds):
        command = [self.build / 'tests' / 'bench' / 'kernel', name, str(OPERATIONS[name])]

        def measure(kernel):
            with tempfile.TemporaryDirectory() as folder:
                return float(self.record(kernel, command, folder=folder))

        pairs = list(self.pairs(rounds, measure))
        more = [probed - plain for probed, plain in pairs]
        self.costs[name] = statistics.median(more)
        print(f'{name:10} {statistics.median(plain for _, plain in pairs):9.1f} ns '
              f'{self.costs[name]:+9.1f} ns ± {spread(more):.1f}', flush=True)

    def counts(self, folder):
        """Events and page faults of a recording, by the kernel."""
        session = json.loads(Path(folder, 'trace', 'session.json').read_text())
        ends = subprocess.run([self.build / 'analyzer' / 'heapledger', 'dump', '--kind', 'process_exit',
                               f'{folder}/trace'], text=True, stdout=subprocess.PIPE, check=True).stdout
        return session['kernel']['events'], sum(map(int, re.findall(r' faults=(\d+)', ends)))

    def processor_us(self, kernel, command, text):
        with tempfile.TemporaryDirectory() as folder:
            asked = f'{folder}/socket' if command is REDIS else None
            words = [*command, asked] if asked else command
            self.record(kernel, [self.build / 'tests' / 'bench' / 'kernel', 'run', f'{folder}/used', *words],
                        text, folder, asked)
            if kernel == 'require':
                self.counted = self.counts(folder)
            return int(Path(folder, 'used').read_text())

    def program(self, name, rounds):
        command, text = PROGRAMS[name]
        if not shutil.which(command[0]):
            print(f'{name:10} {"is not installed":>12}', flush=True)
            return
        pairs = list(self.pairs(rounds, lambda kernel: self.processor_us(kernel, command, text)))
        ratios = [probed / plain for probed, plain in pairs]
        plain = statistics.median(plain for _, plain in pairs)
        low, high = ((value - 1) * 100 for value in interval(ratios))
        events, faults = self.counted
        expected = ''
        if {'munmap', 'fault'} <= self.costs.keys():
            nanoseconds = events * self.costs['munmap'] + faults * self.costs['fault']
            expected = f'{nanoseconds / plain / 10:+8.2f} %'
        print(f'{name:10} {plain / 1e3:9.1f} ms {(statistics.median(ratios) - 1) * 100:+8.2f} %  '
              f'{low:+6.2f} to {high:+.2f} % {events:8} {faults:8} {expected}', flush=True)

    def start(self, rounds):
        """Of a program that does nothing, by the clock."""
        def measure(kernel):
            with tempfile.TemporaryDirectory() as folder:
                began = time.monotonic()
                self.record(kernel, ['/bin/true'], folder=folder)
                return (time.monotonic() - began) * 1e3

        more = [probed - plain for probed, plain in self.pairs(rounds, measure)]
        low, high = interval(more)
        print(f'\nA recording takes {statistics.median(more):.1f} ms longer ({low:.1f} to {high:.1f}) '
              'for loading the probe and letting go of it.', flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('what', nargs='*', help='of ' + ', '.join([*OPERATIONS, *PROGRAMS, 'start']))
    parser.add_argument('--rounds', type=int, default=40, help='pairs of each')
    parser.add_argument('--way', choices=['tracefs', 'raw', 'classic'], help='into the kernel; default: best')
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error('--rounds: 2 at least')
    known = [*OPERATIONS, *PROGRAMS, 'start']
    unknown = [name for name in options.what if name not in known]
    if unknown:
        parser.error(f'not known: {" ".join(unknown)}')
    wanted = options.what or known
    bench = Bench(Path(os.environ.get('HEAPLEDGER_BUILD', 'build')).resolve(), options.way)
    print(f'{options.rounds} pairs, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}', flush=True)
    if any(name in OPERATIONS for name in wanted):
        print(f'\n{"":10} {"without":>12} {"the probe adds":>18}', flush=True)
    for name in [name for name in OPERATIONS if name in wanted]:
        bench.operation(name, options.rounds)
    if any(name in PROGRAMS for name in wanted):
        print(f'\n{"":10} {"without":>12} {"adds":>10}  {"95 %":>17} {"events":>8} {"faults":>8}'
              f'{"by these" if bench.costs else "":>11}', flush=True)
    for name in [name for name in PROGRAMS if name in wanted]:
        bench.program(name, options.rounds)
    if 'start' in wanted:
        bench.start(options.rounds)
    return 0


if __name__ == '__main__':
    sys.exit(main())
