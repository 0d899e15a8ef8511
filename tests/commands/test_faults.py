# SPDX-License-Identifier: MIT
"""record --faults: of a program that touches known pages in known steps the kernel's record has these
faults and no others, and the heap's resident bytes follow from them. What is not whole is not told."""

import csv
import json
import re

import pytest

from conftest import existing, run
from probe_fixture import skip_without_probe

PAGE = 4096
# By steps of victim_touching, from the first one on.
STEPS = [
    [(0, 'write', 'user'), (3, 'write', 'user'), (5, 'write', 'user')],
    [(7, 'write', 'kernel'), (8, 'write', 'kernel')],
    [(10, 'read', 'user')],
    [(10, 'write', 'user')],
    [(3, 'write', 'user')],
    [(63, 'write', 'user')],
]


@pytest.fixture(autouse=True)
def needs_probe(build):
    skip_without_probe(build)


@pytest.fixture(scope='module')
def victim(victims):
    return existing(victims / 'victim_touching')


def record(heapledger, trace, *command, env=None):
    outcome = run([heapledger, 'record', '-q', '--faults', '-o', trace, '--', *command], env=env)
    assert outcome.status == 0, outcome
    return outcome.stdout.decode().split()


def analyze(heapledger, trace, *options):
    outcome = run([heapledger, 'analyze', '--json', trace / 'out.json', *options, trace])
    assert outcome.status == 0, outcome
    return json.loads((trace / 'out.json').read_text())


def steps_in(heapledger, trace, start, pages):
    """Faults on the block by step, in the kernel's order of time: (page, access, who)."""
    outcome = run([heapledger, 'dump', '--kind', 'fault,madvise', trace])
    assert outcome.status == 0, outcome
    steps = []
    for line in outcome.stdout.decode().splitlines():
        stream, _, _, kind, first, *words = line.split()
        if not stream.endswith('.kernel'):
            continue
        if kind == 'madvise':
            if int(first.partition('=')[2], 16) == start and f'length={pages * PAGE}' in words:
                steps.append([])
            continue
        page = (int(first, 16) - start) // PAGE
        assert words[0] == f'length={PAGE}', 'no larger page can be had'
        if 0 <= page < pages:
            assert steps, 'no page was touched before the first step'
            steps[-1].append((page, *words[1:3]))
    return steps


def test_known_pages_have_exactly_these_faults(heapledger, trace, victim):
    start, pages = record(heapledger, trace, victim)
    steps = steps_in(heapledger, trace, int(start, 16), int(pages))
    assert len(steps) == len(STEPS) + 1 and not steps[-1]
    assert steps[:-1] == STEPS
    outcome = run([heapledger, 'verify', trace])
    account = re.search(rb'^\d+ events \+ 0 dropped = \d+ that the kernel counted$', outcome.stdout, re.M)
    assert account, outcome  # its own madvise in the heap is a finding


def test_resident_bytes_follow_from_the_faults(heapledger, trace, victim):
    record(heapledger, trace, victim)
    root = analyze(heapledger, trace, '--csv', trace / 'csv')
    faults = root['faults']
    assert faults['unseen_bytes'] == faults['vanished_bytes'] == 0
    assert faults['in_calls'] == 2 and faults['again_bytes'] == PAGE
    assert faults['large_pages'] == 0
    # 0, 3, 5, 7, 8, 10 at most; at the end 0, 3, 8, 10, 63. The rest of the heap only grows.
    assert faults['peak_resident_bytes'] - faults['end_resident_bytes'] in (PAGE, 0)
    assert faults['count'] * PAGE >= faults['peak_resident_bytes'] >= 6 * PAGE
    resident = root['moments'][-1]['resident']
    if resident and resident['reason'] == 'end':  # Linux 6.7: by the process itself
        assert faults['end_resident_bytes'] == resident['all_bytes'] - resident['outside_bytes']
        assert faults['snapshots'] >= 1
    rows = list(csv.DictReader((trace / 'csv' / 'timeline.csv').open()))
    known = [int(row['resident_heap_bytes']) for row in rows]
    assert known[-1] == faults['end_resident_bytes'] and max(known) <= faults['peak_resident_bytes']
    assert all(int(row['resident_heap_bytes']) <= int(row['mapped_bytes']) + PAGE for row in rows)


def test_a_child_begins_with_its_parents_pages(heapledger, trace, victim):
    record(heapledger, trace, victim, 'fork')
    parent, child = (process['faults'] for process in analyze(heapledger, trace)['processes'])
    assert parent['unseen_bytes'] == parent['vanished_bytes'] == 0
    assert child['unseen_bytes'] == child['vanished_bytes'] == 0
    # Its pages are all of the parent's and the one that it touched, if no more.
    assert child['end_resident_bytes'] >= parent['end_resident_bytes'] + PAGE
    assert child['count'] < parent['count'], 'what was there before is no fault of its own'


def test_huge_pages_are_counted_whole(heapledger, trace, victim):
    record(heapledger, trace, victim, 'huge')
    faults = analyze(heapledger, trace)['faults']
    touched = faults['large_pages'] * 512 + faults['count'] - faults['large_pages']
    assert 16 << 20 <= faults['end_resident_bytes'] <= touched * PAGE + faults['unseen_bytes']


def test_what_was_not_recorded_whole_is_not_told(heapledger, trace, victim, tmp_path):
    record(heapledger, trace, victim, 'huge', env={'HEAPLEDGER_PROBE_RING': '4096'})
    root = analyze(heapledger, trace)
    session = json.loads((trace / 'session.json').read_text())
    assert session['kernel']['lost'] > 0, 'the ring was too large'
    assert root['faults'] is None
    assert any(note.startswith('resident memory is not known from page faults: ')
               for note in root['notes'])
    plain = tmp_path / 'plain'
    assert run([heapledger, 'record', '-q', '-o', plain, '--', victim]).status == 0
    root = analyze(heapledger, plain)
    assert root['faults'] is None and not any('page faults' in note for note in root['notes'])


class Again:
    """Faults on pages of the break that had just gone back and were taken again, by the kernel's record
    alone: page by page, each until it goes back once more."""

    def __init__(self):
        self.back, self.counted, self.at = (0, 0), False, 0
        self.pages, self.cycles, self.faults = set(), 0, 0

    def shrunk(self, start, end, at):
        self.pages -= set(range(start // PAGE, end // PAGE))
        joined = end == self.back[0] and not self.counted and at - self.at <= 1
        self.back, self.counted, self.at = (start, self.back[1] if joined else end), False, at

    def grown(self, start, end, at):
        if not self.back[0] <= start < self.back[1] or at - self.at > 1:
            return
        self.cycles += not self.counted
        self.counted = True
        end = min(end, self.back[1])
        self.pages |= set(range(start // PAGE, end // PAGE))
        if end == self.back[1]:
            self.back = 0, 0


def faults_on_what_came_again(heapledger, trace):
    again = Again()
    for line in run([heapledger, 'dump', '--kind', 'brk,fault', trace]).stdout.decode().splitlines():
        stream, second, _, kind, *words = line.split()
        named = dict(word.split('=') for word in words if '=' in word)
        if not stream.endswith('.kernel'):
            continue
        if kind == 'fault':
            again.faults += int(words[0], 16) // PAGE in again.pages and 'large' not in words
            continue
        start, end = int(named['from'], 16), int(words[words.index('=') + 1], 16)
        if end < start:
            again.shrunk(end, start, float(second))
        elif end > start:
            again.grown(start, end, float(second))
    return again


def test_what_thrashing_costs_in_faults(heapledger, build, trace):
    """200 times a block of 1 MiB with a mapping of its own, all of it filled: 257 pages, but for the first
    time."""
    trimmed = build / 'tests' / 'victims' / 'victim_trimmed'
    record(heapledger, trace, trimmed, 'remap', '200', env={'MALLOC_MMAP_THRESHOLD_': '131072'})
    root = analyze(heapledger, trace)
    cycles = root['thrash']['block']
    assert cycles['cycles'] == 199 and cycles['bytes'] == 199 * 257 * PAGE
    assert cycles['faults'] == 199 * 257
    assert root['faults']['count'] >= 200 * 257
    finding, = [one for one in root['findings'] if one['kind'] == 'thrash']
    assert finding['sentence'].endswith(f', and {199 * 257:,} page faults.')


def test_what_a_break_that_thrashes_costs_in_faults(heapledger, build, trace):
    record(heapledger, trace, build / 'tests' / 'victims' / 'victim_trimmed', 'thrash', '50')
    root = analyze(heapledger, trace)
    again = faults_on_what_came_again(heapledger, trace)
    cycles = root['thrash']['break']
    assert cycles['cycles'] == again.cycles >= 40
    assert cycles['faults'] == again.faults > 0 == root['thrash']['block']['faults']
    assert cycles['faults'] <= root['faults']['count'] and cycles['faults'] <= cycles['bytes'] // PAGE


def test_without_faults_their_number_is_unknown(heapledger, build, trace):
    trimmed = build / 'tests' / 'victims' / 'victim_trimmed'
    assert run([heapledger, 'record', '-q', '-o', trace, '--', trimmed, 'thrash', '50']).status == 0
    root = analyze(heapledger, trace)
    assert root['thrash']['break']['cycles'] >= 40 and root['thrash']['break']['faults'] is None
    finding, = [one for one in root['findings'] if one['kind'] == 'thrash']
    assert ', and up to ' in finding['sentence']


@pytest.mark.parametrize('options, env, status, said', [
    (['--kernel', 'off'], {}, 2, '--faults is part of the kernel\'s record'),
    (['--duration', '1s'], {}, 2, '--faults: the kernel\'s record is of whole runs only'),
    ([], {'HEAPLEDGER_PROBE': 'classic'}, 4, 'no kernel record: '),
])
def test_where_they_cannot_be_had_nothing_runs(heapledger, trace, options, env, status, said):
    outcome = run([heapledger, 'record', '--faults', *options, '-o', trace, '--', 'echo', 'ran'], env=env)
    assert outcome.status == status and not outcome.stdout and said in outcome.stderr.decode(), outcome
    assert not trace.exists()
