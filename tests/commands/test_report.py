# SPDX-License-Identifier: MIT
"""`heapledger report` writes a page that stands alone and says what the analysis says: no number
that was not measured, no figure that is blank, no file half written or lost."""

import html
import json
import os
import re
import sys
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest

from analysis_fixture import (REPORTS, STREAM, Situation, add_process, causes, end_moment, ledger,
                              moments, set_causes)
from conftest import analyze, run
from trace_script import make_trace

FIGURES = ['fragmentation', 'ledger', 'map', 'memory', 'return', 'sizes', 'syscalls']


@pytest.fixture
def situation(tmp_path):
    return Situation(tmp_path)


class Page(HTMLParser):
    """What a browser would make of the page: its text, and everything it would load."""

    VOID = {'meta', 'br', 'path', 'use', 'rect', 'link', 'img', 'image'}

    def __init__(self, text):
        super().__init__()
        self.source, self.words, self.open, self.loads = text, [], [], []
        self.tags, self.found, self.verdict = [], {}, None
        self.feed(text)
        self.close()
        self.text = ' '.join(' '.join(self.words).split())
        assert not [tag for tag in self.open if tag not in self.VOID], self.open

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name in ('src', 'href', 'data', 'action') and not re.match(
                    '#|data:image/png;base64,', value or ''):
                self.loads.append(value)

    def handle_endtag(self, tag):
        if tag not in self.VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if not {'style', 'svg'} & set(self.open):
            self.words.append(data)

    def findings(self):
        """Title -> (kind, text)."""
        found = re.findall(r'<section class="lead (\w+)">\n<h2>(.*?)</h2>\n<p>(.*?)</p>', self.source)
        found += re.findall(r'<li class="(\w+)"><h3>(.*?)</h3><p>(.*?)</p>', self.source)
        return {html.unescape(title): (kind, html.unescape(text).replace('\xa0', ' '))
                for kind, title, text in found}


def page_of(situation, *arguments):
    outcome = situation.report('-o', 'out.html', *arguments)
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    return Page((situation.folder / 'out.html').read_text())


def test_the_page_needs_nothing_else(situation):
    page = page_of(situation)
    assert page.source.startswith('<!DOCTYPE html>')
    assert 'http:' not in page.source and 'https:' not in page.source
    assert 'url(' not in re.sub(r'url\(#\w+\)', '', page.source)
    assert '@import' not in page.source
    assert page.loads == []
    assert not {'script', 'link', 'img', 'iframe', 'object'} & set(page.tags)


def test_the_page_has_seven_figures_with_something_in_them(situation):
    page = page_of(situation)
    drawings = re.findall(r'<figure>.*?(<svg [^>]*>.*?</svg>)', page.source, re.S)
    assert len(drawings) == len(FIGURES)
    for drawing in drawings:
        assert drawing.count('<path') > 20
        assert 'role="img" aria-label="' in drawing


def test_a_narrow_screen_scrolls_a_figure_and_does_not_shrink_it(situation):
    """On 312 of 720 pixels the smallest text would be 4 pixels high. Paper has no scroll bar."""
    page = page_of(situation)
    assert len(re.findall(r'<div class="wide" tabindex="0"><svg [^>]*>.*?</svg>\s*</div>', page.source,
                          re.S)) == len(FIGURES)
    assert '.wide{overflow-x:auto' in page.source
    assert '@media screen{.wide svg{min-width:600px}}' in page.source


def test_colours_follow_the_page_between_light_and_dark(situation):
    page = page_of(situation)
    for drawing in re.findall(r'<figure>.*?(<svg [^>]*>.*?</svg>)', page.source, re.S):
        assert 'var(--ink)' in drawing
    assert 'prefers-color-scheme:dark' in page.source
    for name in set(re.findall(r'var\((--\w+)\)', page.source)):
        assert page.source.count(f'{name}:#') == 3, name  # light, dark, print


def test_numbers_in_the_page_are_those_of_the_analysis(situation):
    page = page_of(situation)
    for path, shown in [('peak requested', '39.3 MiB'), ('peak mapped', '44.2 MiB'),
                        ('peak resident', '48.8 MiB'), ('returned', '83.9 MiB'),
                        ('allocator calls', '2,104,332'), ('system calls', '331')]:
        assert re.search(rf'<dt>{path}</dt><dd title="[^"]*">{re.escape(shown)}</dd>', page.source)
    assert 'title="41,200,000 bytes"' in page.source
    for key in 'requested_bytes', 'slack_bytes', 'free_bytes', 'mapped_bytes', 'live_blocks':
        for moment in situation.data['end'], situation.data['peak']['at_mapped']:
            assert f'<td class=n>{moment[key]:,}</td>' in page.source
    for row in situation.data['syscalls']['by_cause']:
        assert f'<td>{row["reason_text"]}</td>' in page.source
        assert f'<td class=n>{row["count"]}</td>' in page.source


def test_the_command_is_shown_as_typed_and_cannot_break_the_page(situation):
    situation.data['command'] = ['x', '</title><script>alert(1)</script>', '"quoted" & more']
    page = page_of(situation)
    assert 'script' not in page.tags
    assert """x '</title><script>alert(1)</script>' '"quoted" & more'""" in page.text


def test_mode_policy_model_and_exit_are_named(situation):
    page = page_of(situation)
    assert "mode allocator: heapledger's own allocator served the program" in page.text
    assert 'policy hybrid' in page.text and 'rules of glibc 2.36' in page.text
    assert 'exit status 0' in page.text
    assert ' · tunables' not in page.text
    situation.data['tunables'] = {'top_pad': 65536, 'purge': 'trim', 'perturb': 0}
    situation.data['tunables_set'] = ['top_pad', 'purge']
    assert ' · tunables top_pad=65536, purge=trim' in page_of(situation).text
    situation.data['exit'] = {'signal': 9}
    assert 'ended by signal 9' in page_of(situation).text


def how(page):
    """The table of how it was recorded."""
    table = page[page.index('<h2>How it was recorded</h2>'):]
    rows = re.findall(r'<tr><td>(.*?)</td><td>(.*?)</td></tr>', table[:table.index('</table>')])
    return {name: html.unescape(text) for name, text in rows}


def test_how_it_was_recorded_is_said_of_the_machine_that_recorded(heapledger, tmp_path):
    trace = tmp_path / 'trace'
    assert run([heapledger, 'record', '-q', '--kernel', 'off', '--stacks', 8, '--set', 'tcache_count=3',
                '-o', trace, '--', '/bin/true'],
               env={'MALLOC_TOP_PAD_': '4096', 'GLIBC_TUNABLES': 'glibc.malloc.trim_threshold=262144:'
                    'glibc.malloc.tcache_count=5'}).status == 0
    data = analyze(heapledger, trace)
    session = json.loads((trace / 'session.json').read_text())
    assert data['host'] == session['host'] and set(session['host']) == {
        'kernel', 'distribution', 'libc', 'cpu_model', 'cpus', 'memory_bytes', 'page_bytes'}
    assert session['host']['libc'] == os.confstr('CS_GNU_LIBC_VERSION')
    assert session['host']['cpus'] == os.sysconf('SC_NPROCESSORS_ONLN')
    assert session['host']['memory_bytes'] == \
        int(re.search(r'MemTotal: *(\d+) kB', open('/proc/meminfo').read()).group(1)) * 1024
    assert os.uname().nodename not in (trace / 'session.json').read_text()
    assert data['recorder_cpu_ns'] == session['recorder_cpu_ns'] > 0
    assert data['tunables_from'] == {'trim_threshold': 'GLIBC_TUNABLES', 'top_pad': 'MALLOC_TOP_PAD_',
                                     'tcache_count': 'HEAPLEDGER_SET'}
    # The report is made on another machine.
    session['host'] = {'kernel': '1.2.3-other', 'distribution': 'Another 9', 'libc': None,
                       'cpu_model': 'A <CPU>', 'cpus': 96, 'memory_bytes': 3 << 30, 'page_bytes': 4096}
    (trace / 'session.json').write_text(json.dumps(session))
    assert run([heapledger, 'report', trace, '-o', tmp_path / 'out.html']).status == 0
    page = (tmp_path / 'out.html').read_text()
    rows = how(page)
    assert rows['machine'] == ('Linux 1.2.3-other; Another 9; libc unknown; 96 × A <CPU>; '
                               '3.00 GiB of memory')
    assert os.uname().release not in page
    assert rows['tunables set'] == ('trim_threshold 256 KiB (GLIBC_TUNABLES), top_pad 4 KiB '
                                    '(MALLOC_TOP_PAD_), tcache_count 3 (record --set)')
    assert 'mmap_threshold 128 KiB, mmap_max 65536' in rows['tunables not set']
    assert 'tcache_max 1,032 B' in rows['tunables not set'] and 'rise' not in rows['tunables not set']
    assert rows['mode'].startswith('allocator') and rows['policy'] == 'hybrid, by the rules of glibc 2.36'
    assert rows['options'].startswith('call stacks of up to 8 functions; resident memory every 10.0 ms')
    verify = run([heapledger, 'verify', trace])
    assert verify.stdout.decode().splitlines()[0] in rows['verify']
    events = data['events']
    assert rows['events'] == (f"{events['total']:,}: allocator calls {events['calls']:,}, "
                              f"system calls {events['syscalls']:,}")
    assert rows['lost'] == '0 events; 0 processes not recorded'
    assert rows['cost in the program'].startswith(f"{data['syscalls']['recorder']} system calls; at most ")
    assert re.match(r'CPU time of the recorder [\d.]+ m?s; a trace of ', rows['cost beside it'])


def test_what_a_recording_does_not_say_of_itself_is_unknown(situation):
    rows = how(page_of(situation).source)
    assert [rows[name] for name in ('machine', 'verify', 'options', 'tunables set', 'tunables not set')] == \
        ['unknown'] * 5
    assert rows['cost beside it'].startswith('CPU time of the recorder unknown; a trace of ')


@pytest.mark.parametrize('session', [
    {'options': [], 'attach': [], 'host': 3, 'tunables': [], 'tunables_set': {}},
    {'options': {'stacks': 'x', 'interval_ns': [], 'on_full': {}, 'residency_ns': -1}, 'host': {'cpus': {}},
     'tunables': {'top_pad': [1], 'mxfast': {}}, 'tunables_set': [['top_pad'], {}, 'none'],
     'tunables_from': {'none': []}, 'recorder_cpu_ns': 'long', 'attach': {'seconds': 1e300}}])
@pytest.mark.parametrize('mode', [0, 3])
def test_a_session_file_of_nonsense_makes_a_page(heapledger, build, tmp_path, session, mode):
    trace = make_trace(build, tmp_path / 'trace', f'command program\nstream 100 1 0 {mode} 1000\n'
                       'close 1 1 0 2000 0\n')
    (trace / 'session.json').write_text(json.dumps({'schema': 'heapledger-session/1', **session}))
    outcome = run([heapledger, 'report', trace, '-o', tmp_path / 'out.html'])
    assert outcome.status == 0 and b'Traceback' not in outcome.stderr, outcome
    assert how((tmp_path / 'out.html').read_text())['lost'].startswith('0 events')


def test_a_verdict_against_the_log_is_the_first_thing_said(situation):
    sys.path.insert(0, str(REPORTS))
    import load
    import words
    os.environ['HEAPLEDGER_BIN'] = str(situation._write())
    analysis = load.load(situation.trace)
    line = 'INCOMPLETE: 4 of 5 logged calls match the kernel\'s; 1 findings'
    for code, said in (0, False), (1, True), (4, False):
        analysis.verdict = load.Verdict(code, [line])
        first = words.findings(analysis)[0]
        assert (first.kind == 'bad' and line in first.text) == said


def test_the_date_is_that_of_the_recording(situation):
    assert 'date not recorded' in page_of(situation).text
    (situation.trace / 'session.json').write_text('{"started": "2023-11-14T22:13:20.123Z"}')
    assert '14 November 2023, 22:13 UTC' in page_of(situation).text
    (situation.trace / 'session.json').write_text('{"started')
    assert 'date not recorded' in page_of(situation).text


def test_notes_and_processes_that_were_not_recorded_are_told(situation):
    (situation.trace / 'session.json').write_text(
        '{"unrecorded_processes": 2, "notes": ["no kernel side: no privilege"]}')
    findings = situation.findings()
    kind, text = findings['Some processes were not recorded']
    assert kind == 'look' and text.startswith('2 processes of this run did not load the library')
    assert 'It noted: no kernel side: no privilege.' in page_of(situation).text
    situation.data['complete'] = False  # as the analyzer says then
    assert '>INCOMPLETE: 2 processes not recorded</p>' in page_of(situation).source


def test_nothing_unusual_is_said_when_nothing_is(situation):
    situation.data['moments'] = [end_moment()]
    page = page_of(situation)
    findings = page.findings()
    assert list(findings) == ['Little memory lies idle in this heap']
    assert findings['Little memory lies idle in this heap'] == (
        'fine', '1.78 MiB is mapped at the end, 1.25 MiB of it in use, and malloc_trim(0) would '
        'return 8.00 KiB.')
    assert 'COMPLETE: every stream closed, no event lost' in page.text
    assert '331 system calls took 993 µs, less than 0.1 % of the recorded time.' in page.text


def test_memory_that_is_only_in_use_is_not_called_right(situation):
    """A program that frees nothing may need it all, or leak it."""
    situation.data['moments'] = [end_moment()]
    situation.data['findings'] = [JUDGED[1]]
    kind, text = page_of(situation).findings()['Little memory lies idle in this heap']
    assert kind == 'fine' and text.endswith('Whether all that is in use is still needed is not known here.')


def test_one_latency_is_said_once(situation):
    latency = situation.data['free_to_return']['latency_ns']
    assert 'Half of what was returned went within 16.0 ms, 99 % within 400 ms.' in page_of(situation).text
    latency['p50'] = latency['p99']
    text = page_of(situation).text
    assert '99 % of what was returned went within 400 ms.' in text and 'Half of what' not in text


def test_the_run_in_short_has_a_heading_of_its_own(situation):
    situation.data['findings'] = JUDGED
    source = page_of(situation).source
    short, more = (source.index(f'<h2>{title}</h2>') for title in ('The run in short', 'What else was found'))
    assert short < source.index('allocator calls. Beneath them') < more < source.index('<ol class="found"')


JUDGED = [
    {'kind': 'whole_pages', 'bytes': 12_900_000, 'promised_bytes': 12_800_000,
     'sentence': '12.3 MiB, 89 % of what is mapped, is free in whole pages below a block.',
     'remedy': 'malloc_trim(0) would return 12.2 MiB.'},
    {'kind': 'in_use', 'bytes': 1_310_000, 'sentence': '1.25 MiB in 2043 blocks is in use.',
     'remedy': None, 'promised_bytes': None},
    {'kind': 'system_calls', 'bytes': 0, 'sentence': '331 system calls took 20 % of the time.',
     'remedy': None, 'promised_bytes': None}]


def test_the_analyzers_findings_lead_and_nothing_is_said_twice(situation):
    """The first one is the verdict; the others are numbered on from it."""
    situation.data['findings'] = JUDGED
    situation.data['events']['by_call']['malloc']['failed'] = 3
    page = page_of(situation)
    assert [(kind, text) for kind, text in page.findings().values()] == [
        ('look', JUDGED[0]['sentence']), ('fine', JUDGED[1]['sentence']),
        ('look', JUDGED[2]['sentence']), ('look', '3 allocator calls failed (malloc 3).')]
    for finding in JUDGED:
        assert page.text.replace('\xa0', ' ').count(finding['sentence']) == 1
    assert page.text.replace('\xa0', ' ').count(JUDGED[0]['remedy']) == 1
    assert page.source.index(JUDGED[0]['sentence'][9:].split(' ', 3)[-1]) < page.source.index('facts">')
    assert '<ol class="found" start="2">' in page.source
    assert '331 system calls took 993' not in page.text  # the finding has it
    assert 'Little memory' not in page.text


def test_the_first_screen_has_the_ledger_row_by_row_and_what_is_unknown_is_no_zero(situation):
    situation.data['moments'] = [end_moment()]
    page = page_of(situation)
    bar = re.search(r'aria-label="(At the end[^"]*)"', page.source).group(1)
    assert bar == ('At the end (2.00 s): 1.78 MiB mapped: requested 1.25 MiB, headers and rounding '
                   '117.2 KiB, free beside blocks 146.5 KiB, free, whole pages 39.1 KiB, free at the '
                   'top 107.4 KiB, allocator&#x27;s tables 136.7 KiB')
    shares = [int(n) for n in re.findall(r'style="flex-grow:(\d+)', page.source)]
    assert sum(shares) == 1_870_000
    peak = {**end_moment(), 'moment': 'mapped_peak', 'at_ns': 1_000_000_000}
    end = end_moment()
    end['ledger'].update(cached_bytes=50_000, table_bytes=656, partial_bytes=99_344)
    situation.data['moments'] = [peak, end]
    for end['caches_known'], least in (True, ''), (False, 'at least '):
        page = page_of(situation)
        row = re.search(r'freed, kept by caches</th>(.*?)</tr>', page.source).group(1)
        assert re.findall(r'>([^<>]+)<', row) == ['unknown', f'{least}49.5&nbsp;KiB']


def test_what_became_of_freed_pages_by_size_and_by_what_gave_them_back(situation):
    """Sizes of one doubling are one bar; what nothing was freed of has none."""
    sys.path.insert(0, str(REPORTS))
    import figure_return
    from load import Analysis
    assert figure_return.by_size(Analysis(situation.data, {})) == [
        (32, [2_304, 3_200, 303_104]), (1 << 20, [60_000_000, 30_000_000, 0])]
    text = page_of(situation).text.replace('\xa0', ' ')
    assert re.search(r'munmap\s+a mapped block was freed\s+free\s+drop \(table.c:12\)\s+40\s+'
                     r'57.2 MiB\s+493 µs', text)
    label = next(label for label in re.findall(r'aria-label="([^"]*)"', page_of(situation).source)
                 if label.startswith('From free to return'))
    assert ('up to 1 KiB: 301.4 KiB; 64 KiB to 1 MiB: 85.8 MiB; '
            '100 % of what is still free was left by blocks of up to 32 B') in label, label
    situation.data['returning'] = None  # of an allocator that was observed
    assert 'given back by' not in page_of(situation).text


@pytest.fixture
def sizes(situation):
    """What the figure of sizes is called, and what is said before it."""
    def of():
        page = page_of(situation)
        label = next(label for label in re.findall(r'aria-label="([^"]*)"', page.source)
                     if label.startswith('Sizes and lifetimes'))
        said = re.search(r'<h2>Sizes and lifetimes</h2>\n(?:<p>(.*?)</p>\n)?', page.source).group(1)
        return html.unescape(label), (said or '').replace('&nbsp;', ' ')
    return of


def test_sizes_and_lifetimes_are_said_in_words(sizes):
    """Sizes of one doubling are one bar."""
    label, said = sizes()
    assert '99.9 % of all allocations are of 17 to 32 bytes; 97.3 % of the bytes, 512 KiB to 1 MiB' in label
    # 11 and 32 MB were requested in 17.6 and 32.16 MB.
    assert ('At the peak 13.6 % of what blocks take is slack, 97.6 % of it in blocks of 17 to 32 bytes' in label)
    assert 'Half of the freed blocks lived while 319 B or less were allocated' in label
    assert said == ('999,000 blocks were made and freed, 2,000 more were live at the end. Of the freed ones half '
                    'lived for less than 1.05 ms, 99 % for at most 12.0 ms.')


def test_sizes_without_a_free_and_of_blocks_from_before(situation, sizes):
    lifetimes = situation.data['lifetimes']
    lifetimes['freed_blocks'] = 0
    lifetimes['allocated'].update(percentiles=None, incidence=[])
    lifetimes['time'] = None
    label, said = sizes()
    assert 'No block that was seen being made was freed' in label and said == ''
    lifetimes.update(freed_blocks=1, before={'freed_blocks': 3, 'live_blocks': 1})
    assert sizes()[1] == ('1 block was made and freed, 2,000 more were live at the end. How long 4 others lived is '
                          'not known: they were there before.')


def test_what_blocks_of_another_allocator_take_is_not_drawn(situation, sizes):
    for row in situation.data['sizes']:
        for name in 'chunk_bytes', 'peak_count', 'peak_bytes', 'peak_chunk_bytes', 'live_chunk_bytes':
            row[name] = None
    situation.data['mode'] = 'observe'
    label, _ = sizes()
    assert 'slack' not in label and 'of all allocations' in label


def test_the_first_screen_shows_resident_memory_or_says_that_it_is_not_known(situation):
    page = page_of(situation)
    line = re.search(r'<polyline class="resident" points="([^"]*)"', page.source).group(1)
    points = [tuple(map(float, point.split(','))) for point in line.split(' ')]
    assert len(points) == 100 and min(y for _, y in points) == 0  # the largest sample is the top
    assert 'Resident: at most 48.8 MiB, at the end 4.64 MiB' in page.text.replace('\xa0', ' ')
    situation.with_samples = False
    page = page_of(situation)
    assert 'Resident memory was not measured.' in page.text and 'class="resident"' not in page.source


def test_of_very_many_samples_the_extremes_stay(tmp_path):
    """An hour has 360,000 of them; a figure has not so many columns."""
    sys.path.insert(0, str(REPORTS))
    import load
    values = [(number * 7919) % 50_021 for number in range(50_000)]
    lines = [f'{name},{10 * number},{value},1,2,3,4,5,6,7,8\n' for name in ('1.1', '2.1')
             for number, value in enumerate(values)]
    head = ('stream,time_ns,rss_bytes,rss_anon_bytes,rss_file_bytes,rss_shmem_bytes,swap_bytes,'
            'rss_peak_bytes,recorder_bytes,minor_faults,major_faults\n')
    (tmp_path / 'samples.csv').write_text(head + ''.join(lines) + '3.1,0,5,1,2,3,4,5,6,7,8\n')
    rows = load.read_tables(tmp_path)['samples']
    for name in '1.1', '2.1':
        mine = [(row['time_ns'], row['rss_bytes']) for row in rows if row['stream'] == name]
        assert mine == sorted(set(mine)) and set(mine) <= {(10 * n, v) for n, v in enumerate(values)}
        assert mine[0][0] == 0 and mine[-1][0] == 499_990 and 1000 < len(mine) <= 4000
        assert {value for _, value in mine} >= {min(values), max(values)}
    assert [row['rss_bytes'] for row in rows if row['stream'] == '3.1'] == [5]


def test_failed_calls_are_named(situation):
    situation.data['events']['by_call']['malloc']['failed'] = 3
    situation.data['syscalls']['by_cause'][0]['failed'] = 2
    findings = situation.findings()
    assert findings['Some calls failed'] == (
        'look', '3 allocator calls failed (malloc 3). The kernel refused 2 system calls.')


def test_lost_events_stand_at_the_top(situation):
    situation.data['complete'] = False
    situation.data['events']['lost'] = 1204
    page = page_of(situation)
    assert '<p class="verdict bad">INCOMPLETE: 1,204 events lost</p>' in page.source
    title, (kind, text) = next(iter(page.findings().items()))
    assert (kind, title) == ('bad', 'The trace is incomplete')
    assert '1,204 events could not be logged, so every count here is a lower bound' in text
    assert 'COMPLETE: every' not in page.text


def test_a_stream_that_was_cut_short_is_named(situation):
    situation.data['complete'] = False
    situation.data['processes'][0]['complete'] = False
    page = page_of(situation)
    assert 'INCOMPLETE: 1 stream not closed' in page.text
    assert f'1 stream of 1 was not closed ({STREAM})' in page.text


def test_anomalies_are_never_silent(situation):
    situation.data['anomalies']['order_violations'] = 2
    kind, text = situation.findings()['The trace contradicts itself']
    assert kind == 'bad' and 'order violations: 2' in text and 'unknown frees' not in text


def test_what_was_not_measured_is_never_a_number(situation):
    data = situation.data
    situation.with_samples = False
    data['peak']['rss_bytes'] = data['peak']['rss_at_ns'] = data['end']['rss_bytes'] = None
    data['returned_bytes'] = data['returned'] = data['free_to_return'] = None
    data['recorder']['peak_rss_bytes'] = data['exit'] = None
    page = page_of(situation)
    for name in 'peak resident', 'returned':
        assert re.search(rf'<dt>{name}</dt><dd class="missing" title="not measured">not measured<',
                         page.source)
    assert 'resident memory was not measured' in page.text
    assert 'how it ended was not seen' in page.text
    assert 'Nothing of this kind was measured in this run.' in page.text
    assert page.source.count('<figure>') == len(FIGURES) - 1
    assert 'None' not in page.text and 'null' not in page.text and 'nan' not in page.text


def test_an_analysis_with_almost_nothing_makes_a_page(situation):
    """A program that ended before its first allocation."""
    data = situation.data
    set_causes(data, [])
    data['events'] = {'total': 0, 'calls': 0, 'syscalls': 0, 'lost': 0, 'by_call': {}}
    for key in 'peak', 'end', 'fragmentation', 'free_to_return', 'returned_bytes', 'sizes', 'lifetimes':
        data[key] = None
    data['processes'] = []
    data['duration_ns'] = 0
    situation.map = {'schema': 'heapledger-map/1', 'stream': None, 'regions': None}
    situation._write = lambda write=situation._write: _without_tables(situation, write)
    page = page_of(situation)
    assert page.text.count('Nothing of this kind was measured in this run.') == 8


@pytest.mark.parametrize('records', ['', 'syscall 7 1000 32 0x555555560000 0 0x555555581000 '
                                     '0x555555581000 2000 1 2 1\n'])
def test_a_trace_of_nothing_or_of_one_event_makes_a_page(heapledger, build, tmp_path, records):
    """Drawn without a warning, and not praised for what it did not do."""
    trace = make_trace(build, tmp_path / 'trace', f'command program\nstream 100 1 0 0 1000\n{records}'
                       'close 1 1 0 2000 0\n')
    outcome = run([heapledger, 'report', trace, '-o', tmp_path / 'out.html', '--pdf', tmp_path / 'out.pdf'])
    assert outcome.status == 0 and b'Warning' not in outcome.stderr, outcome
    text = (tmp_path / 'out.html').read_text()
    assert ('Nothing happened' in text) == ('It held nothing.' in text) == (not records)
    assert ('Little memory lies idle in this heap' in text) == bool(records)


def test_ten_hours_are_said_in_hours_everywhere(heapledger, build, tmp_path):
    hours = 36_000 * 10**9
    trace = make_trace(build, tmp_path / 'trace', f'''
command program
stream 100 1 0 0 1000
syscall 7 1000 32 0x555555560000 0 0x555555581000 0x555555581000 2000 1 2 1
call 7 {1000 + hours} 1 0x555555560010 100 112 0 0
close 1 1 0 {1000 + hours} 0
''')
    outcome = run([heapledger, 'report', trace, '-o', tmp_path / 'out.html'])
    assert outcome.status == 0, outcome
    said = (tmp_path / 'out.html').read_text().replace('&nbsp;', ' ')
    assert 'ran for 10 h 0 min' in said and 'In 10 h 0 min the program' in said
    assert ' 10 h 0 min, 1 process' in run([heapledger, 'analyze', trace]).stdout.decode()


def test_the_address_map_is_a_picture_with_all_that_is_left_out_said(situation):
    whole = page_of(situation)
    assert whole.source.count('href="data:image/png;base64,') == 1
    assert 'are not in the map' not in whole.text
    situation.map['beyond_bytes'] = 3 << 20
    situation.map['regions'] += [{**situation.map['regions'][0], 'kind': 'arena',
                                  'start': hex(0x7fff00000000 + (n << 26))} for n in range(8)]
    page = page_of(situation)
    assert page.source.count('href="data:image/png;base64,') == 7
    assert 'The 6 largest of 8 arenas are drawn.' in page.text
    assert 'Up to 3.00 MiB more lay in arenas that are not in the map.' in page.text


def _without_tables(situation, write):
    situation.data['peak'], situation.data['end'] = {'at_mapped': ledger(0, 0, 0, 0, 0, 0)}, ledger(
        0, 0, 0, 0, 0, 0)
    analyzer = write()
    source = situation.folder / 'analysis'
    data = {**situation.data, 'peak': None, 'end': None}
    (source / 'analysis.json').write_text(json.dumps(data))
    for table in source.glob('*.csv'):
        table.write_text(table.read_text().splitlines()[0] + '\n')
    return analyzer


def test_all_processes_are_listed_when_there_are_several(situation):
    assert 'processes</h2>' not in page_of(situation).source
    for number in range(3):
        add_process(situation.data, f'{5000 + number}.{number + 2}', 5000 + number, ['cc1', '-O2'])
    page = page_of(situation)
    assert '<h2>All 4 processes</h2>' in page.source
    assert [pid for pid in (4711, 5000, 5001, 5002) if f'<td class=n>{pid}</td>' in page.source] \
        == [4711, 5000, 5001, 5002]
    assert 'The process with the largest heap: demo' in page.text
    assert re.search(r'The heap is that of demo.* at its end, the largest of 4 processes\.', page.text)
    assert 'of process demo' in page.text
    assert 'All 4 processes together.' in page.text


def variance(path):
    import matplotlib
    matplotlib.use('Agg')
    from matplotlib import image
    picture = image.imread(path)[..., :3]
    return picture.shape, float(picture.var())


def test_png_writes_the_figures_alone_and_none_is_blank(situation):
    outcome = situation.report('--png', 'figures')
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, b'', b'')
    folder = situation.folder / 'figures'
    assert sorted(path.stem for path in folder.iterdir()) == FIGURES
    assert not (situation.folder / 'report.html').exists()
    for path in folder.iterdir():
        (height, width, _), spread = variance(path)
        assert width == 1600 and height > 500
        assert spread > 0.005, path


def test_svg_writes_the_figures_alone(situation):
    outcome = situation.report('--svg', 'figures')
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, b'', b'')
    assert sorted(path.name for path in (situation.folder / 'figures').iterdir()) == [
        f'{name}.svg' for name in FIGURES]
    for path in (situation.folder / 'figures').iterdir():
        drawing = ElementTree.parse(path).getroot()
        assert drawing.tag == '{http://www.w3.org/2000/svg}svg' and len(list(drawing.iter())) > 50
        assert not [value for element in drawing.iter() for name, value in element.items()
                    if name.endswith('href') and not value.startswith(('#', 'data:image/png;base64,'))]
    assert situation.report('--svg', 'figures').status == 0  # its own are replaced
    (situation.folder / 'figures' / 'return.svg').write_text('<svg/>')
    assert situation.report('--svg', 'figures').status == 2


def sheets_of(path):
    """The text of each sheet without its number, which stands at its foot."""
    outcome = run(['pdftotext', path, '-'])
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    sheets = [sheet.split('\n') for sheet in outcome.stdout.decode().split('\f')[:-1]]
    return ['\n'.join(line for line in sheet if line != str(number))
            for number, sheet in enumerate(sheets, 1)]


def test_the_pdf_says_all_that_the_page_says(situation):
    """Each paragraph and heading, each cell of each table, and a figure for each figure."""
    situation.data['moments'], situation.data['findings'] = [end_moment()], JUDGED
    situation.data['command'] = ['cost', '$x$', 'a_very_long_word' * 20]
    for number in range(90):
        add_process(situation.data, f'{5000 + number}.{number + 2}', 5000 + number, ['cc1', '-O2'])
    outcome = situation.report('-o', 'out.html', '--pdf', 'out.pdf', '--png', 'figures')
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, b'out.html\nout.pdf\n', b'')
    sheets = sheets_of(situation.folder / 'out.pdf')
    assert len(sheets) >= 5  # the processes alone take more than one
    said = ''.join(''.join(sheets).split())
    page = (situation.folder / 'out.html').read_text()
    parts = re.findall(r'<(h1|h2|h3|p|td|th|dt|dd|figcaption)\b([^>]*)>(.*?)</\1>', page, re.S)
    parts = [re.sub(r'<[^>]*>', ' ', text) for _, attributes, text in parts
             if 'axis' not in attributes]
    assert len(parts) > 700
    left_out = {'What the heap holds', 'Resident memory over time'}  # one heading for both
    missing = [text for text in map(html.unescape, parts) if text not in left_out
               and ''.join(text.split()) not in said
               and not all(word in said for word in text.split())]
    assert not missing
    for sentence in JUDGED[0]['sentence'], JUDGED[1]['sentence'], "Of 86.1 MiB in pages":
        assert said.count(''.join(sentence.split())) == 1
    drawn = re.sub(r'(?s)<(defs|metadata)>.*?</\1>', '', page)
    assert drawn.count('<figure>') == len(FIGURES)
    for title in 'MiB held: at most', 'calls in all', 'of freed pages went back to the kernel':
        assert ''.join(title.split()) in said


def test_a_pdf_is_replaced_only_if_it_is_ours_and_is_the_same_again(situation):
    assert situation.report('--pdf', 'out.pdf').status == 0
    assert not (situation.folder / 'report.html').exists()
    before = (situation.folder / 'out.pdf').read_bytes()
    assert situation.report('--pdf', 'out.pdf').status == 0
    assert (situation.folder / 'out.pdf').read_bytes() == before
    (situation.folder / 'out.pdf').write_bytes(b'%PDF-1.4 a thesis')
    outcome = situation.report('--pdf', 'out.pdf', '-o', 'out.html')
    assert outcome.status == 2 and b'out.pdf: exists and was not written' in outcome.stderr
    assert not (situation.folder / 'out.html').exists()
    assert (situation.folder / 'out.pdf').read_bytes() == b'%PDF-1.4 a thesis'


def test_page_and_pdf_cannot_be_one_file(situation):
    outcome = situation.report('-o', 'out', '--pdf', './out')
    assert outcome.status == 2 and not (situation.folder / 'out').exists()
    assert outcome.stderr == b'heapledger: report: out: is to be both the page and the PDF\n'


def test_a_name_that_the_font_has_no_letters_for_is_nobodys_business(situation):
    """They are there by another font, or by their numbers; and nothing warns (warnings are errors here)."""
    sys.path.insert(0, str(REPORTS))
    import style
    situation.data['command'] = ['\u6570\u636e', '\U00016800', 'x\u00e9']
    add_process(situation.data, '9.2', 9, ['\u6570'])
    outcome = situation.report('--pdf', 'out.pdf')
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    said = ''.join(run(['pdftotext', situation.folder / 'out.pdf', '-']).stdout.decode().split())
    shown = '\u6570\u636e' if style.FALLBACK in style.families() else '\\u6570\\u636e'
    assert said.count(shown) == 1 and said.count(shown[:len(shown) // 2]) == 2, said[:300]
    assert '\\U00016800' in said and 'x\u00e9' in said, said[:300]


def test_each_figure_says_in_words_what_it_shows(situation):
    """To whom does not see it: its section's name and what is over its parts."""
    labels = re.findall(r'<figure>\n<div [^>]*><svg [^>]*role="img" aria-label="([^"]*)"',
                        page_of(situation).source)
    assert len(labels) == len(FIGURES)
    assert all(re.fullmatch(r'[A-Z][^:]+: .{10,}', label) for label in labels), labels
    assert any('of freed pages went back to the kernel' in label for label in labels)


def test_fragmentation_is_said_in_titles(situation):
    """Those of the largest size that would fit at the end, and of the fullest moment."""
    situation.data['moments'] = moments()

    def label():
        return next(label for label in re.findall(r'aria-label="([^"]*)"', page_of(situation).source)
                    if label.startswith('Fragmentation over time'))

    assert ('free: at most 1.81 MiB, at 1.40 s, 56.7 % of it whole pages; ' in label()
            and 'At the end 25.0 % fewer blocks of 128 KiB fit' in label()), label()
    for size in situation.data['moments'][-1]['free_space']['sizes'][3:]:
        size['split'] = None
    assert 'At the end 10.0 % fewer blocks of 4 KiB fit' in label()
    situation.data['moments'] = None
    assert 'How many blocks of a size fewer fit than' in label()


def test_what_the_ledger_leaves_over(situation):
    situation.data['moments'] = moments()
    assert page_of(situation).text.replace('\xa0', ' ').count(
        'At the resident peak 38.1 MiB of anonymous memory was found page by page, and the kernel '
        'counted the same; at the end 38.1 MiB of anonymous memory was found page by page, and the '
        'kernel counted 4.00 KiB (less than 0.1 %) more.') == 1
    assert doubt(situation) is None
    situation.data['moments'][1]['resident']['residual_bytes'] = -1_200_001
    kind, text = doubt(situation)
    assert kind == 'look' and 'counted 1.14 MiB (3.0 %) less' in text
    for moment in situation.data['moments']:
        moment['resident'] = None
    assert doubt(situation) is None and 'page by page' not in page_of(situation).text


def doubt(situation):
    return page_of(situation).findings().get('The kernel counts other memory than was found')


def test_figures_differ_with_the_data(situation):
    situation.report('--png', 'one')
    situation.data['end'] = ledger(1_310_000, 120_000, 12_900_000, 140_000, 0, 2_043)
    set_causes(situation.data, causes(grow=1805, trim=1640))
    situation.data['free_to_return']['never_page_bytes'] = 50_003_968
    situation.data['sizes'][0]['count'] *= 2
    situation.map['regions'][0]['rows'].pop()
    situation.report('--png', 'two')
    for name in FIGURES:
        one, two = (situation.folder / run / f'{name}.png' for run in ('one', 'two'))
        assert one.read_bytes() != two.read_bytes()


def test_the_same_trace_makes_the_same_page(situation):
    assert page_of(situation).source == page_of(situation).source


def test_a_figure_without_data_is_not_written_and_said_so(situation):
    situation.data['free_to_return'] = None
    outcome = situation.report('--png', 'figures')
    assert outcome.status == 0
    assert outcome.stderr.decode() == ('heapledger: report: figures/return.png: not written: '
                                       'from free to return: not measured\n')
    assert not (situation.folder / 'figures' / 'return.png').exists()


def test_the_default_name_and_a_new_report_over_an_old_one(situation):
    for _ in range(2):
        outcome = situation.report()
        assert (outcome.status, outcome.stdout) == (0, b'report.html\n')
    assert sorted(os.listdir(situation.folder)) == [
        'analysis', 'heapledger', 'report.html', 'trace']


def test_a_file_of_someone_else_is_not_replaced(situation):
    mine = situation.folder / 'thesis.html'
    mine.write_text('three years of work')
    outcome = situation.report('-o', 'thesis.html')
    assert (outcome.status, outcome.stdout) == (2, b'')
    assert outcome.stderr.decode() == (
        'heapledger: report: thesis.html: exists and was not written by heapledger report: '
        'choose another name or give --force\n')
    assert mine.read_text() == 'three years of work'
    assert situation.report('-o', 'thesis.html', '--force').status == 0
    assert mine.read_text().startswith('<!DOCTYPE html>')


def test_a_png_of_someone_else_is_not_replaced_and_nothing_is_written(situation):
    folder = situation.folder / 'figures'
    folder.mkdir()
    (folder / 'return.png').write_bytes(b'a photograph')
    outcome = situation.report('--png', 'figures')
    assert outcome.status == 2 and b'figures/return.png: exists' in outcome.stderr
    assert os.listdir(folder) == ['return.png']
    (folder / 'return.png').unlink()
    assert situation.report('--png', 'figures').status == 0
    assert situation.report('--png', 'figures').status == 0


@pytest.mark.parametrize('path, said', [
    ('no/such/out.html', 'No such file or directory'), ('trace', 'is a directory')])
def test_an_output_that_cannot_be_written_is_one_line(situation, path, said):
    outcome = situation.report('-o', path)
    assert outcome.status == 2
    assert outcome.stderr.decode() == f'heapledger: report: {path}: {said}\n'


def test_a_device_is_not_replaced(situation):
    """A rename would put a file in its place, as root even for /dev/null."""
    pipe = situation.folder / 'pipe'
    os.mkfifo(pipe)
    outcome = situation.report('-o', 'pipe', '--force')
    assert outcome.status == 2 and b'pipe: is not a regular file' in outcome.stderr, outcome
    assert pipe.is_fifo()


def test_a_home_that_cannot_be_written_is_nobodys_business(situation):
    outcome = situation.report('-o', 'out.html', env={'HOME': '/proc'})
    assert (outcome.status, outcome.stderr) == (0, b''), outcome


def test_a_full_disk_leaves_the_old_report(situation):
    """A limit on file size stands in for the disk: the page is larger."""
    situation.report()
    before = (situation.folder / 'report.html').read_bytes()
    situation.data['command'] = ['other']
    analyzer = situation._write()
    script = situation.folder.parent / 'limit.sh'
    script.write_text('trap "" XFSZ; ulimit -f 100; exec "$@"\n')
    outcome = run(['/bin/bash', script, sys.executable, REPORTS / 'report.py', situation.trace],
                  cwd=situation.folder, env={'HEAPLEDGER_BIN': str(analyzer)})
    assert outcome.status == 2
    assert outcome.stderr.decode() == 'heapledger: report: report.html: File too large\n'
    assert (situation.folder / 'report.html').read_bytes() == before
    assert not [name for name in os.listdir(situation.folder) if name.startswith('.heapledger')]


def test_an_unreadable_trace_passes_the_analyzers_line_through(situation):
    situation.analyzer_status = 3
    outcome = situation.report('-o', 'out.html')
    assert outcome.status == 3
    assert outcome.stderr.decode() == (
        f'heapledger: analyze: {situation.trace}: broken at 64\n')
    assert not (situation.folder / 'out.html').exists()


def test_a_missing_trace_and_wrong_options_are_one_line(situation):
    outcome = situation.script('report.py', 'nowhere')
    assert (outcome.status, outcome.stderr) == (
        3, b'heapledger: report: nowhere: does not exist: name a trace directory\n')
    outcome = situation.report('--doc', 'x')
    assert outcome.status == 2
    assert outcome.stderr.decode() == ('heapledger: report: unknown option --doc '
                                       '(see heapledger report --help)\n')


def test_missing_matplotlib_is_one_line_with_the_packages(situation):
    blocker = situation.folder / 'blocked' / 'matplotlib.py'
    blocker.parent.mkdir()
    blocker.write_text('raise ImportError("blocked", name="matplotlib")\n')
    outcome = situation.report('-o', 'out.html', env={'PYTHONPATH': str(blocker.parent)})
    assert outcome.status == 2
    assert outcome.stderr.decode() == (
        'heapledger: report: Python has no matplotlib: figures need the Debian packages '
        'python3-matplotlib and python3-numpy\n')


# A real recording, from the command as users type it.
PROGRAM = 'blocks = [bytes(n * 100) for n in range(3000)]; del blocks; x = bytes(3000000)'


def report_of(heapledger, build, folder, *victim):
    """Page and analysis of a victim that keeps, or gives back and takes again."""
    outcome = run([heapledger, 'record', '-q', '--kernel', 'off', '-o', folder / 'trace', '--',
                   build / 'tests' / 'victims' / 'victim_trimmed', *victim])
    assert outcome.status == 0, outcome
    outcome = run([heapledger, 'report', folder / 'trace', '-o', folder / 'out.html'])
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    outcome = run([heapledger, 'analyze', '--json', '-', folder / 'trace'])
    return Page((folder / 'out.html').read_text()), json.loads(outcome.stdout)


def test_the_map_marks_what_keeps_the_break_up(heapledger, build, tmp_path):
    page, data = report_of(heapledger, build, tmp_path, 'pages', 2000)
    caption = re.search(r'What keeps the break up at the end, by number from the top: (.*?)\.<',
                        page.source).group(1)
    marked = re.findall(r'\((\d+)\) ([^;]*)', html.unescape(caption).replace('\xa0', ' '))
    assert 2 <= len(marked) <= 4 and marked[0][0] == '1'
    state = data['moments'][-1]['break']
    levels = [state['top_bytes']] + [holder['returned_bytes'] for holder in state['holders']]
    for number, text in marked:
        gain = levels[int(number)] - max(levels[:int(number)])
        said = re.search(r'([\d.]+) (KiB|MiB) free below it', text)
        assert bool(said) == (gain > 0)
        if said:
            size = float(said.group(1)) * {'KiB': 1 << 10, 'MiB': 1 << 20}[said.group(2)]
            assert abs(size - gain) <= gain / 100 + 100
        holder = state['holders'][int(number) - 1]
        place = holder['function'] or os.path.basename(holder['module'] or '') or holder['caller']
        assert 'kept by' in text if holder['kept'] else place in text


def test_thrash_is_marked_over_the_system_calls(heapledger, build, tmp_path):
    page, data = report_of(heapledger, build, tmp_path, 'thrash', 60)
    cycles = sum(data['thrash'][kind]['cycles'] for kind in ('break', 'block'))
    assert cycles >= 59
    assert f'went back and was asked for again, {cycles} times' in page.source
    (tmp_path / 'calm').mkdir()
    page, data = report_of(heapledger, build, tmp_path / 'calm', 'use', 3000)
    assert not data['thrash']['break']['cycles'] and 'asked for again' not in page.source


def test_a_real_recording_makes_a_page_with_its_numbers(heapledger, tmp_path):
    trace = tmp_path / 'trace'
    outcome = run([heapledger, 'record', '-q', '-o', trace, '--', sys.executable, '-c', PROGRAM],
                  env={'PYTHONMALLOC': 'malloc'})
    assert outcome.status == 0, outcome
    output = tmp_path / 'analysis.json'
    assert run([heapledger, 'analyze', trace, '--json', output]).status == 0
    data = json.loads(output.read_text())
    outcome = run([heapledger, 'report', trace, '-o', 'real.html', '--png', 'figures'],
                  cwd=tmp_path)
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    page = Page((tmp_path / 'real.html').read_text())
    assert page.loads == [] and 'http:' not in page.source
    assert 'COMPLETE: every stream closed, no event lost' in page.text
    assert 'date not recorded' not in page.text
    for path in 'requested_bytes', 'mapped_bytes', 'rss_bytes':
        assert f'title="{data["peak"][path]:,} bytes"' in page.source
    assert f'title="{data["events"]["calls"]:,}"' in page.source
    assert f'<td class=n>{data["syscalls"]["total"]:,}</td>' in page.source
    for row in data['syscalls']['by_cause']:
        if row['reason'] != 'recorder':
            assert html.escape(row['reason_text']) in page.source
    for name in FIGURES:
        _, spread = variance(tmp_path / 'figures' / f'{name}.png')
        assert spread > 0.005, name
