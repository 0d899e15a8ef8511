# SPDX-License-Identifier: MIT
"""Completion in bash and zsh: every command, and every option that its manual page has; both ask the
program's own help. zsh runs on a terminal, as for a user."""

import os
import pty
import re
import select
import subprocess
import time

import pytest

from conftest import CLEAN_ENVIRONMENT, SOURCE, run

COMPLETION = SOURCE / 'completion' / 'heapledger.bash'
COMMANDS = sorted(page.stem.removeprefix('heapledger-')
                  for page in (SOURCE / 'docs' / 'man').glob('heapledger-*.1'))
TIMEOUT = 60

# The key Tab inserts all that fits, Enter shows the line instead of running it.
ZSH = '''
PS1= RPS1= PROMPT_EOL_MARK=
fpath=({folder} $fpath)
autoload -Uz compinit && compinit -D -u
zstyle ':completion:*' completer _all_matches _complete
zstyle ':completion:*:all-matches:*' insert true
show() {{ print -r -- "<line $BUFFER>"; BUFFER=; zle .accept-line }}
zle -N accept-line show
print "<""ready>"
'''


def complete(heapledger, *words):
    """What bash would offer for the last word."""
    script = '. "$1"; shift; COMP_WORDS=(heapledger "${@:2}"); COMP_CWORD=$(($# - 1)); ' \
        '_heapledger "$1" "${@: -1}"; printf "%s\\n" "${COMPREPLY[@]}"'
    outcome = run(['bash', '-c', script, 'bash', COMPLETION, heapledger, *words])
    assert outcome.stderr == b'', outcome
    return outcome.stdout.decode().split()


def options_of_manual(command):
    page = (SOURCE / 'docs' / 'man' / f'heapledger-{command}.1').read_text()
    return {'--' + name for line in re.findall(r'^\.It Fl .*', page, re.MULTILINE)
            for name in re.findall(r'(?:Fl|,) -([a-z][a-z-]+)', line)}


def test_commands_are_completed(heapledger):
    assert set(complete(heapledger, '')) == {*COMMANDS, 'help', '--help', '--version'}
    assert complete(heapledger, 'expo') == ['export']
    assert complete(heapledger, 'help', 'ana') == ['analyze']
    assert complete(heapledger, 'nothing') == []


@pytest.mark.parametrize('command', COMMANDS)
def test_options_of_the_manual_are_completed(heapledger, command):
    assert set(complete(heapledger, command, '-')) == {*options_of_manual(command), '--help'}
    assert complete(heapledger, command, 'f') == []


class Zsh:
    """An interactive zsh in a folder of its own, with heapledger in its PATH."""

    def __init__(self, folder, heapledger):
        (folder / 'heapledger').symlink_to(heapledger)
        (folder / 'a-file').write_text('')
        self.master, slave = pty.openpty()
        self.process = subprocess.Popen(
            ['zsh', '-f', '-i'], stdin=slave, stdout=slave, stderr=slave, cwd=folder,
            start_new_session=True,
            env={**CLEAN_ENVIRONMENT, 'HOME': str(folder), 'TERM': 'xterm', 'COLUMNS': '1000',
                 'PATH': f'{folder}:{CLEAN_ENVIRONMENT["PATH"]}'})
        os.close(slave)
        setup = folder / 'setup'
        setup.write_text(ZSH.format(folder=COMPLETION.parent))
        self.send(f'source {setup}\n', '<ready>')

    def send(self, text, awaited):
        os.write(self.master, text.encode())
        end, seen = time.monotonic() + TIMEOUT, ''
        while not (found := re.search(awaited, seen)):
            assert select.select([self.master], [], [], max(0, end - time.monotonic()))[0], seen
            seen += os.read(self.master, 65536).decode(errors='replace')
        return found

    def complete(self, line):
        """The words that Tab leaves on the line."""
        found = self.send(line + '\t\r', '<line (?P<words>.*?)>\r').group('words')
        return [word.replace('\\', '') for word in found.split()]

    def close(self):
        os.close(self.master)  # hangs up
        self.process.wait(TIMEOUT)


@pytest.fixture(scope='module')
def zsh(heapledger, tmp_path_factory):
    shell = Zsh(tmp_path_factory.mktemp('zsh'), heapledger)
    yield shell
    shell.close()


def test_zsh_completes_commands(zsh):
    offered = zsh.complete('heapledger ')
    assert offered[0] == 'heapledger'
    assert set(offered[1:]) == {*COMMANDS, 'help', '--help', '--version'}
    assert zsh.complete('heapledger expo') == ['heapledger', 'export']
    assert zsh.complete('heapledger help ana') == ['heapledger', 'help', 'analyze']


@pytest.mark.parametrize('command', COMMANDS)
def test_zsh_completes_the_options_of_the_manual(zsh, command):
    offered = zsh.complete(f'heapledger {command} --')
    assert offered[:2] == ['heapledger', command]
    assert set(offered[2:]) == {*options_of_manual(command), '--help'}


def test_zsh_completes_files_and_the_programs_own_words(zsh):
    assert zsh.complete('heapledger analyze a-f') == ['heapledger', 'analyze', 'a-file']
    assert zsh.complete('heapledger record -q -- heapledge') == [
        'heapledger', 'record', '-q', '--', 'heapledger']
    assert zsh.complete('heapledger record -- heapledger expo') == [
        'heapledger', 'record', '--', 'heapledger', 'export']
