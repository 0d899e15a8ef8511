# SPDX-License-Identifier: MIT
"""The byte ledger against the kernel: all that is resident is in a row, what is left over is small,
and the rows of a program whose heap is known by construction are those that it made."""

import json
import re
import shutil
import subprocess
import time

import pytest

from conftest import CLEAN_ENVIRONMENT, ledger_adds_up, redis_server, run

MIB = 1 << 20
SQL = b'''create table t(a integer primary key, b text);
with recursive c(x) as (select 1 union all select x + 1 from c where x < 60000)
insert into t select x, hex(randomblob(50)) from c;
delete from t where a % 3 = 0; select count(*) from t;
'''
PYTHON = ('import json\n'
          'd = {i: [str(j) for j in range(i % 20)] for i in range(20000)}\n'
          's = json.dumps(d)\n'
          'for i in range(0, 20000, 2): del d[i]\n')
CODE = '#include <stdio.h>\n' + '\n'.join(
    f'int f{n}(int *a, int b) {{ for (int i = 0; i < b; i++) a[i] += {n}; return printf("%d", a[0]); }}'
    for n in range(300))


def needs(program):
    if shutil.which(program) is None:
        pytest.skip(f'{program} is not installed')


def analysis(heapledger, trace):
    outcome = run([heapledger, 'analyze', '--json', '-', trace])
    assert outcome.status == 0, outcome
    return json.loads(outcome.stdout)


def record(heapledger, trace, command, *options, input=None, env=None):
    outcome = run([heapledger, 'record', '-q', '-o', trace, *options, '--', *command], input=input,
                  env=env)
    assert outcome.status == 0, outcome
    return analysis(heapledger, trace)


def scans(data):
    """Whether the kernel tells a process its pages at once (Linux 6.7)."""
    release = tuple(int(part) for part in
                    subprocess.check_output(['uname', '-r'], text=True).split('-')[0].split('.')[:2])
    return release >= (6, 7)


def check_identity(moment):
    ledger_adds_up(moment)
    resident = moment['resident']
    if resident is None:
        return
    rows = [resident[name] for name in (
        'requested_bytes', 'slack_bytes', 'cached_bytes', 'table_bytes', 'free_bytes', 'top_bytes',
        'metadata_bytes')]
    assert resident['all_bytes'] == sum(rows) + resident['outside_bytes']
    assert sum(rows) <= moment['ledger']['mapped_bytes']
    assert resident['requested_bytes'] <= moment['ledger']['requested_bytes']


def residual(moment):
    resident = moment['resident']
    assert resident is not None and not resident['cut'], moment['moment']
    return abs(resident['residual_bytes'])


# What may be left over: at the end, where sample and snapshot follow each other, and at the peak.
MOST = {'end': 0.01, 'resident_peak': 0.03}


def check(data, least=1):
    """Of small processes four pages more, which the reading itself takes."""
    found = dict.fromkeys(MOST, 0)
    for process in data['processes']:
        for moment in process['moments']:
            check_identity(moment)
            if moment['moment'] in MOST and moment['resident'] is not None and scans(data):
                most = MOST[moment['moment']] * moment['resident']['all_bytes']
                assert residual(moment) <= max(most, 16384), moment['resident']
                found[moment['moment']] += 1
    assert min(found.values()) >= least or not scans(data)
    assert all(any(moment['moment'] == 'resident_peak' for moment in process['moments'])
               for process in data['processes'] if process['peak']['rss_bytes'] is not None)


def test_sqlite(heapledger, trace):
    needs('sqlite3')
    check(record(heapledger, trace, ['sqlite3', ':memory:'], input=SQL))


def test_python(heapledger, trace):
    check(record(heapledger, trace, ['/usr/bin/python3', '-c', PYTHON], env={'PYTHONMALLOC': 'malloc'}))


def test_gcc(heapledger, trace, tmp_path):
    source = tmp_path / 'code.c'
    source.write_text(CODE)
    check(record(heapledger, trace, ['gcc', '-O2', '-c', source, '-o', tmp_path / 'code.o']), least=2)


def test_redis(heapledger, trace, tmp_path):
    if shutil.which('redis-server') is None:
        needs('redis-check-rdb')
    program, socket = redis_server(tmp_path), tmp_path / 'socket'
    server = subprocess.Popen(
        [heapledger, 'record', '-q', '-o', trace, '--', program, '--port', '0', '--unixsocket',
         socket, '--save', '', '--dir', tmp_path], env=CLEAN_ENVIRONMENT, stdout=subprocess.DEVNULL)
    end = time.monotonic() + 60
    while not socket.exists():
        assert time.monotonic() < end and server.poll() is None
        time.sleep(0.05)
    outcome = run(['redis-benchmark', '-s', socket, '-n', '20000', '-r', '10000', '-d', '200', '-q', '-t',
                   'set,lpush,hset'])
    assert outcome.status == 0, outcome
    run(['redis-cli', '-s', socket, 'shutdown', 'nosave'])
    assert server.wait(60) == 0
    check(analysis(heapledger, trace))


@pytest.mark.parametrize('mode, count, requested', [
    ('checker', 20000, 10000 * 2000), ('pages', 2000, 200 * 20000), ('use', 5000, 5000 * 2000)])
def test_a_heap_that_is_known(heapledger, build, trace, mode, count, requested):
    """Each block was written, so all of it is in memory; beside the blocks of a checkerboard as much
    is free, and of every ten blocks of 20 KB nine."""
    data = record(heapledger, trace, [build / 'tests' / 'victims' / 'victim_trimmed', mode, count])
    check(data)
    if not scans(data):
        return
    resident = data['moments'][-1]['resident']
    assert resident['requested_bytes'] == requested
    free = {'checker': 10000 * 2016, 'pages': 1800 * 20016, 'use': 0}[mode]
    assert resident['free_bytes'] + resident['top_bytes'] == pytest.approx(free, abs=0.2 * MIB)
    assert resident['outside_bytes'] < 2 * MIB


def test_a_heap_full_of_holes_is_told_whole_at_the_end(heapledger, build, trace):
    """Of 16,000 blocks of 20 KB every tenth stays, in a run of resident pages of its own: more than are
    asked for at once, and the rest more than the kernel finds at once. Three calls of the recorder's
    more than else: memory for them, and the rest."""
    victim = build / 'tests' / 'victims' / 'victim_trimmed'
    data = record(heapledger, trace, [victim, 'pages', 16000, 'trim'])
    if not scans(data):
        pytest.skip('the kernel does not tell a process its pages')
    check(data)
    end = data['moments'][-1]['resident']
    assert end['requested_bytes'] == pytest.approx(1600 * 20000, abs=8192) and end['reason'] == 'end'
    assert end['cut'] is False
    assert abs(end['residual_bytes']) <= 16384
    outcome = run([heapledger, 'dump', '--kind', 'resident_run,resident_begin', trace])
    runs = outcome.stdout.decode().splitlines()
    last = max(at for at, line in enumerate(runs) if 'resident_begin' in line)
    assert len(runs) - last - 1 == int(re.search(r'runs=(\d+)', runs[last])[1]) > 1600
    few = record(heapledger, trace.with_name('few'), [victim, 'pages', 1200, 'trim'])
    assert data['syscalls']['recorder'] == few['syscalls']['recorder'] + 3


def test_however_many_blocks_fast_lists_hold_is_told_at_the_end(heapledger, build, trace):
    """100,000 blocks of 100 bytes, freed between larger ones."""
    data = record(heapledger, trace, [build / 'tests' / 'victims' / 'victim_trimmed', 'fast', 200000])
    end = data['moments'][-1]
    assert end['caches_known'] is True and end['strays'] == 0
    assert 100000 * 112 <= end['ledger']['cached_bytes'] < 100100 * 112
    if scans(data):
        assert end['resident']['cached_bytes'] >= 100000 * 112 - 4096
        check(data)


PATIENCE = [0.3, 2, 10, 40]    # until a snapshot, which cannot be seen from outside, has been taken


def at_its_peak(heapledger, trace, words, seconds):
    """The moment of the resident peak of a program that waits there for so long, then frees all."""
    with subprocess.Popen([str(word) for word in [heapledger, 'record', '-q', '--force', '-o', trace, '--',
                                                  *words]],
                          env=CLEAN_ENVIRONMENT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as program:
        assert program.stdout.readline() == b'peak\n'
        time.sleep(seconds)
        program.communicate(b'x')
    assert program.returncode == 0
    data = analysis(heapledger, trace)
    check(data)
    return next(moment for moment in data['moments'] if moment['moment'] == 'resident_peak')


@pytest.mark.parametrize('mode', ['use', 'checker'])
def test_a_peak_that_is_known(heapledger, build, trace, mode):
    """10,000 blocks of 2,000 bytes, all or every other one of 20,000, the array of them, and 1 MiB: all
    written, at rest, and gone at the end."""
    count = 20000 if mode == 'checker' else 10000
    requested = 10000 * 2000 + count * 8 + MIB
    words = [build / 'tests' / 'victims' / 'victim_trimmed', mode, count, 'spike']
    for seconds in PATIENCE:
        peak = at_its_peak(heapledger, trace, words, seconds)
        resident = peak['resident']
        if resident is not None and resident['requested_bytes'] == requested:
            break
    assert peak['ledger']['requested_bytes'] == requested
    assert resident['requested_bytes'] == requested
    free = 10000 * 2016 if mode == 'checker' else 0
    assert resident['free_bytes'] + resident['top_bytes'] == pytest.approx(free, abs=0.2 * MIB)
    assert resident['slack_bytes'] == pytest.approx(10000 * 16, abs=16384)
    # At rest the kernel counts the same before and after.
    for name in 'rss_anon_bytes', 'rss_anon_after_bytes':
        assert resident[name] == pytest.approx(resident['all_bytes'], rel=0.03), (name, resident)


def test_what_was_never_touched_is_not_resident(heapledger, trace):
    code = 'import ctypes; m = ctypes.CDLL(None).malloc; m.restype = ctypes.c_void_p; m(64 << 20)'
    data = record(heapledger, trace, ['/usr/bin/python3', '-c', code])
    check(data)
    moment = data['moments'][-1]
    assert moment['ledger']['requested_bytes'] > 64 * MIB
    if scans(data):
        assert moment['resident']['requested_bytes'] < 16 * MIB


def test_switched_off(heapledger, build, trace):
    data = record(heapledger, trace, [build / 'tests' / 'victims' / 'victim_trimmed', 'use', 3000],
                  '--residency', 'off')
    assert all(moment['resident'] is None for moment in data['moments'])
