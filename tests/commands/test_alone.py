# SPDX-License-Identifier: MIT
"""What LD_PRELOAD alone promises, with HEAPLEDGER_OUT and without `record`: the same as a recording
does. Nothing of a program is lost however it ends, nothing of it changes, and what goes wrong is said
in one line while it runs on."""

import ctypes
import os
import random
import resource
import signal
import struct
import subprocess
import time

import pytest

from conftest import CLEAN_ENVIRONMENT, analyze, existing, run, session


@pytest.fixture(scope='session')
def victim(victims):
    return existing(victims / 'victim_record_calls')


@pytest.fixture(scope='session')
def counted(build):
    return build / 'tests' / 'victims' / 'victim_counted'


@pytest.fixture
def trace(tmp_path):
    folder = tmp_path / 'trace'
    folder.mkdir()
    return folder


@pytest.fixture
def environment(build, trace):
    return {**CLEAN_ENVIRONMENT, 'HEAPLEDGER_OUT': str(trace),
            'LD_PRELOAD': str(build / 'interposer' / 'libheapledger.so')}


@pytest.fixture
def alone(environment):
    """Runs a program that records itself."""

    def call(*command, **more):
        more = {'env': environment, 'capture_output': True, 'timeout': 120, **more}
        return subprocess.run([str(word) for word in command], check=False, **more)

    return call


def raw_files(trace):
    return sorted(trace.glob('*.hlraw'))


def made(heapledger, trace, sound=True):
    """The victim's own calls that are in the trace, which has to be in order."""
    result = analyze(heapledger, trace)
    assert not any(result['anomalies'].values()), result['anomalies']
    if sound:
        assert not raw_files(trace)
        assert result['complete'] and result['events']['lost'] == 0, result['notes']
        described = session(trace)
        assert described['complete'] and described['alone']
        assert sum(s['events'] for s in described['streams']) == result['events']['total']
    return result['events']['by_call']['posix_memalign']['count']


def one_line(stderr, *words):
    text = stderr.decode()
    assert text.startswith('heapledger: ') and text.count('\n') == 1, text
    for word in words:
        assert str(word) in text, text


def refused(heapledger, trace, *words):
    outcome = run([heapledger, 'analyze', trace])
    assert outcome.status == 3 and outcome.stdout == b'', outcome
    one_line(outcome.stderr, *words)


# How a program begins and ends

@pytest.mark.parametrize('mode, more, count, streams, status', [
    ('count', [], 20000, 1, 0),
    ('threads', [8], 8 * 20000, 1, 0),
    ('short-threads', [3], 3 * 20000, 1, 0),
    ('fork', [], 3 * 20000, 2, 0),
    ('_Fork', [], 3 * 20000, 2, 0),
    ('exec', [], 2 * 20000, 2, 0),
    ('spawn', [], 2 * 20000, 2, 0),
    ('vfork', [], 2 * 20000, 1, 0),
    ('_exit', [], 20000, 1, 5),
    ('abort', [], 20000, 1, -signal.SIGABRT),
])
def test_every_call_is_kept(heapledger, alone, trace, victim, mode, more, count, streams, status):
    outcome = alone(victim, mode, 20000, *more)
    assert outcome.returncode == status, outcome
    assert outcome.stdout == outcome.stderr == b''
    assert made(heapledger, trace) == count
    assert len(session(trace)['streams']) == streams


def test_many_children_at_once(heapledger, alone, trace, victim):
    assert alone(victim, 'children', 20, 100).returncode == 0
    assert made(heapledger, trace) == 100 * 2 * 20
    streams = session(trace)['streams']
    assert len(streams) == 101
    assert all(s['parent_serial'] == streams[0]['serial'] for s in streams[1:])


def test_signal_handlers_that_allocate(heapledger, alone, trace, victim):
    outcome = alone(victim, 'interrupt', 300000)
    assert outcome.returncode == 0, outcome
    assert made(heapledger, trace) == int(outcome.stdout)


def test_a_threaded_family(heapledger, alone, trace, build):
    """Forks among threads that hand blocks over: the order of all threads is what is tested."""
    assert alone(build / 'tests' / 'victims' / 'victim_fork_family').returncode == 0
    result = analyze(heapledger, trace)
    assert result['complete'] and not any(result['anomalies'].values()), result['anomalies']
    assert len(result['processes']) > 100


def started(environment, counters, *command):
    process = subprocess.Popen([str(word) for word in command], env=environment)
    end = time.monotonic() + 20
    while not (counters.exists() and any(counters.read_bytes())):
        assert time.monotonic() < end and process.poll() is None
        time.sleep(0.01)
    return process


def completed(counters):
    return sum(struct.unpack('64q', counters.read_bytes()))


@pytest.mark.parametrize('threads', [1, 4])
def test_nothing_is_lost_by_sigkill(
        heapledger, environment, trace, counted, tmp_path, threads):
    counters = tmp_path / 'counters'
    process = started(environment, counters, counted, threads, counters)
    time.sleep(0.1 + random.random() / 10)
    process.kill()
    process.wait(60)
    # Each thread may have been between its call and its counter.
    done = completed(counters)
    assert done <= made(heapledger, trace) <= done + threads


def test_a_process_that_runs_is_read_as_it_is(heapledger, environment, trace, counted, tmp_path):
    """At any time, without an event whose cause is missing; and again, whole, when it has ended."""
    counters = tmp_path / 'counters'
    process = started(environment, counters, counted, 3, counters)
    try:
        counts = []
        for _ in range(2):
            least = completed(counters)
            outcome = run([heapledger, 'import', trace])
            assert outcome.status == 0 and b'1 still runs' in outcome.stderr, outcome
            counts.append(made(heapledger, trace, sound=False))
            assert counts[-1] >= least
            assert not session(trace)['complete'] and len(raw_files(trace)) == 1
        assert counts[0] < counts[1]
        status = open(f'/proc/{process.pid}/status').read()
        assert int(status.split('RssFile:')[1].split()[0]) < 64 << 10
    finally:
        process.kill()
        process.wait(60)
    done = completed(counters)
    assert done <= made(heapledger, trace) <= done + 3
    assert len(session(trace)['streams']) == 1


def test_several_runs_in_one_directory(heapledger, alone, trace, victim):
    for runs in 1, 2, 3:
        assert alone(victim, 'fork', 1000).returncode == 0
        if runs != 2:
            assert made(heapledger, trace) == runs * 3000
    serials = [s['serial'] for s in session(trace)['streams']]
    assert serials == [1, 2, 3, 4, 5, 6]


# The program does not notice

def test_output_and_descriptors_are_the_programs(alone):
    script = 'ls /proc/self/fd | wc -l; printf err >&2; exit 77'
    plain = subprocess.run(['/bin/sh', '-c', script], env=CLEAN_ENVIRONMENT, capture_output=True,
                           check=False)
    outcome = alone('/bin/sh', '-c', script)
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (
        plain.returncode, plain.stdout, plain.stderr)


def test_a_relative_directory(heapledger, alone, environment, trace, victim):
    """It is where the first program was started, wherever those that follow are."""
    outcome = alone('/bin/sh', '-c', f'cd /; exec {victim} count 1000', cwd=trace.parent,
                    env={**environment, 'HEAPLEDGER_OUT': trace.name})
    assert outcome.returncode == 0 and outcome.stderr == b''
    assert made(heapledger, trace) == 1000


def test_a_session_counts_more(heapledger, build, trace, victim, tmp_path):
    outcome = run([heapledger, 'record', '-o', tmp_path / 'other', '--kernel', 'off', '--',
                   '/usr/bin/env', f'HEAPLEDGER_OUT={trace}', victim, 'count', '100'])
    assert outcome.status == 0 and not list(trace.iterdir())


def test_system_calls_do_not_grow_with_events(heapledger, alone, trace, victim):
    """Our own are marked as such: some 26 in all, and then at most two for each MiB of log."""
    calls = []
    for count in 1000, 2000000:
        folder = trace / str(count)
        folder.mkdir()
        assert alone(victim, 'count', count, env={
            **CLEAN_ENVIRONMENT, 'HEAPLEDGER_OUT': str(folder),
            'LD_PRELOAD': str(heapledger.parents[1] / 'interposer' / 'libheapledger.so'),
        }).returncode == 0
        mib = sum(path.stat().st_size for path in raw_files(folder)) / (1 << 20)
        calls.append((analyze(heapledger, folder)['syscalls']['recorder'], mib))
    assert calls[0][0] <= 30
    assert calls[1][1] > 60
    assert calls[1][0] <= calls[0][0] + 40 + calls[1][1], calls


# What goes wrong is said once

def runs_on(outcome, trace, *words):
    assert outcome.returncode == 0, outcome
    one_line(outcome.stderr, 'recording into ', trace, 'the program runs on unrecorded', *words)


def test_missing_directory(alone, environment, trace, victim):
    missing = trace / 'missing'
    runs_on(alone(victim, 'fork', 1000, env={**environment, 'HEAPLEDGER_OUT': str(missing)}),
            missing, 'no such directory')
    assert not missing.exists()


def test_no_directory(alone, environment, trace, victim):
    file = trace / 'file'
    file.touch()
    runs_on(alone(victim, 'count', 1000, env={**environment, 'HEAPLEDGER_OUT': str(file)}),
            file, 'not a directory')


@pytest.fixture
def mounted(tmp_path):
    """A small file system; None without the right to mount one."""
    folder = tmp_path / 'small'
    folder.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b'none', str(folder).encode(), b'tmpfs', 0, b'size=3m') != 0:
        pytest.skip('needs root to mount a small file system')
    yield folder
    libc.umount2(str(folder).encode(), 2)


def test_read_only_directory(heapledger, alone, environment, mounted, victim):
    """Neither written nor, when there is something to import, imported."""
    runs = {**environment, 'HEAPLEDGER_OUT': str(mounted)}
    assert alone(victim, 'count', 100, env=runs).returncode == 0
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.mount(b'none', str(mounted).encode(), b'tmpfs', 0x21, b'') == 0
    runs_on(alone(victim, 'count', 1000, env=runs), mounted, 'read-only file system')
    refused(heapledger, mounted, mounted, 'Read-only file system')


def kept_in_part(heapledger, trace, count):
    """What was written before it ended is there."""
    result = analyze(heapledger, trace)
    assert not result['complete'] and not any(result['anomalies'].values())
    kept = result['events']['by_call']['posix_memalign']['count']
    assert 0 < kept < count
    return kept


def test_full_disk(heapledger, alone, environment, mounted, victim, tmp_path):
    outcome = alone(victim, 'threads', 1000000, 2,
                    env={**environment, 'HEAPLEDGER_OUT': str(mounted)})
    runs_on(outcome, mounted, 'no space left')
    # There is no room to import it there.
    moved = tmp_path / 'moved'
    subprocess.run(['cp', '-r', mounted, moved], check=True)
    kept = kept_in_part(heapledger, moved, 2000000)
    # Most of what the file had room for: about 80 bytes a turn. A thread that found the disk full
    # stopped the others where they were.
    assert kept > (1 << 18) / 80
    assert any('No space left' in text for text in session(moved)['notes'])


@pytest.mark.parametrize('limit, value, words', [
    (resource.RLIMIT_FSIZE, 4 << 20, 'limit on the size of files'),
    (resource.RLIMIT_AS, 48 << 20, 'not enough memory'),
])
def test_limits(heapledger, alone, trace, victim, limit, value, words):
    outcome = alone(victim, 'count', 3000000,
                    preexec_fn=lambda: resource.setrlimit(limit, (value, value)))
    assert outcome.returncode == 0, outcome
    if limit == resource.RLIMIT_AS and not outcome.stderr:
        assert made(heapledger, trace) == 3000000 # it was enough after all
        return
    runs_on(outcome, trace, words)
    kept_in_part(heapledger, trace, 3000000)


@pytest.mark.parametrize('bytes_most', [0, 100000])
def test_no_file_may_be_written(alone, trace, victim, bytes_most):
    runs_on(alone(victim, 'count', 1000, preexec_fn=lambda: resource.setrlimit(
        resource.RLIMIT_FSIZE, (bytes_most, bytes_most))), trace, 'limit on the size of files')
    assert not raw_files(trace)


def test_no_descriptor_is_left(heapledger, alone, trace):
    """The file cannot be opened any more, where it must grow."""
    script = ('import os, resource, sys\n'
              'resource.setrlimit(resource.RLIMIT_NOFILE, (3, 3))\n'
              'blocks = [bytearray(1000) for _ in range(300000)]\n'
              'print(len(blocks))\n')
    outcome = alone('/usr/bin/python3', '-S', '-c', script)
    assert outcome.stdout == b'300000\n'
    runs_on(outcome, trace, 'no file descriptor')
    result = analyze(heapledger, trace)
    assert not result['complete'] and result['events']['total'] > 1000


def test_a_closed_stderr_and_a_closed_pipe(alone, environment, trace, victim):
    """Nobody to tell it to; SIGPIPE must not end the program."""
    missing = {**environment, 'HEAPLEDGER_OUT': str(trace / 'missing')}
    assert alone('/bin/sh', '-c', f'exec {victim} count 1000 2>&-', env=missing).returncode == 0
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.run([victim, 'count', '1000'], env=missing, stderr=writing, check=False)
    os.close(writing)
    assert process.returncode == 0


# Files that are not as they should be

def one_raw(alone, trace, victim):
    assert alone(victim, 'count', 2000).returncode == 0
    file, = raw_files(trace)
    return file


def test_truncated(heapledger, alone, trace, victim):
    file = one_raw(alone, trace, victim)
    data = file.read_bytes()
    for length in 1, 500, 5000, len(data) // 2, len(data) - 1:
        file.write_bytes(data[:length])
        refused(heapledger, trace, file, 'offset ', 'ends here')
        assert file.exists() and not (trace / 'session.json').exists()


@pytest.mark.parametrize('offset, data, words', [
    (0, b'X', 'not a raw file'),
    (8, b'\x09', 'version 9'),
    (16, b'\x09', 'pages must be'),
    (448 + 4, b'\xff\xff\xff\x7f', 'not a process id'),
    (16384 + 4, b'\xff\xff\xff\xff', 'more records than a page holds'),
    (16384, b'\x07', 'unknown state'),
    (16384 + 8, b'\x63', 'a page of another process'),
])
def test_damaged(heapledger, alone, trace, victim, offset, data, words):
    file = one_raw(alone, trace, victim)
    with open(file, 'r+b') as raw:
        raw.seek(offset)
        raw.write(data)
    refused(heapledger, trace, file, 'offset ', words)
    assert file.exists() and not (trace / '.import').exists()


def test_a_record_that_was_overwritten(heapledger, alone, trace, victim):
    """As by a program's wild store: the rest of that page is missing, and said to be."""
    file = one_raw(alone, trace, victim)
    with open(file, 'r+b') as raw:
        raw.seek(16384 + 32 + 16 * 500)
        raw.write(b'\xff' * 64)
    result = analyze(heapledger, trace)
    assert not result['complete'] and result['events']['total'] > 1000
    assert any('wrote over its own records' in text for text in result['notes'])


def test_killed_before_it_began(heapledger, alone, trace, victim):
    one_raw(alone, trace, victim)
    (trace / '12345.77.hlraw').touch()
    assert made(heapledger, trace, sound=False) == 2000
    assert not raw_files(trace) and session(trace)['unrecorded_processes'] == 1


def test_an_import_that_was_interrupted(heapledger, alone, trace, victim, tmp_path):
    """Before session.json was written, or before the raw files were removed."""
    assert alone(victim, 'fork', 1000).returncode == 0
    saved = tmp_path / 'saved'
    saved.mkdir()
    for file in raw_files(trace):
        (saved / file.name).write_bytes(file.read_bytes())
    for has_session in False, True:
        assert made(heapledger, trace) == 3000
        if not has_session:
            (trace / 'session.json').unlink()
        (trace / '.import').mkdir()
        (trace / '.import' / '1.1.hlt').write_bytes(b'half')
        for file in saved.iterdir():
            (trace / file.name).write_bytes(file.read_bytes())
    assert made(heapledger, trace) == 3000
    assert len(session(trace)['streams']) == 2 and not (trace / '.import').exists()


def test_times_are_those_of_a_slow_program(heapledger, alone, trace):
    """After a pause a few calls may bear the time before it; then each one has its own."""
    script = ('import time\n'
              'blocks = []\n'
              'for i in range(40):\n'
              '    blocks.append(bytearray(54321))\n'
              '    time.sleep(0.02)\n')
    assert alone('/usr/bin/python3', '-S', '-c', script).returncode == 0
    outcome = run([heapledger, 'dump', '--kind', 'malloc,calloc,realloc', trace])
    lines = [line.split() for line in outcome.stdout.decode().splitlines() if 'size=54322' in line]
    seconds = [float(words[1]) for words in lines]
    assert len(seconds) == 40
    last = seconds[-20:]
    assert all(0.015 < b - a < 0.5 for a, b in zip(last, last[1:])), seconds


def test_names_and_serials(heapledger, alone, trace, victim):
    file = one_raw(alone, trace, victim)
    other = trace / 'other.hlraw'
    file.rename(other)
    refused(heapledger, trace, other, '<pid>.<serial>.hlraw')
    other.rename(trace / '1.1.hlraw')
    refused(heapledger, trace, '1.1.hlraw', 'it is of process ' + file.name.split('.')[0])


def test_not_beside_a_recording(heapledger, alone, trace, victim, tmp_path):
    other = tmp_path / 'recorded'
    assert run([heapledger, 'record', '-o', other, '--kernel', 'off', '--', '/bin/true']).status == 0
    file = one_raw(alone, trace, victim)
    file.rename(other / file.name)
    refused(heapledger, other, 'holds both')


# The other commands

def test_all_commands_read_it(heapledger, alone, trace, victim):
    for command in ['dump', '--kind', 'posix_memalign'], ['verify'], ['import']:
        assert alone(victim, 'count', 10).returncode == 0
        outcome = run([heapledger, *command, trace])
        assert outcome.status == (4 if command == ['verify'] else 0), outcome
        assert b'imported 1 process' in outcome.stderr
        assert not raw_files(trace)
    outcome = run([heapledger, 'verify', trace])
    assert b'LD_PRELOAD alone' in outcome.stdout and outcome.stderr == b''
    outcome = run([heapledger, 'import', trace])
    assert outcome.status == 0 and b'nothing to import' in outcome.stderr


@pytest.mark.parametrize('words, status', [
    ([], 2), (['a', 'b'], 2), (['--bad', 'a'], 2), (['/no/such/directory'], 3)])
def test_import_used_wrongly(heapledger, words, status):
    outcome = run([heapledger, 'import', *words])
    assert outcome.status == status
    one_line(outcome.stderr)
