# SPDX-License-Identifier: MIT
"""Nothing of a program is lost, however it ends: what it counted of itself, call by call, kind by
kind, process by process, is what its trace has. And what cannot be kept is counted and said."""

import json
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from conftest import analyze, run
from witness_fixture import Witness, assert_same_calls

TIMEOUT = 120


@pytest.fixture(scope='session')
def victims(build):
    return build / 'tests' / 'victims'


@pytest.fixture(scope='session')
def victim(victims):
    path = victims / 'victim_record_calls'
    assert path.exists(), f'{path} was not built'
    return path


@pytest.fixture
def trace(tmp_path):
    return tmp_path / 'trace'


@pytest.fixture
def witness(victims, tmp_path):
    return Witness(victims / 'libwitness.so', tmp_path)


@pytest.fixture
def start(heapledger, trace, witness):
    def call(*argv, **more):
        return witness.start(heapledger, trace, *argv, **more)
    return call


@pytest.fixture
def record(start):
    """Runs `record` to its end; its status and what it said."""
    def call(*argv, **more):
        process = start(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, stdout, stderr.decode()
    return call


def session(trace):
    return json.loads((trace / 'session.json').read_text())


def assert_whole(heapledger, trace):
    analysis = analyze(heapledger, trace)
    assert not any(analysis['anomalies'].values()), analysis['anomalies']
    assert analysis['complete'] and analysis['events']['lost'] == 0, analysis['events']
    described = session(trace)
    assert described['complete'] and described['unrecorded_processes'] == 0, described['notes']
    assert sum(s['events'] for s in described['streams']) == analysis['events']['total']
    return analysis


def until(condition, seconds=TIMEOUT):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, 'it did not happen'
        time.sleep(0.002)


def child_of(process):
    children = f'/proc/{process.pid}/task/{process.pid}/children'
    until(lambda: open(children).read().split())
    return int(open(children).read().split()[0])


# How a program begins and ends: streams are its images, without the shell that starts it

@pytest.mark.parametrize('words, calls, streams, status', [
    ('count 20000', 1, 1, 0),
    ('threads 5000 8', 8, 1, 0),
    ('short-threads 10000 3', 3, 1, 0),
    ('short-threads 10 2000', 2000, 1, 0),
    ('ending 20 300', 300 + 3 * 100, 1, 0),
    ('fork 10000', 3, 2, 0),
    ('_Fork 10000', 3, 2, 0),
    ('exec 10000', 2, 2, 0),
    ('spawn 10000', 2, 2, 0),
    ('vfork 10000', 2, 1, 0),
    ('system 10000', 2, 3, 0),
    ('daemon 5000', 3, 3, 0),
    ('_exit 10000', 1, 1, 5),
    ('abort 10000', 1, 1, -signal.SIGABRT),
    ('children 20 500', 2 * 500, 501, 0),
])
def test_every_call_is_kept(heapledger, record, trace, witness, victim, words, calls, streams,
                            status):
    assert record(victim, *words.split()) == (status, b'', '')
    analysis = assert_whole(heapledger, trace)
    assert_same_calls(witness, analysis)
    count = int(words.split()[1])
    assert analysis['events']['by_call']['posix_memalign']['count'] == calls * count
    assert len(session(trace)['streams']) == 1 + streams


@pytest.mark.parametrize('words, streams, status', [
    ('count 1000', 1, 0), ('fork 1000', 2, 0), ('_Fork 1000', 2, 0), ('exec 1000', 2, 0),
    ('spawn 1000', 2, 0), ('vfork 1000', 1, 0), ('system 1000', 3, 0), ('daemon 1000', 3, 0),
    ('_exit 1000', 1, 5), ('abort 1000', 1, -signal.SIGABRT), ('children 20 50', 51, 0),
])
def test_every_call_is_kept_while_threads_log(heapledger, record, trace, witness, victim, words,
                                              streams, status):
    """The end of the process, or an exec, interrupts at most the calls of the three others."""
    assert record(victim, 'busy', *words.split()) == (status, b'', '')
    assert_same_calls(witness, assert_whole(heapledger, trace), under_way=3)
    assert len(session(trace)['streams']) == 1 + streams


@pytest.mark.parametrize('words, streams', [
    ('fork_threads 80', 81), ('fork_family 20', 41), ('thousand_threads', 1), ('many_threads', 1),
    ('hand_over', 1), ('late_calls', 1), ('interface', 1)])
def test_every_call_of_a_hostile_program_is_kept(heapledger, record, trace, witness, victims, words,
                                                 streams):
    status, _, stderr = record(*f'{victims}/victim_{words}'.split())
    assert status == 0, stderr
    assert_same_calls(witness, assert_whole(heapledger, trace))
    assert len(session(trace)['streams']) == 1 + streams


def test_signal_handlers_that_allocate(heapledger, record, trace, witness, victim):
    status, stdout, _ = record(victim, 'interrupt', 100000)
    assert status == 0
    analysis = assert_whole(heapledger, trace)
    assert_same_calls(witness, analysis)
    assert analysis['events']['by_call']['posix_memalign']['count'] == int(stdout)


def test_bash_forks_and_runs(heapledger, record, trace, witness):
    """Each turn is a fork, and a fork with an exec over it."""
    script = 'for i in {1..150}; do (:); /bin/true; done; exit 3'
    assert record('/bin/bash', '-c', script) == (3, b'', '')
    assert_same_calls(witness, assert_whole(heapledger, trace))
    ends = [s['end'] for s in session(trace)['streams']]
    assert (len(ends), ends.count('exec')) == (2 + 150 + 2 * 150, 1 + 150)


def test_another_pid_namespace(heapledger, record, trace, victim):
    """Its pids are somebody else's on the outside, or nobody's."""
    if subprocess.run(['unshare', '-pf', 'true'], capture_output=True).returncode != 0:
        pytest.skip('no right to make a pid namespace here')
    assert record('unshare', '-pf', victim, 'fork', 5000) == (0, b'', '')
    analysis = assert_whole(heapledger, trace)
    assert analysis['events']['by_call']['posix_memalign']['count'] == 15000


# kill -9

def instants(count, most):
    """Numbers of calls, as many small ones as large ones: a program's start is an instant, too."""
    numbers = random.Random(11)
    return [int(most ** numbers.random()) for _ in range(count)]


def killed(process, pid, witness, calls):
    until(lambda: witness.calls() >= calls)
    os.kill(pid, signal.SIGKILL)
    assert process.wait(TIMEOUT) == -signal.SIGKILL


@pytest.mark.parametrize('threads, number', [
    (threads, number) for threads in (1, 4) for number in range(4)])
def test_nothing_is_lost_by_sigkill(heapledger, victims, victim, tmp_path, threads, number):
    for i, calls in enumerate(instants(20, 200000)[number::4]):
        folder = tmp_path / str(i)
        folder.mkdir()
        witness = Witness(victims / 'libwitness.so', folder)
        process = witness.start(heapledger, folder / 'trace', victim, 'forever', threads)
        killed(process, child_of(process), witness, calls)
        analysis = assert_whole(heapledger, folder / 'trace')
        assert_same_calls(witness, analysis, under_way=threads)
        described = session(folder / 'trace')
        assert described['exit'] == {'signal': signal.SIGKILL}
        assert [s['end'] for s in described['streams']] == ['exec', 'signal']
