# SPDX-License-Identifier: MIT
"""Nothing of a program is lost, however it ends: what it counted of itself, call by call, kind by
kind, process by process, is what its trace has. And what cannot be kept is counted and said."""

import os
import random
import re
import signal
import subprocess
from pathlib import Path

import pytest

from conftest import analyze, child_of, existing, run, session, sound, until
from witness_fixture import CALLS, Witness, assert_same_calls

TIMEOUT = 120


@pytest.fixture(scope='session')
def victim(victims):
    return existing(victims / 'victim_record_calls')


@pytest.fixture
def witness(victims, tmp_path):
    return Witness(victims / 'libwitness.so', tmp_path)


@pytest.fixture
def start(heapledger, trace, witness):
    def call(*argv, **more):
        return witness.start(heapledger, trace, *argv, **more)
    return call


@pytest.fixture
def record(start):
    """Runs `record` to its end; its status and what it said."""
    def call(*argv, **more):
        process = start(*argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, **more)
        try:
            stdout, stderr = process.communicate(timeout=TIMEOUT)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        return process.returncode, stdout, stderr.decode()
    return call


# How a program begins and ends: streams are its images, without the shell that starts it

@pytest.mark.parametrize('words, calls, streams, status', [
    ('count 20000', 1, 1, 0),
    ('threads 5000 8', 8, 1, 0),
    ('short-threads 10000 3', 3, 1, 0),
    ('short-threads 10 2000', 2000, 1, 0),
    ('ending 20 300', 300 + 3 * 100, 1, 0),
    ('fork 10000', 3, 2, 0),
    ('_Fork 10000', 3, 2, 0),
    ('exec 10000', 2, 2, 0),
    ('spawn 10000', 2, 2, 0),
    ('vfork 10000', 2, 1, 0),
    ('system 10000', 2, 3, 0),
    ('daemon 5000', 3, 3, 0),
    ('_exit 10000', 1, 1, 5),
    ('abort 10000', 1, 1, -signal.SIGABRT),
    ('children 20 500', 2 * 500, 501, 0),
])
def test_every_call_is_kept(heapledger, record, trace, witness, victim, words, calls, streams,
                            status):
    assert record(victim, *words.split()) == (status, b'', '')
    analysis = sound(heapledger, trace)
    assert_same_calls(witness, analysis)
    count = int(words.split()[1])
    assert analysis['events']['by_call']['posix_memalign']['count'] == calls * count
    assert len(session(trace)['streams']) == 1 + streams


@pytest.mark.parametrize('words, streams, status', [
    ('count 1000', 1, 0), ('fork 1000', 2, 0), ('_Fork 1000', 2, 0), ('exec 1000', 2, 0),
    ('spawn 1000', 2, 0), ('vfork 1000', 1, 0), ('system 1000', 3, 0), ('daemon 1000', 3, 0),
    ('_exit 1000', 1, 5), ('abort 1000', 1, -signal.SIGABRT), ('children 20 50', 51, 0),
])
def test_every_call_is_kept_while_threads_log(heapledger, record, trace, witness, victim, words,
                                              streams, status):
    """The end of the process, or an exec, interrupts at most the calls of the three others."""
    assert record(victim, 'busy', *words.split()) == (status, b'', '')
    assert_same_calls(witness, sound(heapledger, trace), under_way=3)
    assert len(session(trace)['streams']) == 1 + streams


@pytest.mark.parametrize('words, streams', [
    ('fork_threads 80', 81), ('fork_family 20', 41), ('thousand_threads', 1), ('many_threads', 1),
    ('hand_over', 1), ('hand_over 4 100000 1033', 1),
    ('hand_over 4 100000 0 any', 1), ('late_calls', 1), ('interface', 1)])
def test_every_call_of_a_hostile_program_is_kept(heapledger, record, trace, witness, victims, words,
                                                 streams):
    status, _, stderr = record(*f'{victims}/victim_{words}'.split())
    assert status == 0, stderr
    assert_same_calls(witness, sound(heapledger, trace))
    assert len(session(trace)['streams']) == 1 + streams


def test_signal_handlers_that_allocate(heapledger, record, trace, witness, victim):
    status, stdout, _ = record(victim, 'interrupt', 100000)
    assert status == 0
    analysis = sound(heapledger, trace)
    assert_same_calls(witness, analysis)
    assert analysis['events']['by_call']['posix_memalign']['count'] == int(stdout)


def test_bash_forks_and_runs(heapledger, record, trace, witness):
    """Each turn is a fork, and a fork with an exec over it."""
    script = 'for i in {1..150}; do (:); /bin/true; done; exit 3'
    assert record('/bin/bash', '-c', script) == (3, b'', '')
    assert_same_calls(witness, sound(heapledger, trace))
    ends = [s['end'] for s in session(trace)['streams']]
    assert (len(ends), ends.count('exec')) == (2 + 150 + 2 * 150, 1 + 150)


def test_another_pid_namespace(heapledger, record, trace, victim):
    """Its pids are somebody else's on the outside, or nobody's."""
    if subprocess.run(['unshare', '-pf', 'true'], capture_output=True).returncode != 0:
        pytest.skip('no right to make a pid namespace here')
    assert record('unshare', '-pf', victim, 'fork', 5000) == (0, b'', '')
    analysis = sound(heapledger, trace)
    assert analysis['events']['by_call']['posix_memalign']['count'] == 15000


# kill -9

def instants(count, most):
    """Numbers of calls, as many small ones as large ones: a program's start is an instant, too."""
    numbers = random.Random(11)
    return [int(most ** numbers.random()) for _ in range(count)]


def killed(process, pid, witness, calls):
    until(lambda: witness.calls() >= calls)
    os.kill(pid, signal.SIGKILL)
    assert process.wait(TIMEOUT) == -signal.SIGKILL


@pytest.mark.parametrize('threads, number', [
    (threads, number) for threads in (1, 4) for number in range(4)])
def test_nothing_is_lost_by_sigkill(heapledger, victims, victim, tmp_path, threads, number):
    for i, calls in enumerate(instants(20, 200000)[number::4]):
        folder = tmp_path / str(i)
        folder.mkdir()
        witness = Witness(victims / 'libwitness.so', folder)
        process = witness.start(heapledger, folder / 'trace', victim, 'forever', threads)
        killed(process, child_of(process), witness, calls)
        analysis = sound(heapledger, folder / 'trace')
        assert_same_calls(witness, analysis, under_way=threads)
        described = session(folder / 'trace')
        assert described['exit'] == {'signal': signal.SIGKILL}
        assert [s['end'] for s in described['streams']] == ['exec', 'signal']


def test_nothing_is_lost_by_sigkill_of_a_family(heapledger, start, trace, witness, victim):
    """A parent and three children, one after the other."""
    process = start(victim, 'family', 3)
    until(lambda: witness.count() == 4 and witness.calls() > 20000)
    for image in list(witness.images()):
        os.kill(image.pid, signal.SIGKILL)
    assert process.wait(TIMEOUT) == -signal.SIGKILL
    assert_same_calls(witness, sound(heapledger, trace), under_way=1)
    assert [s['end'] for s in session(trace)['streams']] == ['exec'] + 4 * ['signal']


@pytest.mark.parametrize('threads', [1, 4])
def test_a_killed_recorder_leaves_the_program_alone(heapledger, start, trace, witness, victim,
                                                    threads):
    """It runs to its end unrecorded, and nothing of ours is left."""
    process = start('/bin/sh', '-c', '"$@"; echo $?', 'sh', victim, 'gated', 'threads', 100000,
                    threads, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    own = f'heapledger.{process.pid}.'
    process.stdin.write(b'.')
    process.stdin.flush()
    until(lambda: witness.calls() > 20000 * threads)
    process.kill()  # and not waited for: a zombie must count as dead
    assert process.stdout.read() == b'0\n'
    assert not [name for name in os.listdir('/dev/shm') if name.startswith(own)]
    process.wait()
    assert not session(trace)['complete']
    result = analyze(heapledger, trace)
    assert not result['complete']
    counted = {image.pid: image for image in witness.images()}
    victims = [p for p in result['processes'] if p['command'][0] == str(victim)]
    for found in victims:
        for name, call in found['events']['by_call'].items():
            assert call['count'] <= counted[found['pid']].most[name], (name, call)
        assert threads > 1 or not any(found['anomalies'].values()), found['anomalies']
    assert counted[max(counted)].least['posix_memalign'] == threads * 100000


# When there is no room

def in_namespace(script, *words):
    """words for `before`: script runs in a mount namespace of its own, then what follows."""
    if subprocess.run(['unshare', '-m', 'true'], capture_output=True).returncode != 0:
        pytest.skip('no right to make a mount namespace here')
    return ['unshare', '-m', '/bin/sh', '-c', script, 'sh', *words]


def one_message(stderr, *words):
    lines = stderr.splitlines()
    assert len(lines) == 1 and lines[0].startswith('heapledger: record: '), stderr
    for word in words:
        assert word in lines[0], stderr


def assert_cut_short(heapledger, trace):
    """Readable, in order as far as it goes, and marked."""
    result = analyze(heapledger, trace)
    assert not result['complete']
    assert not session(trace)['complete']
    return result['events']


@pytest.mark.parametrize('size', ['64k', '256k', '1m'])
def test_a_full_disk_stops_only_the_recording(heapledger, record, tmp_path, witness, victim, size):
    small = tmp_path / 'small'
    small.mkdir()
    before = in_namespace(f'mount -t tmpfs -o size={size} none {small} || exit 99; "$@"; status=$?; '
                          f'cp -r {small}/trace {tmp_path}/kept; exit $status')
    status, _, stderr = record(victim, 'threads', 150000, 2, before=before,
                               options=['--force', '-o', small / 'trace'])
    assert status == 0, stderr
    one_message(stderr, 'No space left', str(small / 'trace'))
    events = assert_cut_short(heapledger, tmp_path / 'kept')
    image, = witness.images()
    assert image.least['posix_memalign'] == 2 * 150000  # it ran to its end
    made = events['by_call'].get('posix_memalign', {'count': 0})['count']
    assert made < 2 * 150000 and (made > 0 or size == '64k')


@pytest.mark.parametrize('inodes, status', [(1, 2), (2, 2), (3, 0)])
def test_a_disk_without_room_for_files(heapledger, victim, tmp_path, inodes, status):
    """For none, only the folder, and only session.json: then the program is already started."""
    script = f'mount -t tmpfs -o nr_inodes={inodes} none {tmp_path} || exit 99; "$@"'
    outcome = run([*in_namespace(script), heapledger, 'record', '-o', tmp_path / 'trace',
                   '--kernel', 'off', victim, 'count', 10])
    assert outcome.status == status, outcome
    one_message(outcome.stderr.decode(), str(tmp_path / 'trace'), 'No space left')


def test_a_directory_that_becomes_read_only(heapledger, start, tmp_path, witness, victim):
    """Streams that are open go on; of a process that comes later nothing can be kept."""
    small = tmp_path / 'small'
    small.mkdir()
    before = in_namespace(f'mount -t tmpfs none {small} || exit 99; "$@"; status=$?; '
                          f'cp -r {small}/trace {tmp_path}/kept; exit $status')
    process = start('/bin/sh', '-c', f'mount -o remount,ro {small} 2>/dev/null || '
                    f'chattr +i {small}/trace || chmod 0 {small}/trace; "$@"', 'sh', victim,
                    'count', 1000, before=before, stderr=subprocess.PIPE,
                    options=['--force', '-o', small / 'trace'])
    _, stderr = process.communicate(timeout=TIMEOUT)
    image, = [image for image in witness.images() if image.least['posix_memalign']]
    assert image.least['posix_memalign'] == 1000
    if process.returncode != 0 or not stderr:
        pytest.skip('a file system with open files does not become read-only here')
    one_message(stderr.decode(), 'writing to')
    assert_cut_short(heapledger, tmp_path / 'kept')


def test_a_read_only_directory(heapledger, victim, tmp_path):
    script = f'mount -t tmpfs -o ro none {tmp_path} || exit 99; "$@"'
    outcome = run([*in_namespace(script), heapledger, 'record', '-o', tmp_path / 'trace', victim,
                   'count', 10])
    assert outcome.status == 2, outcome
    one_message(outcome.stderr.decode(), 'Read-only', str(tmp_path / 'trace'))


def test_no_descriptor_for_the_program(heapledger, record, trace, witness, victim):
    """It has no use for more than three: the library opens a file before it is mapped."""
    status, _, stderr = record('/usr/bin/prlimit', '--nofile=64', victim, 'threads', 1000, 4)
    assert (status, stderr) == (0, '')
    assert_same_calls(witness, sound(heapledger, trace))


def test_four_descriptors_at_exec(heapledger, record, trace, witness, victim):
    """The least with which a dynamic program starts at all: ld.so needs one for each library."""
    status, _, stderr = record('/bin/sh', '-c', f'ulimit -n 4; exec {victim} count 1000')
    assert (status, stderr) == (0, '')
    assert_same_calls(witness, sound(heapledger, trace))


@pytest.mark.parametrize('limit', range(3, 24))
def test_few_descriptors_for_the_recorder(heapledger, victim, tmp_path, limit):
    """Either it says that it cannot, and why, or what it makes is whole or marked."""
    trace = tmp_path / 'trace'
    outcome = run(['/usr/bin/prlimit', f'--nofile={limit}', heapledger, 'record', '-o', trace,
                   '--kernel', 'off', '--', victim, 'children', 10, 8])
    said = outcome.stderr.decode()
    if not trace.exists():
        assert outcome.status in (2, 126, 127), outcome
        assert said.count('\n') == 1, said
        return
    result = analyze(heapledger, trace)
    made = result['events']['by_call'].get('posix_memalign', {'count': 0})['count']
    assert outcome.status == 0, outcome
    if said:
        one_message(said)
        assert not result['complete']
    else:
        assert made == 8 * 2 * 10
        assert result['complete']


@pytest.fixture
def memory_group():
    """A control group that allows so many bytes, as a folder."""
    made = []

    def of(limit):
        for root, file in (('/sys/fs/cgroup/memory', 'memory.limit_in_bytes'), ('/sys/fs/cgroup', 'memory.max')):
            folder = Path(root) / f'heapledger-test-{os.getpid()}'
            try:
                folder.mkdir()
            except OSError:
                continue
            made.append(folder)
            if (folder / file).exists():
                (folder / file).write_text(str(limit))
                return folder
        pytest.skip('no memory control group can be made here')
    yield of
    for folder in made:
        folder.rmdir()


@pytest.mark.parametrize('mib', [24, 256])
def test_little_memory_in_a_container(heapledger, victim, trace, memory_group, mib):
    """The buffers are an eighth of it at most, and the program is not killed for them."""
    group = memory_group(mib << 20)
    outcome = run(['/bin/sh', '-c', f'echo $$ > {group}/cgroup.procs; exec "$@"', 'sh', heapledger, 'record', '-q',
                   '--kernel', 'off', '-o', trace, '--', victim, 'threads', 200000, 4])
    assert outcome.status == 0 and outcome.stderr == b'', outcome
    assert session(trace)['options']['buffer_bytes'] == (mib << 20) // 8
    result = analyze(heapledger, trace)
    assert result['complete'] and result['events']['lost'] == 0
    assert result['events']['by_call']['posix_memalign']['count'] == 4 * 200000


def small_shared_memory(size):
    return in_namespace(f'mount -t tmpfs -o size={size} none /dev/shm || exit 99; exec "$@"')


@pytest.mark.parametrize('size', ['4k', '64k', '256k'])
def test_too_little_shared_memory(record, trace, victim, size):
    status, _, stderr = record(victim, 'count', 10, before=small_shared_memory(size))
    assert status == 126
    one_message(stderr, '/dev/shm', 'No space left')
    assert not trace.exists()


@pytest.mark.parametrize('size', ['2500k', '3m', '5m', '9m'])
def test_little_shared_memory(heapledger, record, trace, witness, victim, size):
    assert record(victim, 'threads', 50000, 4, before=small_shared_memory(size))[::2] == (0, '')
    assert_same_calls(witness, sound(heapledger, trace))


@pytest.mark.parametrize('options', [[], ['--stacks', '64']], ids=['callers', 'stacks'])
@pytest.mark.parametrize('words', ['threads 100000 4', 'children 20 100'])
def test_shared_memory_that_others_fill(heapledger, start, trace, witness, victim, words, options):
    """While the program runs. It goes on with the pages that are there, and nothing is lost."""
    before = small_shared_memory('40m')
    process = start('/bin/sh', '-c', 'head -c 60m /dev/zero >/dev/shm/other 2>/dev/null; "$@"', 'sh',
                    victim, *words.split(), before=before, stderr=subprocess.PIPE,
                    options=options)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, stderr) == (0, b'')
    assert_same_calls(witness, sound(heapledger, trace))


# When the buffers are full

def test_waiting_loses_nothing(heapledger, record, trace, witness, victim):
    assert record(victim, 'threads', 50000, 4, options=['--buffer', '1M'])[::2] == (0, '')
    assert_same_calls(witness, sound(heapledger, trace))


def dropped(start, witness, victim, *words):
    """A recording with --on-full drop whose recorder sleeps while the program runs."""
    process = start(victim, 'gated', *words, stdin=subprocess.PIPE, stderr=subprocess.PIPE,
                    options=['--on-full', 'drop', '--buffer', '1M', '--interval', '3600000'])
    pid = child_of(process)
    until(lambda: witness.count() == 1)
    os.kill(process.pid, signal.SIGSTOP)
    process.stdin.write(b'.')
    process.stdin.flush()
    until(lambda: open(f'/proc/{pid}/stat').read().rsplit(')', 1)[1].split()[0] == 'Z')
    os.kill(process.pid, signal.SIGCONT)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    return stderr.decode()


def of_the_victim(analysis):
    """Without the shell before it, of which nothing is lost."""
    return analysis['processes'][-1]['events']


def test_drop_counts_what_it_drops(heapledger, start, record, trace, witness, victim, victims,
                                   tmp_path):
    """Calls exactly, and the system calls are those that the same program makes when it waits."""
    stderr = dropped(start, witness, victim, 'count', 100000)
    kept = analyze(heapledger, trace)
    events = of_the_victim(kept)
    image, = witness.images()
    assert image.doubtful == 0
    (tmp_path / 'again').mkdir()
    again = Witness(victims / 'libwitness.so', tmp_path / 'again')
    assert again.start(heapledger, tmp_path / 'whole', victim, 'count', 100000).wait(TIMEOUT) == 0
    whole = of_the_victim(analyze(heapledger, tmp_path / 'whole'))
    assert whole['calls'] == sum(image.most.values())
    assert events['lost'] == whole['total'] - events['total'] > 0
    for name, most in image.most.items():
        assert events['by_call'].get(name, {'count': 0})['count'] <= most
    one_message(stderr, f'{events["lost"]} events were lost')
    assert session(trace)['streams'][-1]['lost'] == events['lost'] == kept['events']['lost']
    every_output_says(heapledger, trace, events['lost'], tmp_path)


def every_output_says(heapledger, trace, lost, folder):
    def command(name, *words, status=0):
        outcome = run([heapledger, name, trace, *words])
        assert outcome.status == status, outcome
        return outcome.stdout.decode(), outcome.stderr.decode()

    assert f'LOST: {lost:,} events are missing' in command('analyze')[0]
    result = analyze(heapledger, trace)
    assert not result['complete'] and result['events']['lost'] == lost
    assert [p['complete'] for p in result['processes']] == [True, False]
    note = f'note: {session(trace)["streams"][-1]["file"]}: {lost} events were lost'
    assert note in command('analyze', '--csv', folder / 'csv')[1]
    assert note in command('dump')[1]
    rows = [row.split(',') for row in (folder / 'csv/streams.csv').read_text().splitlines()]
    assert [row[-2:] for row in rows] == [['lost', 'complete'], ['0', '1'], [str(lost), '0']]
    verdict, _ = command('verify', status=4)
    assert str(lost) in verdict and 'VERIFIED' not in verdict.replace('UNVERIFIED', '')
    (folder / 'budget').write_text('[syscalls]\nbrk = 1000000\n')
    assert f'{lost:,} events lost' in command('check', '--budget', folder / 'budget', status=4)[0]
    command('report', '-o', folder / 'report.html')
    report = (folder / 'report.html').read_text()
    assert f'{lost:,} events lost' in report and 'not closed' not in report


def test_drop_counts_what_many_threads_drop(heapledger, start, trace, witness, victim):
    dropped(start, witness, victim, 'threads', 50000, 4)
    events = of_the_victim(analyze(heapledger, trace))
    image, = witness.images()
    assert image.doubtful == 0
    calls = sum(image.most.values())
    system_calls = events['lost'] - (calls - events['calls'])  # among what is lost
    assert 0 <= system_calls < events['lost'] // 100, events


# What the recorder itself does in the program

AT_START, AT_FORK, A_THREAD, AT_EXIT = 13, 4, 1, 7


@pytest.mark.parametrize('words, own', [
    ('count 300', [AT_START + AT_EXIT]),
    ('count 300000', [AT_START + AT_EXIT]),  # a million events
    ('_exit 300', [AT_START]),
    ('threads 300 8', [AT_START + 8 * A_THREAD + AT_EXIT]),
    ('threads 40000 8', [AT_START + 8 * A_THREAD + AT_EXIT]),
    ('short-threads 10 1000', [AT_START + 1000 * A_THREAD + AT_EXIT]),
    ('fork 300', [AT_START + AT_EXIT, AT_FORK + AT_EXIT]),
    ('fork 30000', [AT_START + AT_EXIT, AT_FORK + AT_EXIT]),
    ('exec 300', [AT_START, AT_START + AT_EXIT]),
])
def test_the_recorders_own_calls_are_few_and_constant(heapledger, victim, tmp_path, words, own):
    """Counted apart, and not among the events."""
    trace = tmp_path / 'trace'
    assert run([heapledger, 'record', '-o', trace, '--kernel', 'off', '--', victim,
                *words.split()]).status == (5 if '_exit' in words else 0)
    result = sound(heapledger, trace)
    assert [p['syscalls']['recorder'] for p in result['processes']] == own
    assert result['syscalls']['recorder'] == sum(own)
    assert not any(row['reason'] == 'recorder' for row in result['syscalls']['by_cause'])


def test_nothing_else_is_called(heapledger, record, trace, victim):
    """Once it runs, the kernel ends the program at any call but the heap's own and those with which
    it waits for the recorder."""
    assert record(victim, 'sealed', 300000) == (0, b'', '')
    result = sound(heapledger, trace)
    assert result['events']['by_call']['posix_memalign']['count'] == 300001


EVENT = re.compile(r'^(\S+) \S+ \d+(?:/\d)? (\w+) (.*)')
SYSTEM_CALLS = {'brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect'}


@pytest.mark.parametrize('words', ['busy threads 3000 4', 'interrupt 30000', 'busy fork 1000'])
def test_every_system_call_has_its_cause(heapledger, record, trace, victim, words):
    assert record(victim, *words.split())[0] == 0
    result = sound(heapledger, trace)
    outcome = run([heapledger, 'dump', trace])
    seen = own = 0
    begun = set()  # streams whose process has made its first call
    for line in outcome.stdout.decode().splitlines():
        match = EVENT.match(line)
        if match and match[2] in CALLS:
            begun.add(match[1])
        if not match or match[2] not in SYSTEM_CALLS:
            continue
        found = dict(re.findall(r'(\w+)=(\S+)', match[3]))
        if found['reason'] == 'recorder':
            own += 1
            continue
        seen += 1
        assert found['reason'] != 'unknown' and found['region'] != 'unknown', line
        assert found['call'] != 'none' or match[1] not in begun, line  # the heap's start
        assert int(found['ns']) > 0 and int(found['call_size']) >= 0, line
        assert all(int(found[name]) > 0 for name in
                   ('mmap_threshold', 'trim_threshold', 'top_pad')), line
    assert seen == result['events']['syscalls'] == result['syscalls']['total'] > 10
    assert seen == sum(row['count'] for row in result['syscalls']['by_cause'])
    assert 0 < own <= result['syscalls']['recorder']
