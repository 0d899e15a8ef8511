# SPDX-License-Identifier: MIT
"""`heapledger doctor` tries what it speaks of: a line for each, in 80 columns, and an exit status
that says whether programs can be recorded."""

import os
import re

import pytest

from conftest import run
from probe_fixture import skip_without_probe

NAMES = ['library', 'shared memory', 'user', 'recording', 'observing', 'call stacks', 'symbols', 'clock',
         'kernel types', 'kernel probe', 'page map', 'reports', 'overcommit', 'huge pages']


def doctor(heapledger, **env):
    outcome = run([heapledger, 'doctor'], env=env)
    lines = outcome.stdout.decode().splitlines()
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines), lines
    found = {line[:13].rstrip(): line[14:21].rstrip() for line in lines if line[:1].islower()}
    assert list(found) == NAMES
    assert set(found.values()) <= {'ok', 'limited', 'MISSING'}
    return outcome.status, found, outcome.stdout.decode()


def test_where_it_works(heapledger):
    status, found, text = doctor(heapledger)
    assert status == 0, text
    for name in 'library', 'recording', 'shared memory', 'observing', 'call stacks', 'page map':
        assert found[name] == 'ok', text
    assert 'Programs can be recorded here.' in text


def test_the_cost_of_the_clock_is_measured(heapledger):
    """It takes what it takes on this machine, and never less than 5 ns."""
    _, found, text = doctor(heapledger)
    cost = re.search(r'clock_gettime, (\d+) ns each time', ' '.join(text.split()))
    assert (cost is None) == (found['clock'] == 'ok'), text
    assert cost is None or 5 < int(cost[1]) < 1_000_000, text


def test_a_missing_library(heapledger, tmp_path):
    status, found, text = doctor(heapledger, HEAPLEDGER_LIBRARY=str(tmp_path / 'none.so'))
    assert status == 1
    assert found['library'] == found['recording'] == 'MISSING'
    assert 'HEAPLEDGER_LIBRARY' in text


def test_a_library_that_is_none(heapledger, tmp_path):
    broken = tmp_path / 'libheapledger.so'
    broken.write_bytes(b'\x7fELF but not really' * 10)
    status, found, _ = doctor(heapledger, HEAPLEDGER_LIBRARY=str(broken))
    assert status == 1
    assert found['library'] == 'MISSING'


def test_nowhere_to_write(heapledger, tmp_path):
    status, found, text = doctor(heapledger, TMPDIR=str(tmp_path / 'none'))
    assert status == 1
    assert found['recording'] == 'MISSING' and 'TMPDIR' in text


def test_it_leaves_nothing_behind(heapledger, tmp_path):
    before = set(os.listdir('/dev/shm'))
    doctor(heapledger, TMPDIR=str(tmp_path))
    assert os.listdir(tmp_path) == []
    left = [name for name in set(os.listdir('/dev/shm')) - before if name.startswith('heapledger.')]
    # Other recordings may run on the machine: theirs carry the pid of a living recorder.
    assert not [name for name in left if not os.path.exists(f'/proc/{name.split(".")[1]}')], left


def test_without_privilege(heapledger):
    """Recording works; the probe says what it needs."""
    if os.geteuid() != 0:
        pytest.skip('needs root to become somebody else')
    outcome = run(['/usr/bin/setpriv', '--reuid=65534', '--regid=65534', '--clear-groups', heapledger,
                   'doctor'])
    text = outcome.stdout.decode()
    if not text:
        pytest.skip('the build folder is closed to other users')
    assert 'kernel probe  limited' in text, text
    said = ' '.join(text.split())
    if 'are missing' in said:
        assert (f'CAP_BPF and CAP_PERFMON are missing: sudo setcap cap_bpf,cap_perfmon+ep {heapledger}, '
                'or sudo heapledger record.') in said, text
    else:
        assert 'no permission' not in said, text
    assert 'page map      ok' in text and 'observing     ok' in text, text


def test_it_sees_a_call_of_its_own(build, heapledger):
    skip_without_probe(build)
    for way in 'raw', 'tracefs', 'classic':
        status, found, text = doctor(heapledger, HEAPLEDGER_PROBE=way)
        assert status == 0 and found['kernel probe'] == 'ok', text
        assert 'sees a system call of our own' in ' '.join(text.split())


def test_what_the_probe_lacks_is_named(build, heapledger):
    """A ring that cannot be, and no types of the kernel."""
    skip_without_probe(build)
    _, found, text = doctor(heapledger, HEAPLEDGER_PROBE_RING='much')
    assert found['kernel probe'] == 'limited' and 'does not take the probe' in ' '.join(text.split())
    outcome = run(['unshare', '-m', 'sh', '-c', 'mount -t tmpfs none /sys/kernel/btf && exec "$@"', 'sh',
                   heapledger, 'doctor'])
    assert outcome.status == 0
    assert re.search(r'kernel types +limited', outcome.stdout.decode())
    text = ' '.join(outcome.stdout.decode().split())
    assert 'kernel probe ok sees a system call of our own (by classic tracepoints)' in text, text


def test_a_library_for_the_other_mode(build, heapledger):
    library = build / 'interposer' / 'libheapledger-observe.so'
    status, found, text = doctor(heapledger, HEAPLEDGER_LIBRARY=str(library))
    assert status == 0 and (found['recording'], found['observing']) == ('limited', 'ok'), text
    assert 'another library than libheapledger.so' in ' '.join(text.split())


def test_wrong_usage(heapledger):
    outcome = run([heapledger, 'doctor', 'me'])
    assert outcome.status == 2
    assert outcome.stderr.startswith(b'heapledger: doctor: ')
