# SPDX-License-Identifier: MIT
"""The examples of the manual pages do what they say: each is run as it stands, in a folder with the
programs and files that it speaks of, and must succeed and leave what it is told to write."""

import gzip
import re
import subprocess
import sys
import zipfile

import pytest

from conftest import CLEAN_ENVIRONMENT, SOURCE, run
from probe_fixture import skip_without_probe

MANUAL = SOURCE / 'docs' / 'man'
LOGS = SOURCE / 'tests' / 'logs'
PAGES = sorted(MANUAL.glob('heapledger*.1'))
WITH_PROBE = ('heapledger-attach', 'heapledger-verify')
TOML = re.compile(r'\[\w+\]\n')

PROGRAM = '''
#include <mcheck.h>
#include <stdlib.h>
char *blocks[1000];
int main(void)
{
	mtrace();
	for (int i = 0; i < 1000; i++)
		blocks[i] = malloc(1000);
	for (int i = 0; i < 900; i++)
		free(blocks[i]);
	return 0;
}
'''

# Serves until the test says that its example is over.
SERVER = '''#!/usr/bin/python3
import os, time
open('serving', 'w').close()
while not os.path.exists('stop'):
    time.sleep(0.01)
'''

# Takes what flame graphs are drawn of, and nothing else.
FLAMEGRAPH = r'''#!/bin/sh
! grep -vE '^.+ [0-9]+$'
'''


def examples(page):
    """The texts of its section, a paragraph each."""
    section = page.read_text().partition('.Sh EXAMPLES\n')[2].partition('.Sh ')[0]
    blocks = re.findall(r'^\.Bd [^\n]*\n(.*?)^\.Ed$|^\.Dl ([^\n]*)$', section, re.MULTILINE | re.DOTALL)
    return [re.sub(r'\\\(dq', '"', block or line + '\n').replace('\\&', '') for block, line in blocks]


# The logs of other tools free what they did not see being made.
CASES = [pytest.param(page.stem, text, id=f'{page.stem}-{number}',
                      marks=[pytest.mark.disorder] if page.stem == 'heapledger-import' else [])
         for page in PAGES for number, text in enumerate(examples(page)) if not TOML.match(text)]


def put(path, text):
    path.write_text(text)
    path.chmod(0o755)


@pytest.fixture
def folder(heapledger, tmp_path):
    """All that examples name; heapledger, sudo and flamegraph.pl in a bin of its own."""
    tools = tmp_path / 'bin'
    tools.mkdir()
    (tools / 'heapledger').symlink_to(heapledger)
    put(tools / 'sudo', '#!/bin/sh\nexec "$@"\n')
    put(tools / 'flamegraph.pl', FLAMEGRAPH)
    place = tmp_path / 'example'
    place.mkdir()
    (place / 'program.c').write_text(PROGRAM)
    (place / 'Makefile').write_text('program: program.c\n\tgcc -g -o $@ $<\n')
    assert run(['make'], cwd=place).status == 0
    (place / 'Makefile').write_text('program: program.c .\n\tgcc -g -O1 -o $@ $<\n')
    put(place / 'server', SERVER)
    put(place / 'load-test', '#!/bin/sh\ntest -e serving\n')
    (place / 'script.sql').write_text(
        'create table t(a); insert into t select value from generate_series(1, 9); select sum(a) from t;')
    (place / 'malloc.log.gz').write_bytes(gzip.compress((LOGS / 'logalloc.log').read_bytes()))
    with zipfile.ZipFile(place / 'systemui.zip', 'w') as archive:
        archive.write(LOGS / 'memory_replay.txt', 'systemui.txt')
    budgets = [text for text in examples(MANUAL / 'heapledger-check.1') if TOML.match(text)]
    (place / 'heap.toml').write_text(budgets[0])
    return place


@pytest.fixture
def running(folder):
    """A process that runs already, and ends a little after it is recorded."""
    code = "import os, time\nwhile not os.path.exists('run.hl'): time.sleep(0.01)\ntime.sleep(0.5)"
    process = subprocess.Popen([sys.executable, '-c', code], cwd=folder)
    yield process
    process.kill()
    process.wait()


@pytest.mark.parametrize('page', PAGES, ids=lambda page: page.stem)
def test_no_line_of_an_example_is_taken_for_a_request(page):
    section = page.read_text().partition('.Sh EXAMPLES\n')[2].partition('.Sh ')[0]
    assert not re.findall(r"^(?:\.[^A-Z]|').*", section, re.MULTILINE)


def test_every_page_has_examples():
    assert len(PAGES) > 10
    assert {page.stem for page in PAGES} == {case.values[0] for case in CASES}


@pytest.mark.parametrize('page, text', CASES)
def test_an_example_works(build, folder, running, page, text):
    if page in WITH_PROBE:
        skip_without_probe(build)
    env = {**CLEAN_ENVIRONMENT, 'PATH': f'{folder.parent / "bin"}:{CLEAN_ENVIRONMENT["PATH"]}'}
    if 'run.hl' in text and not re.search(r'-o run\.hl|mkdir run\.hl', text):
        recorded = run(['heapledger', 'record', '-q', '--stacks', '16', '-o', 'run.hl', '--',
                        './program'], cwd=folder, env=env)
        assert recorded.status == 0, recorded
    text = text.replace('LIBDIR/heapledger', str(build / 'interposer')).replace('4711', str(running.pid))
    text = re.sub(r' &\n', ' &\nuntil [ -e serving ]; do sleep 0.01; done\n', text)
    outcome = run(['bash', '-euo', 'pipefail', '-c', f'{text}touch stop\nwait'], cwd=folder, env=env)
    assert outcome.status == 0, (text, outcome)
    for written in re.findall(r'(?:-o|--json|--html|--svg|--baseline|>) (\S+)', text):
        assert (folder / written).exists(), (written, outcome)
