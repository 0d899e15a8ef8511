# SPDX-License-Identifier: MIT
"""The `moments` of `analyze --json`: layouts whose every number is worked out by hand, real programs
against a second implementation (heap_model.py), sums that must hold, what it foretells against what
happens, and traces that cannot be."""

import json

import pytest

import heap_model
from conftest import analyze, ledger_adds_up, record_program, run
from test_returns import Chance
from trace_script import (ARENA, BASE, BLOCK, BREAK, MADVISE, METADATA, MMAP, MPROTECT, MUNMAP, PAGE,
                          REALLOC, REALLOC_BEGIN, Script, analysed, make_trace)


@pytest.fixture
def moments(heapledger, build, tmp_path):
    """The moments of a script, checked against the model."""
    def of(script, name='trace'):
        trace, data = analysed(heapledger, build, tmp_path / name, script)
        same_as_the_model(heapledger, trace, data)
        return data['moments']
    return of


def last(moments):
    assert moments[-1]['moment'] == 'end'
    return moments[-1]


# ---- against the model -------------------------------------------------------------------------


def order(moment):
    return moment['moment'], moment['at_ns']


def model_site(model, said):
    """The model's site of one that the analyzer names. With stacks, its caller is another frame."""
    stack = said['stack'] or 0
    caller = int(said['caller'], 16) if said['caller'] else 0
    found = [site for (kept, address, number), site in model.items()
             if kept == said['kept'] and number == stack and (stack or address == caller)]
    assert len(found) == 1, (said, found)
    return found[0]


def same_moment(said, model, where):
    sites = model.pop('sites')
    assert heap_model.differences(said, model, where) == []
    for site in said['sites']:
        assert heap_model.differences(site, model_site(sites, site), f'{where}.site') == []
    # Those that the analyzer leaves out pin no more.
    most = sorted((site['pinned_bytes'] for site in sites.values()), reverse=True)[:50]
    assert heap_model.differences([site['pinned_bytes'] for site in said['sites']], most) == []


def sums(moment):
    """What must hold of any moment, whatever the model says."""
    ledger = moment['ledger']
    whole = sum(ledger['whole_pages'].values())
    ledger_adds_up(moment)
    free = ledger['partial_bytes'] + whole + ledger['top_bytes']
    assert moment['free_space']['bytes'] == free, ledger
    assert sum(ledger['top_pages'].values()) <= ledger['top_bytes'], ledger
    if moment['sites_total'] <= 50:
        pinned = sum(site['pinned_bytes'] for site in moment['sites'])
        assert heap_model.close(pinned, float(moment['pages']['free_bytes']))
        assert sum(site['alone_bytes'] for site in moment['sites']) == \
            moment['pages']['single_free_bytes']
        assert sum(site['alone_pages'] for site in moment['sites']) == moment['pages']['single']


def same_as_the_model(heapledger, trace, data):
    """How many moments of processes that were not forked were compared."""
    compared = 0
    for process in data['processes']:
        for moment in process['moments']:
            sums(moment)
        if process['parent_serial']:
            continue
        model = heap_model.moments(heap_model.dump(heapledger, trace, process['stream']))
        said = sorted(process['moments'], key=order)
        model.sort(key=order)
        assert [order(moment) for moment in said] == [order(moment) for moment in model]
        for one, other in zip(said, model):
            same_moment(one, other, f'{process["stream"]} {order(one)}')
        compared += len(said)
    return compared


PROGRAMS = {
    'sqlite': ['--stacks', '8', '--', '/usr/bin/sqlite3', ':memory:',
               'create table t(a, b); with recursive c(i) as (select 1 union all select i + 1 from c '
               'where i < 1500) insert into t select i, hex(randomblob(30)) from c; '
               'create index x on t(b); delete from t where a % 3 = 0;'],
    'sqlite by brk': ['--policy', 'brk', '--', '/usr/bin/sqlite3', ':memory:',
                      'create table t(a, b); with recursive c(i) as (select 1 union all select i + 1 '
                      'from c where i < 1500) insert into t select i, randomblob(3000) from c;'],
    'python by mmap': ['--policy', 'mmap', '--stacks', '8', '--', '/usr/bin/python3', '-S', '-c',
                       'import threading\n'
                       'kept = [bytearray(i * 37 % 9000) for i in range(600)]\n'
                       'del kept[::3]\n'
                       'for _ in range(2):\n'
                       '    thread = threading.Thread(target=lambda: [bytes(i) for i in range(999)])\n'
                       '    thread.start(); thread.join()\n'],
    'threads with phases': ['--', 'victim_phases_pie', 'threads', '500'],
    'fork': ['--', 'victim_phases_pie', 'fork', '500'],
    'break that is blocked': ['--', 'victim_break_blocked'],
    'break of others': ['--', 'victim_foreign_break'],
}


@pytest.mark.disorder
@pytest.mark.parametrize('name', PROGRAMS)
def test_real_programs_are_as_the_model_has_them(heapledger, build, tmp_path, name):
    trace = record_program(heapledger, build, tmp_path / 'trace', PROGRAMS[name],
                           env={'PYTHONMALLOC': 'malloc'})
    data = analyze(heapledger, trace)
    assert data['complete'] and not any(data['anomalies'].values()), data['anomalies']
    assert same_as_the_model(heapledger, trace, data) >= 2
    assert all(not moment['strays'] for process in data['processes']
               for moment in process['moments'])


# ---- by hand: offsets from BASE; a block takes its chunk, from 8 bytes before its address --------


def sizes(*rows):
    names = 'size_bytes', 'unusable', 'split', 'unusable_without_top', 'split_without_top'
    return [dict(zip(names, row)) for row in rows]


def expect(said, **expected):
    assert heap_model.differences(said, expected) == []


def test_a_checkerboard(moments):
    """32 blocks of 1,024 bytes from offset 8 on, every other one freed: 16 stay, two a page."""
    script = Script().brk(BASE, BASE + 65536)
    for i in range(32):
        size, caller = (1000, 0x1000) if i % 4 < 2 else (900, 0x2000)
        script.malloc(BASE + 16 + i * 1024, size, 1024, caller)
    for i in range(1, 32, 2):
        script.free(BASE + 16 + i * 1024)
    moment = last(moments(script))
    expect(moment, trim_bytes=0, sites_total=2, strays=0, caches_known=False, ledger={
        'mapped_bytes': 65536, 'requested_bytes': 8 * 1000 + 8 * 900,
        'slack_bytes': 8 * 24 + 8 * 124, 'cached_bytes': None, 'table_bytes': None,
        'partial_bytes': 8 + 15 * 1024, 'top_bytes': 33784,  # from 30 * 1024 + 8 + 1024 on
        'whole_pages': {'touched_bytes': 0, 'purged_bytes': 0, 'untouched_bytes': 0},
        # The last block freed reached 8 bytes into the ninth page; the one before it holds the eighth.
        'top_pages': {'touched_bytes': 4096, 'purged_bytes': 0, 'untouched_bytes': 7 * 4096},
        'between_bytes': 0, 'metadata_bytes': 0, 'live_blocks': 16, 'break_bytes': 65536,
        'arena_bytes': 0, 'block_bytes': 0})
    expect(moment['free_space'], bytes=49152, runs=17, largest_bytes=33784,
           largest_without_top_bytes=1024, sizes=sizes(
               # pieces: 15 * 16 + 527 of 768, without top 15 * 16 of floor(15368 / 64)
               (64, 8 / 49152, 1 - 767 / 768, 8 / 15368, 0.0),
               (512, 8 / 49152, 1 - 95 / 96, 8 / 15368, 0.0),
               (4096, 15368 / 49152, 1 - 8 / 12, 1.0, 1.0),
               (65536, 1.0, None, 1.0, None),
               (131072, 1.0, None, 1.0, None)))
    expect(moment['pages'], page_bytes=4096, used=8, half_free=8, single=0, whole=0,
           free_bytes=8 * 2048, single_free_bytes=0)
    expect(moment['huge_pages'], page_bytes=2 << 20, used=1, half_free=0, single=0, whole=0,
           free_bytes=49152, single_free_bytes=0)
    holders = moment['break']['holders']
    assert moment['break']['top_bytes'] == 33784
    assert [holder['returned_bytes'] // PAGE for holder in holders] == [
        8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13, 14, 14, 15, 15, 16]
    expect(holders[0], address=hex(BASE + 16 + 30 * 1024), size_bytes=900, chunk_bytes=1024,
           allocated_at_ns=20 + 30 * 10, thread=7, caller='0x2000', kept=None, stack=None)
    # Each pins as much; the one that asked for more comes first.
    assert [(site['caller'], site['requested_bytes']) for site in moment['sites']] == [
        ('0x1000', 8000), ('0x2000', 7200)]
    expect(moment['sites'][1], pinned_bytes=8192.0, alone_bytes=0, alone_pages=0, blocks=8,
           smallest_bytes=900, largest_bytes=900, oldest_at_ns=20 + 2 * 10, thread=7)


def test_all_is_free_and_one(moments):
    script = Script().brk(BASE, BASE + 65536)
    for i in range(4):
        script.malloc(BASE + 16 + i * 5008, 5000, 5008)
    for i in 0, 2, 3, 1:
        script.free(BASE + 16 + i * 5008)
    moment = last(moments(script))
    expect(moment['free_space'], bytes=65536, runs=1, largest_bytes=65536,
           largest_without_top_bytes=0)
    expect(moment['free_space']['sizes'][3], unusable=0.0, split=0.0, unusable_without_top=None,
           split_without_top=None)
    expect(moment['ledger'], partial_bytes=0, top_bytes=65536, top_pages={
        'touched_bytes': 5 * 4096, 'purged_bytes': 0, 'untouched_bytes': 11 * 4096})
    assert moment['break'] == {'top_bytes': 65536, 'holders': []}
    assert moment['sites'] == [] and moment['trim_bytes'] == 0


def hole_below_the_end():
    """[8, 40) a block, [40, 200056) freed, [200056, 200104) a block, then top up to 262144."""
    return (Script().brk(BASE, BASE + 262144).malloc(BASE + 16, 24, 32)
            .malloc(BASE + 48, 200000, 200016).malloc(BASE + 200064, 40, 48, 0x2000, tid=9)
            .free(BASE + 48))


def test_a_small_block_holds_the_end_of_the_break(moments):
    moment = last(moments(hole_below_the_end()))
    expect(moment['break'], top_bytes=62040)
    first, second = moment['break']['holders']
    expect(first, returned_bytes=258048, address=hex(BASE + 200064), thread=9)
    expect(second, returned_bytes=262144, address=hex(BASE + 16), thread=7)
    expect(moment['ledger'], partial_bytes=8 + 4056 + 3448, top_bytes=62040,
           whole_pages={'touched_bytes': 47 * 4096, 'purged_bytes': 0, 'untouched_bytes': 0},
           top_pages={'touched_bytes': 0, 'purged_bytes': 0, 'untouched_bytes': 15 * 4096})
    expect(moment['pages'], used=2, half_free=2, single=2, whole=47,
           free_bytes=(8 + 4056) + (3448 + 600), single_free_bytes=8112)
    assert moment['trim_bytes'] == 47 * 4096
    assert [(site['caller'], site['alone_bytes'], site['alone_pages']) for site in
            moment['sites']] == [('0x1000', 4064, 1), ('0x2000', 4048, 1)]
    # malloc_trim keeps the first page, with the head of the chunk; the end comes down to there.
    assert [site['freed'] for site in moment['sites']] == [
        {'mapped_bytes': 0, 'top_bytes': 0, 'trim_bytes': 0},
        {'mapped_bytes': 0, 'top_bytes': 48 * 4096, 'trim_bytes': 0}]


@pytest.mark.parametrize('head, pages', [(4048, 2), (4056, 1)])
def test_malloc_trim_keeps_the_head_of_a_free_chunk(moments, head, pages):
    """A hole from `head` on, up to the third page's end but for 8 bytes or more."""
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, head - 16, head - 8)
              .malloc(BASE + head + 8, 8000, 12296 - head).malloc(BASE + 12304, 40, 48)
              .free(BASE + head + 8))
    assert last(moments(script))['trim_bytes'] == pages * 4096


def test_huge_pages(moments):
    """[40, 5242936) is freed: the first huge page has one small block, the second none, the third
    two blocks and 1048632 free bytes, the fourth one block and 1048456."""
    moment = last(moments(
        Script().brk(BASE, BASE + (8 << 20)).malloc(BASE + 16, 24, 32)
        .malloc(BASE + 48, 5242880, 5242896).malloc(BASE + 5242944, 40, 48)
        .malloc(BASE + 5242992, 2097152, 2097168).free(BASE + 48)))
    expect(moment['huge_pages'], used=3, half_free=2, single=2, whole=1,
           free_bytes=2097120 + 1048632 + 1048456, single_free_bytes=2097120 + 1048456)
    expect(moment['ledger'], top_bytes=1048456)


def test_an_arena(moments):
    """Only what is accessible is mapped; its head is free for all that the log tells."""
    arena = 0x7f6114000000
    script = (Script().syscall(MMAP, 0, 128 << 20, 0, arena - (64 << 20), ARENA)
              .syscall(MUNMAP, arena - (64 << 20), 64 << 20, 0, 0, ARENA)
              .syscall(MPROTECT, arena, 131072, 3, 0, ARENA)
              .malloc(arena + 0x12e0, 100, 112)
              .syscall(MPROTECT, arena + 131072, 4096, 3, 0, ARENA))
    moment = last(moments(script))
    expect(moment['ledger'], mapped_bytes=135168, arena_bytes=135168, break_bytes=0,
           partial_bytes=0x12d8 - 4096, top_bytes=135168 - 0x12d8 - 112,
           whole_pages={'touched_bytes': 0, 'purged_bytes': 0, 'untouched_bytes': 4096},
           top_pages={'touched_bytes': 0, 'purged_bytes': 0, 'untouched_bytes': 31 * 4096})
    assert moment['break'] == {'top_bytes': 0, 'holders': []}
    assert moment['free_space']['runs'] == 2


def test_pages_that_went_back(moments):
    """Nine pages go back, and a block lies on two of them for a while. Top's go with the break: when
    it grows again they are new ones."""
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32)
              .malloc(BASE + 48, 40960, 40976).malloc(BASE + 41024, 40, 48)
              .malloc(BASE + 49168, 8200, 8208).free(BASE + 49168).free(BASE + 48)
              .syscall(MADVISE, BASE + 4096, 9 * 4096, 4, 0, BREAK)
              .phase('given back').malloc(BASE + 12304, 4120, 4128).phase('in use')
              .free(BASE + 12304)
              .brk(BASE + 65536, BASE + 53248).brk(BASE + 53248, BASE + 65536))
    before, during, after = [moment for moment in moments(script)
                             if moment['moment'] in ('phase', 'end')]
    expect(before['ledger']['whole_pages'], touched_bytes=0, purged_bytes=9 * 4096,
           untouched_bytes=0)
    expect(before['ledger']['top_pages'], touched_bytes=3 * 4096, untouched_bytes=2 * 4096)
    expect(during['ledger']['whole_pages'], touched_bytes=0, purged_bytes=7 * 4096)
    expect(after['ledger']['whole_pages'], touched_bytes=2 * 4096, purged_bytes=7 * 4096,
           untouched_bytes=0)
    expect(after['ledger']['top_pages'], touched_bytes=4096, purged_bytes=0,
           untouched_bytes=4 * 4096)
    assert [moment['trim_bytes'] for moment in (before, during, after)] == [0, 0, 8192]
    assert [moment['phase'] for moment in (before, during, after)] == [None, 'given back', None]


def test_a_break_that_others_moved(moments):
    """Somebody took [32768, 41216): what is free below is not top, and no page is theirs and ours."""
    moment = last(moments(
        Script().brk(BASE, BASE + 32768).malloc(BASE + 16, 24, 32)
        .brk(BASE + 41216, BASE + 65536).malloc(BASE + 41232, 40, 48)))
    expect(moment['ledger'], mapped_bytes=32768 + 24320, partial_bytes=8 + 4056 + 8,
           top_bytes=65536 - 41272,
           whole_pages={'touched_bytes': 0, 'purged_bytes': 0, 'untouched_bytes': 7 * 4096},
           top_pages={'touched_bytes': 0, 'purged_bytes': 0, 'untouched_bytes': 5 * 4096})
    holder, = moment['break']['holders']
    expect(holder, returned_bytes=5 * 4096, address=hex(BASE + 41232))
    expect(moment['pages'], used=2, single=2, whole=7, free_bytes=4064 + 45056 - 41216 - 48)


def test_a_mapping_in_place_of_the_break(moments):
    """The break was refused, memory mapped instead: top is where the break ends, still."""
    place = 0x7f0000000000
    moment = last(moments(
        Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32)
        .syscall(MMAP, 0, 1 << 20, 3, place, BREAK).malloc(place + 16, 24, 32)
        .syscall(MMAP, 0, 1 << 20, 3, place - (1 << 20), BREAK)))
    expect(moment['ledger'], break_bytes=65536 + (2 << 20), top_bytes=65536 - 40)
    holder, = moment['break']['holders']
    expect(holder, returned_bytes=65536, address=hex(BASE + 16))


def test_a_mapped_block_plays_no_part(moments):
    place = 0x7f0000000000
    mapping = 135168
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32)
              .syscall(MMAP, 0, mapping, 3, place, BLOCK).phase('not handed out')
              .malloc(place + 16, 131072, mapping, 0x2000, flags=1).phase('in use')
              .free(place + 16).phase('not unmapped')
              .syscall(MUNMAP, place, mapping, 0, 0, BLOCK))
    found = [moment for moment in moments(script) if moment['moment'] in ('phase', 'end')]
    assert [moment['ledger']['between_bytes'] for moment in found] == [mapping, 0, mapping, 0]
    assert [moment['ledger']['block_bytes'] for moment in found] == [mapping] * 3 + [0]
    assert [moment['ledger']['live_blocks'] for moment in found] == [1, 2, 1, 1]
    for moment in found:
        assert moment['free_space']['bytes'] == 65536 - 32
        assert moment['pages']['used'] == 1
    assert [moment['sites_total'] for moment in found] == [1, 2, 1, 1]
    assert {site['caller']: site['freed']['mapped_bytes'] for site in found[1]['sites']} == {
        '0x1000': 0, '0x2000': mapping}


def test_blocks_of_caches_hold_pages(moments):
    """Freed, but in a cache, they lie in the way like others; nothing more is known of them."""
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32)
              .malloc(BASE + 48, 100, 112).malloc(BASE + 9000 - 8, 40, 48).free(BASE + 9000 - 8)
              .free(BASE + 48).kept(0, 3, 1).kept(BASE + 48, 112, 1).kept(BASE + 8992, 48, 2)
              .kept(BASE + 16384 + 16, 656, 3).malloc(BASE + 48, 100, 112, 0x3000))
    moment = last(moments(script))
    expect(moment, caches_known=True, sites_total=4)
    expect(moment['ledger'], cached_bytes=48, table_bytes=656, live_blocks=2, top_bytes=48488)
    expect(moment['break']['holders'][1], kept='fast', chunk_bytes=48, size_bytes=None,
           allocated_at_ns=None, thread=None, caller=None, returned_bytes=65536 - 4096)
    fast = next(site for site in moment['sites'] if site['kept'] == 'fast')
    expect(fast, blocks=1, pinned_bytes=4048.0, alone_pages=1, smallest_bytes=None,
           largest_bytes=None, oldest_at_ns=None, thread=None)


@pytest.mark.parametrize('flags', [3, 2], ids=['whole', 'less'])
def test_lists_of_two_tellers_may_be_mixed(moments, flags):
    """The recorder reads the caches while the process tells of them: no block counts twice."""
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32)
              .malloc(BASE + 48, 100, 112).malloc(BASE + 9000 - 8, 40, 48).free(BASE + 9000 - 8)
              .free(BASE + 48).kept(0, 2, 1).kept(BASE + 48, 112, 1).kept(0, 2, flags, tid=0)
              .kept(BASE + 48, 112, 1, tid=0).kept(BASE + 8992, 48, 2)
              .kept(BASE + 8992, 48, 2, tid=0))
    moment = last(moments(script))
    expect(moment, caches_known=True)
    expect(moment['ledger'], cached_bytes=112 + 48, live_blocks=1)


def test_a_list_that_breaks_off_is_not_all(moments):
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32)
              .kept(0, 2, 1 | 1 << 8).kept(BASE + 4112, 112, 1))
    moment = last(moments(script))
    expect(moment, caches_known=False, caches={'total': 1, 'known': 0, 'unread_lists': 0})
    expect(moment['ledger'], cached_bytes=112, table_bytes=0)


def of(thread, what):
    return thread << 8 | what


def test_a_cache_holds_what_it_held_until_its_thread_runs(moments):
    """Two threads' caches and a fast list, of a process that runs on: a call of thread 9 changes its own
    and perhaps the fast list, not that of 7; the end of 7 changes all. What of 7's could not be read is
    said as long as the list is."""
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32).phase('before')
              .kept(0, 5, 3 - 1 | 2 << 8 | 4 << 32).kept(BASE + 4112, 112, of(7, 1))
              .kept(BASE + 8208, 656, of(7, 3 | 128)).kept(BASE + 12304, 96, of(9, 1))
              .kept(BASE + 16400, 656, of(9, 3)).kept(BASE + 20496, 48, 2).phase('all')
              .malloc(BASE + 12304, 80, 96, tid=9).phase('one').phase('same')
              .thread_exit(7).phase('none'))
    all_of_them = moments(script)
    found, end = {m['phase']: m for m in all_of_them if m['moment'] == 'phase'}, last(all_of_them)
    said = {name: (m['ledger']['cached_bytes'], m['ledger']['table_bytes'], m['caches'])
            for name, m in found.items()}
    assert not any(m['caches_known'] for m in all_of_them)
    part = {'total': 2, 'known': 0, 'unread_lists': 4}
    assert said == {None: (None, None, None), 'before': (112 + 96 + 48, 2 * 656, {**part, 'known': 1}),
                    'all': (112, 656, part), 'one': (112, 656, part), 'same': (None, None, None)}
    expect(end, caches=None)


def test_a_failed_realloc_leaves_the_block_as_it_was(moments):
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32)
              .free(BASE + 16, REALLOC_BEGIN).malloc(0, 1 << 40, 0, kind=REALLOC))
    end = last(moments(script))
    holder, = end['break']['holders']
    expect(holder, allocated_at_ns=20, size_bytes=24)


def test_a_block_that_is_being_resized_has_touched_its_page(moments):
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32)
              .free(BASE + 16, REALLOC_BEGIN).phase('x').malloc(BASE + 16, 40, 48, kind=REALLOC))
    found, = [moment for moment in moments(script) if moment['moment'] == 'phase']
    assert found['ledger']['top_pages']['touched_bytes'] == 4096


def test_the_resident_peak_is_the_programs_own(moments):
    """The recorder's buffers only grow."""
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32).sample(900000, 100000)
              .sample(1500000, 800000).free(BASE + 16).sample(1600000, 800000))
    found, = [moment for moment in moments(script) if moment['moment'] == 'resident_peak']
    assert found['at_ns'] == 30 and found['ledger']['live_blocks'] == 1


def test_the_mapped_peak_is_the_fullest_and_the_first(moments):
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32).free(BASE + 16)
              .malloc(BASE + 16, 24, 32))
    found, = [moment for moment in moments(script) if moment['moment'] == 'mapped_peak']
    assert found['at_ns'] == 20 and found['ledger']['live_blocks'] == 1


@pytest.mark.parametrize('seed, rises', [(1, True), (2, False), (3, True), (4, False), (5, None)])
def test_peaks_by_chance_are_as_the_model_has_them(moments, seed, rises):
    """What came, went, was resized and went back since is told from the end. The resident peak is the
    last sample, the first one or any."""
    chance = Chance(seed)
    samples = [chance.random.randrange(1 << 20, 1 << 30) for _ in range(12)]
    for resident in samples if rises is None else sorted(samples, reverse=not rises):
        chance.trace(50).sample(resident, 0)
    found = moments(chance.trace(50))
    assert {'resident_peak', 'mapped_peak', 'end'} == {moment['moment'] for moment in found}


RESIDENT_BEGIN, RESIDENT_RUN, PEAK, END = 64, 65, 2, 4


def snapshot(script, pages, reason, cut=False, tid=0):
    """Of so many pages of the break, at one tick."""
    tick = script.tick
    script.add('call', tid, tick, RESIDENT_BEGIN, reason | cut << 8, 1, 1, 0, 0, 0)
    script.lines.append(f'call {tid} {tick} {RESIDENT_RUN} {BASE} {pages * PAGE} 0 0 0 0')
    return script


@pytest.mark.parametrize('before, pages, after, residual', [
    (4, 6, 8, 0), (8, 6, 4, 0), (6, 6, 6, 0),  # between
    (4, 9, 8, -1), (9, 10, 12, 0), (7, 3, 5, 2), (5, 3, 9, 2),
    (None, 6, 7, 1), (5, 6, None, -1), (None, 6, None, None)])
def test_what_the_kernel_counts_around_a_snapshot(moments, before, pages, after, residual):
    """In pages. `sample` is of anonymous memory only."""
    script = Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 60000, 60016)
    if before is not None:
        script.sample(before * PAGE, 0)
    snapshot(script, pages, PEAK)
    if after is not None:
        script.sample(after * PAGE, 0)
    found, = [moment for moment in moments(script) if moment['moment'] == 'resident_peak']
    expect(found['resident'], all_bytes=pages * PAGE, requested_bytes=pages * PAGE - 16, slack_bytes=8,
           free_bytes=8, residual_bytes=None if residual is None else residual * PAGE,
           rss_anon_bytes=None if before is None else before * PAGE,
           rss_anon_after_bytes=None if after is None else after * PAGE)


@pytest.mark.parametrize('between', [False, True])
def test_at_the_end_the_kernel_is_asked_after(moments, between):
    """The sample before may be as old as the recorder's interval, and one of the recorder's may come
    between the process's own two records."""
    script = Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 60000, 60016).sample(2 * PAGE, 0)
    snapshot(script, 6, END, tid=7)
    if between:
        script.sample(3 * PAGE, 0)
    for moment in moments(script.sample(7 * PAGE, 0, tid=7)):
        if moment['moment'] != 'mapped_peak':
            expect(moment['resident'], rss_anon_bytes=7 * PAGE, rss_anon_after_bytes=7 * PAGE,
                   residual_bytes=PAGE)


def test_of_a_snapshot_that_was_cut_short_nothing_is_left_over(moments, heapledger, tmp_path):
    """What it does not have is not known, and so not unexplained."""
    script = Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 60000, 60016).sample(9 * PAGE, 0)
    snapshot(script, 6, END, cut=True).sample(9 * PAGE, 0)
    end = last(moments(script))
    expect(end['resident'], cut=True, all_bytes=6 * PAGE, rss_anon_bytes=9 * PAGE, residual_bytes=None)
    text = run([heapledger, 'analyze', tmp_path / 'trace']).stdout.decode()
    assert '  At the end 24.0 KiB at least: that snapshot was cut short.\n' in text


@pytest.mark.parametrize('more', [0, 1])
def test_a_snapshot_after_that_of_the_end(moments, more):
    """The recorder's may come later than the process's own: it is of the end, too, if the heap is."""
    script = Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 50000, 50016).sample(6 * PAGE, 0)
    snapshot(script, 6, END).sample(6 * PAGE, 0)
    for i in range(more):
        script.malloc(BASE + 60016, 24, 32)
    end = last(moments(snapshot(script, 7, PEAK).sample(7 * PAGE, 0)))
    if more:
        assert end['resident'] is None
    else:
        expect(end['resident'], reason='peak', all_bytes=7 * PAGE, residual_bytes=0)


# ---- what would go back does ---------------------------------------------------------------------


def scattered():
    """Blocks of two callers over 64 pages: one for what stays in small pieces, one for the rest."""
    script, addr = Script().brk(BASE, BASE + 64 * 4096), BASE + 16
    blocks = []
    for number in range(250):
        caller = 0x2000 if number % 7 == 0 else 0x1000
        script.malloc(addr, 1000, 1008, caller=caller)
        blocks.append((addr, caller))
        addr += 1008
    for number, (block, caller) in enumerate(blocks):
        if caller == 0x1000 and number % 5:
            script.free(block)
    return script, [block for number, block in enumerate(blocks) if block[1] == 0x2000 or number % 5 == 0]


@pytest.mark.parametrize('count', [1, 3, 8, 16])
def test_the_break_comes_down_by_what_its_holders_promise(moments, count):
    script, _ = scattered()
    holders = last(moments(script, 'before'))['break']['holders'][:count]
    for holder in holders:
        script.free(int(holder['address'], 16))
    after = last(moments(script, 'after'))
    free = after['ledger']['top_pages']
    assert sum(free.values()) == holders[-1]['returned_bytes']
    assert after['break']['top_bytes'] >= holders[-1]['returned_bytes']


def test_pages_that_a_place_has_alone_become_whole(moments):
    script, blocks = scattered()
    before = last(moments(script, 'before'))
    site = next(site for site in before['sites'] if site['caller'] == '0x2000')
    assert site['alone_pages'] > 0
    for block, caller in blocks:
        if caller == 0x2000:
            script.free(block)
    after = last(moments(script, 'after'))

    def whole(moment):
        return moment['pages']['whole'] + sum(moment['ledger']['top_pages'].values()) // 4096

    # Those that were its alone; pages where only its own blocks met are more.
    assert whole(after) - whole(before) >= site['alone_pages']
    assert after['pages']['used'] == before['pages']['used'] - (whole(after) - whole(before))


@pytest.mark.parametrize('caller', ['0x1000', '0x2000'])
@pytest.mark.parametrize('highest', [False, True])
def test_what_freeing_a_place_would_return_is_there_when_it_is_freed(moments, caller, highest):
    script, blocks = scattered()
    if highest:
        for block, other in blocks[::-1]:
            if hex(other) == caller:
                break
            script.free(block)
            blocks.remove((block, other))
    before = last(moments(script, 'before'))
    freed = next(site for site in before['sites'] if site['caller'] == caller)['freed']
    for block, other in blocks:
        if hex(other) == caller:
            script.free(block)
    after = last(moments(script, 'after'))
    is_top = hex(blocks[-1][1]) == caller
    assert after['trim_top_bytes'] - before['trim_top_bytes'] == freed['top_bytes']
    assert (freed['top_bytes'] > 0) == is_top
    if not is_top:
        assert after['trim_bytes'] - before['trim_bytes'] == freed['trim_bytes'] > 0


def test_the_place_with_the_most_is_found_among_thousands(heapledger, build, tmp_path):
    """It pins nothing, so it is the last of 1,500 by pinned bytes."""
    script, addr = Script().brk(BASE, BASE + (16 << 20)), BASE + 16
    for number in range(1500):
        script.malloc(addr, 1000, 1008, caller=0x10000 + number)
        addr += 4096
    big = (addr + 4095 & ~4095) + 8
    script.malloc(big, (4 << 20) - 8, 4 << 20, caller=0x777)
    trace = make_trace(build, tmp_path / 'trace', script.text())
    data = analyze(heapledger, trace)
    for moment in data['moments']:
        assert len(moment['sites']) == 50 and moment['sites_total'] == 1501
    for top in 3, 1000, 5000:
        some = json.loads(run([heapledger, 'analyze', '--top', top, '--json', '-', trace]).stdout)
        for moment, usual in zip(some['moments'], data['moments'], strict=True):
            assert len(moment['sites']) == min(top, 1501) and moment['sites_total'] == 1501
            assert moment['sites'][:50] == usual['sites'][:top]
    found, = [finding for finding in data['findings'] if finding['kind'] == 'in_use']
    assert '4.00 MiB, in 1 blocks from 0x777 ' in found['sentence']


# ---- arenas ------------------------------------------------------------------------------------


def test_each_arena_has_holders_of_its_own(moments):
    """Arena 1 has a segment of 8 pages and a newer one of 4 below it, arena 2 one of 2 pages. Two pages of
    the older one went back already."""
    old, new, other = (0x7ffff4000000 + i * (64 << 20) for i in (1, 0, 2))
    script = Script()
    for start, pages, arena in ((old, 8, 1), (new, 4, 1), (other, 2, 2)):
        script.syscall(MPROTECT, start, pages * PAGE, 3, 0, ARENA, arena=arena)
    script.malloc(old + 5 * PAGE + 8, 100, 112).malloc(old + 6 * PAGE + 8, 100, 112)
    script.free(old + 5 * PAGE + 8).free(old + 6 * PAGE + 8)
    script.syscall(MADVISE, old + 5 * PAGE, 2 * PAGE, 4, 0, ARENA, arena=1)
    script.malloc(old + 8, 100, 112, 0x1000).malloc(old + 3 * PAGE + 8, 2 * PAGE - 8, 2 * PAGE, 0x2000)
    script.malloc(new + 2 * PAGE + 8, 100, 112, 0x3000)
    moment = last(moments(script))
    first, second = moment['arenas']
    assert moment['arenas_total'] == 2
    assert [first[name] for name in ('arena', 'segments', 'mapped_bytes', 'blocks')] == [1, 2, 12 * PAGE, 3]
    assert first['free_bytes'] == 12 * PAGE - 2 * PAGE - 224
    assert first['top_bytes'] == 2 * PAGE - 112     # of the newest segment
    assert [(holder['caller'], holder['returned_bytes'] // PAGE) for holder in first['holders']] == [
        ('0x3000', 4 + 3 - 2),   # the newer segment and what is free at the end of the older one
        ('0x2000', 4 + 7 - 2),   # all but the first page, and those that went back
        ('0x1000', 4 + 8 - 2)]
    assert (second['arena'], second['free_bytes'], second['top_bytes'], second['holders']) == (
        2, 2 * PAGE, 2 * PAGE, [])


def test_a_segment_that_went_and_came_again_is_the_newest(moments):
    old, again = 0x7ffff4000000, 0x7ffff8000000
    script = Script()
    for start in again, old:
        script.syscall(MPROTECT, start, 4 * PAGE, 3, 0, ARENA, arena=3)
    script.malloc(old + 8, 100, 112, 0x1000)
    script.syscall(MUNMAP, again, 64 << 20, 0, 0, ARENA, arena=3)
    script.syscall(MPROTECT, again, 2 * PAGE, 3, 0, ARENA, arena=3).malloc(again + 8, 50, 64, 0x2000)
    arena, = last(moments(script))['arenas']
    assert [holder['caller'] for holder in arena['holders']] == ['0x2000', '0x1000']
    # The first page of the older segment is all that its block lies on.
    assert [holder['returned_bytes'] // PAGE for holder in arena['holders']] == [2 + 3, 6]
