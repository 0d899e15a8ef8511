# SPDX-License-Identifier: MIT
"""fragmentation.csv: every row adds up, each is what a second implementation makes of the events up
to then, the last is the end of the JSON, and a heap too large for many rows has fewer."""

import csv
import json

import pytest

import heap_model
from conftest import analyze, record_program, run
from test_moments import BASE, PROGRAMS, Script, hole_below_the_end
from trace_script import REALLOC_BEGIN, make_trace

SIZES = heap_model.SIZES
ROWS = ('requested', 'slack', 'cached', 'table', 'partial', 'whole_touched', 'whole_purged',
        'whole_untouched', 'top', 'between', 'metadata')
PAGES = 'used', 'half_free', 'single', 'whole', 'free_bytes', 'single_free_bytes'
STATES = 'touched', 'purged', 'untouched'


def number(text):
    """None where it is not known."""
    if text == '':
        return None
    return int(text) if text.lstrip('-').isdigit() else float(text)


def read(heapledger, trace, folder, *options):
    """stream -> rows"""
    outcome = run([heapledger, 'analyze', '--csv', folder, *options, trace])
    assert outcome.status == 0, outcome
    streams = {}
    with open(folder / 'fragmentation.csv') as file:
        for row in csv.DictReader(file):
            streams.setdefault(row.pop('stream'), []).append(
                {name: number(text) for name, text in row.items()})
    return streams


def as_moment(row):
    """The row in the form of `moments`, as far as it goes."""
    ledger = {f'{name}_bytes': row[f'{name}_bytes'] for name in ROWS if not name.startswith('whole_')}
    for group, prefix in ('whole_pages', 'whole'), ('top_pages', 'top'):
        ledger[group] = {f'{name}_bytes': row[f'{prefix}_{name}_bytes'] for name in STATES}
    sizes = [{'size_bytes': size, **{name: row[f'{name}_{size}'] for name in (
        'unusable', 'unusable_without_top', 'split', 'split_without_top')}} for size in SIZES]
    pages = {group: {name: row[f'{group}_{name}'] for name in PAGES}
             for group in ('pages', 'huge_pages')}
    return {'ledger': {**ledger, 'mapped_bytes': row['mapped_bytes'],
                       'live_blocks': row['live_blocks']},
            'free_space': {'bytes': row['free_bytes'], 'runs': row['runs'],
                           'largest_bytes': row['largest_bytes'],
                           'largest_without_top_bytes': row['largest_without_top_bytes'],
                           'sizes': sizes}, **pages, 'strays': row['strays']}


def check_row(row):
    """Every mapped byte is in one row of the ledger, every free one in a run."""
    assert row['mapped_bytes'] == sum(row[f'{name}_bytes'] or 0 for name in ROWS), row
    whole = sum(row[f'whole_{name}_bytes'] for name in STATES)
    assert row['free_bytes'] == row['partial_bytes'] + whole + row['top_bytes'], row
    assert sum(row[f'top_{name}_bytes'] for name in STATES) <= row['top_bytes'], row
    for name in 'unusable', 'unusable_without_top', 'split', 'split_without_top':
        for size in SIZES:
            assert row[f'{name}_{size}'] is None or 0 <= row[f'{name}_{size}'] <= 1, row


def check_times(rows, first, last):
    """Even parts, by a clock that may be set right on the way; the last ends with the last record."""
    span = last - first
    times = [row['time_ns'] for row in rows]
    assert times[-1] == last
    for index, time in enumerate(times, 1):
        assert abs(time - first - span * index / len(times)) <= 3 + span / 1000, (index, len(times))


# ---- real programs ------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def program(heapledger, build, tmp_path_factory):
    """name -> a trace of it."""
    traces = {}

    def of(name):
        if name not in traces:
            trace = tmp_path_factory.mktemp('program') / 'trace'
            traces[name] = record_program(heapledger, build, trace, PROGRAMS[name],
                                          env={'PYTHONMALLOC': 'malloc'})
        return traces[name]
    return of


@pytest.mark.parametrize('name', PROGRAMS)
def test_every_row_adds_up(heapledger, program, tmp_path, name):
    trace = program(name)
    streams = read(heapledger, trace, tmp_path / 'csv')
    data = json.loads(run([heapledger, 'analyze', '--json', '-', trace]).stdout)
    assert list(streams) == [process['stream'] for process in data['processes']]
    for process in data['processes']:
        rows = streams[process['stream']]
        assert 15 <= len(rows) <= 240
        for row in rows:
            check_row(row)
            assert not row['strays']
        assert heap_model.differences(process['moments'][-1], as_moment(rows[-1])) == []
        if not process['parent_serial']:    # a child's first record is later than its start
            check_times(rows, process['start_ns'], process['moments'][-1]['at_ns'])
        assert max(row['mapped_bytes'] for row in rows) <= process['peak']['mapped_bytes']


@pytest.mark.disorder
@pytest.mark.parametrize('name', ['sqlite', 'python by mmap', 'threads with phases'])
def test_rows_are_as_the_model_has_them(heapledger, program, tmp_path, name):
    """Every sixteenth, which are 15 even times, and what is between them when caches are not known."""
    trace = program(name)
    (stream, rows), = read(heapledger, trace, tmp_path / 'csv').items()
    rows = rows[15::16]
    model = heap_model.instants(heap_model.dump(heapledger, trace, stream),
                                [row['time_ns'] for row in rows])
    compared = 0
    for row, candidates in zip(rows, model, strict=True):
        wrong = [heap_model.differences(moment, as_moment(row)) for moment in candidates]
        assert [] in wrong, (row['time_ns'], wrong)
        compared += row['live_blocks'] > 0
    assert compared > 10


def test_a_window_has_its_own(heapledger, program, tmp_path):
    trace = program('sqlite')
    options = '--from', '30%', '--to', '60%'
    data = json.loads(run([heapledger, 'analyze', '--json', '-', *options, trace]).stdout)
    (_, rows), = read(heapledger, trace, tmp_path / 'csv', *options).items()
    check_times(rows, data['window']['from_ns'], data['window']['to_ns'])
    for row in rows:
        check_row(row)
    assert heap_model.differences(data['moments'][-1], as_moment(rows[-1])) == []


def test_of_an_observed_allocator_nothing_is_known(heapledger, tmp_path):
    trace = tmp_path / 'trace'
    assert run([heapledger, 'record', '-q', '--observe', '-o', trace, '--', '/bin/true']).status == 0
    assert read(heapledger, trace, tmp_path / 'csv') == {}


def test_export_writes_the_same(heapledger, program, tmp_path):
    trace = program('sqlite')
    assert read(heapledger, trace, tmp_path / 'csv')
    outcome = run([heapledger, 'export', '--format', 'csv', '-o', tmp_path / 'other', trace])
    assert outcome.status == 0, outcome
    assert (tmp_path / 'other' / 'fragmentation.csv').read_text() == \
        (tmp_path / 'csv' / 'fragmentation.csv').read_text()


# ---- by hand ------------------------------------------------------------------------------------


def expect(row, **expected):
    assert {name: row[name] for name in expected} == expected


def test_a_realloc_that_never_ended_leaves_its_block(heapledger, build, tmp_path):
    """At the end, which is the last row; before it the block is neither live nor free."""
    script = (Script().brk(BASE, BASE + 65536).malloc(BASE + 16, 24, 32).malloc(BASE + 48, 24, 32)
              .free(BASE + 16, REALLOC_BEGIN))
    trace = make_trace(build, tmp_path / 'trace', script.text())
    (_, rows), = read(heapledger, trace, tmp_path / 'csv').items()
    data = analyze(heapledger, trace)
    assert rows[-1]['live_blocks'] == 2
    assert heap_model.differences(data['moments'][-1], as_moment(rows[-1])) == []


def test_a_hole_over_time(heapledger, build, tmp_path):
    """The records are at 10, 20, ... 50 ns: the break, three blocks, and the middle one is freed."""
    trace = make_trace(build, tmp_path / 'trace', hole_below_the_end().text())
    (_, rows), = read(heapledger, trace, tmp_path / 'csv').items()
    check_times(rows, 10, 50)
    assert len(rows) == 15
    for row in rows:
        check_row(row)
    assert [row['live_blocks'] for row in rows] == [
        min((row['time_ns'] - 10) // 10, 3) if row['time_ns'] < 50 else 2 for row in rows]
    at = {row['time_ns']: row for row in rows}
    # [8, 40) a block, then all is top.
    expect(at[26], mapped_bytes=262144, requested_bytes=24, slack_bytes=8, cached_bytes=None,
           partial_bytes=8, top_bytes=262104, top_touched_bytes=0, top_untouched_bytes=63 * 4096,
           runs=2, unusable_64=pytest.approx(8 / 262112), unusable_without_top_64=1,
           split_65536=pytest.approx(0), split_without_top_64=None, pages_used=1, pages_single=1,
           pages_half_free=1, pages_free_bytes=8 + 4056, huge_pages_used=1)
    # ... and [40, 200056), [200056, 200104) are blocks.
    expect(at[42], requested_bytes=24 + 200000 + 40, slack_bytes=8 + 16 + 8, partial_bytes=8,
           top_bytes=62040, pages_used=49, pages_single=47, pages_whole=0, free_bytes=62048,
           unusable_65536=1, split_4096=0, whole_touched_bytes=0)
    # ... and the large one is free: it ends in both directions on a page that another block holds.
    expect(at[50], requested_bytes=64, slack_bytes=16, partial_bytes=8 + 4056 + 3448,
           whole_touched_bytes=47 * 4096, whole_purged_bytes=0, top_bytes=62040, runs=3,
           largest_bytes=200016, largest_without_top_bytes=200016, pages_used=2, pages_whole=47,
           pages_single_free_bytes=8112, unusable_131072=pytest.approx(62048 / 262064),
           split_131072=0, unusable_without_top_131072=pytest.approx(8 / 200024))


def test_of_a_huge_heap_there_are_fewer(heapledger, build, tmp_path):
    """4 TiB a walk: after each second one every other is left out, until 15 are left."""
    script = Script().brk(BASE, BASE + (4 << 40))
    for i in range(600):
        script.malloc(BASE + 16 + 32 * i, 24, 32)
    trace = make_trace(build, tmp_path / 'trace', script.text())
    (_, rows), = read(heapledger, trace, tmp_path / 'csv').items()
    assert len(rows) == 15
    check_times(rows, 10, 10 + 6000)
    for row in rows:
        check_row(row)
        assert row['live_blocks'] == (row['time_ns'] - 10) // 10
