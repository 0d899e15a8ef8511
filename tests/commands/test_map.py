# SPDX-License-Identifier: MIT
"""`analyze --map`: which bytes lay where, and when. Each number follows from the script."""

import json

import pytest

from conftest import run
from test_resident_rows import look
from trace_script import BASE, SCRIPT, Script, make_trace

STATES = ['requested', 'slack', 'cached', 'partial', 'free', 'absent', 'purged', 'untouched']


@pytest.fixture(scope='module')
def address_map(heapledger, build, tmp_path_factory):
    folder = tmp_path_factory.mktemp('map')
    trace = make_trace(build, folder / 'trace', SCRIPT)
    outcome = run([heapledger, 'analyze', '--map', '-', trace])
    assert outcome.status == 0, outcome
    return json.loads(outcome.stdout)


def cells(address_map, region):
    """By row and column, from the runs."""
    rows, width = [], 1 + len(STATES)
    for runs in address_map['regions'][region]['rows']:
        row = []
        for i in range(0, len(runs), width):
            row += [runs[i + 1:i + width]] * runs[i]
        assert len(row) == address_map['columns']
        rows.append(row)
    return rows


def column_at(address_map, tick, first=1000, last=2200):
    """The last column that ends by this tick."""
    return (tick - first) * address_map['columns'] // (last - first) - 1


def test_regions_are_the_break_and_the_arena(address_map):
    assert address_map['schema'] == 'heapledger-map/1'
    assert address_map['states'] == STATES
    assert address_map['beyond_bytes'] == 0
    assert [(r['kind'], r['start'], r['row_bytes'], len(r['rows']))
            for r in address_map['regions']] == [
        ('break', '0x555555560000', 4096, 33), ('arena', '0x7ffff0000000', 4096, 33)]


def test_at_the_end_each_byte_is_where_the_script_left_it(address_map):
    rows = cells(address_map, 0)
    assert rows[0][-1] == [200, 8, 0, 3888, 0, 0, 0, 0]
    assert rows[1][-1] == [0, 0, 0, 0, 0, 0, 4096, 0]
    assert all(row[-1] == [0] * 8 for row in rows[2:])
    assert all(row[-1] == [0, 0, 0, 0, 0, 0, 0, 4096] for row in cells(address_map, 1))


def test_before_the_frees_all_blocks_are_there(address_map):
    rows, column = cells(address_map, 0), column_at(address_map, 1790)
    total = [sum(row[column][state] for row in rows) for state in range(8)]
    assert total == [100 + 200 + 5000, 12 + 8 + 8, 0, 3 * 4096 - 5328, 0, 0, 0, 30 * 4096]
    assert rows[0][column] == [300, 20 + 8, 0, 4096 - 328, 0, 0, 0, 0]
    assert rows[1][column] == [4096, 0, 0, 0, 0, 0, 0, 0]


def test_freed_pages_are_free_until_they_are_given_back(address_map):
    rows, column = cells(address_map, 0), column_at(address_map, 1990)
    assert rows[1][column] == rows[2][column] == [0, 0, 0, 0, 4096, 0, 0, 0]


def test_the_arena_is_not_there_before_it_is_opened(address_map):
    assert all(row[column_at(address_map, 1800)] == [0] * 8 for row in cells(address_map, 1))


def test_rows_are_joined_when_the_heap_outgrows_them(heapledger, build, tmp_path):
    """250 pages need rows of two; a block written before keeps its place."""
    end = 0x555555560000 + 250 * 4096
    trace = make_trace(build, tmp_path / 'trace', f'''
command program
stream 100 1 0 0 1000
syscall 7 1000 32 0x555555560000 0 0x555555581000 0x555555581000 2000 1 2 1
call 7 1100 1 0x555555562010 100 112 0 0
syscall 7 1500 32 0x555555581000 0 {end:#x} {end:#x} 2000 2 2 1
call 7 1600 1 0x555555590010 3000 3008 0 0
call 7 2000 1 0x5555555a0010 100 112 0 0
close 1 1 0 2000 0
''')
    outcome = run([heapledger, 'analyze', '--map', '-', trace])
    assert outcome.status == 0, outcome
    found = json.loads(outcome.stdout)
    assert found['regions'][0]['row_bytes'] == 8192 and len(found['regions'][0]['rows']) == 125
    rows = cells(found, 0)
    early = column_at(found, 1400, 1000, 2000)
    assert rows[1][early] == [100, 12, 0, 3984, 0, 0, 0, 4096]
    assert sum(sum(row[early]) for row in rows) == 33 * 4096
    assert rows[24][-1] == [3000, 8, 0, 1088, 0, 0, 0, 4096]
    assert sum(sum(row[-1]) for row in rows) == 250 * 4096


# ---- what is in memory, and what caches hold ------------------------------------------------------

PAGES = 16
COLUMN = 100  # ns


def cell(**bytes_):
    return [bytes_.get(state, 0) for state in STATES]


def at_columns(script):
    """Its last record is at the end of the last column."""
    script.at(240 * COLUMN).free(BASE + 15 * 4096 + 16)
    return script


def heap():
    """16 pages of the break, a block over the first eight that is freed, one on the last page."""
    return (Script().brk(BASE, BASE + PAGES * 4096).malloc(BASE + 8, 8 * 4096 - 8, 8 * 4096)
            .malloc(BASE + 15 * 4096 + 16, 100, 112).free(BASE + 8))


@pytest.fixture
def map_of(heapledger, build, tmp_path):
    def of(script):
        trace = make_trace(build, tmp_path / 'trace', script.text())
        outcome = run([heapledger, 'analyze', '--map', '-', trace])
        assert outcome.status == 0, outcome
        return json.loads(outcome.stdout)
    return of


def test_a_snapshot_tells_what_is_in_memory_for_a_tenth_of_the_time(map_of):
    """It finds half of what is free, and two pages that never held a block."""
    found = map_of(at_columns(look(heap().at(100 * COLUMN), (0, 4), (10, 2))))
    rows = cells(found, 0)
    free, absent, never = cell(free=4096), cell(absent=4096), cell(untouched=4096)
    for column in range(240):
        told = 100 <= column < 123
        if column in (99, 123):    # the first record is not at 0
            continue
        assert (found['snapshots_ns'][column] is not None) == told, column
        assert rows[0][column] == free
        assert rows[7][column] == (absent if told else free), column
        assert rows[10][column] == (free if told else never), column
        assert rows[12][column] == never
    assert set(found['snapshots_ns']) - {None} == {100 * COLUMN}


def test_what_was_freed_or_went_back_since_the_snapshot_is_not_told_by_it(map_of):
    """A block over pages that it did not find: they may have been written since. And pages that it
    found, went and came again without one."""
    script = look(heap().at(100 * COLUMN), (0, 4), (10, 2)).malloc(BASE + 4 * 4096 + 8, 4080, 4096)
    script.free(BASE + 4 * 4096 + 8)
    script.free(BASE + 15 * 4096 + 16).brk(BASE + PAGES * 4096, BASE + 9 * 4096)
    script.brk(BASE + 9 * 4096, BASE + PAGES * 4096).malloc(BASE + 15 * 4096 + 16, 100, 112)
    rows = cells(map_of(at_columns(script)), 0)
    assert [rows[page][110] for page in (0, 4, 5, 10)] == [
        cell(free=4096), cell(free=4096), cell(absent=4096), cell(untouched=4096)]


def test_what_caches_hold_has_a_state_where_it_is_known(map_of):
    """At the end of the process; a block that was handed out again is not theirs."""
    script = heap().malloc(BASE + 4096 + 16, 24, 32).at(240 * COLUMN)
    script.kept(0, 3, 1).kept(BASE + 16, 4096, 1).kept(BASE + 4096 + 16, 32, 1)
    script.kept(BASE + 8192, 64, 2)
    found = map_of(script)
    rows = cells(found, 0)
    assert all(row[200][STATES.index('cached')] == 0 for row in rows)
    assert rows[0][-1] == cell(cached=4088, free=8)
    assert rows[1][-1] == cell(cached=16, requested=24, slack=8, partial=4048)
    assert rows[2][-1] == cell(cached=56, free=4040)


def test_two_outputs_cannot_both_be_standard_output(heapledger, tmp_path):
    outcome = run([heapledger, 'analyze', '--json', '-', '--map', '-', tmp_path])
    assert (outcome.status, outcome.stdout) == (2, b'')
    assert outcome.stderr == (b'heapledger: analyze: --json - and --map - cannot both be standard '
                              b'output\n')


def test_of_an_allocator_that_was_not_ours_there_is_no_map(heapledger, tmp_path):
    log = tmp_path / 'log.txt'
    log.write_text('= Start\n@ ./a:[0x1] + 0x1000 0x10\n= End\n')
    assert run([heapledger, 'import', '-o', tmp_path / 'trace', log]).status == 0
    outcome = run([heapledger, 'analyze', '--map', '-', tmp_path / 'trace'])
    assert outcome.status == 0, outcome
    assert json.loads(outcome.stdout) == {'schema': 'heapledger-map/1', 'stream': None,
                                          'regions': None}
