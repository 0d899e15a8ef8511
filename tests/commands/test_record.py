# SPDX-License-Identifier: MIT
"""What `heapledger record` promises beside losing nothing (test_nothing_lost.py): nothing of the
program changes, and wrong use is answered with one line."""

import fcntl
import os
import re
import shutil
import signal
import struct
import subprocess
import termios
import time
from pathlib import Path

import pytest

from conftest import (CLEAN_ENVIRONMENT, SOURCE, analyze, assert_sound, child_of, existing, run, session,
                      sound, terminal_of, until)


@pytest.fixture(scope='session')
def victim(victims):
    return existing(victims / 'victim_record_calls')


@pytest.fixture
def record(heapledger, trace):
    """Runs `heapledger record` on a command and returns how it ended."""

    def call(*command, options=(), **more):
        return run([heapledger, 'record', '-o', trace, '--kernel', 'off', *options, '--', *command],
                   **more)

    return call


def made(heapledger, trace):
    """The victim's own calls that are in the trace, which has to be in order."""
    return sound(heapledger, trace)['events']['by_call']['posix_memalign']['count']


def one_line(outcome, status, *words):
    assert outcome.status == status, outcome
    assert outcome.stdout == b''
    text = outcome.stderr.decode()
    assert text.startswith('heapledger: record: ') and text.count('\n') == 1, text
    for word in words:
        assert word in text, text


def spawn(heapledger, trace, *command, options=(), **more):
    words = [heapledger, 'record', '-o', trace, '--kernel', 'off', *options, '--', *command]
    return subprocess.Popen(
        [str(word) for word in words],
        env=CLEAN_ENVIRONMENT, start_new_session=True, **more)


# The program does not notice

def test_exit_status_and_output(record, trace):
    script = 'printf out; printf err >&2; head -c 200000 /dev/zero; exit 77'
    outcome = record('/bin/sh', '-c', script)
    assert outcome.status == 77
    assert outcome.stdout == b'out' + bytes(200000)
    assert outcome.stderr == b'err'
    assert session(trace)['exit'] == {'status': 77}


def test_standard_input_is_the_programs(record):
    data = bytes(range(256)) * 500
    assert record('/bin/cat', input=data).stdout == data


@pytest.mark.parametrize('number', [
    signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2])
def test_signals_are_forwarded(heapledger, trace, number):
    script = (f'trap "echo caught; exit 9" {number}; echo ready; '
              'while :; do sleep 0.05; done')
    process = spawn(heapledger, trace, '/bin/bash', '-c', script, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b'ready\n'
    process.send_signal(number)
    assert process.stdout.readline() == b'caught\n'
    assert process.wait(30) == 9


def test_dies_as_the_program_does(heapledger, trace):
    process = spawn(heapledger, trace, '/bin/sleep', '60')
    pid = child_of(process)
    until(lambda: Path(f'/proc/{pid}/comm').read_text() == 'sleep\n')
    os.kill(pid, signal.SIGTERM)
    assert process.wait(30) == -signal.SIGTERM
    assert session(trace)['exit'] == {'signal': signal.SIGTERM}


def test_signal_state_and_limits_are_the_programs(heapledger, trace, record):
    """What the program sees of itself is the same with and without us."""
    script = 'grep -E "^(SigBlk|SigIgn|SigCgt)" /proc/self/status; ulimit -n; ulimit -c; umask'
    plain = run(['/bin/bash', '-c', script])
    assert record('/bin/bash', '-c', script).stdout == plain.stdout


def test_waits_for_descendants_and_a_signal_detaches(heapledger, trace):
    process = spawn(heapledger, trace, '/bin/bash', '-c', 'sleep 300 & echo $!; exit 4',
                    stdout=subprocess.PIPE)
    left = int(process.stdout.readline())
    try:
        time.sleep(0.5)
        assert process.poll() is None
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 4
        os.kill(left, 0)
    finally:
        os.kill(left, signal.SIGKILL)
    described = session(trace)
    assert not described['complete'] and 'detached' in [s['end'] for s in described['streams']]


def test_no_shared_memory_is_left(heapledger, trace, victim):
    """The session's name starts with the recorder's pid, so other tests' sessions do not count."""
    process = spawn(heapledger, trace, victim, 'gated', 'fork', 1000, stdin=subprocess.PIPE)
    own = f'heapledger.{process.pid}.'
    until(lambda: any(name.startswith(own) for name in os.listdir('/dev/shm')))
    process.communicate(b'.', timeout=60)
    assert process.returncode == 0
    assert not [name for name in os.listdir('/dev/shm') if name.startswith(own)]


def test_the_recorders_own_memory_is_told(heapledger, record, trace, victim):
    """RssShmem of this program is nothing but our pages, so the two columns must agree."""
    assert record(victim, 'threads', 300000, 2).status == 0
    folder = trace.with_name('csv')
    assert run([heapledger, 'analyze', trace, '--csv', folder]).status == 0
    header, *rows = [line.split(',') for line in
                     (folder / 'samples.csv').read_text().splitlines()]
    shared, own = header.index('rss_shmem_bytes'), header.index('recorder_bytes')
    last = rows[-1]
    assert int(last[shared]) > 0
    assert abs(int(last[shared]) - int(last[own])) <= 256 << 10, last


# Programs that cannot be recorded, and wrong use

def compile_c(folder, name, *options):
    source = folder / f'{name}.c'
    source.write_text('int main(void) { return 0; }\n')
    subprocess.run(['cc', source, '-o', folder / name, *options], check=True,
                   env=CLEAN_ENVIRONMENT)
    return folder / name


@pytest.mark.parametrize('program', ['no-such-program-anywhere', '/no/such/path', './missing'])
def test_not_found(record, trace, program):
    one_line(record(program), 127, program, 'no such program', 'check')
    assert not trace.exists()


def test_static(record, trace, tmp_path):
    one_line(record(compile_c(tmp_path, 'fixed', '-static')), 126, 'statically linked', '-static')
    assert not trace.exists()


def test_static_pie(record, tmp_path):
    one_line(record(compile_c(tmp_path, 'fixed', '-static-pie')), 126, 'statically linked')


def test_address_sanitizer(heapledger, record, trace, tmp_path):
    """Its library ends the program where another one comes first, unless it is told not to."""
    program = compile_c(tmp_path, 'checked', '-fsanitize=address')
    if b'libasan.so' not in run(['ldd', program]).stdout:
        pytest.skip('this compiler links AddressSanitizer statically')
    one_line(record(program), 126, 'AddressSanitizer', 'verify_asan_link_order=0')
    assert not trace.exists()
    outcome = run([heapledger, 'record', '-o', trace, program],
                  env={'ASAN_OPTIONS': 'verify_asan_link_order=0:detect_leaks=0'})
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    assert_sound(analyze(heapledger, trace), 1)


def test_32_bit(record, trace, tmp_path):
    """The header of a 32-bit program is enough, no 32-bit compiler is needed."""
    program = tmp_path / 'old'
    head = bytearray(64)
    head[:7] = b'\x7fELF\x01\x01\x01'
    struct.pack_into('<HH', head, 16, 2, 3)
    program.write_bytes(head)
    program.chmod(0o755)
    one_line(record(program), 126, '32-bit')
    assert not trace.exists()


def test_other_machine(record, tmp_path):
    program = tmp_path / 'foreign'
    head = bytearray(64)
    head[:7] = b'\x7fELF\x02\x01\x01'
    struct.pack_into('<HH', head, 16, 2, 183)
    program.write_bytes(head)
    program.chmod(0o755)
    one_line(record(program), 126, 'another machine')


def test_set_user_id(record, trace, tmp_path):
    program = compile_c(tmp_path, 'elevated')
    if os.getuid() == 0:
        os.chown(program, 65534, 65534)
    else:
        program = next((path for path in map(shutil.which, ('su', 'passwd', 'mount')) if path), None)
        if program is None or os.stat(program).st_uid != 0:
            pytest.skip('no program set-user-ID to another user here')
    if os.getuid() == 0:
        os.chmod(program, 0o4755)
    one_line(record(program), 126, 'set-user-ID', 'copy')
    assert not trace.exists()


def test_set_user_id_to_ourselves_is_recorded(record, trace, tmp_path):
    program = compile_c(tmp_path, 'mine')
    os.chmod(program, 0o4755)
    assert record(program).status == 0
    assert len(session(trace)['streams']) == 1


def test_not_executable(record, tmp_path):
    program = tmp_path / 'plain'
    program.write_text('#!/bin/sh\n')
    program.chmod(0o644)
    one_line(record(program), 126, 'not executable')
    one_line(record(tmp_path), 126, 'directory')


def test_scripts(record, trace, tmp_path):
    script = tmp_path / 'script'
    script.write_text('#!/bin/sh\nexit 6\n')
    script.chmod(0o755)
    assert record(script).status == 6
    assert len(session(trace)['streams']) == 1


def test_script_of_a_static_interpreter(record, tmp_path):
    fixed = compile_c(tmp_path, 'fixed', '-static')
    script = tmp_path / 'script'
    script.write_text(f'#!{fixed}\n')
    script.chmod(0o755)
    one_line(record(script), 126, str(fixed), 'statically linked')


def test_script_without_a_first_line(record, tmp_path):
    script = tmp_path / 'script'
    script.write_text('exit 6\n')
    script.chmod(0o755)
    assert record(script).status == 6


@pytest.mark.parametrize('options', [
    ['--on-full', 'sometimes'], ['--kernel', 'maybe'], ['--buffer', 'much'], ['--buffer', '1K'],
    ['--interval', '0'], ['--interval', '5x'], ['--no-such-option'], ['-o']])
def test_wrong_options(heapledger, tmp_path, options):
    one_line(run([heapledger, 'record', *options], cwd=tmp_path), 2)
    assert not list(tmp_path.iterdir())


def test_no_program(heapledger):
    one_line(run([heapledger, 'record']), 2, 'no program')


def test_help_is_output(heapledger):
    outcome = run([heapledger, 'record', '--help'])
    assert outcome.status == 0 and outcome.stderr == b''
    for option in '--output', '--force', '--on-full', '--buffer', '--interval', '--kernel', '-q':
        assert option.encode() in outcome.stdout


# The directory

def test_default_directory(heapledger, victim, tmp_path):
    assert run([heapledger, 'record', '--kernel', 'off', victim, 'count', 10],
               cwd=tmp_path).status == 0
    folder, = tmp_path.iterdir()
    pid = session(folder)['streams'][0]['pid']
    assert folder.name == f'heapledger.victim_record_calls.{pid}'


def test_existing_directory_is_kept(record, trace, victim):
    trace.mkdir()
    (trace / 'mine').write_text('precious')
    one_line(record(victim, 'count', 10), 2, str(trace), '--force')
    one_line(record(victim, 'count', 10, options=['--force']), 2, 'mine')
    assert [path.name for path in trace.iterdir()] == ['mine']
    assert (trace / 'mine').read_text() == 'precious'


def test_force_replaces_a_trace(heapledger, record, trace, victim):
    assert record(victim, 'fork', 10).status == 0
    first = {path.name for path in trace.iterdir()}
    one_line(record(victim, 'count', 20), 2, '--force')
    assert {path.name for path in trace.iterdir()} == first
    assert record(victim, 'count', 20, options=['--force']).status == 0
    assert len(list(trace.glob('*.hlt'))) == 1
    assert made(heapledger, trace) == 20


def test_force_keeps_a_file_in_the_way(record, trace, victim):
    trace.write_text('a file')
    one_line(record(victim, 'count', 10, options=['--force']), 2)
    assert trace.read_text() == 'a file'


def test_directory_that_cannot_be_made(heapledger, victim):
    outcome = run([heapledger, 'record', '-o', '/no/such/place/trace', victim, 'count', 10])
    one_line(outcome, 2, '/no/such/place/trace')


# The live line, and the summary

ERASE = b'\r\x1b[K'
FIELDS = ['{} events', '{}/s', 'RSS {}', '{} process', '{} system call']
SLOW = 'echo out; sleep 0.4; echo half >&2; sleep 0.4; printf end'


def lines_of(got):
    """The live lines, each of which erases the one before, and what follows their end."""
    before, *lines = got.split(ERASE)
    assert before == b'', got
    return [line.decode() for line in lines[:-1]], lines[-1].decode()


@pytest.fixture
def at_terminal(heapledger, trace):
    def call(*command, options=(), **more):
        return terminal_of(heapledger, 'record', '-o', trace, '--kernel', 'off', *options, '--',
                           *command, **more)

    return call


def is_summary(text, trace):
    described = session(trace)
    events = sum(s['events'] for s in described['streams'])
    size = sum(path.stat().st_size for path in trace.glob('*.hl[ts]'))
    images = len(described['streams'])
    first, second, third = text.splitlines()
    seconds = float(re.fullmatch(
        f'heapledger: {events} events of {images} process images? in ([0-9.]+) s', first)[1])
    assert re.fullmatch(f'heapledger: [0-9.]+ [KM]?i?B in {re.escape(str(trace))}, '
                        f'{size / events:.2f} bytes an event', second), second
    assert third == f'heapledger: next: heapledger analyze {trace}'
    return seconds


def test_summary_only_on_a_terminal(heapledger, trace, victim):
    master, slave = os.openpty()
    process = spawn(heapledger, trace, victim, 'count', 10, stdout=subprocess.PIPE, stderr=slave)
    os.close(slave)
    assert process.wait(30) == 0
    text = os.read(master, 4096).decode()
    os.close(master)
    is_summary(text.replace('\r\n', '\n'), trace)
    assert process.stdout.read() == b''


def test_the_summary_tells_what_was_lost(heapledger, trace, victim, tmp_path):
    with open(tmp_path / 'log', 'wb') as log:
        status, got = terminal_of(
            heapledger, 'record', '-o', trace, '--kernel', 'off', '--on-full', 'drop', '--buffer',
            '1M', victim, 'threads', 100000, 8, stdout=log, stderr=log)
    assert status == 0
    lost = sum(s['lost'] for s in session(trace)['streams'])
    summary = got.rpartition(ERASE)[2].decode()
    said = summary.partition(' events, ')[2].partition(' lost of ')[0]
    assert said == (str(lost) if lost else '')
    assert (tmp_path / 'log').read_text() == (
        f'heapledger: record: {lost} events were lost\n' if lost else '')


@pytest.mark.parametrize('columns, fields', [(0, 5), (200, 5), (80, 5), (30, 2), (16, 1), (6, 0)])
def test_live_line(at_terminal, trace, victim, tmp_path, columns, fields):
    """It is there while the output goes to files, in whole fields that fit, and gone afterwards."""
    with open(tmp_path / 'log', 'w+b') as log:
        status, got = at_terminal(
            '/bin/sh', '-c', f'{victim} count 16000; {SLOW}; exit 7', columns=columns, stdout=log,
            stderr=log)
    assert status == 7
    lines, rest = lines_of(got)
    assert 2 <= len(lines) <= is_summary(rest, trace) * 4 + 1
    for line in lines:
        shown = line.split(', ') if line else []
        assert len(line) < (columns or 80), line
        if '0 processes' in shown:  # and nothing of them is known yet
            continue
        assert len(shown) >= fields, line
        for pattern, field in zip(FIELDS, shown):
            assert re.match(pattern.format('[0-9.]+( [kM])?( [KM]iB)?'), field), line
    if fields == 5:
        *_, last = lines
        assert re.fullmatch(r'\d\d\.\d k events, \d+/s, RSS [0-9.]+ MiB, 2 processes, '
                            r'\d+ system calls', last), last
        total = sum(s['events'] for s in session(trace)['streams'])
        assert 30 < float(last.split(' ', maxsplit=1)[0]) <= total / 1000 + 0.05
    assert (tmp_path / 'log').read_bytes() == b'out\nhalf\nend'


def test_live_counts_are_those_of_the_trace(heapledger, at_terminal, trace, victim, tmp_path):
    """All that the shell's first command did is in the last line; the shell's own last page is
    not."""
    status, got = at_terminal('/bin/sh', '-c', f'{victim} threads 20000 8; sleep 0.6',
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert status == 0
    last = lines_of(got)[0][-1]
    result = analyze(heapledger, trace)
    first = next(p for p in result['processes'] if 'victim' in p['command'][0])
    least, most = first['events']['syscalls'], result['events']['syscalls']
    assert least <= int(re.search(r'(\d+) system calls', last)[1]) <= most


@pytest.mark.parametrize('stdout, stderr', [
    ('terminal', 'terminal'), ('terminal', 'file'), ('file', 'terminal')])
def test_no_live_line_on_the_programs_terminal(at_terminal, trace, tmp_path, stdout, stderr):
    with open(tmp_path / 'log', 'wb') as log:
        ends = {'terminal': None, 'file': log}
        for options in [], ['-q']:
            status, got = at_terminal('/bin/sh', '-c', SLOW, stdout=ends[stdout],
                                      stderr=ends[stderr], options=['--force', *options])
            assert status == 0
            own = {('terminal', 'terminal'): b'out\nhalf\nend', ('terminal', 'file'): b'out\nend',
                   ('file', 'terminal'): b'half\n'}[stdout, stderr]
            assert got[:len(own)] == own
            if options or stderr == 'file':
                assert got == own
            else:
                is_summary(got[len(own):].decode(), trace)


@pytest.mark.parametrize('case', ['quiet', 'stdout pipe', 'stderr pipe', 'dumb', 'script'])
def test_no_live_line(heapledger, at_terminal, trace, case):
    """Nor a summary: the terminal stays as it was."""
    pipe = subprocess.PIPE if 'pipe' in case else subprocess.DEVNULL
    more = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}
    if 'pipe' in case:
        more[case.split()[0]] = pipe
    if case == 'script':
        status, got = terminal_of(
            '/bin/sh', '-c', f'{heapledger} record -o {trace} --kernel off sleep 0.6; :', **more)
    else:
        status, got = at_terminal('sleep', 0.6, options=['-q'] if case == 'quiet' else [],
                                  term='dumb' if case == 'dumb' else 'xterm', **more)
    assert (status, got) == (0, b'')
    assert session(trace)['complete']


def test_live_line_leaves_a_terminal_that_another_uses(at_terminal, trace):
    """A program that has its screen or its password prompt there, by a way of its own."""
    status, got = at_terminal(
        '/bin/sh', '-c', 'stty -echo; printf word: >/dev/tty; sleep 0.6; stty echo; sleep 0.4',
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    assert status == 0
    assert got[:5] == b'word:' and ERASE not in got
    is_summary(got[5:].decode(), trace)


def test_a_stopped_terminal_does_not_hold_up_the_recording(heapledger, trace):
    """As after ^S: the recorder writes, nobody takes it."""
    master, slave = os.openpty()
    termios.tcflow(slave, termios.TCOOFF)
    process = subprocess.Popen(
        [str(word) for word in [heapledger, 'record', '-o', trace, '--kernel', 'off', '/bin/sh',
                                '-c', 'sleep 0.8']],
        env={**CLEAN_ENVIRONMENT, 'TERM': 'xterm'}, stdin=slave, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    until(lambda: (trace / 'session.json').exists() and session(trace)['complete'])
    termios.tcflow(slave, termios.TCOON)
    assert process.wait(30) == 0
    os.close(slave)
    os.close(master)


def test_session_json_says_how(record, trace, victim):
    assert record(victim, 'count', 10, options=['--interval', '20', '--buffer', '4M']).status == 0
    described = session(trace)
    assert described['schema'] == 'heapledger-session/1'
    assert described['command'] == [str(victim), 'count', '10']
    assert described['options'] == {'on_full': 'wait', 'kernel': 'off', 'faults': False,
                                    'interval_ns': 20000000,
                                    'residency_ns': 100000000, 'buffer_bytes': 4 << 20, 'stacks': 0,
                                    'start_after_ns': None, 'duration_ns': None, 'ring_bytes': None}
    assert described['kernel']['state'] == 'off'
    stream, = described['streams']
    assert stream['command'] == described['command']
    assert (trace / stream['file']).exists()
    specified = (SOURCE / 'docs' / 'trace-format.md').read_text()
    for field in described.keys() | stream.keys():
        assert field in specified, field
