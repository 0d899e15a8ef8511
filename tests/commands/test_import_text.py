# SPDX-License-Identifier: MIT
"""`heapledger import FILE`: the logs of other tools become traces. What follows from calls, addresses
and sizes is exact, by a second reckoning in Python; everything else is said to be unknown."""

import csv
import ctypes
import gzip
import json
import random
import re
import signal
import subprocess
import time
import zipfile
from bisect import bisect_left
from collections import Counter
from pathlib import Path

import pytest

from conftest import CLEAN_ENVIRONMENT, SOURCE, analyze, run

LOGS = SOURCE / 'tests' / 'logs'
GOOD = {'logalloc': '1 1 malloc(32)=0x10', 'mtrace': '+ 0x10 0x20', 'memory_replay': '1: malloc 0x10 32'}

# By the size classes that docs/analysis.md's sizes.csv has: four for each doubling.
LIMITS = [16] + [(4 + step) << power for power in range(2, 54) for step in range(1, 5)]

pytestmark = pytest.mark.disorder  # logs begin late, and some contradict themselves on purpose


@pytest.fixture
def import_log(heapledger, tmp_path):
    """Imports text, or a file; the outcome."""
    def call(log, *options, trace='trace', name='log'):
        if not isinstance(log, Path):
            (tmp_path / name).write_bytes(log.encode() if isinstance(log, str) else log)
            log = name
        return run([heapledger, 'import', '-o', trace, *options, log], cwd=tmp_path)
    return call


# ---- the second reckoning ------------------------------------------------------------------------

class Process:
    """What calls make of an empty heap."""

    def __init__(self):
        self.live, self.requested, self.peak, self.peak_at, self.most_blocks = {}, 0, 0, 0, 0
        self.calls, self.sizes = {}, Counter()
        self.unknown = self.twice = 0

    def take(self, addr):
        if addr not in self.live:
            self.unknown += 1
            return None
        size = self.live.pop(addr)
        self.requested -= size
        return size

    def put(self, addr, size):
        self.twice += addr in self.live
        self.requested += size - self.live.get(addr, 0)
        self.live[addr] = size

    def call(self, number, kind, addr, size=0, old=0):
        count = self.calls.setdefault(kind, {'count': 0, 'failed': 0, 'bytes': 0})
        count['count'] += 1
        if kind == 'free':
            count['bytes'] += (addr and self.take(addr)) or 0
            return
        taken = self.take(old) if old else None
        if addr:
            count['bytes'] += size
            self.sizes[size] += 1
            self.put(addr, size)
            if self.requested > self.peak:
                self.peak, self.peak_at = self.requested, number
            self.most_blocks = max(self.most_blocks, len(self.live))
        elif kind != 'realloc' or size:
            count['failed'] += 1
            if taken is not None:
                self.put(old, taken)


def reckon(events):
    """pid -> Process, of (pid, kind, addr, size, old)."""
    processes = {}
    for number, (pid, *call) in enumerate(events, 1):
        processes.setdefault(pid, Process()).call(number, *call)
    return processes


def histogram(sizes):
    classes = {}
    for size, number in sizes.items():
        limit = LIMITS[bisect_left(LIMITS, size)]
        count, total = classes.get(limit, (0, 0))
        classes[limit] = count + number, total + size * number
    return classes


def assert_reckoned(heapledger, trace, events, times=False):
    processes = reckon(events)
    analysis = analyze(heapledger, trace)
    folder = trace.with_name('csv')
    assert run([heapledger, 'analyze', trace, '--csv', folder]).status == 0
    rows = list(csv.DictReader((folder / 'sizes.csv').open()))
    assert analysis['events']['calls'] == len(events)
    assert len(analysis['processes']) == len(processes)
    for found, process in zip(analysis['processes'], processes.values()):
        assert found['events']['by_call'] == process.calls
        assert found['peak']['requested_bytes'] == process.peak
        assert found['peak']['requested_at_event'] == (None if times else process.peak_at)
        assert found['peak']['live_blocks'] == process.most_blocks
        assert found['end']['requested_bytes'] == process.requested
        assert found['end']['live_blocks'] == len(process.live)
        assert found['anomalies'] == {'unknown_frees': 0, 'order_violations': process.twice, 'unmatched': 0,
                                      'inherited': process.unknown, 'impossible': 0}
        mine = [row for row in rows if row['stream'] == found['stream']]
        made = {int(row['up_to_bytes']): (int(row['count']), int(row['bytes'])) for row in mine
                if row['count'] != '0'}
        live = {int(row['up_to_bytes']): (int(row['live_count']), int(row['live_bytes'])) for row in mine
                if row['live_count'] != '0'}
        assert made == histogram(process.sizes)
        assert live == histogram(Counter(process.live.values()))
    return analysis


# ---- logs at random ------------------------------------------------------------------------------

KINDS = {
    'logalloc': ('malloc', 'calloc', 'posix_memalign', 'aligned_alloc', 'memalign', 'valloc'),
    'memory_replay': ('malloc', 'calloc', 'memalign'),
    'mtrace': ('malloc',),
}


def invent(format, number, pids, seed):
    """Events of a program that also does what none should: addresses given twice, frees of others."""
    rng = random.Random(seed)
    live = {pid: [] for pid in pids}

    def address():
        return 0x7f0000000000 + 8 * rng.randrange(1, 40000)

    for _ in range(number):
        pid = rng.choice(pids)
        mine = live[pid]
        size = rng.choice((0, 1, 16, 17, 24, 100, 4096, rng.randrange(1 << 20)))
        known = mine.pop(rng.randrange(len(mine))) if mine and rng.random() < 0.95 else address()
        new = rng.choice((known, address()))
        what = rng.random()
        if what < 0.4:
            call = 'free', known if rng.random() < 0.97 or format == 'mtrace' else 0, 0, 0
        elif what < 0.5:
            call = 'realloc', new, size, known
        elif what < 0.52 and format != 'mtrace':
            call = 'realloc', new, size, 0
        elif what < 0.54:
            call = 'realloc', 0, size + 1, known
        elif what < 0.55 and format != 'mtrace':
            call = 'realloc', 0, 0, known
        elif what < 0.57:
            call = rng.choice(KINDS[format]), 0, rng.choice((size, (1 << 64) - 1)), 0
        else:
            call = rng.choice(KINDS[format]), new, size, 0
        if call[1] and call[0] != 'free':
            mine.append(call[1])
        yield pid, *call


def logalloc_line(event, tid):
    pid, kind, addr, size, old = event
    call = {'free': f'free({addr:#x})', 'realloc': f'realloc({old:#x},{size})',
            'calloc': f'calloc(1,{size})', 'malloc': f'malloc({size})',
            'valloc': f'valloc({size})'}.get(kind, f'{kind}(64,{size})')
    return f'{pid} {140000000000000 + 4096 * tid} {call}' + ('' if kind == 'free' else f'={addr:#x}')


def replay_line(event, tid):
    _, kind, addr, size, old = event
    rest = {'free': '', 'realloc': f' {old:#x} {size}', 'malloc': f' {size}', 'calloc': f' {size} 1',
            'memalign': f' 128 {size}'}[kind]
    return f'{tid + 1}: {kind} {addr:#x}{rest}'


def mtrace_line(event, tid):
    _, kind, addr, size, old = event
    where = ('', '@ [0x1234] ', '@ ./a b:(f+0x3)[0x9] ')[tid % 3]
    text = f'{size:#x}' if size else '0'
    if kind == 'realloc':
        return (f'{where}< {old:#x}\n{where}> {addr:#x} {text}' if addr else f'{where}! {old:#x} {text}')
    return f'{where}- {addr:#x}' if kind == 'free' else f'{where}+ {addr:#x} {text}'.replace('0x0 ', '(nil) ')


@pytest.mark.parametrize('format, line, pids, tids', [
    ('logalloc', logalloc_line, (4711, 4712, 90), 5),
    ('memory_replay', replay_line, (0,), 3000),  # more than are gathered in memory at once
    ('mtrace', mtrace_line, (0,), 3),
])
def test_figures_are_those_of_a_second_reckoning(heapledger, import_log, tmp_path, format, line, pids, tids):
    events = list(invent(format, 5000, pids, 1))
    rng = random.Random(1)
    outcome = import_log(''.join(f'{line(event, rng.randrange(tids))}\n' for event in events))
    assert outcome.status == 0, outcome
    analysis = assert_reckoned(heapledger, tmp_path / 'trace', events)
    assert analysis['mode'] == 'imported' and analysis['complete']
    assert analysis['imported']['format'] == format
    numbers = [int(word.split()[1]) for word in
               run([heapledger, 'dump', tmp_path / 'trace']).stdout.decode().splitlines()
               if 'realloc_begin' not in word]
    assert sorted(numbers) == list(range(1, len(events) + 1))


def test_times_are_used_where_the_log_has_them(heapledger, import_log, tmp_path):
    events = list(invent('memory_replay', 3000, (0,), 3))
    text, now, moments = '', 7_000_000_000, []
    for number, event in enumerate(events):
        start, now = now + 5, now + 5 + number % 50
        text += f'{replay_line(event, number % 7)} {start} {now}\n'
        moments.append(start if event[1] == 'free' else now)  # before it is done, after it is made
    assert import_log(text).status == 0
    analysis = assert_reckoned(heapledger, tmp_path / 'trace', events, times=True)
    assert analysis['duration_ns'] == moments[-1] - moments[0]
    assert analysis['imported']['times'] is True
    assert 0 < analysis['peak']['requested_at_ns'] <= analysis['duration_ns']


def test_the_order_is_that_of_the_lines_whatever_their_times(heapledger, import_log, tmp_path):
    """Two threads' calls can be stamped with one time, or be logged a little later than others."""
    import_log('1: malloc 0x10 8 100 200\n2: free 0x10 150 160\n1: malloc 0x10 8 150 160\n'
               '3: free 0x10 160 170\n')
    analysis = analyze(heapledger, tmp_path / 'trace')
    assert analysis['end']['live_blocks'] == 0
    assert not any(analysis['anomalies'].values())
    assert analysis['duration_ns'] == 3


# ---- each form of a line -------------------------------------------------------------------------

def dumped(heapledger, trace):
    text = run([heapledger, 'dump', trace]).stdout.decode()
    return [line.replace(' chunk=unknown', '') for line in text.splitlines()]


FORMS = {
    'logalloc.log': '''
        4711.1 1 1 malloc size=32 = 0x7f90495120e0
        4711.1 2 1 calloc size=444 = 0x7f9049537480
        4711.1 3 2 realloc_begin 0x7f90495120e0
        4711.1 3 2 realloc size=64 = 0x7f9049536680
        4711.1 4 1 posix_memalign alignment=256 size=240 = 0x7f9049583300
        4711.1 5 1 aligned_alloc alignment=64 size=128 = 0x7f9049583500
        4711.1 6 1 memalign alignment=4096 size=10 = 0x7f9049584000
        4711.1 7 1 valloc alignment=0 size=100 = 0x7f9049585000
        4711.1 8 2 realloc_begin 0x0
        4711.1 8 2 realloc size=7 = 0x7f9049536608
        4711.1 10 2 free 0x7f9049536680
        4711.1 11 2 free 0x0
        4711.1 12 1 malloc size=18446744073709551615 = 0x0
        4711.1 13 1 calloc size=18446744073709551615 = 0x0
        4711.1 14 1 realloc_begin 0x7f9049537480
        4711.1 14 1 realloc size=99999999999999 = 0x0
        4711.1 16 1 realloc_begin 0x7f9049584000
        4711.1 16 1 realloc size=0 = 0x0
        4712.2 9 1 malloc size=5 = 0x7f90495120e0
        4712.2 15 1 free 0x7f9049537480''',
    'logalloc-old.log': '''
        13663.1 1 0 malloc size=42 = 0x7f0c33502040
        13663.1 2 0 malloc size=24 = 0x7f0c33503040
        13663.1 3 0 free 0x7f0c33502040''',
    'logalloc-munged.log': '''
        1.1 1 1 malloc size=42 = 0x1
        1.1 2 1 malloc size=24 = 0x2
        1.1 4 1 free 0x1
        1.1 5 1 realloc_begin 0x2
        1.1 5 1 realloc size=84 = 0x1
        2.2 3 1 malloc size=42 = 0x1''',
    'mtrace.log': '''
        0.1 1 0 malloc size=32 = 0x55d0c6f012a0
        0.1 2 0 malloc size=0 = 0x55d0c6f012d0
        0.1 3 0 malloc size=13 = 0x55d0c6f012f0
        0.1 4 0 realloc_begin 0x55d0c6f012a0
        0.1 4 0 realloc size=1024 = 0x55d0c6f01310
        0.1 5 0 free 0x55d0c6f012f0
        0.1 6 0 malloc size=16 = 0x55d0c6f01720
        0.1 7 0 malloc size=18446744073709551615 = 0x0
        0.1 8 0 realloc_begin 0x55d0c6f01310
        0.1 8 0 realloc size=9223372036854775807 = 0x0
        0.1 9 0 free 0x55d0c6f0beef''',
    'memory_replay.txt': '''
        0.1 1 202 malloc size=1024 = 0xb4827400
        0.1 2 202 calloc size=136 = 0xb4872020
        0.1 3 485 memalign alignment=16 size=104 = 0xae42d080
        0.1 4 202 realloc_begin 0xb4872020
        0.1 4 202 realloc size=80 = 0xb4840a60
        0.1 5 202 realloc_begin 0x0
        0.1 5 202 realloc size=76 = 0xb4930650
        0.1 6 202 realloc_begin 0xb4930650
        0.1 6 202 realloc size=0 = 0x0
        0.1 7 485 free 0xae42d080
        0.1 8 485 free 0x0
        0.1 8 485 thread_exit
        0.1 9 202 malloc size=4294967295 = 0x0
        0.1 10 202 realloc_begin 0xb4827400
        0.1 10 202 realloc size=4294967295 = 0x0
        0.1 11 202 free 0xb48ffff8''',
    'memory_replay-times.txt': '''
        0.1 0.000000000 1204 malloc size=20 = 0x7b2c3d4e50
        0.1 0.000001480 1205 calloc size=1500 = 0x7b2c3d4e80
        0.1 0.000002380 1204 realloc_begin 0x7b2c3d4e50
        0.1 0.000002380 1204 realloc size=80 = 0x7b2c3d5000
        0.1 0.000002381 1205 memalign alignment=4096 size=89 = 0x7b2c3d6000
        0.1 0.000002980 1205 thread_exit
        0.1 0.999998980 1204 free 0x7b2c3d4e80''',
}


@pytest.mark.parametrize('name', FORMS)
def test_each_form_of_a_line_is_read(heapledger, import_log, tmp_path, name):
    outcome = import_log(LOGS / name)
    assert outcome.status == 0, outcome
    assert dumped(heapledger, tmp_path / 'trace') == [line.strip() for line in
                                                      FORMS[name].strip().splitlines()]
    assert analyze(heapledger, tmp_path / 'trace')['imported'] == {
        'format': re.match(r'\w+', name)[0], 'file': str(LOGS / name), 'malformed_lines': 0,
        'lines': len((LOGS / name).read_text().splitlines()), 'times': 'times' in name}


def test_every_log_is_tried():
    assert {path.name for path in LOGS.iterdir()} == {*FORMS, 'README'}


MTRACE = re.compile(r'(?:@ .*\] )?([-+<>!]) (0x[0-9a-f]+|\(nil\))(?: (0x[0-9a-f]+|0))?')


def test_what_glibc_itself_writes(heapledger, import_log, build, tmp_path):
    log = tmp_path / 'log'
    outcome = run([build / 'tests' / 'victims' / 'victim_mtraced'],
                  env={'LD_PRELOAD': 'libc_malloc_debug.so.0', 'MALLOC_TRACE': str(log)})
    if b'cannot be preloaded' in outcome.stderr:
        pytest.skip('glibc has no libc_malloc_debug.so.0 here')
    assert outcome.status == 0, outcome
    events, old = [], None
    for line in log.read_text().splitlines():
        if line.startswith('='):
            continue
        sign, addr, size = MTRACE.fullmatch(line).groups()
        addr, size = int(addr.replace('(nil)', '0'), 16), int(size or '0', 16)
        if sign == '<':
            old = addr
        else:
            kind = {'+': 'malloc', '-': 'free'}.get(sign, 'realloc')
            old = {'>': old, '!': addr}.get(sign, 0)
            events.append((0, kind, 0 if sign == '!' else addr, size, old))
    assert len(events) > 10000
    assert {addr > 0 for _, kind, addr, _, _ in events if kind == 'realloc'} == {True, False}
    assert import_log(log).status == 0
    assert_reckoned(heapledger, tmp_path / 'trace', events)


# ---- bad lines -----------------------------------------------------------------------------------

MALFORMED = {
    'logalloc': [
        'malloc(32)=0x10', '1 1 malloc(32)', '1 1 malloc(32)=0x', '1 1 malloc(32)=0x10 x', '1 1 malloc(-1)=0x10',
        '1 1 malloc(32=0x10', '1 1 malloc(32)=32', '1 1 calloc(3)=0x10', '1 1 calloc(3,)=0x10', '1 1 free()',
        '1 1 free(0x10)=0x20', '1 1 realloc(0x10)=0x20', '1 1 alloca(32)=0x10', '0 1 malloc(32)=0x10',
        '4294967296 1 malloc(32)=0x10', '1 1  ', '1 1 malloc(18446744073709551616)=0x10',
        '1 1 malloc(32)=0x10000000000000000', '1 1 calloc(4294967296,4294967296)=0x10',
        '1 1 malloc(72057594037927936)=0x10', '1 1 free(#0)', '1 1 jemalloc_stats(1)',
    ],
    'mtrace': [
        '+ 0x20', '+ 0x20 0x', '+ 20 0x10', '- 0x20 0x10', '* 0x20', '@ ./a + 0x20 0x10', '@ ./a:[0x1]+ 0x20 0x10',
        '= Begin', '+ 0x20 0x10000000000000000', '> 0x20 0x10', '< 0x20', '@ ./a:[0x1]', '@ ', '+', '! 0x20',
    ],
    'memory_replay': [
        '1: malloc 0x20', '1: malloc 0x20 x', '1 malloc 0x20 8', '1:malloc 0x20 8', '1: mallox 0x20 8',
        '1: malloc 0x20 8 100', '1: malloc 0x20 8 100 99', '1: malloc 0x20 8 1 4611686018427387904',
        '1: calloc 0x20 8', '1: realloc 0x20 8', '1: realloc 0x20 0x10', '1: memalign 0x20 16', '1: free',
        '1: free 32', '0: malloc 0x20 8', '16777216: malloc 0x20 8', '-1: malloc 0x20 8', '1: thread_done',
        '1: malloc 0x20 18446744073709551615', '1: calloc 0x20 4294967296 4294967296', '1: malloc #1 8',
    ],
}


@pytest.mark.parametrize('format', MALFORMED)
def test_a_malformed_line_is_named_and_the_rest_is_read(heapledger, import_log, tmp_path, format):
    bad, good = MALFORMED[format], GOOD[format]
    lines = [good, *(line for word in bad for line in (word, good))]
    outcome = import_log('\n'.join(lines) + '\n')
    said = outcome.stderr.decode().splitlines()
    assert outcome.status == 1, outcome
    assert [line for line in said if ': left out: expected ' in line] == said[:5]
    assert [int(line.split(':')[3]) for line in said[:5]] == [2, 4, 6, 8, 10]
    assert f'log: {len(bad)} of {len(lines)} lines left out: the trace is marked incomplete' in said[-1]
    analysis = analyze(heapledger, tmp_path / 'trace')
    assert analysis['events']['calls'] == len(bad) + 1
    assert analysis['imported']['malformed_lines'] == len(bad)
    assert not analysis['complete']
    assert any(f'{len(bad)} lines of the log could not be read, the first is line 2' in note
               for note in analysis['notes'])
    summary = run([heapledger, 'analyze', tmp_path / 'trace'])
    assert 'INCOMPLETE: lines of the log could not be read' in summary.stdout.decode()


@pytest.mark.parametrize('format', MALFORMED)
def test_each_malformed_line_alone(import_log, format):
    """None of them is of any format, so that a file of such lines is no log."""
    for number, bad in enumerate(MALFORMED[format]):
        outcome = import_log(f'{GOOD[format]}\n{bad}\n', trace=f'trace{number}')
        assert outcome.status == 1, (bad, outcome)
        assert b'log:2: left out' in outcome.stderr, (bad, outcome)


@pytest.mark.parametrize('bad, expected', [
    (b'+ 0x10 0x20\n' + b'@ ' + b'x' * 70000 + b':[0x1] + 0x30 0x1\n+ 0x50 0x1\n', 'at most 65,536 bytes'),
    (b'+ 0x10 0x20\n' + b'\0' * 300000 + b'\n+ 0x50 0x1\n', 'at most 65,536 bytes'),
    (b'+ 0x10 0x20\n\xff\xfe\0\x01\n+ 0x50 0x1\n', 'POINTER SIZE'),
    (b'+ 0x10 0x20\n+ 0x50 0x1\n+ 0x90 0x1', 'which may be cut off'),
    (b'+ 0x10 0x20\n+ 0x50 0x1\n< 0x50\n', 'right after it'),
])
def test_long_binary_and_cut_off_lines_are_left_out(heapledger, import_log, tmp_path, bad, expected):
    outcome = import_log(bad)
    assert outcome.status == 1 and expected in outcome.stderr.decode(), outcome
    assert '1 of ' in outcome.stderr.decode().splitlines()[-1]
    analysis = analyze(heapledger, tmp_path / 'trace')
    assert analysis['end']['live_blocks'] == 2 and not analysis['complete']


def test_a_line_without_its_other_half_takes_no_other_with_it(heapledger, import_log, tmp_path):
    outcome = import_log('+ 0x10 0x8\n< 0x10\n+ 0x20 0x8\n< 0x20\n< 0x10\n> 0x30 0x9\n')
    assert outcome.status == 1 and b'2 of 6 lines' in outcome.stderr, outcome
    assert b'log:2: left out' in outcome.stderr and b'log:4: left out' in outcome.stderr
    assert dumped(heapledger, tmp_path / 'trace')[2:] == ['0.1 3 0 realloc_begin 0x10',
                                                         '0.1 3 0 realloc size=9 = 0x30']


@pytest.mark.parametrize('format', GOOD)
def test_dos_line_ends_and_blank_lines_are_no_matter(heapledger, import_log, tmp_path, format):
    outcome = import_log(f'\r\n{GOOD[format]}\r\n\n  \r\n{GOOD[format].replace("0x10", "0x30")} \r\n')
    assert outcome.status == 0, outcome
    assert analyze(heapledger, tmp_path / 'trace')['end']['requested_bytes'] == 64


@pytest.mark.parametrize('content, said', [
    (b'', 'there is no line in it'),
    (b'\n \r\n\n', 'there is no line in it'),
    (b'hello\n1 1 malloc(1)\n', 'not a log of logalloc, mtrace or memory_replay: line 1: expected'),
    (bytes(range(256)) * 2000, 'not a log of'),
    (b'\x7fELF' + b'\0' * 200000, 'not a log of'),
    (b'1: malloc 0x10 8', 'line 1: expected the end of the line'),
    (gzip.compress(b'1: malloc 0x10 8\n' * 9999)[:90], 'cut off'),
    (gzip.compress(b'1: malloc 0x10 8\n' * 9999)[:-8] + b'garbage!', 'damaged'),
    (b'\x28\xb5\x2f\xfd' + b'garbage' * 20, 'damaged'),
    (b'PK\3\4' + bytes(60), 'unzip'),
], ids=range(10))
def test_what_is_no_log_is_refused_and_leaves_nothing(import_log, tmp_path, content, said):
    outcome = import_log(content)
    assert outcome.status == 3, outcome
    assert outcome.stderr.decode().startswith('heapledger: import: log: ') and said in outcome.stderr.decode()
    assert outcome.stderr.count(b'\n') == 1
    assert [path.name for path in tmp_path.iterdir()] == ['log']


def test_a_log_without_events_is_one(heapledger, import_log, tmp_path):
    assert import_log('= Start\n= End\n').status == 0
    analysis = analyze(heapledger, tmp_path / 'trace')
    assert analysis['mode'] == 'imported' and analysis['complete'] is False and analysis['processes'] == []
    assert [analysis[key] for key in ('duration_ns', 'model', 'policy')] == [None] * 3
    assert import_log('\n', '--format', 'mtrace', trace='blank').status == 3


def test_a_format_that_is_given_is_the_only_one(import_log, tmp_path):
    for format, line in GOOD.items():
        for other in GOOD:
            outcome = import_log(f'{line}\n', '--format', other, trace=f'{format}-{other}')
            assert outcome.status == (0 if format == other else 3), outcome
            if format != other:
                assert f'not a log of {other}: line 1: expected' in outcome.stderr.decode()


# ---- files and directories -----------------------------------------------------------------------

def zstd(data):
    library = ctypes.CDLL('libzstd.so.1')
    for function in library.ZSTD_compressBound, library.ZSTD_compress:
        function.restype = ctypes.c_size_t
    room = library.ZSTD_compressBound(ctypes.c_size_t(len(data)))
    out = ctypes.create_string_buffer(room)
    used = library.ZSTD_compress(out, ctypes.c_size_t(room), data, ctypes.c_size_t(len(data)), 3)
    return out.raw[:used]


def test_compressed_logs_and_standard_input_are_the_same(heapledger, tmp_path):
    text = ''.join(f'{replay_line(event, 1)}\n' for event in invent('memory_replay', 20000, (0,), 4)).encode()
    assert len(text) > 3 * 128 * 1024
    half = text.index(b'\n', len(text) // 2) + 1
    ways = {'plain': text, 'gz': gzip.compress(text), 'zst': zstd(text),
            'gz2': gzip.compress(text[:half]) + gzip.compress(text[half:]),
            'zst2': zstd(text[:half]) + zstd(text[half:])}
    traces = []
    for way, data in ways.items():
        (tmp_path / way).write_bytes(data)
        assert run([heapledger, 'import', '-o', f'file.{way}', way], cwd=tmp_path).status == 0
        assert run([heapledger, 'import', '-o', f'pipe.{way}', '-'], cwd=tmp_path, input=data).status == 0
        traces += [(tmp_path / f'{kind}.{way}' / '0.1.hlt').read_bytes() for kind in ('file', 'pipe')]
    assert len(set(traces)) == 1


def test_a_zip_archive_is_for_its_user_to_unpack(import_log, tmp_path):
    with zipfile.ZipFile(tmp_path / 'log.zip', 'w') as archive:
        archive.writestr('log', GOOD['mtrace'])
    outcome = import_log(tmp_path / 'log.zip')
    assert outcome.status == 3 and b'zip archive: unpack it' in outcome.stderr


def test_the_directory_is_named_for_the_file(heapledger, tmp_path):
    (tmp_path / 'some.log').write_text(GOOD['mtrace'] + '\n')
    assert run([heapledger, 'import', tmp_path / 'some.log'], cwd=tmp_path).status == 0
    assert run([heapledger, 'import', '-'], cwd=tmp_path, input=b'+ 0x10 0x8\n').status == 0
    assert {path.name for path in tmp_path.iterdir() if path.is_dir()} == {'heapledger.some.log',
                                                                          'heapledger.stdin'}


def test_no_directory_is_written_over_but_a_trace_by_force(heapledger, import_log, tmp_path):
    assert import_log('+ 0x10 0x8\n').status == 0
    before = (tmp_path / 'trace' / '0.1.hlt').read_bytes()
    assert import_log('+ 0x10 0x8\n+ 0x20 0x8\n').status == 2
    assert import_log('no log\n', '--force').status == 3
    assert (tmp_path / 'trace' / '0.1.hlt').read_bytes() == before
    assert import_log('1 1 malloc(8)=0x10\n2 1 malloc(8)=0x10\n', '--force').status == 0
    assert {path.name for path in (tmp_path / 'trace').iterdir()} == {'1.1.hlt', '2.2.hlt', 'session.json'}
    (tmp_path / 'other').mkdir()
    (tmp_path / 'other' / 'precious').touch()
    outcome = import_log('+ 0x10 0x8\n', '--force', trace='other')
    assert outcome.status == 2 and b'is not a trace of heapledger' in outcome.stderr
    assert import_log('+ 0x10 0x8\n', trace='none/here').status == 2


@pytest.mark.parametrize('number', (signal.SIGINT, signal.SIGTERM))
def test_an_import_that_is_stopped_leaves_nothing(heapledger, tmp_path, number):
    process = subprocess.Popen([heapledger, 'import', '-o', 'trace', '-'], cwd=tmp_path, stdin=subprocess.PIPE,
                               stderr=subprocess.PIPE, env=CLEAN_ENVIRONMENT)
    process.stdin.write(b'+ 0x10 0x8\n' * 100000)
    process.stdin.flush()
    while not (tmp_path / 'trace').exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(number)
    assert process.wait(60) == -number
    process.stdin.close()
    process.stderr.close()
    assert not list(tmp_path.iterdir())


def test_a_full_disk_is_said_and_leaves_nothing(heapledger, tmp_path):
    command = f'ulimit -f 8; exec "{heapledger}" import -o trace log'
    text = ''.join(f'{replay_line(event, 1)}\n' for event in invent('memory_replay', 30000, (0,), 5))
    (tmp_path / 'log').write_text(text)
    outcome = run(['/bin/bash', '-c', f'trap "" XFSZ; {command}'], cwd=tmp_path)
    assert outcome.status == 2 and b'writing to trace: File too large' in outcome.stderr, outcome
    assert [path.name for path in tmp_path.iterdir()] == ['log']


@pytest.mark.parametrize('arguments, status, said', [
    (['--format', 'valgrind', 'log'], 2, 'not one of logalloc, mtrace or memory_replay'),
    (['missing'], 3, 'missing: No such file'),
    ([], 2, 'one directory or file is needed'),
    (['log', 'log'], 2, 'one directory or file is needed'),
    (['--bogus', 'log'], 2, '--bogus'),
    (['-o', 'trace', '.'], 2, 'is a directory'),
])
def test_wrong_usage(heapledger, tmp_path, arguments, status, said):
    (tmp_path / 'log').write_text('+ 0x10 0x8\n')
    outcome = run([heapledger, 'import', *arguments], cwd=tmp_path)
    assert outcome.status == status and said in outcome.stderr.decode(), outcome
    assert not (tmp_path / 'trace').exists()


def test_more_processes_than_can_be_are_left_out(heapledger, import_log, tmp_path):
    outcome = import_log(''.join(f'{pid} 1 malloc(8)=0x10\n' for pid in range(1, 504)))
    assert outcome.status == 1 and b'expected at most 500 processes' in outcome.stderr
    assert analyze(heapledger, tmp_path / 'trace')['events']['calls'] == 500


# ---- what is unknown -----------------------------------------------------------------------------

UNKNOWN = ['duration_ns', 'policy', 'model', 'tunables', 'exit', 'events.syscalls', 'syscalls.total',
           'syscalls.time_ns', 'syscalls.recorder', 'syscalls.by_cause', 'peak.requested_at_ns',
           'peak.mapped_bytes', 'peak.mapped_at_ns', 'peak.rss_bytes', 'peak.at_mapped', 'end.usable_bytes',
           'end.slack_bytes', 'end.free_bytes', 'end.mapped_bytes', 'end.break_bytes', 'end.arena_bytes',
           'end.block_bytes', 'end.metadata_bytes', 'end.reserved_bytes', 'end.rss_bytes', 'returned_bytes',
           'returned', 'returning', 'pins', 'fragmentation.mapped', 'fragmentation.resident',
           'free_to_return',
           'recorder.peak_rss_bytes']


def test_what_a_log_does_not_say_is_null(heapledger, import_log, tmp_path):
    assert import_log(LOGS / 'mtrace.log').status == 0
    analysis = analyze(heapledger, tmp_path / 'trace')
    for path in UNKNOWN:
        value = analysis
        for key in path.split('.'):
            value = value[key]
        assert value is None, path
    process = analysis['processes'][0]
    assert [process[key] for key in ('pid', 'ppid', 'start_ns', 'end_ns', 'exit')] == [None] * 5
    session = json.loads((tmp_path / 'trace' / 'session.json').read_text())
    assert [session[key] for key in ('started', 'tick_hz', 'host', 'exit', 'duration_ns')] == [None] * 5
    (tmp_path / 'trace' / 'session.json').unlink()  # the stream says it by itself
    alone = analyze(heapledger, tmp_path / 'trace')
    assert (alone['mode'], alone['imported'], alone['duration_ns']) == ('imported', None, None)
    assert alone['processes'] == analysis['processes']


def test_the_time_line_has_events_for_an_axis(heapledger, import_log, tmp_path):
    assert import_log(LOGS / 'mtrace.log').status == 0
    assert run([heapledger, 'analyze', tmp_path / 'trace', '--csv', tmp_path / 'csv']).status == 0
    rows = list(csv.DictReader((tmp_path / 'csv' / 'timeline.csv').open()))
    assert rows[-1]['event'] == '9' and {row['time_ns'] for row in rows} == {''}
    assert {row['mapped_bytes'] + row['free_bytes'] + row['chunk_bytes'] for row in rows} == {''}


def test_the_summary_and_the_report_say_unknown(heapledger, import_log, tmp_path):
    assert import_log(LOGS / 'logalloc.log').status == 0
    summary = run([heapledger, 'analyze', tmp_path / 'trace']).stdout.decode()
    assert 'mode imported: a log of logalloc' in summary
    assert 'at times that are unknown' in summary
    assert ', at event 8.' in summary
    assert re.search(r'= mapped +unknown +unknown', summary)
    assert not re.search(r'\d (?:ns|us|ms|s)\b', summary)
    assert '1 free is of what was allocated before the log began, or before a fork' in summary
    assert max(map(len, summary.splitlines())) <= 80
    report = run([heapledger, 'report', 'trace', '-o', 'report.html', '--png', 'figures'], cwd=tmp_path)
    assert report.status == 0, report
    page = (tmp_path / 'report.html').read_text()
    assert 'COMPLETE: every line of the log was read' in page
    assert 'A log of logalloc was imported' in page and 'times unknown' in page
    assert (tmp_path / 'figures' / 'memory.png').exists()
    text = re.sub(r'<svg.*?</svg>|<style.*?</style>', '', page, flags=re.S)
    assert not re.search(r'\d(?:&nbsp;| )(?:ns|µs|ms|s|min)\b', text)


def test_a_gate_does_not_pass_on_what_is_unknown(heapledger, import_log, tmp_path):
    assert import_log(LOGS / 'memory_replay.txt').status == 0
    budgets = {'[peak]\nrequested = 1500\n': 0, '[peak]\nrequested = 1000\n': 1, '[peak]\nrss = "1 GiB"\n': 4,
               '[syscalls]\nbrk = 1000\n': 4, '[end]\nlive_blocks = 0\n': 1}
    for budget, status in budgets.items():
        (tmp_path / 'heap.toml').write_text(budget)
        outcome = run([heapledger, 'check', tmp_path / 'trace', '--budget', tmp_path / 'heap.toml'])
        assert outcome.status == status, (budget, outcome)
    assert import_log('+ 0x10 0x8\nbad\n', trace='incomplete').status == 1
    (tmp_path / 'heap.toml').write_text('[peak]\nrequested = 1000\n')
    outcome = run([heapledger, 'check', tmp_path / 'incomplete', '--budget', tmp_path / 'heap.toml'])
    assert outcome.status == 4 and b'1 line of the log not read' in outcome.stdout
    outcome = run([heapledger, 'verify', tmp_path / 'trace'])
    assert outcome.status == 4 and b'UNVERIFIED: an imported log has no kernel side' in outcome.stdout
