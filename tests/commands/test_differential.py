# SPDX-License-Identifier: MIT
"""The interface exactly as glibc's: thousands of random sequences of calls, the same on
glibc, on the library and recorded, must be answered alike in all that the manual promises. The
calls and what is compared: tests/victims/differential.c. HEAPLEDGER_SEEDS makes it longer."""

import functools
import itertools
import os
import shlex
import shutil
from concurrent.futures import ThreadPoolExecutor

import pytest

from conftest import run

SEEDS = int(os.environ.get('HEAPLEDGER_SEEDS', 2400))
POLICIES = ['brk', 'mmap']  # on the library, beside hybrid; with an eighth of the seeds
BATCH = 200  # seeds of one process; they share its heap and its settings
# Each batch has one of these settings: they must change nothing that is promised.
TUNABLES = ['', 'glibc.malloc.tcache_count=0', '', 'glibc.malloc.arena_max=1', '',
            'glibc.malloc.mmap_threshold=8192', '', 'glibc.malloc.perturb=85', '',
            'glibc.malloc.mxfast=0:glibc.malloc.top_pad=0', '', 'glibc.malloc.mmap_max=0']


class Sequences:
    """Runs batches of sequences on several allocators and shows where they part."""

    def __init__(self, build, library, heapledger, folder):
        self.program = build / 'tests' / 'victims' / 'victim_differential'
        self.preloaded, self.heapledger, self.folder = library, heapledger, folder
        self.numbers = itertools.count()

    def command(self, way, words):
        """argv, environment and what to remove afterwards."""
        argv = [self.program, *words]
        if way == 'glibc':
            return argv, {}, None
        if way == 'recorded':
            trace = self.folder / f'trace{next(self.numbers)}'
            return [self.heapledger, 'record', '-q', '-o', trace, '--', *argv], {}, trace
        if way == 'library':
            return argv, {'LD_PRELOAD': str(self.preloaded)}, None
        if way in POLICIES:
            return argv, {'LD_PRELOAD': str(self.preloaded), 'HEAPLEDGER_POLICY': way}, None
        return argv, {'LD_PRELOAD': str(way[0]), 'BROKEN_PROMISE': way[1]}, None

    @staticmethod
    def variables(first):
        tunables = TUNABLES[first // BATCH % len(TUNABLES)]
        return {'GLIBC_TUNABLES': tunables} if tunables else {}

    def output(self, way, first, *words):
        argv, env, trace = self.command(way, [str(word) for word in (first, *words)])
        outcome = run(argv, env={**env, **self.variables(first)})
        if trace:
            shutil.rmtree(trace)
        lines = outcome.stdout.decode().splitlines()
        if outcome.status != 0 or outcome.stderr:
            lines += [f'status {outcome.status} {outcome.stderr.decode()}'.strip()]
        return lines

    def replay(self, way, first, seed):
        argv, env, _ = self.command(way, [str(first), str(seed - first + 1), str(seed)])
        words = [f'{name}={value}' for name, value in {**env, **self.variables(first)}.items()]
        return shlex.join([*words, *map(str, argv)])

    def explain(self, way, first, at):
        """The first call that was answered differently."""
        seed = first + at
        theirs, ours = (self.output(each, first, at + 1, seed) for each in ('glibc', way))
        pairs = itertools.zip_longest(theirs, ours, fillvalue='(nothing)')
        call = ['', '(the same when run again: the difference is not the seed\'s alone)', '']
        before = ''
        for their, our in pairs:
            if their != our:
                call = [f'  before: {before}', f'  glibc:  {their}', f'  {way}: {our}']
                break
            before = their
        return '\n'.join([f'seed {seed} differs', *call,
                          f'  replay: {self.replay(way, first, seed)}',
                          f'  and:    {self.replay("glibc", first, seed)}'])

    @functools.cache
    def expected(self, first):
        """What glibc answers to a batch, whomever it is compared with."""
        return self.output('glibc', first, BATCH)

    def differences(self, way, first):
        """What is wrong with a batch, or None."""
        theirs, ours = self.expected(first), self.output(way, first, BATCH)
        assert len(theirs) == BATCH and theirs[-1].startswith('seed '), theirs[-1]
        for at, (their, our) in enumerate(itertools.zip_longest(theirs, ours)):
            if their != our:
                return self.explain(way, first, min(at, BATCH - 1))
        return None


@pytest.fixture(scope='module')
def sequences(build, library, heapledger, tmp_path_factory):
    return Sequences(build, library, heapledger, tmp_path_factory.mktemp('sequences'))


@pytest.mark.parametrize('way', ['library', 'recorded', *POLICIES])
def test_answers_as_glibc(sequences, way):
    seeds = SEEDS // 8 if way in POLICIES else SEEDS
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda first: sequences.differences(way, first),
                              range(0, seeds, BATCH)))
    wrong = [text for text in found if text]
    assert not wrong, f'{len(wrong)} of {len(found)} batches differ\n' + '\n'.join(wrong[:3])


@pytest.mark.parametrize('promise', [
    'nothing is a block', 'error', 'overflow', 'zero', 'contents', 'alignment', 'code',
    'errno of free'])
def test_a_broken_promise_is_found(sequences, build, promise):
    way = (build / 'tests' / 'victims' / 'libbroken.so', promise)
    assert way[0].exists()
    text = sequences.differences(way, 0)
    assert text and 'replay: ' in text, text
    assert 'glibc:  ' in text, text


def test_an_unbroken_promise_is_not_found(sequences, build):
    """The control's own control: the same library, which breaks nothing."""
    way = (build / 'tests' / 'victims' / 'libbroken.so', 'none')
    assert sequences.differences(way, 0) is None
