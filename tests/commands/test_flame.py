# SPDX-License-Identifier: MIT
"""Flame graphs and pins of `heapledger report`: the stacks are those of `export --format collapsed`, a box
is as wide as what it holds, and without stacks the places that called the allocator are listed."""

import gzip
import html
import re
import sys

import pytest

from analysis_fixture import REPORTS
from conftest import analyze, run

sys.path.insert(0, str(REPORTS))
import flame  # noqa: E402
import stacks  # noqa: E402
import units  # noqa: E402


def report(heapledger, folder, build, *options):
    """A program whose freed memory is pinned by a block a page; its trace, analysis and page."""
    outcome = run([heapledger, 'record', '--kernel', 'off', '-q', '-o', folder / 'trace', *options,
                   '--', build / 'tests' / 'victims' / 'victim_trimmed', 'checker', 20000])
    assert outcome.status == 0, outcome
    outcome = run([heapledger, 'report', folder / 'trace', '-o', folder / 'out.html', '--pdf',
                   folder / 'out.pdf'])
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    return folder / 'trace', analyze(heapledger, folder / 'trace'), (folder / 'out.html').read_text()


@pytest.fixture(scope='module')
def stacked(heapledger, build, tmp_path_factory):
    return report(heapledger, tmp_path_factory.mktemp('flame'), build, '--stacks', 16)


@pytest.fixture(scope='module')
def plain(heapledger, build, tmp_path_factory):
    return report(heapledger, tmp_path_factory.mktemp('flame'), build)


def test_stacks_are_those_of_the_collapsed_export(heapledger, stacked, tmp_path):
    trace, _, _ = stacked
    assert run([heapledger, 'export', '--format', 'pprof', '-o', tmp_path / 'p', trace]).status == 0
    rows = stacks.read(tmp_path / 'p')
    for name, value in ('alloc_objects', 'allocations'), ('peak_space', 'peak'), (
            'inuse_space', 'end'), ('pinned_space', 'pinned'):
        lines = run([heapledger, 'export', '--format', 'collapsed', '--value', value, trace])
        expected = {}
        for line in lines.stdout.decode().splitlines():
            stack, number = line.rsplit(' ', 1)
            names = tuple(f for f in stack.split(';')[1:] if f not in ('[cut]', '[unknown]'))
            expected[names] = expected.get(names, 0) + int(number)
        found = {}
        for row in rows:
            names = tuple(frame.function for frame in row.frames)
            if row.values[name] > 0:
                found[names] = found.get(names, 0) + row.values[name]
        assert found == expected and found, name


def flame_of(stacks_and_values, cut=()):
    rows = [stacks.Row('1.1', tuple(stacks.Frame(name, '', 0) for name in names.split(';')),
                       {'peak_space': value}, number, number in cut)
            for number, (names, value) in enumerate(stacks_and_values, 1)]
    return flame.Flame('By bytes', 'requested', str, rows, 'peak_space')


def test_a_box_is_as_wide_as_what_it_holds_and_lies_below_its_caller():
    graph = flame_of([('main;b', 30), ('main;a;c', 50), ('main', 15), ('start;b', 5), ('x', 0)])
    assert graph.total == 100 and graph.depth == 4
    boxes = {(box.depth, box.name, box.start): box.value for box in graph.boxes}
    # `main` by itself is before what it called, which is in the order of names.
    assert boxes == {(0, 'all', 0): 100, (1, 'main', 0): 95, (2, 'a', 15): 50, (3, 'c', 15): 50,
                     (2, 'b', 65): 30, (1, 'start', 95): 5, (2, 'b', 95): 5}
    assert graph.sentence() == 'By bytes: 100 in all. The most: c: 50, 50 %; b: 30, 30 %; b: 5, 5 %.'


def test_what_cannot_be_seen_is_not_drawn_and_recursion_ends():
    graph = flame_of([('main;tiny', 1), ('main;large', 9999), (';'.join(['f'] * 500), 5000)], cut={3})
    names = {box.name for box in graph.boxes}
    assert 'tiny' not in names and {'large', flame.CUT} <= names
    assert graph.is_cut and graph.depth == flame.DEEPEST
    assert not flame_of([]).boxes


def test_the_page_has_a_graph_for_each_value_and_stacks_that_unfold(stacked):
    _, analysis, page = stacked
    graphs = re.findall(r'<h3>(By [^<]*)</h3>\n<div class="wide" tabindex="0">'
                        r'<svg class="flame"(.*?)</svg>', page, re.S)
    assert [title for title, _ in graphs] == [heading for _, _, heading, _ in flame.VALUES]
    allocations = sum(call['count'] - call['failed'] for name, call in
                      analysis['events']['by_call'].items() if name in ('malloc', 'calloc'))
    assert f'<title>all: {allocations:,}, 100 %</title>' in graphs[0][1]
    for _, graph in graphs:
        assert graph.count('<g>') == graph.count('<title>') == graph.count('<rect') > 3
        assert 'main' in graph and '<script' not in graph
        ends = [float(left) + float(wide) for left, wide in
                re.findall(r'<rect x="([\d.]+)" y="\d+" width="([\d.]+)"', graph)]
        assert max(ends) <= 1000.01
    table = page[page.index('<h2>What pins pages</h2>'):]
    unfolded = re.search(r'<tr><td><details><summary>(.*?)</summary><ol>(.*?)</ol></details></td>'
                         r'<td class=n>(.*?)</td>', table)
    site = next(site for site in analysis['moments'][-1]['sites'] if not site['kept'])
    assert site['function'] in html.unescape(unfolded.group(1))
    assert any('main' in frame for frame in re.findall('<li>(.*?)</li>', unfolded.group(2)))


def cells_of(page, title):
    """The rows of a table of the section, as texts."""
    table = page[page.index(f'<h3>{title}</h3>'):]
    body = table[table.index('<tbody>'):table.index('</tbody>')]
    return [[html.unescape(re.sub(r'<ol>.*?</ol>|<[^>]*>', '', cell))
             for cell in re.findall(r'<td[^>]*>(.*?)</td>', row)]
            for row in re.findall(r'<tr>(.*?)</tr>', body, re.S)]


def test_pins_have_their_age_and_what_freeing_them_returns(stacked):
    _, analysis, page = stacked
    end = analysis['moments'][-1]
    rows = cells_of(page, 'Places in the code')
    sites = [site for site in end['sites'] if site['pinned_bytes'] >= 1][:15]
    assert len(rows) == len(sites) > 0
    for row, site in zip(rows, sites):
        if site['kept']:
            assert row[5:] == ['–'] * 4
            continue
        ages = [units.time(end['at_ns'] - site[key]) for key in ('youngest_at_ns', 'oldest_at_ns')]
        assert row[5] == ' – '.join(dict.fromkeys(ages))
        assert row[6:] == [units.size(site['freed'][key])
                           for key in ('mapped_bytes', 'top_bytes', 'trim_bytes')]
    # A block a page, and all else is free: without them, all of it is.
    most = max(sites, key=lambda site: site['blocks'])
    assert most['freed']['trim_bytes'] + most['freed']['top_bytes'] > end['pages']['free_bytes'] // 2


def test_the_highest_blocks_of_the_break_have_the_numbers_of_the_map(stacked):
    _, analysis, page = stacked
    holders = analysis['moments'][-1]['break']['holders']
    rows = cells_of(page, 'The highest blocks of the break')
    assert rows[0][0] == '1' and 1 < len(rows) <= len(holders)
    for number, _, _, _, address, back in rows:
        holder = holders[int(number) - 1]
        assert (address, back) == (holder['address'], units.size(holder['returned_bytes']))


def test_without_stacks_the_places_are_listed(plain):
    _, analysis, page = plain
    assert 'class="flame"' not in page and 'record --stacks 16' in page
    assert page.count('<table class="places">') == len(flame.VALUES)
    rows = re.findall(r'<i class="share" style="width:([\d.]+)%', page)
    assert float(rows[0]) > 0 and all(0 <= float(width) <= 100 for width in rows)
    assert '<h2>What pins pages</h2>' in page and '<details>' not in page


def test_a_profile_that_is_broken_is_refused(tmp_path):
    for data in b'', b'\x0a', b'\x12\x02\x0a\x05', b'\x2a\x02\x08\x01', b'\x09' + bytes(8):
        with gzip.open(tmp_path / 'p', 'wb') as file:
            file.write(data)
        if data:
            with pytest.raises(ValueError):
                stacks.read(tmp_path / 'p')
        else:
            assert stacks.read(tmp_path / 'p') is None
    (tmp_path / 'p').write_bytes(gzip.compress(b'\x0a' * 100)[:-20])
    with pytest.raises((ValueError, OSError)):
        stacks.read(tmp_path / 'p')
