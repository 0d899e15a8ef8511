#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the kernel probe costs: `./dev bench kernel`, as root.

Recordings with `--kernel require` and `--kernel off` alternate, and each pair gives a difference (of
nanoseconds an operation) or a ratio (of the time that a program ran); the tables give the medians of
those and half the spread between the quartiles. Nothing here is a test: no figure passes or fails.
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

SQL = '''create table t(a integer primary key, b text);
with recursive c(x) as (select 1 union all select x + 1 from c where x < 300000)
insert into t select x, hex(randomblob(50)) from c;
update t set b = b || b where a % 3 = 0; select count(*) from t; drop table t;'''
WORDS = '''import json, re
text = ' '.join(f'word{n % 997} {n}' for n in range(300000))
words = {}
for word in re.findall('[a-z0-9]+', text):
    words[word] = words.get(word, 0) + 1
json.loads(json.dumps(words))'''
CODE = '#include <stdio.h>\n' + '\n'.join(
    f'static int f{n}(int *a, int b) {{ for (int i = 0; i < b; i++) a[i] += a[i / 2] * {n}; '
    f'return a[b - 1] + printf("%d", a[0]); }}' for n in range(600)) + (
        '\nint main(void) { int a[99] = {1}; return ' + ' + '.join(f'f{n}(a, 99)' for n in range(600))
        + '; }\n')
PROGRAMS = {
    'sqlite3': (['sqlite3', ':memory:'], SQL),
    'python3': (['/usr/bin/python3', '-I', '-S', '-c', WORDS], ''),
    'gcc': (['gcc', '-O2', '-x', 'c', '-c', '-o', '/dev/null', '-'], CODE),
    'bash': (['/bin/bash', '-c', 'for i in {1..150}; do (exit 0); /bin/true; done'], ''),
}
OPERATIONS = {'munmap': 400000, 'getppid': 2000000, 'fault': 200000}


def spread(values):
    quartiles = statistics.quantiles(values, n=4)
    return (quartiles[2] - quartiles[0]) / 2


class Bench:
    def __init__(self, build, way):
        self.build, self.environment = build, dict(os.environ)
        if way:
            self.environment['HEAPLEDGER_PROBE'] = way

    def record(self, kernel, command, text=''):
        """What the program wrote, and how long it ran."""
        with tempfile.TemporaryDirectory() as folder:
            done = subprocess.run(
                [self.build / 'analyzer' / 'heapledger', 'record', '-q', '-o', f'{folder}/trace',
                 '--kernel', kernel, '--', *command], input=text, env=self.environment, text=True,
                stdout=subprocess.PIPE, check=True)
            session = json.loads(Path(folder, 'trace', 'session.json').read_text())
        return done.stdout, session['duration_ns']

    def pairs(self, rounds, measure):
        """(with, without) of each round, whose order changes."""
        for number in range(rounds):
            order = ['require', 'off'] if number % 2 else ['off', 'require']
            result = {kernel: measure(kernel) for kernel in order}
            yield result['require'], result['off']

    def operation(self, name, rounds):
        command = [self.build / 'tests' / 'bench' / 'kernel', name, str(OPERATIONS[name])]
        pairs = list(self.pairs(rounds, lambda kernel: float(self.record(kernel, command)[0])))
        more = [probed - plain for probed, plain in pairs]
        print(f'{name:10} {statistics.median(plain for _, plain in pairs):9.1f} ns '
              f'{statistics.median(more):+9.1f} ns ± {spread(more):.1f}', flush=True)

    def program(self, name, rounds):
        command, text = PROGRAMS[name]
        pairs = list(self.pairs(rounds, lambda kernel: self.record(kernel, command, text)[1]))
        ratios = [probed / plain for probed, plain in pairs]
        print(f'{name:10} {statistics.median(plain for _, plain in pairs) / 1e6:9.1f} ms '
              f'{(statistics.median(ratios) - 1) * 100:+8.2f} %  ± {spread(ratios) * 100:.2f}',
              flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('what', nargs='*', help='of ' + ', '.join([*OPERATIONS, *PROGRAMS]))
    parser.add_argument('--rounds', type=int, default=21)
    parser.add_argument('--way', choices=['tracefs', 'raw', 'classic'], help='into the kernel; default: best')
    options = parser.parse_args()
    if options.rounds < 2:
        parser.error('--rounds: 2 at least')
    unknown = [name for name in options.what if name not in OPERATIONS and name not in PROGRAMS]
    if unknown:
        parser.error(f'not known: {" ".join(unknown)}')
    bench = Bench(Path(os.environ.get('HEAPLEDGER_BUILD', 'build')).resolve(), options.way)
    print(f'{options.rounds} pairs, Linux {platform.release()}, load {os.getloadavg()[0]:.1f}\n'
          f'{"":10} {"without":>12} {"the probe adds":>18}', flush=True)
    for name in options.what or [*OPERATIONS, *PROGRAMS]:
        (bench.operation if name in OPERATIONS else bench.program)(name, options.rounds)
    return 0


if __name__ == '__main__':
    sys.exit(main())
