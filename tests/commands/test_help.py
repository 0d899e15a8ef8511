# SPDX-License-Identifier: MIT
"""--help of every command: it fits a terminal of 80 by 24, with a line left for the prompt, and names
the options that its manual page has, no more and no less. One that is misspelt is guessed."""

import re

import pytest

from conftest import SOURCE, run

MANUAL = SOURCE / 'docs' / 'man'
COMMANDS = sorted(page.stem.removeprefix('heapledger-') for page in MANUAL.glob('heapledger-*.1'))


def help_of(heapledger, command):
    outcome = run([heapledger, command, '--help'])
    assert (outcome.status, outcome.stderr) == (0, b''), outcome
    return outcome.stdout.decode()


def options_of(heapledger, command):
    """Those at the beginning of a line."""
    return {name for line in re.findall(r'^ +(-.*?)(?:  |$)', help_of(heapledger, command), re.MULTILINE)
            for name in re.findall(r'--([a-z][a-z-]+)', line)}


def test_every_command_has_a_manual_page(heapledger):
    overview = run([heapledger, '--help']).stdout.decode()
    assert sorted(re.findall(r'^  ([a-z]+) {2,}[a-z]', overview, re.MULTILINE)) == COMMANDS
    assert len(overview.splitlines()) <= 23 and max(map(len, overview.splitlines())) <= 80


@pytest.mark.parametrize('command', COMMANDS)
def test_it_fits_a_screen(heapledger, command):
    text = help_of(heapledger, command)
    lines = text.splitlines()
    assert lines[0].startswith(f'usage: heapledger {command}')
    assert len(lines) <= 23 and max(map(len, lines)) <= 80, text
    assert run([heapledger, 'help', command]).stdout.decode() == text


@pytest.mark.parametrize('command', COMMANDS)
def test_it_has_the_options_of_the_manual(heapledger, command):
    page = (MANUAL / f'heapledger-{command}.1').read_text()
    manual = {name for line in re.findall(r'^\.It Fl .*', page, re.MULTILINE)
              for name in re.findall(r'(?:Fl|,) -([a-z][a-z-]+)', line)}
    assert options_of(heapledger, command) == manual


@pytest.mark.parametrize('command', COMMANDS)
def test_an_option_that_is_misspelt_is_guessed(heapledger, command, tmp_path):
    """Without its second letter, alone and with a value."""
    for option in options_of(heapledger, command):
        for word in f'--{option[0]}{option[2:]}', f'--{option[0]}{option[2:]}=x':
            outcome = run([heapledger, command, word], cwd=tmp_path)
            assert (outcome.status, outcome.stdout) == (2, b''), outcome
            assert outcome.stderr.decode() == (f'heapledger: {command}: unknown option {word}; '
                                               f'did you mean --{option}?\n')


@pytest.mark.parametrize('command', sorted({*COMMANDS} - {'verify', 'doctor'}))
def test_an_option_that_is_like_none_is_not(heapledger, command):
    outcome = run([heapledger, command, '--xyzzy'])
    assert (outcome.status, outcome.stdout) == (2, b'')
    assert outcome.stderr.decode() == (f'heapledger: {command}: unknown option --xyzzy '
                                       f'(see heapledger {command} --help)\n')
