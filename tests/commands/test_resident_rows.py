# SPDX-License-Identifier: MIT
"""resident.csv: which row of the ledger the pages in memory belong to, at each snapshot and between
them, is what a second implementation makes of the events; what is not known is not said."""

import csv
import json

import pytest

import heap_model
from conftest import record_program, run
from test_moments import BASE, PROGRAMS, RESIDENT_BEGIN, RESIDENT_RUN, Script
from trace_script import make_trace

PAGE = 4096
ROWS = ('requested', 'slack', 'cached', 'table', 'free', 'top', 'metadata', 'outside')
INTERVAL, PEAK = 1, 2
FIELDS = [f'{name}_bytes' for name in (*ROWS, 'all')]


def rows_of(heapledger, trace, folder, *options):
    """stream -> rows; None where nothing is said."""
    outcome = run([heapledger, 'analyze', '--csv', folder, *options, trace])
    assert outcome.status == 0, outcome
    streams = {}
    with open(folder / 'resident.csv') as file:
        for row in csv.DictReader(file):
            streams.setdefault(row.pop('stream'), []).append({
                name: text if name == 'reason' else int(text) if text else None
                for name, text in row.items()})
    return streams


def check(row):
    assert sum(row[f'{name}_bytes'] or 0 for name in ROWS) == row['all_bytes'], row
    if row['reason']:
        assert row['time_ns'] == row['snapshot_ns'] and row['took_ns'] >= 0
        return
    assert row['snapshot_ns'] <= row['time_ns']
    unsaid = 'took_ns', 'cut', 'rss_anon_bytes', 'rss_anon_after_bytes', 'residual_bytes'
    assert all(row[name] is None for name in unsaid), row


@pytest.mark.disorder
@pytest.mark.parametrize('name', PROGRAMS)
def test_rows_are_as_the_model_has_them(heapledger, build, tmp_path, name):
    """Of a process that was forked the rows add up, and the model does not know it."""
    trace = record_program(heapledger, build, tmp_path / 'trace', ['--residency', '5ms', *PROGRAMS[name]],
                           env={'PYTHONMALLOC': 'malloc'})
    streams = rows_of(heapledger, trace, tmp_path / 'csv')
    data = json.loads(run([heapledger, 'analyze', '--json', '-', trace]).stdout)
    snapshots = between = 0
    for process in data['processes']:
        rows = streams.get(process['stream'], [])  # a child may have ended before anybody looked
        for row in rows:
            check(row)
        assert [row['time_ns'] for row in rows] == sorted(row['time_ns'] for row in rows)
        if process['parent_serial']:
            continue
        # Every eighth of those between, which is as good and not as slow.
        others = [row for row in rows if not row['reason']][::8]
        at_snapshots, found = heap_model.resident(
            heap_model.dump(heapledger, trace, process['stream']), [row['time_ns'] for row in others])
        for row in rows:
            if row['reason']:
                model = at_snapshots[row['time_ns']]
                took = model.pop('took_ns')    # in ticks, once
                assert abs(row['took_ns'] - took) <= 1 + took // 1000
                assert heap_model.differences(row, model) == [], row
                snapshots += 1
        for row, candidates in zip(others, found, strict=True):
            wrong = [heap_model.differences(row, model) for model in candidates if model]
            assert [] in wrong, (row, wrong)
            between += 1
        # What the JSON says of the highest snapshot, and of the end, is in the table: of the end in the
        # last row of its snapshot, since a thread that ends may make calls after it.
        for moment in process['moments']:
            if moment['resident'] and moment['resident']['reason'] == 'end':
                of_it = [row for row in rows if row['snapshot_ns'] == moment['resident']['at_ns']]
                same = of_it[-1 if moment['moment'] == 'end' else 0]
                assert of_it[0]['reason'] == 'end'
                assert {name: same[name] for name in FIELDS} == {
                    name: moment['resident'][name] for name in FIELDS}
    assert snapshots >= 1 and between >= 1


# ---- single situations ---------------------------------------------------------------------------


def look(script, *runs, reason=INTERVAL):
    """A snapshot that finds these pages of the break, (first, how many)."""
    tick = script.tick
    script.add('call', 0, tick, RESIDENT_BEGIN, reason, 1, len(runs), 0, 0, 0)
    for first, pages in runs:
        script.lines.append(f'call 0 {tick} {RESIDENT_RUN} {BASE + first * PAGE} '
                            f'{pages * PAGE} 0 0 0 0')
    return script


@pytest.fixture
def rows(heapledger, build, tmp_path):
    def of(script):
        trace = make_trace(build, tmp_path / 'trace', script.text())
        outcome = rows_of(heapledger, trace, tmp_path / 'csv')
        return [row for stream in outcome.values() for row in stream]
    return of


def test_what_is_freed_between_two_snapshots_is_free_at_once(rows):
    script = Script().brk(BASE, BASE + 16 * PAGE).malloc(BASE + 16, 8 * PAGE - 16, 8 * PAGE)
    look(script, (0, 8)).malloc(BASE + 8 * PAGE + 16, 100, 112).free(BASE + 16)
    script.malloc(BASE + 9 * PAGE, 100, 112)
    at, *later = rows(script)
    assert (at['reason'], at['requested_bytes'], at['free_bytes'], at['top_bytes']) == (
        'interval', 8 * PAGE - 16, 8, 0)
    assert later and all(row['snapshot_ns'] == at['time_ns'] for row in later)
    # The new blocks lie on pages that were not there then: nobody says whether they are now.
    assert (later[-1]['requested_bytes'], later[-1]['free_bytes'], later[-1]['all_bytes']) == (
        0, 8 * PAGE, 8 * PAGE)


def test_what_goes_back_is_there_no_more(rows):
    script = Script().brk(BASE, BASE + 16 * PAGE).malloc(BASE + 16, 100, 112)
    look(script, (0, 16)).brk(BASE + 16 * PAGE, BASE + 4 * PAGE).brk(BASE + 4 * PAGE, BASE + 16 * PAGE)
    script.malloc(BASE + 8 * PAGE, 100, 112)
    found = rows(script)
    assert found[0]['all_bytes'] == 16 * PAGE and found[-1]['all_bytes'] == 4 * PAGE
    assert found[-1]['requested_bytes'] == 100  # not the block on a page that came again


def test_before_the_first_snapshot_nothing_is_said(rows):
    script = Script().brk(BASE, BASE + 16 * PAGE)
    for number in range(20):
        script.malloc(BASE + 16 + 112 * number, 100, 112)
    look(script, (0, 1)).malloc(BASE + 8 * PAGE, 100, 112)
    found = rows(script)
    assert found[0]['reason'] == 'interval' and len(found) < 8


def test_a_snapshot_that_was_cut_says_nothing_of_later(rows):
    script = Script().brk(BASE, BASE + 16 * PAGE).malloc(BASE + 16, 100, 112)
    script.add('call', 0, script.tick, RESIDENT_BEGIN, PEAK | 1 << 8, 1, 0, 0, 0, 0)
    script.malloc(BASE + 8 * PAGE, 100, 112)
    (only,) = rows(script)
    assert (only['cut'], only['all_bytes'], only['residual_bytes']) == (1, 0, None)


def test_there_are_no_more_rows_than_a_figure_is_wide(rows):
    """One a part of the time: of 3,000 snapshots 240, and each instant."""
    script = Script().brk(BASE, BASE + 16 * PAGE).malloc(BASE + 16, 100, 112)
    for _ in range(3000):
        look(script, (0, 1))
    found = rows(script)
    assert 200 <= sum(bool(row['reason']) for row in found) <= 241
    times = [row['time_ns'] for row in found if row['reason']]
    assert times == sorted(set(times))


def test_of_an_observed_allocator_nothing_is_known(heapledger, tmp_path):
    trace = tmp_path / 'trace'
    assert run([heapledger, 'record', '-q', '--observe', '-o', trace, '--', '/bin/true']).status == 0
    assert rows_of(heapledger, trace, tmp_path / 'csv') == {}
