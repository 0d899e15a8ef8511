# SPDX-License-Identifier: MIT
"""`analyze --from --to --phase`: a window has what came in it, on the heap that was there before. By
scripts whose every record is known, against a count of our own and against the same trace cut off,
and by real programs, where windows must add up to the whole."""

import csv
import json
import random

import pytest

from conftest import ledger_adds_up, run
from test_moments import BASE, BLOCK, MMAP, MUNMAP, PAGE, Script
from trace_script import make_trace

START = 1000  # tick of the scripts' start; a tick is a nanosecond


def windowed(heapledger, trace, *words):
    outcome = run([heapledger, 'analyze', '--json', '-', *words, trace])
    assert outcome.status == 0, outcome
    return json.loads(outcome.stdout)


def seconds(ns):
    return f'{ns / 1e9:.9f}s'


class Story(Script):
    """A script that remembers what it did: (time, kind, requested, mapped) of every record."""

    def __init__(self, seed):
        super().__init__()
        self.random, self.blocks, self.free_at = random.Random(seed), {}, []
        self.mapped, self.past, self.largest = {}, [], 0
        self.next, self.next_mapping = BASE + 16, 0x7ffff0000000
        self.heap = 64 * PAGE
        self.brk(BASE, BASE + self.heap)
        self.note('brk', 0)

    def note(self, kind, bytes_):
        self.past.append((self.tick - 10 - START, kind, bytes_, sum(self.blocks.values()),
                          self.heap + sum(self.mapped.values())))

    def step(self):
        choice = self.random.random()
        if choice < 0.55 and self.next + 4096 < BASE + self.heap:
            size = self.random.randrange(1, 2000)
            chunk = (size + 8 + 15) // 16 * 16
            self.blocks[self.next] = size
            self.malloc(self.next, size, max(chunk, 32))
            self.next += max(chunk, 32)
            self.note('malloc', size)
        elif choice < 0.8 and self.blocks:
            addr = self.random.choice(sorted(self.blocks))
            size = self.blocks.pop(addr)
            self.free(addr)
            self.note('free', size)
        elif choice < 0.9:
            length = 32 * PAGE * self.random.randrange(1, 4)
            self.mapped[self.next_mapping] = length
            self.syscall(MMAP, 0, length, 3, self.next_mapping, BLOCK)
            self.next_mapping += length
            self.note('mmap', length)
        elif self.mapped:
            addr = self.random.choice(sorted(self.mapped))
            self.syscall(MUNMAP, addr, self.mapped[addr], 0, 0, BLOCK)
            self.note('munmap', self.mapped.pop(addr))

    def within(self, first, last):
        return [event for event in self.past if first <= event[0] <= last]

    def before(self, time):
        """The last event before it, whose state the window begins with."""
        return ([(0, '', 0, 0, 0)] + [event for event in self.past if event[0] < time])[-1]

    def cut(self, time):
        """The same trace, ended at that time."""
        lines = self.lines[:2]
        for number, event in enumerate(self.past):
            if event[0] <= time:
                lines.append(self.lines[2 + number])
        return '\n'.join([*lines, f'close 1 1 0 {START + time} 0', ''])


@pytest.fixture(scope='module')
def story():
    story = Story(4)
    while len(story.past) < 400:
        story.step()
    return story


@pytest.fixture(scope='module')
def trace(build, tmp_path_factory, story):
    return make_trace(build, tmp_path_factory.mktemp('windows') / 'trace', story.text())


# Of 400 records, 10 ns apart: bounds on records, between them, the whole, a single one.
WINDOWS = [(0, 4000), (1000, 2000), (1005, 1995), (20, 30), (2500, 4100), (3333, 3334), (770, 780)]


@pytest.mark.parametrize('first, last', WINDOWS)
def test_counts_and_peaks_are_of_the_window(heapledger, trace, story, first, last):
    data = windowed(heapledger, trace, '--from', seconds(first), '--to', seconds(last))
    inside, start = story.within(first, last), story.before(first)
    end = inside[-1] if inside else start
    ended = min(last, story.past[-1][0])
    assert data['window'] == {'from_ns': first, 'to_ns': ended, 'phase': None}
    for kind in 'malloc', 'free':
        of_kind = [event[2] for event in inside if event[1] == kind]
        assert data['events']['by_call'].get(kind, {}).get('count', 0) == len(of_kind)
        assert data['events']['by_call'].get(kind, {}).get('bytes', 0) == sum(of_kind)
    for kind in 'brk', 'mmap', 'munmap':
        assert data['syscalls'][kind] == sum(event[1] == kind for event in inside)
    assert data['returned_bytes'] == sum(event[2] for event in inside if event[1] == 'munmap')
    assert data['end']['requested_bytes'] == end[3] and data['end']['mapped_bytes'] == end[4]
    states = [start, *inside] if first else inside
    assert data['peak']['requested_bytes'] == max(event[3] for event in states)
    assert data['peak']['mapped_bytes'] == max(event[4] for event in states)
    for moment in data['moments']:
        assert first <= moment['at_ns'] <= ended
        ledger_adds_up(moment)


@pytest.mark.parametrize('first, last', WINDOWS[1:])
def test_the_heap_at_its_end_is_that_of_the_trace_cut_off(
        heapledger, build, tmp_path, trace, story, first, last):
    data = windowed(heapledger, trace, '--from', seconds(first), '--to', seconds(last))
    whole = windowed(heapledger, make_trace(build, tmp_path / 'cut', story.cut(last)))
    here, there = data['moments'][-1], whole['moments'][-1]
    assert here['moment'] == there['moment'] == 'end'
    for name in 'ledger', 'free_space', 'pages', 'huge_pages', 'break', 'sites', 'trim_bytes':
        assert here[name] == there[name], name
    assert data['end'] == whole['end']


def test_the_timeline_is_of_the_window(heapledger, trace, story, tmp_path):
    outcome = run([heapledger, 'analyze', '--from', seconds(1000), '--to', seconds(2000), '--csv',
                   tmp_path / 'csv', trace])
    assert outcome.status == 0, outcome
    with open(tmp_path / 'csv' / 'timeline.csv') as file:
        rows = list(csv.DictReader(file))
    times = [int(row['time_ns']) for row in rows]
    assert 1000 < times[0] < 1010 and times[-1] == 2000 and times == sorted(times)
    for row in rows[:-1]:
        state = story.before(int(row['time_ns']))
        assert int(row['requested_bytes']) == state[3] and int(row['mapped_bytes']) == state[4]
    with open(tmp_path / 'csv' / 'syscalls.csv') as file:
        counted = sum(int(row['count']) for row in csv.DictReader(file))
    assert counted == sum(event[1] in ('mmap', 'munmap') for event in story.within(1000, 2000))


def test_times_can_be_said_in_several_ways(heapledger, trace, story):
    last = story.past[-1][0]
    for text, ns in ('50%', last // 2), ('0.000001', 1000), ('0.001ms', 1000), ('0', 0), ('0s', 0):
        assert windowed(heapledger, trace, '--from', text)['window']['from_ns'] == ns
    assert windowed(heapledger, trace, '--to', '1h')['window'] == {
        'from_ns': 0, 'to_ns': last, 'phase': None}
    whole, same = windowed(heapledger, trace), windowed(heapledger, trace, '--from', '0')
    assert whole['window'] is None
    for data in whole, same:
        del data['window'], data['recorder'], data['processes']
    assert whole == same


@pytest.mark.parametrize('words, message', [
    (['--from', 'x'], '--from x: a time is needed, such as 1.5s, 200ms or 30%'),
    (['--to', '-1s'], '--to -1s: a time is needed, such as 1.5s, 200ms or 30%'),
    (['--from', '1.5 s'], '--from 1.5 s: a time is needed, such as 1.5s, 200ms or 30%'),
    (['--from', 'nan'], '--from nan: a time is needed, such as 1.5s, 200ms or 30%'),
    (['--from', '0x1s'], '--from 0x1s: a time is needed, such as 1.5s, 200ms or 30%'),
    (['--to', ''], '--to : a time is needed, such as 1.5s, 200ms or 30%'),
    (['--from', '2s'], '--from 2s: the recording ends at 4e-06 s'),
    (['--from', '50%', '--to', '50%'], '--to 50%: the window would end before it begins'),
    (['--phase', 'a'], '--phase a: no phase was marked'),
    (['--phase', 'a', '--to', '1s'], '--phase is a window itself: not with --from or --to'),
])
def test_wrong_windows_are_2(heapledger, trace, words, message):
    outcome = run([heapledger, 'analyze', '--json', '-', *words, trace])
    assert outcome.status == 2 and not outcome.stdout, outcome
    assert outcome.stderr.decode() == f'heapledger: analyze: {message}\n'


def test_the_summary_says_what_it_is_of(heapledger, trace):
    text = run([heapledger, 'analyze', '--from', seconds(1000), '--to', seconds(2000), trace])
    assert b'\n  only 1.00 us to 2.00 us of the recording\n' in text.stdout
    assert b' not freed by the end of that time.' in text.stdout
    assert b'only ' not in run([heapledger, 'analyze', trace]).stdout


# ---- real programs ---------------------------------------------------------------------------


@pytest.fixture(scope='module')
def phased(heapledger, build, tmp_path_factory):
    def record(*words):
        trace = tmp_path_factory.mktemp('phased') / 'trace'
        outcome = run([heapledger, 'record', '-q', '-o', trace, '--kernel', 'off', '--',
                       build / 'tests' / 'victims' / 'victim_phases_pie', *words])
        assert outcome.status == 0, outcome
        return trace
    return record


def test_a_phase_is_its_row(heapledger, phased):
    trace = phased('names', '2000', 'load', 'run', 'load', 'rest')
    whole = windowed(heapledger, trace)
    for name, row in zip(['load', 'run', 'rest'], [1, 2, 4], strict=True):
        data, expected = windowed(heapledger, trace, '--phase', name), whole['phases'][row]
        assert expected['name'] == name and data['phases'] == [expected]
        assert data['window'] == {
            'from_ns': expected['start_ns'], 'to_ns': expected['end_ns'], 'phase': name}
        assert data['events']['by_call'] == expected['by_call']
        assert data['events']['calls'] == expected['calls']
        assert data['syscalls']['total'] == expected['syscalls']['total']
        for part in 'peak', 'end':
            for field in 'requested_bytes', 'mapped_bytes':
                assert data[part][field] == expected[part][field]
    text = run([heapledger, 'analyze', '--phase', 'load', trace]).stdout.decode()
    assert ' of the recording: phase load, the first of 2\n' in text


def test_a_phase_that_is_not_there_is_said_with_those_that_are(heapledger, phased):
    trace = phased('names', '1', 'load', 'run \x1b[1m', 'load')
    outcome = run([heapledger, 'analyze', '--phase', 'lod', trace])
    assert outcome.status == 2 and not outcome.stdout
    assert outcome.stderr == (b'heapledger: analyze: --phase lod: there is no such phase; there are: '
                              b'load, run \\x1b[1m\n')


def test_phases_of_threads_and_of_children(heapledger, phased):
    threads = phased('threads', '3000')
    for name, count in ('round 0', 12000), ('round 1', 24000), ('round 2', 36000):
        calls = windowed(heapledger, threads, '--phase', name)['events']['by_call']
        assert calls['posix_memalign']['count'] == count
    forked = phased('fork', '1000')
    data = windowed(heapledger, forked, '--phase', 'child')
    child = [process for process in data['processes'] if process['parent_serial']]
    assert len(child) == 1 and child[0]['events']['by_call']['posix_memalign']['count'] == 3000
    after = windowed(heapledger, forked, '--phase', 'after')
    assert after['events']['by_call']['posix_memalign']['count'] == 4000


SUMMED = [('events', 'total'), ('events', 'calls'), ('syscalls', 'total'), ('syscalls', 'brk'),
          ('syscalls', 'time_ns'), ('returned', 'break_bytes'), ('returned', 'block_bytes'),
          ('free_to_return', 'returned_page_bytes'), ('free_to_return', 'reused_page_bytes')]


@pytest.fixture(scope='module')
def program(heapledger, tmp_path_factory):
    trace = tmp_path_factory.mktemp('program') / 'trace'
    code = ('for size in 10, 5000, 300:\n'
            ' d = [bytes(size + i % 700) for i in range(8000)]; del d[::2]; del d\n')
    outcome = run([heapledger, 'record', '-q', '-o', trace, '--kernel', 'off', '--', '/usr/bin/python3',
                   '-c', code], env={'PYTHONMALLOC': 'malloc'})
    assert outcome.status == 0, outcome
    return trace


def test_the_rows_of_the_timeline_are_all_that_is_mapped(heapledger, program, tmp_path):
    for words in [], ['--from', '20%', '--to', '70%']:
        outcome = run([heapledger, 'analyze', '--csv', tmp_path / 'csv', *words, program])
        assert outcome.status == 0, outcome
        with open(tmp_path / 'csv' / 'timeline.csv') as file:
            rows = [{name: int(value) for name, value in row.items()
                     if name.endswith('_bytes') and name != 'resident_heap_bytes'}
                    for row in csv.DictReader(file)]
        assert len(rows) == 1000
        for row in rows:
            assert row['mapped_bytes'] == row['requested_bytes'] + row['slack_bytes'] + row[
                'free_bytes'] + row['metadata_bytes']
            assert row['chunk_bytes'] == row['requested_bytes'] + row['slack_bytes']
            assert row['mapped_bytes'] == row['break_bytes'] + row['arena_bytes'] + row[
                'block_bytes'] + row['metadata_bytes']


def test_windows_add_up_to_the_whole(heapledger, program):
    """Each begins where the one before has ended, with all that was live or free then."""
    whole = windowed(heapledger, program)
    assert whole['returned_bytes'] > 0 and whole['free_to_return']['reused_page_bytes'] > 0
    third, last = whole['duration_ns'] // 3, whole['duration_ns'] * 3 // 4
    parts = [windowed(heapledger, program, *words) for words in (
        ['--to', seconds(third)], ['--from', seconds(third + 1), '--to', seconds(last)],
        ['--from', seconds(last + 1)])]
    for group, field in SUMMED:
        summed = sum(part[group][field] for part in parts)
        # Of time each sum is cut to whole nanoseconds.
        assert abs(summed - whole[group][field]) <= (3 if field == 'time_ns' else 0), (group, field)
    for field in 'requested_bytes', 'mapped_bytes', 'live_blocks':
        assert max(part['peak'][field] for part in parts) == whole['peak'][field]
    for part in parts:
        assert not any(part['anomalies'].values())
        assert part['recorder']['bytes_per_event'] is None
        for moment in part['moments']:
            ledger_adds_up(moment)
    assert parts[-1]['end'] == whole['end']
    assert parts[-1]['moments'][-1] == whole['moments'][-1]
