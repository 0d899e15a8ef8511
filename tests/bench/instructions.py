#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Counts the instructions of single ways through the allocator: `./dev bench instructions`.

callgrind counts the same each time, so each way is walked a thousand and then eleven thousand times,
and the difference is what ten thousand walks cost, loop and calls through the PLT included.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench import Candidate, library, peers, recorded

FEW, MANY = 1000, 11000


def instructions(program, candidate, way, rounds, folder):
    environment = {**os.environ, 'LD_PRELOAD': str(candidate.preload or '')}
    shutil.rmtree(folder / 'out', ignore_errors=True)
    prefix = [word.replace('@OUT@', str(folder / 'out')) for word in candidate.prefix]
    outcome = subprocess.run(
        [*prefix, 'valgrind', '--tool=callgrind', f'--callgrind-out-file={folder}/counts', program,
         way, str(rounds)], env=environment, capture_output=True, text=True, check=True)
    return int(re.search(r'Collected : (\d+)', outcome.stderr)[1])


def main():
    if len(sys.argv) > 1:
        sys.exit('usage: ./dev bench instructions')
    build = Path(os.environ['HEAPLEDGER_BUILD'])
    program = build / 'tests/bench/paths'
    ways = subprocess.run([program], check=True, capture_output=True, text=True).stdout.split()
    candidates = [Candidate('glibc'), Candidate('heapledger', preload=library(build)),
                  recorded(build, 'recorded'), *peers()]
    print('| instructions | ' + ' | '.join(c.name for c in candidates) + ' |')
    print('|---|' + '---|' * len(candidates))
    with tempfile.TemporaryDirectory(prefix='heapledger-bench-') as folder:
        folder = Path(folder)
        for way in ways:
            cells = []
            for candidate in candidates:
                few, many = (instructions(program, candidate, way, rounds, folder)
                             for rounds in (FEW, MANY))
                cells.append(f'{(many - few) / (MANY - FEW):.0f}')
            print(f'| {way} | ' + ' | '.join(cells) + ' |', flush=True)


if __name__ == '__main__':
    main()
