# SPDX-License-Identifier: MIT
"""`meson install` into a staging folder, and the way from a program to its report from there: the
build and the source tree are not needed for it."""

import json
import os
import shutil
import subprocess

import pytest

from conftest import assert_sound, run


def build_option(build, name):
    """What the build folder was configured with."""
    options = json.loads((build / 'meson-info' / 'intro-buildoptions.json').read_text())
    return next(option['value'] for option in options if option['name'] == name)


@pytest.fixture(scope='module')
def stage(build, tmp_path_factory):
    """The folder that stands for the prefix, in a place it was not configured for."""
    folder = tmp_path_factory.mktemp('stage')
    subprocess.run(['meson', 'install', '-C', build, '--no-rebuild', '--quiet'], check=True,
                   env={**os.environ, 'DESTDIR': str(folder)}, stdin=subprocess.DEVNULL)
    staged = folder / build_option(build, 'prefix').lstrip('/')
    moved = tmp_path_factory.mktemp('moved') / 'prefix'
    shutil.move(staged, moved)
    assert not [path for path in folder.rglob('*') if path.is_file()], 'outside the prefix'
    return moved


def test_places(build, stage):
    """The conventional ones, and nothing else."""
    libdir, datadir = build_option(build, 'libdir'), build_option(build, 'datadir')
    mandir = build_option(build, 'mandir')
    files = {str(path.relative_to(stage)) for path in stage.rglob('*') if path.is_file()}
    assert {'bin/heapledger', f'{libdir}/heapledger/libheapledger.so',
            f'{libdir}/heapledger/libheapledger-observe.so',
            f'{datadir}/heapledger/reports/report.py',
            f'{datadir}/heapledger/reports/check.py'} <= files
    assert any(name.startswith(f'{mandir}/man1/heapledger') for name in files)
    known = ('bin/heapledger', f'{libdir}/heapledger/', f'{datadir}/heapledger/reports/',
             f'{mandir}/man1/heapledger', 'include/heapledger/', f'{datadir}/doc/heapledger/',
             f'{datadir}/bash-completion/completions/heapledger',
             f'{datadir}/zsh/site-functions/_heapledger')
    assert set(known[-2:]) <= files
    assert not {name for name in files if not name.startswith(known)}


@pytest.mark.parametrize('name', ['libheapledger.so', 'libheapledger-observe.so'])
def test_no_path_of_the_build(build, stage, name):
    """The library names no folder of the machine that built it."""
    library = stage / build_option(build, 'libdir') / 'heapledger' / name
    dynamic = run(['readelf', '-d', library]).stdout
    assert b'RPATH' not in dynamic and b'RUNPATH' not in dynamic


def test_from_program_to_report(stage, tmp_path):
    """record, analyze, dump, report and check, all from the staged folder."""
    heapledger = stage / 'bin' / 'heapledger'
    trace = tmp_path / 'trace'
    code = 'import sys; x = [str(i) * 50 for i in range(20000)]; print(len(x)); sys.exit(3)'
    recorded = run([heapledger, 'record', '-o', trace, '--', '/usr/bin/python3', '-c', code],
                   env={'PYTHONMALLOC': 'malloc'})
    assert (recorded.status, recorded.stdout) == (3, b'20000\n'), recorded

    outcome = run([heapledger, 'analyze', trace, '--json', tmp_path / 'a.json'])
    assert outcome.status == 0, outcome
    assert_sound(json.loads((tmp_path / 'a.json').read_text()), 40_000)

    dumped = run([heapledger, 'dump', trace])
    assert dumped.status == 0
    assert dumped.stdout.count(b'\n') > 40_000

    outcome = run([heapledger, 'report', trace, '-o', tmp_path / 'report.html'])
    assert outcome.status == 0, outcome
    assert b'</html>' in (tmp_path / 'report.html').read_bytes()

    for limit, status in (1_000_000, 0), (0, 1):
        (tmp_path / 'budget.toml').write_text(f'[syscalls]\nbrk = {limit}\n')
        outcome = run([heapledger, 'check', trace, '--budget', tmp_path / 'budget.toml'])
        assert outcome.status == status, outcome


def test_observe_finds_its_library(stage, tmp_path):
    trace = tmp_path / 'trace'
    recorded = run([stage / 'bin' / 'heapledger', 'record', '--observe', '-o', trace, '--kernel', 'off',
                    '--', '/bin/bash', '-c', 'echo hello'])
    assert (recorded.status, recorded.stdout, recorded.stderr) == (0, b'hello\n', b''), recorded
    assert json.loads((trace / 'session.json').read_text())['mode'] == 'observe'
