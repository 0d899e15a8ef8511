#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""What the byte ledger leaves over of what the kernel counts: `./dev bench ledger [PROGRAM...]`.

Real programs and a generator of fragmented heaps are recorded, and of each process's resident peak and end
the sum of all rows is held against RssAnon: at the peak, where the process runs on, against what the
kernel counted just before and just after, and the nearer one counts; what lies between them is the
program's own doing. Of several runs and processes the one is shown that leaves over the most. Beside
it, of how many threads' caches the ledger has what they hold. Nothing here is a test: no figure passes or
fails.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / 'fidelity'))
sys.dont_write_bytecode = True

import programs  # noqa: E402

MOMENTS = {'resident_peak': 'peak', 'end': 'end'}
ROW = '| {:26} | {:5} | {:>10} | {:>10} | {:>9} | {:>9} | {:>9} |'
SMALL_BYTES = 1 << 20  # a page is a large part of what is smaller


def chosen(build):
    """In the order of the table."""
    victims = build / 'tests' / 'victims'
    known = {program.name: program for program in programs.programs()}
    made = {'mixed sizes, all freed': ['victim_trimmed', 'cache', '200000'],
            'checkerboard': ['victim_trimmed', 'checker', '40000'],
            'one of ten, trimmed': ['victim_trimmed', 'pages', '12000', 'trim'],
            'small ones in fast lists': ['victim_trimmed', 'fast', '200000'],
            '8 threads that run': ['victim_cached', 'mixed', '8']}
    return {**{name: known[name] for name in ('sqlite3', 'gcc', 'python3 malloc', 'redis-server')},
            **{name: programs.Program(name, [victims / word, *rest])
               for name, (word, *rest) in made.items()}}


def found(heapledger, program):
    """Of each process and moment of a run: (moment, bytes found, counted, left over, caches)."""
    with tempfile.TemporaryDirectory(prefix='heapledger-bench-') as scratch:
        folder, trace = Path(scratch, 'work'), Path(scratch, 'trace')
        folder.mkdir()
        program.prepare(folder)
        program.run(folder, [heapledger, 'record', '-q', '--kernel', 'off', '-o', trace, '--'])
        said = subprocess.run([heapledger, 'analyze', '--json', '-', trace], check=True,
                              stdout=subprocess.PIPE).stdout
    for process in json.loads(said)['processes']:
        for moment in process['moments']:
            resident, caches = moment['resident'], moment['caches']
            if moment['moment'] not in MOMENTS or resident is None or \
                    resident['all_bytes'] < SMALL_BYTES:
                continue
            yield (moment['moment'], resident['all_bytes'], resident['rss_anon_bytes'],
                   resident['residual_bytes'], f'{caches["known"]} of {caches["total"]}' if caches
                   else 'unknown', resident['cut'])


def share(row):
    return abs(row[3]) / row[2] if row[3] is not None and row[2] else -1


def show(heapledger, name, program, runs):
    rows = [row for _ in range(runs) for row in found(heapledger, program)]
    for moment, short in MOMENTS.items():
        of = [row for row in rows if row[0] == moment]
        if not of:
            print(ROW.format(name, short, 'unknown', '', '', '', ''), flush=True)
            continue
        _, all_bytes, counted, left, caches, cut = max(of, key=share)
        print(ROW.format(name, short, f'{all_bytes / 1024:,.0f}', f'{(counted or 0) / 1024:,.0f}',
                         'unknown' if left is None or cut else f'{left / 1024:,.0f}',
                         'unknown' if left is None or cut else f'{100 * left / counted:.3f} %', caches),
              flush=True)


def main():
    parser = argparse.ArgumentParser(prog='./dev bench ledger', description=__doc__.split('\n')[0])
    build = Path(os.environ.get('HEAPLEDGER_BUILD', 'build')).resolve()
    known = chosen(build)
    parser.add_argument('what', nargs='*', help='of ' + ', '.join(known))
    parser.add_argument('--runs', type=int, default=3)
    options = parser.parse_args()
    unknown = [name for name in options.what if name not in known]
    if options.runs < 1 or unknown:
        parser.error('--runs: 1 at least' if not unknown else f'not known: {", ".join(unknown)}')
    print(f'Linux {platform.release()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, '
          f'the worst of {options.runs} runs; KiB\n')
    print(ROW.format('program', 'when', 'found', 'RssAnon', 'left over', 'share', 'caches'))
    print('|' + '---|' * 7, flush=True)
    for name in options.what or known:
        show(build / 'analyzer' / 'heapledger', name, known[name], options.runs)
    return 0


if __name__ == '__main__':
    sys.exit(main())
