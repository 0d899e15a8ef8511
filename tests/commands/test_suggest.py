# SPDX-License-Identifier: MIT
"""A command that is misspelt: which one was meant, if one is like it."""

import pytest

from conftest import run
from trace_script import SCRIPT, make_trace


@pytest.mark.parametrize('wrong, meant', [
    ('analyse', 'analyze'), ('recrod', 'record'), ('chek', 'check'), ('exports', 'export'),
    ('dmup', 'dump'), ('Report', 'report')])
def test_what_was_meant_is_named(heapledger, wrong, meant):
    for words in [wrong], [wrong, '--help'], ['help', wrong]:
        outcome = run([heapledger, *words])
        assert (outcome.status, outcome.stdout) == (2, b'')
        assert outcome.stderr.decode() == \
            f'heapledger: {wrong}: no such command; did you mean {meant}?\n'


@pytest.mark.parametrize('words, said', [
    (['record', '--stakcs', '3', 'x'], 'record: unknown option --stakcs; did you mean --stacks?'),
    (['report', '--pgn', 'x'], 'report: unknown option --pgn; did you mean --png?'),
    (['record', '--set', 'mmap_treshold=1', 'x'],
     'record: --set: mmap_treshold=1: there is no such tunable; did you mean mmap_threshold?'),
    (['record', '--set', 'tcache_unsorted_limits=1', 'x'],
     'record: --set: tcache_unsorted_limits=1: there is no such tunable; did you mean '
     'tcache_unsorted_limit?'),
    (['record', '--set', 'colour=1', 'x'], 'record: --set: colour=1: there is no such tunable'),
    (['record', '--set', 'top_pad=many', 'x'], 'record: --set: top_pad=many: not a number'),
    (['record', '--kernel', 'aut', 'x'], 'record: --kernel: auto, require or off is needed, not aut'),
    (['record', '--on-full', 'dorp', 'x'], 'record: --on-full: wait or drop is needed, not dorp'),
    (['dump', '--kind', 'mallok', 'x'],
     'dump: --kind: "mallok" is not a kind of event; did you mean malloc?'),
    (['dump', '--kind', 'nothing_like_it', 'x'],
     'dump: --kind: "nothing_like_it" is not a kind of event (see heapledger help dump)'),
    (['export', '--value', 'peek', 'x'],
     'export: --value peek: there is no such value; did you mean peak?'),
    (['verify', '--quiet', 'x'], 'verify: unknown option --quiet (see heapledger verify --help)')])
def test_options_and_their_values_are_named_too(heapledger, words, said):
    outcome = run([heapledger, *words])
    assert (outcome.status, outcome.stdout) == (2, b'')
    assert outcome.stderr.decode() == f'heapledger: {said}\n'


@pytest.mark.parametrize('words', [
    ['analyze', '--json'], ['analyze', '--csv'], ['dump', '--no-time', '--stream'], ['export', '-o']])
def test_an_option_that_has_had_the_directory_is_named(heapledger, build, tmp_path, words):
    """The first thing that one types without having read the help."""
    trace = tmp_path / 'trace'
    make_trace(build, trace, SCRIPT)
    before = sorted((path.name, path.read_bytes()) for path in trace.iterdir())
    outcome = run([heapledger, *words, trace])
    assert (outcome.status, outcome.stdout) == (2, b'')
    assert outcome.stderr.decode() == (
        f'heapledger: {words[0]}: {words[-1]} needs a value, which {trace} is now; one trace '
        'directory is needed, too\n')
    assert sorted((path.name, path.read_bytes()) for path in trace.iterdir()) == before
    missing = trace.parent / 'missing.hl'
    assert run([heapledger, *words, missing]).stderr.decode() == \
        f'heapledger: {words[0]}: one trace directory is needed, 0 given\n'


@pytest.mark.parametrize('wrong', ['frobnicate', 'x', '', 'analyze' * 100])
def test_what_is_like_none_gets_no_guess(heapledger, wrong):
    outcome = run([heapledger, wrong])
    assert (outcome.status, outcome.stdout) == (2, b'')
    assert outcome.stderr.decode() == \
        f'heapledger: {wrong}: no such command; see heapledger --help\n'
