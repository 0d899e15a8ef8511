# SPDX-License-Identifier: MIT
"""A command that is misspelt: which one was meant, if one is like it."""

import pytest

from conftest import run


@pytest.mark.parametrize('wrong, meant', [
    ('analyse', 'analyze'), ('recrod', 'record'), ('chek', 'check'), ('exports', 'export'),
    ('dmup', 'dump'), ('Report', 'report')])
def test_what_was_meant_is_named(heapledger, wrong, meant):
    for words in [wrong], [wrong, '--help'], ['help', wrong]:
        outcome = run([heapledger, *words])
        assert (outcome.status, outcome.stdout) == (2, b'')
        assert outcome.stderr.decode() == \
            f'heapledger: {wrong}: no such command; did you mean {meant}?\n'


@pytest.mark.parametrize('wrong', ['frobnicate', 'x', '', 'analyze' * 100])
def test_what_is_like_none_gets_no_guess(heapledger, wrong):
    outcome = run([heapledger, wrong])
    assert (outcome.status, outcome.stdout) == (2, b'')
    assert outcome.stderr.decode() == \
        f'heapledger: {wrong}: no such command; see heapledger --help\n'
