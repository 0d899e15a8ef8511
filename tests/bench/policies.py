#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""The textbook's claims about brk and mmap, measured: `./dev bench policies [NAME...]`.

Runs `heapledger compare` on four real programs and on the small ones of policies.c, and prints its
tables, which docs/brk-vs-mmap.md quotes; `calls` times single calls, `durations` takes from recordings how
long each system call took. Nothing here is a test: no figure passes or fails.
"""

import argparse
import os
import platform
import re
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
DURATION_KIB = 256, 1024, 4096, 16384, 65536
DURATION_ROUNDS = 300
EVENT = re.compile(r' (brk|mmap|munmap|mremap|madvise|mprotect) .* reason=(\w+) .* ns=(\d+)$')


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
    'python3': (write('script.py', 'ROWS = 10000\n' + PYTHON_SCRIPT),
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


def durations_of(build, folder, command, policy, env=None):
    """(system call, reason) -> how many ns each took, as the library measured around it."""
    heapledger = build / 'analyzer/heapledger'
    trace = folder / 'trace'
    script = folder / 'script.sql'
    with open(script if script.exists() else os.devnull, 'rb') as stdin:
        subprocess.run([heapledger, 'record', '-q', '--force', '--kernel', 'off', '--policy', policy, '-o',
                        trace, '--', *command], cwd=folder, check=True, stdin=stdin,
                       stdout=subprocess.DEVNULL, env={**ENVIRONMENT, **(env or {})})
    said = subprocess.run([heapledger, 'dump', '--kind', 'brk,mmap,munmap,mremap,madvise,mprotect', trace],
                          text=True, check=True, stdout=subprocess.PIPE).stdout
    found = {}
    for call, reason, ns in (match.groups() for match in map(EVENT.search, said.splitlines()) if match):
        found.setdefault((call, reason), []).append(int(ns))
    return found


def p50_p99(values):
    order = sorted(values)
    at = [order[min(len(order) * share // 100, len(order) - 1)] for share in (50, 99)]
    return ' / '.join(f'{value / 1000:.1f}' for value in at)


def durations(build):
    """By size, of blocks that were touched and of ones that were not; then of the real programs."""
    with tempfile.TemporaryDirectory(prefix='heapledger-bench-') as name:
        return _by_size(build, Path(name)) + _of_programs(build, Path(name))


def _by_size(build, folder):
    columns = [('brk', 'brk', 'grow_top', 'brk up'), ('brk', 'brk', 'trim_top', 'brk down'),
               ('mmap', 'mmap', 'over_threshold', 'mmap'), ('mmap', 'munmap', 'free_mmapped', 'munmap'),
               ('purge', 'madvise', 'trim_call', 'madvise')]
    heads = ' | '.join(name for *_, name in columns)
    lines = ['', f'| microseconds: p50 / p99 of {DURATION_ROUNDS} | {heads} |', '|---' * 6 + '|']
    for mode, said in ('idle', 'not touched'), ('churn', 'touched'):
        for kib in DURATION_KIB:
            run = [build / 'tests/bench/policies', mode, str(kib), str(DURATION_ROUNDS)]
            found = {'brk': durations_of(build, folder, run, 'brk', {'HEAPLEDGER_SET': 'top_pad=0'}),
                     'mmap': durations_of(build, folder, run, 'mmap', FIXED), 'purge': {}}
            if mode == 'churn':
                found['purge'] = durations_of(build, folder, [run[0], 'purge', *run[2:]], 'brk')
            cells = [found[way].get((call, reason), []) for way, call, reason, _ in columns]
            shown = [p50_p99(cell) if len(cell) >= DURATION_ROUNDS - 1 else '' for cell in cells]
            lines.append(f'| {kib:,} KiB, {said} | {" | ".join(shown)} |')
    return lines


def _of_programs(build, folder):
    lines = ['', '| microseconds: count, p50 / p99, longest | policy | brk | mmap | munmap | madvise |',
             '|---' * 6 + '|']
    for name, (prepare, env, _, command) in REAL.items():
        place = folder / name
        place.mkdir()
        prepare(place)
        for policy in 'brk', 'mmap', 'hybrid':
            found = {}
            for (call, reason), values in durations_of(build, place, command, policy, env).items():
                if reason != 'recorder':
                    found.setdefault(call, []).extend(values)
            cells = [f'{len(found[call])}, {p50_p99(found[call])}, {max(found[call]) / 1000:.1f}'
                     if call in found else '' for call in ('brk', 'mmap', 'munmap', 'madvise')]
            lines.append(f'| {name} | {policy} | {" | ".join(cells)} |')
    return lines


SINGLE = {'calls': calls, 'durations': durations}


def main():
    build = Path(os.environ['HEAPLEDGER_BUILD'])
    known = cases(build)
    parser = argparse.ArgumentParser(prog='./dev bench policies', description=__doc__.split('\n')[0])
    parser.add_argument('names', metavar='NAME', nargs='*', help=', '.join([*SINGLE, *known]))
    parser.add_argument('--runs', type=int, default=5)
    arguments = parser.parse_args()
    names = arguments.names or [*SINGLE, *known]
    unknown = set(names) - {*SINGLE, *known}
    if unknown:
        parser.error(f'there is no {", ".join(sorted(unknown))}')
    print(f'{platform.machine()}, {os.cpu_count()} cores, Linux {platform.release()}, '
          f'glibc {platform.libc_ver()[1]}')
    for name in names:
        lines = SINGLE[name](build) if name in SINGLE else compare(build, known[name], arguments.runs)
        print('\n'.join(lines), flush=True)


if __name__ == '__main__':
    main()
