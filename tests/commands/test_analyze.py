# SPDX-License-Identifier: MIT
"""`heapledger analyze` on traces whose every number is known: the JSON, the CSV, the summary, forks,
and that outputs are replaced whole or not at all."""

import csv
import json
import re
import subprocess
import time

import pytest

from conftest import run, terminal_of
from trace_script import CHILD, SCRIPT, make_trace


@pytest.fixture
def trace(build, tmp_path):
    return make_trace(build, tmp_path / 'trace', SCRIPT)


def figures(heapledger, trace):
    outcome = run([heapledger, 'analyze', '--json', '-', trace])
    assert outcome.status == 0, outcome
    return json.loads(outcome.stdout)


def test_the_figures(heapledger, trace):
    data = figures(heapledger, trace)
    assert data['schema'] == 'heapledger-analysis/1'
    assert (data['mode'], data['policy'], data['complete']) == ('allocator', 'hybrid', True)
    assert data['command'] == ['program --option'] and data['exit'] == {'status': 0}
    assert data['duration_ns'] == 1200 and data['main_stream'] == '100.1'
    events = data['events']
    assert (events['total'], events['calls'], events['syscalls'], events['lost']) == (16, 8, 8, 0)
    assert events['by_call']['free'] == {'count': 3, 'failed': 0, 'bytes': 262144 + 5000 + 100}
    syscalls = data['syscalls']
    names = 'brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect', 'total', 'recorder'
    assert [syscalls[name] for name in names] == [2, 2, 1, 1, 1, 1, 8, 0]
    assert syscalls['time_ns'] == 2000 + 1500 + 900 + 900 + 700 + 700 + 1000 + 500
    assert sum(cause['count'] for cause in syscalls['by_cause']) == 8
    peak = data['peak']
    assert peak['requested_bytes'] == 100 + 200 + 5000 + 262144 and peak['live_blocks'] == 4
    assert peak['mapped_bytes'] == 0x21000 + 270336
    # VmHWM less the recorder's part is above the sampled sum less the same part.
    assert peak['rss_bytes'] == 3300000
    assert peak['requested_at_ns'] == 600
    end = data['end']
    assert end['requested_bytes'] == 200 and end['live_blocks'] == 1 and end['slack_bytes'] == 8
    assert end['break_bytes'] == 0x2000 and end['arena_bytes'] == 135168
    assert end['reserved_bytes'] == 134217728 - 135168 and end['rss_bytes'] == 3100000
    for part in end, peak['at_mapped']:
        assert part['mapped_bytes'] == sum(part[name] for name in (
            'requested_bytes', 'slack_bytes', 'free_bytes', 'metadata_bytes'))
    # The break shrink, the block's munmap, and the one page that had been used and was free.
    assert data['returned'] == {'break_bytes': 0x1f000 + 4096, 'arena_bytes': 0,
                                'block_bytes': 270336, 'offered_bytes': 0}
    assert data['returned_bytes'] == 0x20000 + 270336
    back = data['free_to_return']
    # The page at 0x..62000 became free at 1800 with its block and went back at 2000.
    assert back['returned_page_bytes'] == 270336 + 2 * 4096
    assert back['latency_ns']['p50'] == 10 and back['latency_ns']['max'] == 250
    assert not any(data['anomalies'].values())


# Six waits of a page: used again after 10 ns, gone back after 100; seen for 20, 1010, 1098 and 1099.
WAITS = '''
command program
stream 100 1 0 0 1000
syscall 7 1000 32 0x555555560000 0 0x555555581000 0x555555581000 0 1 2 1
call 7 1100 1 0x555555560010 100 112 0 0
call 7 1101 1 0x555555561010 100 112 0 0
call 7 1102 1 0x555555562010 100 112 0 0
call 7 1103 1 0x555555563010 100 112 0 0
call 7 1104 1 0x555555564010 100 112 0 0
call 7 1200 9 0x555555561010 0 0 0 0
call 7 1201 9 0x555555562010 0 0 0 0
call 7 1202 9 0x555555563010 0 0 0 0
call 7 1203 9 0x555555564010 0 0 0 0
call 7 1210 1 0x555555561010 100 112 0 0
call 7 1290 9 0x555555561010 0 0 0 0
syscall 7 1303 32 0x555555581000 0 0x555555564000 0x555555564000 0 13 11 1
call 7 2280 9 0x555555560010 0 0 0 0
call 7 2300 55 0 0 0 0 0
close 1 1 0 2400 0
'''


def test_the_incidence_of_return_has_reuse_for_a_rival_and_the_end_for_a_limit(heapledger, build, tmp_path):
    back = figures(heapledger, make_trace(build, tmp_path / 'waits', WAITS))['free_to_return']
    assert [back[f'{fate}_page_bytes'] // 4096 for fate in ('returned', 'reused', 'never')] == [1, 1, 4]
    steps = [(step['up_to_ns'], step['at_risk_bytes'] // 4096, step['returned'], step['reused'])
             for step in back['incidence']]
    again, went = pytest.approx(1 / 6), pytest.approx(5 / 6 * 1 / 4)
    assert steps == [(15, 5, 0, again), (31, 4, 0, again), (127, 3, went, again),
                     (1023, 2, went, again), (2047, 0, went, again)]


def test_nothing_freed_has_no_incidence(heapledger, build, tmp_path):
    script = WAITS.split('call 7 1200')[0] + 'close 1 1 0 2400 0\n'
    back = figures(heapledger, make_trace(build, tmp_path / 'none', script))['free_to_return']
    assert back['incidence'] == [] and back['never_page_bytes'] == 0


def test_a_child_starts_from_its_parents_heap(heapledger, build, tmp_path):
    data = figures(heapledger, make_trace(build, tmp_path / 'both', SCRIPT + CHILD))
    child = data['processes'][1]
    assert child['end']['requested_bytes'] == 30 and child['end']['live_blocks'] == 1
    assert child['exit'] == {'status': 4} and not any(child['anomalies'].values())
    assert child['end']['mapped_bytes'] == data['processes'][0]['end']['mapped_bytes']
    orphan = figures(heapledger, make_trace(build, tmp_path / 'orphan', CHILD))
    assert orphan['anomalies']['inherited'] == 1 and orphan['anomalies']['unknown_frees'] == 0


def test_several_processes_are_a_table(heapledger, build, tmp_path):
    trace = make_trace(build, tmp_path / 'both', SCRIPT + CHILD)
    lines = run([heapledger, 'analyze', trace]).stdout.decode().splitlines()
    at = lines.index('Processes')
    rows = [line.split() for line in lines[at + 2:at + 5]]
    assert max(map(len, lines)) <= 80
    assert [row[:4] for row in rows[:2]] == [
        ['program', '--opt', '100.1', '8'], ['program', '--opt', '101.2', '2']]
    assert rows[2] == ['=', 'all', '10', '8']


# Thread 7 forks at 2000; thread 9 works on until the kernel makes the copy, and after it.
BUSY_PARENT = '''
command program
stream 100 1 0 0 1000
syscall 7 1000 32 0x555555560000 0 0x555555581000 0x555555581000 2000 1 2 1
call 9 1100 1 0x555555560010 1000 1008 0 0
call 7 2000 49 0 1 0 0 0
call 9 2010 9 0x555555560010 0 0 0 0
call 9 2020 1 0x555555561000 200 208 0 0
call 9 2150 1 0x555555562000 300 320 0 0
{goes_on}
call 7 2300 55 0 0 0 0 0
close 1 1 0 2300 0
'''
BUSY_CHILD = '''
stream 101 2 1 1 2100
call 101 2120 9 {address} 0 0 0 0
call 101 2130 1 0x555555560100 30 48 0 0
close 1 1 4 2300 0
'''


@pytest.mark.parametrize('address, goes_on, unknown', [
    ('0x555555561000', '', 0),
    ('0x555555561000', 'call 7 2005 13 0 0 0 0 0', 1),  # the copy was made before
    ('0x555555562000', '', 1),                          # the child had begun before
    ('0x555555563000', '', 1),                          # nobody made that one
])
def test_a_child_has_what_threads_made_before_its_copy(heapledger, build, tmp_path, address,
                                                       goes_on, unknown):
    script = BUSY_PARENT.format(goes_on=goes_on) + BUSY_CHILD.format(address=address)
    parent, child = figures(heapledger, make_trace(build, tmp_path / 'trace', script))['processes']
    assert child['anomalies']['unknown_frees'] == unknown
    # Its own block lies inside one that was freed before the copy, or else overlaps it.
    inherited = 1000 if goes_on else 0
    assert child['end']['requested_bytes'] == inherited + 30
    assert child['end']['live_blocks'] == (2 if goes_on else 1)
    assert child['peak']['requested_bytes'] == (inherited + 30 if unknown else 200)
    assert parent['end']['requested_bytes'] == 500 and not any(parent['anomalies'].values())


def test_csv(heapledger, trace, tmp_path):
    folder = tmp_path / 'csv'
    assert run([heapledger, 'analyze', '--csv', folder, trace]).status == 0
    tables = {path.name: list(csv.DictReader(path.open())) for path in folder.iterdir()}
    assert sorted(tables) == ['fragmentation.csv', 'lifetimes.csv', 'resident.csv', 'return_latency.csv',
                              'samples.csv', 'sizes.csv', 'streams.csv', 'syscalls.csv', 'timeline.csv']
    stream, = tables['streams.csv']
    assert (stream['calls'], stream['syscalls']) == ('8', '8'), stream
    assert (stream['lost'], stream['complete']) == ('0', '1'), stream
    rows = tables['timeline.csv']
    assert rows[-1]['requested_bytes'] == '200' and rows[-1]['time_ns'] == '1200'
    assert max(int(row['peak_requested_bytes']) for row in rows) == 267444
    assert max(int(row['peak_mapped_bytes']) for row in rows) == 0x21000 + 270336
    assert sum(int(row['count']) for row in tables['syscalls.csv']) == 8
    assert sum(int(row['count']) for row in tables['sizes.csv']) == 5
    assert tables['samples.csv'][0]['rss_bytes'] == '3100000'


def test_the_summary_fits_a_terminal(heapledger, trace):
    outcome = run([heapledger, 'analyze', trace])
    assert outcome.status == 0
    lines = outcome.stdout.decode().splitlines()
    assert max(map(len, lines)) <= 80, max(lines, key=len)
    assert '\033' not in outcome.stdout.decode()
    assert 'mode allocator, policy hybrid, growth and return as in glibc' in outcome.stdout.decode()


MANY_THEN_LARGE = '''
command program
stream 100 1 0 0 1000
syscall 7 1000 32 0x555555560000 0 0x555555581000 0x555555581000 2000 1 2 1
call 7 1100 1 0x555555560010 100 112 0 0
call 7 1110 1 0x555555560080 100 112 0 0
call 7 1120 9 0x555555560010 0 0 0 0
call 7 1130 9 0x555555560080 0 0 0 0
call 7 1200 1 0x555555562000 5000 5008 0 0
close 1 1 0 2300 0
'''


def test_the_blocks_are_those_of_the_moment(heapledger, build, tmp_path):
    """The most blocks at any time is another moment than the most bytes; nothing was sampled."""
    trace = make_trace(build, tmp_path / 'trace', MANY_THEN_LARGE)
    text = run([heapledger, 'analyze', trace]).stdout.decode()
    assert 'Most requested at any time: 4.88 KiB, in 1 block.' in text
    assert ['resident', 'not', 'measured'] in [line.split() for line in text.splitlines()]
    assert figures(heapledger, trace)['peak']['live_blocks'] == 2


def test_loss_is_prominent(heapledger, build, tmp_path):
    trace = make_trace(build, tmp_path / 'lost', SCRIPT.replace('2300 0\n', '2300 5\n'))
    text = run([heapledger, 'analyze', trace]).stdout.decode()
    assert 'LOST: 5 events' in text
    data = figures(heapledger, trace)
    assert data['events']['lost'] == 5 and data['complete'] is False


def test_what_was_there_stays_when_it_fails(heapledger, trace, tmp_path):
    output = tmp_path / 'out.json'
    output.write_text('before')
    (trace / '100.1.hlt').write_bytes((trace / '100.1.hlt').read_bytes()[:-1])
    outcome = run([heapledger, 'analyze', '--json', output, trace])
    assert outcome.status == 3 and b'100.1.hlt: offset' in outcome.stderr, outcome
    assert output.read_text() == 'before'
    assert sorted(path.name for path in tmp_path.iterdir()) == ['out.json', 'trace']


def test_a_missing_stream_is_no_whole_trace(heapledger, build, tmp_path):
    """Half of a trace was copied: session.json says what there was."""
    trace = make_trace(build, tmp_path / 'both', SCRIPT + CHILD)
    streams = [{'file': '100.1.hlt', 'serial': 1}, {'file': '101.2.hlt', 'serial': 2}]
    session = {'schema': 'heapledger-session/1', 'complete': True, 'streams': streams}
    (trace / 'session.json').write_text(json.dumps(session))
    assert figures(heapledger, trace)['complete'] is True
    (trace / '101.2.hlt').unlink()
    data = figures(heapledger, trace)
    assert data['complete'] is False
    assert data['notes'] == ['1 of the streams that session.json names is not there: 101.2.hlt']
    text = run([heapledger, 'analyze', trace]).stdout.decode()
    assert 'INCOMPLETE: 1 stream is not there' in text


def test_a_stream_that_nothing_was_written_of_costs_only_itself(heapledger, build, tmp_path):
    """`record` was killed just when it had created the file."""
    trace = make_trace(build, tmp_path / 'trace', SCRIPT)
    before = figures(heapledger, trace)
    (trace / '101.2.hlt').write_bytes(b'')
    data = figures(heapledger, trace)
    assert before['complete'] is True and data['complete'] is False
    assert data['notes'] == [*before['notes'], '1 of the streams is empty: nothing was written of it']
    assert data['events'] == before['events']


def test_an_output_that_cannot_be_written_is_2(heapledger, trace, tmp_path):
    for option, path in ('--json', tmp_path / 'no' / 'x'), ('--json', '/dev/full'), (
            '--csv', trace / '100.1.hlt'):
        outcome = run([heapledger, 'analyze', option, path, trace])
        assert outcome.status == 2, outcome
        last = outcome.stderr.splitlines()[-1]
        assert last.startswith(b'heapledger: analyze: cannot write '), outcome


def shell(command, *words):
    return run(['/bin/sh', '-c', command, 'sh', *words])


def test_a_result_that_is_not_read_is_no_success(heapledger, trace):
    for words in ['analyze', trace], ['dump', trace], ['--help'], ['help', 'dump'], ['--version']:
        for where in '>/dev/full', '>&-':
            outcome = shell(f'exec "$@" {where}', heapledger, *words)
            assert outcome.status == 2, (words, where, outcome)
            assert b'cannot write' in outcome.stderr.splitlines()[-1], (words, where, outcome)


def test_messages_do_not_go_into_outputs(heapledger, trace, tmp_path):
    """With standard error closed its number is free for the next file that is opened."""
    (trace / 'session.json').write_text('{')
    output = tmp_path / 'out.json'
    assert shell('exec "$@" 2>&-', heapledger, 'analyze', '--json', output, trace).status == 0
    assert json.loads(output.read_text())['notes']


def test_top_is_the_rows_of_a_table(heapledger, trace):
    usual = run([heapledger, 'analyze', trace]).stdout.decode()
    total = len(figures(heapledger, trace)['syscalls']['by_cause'])
    assert total == 8 and '... and 2 more (--json, syscalls.by_cause)' in usual
    for top in 1, 7, 8:
        shown = run([heapledger, 'analyze', '--top', top, trace]).stdout.decode()
        left = f'... and {total - top} more (--json, syscalls.by_cause)'
        assert (left in shown) == (top < total) and (top < total or '... and' not in shown)
        assert len(shown.splitlines()) == len(usual.splitlines()) + top - 6 - (top == total)


def test_wrong_use_is_2(heapledger, trace):
    for arguments in [], [trace, trace], ['--jsn', 'x', trace], ['-xj', trace], ['--json']:
        outcome = run([heapledger, 'analyze', *arguments])
        assert outcome.status == 2, arguments
        assert outcome.stderr.startswith(b'heapledger: analyze: '), outcome
    for top in '0', '-1', '', '3x', '1e3', '1000001', '99999999999999999999':
        outcome = run([heapledger, 'analyze', '--top', top, trace])
        assert outcome.status == 2 and not outcome.stdout, top
        assert outcome.stderr == (f'heapledger: analyze: --top {top}: a number of rows from 1 to '
                                  '1000000 is needed\n').encode()
    assert b'unknown option -x ' in run([heapledger, 'analyze', trace, '-xj']).stderr


def test_help_and_version(heapledger):
    assert run([heapledger, '--version']).stdout.startswith(b'heapledger ')
    assert run([heapledger, 'help', 'dump']).stdout.startswith(b'usage: heapledger dump')
    outcome = run([heapledger, 'frobnicate'])
    assert outcome.status == 2 and b'no such command' in outcome.stderr


ERASE = b'\r\x1b[K'


def test_progress_on_a_terminal(heapledger, build, tmp_path):
    """Of a trace that is so large that reading it takes two seconds here."""
    def generated(records):
        folder = tmp_path / str(records)
        folder.mkdir()
        assert run([build / 'tests' / 'unit' / 'tracegen', '--random', str(records), '1000', '1',
                    folder]).status == 0
        started = time.monotonic()
        assert run([heapledger, 'analyze', folder]).status == 0
        return folder, time.monotonic() - started

    _, took = generated(200_000)
    trace, _ = generated(int(200_000 * max(1, 2 / took)))
    status, got = terminal_of(heapledger, 'analyze', trace, stdout=subprocess.DEVNULL)
    assert status == 0
    note, *lines = got.split(ERASE)
    assert note.startswith(b'heapledger: analyze: note: session.json')
    assert len(lines) >= 3 and lines[-1] == b'', got
    shown = [re.fullmatch(rb'(\d+) % of ([\d,]+) records read, about (\d+) s left', line)
             for line in lines[:-1]]
    assert all(shown), got
    percents = [int(match[1]) for match in shown]
    assert percents == sorted(percents) and 0 < percents[0] < 100 and percents[-1] <= 100
    records = json.loads(run([heapledger, 'analyze', '--json', '-', trace]).stdout)['events']['total']
    assert 0 <= int(shown[0][2].replace(b',', b'')) - records <= 2  # marks are records, too
    status, got = terminal_of(heapledger, 'analyze', trace, stdout=subprocess.DEVNULL, term='dumb')
    assert status == 0 and ERASE not in got
