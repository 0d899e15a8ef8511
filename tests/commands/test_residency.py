# SPDX-License-Identifier: MIT
"""Snapshots of resident pages: each run is what the kernel says of these pages of a program that keeps
still, none is missing, and what is cut, late or not to be had is said."""

import platform
import struct
import subprocess

import pytest

from conftest import CLEAN_ENVIRONMENT, existing, run, session

PAGE = 4096
# A snapshot that was asked for is taken soon, but when cannot be seen from outside.
PATIENCE = [0.3, 2, 10, 40]


@pytest.fixture(scope='module')
def victim(victims):
    return existing(victims / 'victim_resident')


def residency(trace):
    stream, = session(trace)['streams']
    return stream['residency']


def fields(words):
    return dict(word.split('=') for word in words if '=' in word)


def snapshots(heapledger, trace):
    """Reason, runs and words of each that the recorder took, in every stream: a beginning is followed by
    its runs at once. Runs of what is no heap's are checked and left out."""
    outcome = run([heapledger, 'dump', '--kind', 'resident_begin,resident_run', trace])
    assert outcome.status == 0, outcome
    found = []
    for line in outcome.stdout.decode().splitlines():
        stream, second, tid, kind, *words = line.split()
        if tid != '0':  # of the process itself, at its end
            assert kind != 'resident_begin' or fields(words)['reason'] == 'end'
            continue
        if kind == 'resident_begin':
            assert not found or len(found[-1]['runs']) == found[-1]['count']
            found.append({'reason': fields(words)['reason'], 'runs': [], 'cut': 'cut' in words,
                          'count': int(fields(words)['runs']), 'at': (stream, second)})
            continue
        assert found[-1]['at'] == (stream, second)
        start = int(words[0], 16)
        found[-1]['runs'].append((start, start + int(fields(words)['length']), words[2:]))
    assert not found or len(found[-1]['runs']) == found[-1]['count']
    for each in found:
        ends = [0] + [at for start, end, _ in each['runs'] for at in (start, end)]
        assert ends == sorted(ends) and all(start < end for start, end, _ in each['runs'])
        assert all(start % PAGE == end % PAGE == 0 for start, end, _ in each['runs'])
    for each in found:
        each['runs'] = [run for run in each['runs'] if 'other' not in run[2]]
    return found


def pages(runs):
    return {at for start, end, _ in runs for at in range(start, end, PAGE)}


def present(pid):
    """Pages of private anonymous memory by /proc/PID/pagemap, and those of them that are not the
    process's own: it has not forked, so they are the page of zeros."""
    there, shared = set(), set()
    with open(f'/proc/{pid}/maps') as maps, open(f'/proc/{pid}/pagemap', 'rb') as pagemap:
        for line in maps:
            place, rights, _, _, inode, *name = line.split()
            start, end = (int(word, 16) for word in place.split('-'))
            if inode != '0' or rights[3] == 's' or name not in ([], ['[heap]']):
                continue
            pagemap.seek(start // PAGE * 8)
            entries = struct.unpack(f'{(end - start) // PAGE}Q', pagemap.read((end - start) // PAGE * 8))
            there |= {start + i * PAGE for i, entry in enumerate(entries) if entry >> 62}
            shared |= {start + i * PAGE for i, entry in enumerate(entries)
                       if entry >> 62 == 2 and not entry >> 56 & 1}
    return there, shared


class Still:
    """A recording of a victim that has come to rest: its blocks, and its pages as it says itself and
    as /proc does."""

    def __init__(self, heapledger, trace, victim, *arguments, options=(), env=None):
        words = [heapledger, 'record', '-q', '--force', '-o', trace, '--kernel', 'off', *options,
                 '--', victim, *arguments]
        self.process = subprocess.Popen(
            [str(word) for word in words], env={**CLEAN_ENVIRONMENT, **(env or {})}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.heapledger, self.trace = heapledger, trace

    def line(self):
        line = self.process.stdout.readline()
        assert line, self.process.wait()
        return line.split()

    def rest(self):
        pid, = self.line()
        self.blocks = {}
        for _ in range(3):
            name, start, letters = self.line()
            self.blocks[name] = [(int(start, 16) + i * PAGE, letter == 'x')
                                 for i, letter in enumerate(letters)]
        self.present, self.zero = present(pid)

    def wait(self, seconds):
        """Nothing is to end in that time."""
        try:
            self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            return
        raise AssertionError('it ended by itself')

    def mark(self):
        outcome = run([self.heapledger, 'mark', self.trace, 'still'])
        assert outcome.status == 0, outcome

    def end(self):
        self.process.stdin.close()
        assert self.process.wait(60) == 0
        self.process.stdout.close()


def still(heapledger, trace, victim, **more):
    """One with a snapshot of when it was at rest, and that snapshot."""
    for seconds in PATIENCE:
        one = Still(heapledger, trace, victim, **more)
        one.rest()
        one.mark()
        one.wait(seconds)
        one.end()
        found = [each for each in snapshots(heapledger, trace) if each['reason'] == 'phase']
        if found:
            assert residency(trace)['phases_missed'] == 0
            return one, found[0]
        assert residency(trace)['phases_missed'] == 1
    raise AssertionError('no snapshot at the phase mark')


@pytest.mark.parametrize('way', ['scan', 'read'])
def test_runs_are_the_pages_that_are_there(heapledger, trace, victim, way):
    one, snapshot = still(heapledger, trace, victim, env={'HEAPLEDGER_PAGEMAP': way})
    found = pages(snapshot['runs'])
    assert found == one.present
    for name, block in one.blocks.items():
        assert {page for page, there in block if there} == found & {page for page, _ in block}, name
    there = {name: sum(is_there for _, is_there in block) for name, block in one.blocks.items()}
    assert there == {'touched': 100, 'given': 200, 'seen': 150}
    zero = pages(each for each in snapshot['runs'] if 'zero' in each[2])
    newer = tuple(map(int, platform.release().split('-')[0].split('.')[:2])) >= (6, 7)
    assert zero == (one.zero if way == 'scan' and newer else set())


def test_a_sample_says_what_smaps_does(heapledger, trace, victim):
    still(heapledger, trace, victim)
    lines = run([heapledger, 'dump', '--kind', 'sample', trace]).stdout.decode().splitlines()
    samples = [fields(line.split()[4:]) for line in lines]
    known = [each for each in samples if 'anonymous' in each]
    assert known and len(known) < len(samples)
    for each in known[1:]:  # the program may change between status and smaps_rollup
        assert abs(int(each['anonymous']) - int(each['rss_anon'])) < 1 << 20


def test_the_peak_is_in_a_snapshot(heapledger, trace, victim):
    for seconds in PATIENCE:
        one = Still(heapledger, trace, victim, 'peak')
        assert one.line() == ['peak']
        one.wait(seconds)
        one.process.stdin.write('x')
        one.process.stdin.flush()
        one.rest()
        one.end()
        highest = max(snapshots(heapledger, trace), key=lambda each: len(pages(each['runs'])))
        if len(pages(highest['runs'])) * PAGE > 64 << 20:
            break
    else:
        raise AssertionError('no snapshot at the peak')
    lines = run([heapledger, 'dump', '--kind', 'sample', trace]).stdout.decode().splitlines()
    most = max(int(fields(line.split()[4:])['rss_anon']) for line in lines)
    assert highest['reason'] in ('peak', 'interval')
    assert len(pages(highest['runs'])) * PAGE > most * 0.97
    assert not residency(trace)['peak_missed']


def test_a_snapshot_of_too_many_runs_is_cut_and_says_so(heapledger, trace, victim):
    _, whole = still(heapledger, trace, victim)
    assert not whole['cut'] and whole['count'] > 100 and residency(trace)['cut'] == 0
    one, cut = still(heapledger, trace, victim, env={'HEAPLEDGER_RESIDENCY_RUNS': '7'})
    assert cut['cut'] and cut['count'] == 7 and residency(trace)['cut'] > 0
    first = [page for page in sorted(one.present) if page < cut['runs'][-1][1]]
    assert pages(cut['runs']) == set(first)


def test_off_and_wrong_values(heapledger, trace, victim):
    outcome = run([heapledger, 'record', '-q', '-o', trace, '--residency', 'off', '--', victim])
    assert outcome.status == 0 and snapshots(heapledger, trace) == []
    assert residency(trace) is None and session(trace)['options']['residency_ns'] is None
    for value in '0ms', '10', 'often', '-1s', '':
        outcome = run([heapledger, 'record', '-o', trace, '--residency', value, '--', victim])
        assert outcome.status == 2 and outcome.stderr.count(b'\n') == 1, outcome
        assert b'--residency: ' in outcome.stderr


def test_the_work_is_a_hundredth_and_counted(heapledger, trace, victim):
    one = Still(heapledger, trace, victim, 'peak', options=['--residency', '1ms'])
    one.line()
    one.wait(1)
    one.end()
    of = residency(trace)
    assert of['snapshots'] == len(snapshots(heapledger, trace)) > 0 and of['failed'] == 0
    # What is under way is not broken off.
    assert 0 < of['work_ns'] < session(trace)['duration_ns'] / 100 + 15e6


def test_a_late_recording_begins_with_a_snapshot(heapledger, trace, victim):
    for seconds in PATIENCE:
        one = Still(heapledger, trace, victim, options=['--start-after', '100ms'])
        one.rest()
        one.wait(seconds + 0.1)
        one.end()
        found = snapshots(heapledger, trace)
        later = [each for each in found if each['reason'] == 'interval']
        if later and pages(later[-1]['runs']) == one.present:
            break
    else:
        raise AssertionError('no snapshot of what it was at rest')
    assert [each['reason'] for each in found].index('begin') == 0
    lines = run([heapledger, 'dump', '--no-time', trace]).stdout.decode().splitlines()
    kinds = [line.split()[2] for line in lines]
    assert kinds.index('begin') < kinds.index('resident_begin')


def test_what_a_ring_leaves_is_whole(heapledger, build, trace):
    victim = build / 'tests' / 'victims' / 'victim_record_calls'
    outcome = run([heapledger, 'record', '-q', '-o', trace, '--ring', '1M', '--residency', '1ms',
                   '--', victim, 'count', '3000000'])
    assert outcome.status == 0, outcome
    assert session(trace)['overwritten_events'] > 0
    snapshots(heapledger, trace)
