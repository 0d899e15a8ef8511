# SPDX-License-Identifier: MIT
"""The allocator in its place: small programs under LD_PRELOAD, each of which keeps watch over one
promise and exits 0 when it holds (tests/victims)."""

import pytest

from conftest import analyze, existing, run

VICTIMS = ['interface', 'faults', 'fork_threads', 'many_threads', 'signals', 'late_calls',
           'foreign_break', 'no_memory', 'fork_in_handler', 'own_mapping']


@pytest.fixture
def victim(victims, library):
    def start(name, **variables):
        path = existing(victims / f'victim_{name}')
        return run([path], env={'LD_PRELOAD': str(library), **variables}, timeout=120)
    return start


@pytest.mark.parametrize('name', VICTIMS)
def test_promise_holds(victim, name):
    outcome = victim(name)
    assert outcome.status == 0, outcome.stderr.decode()


# The faults' messages are those of a heap with caches.
@pytest.mark.parametrize('name', [name for name in VICTIMS if name != 'faults'])
def test_promise_holds_with_one_arena_and_no_cache(victim, name):
    tunables = 'glibc.malloc.arena_max=1:glibc.malloc.tcache_count=0'
    outcome = victim(name, GLIBC_TUNABLES=tunables)
    assert outcome.status == 0, outcome.stderr.decode()


# What signal handlers interrupt is more when every call has a record, and most with its stack.
# `faults` frees twice on purpose.
@pytest.mark.parametrize('stacks', ['0', '16'])
@pytest.mark.parametrize('name', [
    pytest.param(name, marks=pytest.mark.disorder if name == 'faults' else ())
    for name in VICTIMS])
def test_promise_holds_recorded(build, heapledger, tmp_path, name, stacks):
    outcome = run([heapledger, 'record', '-q', '-o', tmp_path / 'trace', '--kernel', 'off', '--stacks',
                   stacks, '--', build / 'tests' / 'victims' / f'victim_{name}'])
    assert outcome.status == 0, outcome.stderr.decode()


# The forked child goes on with a call whose page of the log is its parent's.
def test_fork_in_a_handler_is_recorded(build, heapledger, tmp_path):
    trace = tmp_path / 'trace'
    outcome = run([heapledger, 'record', '-q', '-o', trace, '--kernel', 'off', '--',
                   build / 'tests' / 'victims' / 'victim_fork_in_handler'])
    assert outcome.status == 0, outcome
    assert len(list(trace.glob('*.hlt'))) == 151


# At any instruction of a call: what was done before it is the parent's, what came after it is both's.
@pytest.mark.parametrize('offset, stacks', [(1, '0'), (15, '0'), (8, '4')])
def test_a_fork_in_the_middle_of_a_call(build, heapledger, tmp_path, offset, stacks):
    trace = tmp_path / 'trace'
    outcome = run([heapledger, 'record', '-q', '-o', trace, '--kernel', 'off', '--stacks', stacks, '--',
                   build / 'tests' / 'victims' / 'victim_fork_each_step', '61', str(offset)])
    assert outcome.status == 0, outcome
    result = analyze(heapledger, trace)
    assert not any(result['anomalies'].values()) and result['complete'], result['anomalies']
    assert len(result['processes']) == int(outcome.stdout) + 1 > 70
    parent, *children = result['processes']
    for child in children:
        end = child['end']
        assert (end['requested_bytes'], end['live_blocks']) == (0, 0), child
        assert end['mapped_bytes'] == parent['end']['mapped_bytes'], child


def test_faults_are_named(victim):
    tunables = 'glibc.malloc.tcache_count=7' # set by hand, so there is never more in a cache
    said = victim('faults', GLIBC_TUNABLES=tunables).stdout.decode().splitlines()
    faults = dict(line.split(': heapledger: ') for line in said)
    assert 'double free (thread cache)' in faults['twice_small']
    assert 'double free (fast bin)' in faults['twice_fast']
    assert 'double free' in faults['twice_large']
    assert 'invalid pointer' in faults['inside_a_block']
    assert 'invalid' in faults['of_the_stack']
    assert 'not in use' in faults['realloc_after_free']


@pytest.mark.parametrize('variables, expected', [
    ({}, 'mapped'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.mmap_threshold=1000000'}, 'heap'),
    ({'GLIBC_TUNABLES': 'glibc.rtld.nns=4:glibc.malloc.mmap_threshold=0x100000'}, 'heap'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.mmap_threshold=1000000x'}, 'mapped'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.mmap_threshold='}, 'mapped'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.mmap_threshold=99999999999999999999999'}, 'mapped'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.no_such_thing=1:::'}, 'mapped'),
    ({'MALLOC_MMAP_THRESHOLD_': '1000000'}, 'heap'),
    ({'MALLOC_MMAP_MAX_': '0'}, 'heap'),
    ({'MALLOC_MMAP_THRESHOLD_': 'many'}, 'mapped'),
    ({'MALLOC_MMAP_THRESHOLD': '1000000'}, 'mapped'),
])
def test_tunables(victim, variables, expected):
    outcome = victim('tuned', **variables)
    assert outcome.status == 0, outcome.stderr
    assert outcome.stdout.decode() == expected + '\n'
