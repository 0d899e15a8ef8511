# SPDX-License-Identifier: MIT
"""`analyze --group-by`: the same blocks, summed up another way; by hand, against the list of sites, and
alike in summary, JSON and CSV."""

import csv
import json
import re

import pytest

import heap_model
from conftest import run
from test_moments import BASE, Script
from trace_script import make_trace

SUMMED = ('pinned_bytes', 'alone_bytes', 'alone_pages', 'blocks', 'requested_bytes', 'mapped_blocks',
          'mapped_requested_bytes')
KINDS = ['site', 'size', 'thread', 'module']
CODE = '''
import threading, sqlite3
kept = [bytearray(i * 37 % 9000) for i in range(900)]
db = sqlite3.connect(":memory:")
db.execute("create table t(a)")
db.executemany("insert into t values(?)", [(str(i) * 9,) for i in range(900)])
thread = threading.Thread(target=lambda: kept.extend(bytes(i) for i in range(999)))
thread.start(); thread.join()
del kept[::3]
'''


def grouped(heapledger, trace, by, *options):
    outcome = run([heapledger, 'analyze', '--group-by', by, '--json', '-', *options, trace])
    assert outcome.status == 0, outcome
    data = json.loads(outcome.stdout)
    assert data['group_by'] == by
    return data


@pytest.fixture(scope='module')
def by_hand(heapledger, build, tmp_path_factory):
    """Four pages: [8, 1032) of 1,000 bytes by thread 7, a hole of 1,024, [2056, 3080) of 900 by 9; a page
    that one block of 40 has alone; a mapping of its own; top from 8,240 on; a cache keeps 48 at 12,296."""
    script = (Script().brk(BASE, BASE + 16384).malloc(BASE + 16, 1000, 1024, 0x1000)
              .malloc(BASE + 1040, 1000, 1024, 0x1000).malloc(BASE + 2064, 900, 1024, 0x2000, tid=9)
              .malloc(BASE + 8200, 40, 48, 0x2000, tid=9).free(BASE + 1040)
              .syscall(33, 0, 135168, 3, 0x7f0000000000, 3)
              .malloc(0x7f0000000010, 131072, 135168, 0x1000, flags=1)
              .kept(0, 1, 1).kept(BASE + 12304, 48, 1))
    return make_trace(build, tmp_path_factory.mktemp('groups') / 'trace', script.text())


def rows(data, *names):
    return [tuple(group[name] for name in names) for group in data['moments'][-1]['groups']]


def test_by_size(heapledger, by_hand):
    data = grouped(heapledger, by_hand, 'size')
    free = 4096 - 2048  # of the first page; of the third 4,048, and of the fourth too
    assert rows(data, 'up_to_bytes', 'kept', 'blocks', 'requested_bytes', 'pinned_bytes',
                'alone_bytes', 'smallest_bytes', 'largest_bytes') == [
        (40, None, 1, 40, 4048.0, 4048, 40, 40), (None, 'cache', 1, 0, 4048.0, 4048, None, None),
        (1024, None, 2, 1900, float(free), 0, 900, 1000),
        (131072, None, 1, 131072, 0.0, 0, 131072, 131072)]
    assert rows(data, 'mapped_blocks')[-1] == (1,)


def test_by_thread(heapledger, by_hand):
    assert rows(grouped(heapledger, by_hand, 'thread'), 'thread', 'kept', 'blocks', 'requested_bytes',
                'pinned_bytes', 'up_to_bytes') == [
        (9, None, 2, 940, 4048.0 + 1024, None), (None, 'cache', 1, 0, 4048.0, None),
        (7, None, 2, 132072, 1024.0, None)]


def test_by_site_and_by_module(heapledger, by_hand):
    """Without symbols a place is its address, and of no module."""
    assert rows(grouped(heapledger, by_hand, 'site'), 'caller', 'kept', 'requested_bytes', 'thread') == [
        ('0x2000', None, 940, 9), (None, 'cache', 0, None), ('0x1000', None, 132072, 7)]
    assert rows(grouped(heapledger, by_hand, 'module'), 'module', 'kept', 'requested_bytes', 'thread') == [
        (None, None, 133012, None), (None, 'cache', 0, None)]


# ---- a real program -----------------------------------------------------------------------------


@pytest.fixture(scope='module')
def program(heapledger, tmp_path_factory):
    trace = tmp_path_factory.mktemp('program') / 'trace'
    outcome = run([heapledger, 'record', '-q', '--kernel', 'off', '--stacks', '8', '-o', trace, '--',
                   '/usr/bin/python3', '-S', '-c', CODE], env={'PYTHONMALLOC': 'malloc'})
    assert outcome.status == 0, outcome
    return trace


def key_of(by, site):
    if site['kept'] or by == 'thread':
        return site['kept'], site['thread']
    if by == 'module':
        return None, site['module']
    return (None, site['function'], site['file'], site['line'], site['module'],
            None if site['function'] else site['caller'])


@pytest.mark.disorder
@pytest.mark.parametrize('by', KINDS)
def test_groups_are_the_sites_summed_up(heapledger, program, by):
    data = grouped(heapledger, program, by, '--top', '1000000')
    assert {'mapped_peak', 'end'} <= {moment['moment'] for moment in data['moments']}
    for moment in data['moments']:
        groups, sites = moment['groups'], moment['sites']
        assert len(groups) == moment['groups_total'] and len(sites) == moment['sites_total']
        assert len(groups) > 1
        for name in SUMMED:
            assert heap_model.close(sum(group[name] for group in groups),
                                    sum(site[name] for site in sites)), name
        pinned = [group['pinned_bytes'] for group in groups]
        assert pinned == sorted(pinned, reverse=True)
        if by == 'size':
            limits = [group['up_to_bytes'] for group in groups if not group['kept']]
            assert len(set(limits)) == len(limits)
            assert all(group['smallest_bytes'] <= group['largest_bytes'] <= group['up_to_bytes']
                       for group in groups if not group['kept'])
            assert {group['largest_bytes'] for group in groups} <= {
                site['largest_bytes'] for site in sites} | {group['smallest_bytes'] for group in groups} | {
                    group['largest_bytes'] for group in groups if group['blocks'] > 1}
            continue
        if by == 'thread' and any(site['thread'] is None and not site['kept'] for site in sites):
            continue    # of several threads: the sites do not say how much is whose
        sums = {}
        for site in sites:
            sums.setdefault(key_of(by, site), []).append(site)
        assert len(sums) == len(groups)
        for group in groups:
            of = sums[key_of(by, group)]
            for name in SUMMED:
                assert heap_model.close(group[name], sum(site[name] for site in of)), (name, group)


def test_modules_have_names(heapledger, program):
    named = {re.sub(r'.*/', '', group['module']) for moment in grouped(heapledger, program, 'module')[
        'moments'] for group in moment['groups'] if group['module']}
    assert any(name.startswith('python3') for name in named), named
    assert any(name.startswith('libsqlite3') for name in named), named


@pytest.mark.parametrize('by', KINDS)
def test_summary_csv_and_json_say_the_same(heapledger, program, tmp_path, by):
    data = grouped(heapledger, program, by, '--top', '3')
    outcome = run([heapledger, 'analyze', '--group-by', by, '--top', '3', '--csv', tmp_path / 'csv',
                   program])
    assert outcome.status == 0, outcome
    with open(tmp_path / 'csv' / 'groups.csv') as file:
        table = list(csv.DictReader(file))
    said = [(moment, group) for moment in data['moments'] for group in moment['groups']]
    assert len(table) == len(said) == 3 * len(data['moments']) - sum(
        3 - len(moment['groups']) for moment in data['moments'])
    for row, (moment, group) in zip(table, said):
        assert (row['moment'], row['group_by'], int(row['time_ns'])) == (
            moment['moment'], by, moment['at_ns'])
        for name, value in group.items():
            if name == 'pinned_bytes':
                assert float(row[name]) == pytest.approx(value, rel=1e-8)
            else:
                assert row[name] == ('' if value is None else str(value)), name
    text = outcome.stdout.decode()
    assert f'What holds memory, by {by}' in text
    assert max(map(len, text.splitlines())) <= 80
    part = text.split(f'What holds memory, by {by}')[1].split('\n\n')[0]
    numbers = [line.split()[4].replace(',', '') for line in part.splitlines()
               if re.match(r' +[\d.,]+ [KMGT]?i?B +[\d.,]+ [KMGT]?i?B +[\d,]+ ', line)]
    ends = [moment for name in ('mapped_peak', 'end') for moment in data['moments']
            if moment['moment'] == name]
    assert [int(number) for number in numbers] == [
        group['blocks'] for moment in ends for group in moment['groups']]


def test_without_it_nothing_is_grouped(heapledger, by_hand, tmp_path):
    outcome = run([heapledger, 'analyze', '--csv', tmp_path / 'csv', '--json', tmp_path / 'json', by_hand])
    data = json.loads((tmp_path / 'json').read_text())
    assert data['group_by'] is None
    assert all(moment['groups'] is None and moment['groups_total'] is None for moment in data['moments'])
    assert not (tmp_path / 'csv' / 'groups.csv').exists()
    assert b'What holds memory' not in outcome.stdout


@pytest.mark.parametrize('what', ['', 'colour', 'Site', 'site '])
def test_what_it_does_not_know_is_one_line(heapledger, by_hand, what):
    outcome = run([heapledger, 'analyze', '--group-by', what, by_hand])
    assert (outcome.status, outcome.stdout) == (2, b'')
    assert outcome.stderr.decode() == (
        f'heapledger: analyze: --group-by {what}: site, size, thread or module is needed\n')


def test_of_an_observed_allocator_it_is_unknown(heapledger, tmp_path):
    trace = tmp_path / 'trace'
    assert run([heapledger, 'record', '-q', '--observe', '-o', trace, '--', '/bin/true']).status == 0
    outcome = run([heapledger, 'analyze', '--group-by', 'size', '--csv', tmp_path / 'csv', trace])
    assert outcome.status == 0 and "Unknown: the allocator is the program's own." in outcome.stdout.decode()
    assert len((tmp_path / 'csv' / 'groups.csv').read_text().splitlines()) == 1
