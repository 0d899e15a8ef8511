# SPDX-License-Identifier: MIT
"""Recordings of a part of a run: what is in the part is complete and makes sense, the program does not
notice, and the outputs say that it is a part."""

import signal
import subprocess
import time

import pytest

from conftest import CLEAN_ENVIRONMENT, analyze, existing, run, session, sound


@pytest.fixture
def victim(victims):
    return existing(victims / 'victim_phases_pie')


def made(result):
    return result['events']['by_call'].get('posix_memalign', {}).get('count', 0)


class Gated:
    """The victim under record: makes 100, 200, 300 ... calls, and stops between the rounds."""

    def __init__(self, heapledger, trace, victim, rounds, *options):
        self.trace = trace
        self.process = subprocess.Popen(
            [heapledger, 'record', '-q', '-o', trace, *options, '--', victim, 'gated', '100',
             str(rounds)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env=CLEAN_ENVIRONMENT)

    def stopped(self):
        assert self.process.stdout.read(1) == b'.'

    def go_on(self):
        self.process.stdin.write(b'x')
        self.process.stdin.flush()

    def recording_ended(self, seconds=20):
        """session.json is written anew when the recording ends, though the program runs."""
        end = time.monotonic() + seconds
        while not session(self.trace)['complete']:
            assert time.monotonic() < end, 'the recording did not end'
            time.sleep(0.01)
        assert self.process.poll() is None

    def end(self):
        _, stderr = self.process.communicate(timeout=30)
        assert stderr == b''
        return self.process.returncode


# --duration

def test_a_recording_ends_and_the_program_runs_on(heapledger, trace, victim):
    gated = Gated(heapledger, trace, victim, 3, '--duration', '1s')
    gated.stopped()
    gated.go_on()
    gated.stopped()
    gated.recording_ended()
    while_it_runs = sound(heapledger, trace)
    assert made(while_it_runs) == 300 and while_it_runs['exit'] is None
    assert 0.9e9 < session(trace)['duration_ns'] < 3e9
    assert session(trace)['options']['duration_ns'] == 1_000_000_000
    gated.go_on()
    gated.stopped()
    gated.go_on()
    assert gated.end() == 0
    result = sound(heapledger, trace)
    assert made(result) == 300 and result['exit'] == {'status': 0}
    (process,) = result['processes']
    assert process['ran_on'] is True and process['exit'] is None
    assert session(trace)['streams'][0]['end'] == 'detached'
    shown = run([heapledger, 'analyze', trace])
    assert b'the recording ended first, as asked; the program ran on' in shown.stdout
    assert b'INCOMPLETE' not in shown.stdout and shown.stderr == b''


def test_a_program_that_ends_before(heapledger, trace, victim):
    outcome = run([heapledger, 'record', '-q', '-o', trace, '--duration', '1h', '--', victim, 'names',
                   '100', 'a'])
    assert outcome.status == 0
    result = sound(heapledger, trace)
    assert made(result) == 100 and result['processes'][0]['ran_on'] is False


@pytest.mark.parametrize('run_number', range(4))
def test_the_cut_goes_between_busy_threads(heapledger, trace, build, run_number):
    """Blocks go from thread to thread when the recording ends: no free without its allocation."""
    words = [build / 'tests' / 'victims' / 'victim_hand_over', '6', '1500000']
    started = time.monotonic()
    outcome = run([heapledger, 'record', '-q', '-o', trace, '--duration', f'{200 + 37 * run_number}ms',
                   '--', *words])
    took = time.monotonic() - started
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, b'', b''), outcome
    result = sound(heapledger, trace)
    assert result['events']['calls'] > 10000
    if took > 1:  # else it was over before
        assert result['processes'][0]['ran_on'] is True
        assert result['duration_ns'] < took * 0.9e9


def test_children_that_come_and_go(heapledger, trace, victim):
    """The last image is one that runs on; all are complete up to the end of the recording."""
    process = subprocess.Popen(
        [heapledger, 'record', '-q', '-o', trace, '--duration', '500ms', '--', victim, 'forks', '50'],
        env=CLEAN_ENVIRONMENT, stderr=subprocess.PIPE)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)  # is the program's
    assert process.wait(20) == -signal.SIGTERM and process.stderr.read() == b''
    result = sound(heapledger, trace)
    children = result['processes'][1:]
    assert len(children) >= 2
    ended = [c for c in children if not c['ran_on']]
    assert len(children) - len(ended) <= 1 and result['processes'][0]['ran_on']
    assert all(made(c) == 50 for c in ended)


def test_signals_and_status_are_the_programs_after_the_end(heapledger, trace, victim):
    gated = Gated(heapledger, trace, victim, 1, '--duration', '100ms')
    gated.stopped()
    gated.recording_ended()
    outcome = run([heapledger, 'mark', trace, 'late'])
    assert outcome.status == 1 and b'no process is being recorded' in outcome.stderr
    gated.process.send_signal(signal.SIGUSR1)
    gated.process.wait(20)
    assert gated.end() == -signal.SIGUSR1
    assert session(trace)['exit'] == {'signal': signal.SIGUSR1}


# --start-after

LARGE = 10 << 20


@pytest.fixture
def built(victims):
    return existing(victims / 'victim_bounded')


def late(heapledger, trace, victim, mode, count, *options):
    """Runs the victim, whose heap is built before the recording begins and taken down after."""
    process = subprocess.Popen(
        [heapledger, 'record', '-q', '-o', trace, '--start-after', '1200ms', *options, '--', victim,
         mode, str(count)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        env=CLEAN_ENVIRONMENT)
    assert process.stdout.read(1) == b'.'
    time.sleep(1.8)
    return process


def finish(process):
    stdout, stderr = process.communicate(b'x', timeout=30)
    assert (process.returncode, stdout, stderr) == (0, b'', b'')


def requested(count):
    """What victim_bounded has when its heap is built."""
    return count // 2 * 200 + (count + 1) // 2 * 100 + 2 * LARGE


def before_begin(heapledger, trace, stream=None):
    lines = run([heapledger, 'dump', *(['--stream', stream] if stream else []), trace]).stdout
    words = [line.split() for line in lines.decode().splitlines()]
    at = next(i for i, line in enumerate(words) if line[3] == 'begin')
    return [line[3] for line in words[:at]]


@pytest.mark.parametrize('mode', ['plain', 'thread'])
@pytest.mark.parametrize('count', [0, 1, 5000])
def test_the_heap_is_there_and_nothing_of_before_is_counted(heapledger, trace, built, mode, count):
    finish(late(heapledger, trace, built, mode, count))
    result = sound(heapledger, trace)
    others = 0 if mode == 'plain' else result['end']['requested_bytes']
    assert made(result) == 77
    assert result['events']['by_call']['free']['count'] >= count + 1 + 77
    assert result['events']['by_call']['free']['bytes'] >= requested(count) + 770
    assert result['peak']['requested_bytes'] - others in range(
        requested(count), requested(count) + 2000)
    if mode == 'plain':
        assert result['peak']['requested_bytes'] == requested(count)
        assert result['peak']['live_blocks'] == count + 1
        assert result['end']['requested_bytes'] == 0
    assert result['peak']['at_mapped']['block_bytes'] >= 2 * LARGE
    assert result['end']['block_bytes'] == 0
    assert result['processes'][0]['began_late'] is True
    assert session(trace)['options']['start_after_ns'] == 1_200_000_000
    shown = run([heapledger, 'analyze', trace]).stdout
    assert b'the recording began later than the program' in shown


def test_of_before_only_the_heap_is_in_the_file(heapledger, trace, built):
    finish(late(heapledger, trace, built, 'plain', 5000))
    kinds = before_begin(heapledger, trace)
    blocks = [kind for kind in kinds if kind in ('malloc', 'posix_memalign')]
    assert len(blocks) == 5001 and 'free' not in kinds and 'realloc_begin' not in kinds
    assert len(kinds) < 5001 + 20


def test_a_recorder_that_was_killed(heapledger, trace, built):
    """Then what came before is in the file, but in no count."""
    process = late(heapledger, trace, built, 'plain', 30000)
    process.kill()
    process.communicate(timeout=10)
    result = analyze(heapledger, trace)
    assert not any(result['anomalies'].values()) and result['complete'] is False
    assert result['events']['calls'] == 0 and result['processes'][0]['began_late']
    # The last page of a thread dies with the recorder.
    blocks = requested(30000) - 2 * LARGE
    assert blocks * 0.9 < result['end']['requested_bytes'] <= requested(30000)
    assert before_begin(heapledger, trace).count('posix_memalign') > 30000


def test_a_child_of_before_has_its_heap(heapledger, trace, built):
    """Also what its parent freed since, and not what it freed itself."""
    finish(late(heapledger, trace, built, 'fork', 1000))
    result = sound(heapledger, trace)
    parent, child = result['processes']
    assert child['peak']['requested_bytes'] == requested(1000) - 100
    assert parent['peak']['requested_bytes'] == requested(1000) - 500 * 200
    assert child['end']['requested_bytes'] == parent['end']['requested_bytes'] == 0
    assert made(child) == made(parent) == 77
    assert child['events']['by_call']['free']['bytes'] == requested(1000) - 100 + 770


@pytest.mark.parametrize('run_number', range(3))
def test_between_busy_threads(heapledger, trace, build, run_number):
    words = [build / 'tests' / 'victims' / 'victim_hand_over', '6', '1500000']
    outcome = run([heapledger, 'record', '-q', '-o', trace, '--start-after',
                   f'{150 + 31 * run_number}ms', '--duration', '200ms', '--', *words])
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, b'', b''), outcome
    result = sound(heapledger, trace)
    assert result['processes'][0]['began_late'] and result['events']['calls'] > 1000


def test_children_that_ended_before_leave_no_stream(heapledger, trace, victim):
    process = subprocess.Popen(
        [heapledger, 'record', '-q', '-o', trace, '--start-after', '400ms', '--duration', '300ms',
         '--', victim, 'forks', '50'], env=CLEAN_ENVIRONMENT, stderr=subprocess.PIPE)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == -signal.SIGTERM and process.stderr.read() == b''
    result = sound(heapledger, trace)
    children = result['processes'][1:]
    whole = [c for c in children if not c['began_late'] and not c['ran_on']]
    late, on = [c['began_late'] for c in children], [c['ran_on'] for c in children]
    assert late == sorted(late, reverse=True) and on == sorted(on) and len(whole) >= 1
    assert all(made(c) == 50 for c in whole)
    serials = [p['serial'] for p in result['processes']]
    assert serials[0] == 1 and serials[1] > 3  # those between ended before
    assert len(list(trace.glob('*.hlt'))) == len(serials)


def test_a_program_that_ends_before_it_begins(heapledger, trace, victim):
    outcome = run([heapledger, 'record', '-o', trace, '--start-after', '1h', '--', victim, 'names',
                   '100', 'a'])
    assert outcome.status == 0 and outcome.stderr.count(b'\n') == 1, outcome
    assert b'ended before --start-after was over' in outcome.stderr
    assert not list(trace.glob('*.hlt')) and session(trace)['streams'] == []


def test_a_phase_that_began_before(heapledger, trace, victim):
    gated = Gated(heapledger, trace, victim, 2, '--start-after', '600ms')
    gated.stopped()
    assert run([heapledger, 'mark', trace, 'of before']).status == 0
    time.sleep(1.2)
    gated.go_on()
    gated.stopped()
    gated.go_on()
    assert gated.end() == 0
    (phase,) = sound(heapledger, trace)['phases']
    assert phase['name'] == 'of before'
    assert phase['by_call']['posix_memalign']['count'] == 200


@pytest.mark.parametrize('option', ['--duration', '--start-after'])
@pytest.mark.parametrize('value', ['', '10', '0s', '-1s', '10 parsecs', '1e400s', '0x10s', 'ms', 'nan',
                                   '5ss'])
def test_times_that_are_none(heapledger, trace, option, value):
    outcome = run([heapledger, 'record', '-o', trace, option, value, '--', 'true'])
    assert outcome.status == 2 and outcome.stderr.count(b'\n') == 1, outcome
    assert f'{option}: a time such as'.encode() in outcome.stderr and not trace.exists()


@pytest.mark.parametrize('option', ['--duration', '--start-after'])
def test_the_kernel_side_is_of_whole_runs(heapledger, trace, option):
    outcome = run([heapledger, 'record', '-o', trace, option, '1s', '--kernel', 'require', '--', 'true'])
    assert outcome.status == 2 and b'--kernel require' in outcome.stderr and not trace.exists()
    assert run([heapledger, 'record', '-q', '-o', trace, option, '1ms', '--', 'sleep',
                '0.2']).status == 0
    assert session(trace)['kernel']['state'] == 'off'
