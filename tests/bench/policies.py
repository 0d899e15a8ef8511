#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The textbook's claims about brk and mmap, measured: `./dev bench policies [NAME...]`.

Runs `heapledger compare` on four real programs and on the small ones of policies.c, and prints its
tables, which docs/brk-vs-mmap.md quotes. Nothing here is a test: no figure passes or fails.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / 'fidelity'), str(HERE.parent / 'programs')]
sys.dont_write_bytecode = True

from programs import ENVIRONMENT, PYTHON_SCRIPT, write  # noqa: E402
from test_gcc import large_c_file  # noqa: E402
from test_git import ENVIRONMENT as GIT_ENVIRONMENT  # noqa: E402
from test_git import SCRIPT as GIT_SCRIPT  # noqa: E402

FIXED = {'HEAPLEDGER_SET': 'mmap_threshold=131072'}
CALL_ROUNDS = 7


def sqlite_script(folder):
    script = HERE.parent.parent / 'examples' / 'sqlite_script.py'
    with open(folder / 'script.sql', 'wb') as file:
        subprocess.run([sys.executable, script, '--tables', '8', '--rows', '2000'], stdout=file,
                       check=True)


def git_repository(folder):
    made = GIT_SCRIPT[:GIT_SCRIPT.index('git gc')]
    subprocess.run(['sh', '-c', made], cwd=folder, env={**ENVIRONMENT, **GIT_ENVIRONMENT}, check=True)


def nothing(folder):
    pass


# name: what it needs in its folder, variables, options of compare, the command
REAL = {
    'sqlite3': (sqlite_script, {}, ['--stdin', 'script.sql'], ['sqlite3', ':memory:']),
    'gcc': (write('large.c', large_c_file(150)), {}, [], ['gcc', '-O2', '-c', 'large.c']),
    'python3': (write('script.py', PYTHON_SCRIPT.replace('30000', '10000')),
                {'PYTHONMALLOC': 'malloc'}, [], ['/usr/bin/python3', '-B', 'script.py']),
    'git': (git_repository, GIT_ENVIRONMENT, [], ['git', '-C', 'cloned', 'repack', '-adfq']),
}
SMALL = {
    'blocks-100': ({}, 'blocks 100 400'),
    'blocks-200': ({}, 'blocks 200 200'),
    'blocked-200': ({}, 'blocked 200 200'),
    'users': ({}, 'users 200'),
    'small': ({}, 'small 10000'),
    'small-mapped': ({'HEAPLEDGER_SET': 'mmap_threshold=1'}, 'small 10000'),
    'churn': ({}, 'churn 1024 100'),
    'churn-fixed': (FIXED, 'churn 1024 100'),
}


def cases(build):
    small = {name: (nothing, env, [], ['./policies', *words.split()])
             for name, (env, words) in SMALL.items()}
    return {**REAL, **small}


def compare(build, case, runs):
    prepare, env, options, command = case
    with tempfile.TemporaryDirectory(prefix='heapledger-bench-') as name:
        folder = Path(name)
        (folder / 'policies').symlink_to(build / 'tests/bench/policies')
        prepare(folder)
        words = [build / 'analyzer/heapledger', 'compare', '--runs', str(runs), *options, '--', *command]
        outcome = subprocess.run(words, cwd=folder, env={**ENVIRONMENT, **env}, text=True,
                                 stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, check=False)
    if outcome.returncode:
        sys.exit(f'bench: {" ".join(command)}: status {outcome.returncode}\n{outcome.stdout}')
    shown = ' '.join([*(f'{key}={value}' for key, value in env.items() if 'GIT' not in key),
                      'heapledger', 'compare', '--runs', str(runs), *options, '--', *command])
    return ['', '```', f'$ {shown}', outcome.stdout.rstrip('\n'), '```']


def calls(build):
    """What single calls take, on glibc's allocator and on heapledger's: medians."""
    ways = {'glibc': {}, 'heapledger': {'LD_PRELOAD': str(build / 'interposer/libheapledger.so')}}
    rows = {}
    for _ in range(CALL_ROUNDS):
        for way, env in ways.items():
            said = subprocess.run([build / 'tests/bench/policies', 'calls'], text=True, check=True,
                                  env={**ENVIRONMENT, **env}, stdout=subprocess.PIPE).stdout
            for number, line in enumerate(said.splitlines()):
                label, value = line.split('\t')
                rows.setdefault((number, label), {}).setdefault(way, []).append(float(value))
    lines = ['', '| ns: median (lowest-highest) | glibc | heapledger |', '|---|---|---|']
    for (_, label), row in rows.items():
        cells = [f'{statistics.median(v):.0f} ({min(v):.0f}-{max(v):.0f})' for v in row.values()]
        lines.append(f'| {label} | {" | ".join(cells)} |')
    return lines


def main():
    build = Path(os.environ['HEAPLEDGER_BUILD'])
    known = cases(build)
    parser = argparse.ArgumentParser(prog='./dev bench policies', description=__doc__.split('\n')[0])
    parser.add_argument('names', metavar='NAME', nargs='*', help=f'calls, {", ".join(known)}')
    parser.add_argument('--runs', type=int, default=5)
    arguments = parser.parse_args()
    names = arguments.names or ['calls', *known]
    unknown = set(names) - {'calls', *known}
    if unknown:
        parser.error(f'there is no {", ".join(sorted(unknown))}')
    print(f'{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, '
          f'glibc {platform.libc_ver()[1]}')
    for name in names:
        lines = calls(build) if name == 'calls' else compare(build, known[name], arguments.runs)
        print('\n'.join(lines), flush=True)


if __name__ == '__main__':
    main()
