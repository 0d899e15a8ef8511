# SPDX-License-Identifier: MIT
"""Completion in bash: every command, and every option that its manual page has."""

import re

import pytest

from conftest import SOURCE, run

COMPLETION = SOURCE / 'completion' / 'heapledger.bash'
COMMANDS = sorted(page.stem.removeprefix('heapledger-')
                  for page in (SOURCE / 'docs' / 'man').glob('heapledger-*.1'))


def complete(heapledger, *words):
    """What bash would offer for the last word."""
    script = '. "$1"; shift; COMP_WORDS=(heapledger "${@:2}"); COMP_CWORD=$(($# - 1)); ' \
        '_heapledger "$1" "${@: -1}"; printf "%s\\n" "${COMPREPLY[@]}"'
    outcome = run(['bash', '-c', script, 'bash', COMPLETION, heapledger, *words])
    assert outcome.stderr == b'', outcome
    return outcome.stdout.decode().split()


def test_commands_are_completed(heapledger):
    assert set(complete(heapledger, '')) == {*COMMANDS, 'help', '--help', '--version'}
    assert complete(heapledger, 'expo') == ['export']
    assert complete(heapledger, 'help', 'ana') == ['analyze']
    assert complete(heapledger, 'nothing') == []


@pytest.mark.parametrize('command', COMMANDS)
def test_options_of_the_manual_are_completed(heapledger, command):
    page = (SOURCE / 'docs' / 'man' / f'heapledger-{command}.1').read_text()
    options = {'--' + name for line in re.findall(r'^\.It Fl .*', page, re.MULTILINE)
               for name in re.findall(r'(?:Fl|,) -([a-z][a-z-]+)', line)}
    offered = complete(heapledger, command, '-')
    assert options <= set(offered) and '--help' in offered, options - set(offered)
    assert complete(heapledger, command, 'f') == []
