# SPDX-License-Identifier: MIT
"""Phases: named by the program through heapledger/mark.h, by `heapledger mark` and by a signal; what
the program counted in each is what the outputs say of it, whatever the name."""

import json
import os
import re
import signal
import socket
import subprocess
import time

import pytest

from conftest import CLEAN_ENVIRONMENT, analyze, existing, run


@pytest.fixture
def victim(victims):
    def find(way):
        path = victims / f'victim_phases_{way}'
        if way == 'cpp' and not path.exists():
            pytest.skip('there is no C++ compiler')
        return existing(path)
    return find


@pytest.fixture
def record(heapledger, trace):
    def call(*command, options=()):
        outcome = run([heapledger, 'record', '-q', '-o', trace, '--kernel', 'off', *options, '--',
                       *command])
        assert outcome.status == 0 and outcome.stderr == b'', outcome
        result = analyze(heapledger, trace)
        assert not any(result['anomalies'].values()) and result['events']['lost'] == 0, result
        assert result['complete']
        return result
    return call


def made(phases):
    """Name and number of the victim's own calls."""
    return [(p['name'], p['by_call'].get('posix_memalign', {}).get('count', 0)) for p in phases]


@pytest.mark.parametrize('way', ['pie', 'nopie'])
def test_each_phase_has_what_the_program_did_in_it(record, victim, way):
    result = record(victim(way), 'names', 1000, 'load', 'run', 'load')
    assert made(result['phases']) == [(None, 0), ('load', 1000), ('run', 2000), ('load', 3000)]
    for i, phase in enumerate(result['phases'][1:3], 1):
        assert phase['calls'] == 2000 * i and phase['by_call']['free']['count'] == 1000 * i
        assert phase['peak']['requested_bytes'] == 1000 == max(range(1, 1001))
    ends = [p['end_ns'] for p in result['phases']]
    assert [p['start_ns'] for p in result['phases'][1:]] == ends[:-1] == sorted(ends[:-1])


def test_phases_are_a_partition(record, victim):
    result = record(victim('pie'), 'names', 500, 'a', 'b')
    for name in 'events', 'calls':
        whole = result['events']['total' if name == 'events' else name]
        assert sum(p[name] for p in result['phases']) == whole
    for name in 'brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect', 'total':
        assert sum(p['syscalls'][name] for p in result['phases']) == result['syscalls'][name]
    for name in 'requested_bytes', 'mapped_bytes':
        assert max(p['peak'][name] for p in result['phases']) == result['peak'][name]
        assert result['phases'][-1]['end'][name] == result['end'][name]


def test_from_a_library_and_from_cpp(record, trace, victim, heapledger):
    assert made(record(victim('library'))['phases']) == [(None, 0), ('of the library', 10)]
    result = run([heapledger, 'record', '-q', '--force', '-o', trace, '--', victim('cpp')])
    assert result.status == 0
    assert made(analyze(heapledger, trace)['phases']) == [(None, 0), ('of C++', 10)]


@pytest.mark.parametrize('way', ['pie', 'nopie', 'static', 'library', 'cpp'])
def test_nothing_happens_when_not_recorded(victim, library, way):
    """Not even a system call, on libc's allocator or on ours."""
    words = [victim(way), *(['many', '100000'] if way in ('pie', 'nopie', 'static') else [])]
    for variables in {}, {'LD_PRELOAD': str(library)}:
        outcome = run(words, env=variables)
        assert (outcome.status, outcome.stdout, outcome.stderr) == (0, b'', b''), outcome


def test_no_system_call_without_recording(victim, library, tmp_path):
    if run(['strace', '-V']).status != 0 or run(['strace', '-o', '/dev/null', 'true']).status != 0:
        pytest.skip('strace cannot trace here')
    counts = []
    for marks in '1', '1000':
        log = tmp_path / marks
        outcome = run(['strace', '-f', '-o', log, '-E', f'LD_PRELOAD={library}', victim('pie'),
                       'many', marks])
        assert outcome.status == 0, outcome
        counts.append(len(log.read_text().splitlines()))
    assert counts[0] == counts[1]


def test_other_threads_are_in_the_phase_too(record, victim):
    """Exactly: whoever works after the mark does so in the phase."""
    result = record(victim('pie'), 'threads', 3000)
    assert made(result['phases']) == [(None, 0), ('round 0', 12000), ('round 1', 24000),
                                      ('round 2', 36000), ('rest', 0)]


def test_in_a_signal_handler(record, victim):
    result = record(victim('pie'), 'handler', 700)
    assert made(result['phases']) == [(None, 700), ('in a handler', 1400)]


def test_a_child_begins_in_its_parents_phase(record, victim):
    result = record(victim('pie'), 'fork', 100)
    parent, child = result['processes']
    assert made(parent['phases']) == [(None, 0), ('parent', 100), ('after', 400)]
    assert made(child['phases']) == [('parent', 200), ('child', 300)]


def test_memory_is_that_of_the_phase(record, victim):
    result = record(victim('pie'), 'large', 50_000_000, options=['--interval', '1'])
    before, large, small = result['phases']
    assert large['peak']['requested_bytes'] == 50_000_000
    assert large['peak']['mapped_bytes'] >= 50_000_000
    assert large['peak']['rss_bytes'] is None or large['peak']['rss_bytes'] <= result['peak'][
        'rss_bytes']
    assert small['peak']['requested_bytes'] == 1000 and small['peak']['mapped_bytes'] < 1_000_000
    assert before['peak']['requested_bytes'] == 0
    assert large['syscalls']['mmap'] >= 1 and large['syscalls']['munmap'] == 1


def test_more_phases_than_are_listed(record, victim):
    result = record(victim('pie'), 'many', 5000)
    assert len(result['phases']) == 1000
    assert result['phases_beyond'] == 5000 - 999  # the first row is before them


NAMES = ['', 'x' * 79, 'ü' * 60, 'a"b\\c', '\x1b[31mred\x07', os.fsdecode(b'\xff\xfe half'), '$\\frac{1}{0}$ <b>&',
         '日本語 🙂', '\x9b31m']


def test_strange_names(record, trace, victim, heapledger):
    result = record(victim('pie'), 'names', 1, *NAMES)
    names = [p['name'] for p in result['phases'][1:]]
    assert names[:5] == ['', 'x' * 79, 'ü' * 39, 'a"b\\c', '\x1b[31mred\x07']
    assert names[5] == 'ÿþ half' and names[6:] == NAMES[6:]
    for command in ['analyze'], ['dump']:
        shown = run([heapledger, *command, trace]).stdout
        assert set(re.sub(rb'[ -~\n]', b'', shown)) == set(), shown
    lines = run([heapledger, 'dump', '--kind', 'phase', '--no-time', trace]).stdout.splitlines()
    assert [line.split(b' ', 3)[3] for line in lines][:6] == [
        b'name=""', b'name="' + b'x' * 79 + b'"', b'name="' + b'\\xc3\\xbc' * 39 + b'"',
        b'name="a\\"b\\\\c"', b'name="\\x1b[31mred\\x07"', b'name="\\xff\\xfe half"']


def test_strange_names_in_a_report(record, trace, victim, heapledger, tmp_path):
    pytest.importorskip('matplotlib', reason='no matplotlib')
    record(victim('pie'), 'names', 1, *NAMES)
    page = tmp_path / 'report.html'
    outcome = run([heapledger, 'report', trace, '-o', page])
    assert outcome.status == 0 and outcome.stderr == b'', outcome
    _, heading, text = page.read_text().partition('<h2>Phases</h2>')
    assert heading and '<b>&' not in text and '\x1b' not in text and '\x9b' not in text
    assert '$\\frac{1}{0}$ &lt;b&gt;&amp;' in text and '日本語' in text


# From outside

class Gated:
    """The victim under record: makes 100 more calls in each round, and stops between them."""

    def __init__(self, heapledger, trace, victim, rounds, options=()):
        self.process = subprocess.Popen(
            [heapledger, 'record', '-q', '-o', trace, '--kernel', 'off', *options, '--', victim,
             'gated', '100', str(rounds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=CLEAN_ENVIRONMENT)

    def stopped(self):
        assert self.process.stdout.read(1) == b'.'
        time.sleep(0.05)  # so that its calls are before a mark by the recorder

    def go_on(self):
        time.sleep(0.05)
        self.process.stdin.write(b'x')
        self.process.stdin.flush()

    def end(self):
        self.process.stdin.close()
        self.process.stdout.close()
        return self.process.wait(30)


def test_marks_from_outside(heapledger, trace, victim):
    gated = Gated(heapledger, trace, victim('nopie'), 3)
    for name in 'second', 'third':
        gated.stopped()
        outcome = run([heapledger, 'mark', trace, name])
        assert (outcome.status, outcome.stdout, outcome.stderr) == (0, b'', b''), outcome
        gated.go_on()
    gated.stopped()
    gated.go_on()
    assert gated.end() == 0
    assert made(analyze(heapledger, trace)['phases']) == [
        (None, 100), ('second', 200), ('third', 300)]
    assert sorted(p.suffix for p in trace.iterdir()) == ['.hls', '.hlt', '.json']


def test_a_signal_that_marks(heapledger, trace, victim):
    gated = Gated(heapledger, trace, victim('pie'), 3, ['--mark-signal', 'SIGUSR2'])
    for _ in range(2):
        gated.stopped()
        gated.process.send_signal(signal.SIGUSR2)
        gated.go_on()
    gated.stopped()
    gated.go_on()
    assert gated.end() == 0
    assert made(analyze(heapledger, trace)['phases']) == [
        (None, 100), ('signal 1', 200), ('signal 2', 300)]


def test_without_the_option_the_signal_is_the_programs(heapledger, trace, victim):
    gated = Gated(heapledger, trace, victim('pie'), 2)
    gated.stopped()
    gated.process.send_signal(signal.SIGUSR2)
    gated.process.wait(20)
    assert gated.end() == -signal.SIGUSR2


def one_line(outcome, status, *words):
    assert outcome.status == status and outcome.stdout == b'', outcome
    text = outcome.stderr.decode()
    assert text.startswith('heapledger: mark: ') and text.count('\n') == 1, text
    for word in words:
        assert word in text, text


def test_a_mark_that_cannot_be_made(heapledger, trace, victim, record, tmp_path):
    one_line(run([heapledger, 'mark', tmp_path / 'none', 'x']), 3, 'none', 'No such file')
    one_line(run([heapledger, 'mark', tmp_path, 'x']), 1, 'no recording runs there')
    record(victim('pie'), 'names', 1, 'a')
    one_line(run([heapledger, 'mark', trace, 'x']), 1, str(trace), 'no recording runs there')
    for words in [], [trace], [trace, 'a', 'b'], ['--loud', trace, 'a']:
        one_line(run([heapledger, 'mark', *words]), 2)
    one_line(run([heapledger, 'mark', trace, '']), 2, '1 to 79 bytes')
    one_line(run([heapledger, 'mark', trace, 'x' * 80]), 2, '1 to 79 bytes', '80')


def test_after_the_recorder_was_killed(heapledger, trace, victim):
    """Its socket is still there; nobody is behind it, and --force replaces the trace."""
    gated = Gated(heapledger, trace, victim('pie'), 2)
    gated.stopped()
    gated.process.kill()
    gated.end()
    one_line(run([heapledger, 'mark', trace, 'x']), 1, 'no recording runs there')
    again = run([heapledger, 'record', '-q', '--force', '-o', trace, '--', victim('pie'), 'names',
                 '1', 'a'])
    assert again.status == 0 and again.stderr == b'', again


def test_a_long_path(heapledger, tmp_path, victim):
    folder = tmp_path / ('d' * 120) / ('e' * 120)
    folder.mkdir(parents=True)
    gated = Gated(heapledger, folder / 'trace', victim('pie'), 1)
    gated.stopped()
    assert run([heapledger, 'mark', folder / 'trace', 'x']).status == 0
    gated.go_on()
    assert gated.end() == 0


def test_what_else_is_sent_to_the_socket(heapledger, trace, victim):
    gated = Gated(heapledger, trace, victim('pie'), 1)
    gated.stopped()
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
        for junk in b'', b'a\0b', b'y' * 80, b'z' * 5000:
            sender.sendto(junk, f'/proc/self/fd/{os.open(trace, os.O_RDONLY)}/mark.socket')
        sender.sendto(b'good', f'/proc/self/fd/{os.open(trace, os.O_RDONLY)}/mark.socket')
    gated.go_on()
    assert gated.end() == 0
    assert [p['name'] for p in analyze(heapledger, trace)['phases']] == [None, 'good']


@pytest.mark.parametrize('value', ['TERM', '12', '', 'USR3'])
def test_a_signal_that_cannot_mark(heapledger, trace, value):
    outcome = run([heapledger, 'record', '-o', trace, '--mark-signal', value, '--', 'true'])
    assert outcome.status == 2 and outcome.stderr.count(b'\n') == 1, outcome
    assert b'--mark-signal: USR1 or USR2' in outcome.stderr and not trace.exists()


def test_json_is_valid_whatever_the_name(heapledger, record, trace, victim, tmp_path):
    record(victim('pie'), 'names', 1, *[os.fsdecode(bytes([c]) * 3) for c in range(1, 256)])
    names = [p['name'] for p in json.loads((tmp_path / 'trace.json').read_text())['phases']]
    assert len(names) == 256 and all(len(name) == 3 for name in names[1:])
