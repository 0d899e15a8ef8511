# SPDX-License-Identifier: MIT
"""record --ring: the newest records are there, all of them, with the heap that was there before them,
the rest is counted, and the directory never grows."""

import json
import os
import shutil
import signal
import struct
import subprocess
import time
from collections import defaultdict

import pytest

from conftest import CLEAN_ENVIRONMENT, analyze, existing, run, session, sound

RING = 1 << 20
SLACK = 256 << 10  # of each thread a block is cut, of up to this size, and one more is left out
GROWS = 10 * RING  # three times as much and its copy, and what was still to be taken


@pytest.fixture(scope='module')
def victim(victims):
    return existing(victims / 'victim_ring')


@pytest.fixture(scope='module')
def cut_at(build):
    return build / 'tests' / 'unit' / 'cut_at'


def record(heapledger, trace, command, *options):
    return run([heapledger, 'record', '-q', '-o', trace, *options, '--', *command])


def all_events(trace):
    return session(trace)['overwritten_events'] + sum(s['events'] for s in session(trace)['streams'])


def size(trace):
    return sum(path.stat().st_size for path in trace.glob('*.hlt'))


def lines_of(heapledger, trace, stream=None):
    shown = run([heapledger, 'dump', *(['--stream', stream] if stream else []), trace])
    assert shown.status == 0, shown
    return [line.split() for line in shown.stdout.decode().splitlines()]


def parts(lines):
    """What made the heap, and what came after it."""
    at = next(i for i, line in enumerate(lines) if line[3] == 'begin')
    return lines[:at], lines[at + 1:]


# The program

@pytest.mark.parametrize('threads', [1, 2, 4])
def test_the_newest_events_and_the_heap_before_them(heapledger, trace, tmp_path, victim, threads):
    """A thread that is idle all the time had made half of the heap: its last page comes long after
    the calls that were cut off with it."""
    rounds, blocks = 3000000 // threads, 5000
    words = [victim, 'churn', threads, rounds, blocks]
    assert record(heapledger, trace, words, '--ring', '1M').status == 0
    result = sound(heapledger, trace)
    described = session(trace)
    assert described['options']['ring_bytes'] == RING
    assert described['overwritten_events'] > 1000000
    calls = 2 * (blocks + threads * rounds)
    assert calls <= all_events(trace) <= calls + 2000 * threads  # system calls, threads' own
    assert RING - (threads + 1) * SLACK <= size(trace) <= RING + SLACK + 8 * blocks
    assert result['processes'][0]['began_late'] is True
    assert result['events']['by_call']['free']['count'] >= blocks
    assert result['end']['requested_bytes'] < 5000  # the main thread's table of threads
    assert blocks * 100 <= result['peak']['requested_bytes'] < blocks * 100 + threads * 64 * 2001 + 5000
    made = [line for line in parts(lines_of(heapledger, trace))[0] if line[3] == 'posix_memalign']
    assert sum('size=100' in line for line in made) >= blocks
    assert len(made) <= blocks + threads * 64


def sizes_of(lines):
    """What the main thread asked for and gave back, in order."""
    return [(line[3], [word for word in line if word.startswith('size=')]) for line in lines
            if line[3] in ('posix_memalign', 'free') and line[2] == line[0].split('.')[0]]


def test_the_same_count_as_without(heapledger, tmp_path, victim):
    """At fixed addresses: an arena that happens to be mapped where it should be takes one munmap less."""
    for name, options in ('whole', []), ('ring', ['--ring', '1M']):
        outcome = run(['setarch', '-R', heapledger, 'record', '-q', '-o', tmp_path / name, *options, '--',
                       victim, 'churn', 1, 700000, 100])
        assert outcome.status == 0, outcome
    whole, ring = sound(heapledger, tmp_path / 'whole'), sound(heapledger, tmp_path / 'ring')
    assert all_events(tmp_path / 'ring') == whole['events']['total']
    assert session(tmp_path / 'whole')['overwritten_events'] == 0
    for name in 'requested_bytes', 'block_bytes', 'live_blocks', 'mapped_bytes':
        assert ring['end'][name] == whole['end'][name], name
    # The newest events are those with which the whole recording ends.
    newest = sizes_of(parts(lines_of(heapledger, tmp_path / 'ring'))[1])
    expected = sizes_of(lines_of(heapledger, tmp_path / 'whole'))
    assert len(newest) > 100000 and expected[-len(newest):] == newest


def test_a_program_with_less_than_that(heapledger, trace, victim):
    assert record(heapledger, trace, [victim, 'churn', 1, 1000, 100], '--ring', '1G').status == 0
    result = sound(heapledger, trace)
    assert session(trace)['overwritten_events'] == 0
    assert result['processes'][0]['began_late'] is False


def test_a_heap_that_is_larger_than_the_ring(heapledger, trace, victim):
    assert record(heapledger, trace, [victim, 'churn', 2, 1000000, 200000], '--ring', '1M').status == 0
    result = sound(heapledger, trace)
    assert result['peak']['live_blocks'] > 100000 and session(trace)['overwritten_events'] > 500000
    assert result['end']['requested_bytes'] < 5000


def test_a_parent_and_its_child(heapledger, trace, victim):
    """Both are cut long after the fork; the child has the heap of then."""
    assert record(heapledger, trace, [victim, 'fork', 1000000, 4000], '--ring', '1M').status == 0
    parent, child = sound(heapledger, trace)['processes']
    assert session(trace)['overwritten_events'] > 500000
    assert 2000 * 100 <= child['peak']['requested_bytes'] < 2000 * 100 + 64 * 2001
    assert 2000 * 100 <= parent['peak']['requested_bytes'] < 4000 * 100 + 64 * 2001
    assert child['end']['requested_bytes'] == parent['end']['requested_bytes'] == 0
    assert size(trace) <= 2 * RING


def test_a_thread_that_forks_and_is_idle(heapledger, trace, victim):
    """Its fork mark lies in a page that is not full while others are cut off: the child that begins
    there has the heap of then."""
    assert record(heapledger, trace, [victim, 'idle', 1500000, 4000], '--ring', '1M').status == 0
    parent, child = sound(heapledger, trace)['processes']
    assert session(trace)['overwritten_events'] > 1000000
    assert 4000 * 100 <= child['peak']['requested_bytes'] < 4000 * 100 + 5000
    assert child['events']['by_call']['free']['count'] >= 4000
    assert child['end']['requested_bytes'] < 5000


def test_children_that_came_and_went(heapledger, trace, victim):
    assert record(heapledger, trace, [victim, 'family', 50000, 80], '--ring', '1M').status == 0
    result = sound(heapledger, trace)
    serials = [p['serial'] for p in result['processes']]
    assert serials[0] == 1 and serials[1] > 10 and serials[-1] == 81
    assert len(list(trace.glob('*.hlt'))) == len(serials) < 60
    assert all_events(trace) >= 80 * 2 * 50000
    assert size(trace) <= RING + SLACK


def test_images_that_replace_each_other(heapledger, trace, victim):
    assert record(heapledger, trace, [victim, 'exec', 200000, 20], '--ring', '1M').status == 0
    result = sound(heapledger, trace)
    serials = [p['serial'] for p in result['processes']]
    assert serials[0] > 5 and serials[-1] == 20 and size(trace) <= RING + 2 * SLACK


@pytest.mark.parametrize('run_number', range(3))
def test_blocks_that_pass_between_threads(heapledger, trace, build, run_number):
    words = [build / 'tests' / 'victims' / 'victim_hand_over', 2 + 2 * run_number, 1000000]
    assert record(heapledger, trace, words, '--ring', '1M').status == 0
    sound(heapledger, trace)
    assert session(trace)['overwritten_events'] > 1000000


def test_with_stacks(heapledger, trace, victim):
    words = [victim, 'churn', 2, 800000, 500]
    assert record(heapledger, trace, words, '--ring', '1M', '--stacks', '8').status == 0
    sound(heapledger, trace)
    assert session(trace)['overwritten_events'] > 100000
    shown = run([heapledger, 'dump', '--stacks', '--kind', 'posix_memalign', trace]).stdout
    assert shown.count(b' churn at ') + shown.count(b' churn in ') > 1000


def test_it_ends_by_time(heapledger, trace, victim):
    outcome = record(heapledger, trace, [victim, 'churn', 2, 12000000, 500], '--ring', '1M',
                     '--duration', '1500ms')
    assert outcome.status == 0 and outcome.stderr == b''
    result = sound(heapledger, trace)
    assert session(trace)['overwritten_events'] > 10000
    assert result['processes'][0]['ran_on'] is True


def test_phases(heapledger, trace, victim):
    """The one that was under way at the cut is kept."""
    process = subprocess.Popen([heapledger, 'record', '-q', '-o', trace, '--ring', '1M', '--', victim,
                                'churn', '1', '4000000', '100'], env=CLEAN_ENVIRONMENT)
    end = time.monotonic() + 60
    while run([heapledger, 'mark', trace, 'long']).status != 0:
        assert time.monotonic() < end
    assert process.wait(60) == 0
    result = sound(heapledger, trace)
    assert [phase['name'] for phase in result['phases']] == ['long']


# While it runs

def test_the_directory_does_not_grow(heapledger, trace, victim):
    process = subprocess.Popen([heapledger, 'record', '-q', '-o', trace, '--ring', '1M', '--', victim,
                                'churn', '1', '6000000', '100'], env=CLEAN_ENVIRONMENT)
    largest, read = 0, 0
    while process.poll() is None:
        try:
            largest = max(largest, sum(p.stat().st_size for p in trace.iterdir()))
        except FileNotFoundError:  # a file that was replaced
            pass
        outcome = run([heapledger, 'analyze', trace])
        if outcome.status == 0:
            read += b'began later' in outcome.stdout
        time.sleep(0.02)
    assert process.wait() == 0 and read > 0
    assert RING < largest < GROWS


def wait_for_a_cut(heapledger, trace, seconds=60):
    late, end = False, time.monotonic() + seconds
    while not late and time.monotonic() < end:
        outcome = run([heapledger, 'analyze', trace])
        late = outcome.status == 0 and b'began later' in outcome.stdout
    assert late, f'nothing was overwritten in {seconds} s'


@pytest.mark.parametrize('run_number', range(6))
def test_a_recorder_that_is_killed(heapledger, trace, victim, run_number):
    """What is in the directory then is a trace. The last page of a thread dies with the recorder."""
    process = subprocess.Popen([heapledger, 'record', '-q', '-o', trace, '--ring', '1M', '--', victim,
                                'churn', '1', '20000000', '1000'],
                               env=CLEAN_ENVIRONMENT, start_new_session=True)
    wait_for_a_cut(heapledger, trace)
    time.sleep(0.07 * run_number)
    process.kill()
    process.wait()
    os.killpg(process.pid, signal.SIGKILL)
    result = analyze(heapledger, trace)
    assert result['complete'] is False and result['processes'][0]['began_late'] is True
    assert not any(result['anomalies'].values()), result['anomalies']
    assert size(trace) < GROWS
    assert result['end']['live_blocks'] > 400


def test_a_full_disk(heapledger, tmp_path, victim):
    """No room for the new file beside the old one: one message, and the program is not harmed."""
    disk = tmp_path / 'disk'
    disk.mkdir()
    if subprocess.run(['mount', '-t', 'tmpfs', '-o', 'size=1700k', 'none', disk],
                      stderr=subprocess.DEVNULL).returncode != 0:
        pytest.skip('mounting a small file system needs root')
    try:
        outcome = record(heapledger, disk / 'trace', [victim, 'churn', 1, 3000000, 100], '--ring', '1M')
        assert outcome.status == 0 and outcome.stderr.count(b'\n') == 1, outcome
        assert b'No space left' in outcome.stderr
        result = json.loads(run([heapledger, 'analyze', '--json', '-', disk / 'trace']).stdout)
        assert result['complete'] is False and result['events']['calls'] > 10000
    finally:
        subprocess.run(['umount', disk], check=True)


# A cut at any time

class Heap:
    """The blocks that lines of `dump` leave, by address: (size, chunk and flags)."""

    def __init__(self):
        self.live, self.pending = {}, {}

    def apply(self, line):
        kind, tid = line[3], line[2]
        words = dict(word.split('=', 1) for word in line if '=' in word and word != '=')
        if kind == 'realloc_begin':
            self.pending[tid] = line[4]
        elif kind in ('free', 'cfree'):
            self.live.pop(line[4], None)
        elif kind in ('malloc', 'calloc', 'realloc', 'posix_memalign', 'memalign', 'aligned_alloc'):
            result = line[line.index('=') + 1]
            if kind == 'realloc' and (result != '0x0' or words['size'] == '0'):
                self.live.pop(self.pending.pop(tid, None), None)
            if result != '0x0':
                self.live[result] = (words['size'], words['chunk'], 'mmapped' in line)


EVENTS = ('malloc', 'calloc', 'realloc', 'posix_memalign', 'memalign', 'aligned_alloc', 'free',
          'realloc_begin', 'brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect')


def by_thread(lines):
    threads = defaultdict(list)
    for line in lines:
        if line[3] in EVENTS:
            threads[line[2]].append(line[3:])
    return threads


def programs(build):
    victims = build / 'tests' / 'victims'
    script = 'import json; x = [json.loads(json.dumps(list(range(i)))) for i in range(90)]; del x[::2]'
    return {
        'threads': [victims / 'victim_hand_over', '4', '3000'],
        'python': ['/usr/bin/python3', '-S', '-c', script],
        'mappings': [victims / 'victim_bounded', 'plain', '200'],
        'arenas': [victims / 'victim_many_threads'],
    }


@pytest.mark.parametrize('name', ['threads', 'python', 'mappings', 'arenas'])
def test_a_cut_at_any_time(heapledger, build, tmp_path, cut_at, name):
    """What was live then is live, what came then is there, and nothing else."""
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    outcome = run([heapledger, 'record', '-q', '-o', whole, '--kernel', 'off', '--',
                   *programs(build)[name]], input=b'x', env={'PYTHONMALLOC': 'malloc'})
    assert outcome.status == 0, outcome
    (file,) = whole.glob('*.hlt')
    lines_of_whole = lines_of(heapledger, whole)
    expected = by_thread(lines_of_whole)
    end = analyze(heapledger, whole)['end']
    for part in (1, 30, 250, 500, 730, 950, 1000):
        shutil.rmtree(cut, ignore_errors=True)
        shutil.copytree(whole, cut)
        outcome = run([cut_at, cut, file.name, part])
        assert outcome.status == 0, outcome
        before, after = parts(lines_of(heapledger, cut))
        newest = by_thread(after)
        model = Heap()
        for tid, lines in newest.items():
            assert expected[tid][-len(lines):] == lines, (part, tid)
        left = {tid: len(lines) - len(newest[tid]) for tid, lines in expected.items()}
        for line in lines_of_whole:
            if line[3] in EVENTS and left[line[2]] > 0:
                left[line[2]] -= 1
                model.apply(line)
        heap = Heap()
        for line in before:
            assert line[3] not in ('free', 'realloc'), line
            heap.apply(line)
        assert heap.live == model.live, part
        assert heap.pending == model.pending, part
        result = analyze(heapledger, cut)
        assert not any(result['anomalies'].values()), (part, result['anomalies'])
        for field in 'requested_bytes', 'block_bytes', 'live_blocks', 'mapped_bytes':
            assert result['end'][field] == end[field], (part, field)


def test_a_parent_that_is_cut_keeps_what_its_child_needs(heapledger, tmp_path, victim, cut_at):
    whole, cut = tmp_path / 'whole', tmp_path / 'cut'
    assert record(heapledger, whole, [victim, 'fork', 3000, 200], '--kernel', 'off').status == 0
    parent, child = sorted(whole.glob('*.hlt'), key=lambda path: int(path.suffixes[0][1:]))
    fork_id, start_tick = struct.unpack_from('<QQ', child.read_bytes(), 40)
    expected = sound(heapledger, whole)['processes'][1]
    assert expected['peak']['live_blocks'] >= 200
    for part in (10, 30, 100, 500, 900, 1000):
        shutil.rmtree(cut, ignore_errors=True)
        shutil.copytree(whole, cut)
        assert run([cut_at, cut, parent.name, part, f'{fork_id}:{start_tick}']).status == 0
        result = analyze(heapledger, cut)
        assert not any(result['anomalies'].values()), (part, result['anomalies'])
        found = result['processes'][1]
        for field in 'events', 'end':
            assert found[field] == expected[field], (part, field)
        assert found['peak']['live_blocks'] == expected['peak']['live_blocks']


# What is said of it

def test_a_part_is_no_evidence(heapledger, trace, tmp_path, victim):
    """What is exceeded in it is exceeded, and the end is the end; no other budget is kept."""
    assert record(heapledger, trace, [victim, 'churn', 1, 1000000, 100], '--ring', '1M').status == 0
    budget = tmp_path / 'budget.toml'

    def check(text):
        budget.write_text(text)
        return run([heapledger, 'check', trace, '--budget', budget])

    part = check('[events]\ncalls = 1_000_000_000\n')
    assert part.status == 4 and b'older events left out by record --ring' in part.stdout, part
    assert check('[events]\ncalls = 10\n').status == 1
    assert check('[end]\nrequested = "1 GiB"\n').status == 0


# Options

@pytest.mark.parametrize('value', ['', '1', '1023K', '17T', '-1M', '1X', 'all'])
def test_sizes_that_are_none(heapledger, trace, value):
    outcome = record(heapledger, trace, ['true'], '--ring', value)
    assert outcome.status == 2 and outcome.stderr.count(b'\n') == 1, outcome
    assert b'--ring: a size from 1 MiB' in outcome.stderr and not trace.exists()


def test_what_it_does_not_go_with(heapledger, trace):
    outcome = record(heapledger, trace, ['true'], '--ring', '1M', '--start-after', '1s')
    assert outcome.status == 2 and b'--start-after' in outcome.stderr and not trace.exists()
    outcome = record(heapledger, trace, ['true'], '--ring', '1M', '--kernel', 'require')
    assert outcome.status == 2 and b'--kernel require' in outcome.stderr and not trace.exists()


def test_what_is_said_of_it(heapledger, trace, victim):
    assert record(heapledger, trace, [victim, 'churn', 1, 2000000, 100], '--ring', '1M').status == 0
    shown = run([heapledger, 'analyze', trace])
    older = f"{session(trace)['overwritten_events']:,}".encode()
    assert b'of ' + older + b' older events only the heap that they left is kept' in shown.stdout, shown
