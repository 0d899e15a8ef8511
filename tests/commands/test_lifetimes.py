# SPDX-License-Identifier: MIT
"""What sizes are asked for and take, and how long blocks live: by hand, where every number is known, and
against a second implementation (lifetimes_model.py) on traces by chance and on real programs."""

import csv
import json
import random

import pytest

import heap_model
import lifetimes_model
import waits_model
from conftest import analyze, record_program, run
from trace_script import BASE, BLOCK, MMAP, MUNMAP, PAGE, REALLOC, REALLOC_BEGIN, Script, analysed, make_trace

MS = 10**6
SHORT = lifetimes_model.SHORT
NONE = {'freed_blocks': 0, 'freed_bytes': 0, 'live_blocks': 0, 'live_bytes': 0}


def script():
    return Script().brk(BASE, BASE + 64 * PAGE)


def block(number):
    return BASE + 16 + 256 * number


def alone(data, name='lifetimes'):
    """Of the only process, which is the main one."""
    process, = data['processes']
    assert process[name] == data[name]
    return data[name]


@pytest.fixture
def said(heapledger, build, tmp_path):
    """The analysis of a script, which says the same as the model."""
    def of(made, name='trace'):
        trace, data = analysed(heapledger, build, tmp_path / name, made)
        same_as_the_model(heapledger, trace, data)
        return data
    return of


def model_of(heapledger, trace, data):
    lines = heap_model.dump(heapledger, trace, data['main_stream'])
    return lifetimes_model.Lives(lines), lines


def process_of(data):
    process, = (process for process in data['processes'] if process['stream'] == data['main_stream'])
    return process


def adds_up(data, resizes, emptied=0):
    """The equations of docs/analysis.md."""
    process = process_of(data)
    lifetimes, calls = process['lifetimes'], process['events']['by_call']
    made = sum(row['count'] for row in process['sizes'])
    live = lifetimes['live_blocks'] + lifetimes['before']['live_blocks']
    assert made + emptied == sum(call['count'] - call['failed'] for name, call in calls.items()
                                 if name in heap_model.ALLOCATIONS)
    assert made - resizes == lifetimes['freed_blocks'] + lifetimes['live_blocks']
    assert process['end']['live_blocks'] == live == sum(row['live_count'] for row in process['sizes'])
    for name, ledger in (('live', process['end']), ('peak', process['peak']['at_mapped'])):
        assert sum(row[f'{name}_chunk_bytes'] - row[f'{name}_bytes'] for row in process['sizes']) == (
            ledger['slack_bytes'])


def same_as_the_model(heapledger, trace, data, rate=0):
    """Times are known but for a share of `rate`, or exactly."""
    model, lines = model_of(heapledger, trace, data)
    assert data['sizes'] == lifetimes_model.sizes(model, lines)
    lifetimes = data['lifetimes']
    expected = lifetimes_model.lifetimes(model)
    times = expected.pop('time')
    assert not heap_model.differences(lifetimes, expected)
    for row in lifetimes['sizes']:
        lived = lifetimes_model.of_size(model, row['up_to_bytes'], 'allocated')
        same_percentiles(row['lived_bytes'], lived, lived)
    if rate:
        between(lifetimes['time'], model, rate)
    else:
        assert not heap_model.differences(lifetimes['time'], times)
    for row in lifetimes['sizes']:
        same_percentiles(row['lived_ns'], *(
            lifetimes_model.of_size(model, row['up_to_bytes'], 'time', scale)
            for scale in (lower(rate), upper(rate))))
    adds_up(data, model.resizes, model.emptied)
    return model


def lower(rate):
    return lambda ns: round(ns * (1 - rate) - bool(rate))


def upper(rate):
    return lambda ns: round(ns * (1 + rate) + bool(rate))


def same_percentiles(said, low, high):
    """Each is the end of an eighth, and no more than the longest life of all."""
    for percent in (50, 90, 99) if low else ():
        least, most = (lifetimes_model.percentiles(lived)[f'p{percent}'] for lived in (low, high))
        value = said[f'p{percent}']
        assert min(low) <= value and least <= value <= waits_model.last_of_eighth(most), (said, percent)
    assert (said is None) == (not low)


def freed_within(model, lived, seen):
    """The rows of the incidence if blocks had lived, and those that are live been seen, for so long."""
    return lifetimes_model.freed_shares([
        (max(lived(life.time), SHORT) if life.kind == 'freed' else seen(life.time), life.kind)
        for life in model.lives])


def between(said, model, rate):
    """No more blocks lived for so long than if all had lived longer, and no fewer. What ceases to be seen
    in a bucket is at risk in all of it, so that shares are not told by that: they are at most as if it had
    been seen for a bucket less, and at least as if for one more."""
    short, long = (lifetimes_model.on_clock(model.lives, 'time', 'ns', scale)
                   for scale in (lower(rate), upper(rate)))
    for kind in lifetimes_model.KINDS:
        def up_to(rows, end):
            return sum(row[f'{kind}_blocks'] for row in rows['histogram'] if row['up_to_ns'] <= end)
        for row in said['histogram']:
            end = row['up_to_ns']
            assert up_to(long, end) <= up_to(said, end) <= up_to(short, end), (kind, end)
    same_percentiles(said['percentiles'], *(
        [lifetimes_model.value_of(life, 'time', scale) for life in model.lives if life.kind == 'freed']
        for scale in (lower(rate), upper(rate))))
    short, long = (freed_within(model, lower(rate), lambda ns: max(lower(rate)(ns) * 8 // 9 - 1, 0)),
                   freed_within(model, upper(rate), lambda ns: max(upper(rate)(ns) * 9 // 8 + 1, SHORT)))
    for row in said['incidence']:
        least, most = (max([share for end, share in rows if end <= row['up_to_ns']], default=0)
                       for rows in (long, short))
        assert least - 1e-9 <= row['freed'] <= most + 1e-9


# ---- by hand: times are ns since the start -----------------------------------------------------


def test_a_life_is_from_the_call_that_made_the_block_to_its_free(said):
    """100 bytes for 3 ms, 200 more came meanwhile; 200 for 20 ms, and nothing came; 5,000 stay."""
    made = (script().malloc(block(0), 100, 112).at(1 * MS).malloc(block(1), 200, 208)
            .at(3 * MS + 20).free(block(0)).at(21 * MS).free(block(1))
            .at(30 * MS).malloc(block(40), 5000, 5008).at(31 * MS).phase('end'))
    data = said(made)
    lifetimes = alone(data)
    assert {name: lifetimes[name] for name in NONE} == {
        'freed_blocks': 2, 'freed_bytes': 300, 'live_blocks': 1, 'live_bytes': 5000}
    assert lifetimes['before'] == NONE
    time, allocated = lifetimes['time'], lifetimes['allocated']
    assert time['histogram'] == [{'up_to_ns': SHORT, 'freed_blocks': 0, 'live_blocks': 1},
                                 {'up_to_ns': 4194303, 'freed_blocks': 1, 'live_blocks': 0},
                                 {'up_to_ns': 33554431, 'freed_blocks': 1, 'live_blocks': 0}]
    assert time['percentiles'] == {'p50': 3145727, 'p90': 20 * MS, 'p99': 20 * MS, 'max': 20 * MS}
    assert allocated['histogram'] == [{'up_to_bytes': 0, 'freed_blocks': 1, 'live_blocks': 1},
                                      {'up_to_bytes': 255, 'freed_blocks': 1, 'live_blocks': 0}]
    assert allocated['percentiles'] == {'p50': 0, 'p90': 200, 'p99': 200, 'max': 200}
    assert [row['up_to_bytes'] for row in lifetimes['sizes']] == [128, 256, 8192]
    assert lifetimes['sizes'][0]['lived_bytes'] == {'p50': 200, 'p90': 200, 'p99': 200}
    assert lifetimes['sizes'][2]['lived_ns'] is None
    # Of three the one that is live was not seen for longer than the first bucket.
    assert [(row['at_risk_blocks'], row['freed']) for row in time['incidence']] == [(2, 0), (1, 0.5), (0, 1)]


def test_what_is_shorter_than_times_are_known_is_not_told_apart(said):
    made = script()
    for number, ns in enumerate((10, 1000, SHORT - 1, SHORT, SHORT + 1, SHORT + 2)):
        made.malloc(block(number), 100, 112)
        made.at(made.tick - 1010 + ns).free(block(number))
    time = alone(said(made))['time']
    assert [(row['up_to_ns'], row['freed_blocks']) for row in time['histogram']] == [(SHORT, 4), (2 * SHORT + 1, 2)]
    assert time['percentiles']['p50'] == SHORT and time['percentiles']['max'] == SHORT + 2


def test_a_block_that_is_resized_lives_on(said):
    """Made at 0, moved, resized in place, and freed at 50 ms with 4,000 bytes."""
    made = (script().malloc(block(0), 100, 112)
            .at(10 * MS).free(block(0), REALLOC_BEGIN).malloc(block(8), 1000, 1008, kind=REALLOC)
            .at(20 * MS).free(block(8), REALLOC_BEGIN).malloc(block(8), 4000, 4016, kind=REALLOC)
            .at(50 * MS + 20).free(block(8)))
    data = said(made)
    lifetimes = alone(data)
    assert lifetimes['freed_blocks'] == 1 and lifetimes['freed_bytes'] == 4000
    assert lifetimes['time']['percentiles']['max'] == 50 * MS
    assert lifetimes['allocated']['percentiles']['max'] == 5000
    assert [row['up_to_bytes'] for row in lifetimes['sizes']] == [4096]
    assert [(row['up_to_bytes'], row['count'], row['chunk_bytes']) for row in data['sizes']] == [
        (112, 1, 112), (1024, 1, 1008), (4096, 1, 4016)]
    assert [row['peak_count'] for row in data['sizes']] == [0, 0, 1]  # the most requested while the most is mapped


def test_a_realloc_that_fails_changes_no_life_and_one_to_nothing_ends_it(said):
    made = (script().malloc(block(0), 100, 112).malloc(block(1), 300, 304)
            .at(5 * MS).free(block(0), REALLOC_BEGIN).malloc(0, 1 << 40, 0, kind=REALLOC)
            .at(7 * MS).free(0, REALLOC_BEGIN).malloc(block(4), 40, 48, kind=REALLOC)
            .at(9 * MS + 30).free(block(1), REALLOC_BEGIN).at(15 * MS).malloc(0, 0, 0, kind=REALLOC)
            .at(20 * MS + 20).free(block(0)))
    lifetimes = alone(said(made))
    assert (lifetimes['freed_blocks'], lifetimes['live_blocks']) == (2, 1)
    assert lifetimes['time']['percentiles'] == {'p50': 9437183, 'p90': 20 * MS, 'p99': 20 * MS, 'max': 20 * MS}
    # 300 bytes came after the first, and 40 after both.
    assert lifetimes['allocated']['percentiles']['max'] == 340


def test_a_block_that_was_resized_and_whose_realloc_fails_or_has_not_ended_is_as_old_as_it_was(said):
    made = script()
    for number in 0, 10:
        made.malloc(block(number), 100, 112)
        made.free(block(number), REALLOC_BEGIN).malloc(block(number + 1), 500, 512, kind=REALLOC)
    made.at(30 * MS).free(block(1), REALLOC_BEGIN).malloc(0, 1 << 40, 0, kind=REALLOC)
    made.at(40 * MS + 20).free(block(1)).at(70 * MS).free(block(11), REALLOC_BEGIN).phase('end')
    lifetimes = alone(said(made))
    assert (lifetimes['freed_blocks'], lifetimes['live_blocks']) == (1, 1)
    assert lifetimes['time']['histogram'] == [{'up_to_ns': 67108863, 'freed_blocks': 1, 'live_blocks': 0},
                                              {'up_to_ns': 134217727, 'freed_blocks': 0, 'live_blocks': 1}]


def test_the_free_of_another_thread_ends_a_life(said):
    made = (script().malloc(block(0), 100, 112, tid=7).at(4 * MS).malloc(block(1), 32, 48, tid=9)
            .at(8 * MS + 10).free(block(0), tid=9).at(9 * MS).free(block(1), REALLOC_BEGIN, tid=7)
            .malloc(block(2), 64, 80, kind=REALLOC, tid=7).at(24 * MS).free(block(2), tid=9))
    lifetimes = alone(said(made))
    assert lifetimes['time']['percentiles']['p50'] == 8 * MS // (1 << 20) * (1 << 20) + (1 << 20) - 1
    assert lifetimes['time']['percentiles']['max'] == 20 * MS
    assert lifetimes['allocated']['percentiles']['max'] == 64


def test_sizes_say_what_blocks_take_and_mappings_of_their_own_do_too(said):
    place, bytes_ = 0x7ffff7e00000, 64 * PAGE
    made = (script().malloc(block(0), 17, 32).malloc(block(1), 20, 32).malloc(block(2), 0, 32)
            .syscall(MMAP, 0, bytes_, 3, place, BLOCK).malloc(place + 16, 250_000, bytes_, flags=1)
            .free(block(1)).at(4 * MS).free(place + 16)
            .syscall(MUNMAP, place, bytes_, 0, 0, BLOCK, call=9, reason=12))
    rows = {row['up_to_bytes']: row for row in alone(said(made), 'sizes')}
    assert rows[262144] == {'up_to_bytes': 262144, 'count': 1, 'bytes': 250_000, 'chunk_bytes': bytes_,
                            'peak_count': 1, 'peak_bytes': 250_000, 'peak_chunk_bytes': bytes_,
                            'live_count': 0, 'live_bytes': 0, 'live_chunk_bytes': 0}
    assert rows[20] == {'up_to_bytes': 20, 'count': 2, 'bytes': 37, 'chunk_bytes': 64, 'peak_count': 2,
                        'peak_bytes': 37, 'peak_chunk_bytes': 64, 'live_count': 1, 'live_bytes': 17,
                        'live_chunk_bytes': 32}
    assert rows[16]['bytes'] == 0 and rows[16]['chunk_bytes'] == 32


def test_a_childs_inherited_blocks_have_no_length(heapledger, build, tmp_path):
    """Two of the parent's: the child frees one, resizes the other; and makes one of its own for 3 ms."""
    parent = (script().malloc(block(0), 100, 112).malloc(block(1), 200, 208).malloc(block(2), 300, 304)
              .at(300).add('call', 7, 1300, 49, 0, 1, 0, 0, 0).at(20 * MS).free(block(2)).text())
    child = (f'command program\nstream 101 2 1 1 1300\ncall 101 2000 9 {block(0)} 0 0 0 0\n'
             f'call 101 2100 48 {block(1)} 0 0 0 0\ncall 101 2100 3 {block(5)} 600 608 0 0\n'
             f'call 101 3000 1 {block(9)} 40 48 0 0\ncall 101 {3000 + 3 * MS} 9 {block(9)} 0 0 0 0\n'
             f'close 1 1 0 {3000 + 3 * MS} 0\n')
    data = analyze(heapledger, make_trace(build, tmp_path / 'trace', parent + child))
    first, second = (process['lifetimes'] for process in data['processes'])
    assert first['before'] == NONE and (first['freed_blocks'], first['live_blocks']) == (1, 2)
    assert second['before'] == {'freed_blocks': 1, 'freed_bytes': 100, 'live_blocks': 2, 'live_bytes': 900}
    assert {name: second[name] for name in NONE} == {
        'freed_blocks': 1, 'freed_bytes': 40, 'live_blocks': 0, 'live_bytes': 0}
    assert second['time']['percentiles']['max'] == 3 * MS
    assert second['allocated']['percentiles']['max'] == 0


def test_a_window_has_the_lives_that_began_in_it(heapledger, build, tmp_path):
    """From 10 to 40 ms: one block of before is freed, one resized and freed, one stays; of its own one is freed
    and one lives, which goes after the window."""
    made = (script().malloc(block(0), 100, 112).malloc(block(1), 200, 208).malloc(block(2), 300, 304)
            .at(12 * MS).malloc(block(3), 1000, 1008).malloc(block(8), 50, 64)
            .at(14 * MS).free(block(1), REALLOC_BEGIN).malloc(block(10), 700, 704, kind=REALLOC)
            .at(20 * MS).free(block(0)).at(32 * MS).free(block(3)).free(block(10))
            .at(50 * MS).free(block(8)).free(block(2)))
    trace = make_trace(build, tmp_path / 'trace', made.text())
    outcome = run([heapledger, 'analyze', '--json', tmp_path / 'out', '--from', '10ms', '--to', '40ms', trace])
    assert outcome.status == 0, outcome
    data = json.loads((tmp_path / 'out').read_text())
    lifetimes = alone(data)
    assert lifetimes['before'] == {'freed_blocks': 2, 'freed_bytes': 800, 'live_blocks': 1, 'live_bytes': 300}
    assert {name: lifetimes[name] for name in NONE} == {
        'freed_blocks': 1, 'freed_bytes': 1000, 'live_blocks': 1, 'live_bytes': 50}
    assert lifetimes['time']['percentiles']['max'] == 20 * MS
    assert lifetimes['allocated']['percentiles']['max'] == 750
    adds_up(data, 1)


def test_blocks_from_before_the_recording_began_have_no_length(said):
    """Two were there; one of them is freed, the other resized. A third is made after, and lives for 3 ms."""
    made = script().malloc(block(0), 100, 112).malloc(block(1), 200, 208)
    made.add('call', 7, made.tick, 57, 0, 0, 0, 0, 0, 0)
    made.at(5 * MS).free(block(0)).free(block(1), REALLOC_BEGIN).malloc(block(8), 900, 912, kind=REALLOC)
    made.at(6 * MS).malloc(block(3), 50, 64).at(9 * MS).free(block(3))
    lifetimes = alone(said(made))
    assert lifetimes['before'] == {'freed_blocks': 1, 'freed_bytes': 100, 'live_blocks': 1, 'live_bytes': 900}
    assert (lifetimes['freed_blocks'], lifetimes['live_blocks']) == (1, 0)
    assert lifetimes['time']['percentiles']['max'] == 3 * MS


def test_csv_has_the_same(heapledger, build, tmp_path):
    made = Chance(7).script(400)
    trace, data = analysed(heapledger, build, tmp_path / 'trace', made)
    assert run([heapledger, 'analyze', '--csv', tmp_path / 'csv', trace]).status == 0
    with (tmp_path / 'csv' / 'sizes.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert [{name: int(row[name]) for name in row if name != 'stream'} for row in rows] == data['sizes']
    with (tmp_path / 'csv' / 'lifetimes.csv').open() as file:
        rows = list(csv.DictReader(file))
    assert rows
    for clock, unit in ('time', 'ns'), ('allocated', 'bytes'):
        sums = {}
        for row in rows:
            if row['clock'] == clock:
                total = sums.setdefault(int(row['lived_up_to']), [0, 0])
                total[0] += int(row['freed_blocks'])
                total[1] += int(row['live_blocks'])
        assert [{f'up_to_{unit}': end, 'freed_blocks': freed, 'live_blocks': live}
                for end, (freed, live) in sorted(sums.items())] == data['lifetimes'][clock]['histogram']
    for size in data['lifetimes']['sizes']:
        of = [row for row in rows if int(row['up_to_bytes']) == size['up_to_bytes']]
        for kind in 'freed_blocks', 'live_blocks':
            assert sum(int(row[kind]) for row in of) == 2 * size[kind]      # by each clock


# ---- by chance and for real --------------------------------------------------------------------


class Chance:
    """Blocks at any free place; two threads; lives of any length."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.made, self.live = script(), []
        self.places = list(range(0, 1000))

    def size(self):
        return int(2 ** self.random.uniform(0, 11))

    def allocate(self, **words):
        place = self.places.pop(self.random.randrange(len(self.places)))
        size = min(self.size(), 230)
        self.made.malloc(block(place), size, size // 16 * 16 + 32 - (16 if size % 16 <= 8 else 0), **words)
        self.live.append(place)

    def free(self, **words):
        place = self.live.pop(self.random.randrange(len(self.live)))
        self.made.free(block(place), **words)
        self.places.append(place)

    def resize(self, tid):
        if self.random.random() < 0.2:
            self.made.free(0, REALLOC_BEGIN, tid=tid)
        else:
            self.free(kind=REALLOC_BEGIN, tid=tid)
        if self.random.random() < 0.2:
            self.made.tick += self.random.randrange(MS)
            self.made.malloc(block(999_999), 7, 32, tid=16 - tid).free(block(999_999), tid=16 - tid)
        self.allocate(kind=REALLOC, tid=tid)

    def script(self, steps):
        for _ in range(steps):
            tid = self.random.choice([7, 9])
            what = self.random.random()
            if what < 0.45 or not self.live:
                self.allocate(tid=tid)
            elif what < 0.8:
                self.free(tid=tid)
            else:
                self.resize(tid)
            self.made.tick += int(2 ** self.random.uniform(0, 24))
        return self.made


@pytest.mark.parametrize('seed', range(4))
def test_traces_by_chance_are_as_the_model_has_them(said, seed):
    data = said(Chance(seed).script(900))
    assert data['lifetimes']['freed_blocks'] > 100 and data['lifetimes']['live_blocks'] > 10


CODE = 'struct list { struct list *next; int value; };\nint f(struct list *p) { int s = 0; for (; p; p = p->next)' \
       ' s += p->value; return s; }\n'
PROGRAMS = {
    'sqlite': ['--stacks', '8', '--', '/usr/bin/sqlite3', ':memory:',
               'create table t(a, b); with recursive c(i) as (select 1 union all select i + 1 from c '
               'where i < 1500) insert into t select i, hex(randomblob(90)) from c; '
               'delete from t where a % 3 = 0; drop table t; create table u(a);'],
    'python': ['--', '/usr/bin/python3', '-S', '-E', '-c', 'x = [str(i) * 3 for i in range(2000)]; del x[::2]'],
    'gcc': ['--', 'gcc', '-O1', '-x', 'c', '-c', '-o', '/dev/null', '-'],
    'threads': ['--', 'victim_phases_pie', 'threads', '300'],
    'by mmap': ['--policy', 'mmap', '--', 'victim_phases_pie', 'threads', '300'],
}


@pytest.mark.disorder
@pytest.mark.parametrize('name', PROGRAMS)
def test_real_programs_are_as_the_model_has_them(heapledger, build, tmp_path, name):
    trace = record_program(heapledger, build, tmp_path / 'trace', PROGRAMS[name], input=CODE.encode())
    data = analyze(heapledger, trace)
    assert data['complete'] and not any(process_of(data)['anomalies'].values()), data['anomalies']
    model = same_as_the_model(heapledger, trace, data, 1e-2)
    assert len(model.lives) > 100


def test_observed_blocks_live_and_take_nobody_knows_what(heapledger, tmp_path):
    trace = tmp_path / 'trace'
    outcome = run([heapledger, 'record', '-q', '--observe', '--kernel', 'off', '-o', trace, '--',
                   '/usr/bin/sqlite3', ':memory:', 'create table t(a); insert into t values(1);'])
    assert outcome.status == 0, outcome
    data = analyze(heapledger, trace)
    model, _ = model_of(heapledger, trace, data)
    expected = lifetimes_model.lifetimes(model)
    expected.pop('time')
    assert not heap_model.differences(data['lifetimes'], expected)
    assert len(model.requests) == sum(row['count'] for row in data['sizes'])
    for row in data['sizes']:
        assert row['chunk_bytes'] is None and row['live_chunk_bytes'] is None
        assert row['peak_count'] is None and row['peak_bytes'] is None and row['peak_chunk_bytes'] is None


@pytest.mark.disorder
def test_a_log_without_times_has_bytes_alone(heapledger, tmp_path):
    """A block of 32 bytes outlives one of 64; one that nobody saw is resized, and lives; 16 bytes are freed at once."""
    log = ('1 1 malloc(32)=0x10\n1 1 malloc(64)=0x100\n1 1 free(0x100)\n1 1 realloc(0x900,8)=0x200\n'
           '1 1 free(0x10)\n1 1 malloc(16)=0x300\n1 1 free(0x300)\n')
    (tmp_path / 'log').write_text(log)
    trace = tmp_path / 'trace'
    assert run([heapledger, 'import', '-o', trace, tmp_path / 'log']).status == 0
    data = analyze(heapledger, trace)
    lifetimes = alone(data)
    assert lifetimes['time'] is None and all(row['lived_ns'] is None for row in lifetimes['sizes'])
    assert lifetimes['allocated']['histogram'] == [{'up_to_bytes': 0, 'freed_blocks': 2, 'live_blocks': 0},
                                                   {'up_to_bytes': 127, 'freed_blocks': 1, 'live_blocks': 0}]
    assert lifetimes['before'] == {'freed_blocks': 0, 'freed_bytes': 0, 'live_blocks': 1, 'live_bytes': 8}
    assert run([heapledger, 'analyze', '--csv', tmp_path / 'csv', trace]).status == 0
    with (tmp_path / 'csv' / 'lifetimes.csv').open() as file:
        assert {row['clock'] for row in csv.DictReader(file)} == {'allocated'}
