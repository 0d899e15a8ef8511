#!/usr/bin/python3
# SPDX-License-Identifier: MIT
"""Sums up the last `meson test` of a build folder; called by ./dev.

Prints what failed and why, every skip with its reason, and then `N passed, N failed, N skipped`,
alone on its line. A case of a pytest file or of a cmocka program counts as one; a program that
prints no counts of its own (a crash, a time-out) counts as one too. Exits with 1 when anything failed, or nothing ran.
"""

import argparse
import json
import re
import sys
from pathlib import Path

CASE_COUNTS = re.compile(r'^cases: (\d+) passed, (\d+) failed, (\d+) skipped$', re.M)
SKIP_REASON = re.compile(r'^skipped: (.+)$', re.M)
CMOCKA_COUNTS = {
    'passed': re.compile(r'^\[  PASSED  \] (?:\S+: )?(\d+) test\(s\)', re.M),
    'failed': re.compile(r'^\[  FAILED  \] (?:\S+: )?(\d+) test\(s\)', re.M),
    'skipped': re.compile(r'^\[  SKIPPED \] (?:\S+: )?(\d+) test\(s\)', re.M),
}
CMOCKA_SKIP = re.compile(r'^\[  SKIPPED \] (\S+)$', re.M)
# What pytest, cmocka and the sanitizers say of a failure, where it says most in a line.
WHY = re.compile(r'^(?:FAILED |ERROR |E  +\S|\S+\.py:\d+: |\[  ERROR   \]'
                 r'|.*(?:Sanitizer: |runtime error: )).*', re.M)
WHY_LINES = 40
BAD = {'FAIL', 'TIMEOUT', 'ERROR', 'INTERRUPT', 'UNEXPECTEDPASS'}


def count_cases(output):
    """Returns passed, failed, skipped as the program itself counted them, or None."""
    found = CASE_COUNTS.findall(output)
    if found:
        return tuple(map(sum, zip(*(map(int, counts) for counts in found))))
    sums = tuple(sum(map(int, pattern.findall(output))) for pattern in CMOCKA_COUNTS.values())
    return sums if any(sums) else None


def judge(entry):
    """Returns (passed, failed, skipped) and the skips' reasons of one entry of the log."""
    output = entry.get('stdout', '') + '\n' + entry.get('stderr', '')
    name, result = entry['name'], entry['result']
    if result == 'SKIP':
        lines = [line for line in output.splitlines() if line.strip()]
        return (0, 0, 1), [f'{name}: {lines[-1].strip() if lines else "no reason given"}']
    passed, failed, skipped = count_cases(output) or (int(result not in BAD), 0, 0)
    if result in BAD and not failed:
        failed = 1
    # cmocka names what it skips but not why: its tests print a line of their own before skip().
    skips = SKIP_REASON.findall(output) or list(dict.fromkeys(CMOCKA_SKIP.findall(output)))
    return (passed, failed, skipped), [f'{name}: {skip}' for skip in skips]


def failure_of(entry):
    """Returns the lines that name a failed entry and say why; its whole output is in the log."""
    output = entry.get('stdout', '') + '\n' + entry.get('stderr', '')
    why = [match.group() for match in WHY.finditer(output)] or output.strip().splitlines()
    return [f'{entry["name"]} ({entry["result"].lower()})',
            *(f'{entry["name"]}: {line[:300]}' for line in why[-WHY_LINES:])]


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('build', type=Path)
    log = parser.parse_args().build / 'meson-logs' / 'testlog.json'
    if not log.exists():
        sys.exit(f'no tests were run: {log} is not there')

    total, skips, failures = (0, 0, 0), [], []
    with open(log, encoding='utf-8', errors='replace') as lines:
        for line in lines:
            entry = json.loads(line)
            counts, reasons = judge(entry)
            total = tuple(map(sum, zip(total, counts)))
            skips += reasons
            if counts[1]:
                failures += failure_of(entry)
    for failure in failures:
        print(f'failed: {failure}')
    for skip in skips:
        print(f'skipped: {skip}')
    print('{} passed, {} failed, {} skipped'.format(*total))
    sys.exit(1 if total[1] or not total[0] else 0)


if __name__ == '__main__':
    main()
