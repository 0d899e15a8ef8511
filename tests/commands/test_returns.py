# SPDX-License-Identifier: MIT
"""What freed memory waited for, what blocks pinned, and which calls gave memory back: by hand, where every
number can be reckoned, and against a second implementation (waits_model.py) on traces by chance and on
real programs."""

import json
import random
from collections import defaultdict

import pytest

import heap_model
import waits_model
from conftest import analyze, record_program, run
from trace_script import (ARENA, BASE, BLOCK, FREE, MADVISE, MALLOC, MMAP, MPROTECT, MREMAP, MUNMAP, PAGE,
                          REALLOC, REALLOC_BEGIN, Script, analysed, make_trace)

DONTNEED = 4
SEGMENT = 64 << 20
ARENAS = 0x7fff00000000


def page(number):
    """The address of a block whose chunk begins where this page of the break does."""
    return BASE + number * PAGE + 8


def grown(pages):
    return Script().brk(BASE, BASE + pages * PAGE)


@pytest.fixture
def said(heapledger, build, tmp_path):
    """The analysis of a script, which says the same as the model."""
    def of(script, name='trace'):
        trace, data = analysed(heapledger, build, tmp_path / name, script)
        assert same_as_the_model(heapledger, trace, data) == 1
        return data
    return of


# ---- against the model -------------------------------------------------------------------------


def key_of(said):
    caller = int(said['caller'], 16) if said['caller'] else 0
    return (None if said['stack'] else caller), said['stack'] or 0


def keyed(model):
    """With stacks the caller that the analyzer names is another frame."""
    return {(None if stack else caller, stack): value for (caller, stack), value in model.items()}


class Close:
    """To the model, but for a share `rate`: of a recording the model has the times of records, and the
    analyzer ticks at the clock's rate at its end."""

    def __init__(self, rate):
        self.rate = rate

    def near(self, a, b):
        return abs(a - b) <= self.rate * max(abs(a), abs(b)) + self.rate / 10

    def differences(self, said, model):
        return [(name, said[name], value) for name, value in model.items()
                if (not self.near(said[name], value) if isinstance(value, float) else said[name] != value)]

    def same_percentiles(self, said, waits, part, most):
        """`most`: how much higher it may be, being the end of a bucket."""
        gone = [wait for wait in waits if wait.end == 'returned' and not wait.held]
        assert (said is None) == (not gone)
        for percent in (50, 90, 99) if gone else ():
            low = waits_model.percentile(gone, part, percent)
            high = max(low * most, 7 if low else 0) * (1 + self.rate) + 1      # up to 7 ns are one bucket
            assert low * (1 - self.rate) - 1 <= said[f'p{percent}'] <= high, (said, percent, low)

    def same_sites(self, said, model):
        rows = keyed(waits_model.sites(model.waits))
        assert said['sites_total'] == len(rows)
        for site in said['sites']:
            key = key_of(site)
            assert not self.differences(site, rows[key])
            own = [wait for wait in model.waits if next(iter(keyed({wait.site: 0}))) == key]
            self.same_percentiles(site['pinned_ns'], own, 'pinned', 2)
            self.same_percentiles(site['policy_ns'], own, 'policy', 2)
        waited = sorted((row['pinned_byte_seconds'] + row['policy_byte_seconds'] for row in rows.values()),
                        reverse=True)[:50]
        assert all(self.near(site['pinned_byte_seconds'] + site['policy_byte_seconds'], most)
                   for site, most in zip(said['sites'], waited, strict=True))

    def same_incidence(self, said, waits):
        """All rows and fields of the three. The clock's rate at the end follows from the sums of the times;
        what lies so close to another eighth that it may be in it counts as not known."""
        ours = waits_model.seconds(waits, 'pinned') + waits_model.seconds(waits, 'policy')
        theirs = said['pinned']['byte_seconds'] + said['policy']['byte_seconds']
        scale = theirs / ours if self.rate > 1e-9 and ours else 1
        rate = self.rate / 100 if self.rate > 1e-9 else 0
        for part, (rows, unsure) in waits_model.incidences(waits, scale, rate).items():
            all_ = sum(bytes_ for _, bytes_, _ in waits_model.outcomes(waits, part))
            self.same_curve((said[part] if part else said)['incidence'], rows, unsure, all_)
        for group in said['size_groups']:
            of = waits_model.group(waits, group['up_to_bytes'])
            assert [group[f'{end}_page_bytes'] for end in waits_model.ENDS] == [
                waits_model.bytes_of(of, end) for end in waits_model.ENDS]
            rows, unsure = waits_model.incidences(of, scale, rate)[None]
            self.same_curve(group['incidence'], rows, unsure, sum(wait.bytes for wait in of))
        assert len(said['size_groups']) == sum(
            bool(waits_model.group(waits, limit)) for limit in waits_model.GROUPS)

    def same_curve(self, found, rows, unsure, all_):
        found = {row['up_to_ns']: row for row in found}
        assert len(found.keys() ^ rows.keys()) <= bool(unsure), (found, rows)
        for end in found.keys() & rows.keys():
            assert found[end].keys() == rows[end].keys()
            for name, value in rows[end].items():
                near = unsure if isinstance(value, int) else 1e-9 + 8 * unsure / all_
                assert abs(found[end][name] - value) <= near, (end, name, found, rows)

    def same_waits(self, said, model):
        waits = model.waits
        self.same_incidence(said, waits)
        for part, row in waits_model.split(waits).items():
            assert not self.differences(said[part], row)
            gone = [wait for wait in waits if not wait.held]
            self.same_percentiles(said[part]['time_ns'], gone, part, 9 / 8)
        assert len(said['sizes']) == len(waits_model.sizes(waits))
        for one, row in zip(said['sizes'], waits_model.sizes(waits)):
            assert not self.differences(one, row)
        self.same_sites(said, model)

    def same_pins(self, said, model):
        pinned = {key: value / 1e9 for key, value in keyed(model.pinned).items() if value}
        assert said['sites_total'] == len(pinned)
        assert self.near(said['byte_seconds'], sum(pinned.values()))
        for site in said['sites']:
            assert self.near(site['byte_seconds'], pinned[key_of(site)])
        assert all(self.near(site['byte_seconds'], most) for site, most in zip(
            said['sites'], sorted(pinned.values(), reverse=True)[:50], strict=True))


def same_returns(said, model):
    """By what triggered them, and by cause."""
    rows, causes = defaultdict(lambda: [0, 0]), defaultdict(int)
    for (kind, reason, call, caller, stack), (count, bytes_) in model.returned.items():
        call = None if call == 'none' else call
        row = rows[kind, reason, call, None if stack else caller, stack]
        row[0] += count
        row[1] += bytes_
        causes[kind, reason, call] += bytes_
    assert said['returning']['total'] == len(rows)
    for one in said['returning']['calls']:
        found = rows[one['syscall'], one['reason'], one['call'], *key_of(one)]
        assert found == [one['count'], one['returned_bytes']]
    assert [one['returned_bytes'] for one in said['returning']['calls']] == sorted(
        (bytes_ for _, bytes_ in rows.values()), reverse=True)[:50]
    for cause in said['syscalls']['by_cause']:
        assert cause['returned_bytes'] == causes[cause['syscall'], cause['reason'], cause['call']]


def same_as_the_model(heapledger, trace, data, rate=1e-9):
    """How many processes were compared: those that were not forked."""
    compared, close = 0, Close(rate)
    for process in data['processes']:
        if process['parent_serial']:
            continue
        model = waits_model.follow(heap_model.dump(heapledger, trace, process['stream']))
        close.same_waits(process['free_to_return'], model)
        close.same_pins(process['pins'], model)
        same_returns(process, model)
        assert process['returned_bytes'] == sum(bytes_ for _, bytes_ in model.returned.values())
        compared += 1
    return compared


class Chance:
    """A heap by chance: the break and two arenas of two segments each, whose blocks come and go, are
    resized and share pages, and whose ends and middles go back."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.script = Script()
        self.live = {}          # addr -> (region, start, end) of its chunk
        self.regions = []       # [start, end, mapped from, arena]
        self.grow_break()
        for arena in 1, 2:
            for segment in 0, 1:
                start = ARENAS + (4 * segment - 2 * arena + 8) * SEGMENT
                self.script.syscall(MPROTECT, start, 40 * PAGE, 3, 0, ARENA, arena=arena)
                self.regions.append([start, start + 40 * PAGE, arena])

    def grow_break(self):
        self.script.brk(BASE, BASE + 60 * PAGE)
        self.regions.append([BASE, BASE + 60 * PAGE, 0])

    def free_place(self, region, bytes_):
        start, end = region[:2]
        taken = sorted(chunk[1:] for chunk in self.live.values() if chunk[0] is region)
        gaps, at = [], start
        for low, high in [*taken, (end, end)]:
            if low - at >= bytes_:
                gaps.append((at, low - bytes_))
            at = high
        if not gaps:
            return None
        low, high = self.random.choice(gaps)
        return low if self.random.random() < 0.5 else low + self.random.randrange(0, high - low + 1, 16)

    def allocate(self, kind=MALLOC, tid=7):
        region = self.random.choice(self.regions)
        bytes_ = 16 * self.random.choice([2, 3, 10, 40, 200, 256, 700])
        start = self.free_place(region, bytes_)
        if start is None:
            return False
        self.script.malloc(start + 8, bytes_ - 8 - self.random.randrange(8), bytes_,
                           0x1000 * self.random.randrange(1, 6), tid=tid, kind=kind)
        self.live[start + 8] = region, start, start + bytes_
        return True

    def pick(self):
        return self.random.choice(list(self.live)) if self.live else None

    def free(self):
        addr = self.pick()
        if addr:
            self.script.free(addr)
            del self.live[addr]

    def resize(self):
        addr, tid = self.pick(), self.random.choice([7, 9])
        if not addr:
            return
        self.script.free(addr, REALLOC_BEGIN, tid)
        region, start, end = self.live[addr]
        for _ in range(self.random.randrange(3)):
            self.allocate()
        if self.random.random() < 0.3:
            self.purge(tid, addr)
        how = self.random.random()
        if how < 0.3 and end - start > 64:     # in place, to less
            self.live[addr] = region, start, end - 32
            self.script.malloc(addr, 16, end - start - 32, tid=tid, kind=REALLOC)
        elif how < 0.5:                        # refused: it is what it was
            self.script.malloc(0, 1 << 40, 0, tid=tid, kind=REALLOC)
        elif not self.allocate(REALLOC, tid):
            self.script.malloc(0, 1 << 40, 0, tid=tid, kind=REALLOC)
        else:
            del self.live[addr]

    def purge(self, tid=7, resized=None):
        """Pages of which no block holds any."""
        region = self.random.choice(self.regions)
        held = {page for addr, (_, start, end) in self.live.items() if addr != resized
                for page in range(start // PAGE, (end - 1) // PAGE + 1)}
        first = last = self.random.randrange(region[0] // PAGE, region[1] // PAGE)
        while last < region[1] // PAGE and last < first + 5 and last not in held:
            last += 1
        if last > first:
            self.script.syscall(MADVISE, first * PAGE, (last - first) * PAGE, DONTNEED, 0,
                                ARENA if region[2] else 1, arena=region[2], call=11, reason=11,
                                caller=0x7000, tid=tid)

    def shrink(self):
        """The break comes down to its highest block, and sometimes goes up again."""
        region = self.regions[0]
        top = max((chunk[2] for chunk in self.live.values() if chunk[0] is region), default=BASE)
        down = -(-top // PAGE) * PAGE
        if down < region[1]:
            self.script.brk(region[1], down, call=FREE, reason=13, caller=0x8000)
            self.script.brk(down, BASE + 60 * PAGE)
            region[1] = BASE + 60 * PAGE

    def trace(self, steps):
        for _ in range(steps):
            step = self.random.choices(
                [self.allocate, self.free, self.resize, self.purge, self.shrink], [40, 38, 10, 4, 4])[0]
            step()
            self.script.tick += self.random.randrange(200)
        return self.script


@pytest.mark.parametrize('seed', range(4))
def test_heaps_by_chance_are_as_the_model_has_them(said, heapledger, tmp_path, seed):
    data = said(Chance(seed).trace(900))
    model = heap_model.moments(heap_model.dump(heapledger, tmp_path / 'trace', data['main_stream']))
    for moment in model:
        found, = (one for one in data['moments'] if one['moment'] == moment['moment'])
        assert len(moment['arenas']) == 2
        assert not heap_model.differences(found['arenas'], moment['arenas'])
    back = data['free_to_return']
    ends = 'cleared', 'returned', 'reused', 'never'
    assert all(back['pinned'][f'{end}_page_bytes'] for end in ends), back
    assert back['policy']['returned_page_bytes'] and back['policy']['reused_page_bytes']
    assert data['pins']['byte_seconds'] and data['returning']['total'] == 2


PROGRAMS = {
    'sqlite': ['--stacks', '8', '--', '/usr/bin/sqlite3', ':memory:',
               'create table t(a, b); with recursive c(i) as (select 1 union all select i + 1 from c '
               'where i < 1200) insert into t select i, hex(randomblob(90)) from c; '
               'delete from t where a % 3 = 0; drop table t; create table u(a);'],
    'threads': ['--', 'victim_phases_pie', 'threads', '300'],
    'by mmap': ['--policy', 'mmap', '--', 'victim_phases_pie', 'threads', '300'],
}


@pytest.mark.disorder
@pytest.mark.parametrize('name', PROGRAMS)
def test_real_programs_are_as_the_model_has_them(heapledger, build, tmp_path, name):
    trace = record_program(heapledger, build, tmp_path / 'trace', PROGRAMS[name])
    data = analyze(heapledger, trace)
    assert data['complete'] and not any(data['anomalies'].values()), data['anomalies']
    assert same_as_the_model(heapledger, trace, data, 1e-2) >= 1


# ---- by hand: times are ns since the start -----------------------------------------------------


def times(p50, p90=None, p99=None, most=None):
    p90 = p90 or p50
    return {'p50': p50, 'p90': p90, 'p99': p99 or p90, 'max': most or p99 or p90}


def test_a_page_is_pinned_until_the_block_above_goes_and_then_waits_for_policy(said, heapledger, tmp_path):
    """Page 1 is free at 100, page 3 at 400, and both go back at 1,000."""
    script = (grown(8).malloc(page(0), 3000, PAGE).malloc(page(1), 3000, PAGE, 0x2000)
              .malloc(page(3), 3000, PAGE, 0x3000)
              .at(100).free(page(1)).at(400).free(page(3))
              .at(1000).brk(BASE + 8 * PAGE, BASE + PAGE, call=FREE, reason=13, caller=0x4000))
    data = said(script)
    back = data['free_to_return']
    assert back['latency_ns']['max'] == 900
    assert back['pinned'] == {
        'cleared_page_bytes': 2 * PAGE, 'returned_page_bytes': 0, 'reused_page_bytes': 0,
        'never_page_bytes': 0, 'byte_seconds': PAGE * 300 / 1e9, 'time_ns': times(0, 300),
        'incidence': [
            {'up_to_ns': 7, 'at_risk_bytes': PAGE, 'cleared': 0.5, 'ended': 0.0},
            {'up_to_ns': 511, 'at_risk_bytes': 0, 'cleared': 1.0, 'ended': 0.0}]}
    assert back['policy'] == {
        'returned_page_bytes': 2 * PAGE, 'reused_page_bytes': 0, 'never_page_bytes': 0,
        'byte_seconds': 2 * PAGE * 600 / 1e9, 'time_ns': times(600),
        'incidence': [{'up_to_ns': 1023, 'at_risk_bytes': 0, 'returned': 1.0, 'reused': 0.0}]}
    freed, above = back['sites']
    assert (freed['caller'], above['caller']) == ('0x2000', '0x3000')
    assert (freed['pinned_byte_seconds'], freed['policy_byte_seconds']) == (
        PAGE * 300 / 1e9, PAGE * 600 / 1e9)
    assert freed['pinned_ns'] == {'p50': 511, 'p90': 511, 'p99': 511}   # to a doubling
    assert (freed['held_page_bytes'], above['held_page_bytes']) == (0, PAGE)
    assert above['held_byte_seconds'] == PAGE * 300 / 1e9 and above['pinned_byte_seconds'] == 0
    assert back['sites_total'] == 2 and [row['up_to_bytes'] for row in back['sizes']] == [3072]
    text = ' '.join(run([heapledger, 'analyze', tmp_path / 'trace']).stdout.decode().split())
    assert 'by bytes, 20 % was below a block in use' in text       # 300 of 1,500
    assert back['sizes'][0]['never'] == 0 and back['sizes'][0]['returned_page_bytes'] == 2 * PAGE


def test_the_last_time_that_the_way_is_clear_counts(said):
    """Above page 1 a block goes at 400, another one comes at 500 and goes at 700."""
    script = (grown(8).malloc(page(0), 3000, PAGE).malloc(page(1), 3000, PAGE)
              .malloc(page(5), 3000, PAGE).at(100).free(page(1)).at(400).free(page(5))
              .at(500).malloc(page(3), 3000, PAGE, 0x3000).at(700).free(page(3))
              .at(1000).brk(BASE + 8 * PAGE, BASE + PAGE))
    back = said(script)['free_to_return']
    # Page 5 is clear all along, from 400 to 1,000.
    assert back['pinned']['byte_seconds'] == PAGE * 600 / 1e9
    assert back['policy']['byte_seconds'] == PAGE * (300 + 300 + 600) / 1e9
    held = {site['caller']: site['held_page_bytes'] for site in back['sites']}
    assert held == {'0x1000': 0, '0x3000': PAGE}


def test_what_goes_back_or_is_used_again_below_a_block_was_pinned_to_the_last(said):
    """Page 1 is given back by madvise at 300, page 2 used again at 500, page 3 never goes: 100 to 900."""
    script = (grown(8).malloc(page(1), 3000, PAGE).malloc(page(2), 3000, PAGE).malloc(page(3), 3000, PAGE)
              .malloc(page(6), 3000, PAGE, 0x6000)
              .at(100).free(page(1)).at(100 + 10).free(page(2)).at(100 + 20).free(page(3))
              .at(300).syscall(MADVISE, BASE + PAGE, PAGE, DONTNEED, 0, 1, call=11, reason=11)
              .at(510).malloc(page(2), 3000, PAGE).at(920).phase('end'))
    data = said(script)
    back = data['free_to_return']
    assert [back['pinned'][f'{end}_page_bytes'] for end in ('cleared', 'returned', 'reused', 'never')] == [
        0, PAGE, PAGE, PAGE]
    assert back['pinned']['byte_seconds'] == PAGE * (200 + 400 + 800) / 1e9
    assert back['pinned']['time_ns'] is None and back['policy']['time_ns'] is None
    assert back['policy']['byte_seconds'] == 0
    # One of three ended at 200, one at 400, the third was seen until 800.
    assert [(step['cleared'], pytest.approx(step['ended'])) for step in back['pinned']['incidence']] == [
        (0, 1 / 3), (0, 2 / 3), (0, 2 / 3)]
    # Page 3's holder is the block on page 6; who held the others at their ends is not said.
    assert {site['caller']: site['held_page_bytes'] for site in back['sites']} == {
        '0x1000': 0, '0x6000': PAGE}
    assert back['sites'][0]['never'] == pytest.approx(1 / 3)


def test_an_arena_ends_in_its_newest_segment(said):
    """Two segments of arena 1, the newer one at lower addresses: its block holds the free page of the
    older one until 500. Arena 2 has nothing to do with it."""
    old, new, other = ARENAS + 2 * SEGMENT, ARENAS, ARENAS + 4 * SEGMENT
    script = Script()
    for start, arena in ((old, 1), (new, 1), (other, 2)):
        script.syscall(MPROTECT, start, 8 * PAGE, 3, 0, ARENA, arena=arena)
    script.malloc(old + 8, 3000, PAGE).malloc(new + 8, 3000, PAGE, 0x2000).malloc(
        other + 5 * PAGE + 8, 3000, PAGE)
    script.at(200).free(old + 8).at(500).free(new + 8)
    script.at(600).syscall(MUNMAP, new, SEGMENT, 0, 0, ARENA, arena=1, call=FREE, reason=12)
    script.at(900).syscall(MADVISE, old, 8 * PAGE, DONTNEED, 0, ARENA, arena=1, call=FREE, reason=9)
    back = said(script)['free_to_return']
    assert back['pinned']['byte_seconds'] == PAGE * 300 / 1e9
    assert back['policy']['byte_seconds'] == PAGE * (400 + 100) / 1e9
    assert {site['caller']: site['held_page_bytes'] for site in back['sites']} == {
        '0x1000': 0, '0x2000': PAGE}


def test_nothing_pins_a_mapping_of_its_own(said):
    place, bytes_ = 0x7ffff7e00000, 64 * PAGE
    script = (grown(2).malloc(page(0), 100, 112).syscall(MMAP, 0, bytes_, 3, place, BLOCK)
              .malloc(place + 16, 250_000, bytes_, 0x5000, flags=1).at(100).free(place + 16)
              .at(300).syscall(MUNMAP, place, bytes_, 0, 0, BLOCK, call=FREE, reason=12, caller=0x9000))
    data = said(script)
    back, row = data['free_to_return'], data['returning']['calls'][0]
    assert back['pinned']['byte_seconds'] == 0 and back['pinned']['cleared_page_bytes'] == bytes_
    assert back['policy']['byte_seconds'] == bytes_ * 200 / 1e9
    assert (row['syscall'], row['call'], row['caller'], row['count'], row['returned_bytes']) == (
        'munmap', 'free', '0x9000', 1, bytes_)


def test_a_mapping_that_shrinks_returns_the_rest(said):
    place, bytes_ = 0x7ffff7e00000, 64 * PAGE
    script = (grown(2).syscall(MMAP, 0, bytes_, 3, place, BLOCK)
              .malloc(place + 16, 250_000, bytes_, flags=1).at(100).free(place + 16, REALLOC_BEGIN)
              .syscall(MREMAP, place, bytes_, 8 * PAGE, place, BLOCK, call=REALLOC, reason=14, caller=0x9000)
              .malloc(place + 16, 30_000, 8 * PAGE, flags=1, kind=REALLOC))
    row = said(script)['returning']['calls'][0]
    assert (row['syscall'], row['call'], row['returned_bytes']) == ('mremap', 'realloc', 56 * PAGE)


def test_the_calls_that_return_are_named_by_what_triggered_them(said):
    """Two frees from one place and one from another bring the break down; a fourth changes nothing."""
    script = grown(8).malloc(page(0), 3000, PAGE)
    for pages, caller in ((8, 0x4000), (6, 0x5000), (5, 0x4000)):
        down = {8: 6, 6: 5, 5: 2}[pages]
        script.brk(BASE + pages * PAGE, BASE + down * PAGE, call=FREE, reason=13, caller=caller)
    script.brk(BASE + 2 * PAGE, BASE + 2 * PAGE, call=FREE, reason=13, caller=0x6000)
    data = said(script)
    assert [(row['caller'], row['count'], row['returned_bytes'], row['time_ns'])
            for row in data['returning']['calls']] == [('0x4000', 2, 5 * PAGE, 2), ('0x5000', 1, PAGE, 1)]
    assert data['returning']['total'] == 2
    causes = {(cause['reason'], cause['call']): cause['returned_bytes'] 
              for cause in data['syscalls']['by_cause']}
    assert sorted(causes.values()) == [0, 6 * PAGE]


def test_what_lies_free_beside_blocks_is_pinned_by_them_in_even_parts(said):
    """Page 0 has one block of 1,024 bytes from 20 on and a second one from 100 to 300; 1,000 is the end.
    Until 100 the first pins 3,072 bytes; then each a half of 2,048; then it is alone again."""
    script = (grown(4).at(20).malloc(page(0), 1000, 1024, 0x1000)
              .at(100).malloc(BASE + 2048 + 8, 1000, 1024, 0x2000).at(300).free(BASE + 2048 + 8)
              .at(1000).phase('end'))
    pins = said(script)['pins']
    assert [(site['caller'], site['byte_seconds']) for site in pins['sites']] == [
        ('0x1000', pytest.approx((3072 * 80 + 1024 * 200 + 3072 * 700) / 1e9)),
        ('0x2000', pytest.approx(1024 * 200 / 1e9))]
    assert pins['byte_seconds'] == pytest.approx(sum(site['byte_seconds'] for site in pins['sites']))
    assert sum(site['share'] for site in pins['sites']) == pytest.approx(1)


def test_whole_pages_pin_nothing(said):
    pins = said(grown(8).malloc(page(0), 3 * PAGE - 8, 3 * PAGE).at(900).phase('end'))['pins']
    assert pins == {'byte_seconds': 0, 'sites_total': 0, 'sites': []}


def test_a_child_pins_from_its_start_on(heapledger, build, tmp_path):
    """The parent's block pins 3,072 bytes from 20 to the end of each: 420, and 300 to 800 in the child."""
    script = (grown(4).at(20).malloc(page(0), 1000, 1024)
              .at(300).add('call', 7, 1300, 49, 0, 1, 0, 0, 0).at(420).phase('end').text())
    child = ('command program\nstream 101 2 1 1 1300\nphase 101 1300\nphase 101 1800\n'
             'close 1 1 0 1800 0\n')
    data = analyze(heapledger, make_trace(build, tmp_path / 'trace', script + child))
    seconds = [process['pins']['byte_seconds'] for process in data['processes']]
    assert seconds == [pytest.approx(3072 * 400 / 1e9), pytest.approx(3072 * 500 / 1e9)]


def test_a_window_has_the_pins_of_its_time(heapledger, build, tmp_path):
    script = (grown(4).at(20).malloc(page(0), 1000, 1024).at(400).malloc(page(1), 3000, PAGE)
              .at(500).free(page(1)).at(1000).brk(BASE + 4 * PAGE, BASE + PAGE).at(1200).phase('end'))
    trace = make_trace(build, tmp_path / 'trace', script.text())
    outcome = run([heapledger, 'analyze', '--json', tmp_path / 'out', '--from', '600e-9', '--to', '1100e-9',
                   trace])
    assert outcome.status == 0, outcome
    data = analyze(heapledger, trace)
    assert data['pins']['byte_seconds'] == pytest.approx(3072 * 1180 / 1e9)
    part = json.loads((tmp_path / 'out').read_text())
    assert part['pins']['byte_seconds'] == pytest.approx(3072 * 500 / 1e9)
    # Freed before the window, it has its whole time.
    assert part['free_to_return']['policy']['byte_seconds'] == pytest.approx(PAGE * 500 / 1e9)
    assert part['returning']['total'] == 1
