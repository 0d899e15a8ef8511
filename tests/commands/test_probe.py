# SPDX-License-Identifier: MIT
"""The kernel probe sees what a program says it did, call by call, in threads and children too, and
nothing else; by all ways into the kernel. What it cannot keep it counts."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from conftest import CLEAN_ENVIRONMENT, run
from probe_fixture import skip_without_probe

MARKS = ['process_fork', 'process_exec', 'process_exit', 'memory']
LINE = re.compile(r'^(\S+\.kernel) \S+ (\d+) (\w+)(.*?) = (-?\w+) ')


@pytest.fixture(autouse=True)
def needs_probe(build):
    skip_without_probe(build)


WAYS = {'tracefs': 'tracepoints of the calls', 'raw': 'raw tracepoints', 'classic': 'classic tracepoints'}
HIDE_TYPES = ['unshare', '-m', 'sh', '-c', 'mount -t tmpfs none /sys/kernel/btf && exec "$@"', 'sh']


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture
def record(way, heapledger, tmp_path):
    """Records a command by one way into the kernel; what session.json says of the kernel's side."""

    def call(*command, status=0, **more):
        outcome = run([heapledger, 'record', '-o', tmp_path / 'trace', '--kernel', 'require', '--',
                       *command], env={'HEAPLEDGER_PROBE': way}, **more)
        assert outcome.status == status, outcome
        session = json.loads((tmp_path / 'trace' / 'session.json').read_text())
        assert session['kernel']['state'] == 'recorded', session['kernel']
        assert session['kernel']['way'] == WAYS[way]
        return outcome, session['kernel']

    return call


@pytest.mark.parametrize('privileges, said', [
    ('', 'CAP_BPF and CAP_PERFMON are missing'),
    (',+bpf', 'CAP_PERFMON is missing'),
    (',+perfmon', 'CAP_BPF is missing'),
    (',+bpf,+perfmon', None),
])
def test_needs_two_privileges_and_names_what_is_missing(heapledger, tmp_path, privileges, said):
    outcome = run(['setpriv', f'--bounding-set=-all{privileges}', '--inh-caps=-all', heapledger,
                   'record', '-o', tmp_path / 'trace', '--kernel', 'require', '--', '/bin/sh', '-c',
                   'echo ran'])
    if said:
        assert outcome.status == 4 and not outcome.stdout
        assert outcome.stderr.decode() == ('heapledger: record: no kernel record: no permission: '
                                           f'{said} (run as root, or give both)\n')
    else:
        assert outcome.status == 0 and outcome.stdout == b'ran\n', outcome


@pytest.mark.parametrize('apart, said', [
    (['unshare', '-m', 'sh', '-c', 'mount -t tmpfs none /sys/kernel && exec setpriv '
      '--bounding-set=-all,+bpf,+perfmon --inh-caps=-all "$@"', 'sh'],
     'the kernel has no type information (/sys/kernel/btf/vmlinux), and without it only root can read '
     'where its tracepoints are (tracefs)'),
    (['unshare', '-p', '-f'], "inside a container process numbers differ from the kernel's"),
])
def test_names_the_feature_that_is_missing(heapledger, tmp_path, apart, said):
    command = [heapledger, 'record', '-o', tmp_path / 'trace']
    outcome = run([*apart, *command, '--kernel', 'require', '--', '/bin/true'])
    assert outcome.status == 4 and not outcome.stdout
    assert outcome.stderr.decode() == f'heapledger: record: no kernel record: {said}\n'
    outcome = run([*apart, *command, '--', '/bin/sh', '-c', 'echo ran; exit 5'])
    assert (outcome.status, outcome.stdout, outcome.stderr) == (5, b'ran\n', b'')
    kernel = json.loads((tmp_path / 'trace' / 'session.json').read_text())['kernel']
    assert (kernel['state'], kernel['why'], kernel['totals']) == ('unavailable', said, None)
    assert kernel['way'] is None


def test_a_kernel_without_types_has_classic_tracepoints(heapledger, tmp_path):
    outcome = run([*HIDE_TYPES, heapledger, 'record', '-o', tmp_path / 'trace', '--kernel', 'require',
                   '--', '/bin/sh', '-c', '/bin/true; exit 5'])
    assert outcome.status == 5, outcome
    kernel = json.loads((tmp_path / 'trace' / 'session.json').read_text())['kernel']
    assert (kernel['state'], kernel['way'], kernel['lost']) == ('recorded', WAYS['classic'], 0)
    status, text, _ = verify(heapledger, tmp_path / 'trace')
    assert status == 0 and text.startswith('VERIFIED: the kernel saw all '), text
    assert 'How processes ended is unknown: the probe used classic tracepoints.' in text


def test_to_attach_takes_the_kernels_types(heapledger, tmp_path):
    sleeper = subprocess.Popen(['/bin/sleep', '60'])
    try:
        outcome = run([*HIDE_TYPES, heapledger, 'attach', '-o', tmp_path / 'trace', '--kernel', 'require',
                       '--duration', '100ms', str(sleeper.pid)])
    finally:
        sleeper.kill()
        sleeper.wait()
    assert outcome.status == 4, outcome
    assert outcome.stderr.decode() == ('heapledger: attach: no kernel record: the kernel has no type '
                                       'information (/sys/kernel/btf/vmlinux)\n')


def number(text):
    return int(text, 0) if text.startswith(('0x', '-')) or text.isdigit() else text


def kernel_calls(heapledger, trace):
    """The kernel's side as the victim writes it: thread, call, three arguments, result."""
    outcome = run([heapledger, 'dump', trace])
    assert outcome.status == 0, outcome
    for line in outcome.stdout.decode().splitlines():
        match = LINE.match(line)
        if not match:
            continue
        words = dict(re.findall(r'(\w+)=(\S+)', match[4]))
        if match[3] == 'process_madvise':
            assert words['advice'] == '20', line
            words = {'addr': words['pidfd'], 'length': words['ranges'], 'prot': words['count']}
        third = words.get('prot') or words.get('advice') or words.get('new_length') or '0'
        first = words.get('to') or words.get('addr')
        yield [number(match[2]), match[3], number(first), number(words.get('length', '0')),
               number(third), number(match[5])]


def marks(heapledger, trace, kind):
    """What the kernel says of processes: thread and words of each."""
    outcome = run([heapledger, 'dump', trace])
    for line in outcome.stdout.decode().splitlines():
        words = line.split()
        if words[0].endswith('.kernel') and words[3] == kind:
            yield int(words[2]), {name: number(value) for name, value in
                                  (word.split('=') for word in words[4:])}


def between_marks(calls, tid):
    """What a thread did between its two marks."""
    own = [call for call in calls if call[0] == tid]
    marks = [i for i, call in enumerate(own) if call[1] == 'madvise' and call[4] == 9999]
    assert len(marks) == 2, own
    return own[marks[0] + 1:marks[1]]


def test_sees_every_call(record, heapledger, build, tmp_path):
    outcome, kernel = record(build / 'tests' / 'victims' / 'victim_probe_calls')
    said = [line.split() for line in outcome.stdout.decode().splitlines()]
    said = [[int(tid), name, *map(number, rest)] for tid, name, *rest in said]
    calls = list(kernel_calls(heapledger, tmp_path / 'trace'))
    tids = dict.fromkeys(line[0] for line in said)
    assert len(tids) == 3
    for tid in tids:
        assert between_marks(calls, tid) == [line for line in said if line[0] == tid]
        assert len(between_marks(calls, tid)) == 10
    assert kernel['lost'] == 0
    assert kernel['events'] == len(calls) + sum(
        len(list(marks(heapledger, tmp_path / 'trace', kind))) for kind in MARKS)


def test_follows_children(record, heapledger, tmp_path):
    record('/bin/bash', '-c', 'for i in 1 2 3 4 5; do /bin/true; (exit 0); done; true')
    calls = list(kernel_calls(heapledger, tmp_path / 'trace'))
    images = [call for call in calls if call[1] == 'brk' and call[2] == 0]
    assert len({call[0] for call in images}) >= 6


def test_sees_forks_execs_and_exits(way, record, heapledger, tmp_path):
    """A shell, a child that runs another program, one that fails, and one that is killed."""
    record('/bin/sh', '-c', '/bin/true; (exit 3); sh -c "kill -9 \\$\\$"; exit 0')
    trace = tmp_path / 'trace'
    forks = list(marks(heapledger, trace, 'process_fork'))
    children = [words['child'] for _, words in forks]
    assert len(children) == 3
    shell = forks[0][0]
    assert all(tid == words['pid'] == shell for tid, words in forks)
    execs = [tid for tid, _ in marks(heapledger, trace, 'process_exec')]
    assert execs == [shell, children[0], children[2]]
    exits = {words['pid']: words['wait_status'] for _, words in
             marks(heapledger, trace, 'process_exit')}
    ends = {children[0]: 0, children[1]: 3 << 8, children[2]: 9, shell: 0}
    assert exits == (dict.fromkeys(ends, 'unknown') if way == 'classic' else ends)


THREADS_END = '''import ctypes, os, threading, time
for _ in range(3):
    if os.fork() == 0:
        gate = threading.Barrier(9)
        threads = [threading.Thread(target=gate.wait) for _ in range(8)]
        [thread.start() for thread in threads]
        gate.wait()
        os._exit(0)
    os.wait()
def outlive():
    while open('/proc/self/stat').read().rsplit(')')[1].split()[0] != 'Z':
        time.sleep(0.01)
    os._exit(7)
threading.Thread(target=outlive).start()
ctypes.CDLL(None).syscall(60, 0)  # the first thread leaves, and another is the last
'''


def test_a_process_ends_once_whichever_thread_is_the_last(record, heapledger, tmp_path):
    record('/usr/bin/python3', '-I', '-S', '-c', THREADS_END, status=7)
    trace = tmp_path / 'trace'
    forks = list(marks(heapledger, trace, 'process_fork'))
    exits = sorted(words['pid'] for _, words in marks(heapledger, trace, 'process_exit'))
    assert len(exits) == 4
    assert exits == sorted({*(words['child'] for _, words in forks), forks[0][0]})


TOUCH = '''import mmap, os, resource, threading, time
def touch(pages):
    memory = mmap.mmap(-1, pages * 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory.madvise(15)  # no huge pages
    for page in range(pages):
        memory[page * 4096] = 1
    return memory
def faults(usage):
    return usage.ru_minflt + usage.ru_majflt
def child(name, work):
    pid = os.fork()
    if pid == 0:
        work()
        os._exit(0)
    print(name, pid, faults(os.wait4(pid, 0)[2]), flush=True)
def give_back():
    memory, began = touch(1000), time.monotonic()
    while time.monotonic() - began < 0.01:
        pass  # memory is told of once a millisecond
    before = faults(resource.getrusage(resource.RUSAGE_SELF))
    memory.madvise(4)
    print('between', os.getpid(), before, faults(resource.getrusage(resource.RUSAGE_SELF)), flush=True)
def threads():
    all = [threading.Thread(target=touch, args=(200,)) for _ in range(8)]
    [one.start() for one in all]
    [one.join() for one in all]
def at_once():
    gate = threading.Barrier(17)
    def wait():
        touch(100)
        gate.wait()
        threading.Event().wait()
    [threading.Thread(target=wait).start() for _ in range(16)]
    gate.wait()
def execute():
    def run():
        touch(300)
        os.execv('/bin/true', ['true'])
    touch(300)
    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
child('nothing', lambda: None)
child('touch', give_back)
child('threads', threads)
child('at_once', at_once)
child('execute', execute)'''
TOUCHED = {'nothing': 0, 'touch': 1000, 'threads': 8 * 200, 'at_once': 16 * 100, 'execute': 600}


def test_page_faults_are_those_that_the_kernel_counts(way, record, heapledger, tmp_path):
    """Those of getrusage, exactly: of one thread and of several, which end before their process or
    with it, and of one that goes on alone in another program."""
    outcome, _ = record('/usr/bin/python3', '-I', '-S', '-c', TOUCH)
    said = [line.split() for line in outcome.stdout.decode().splitlines()]
    between = [list(map(int, rest)) for name, *rest in said if name == 'between']
    said = {name: list(map(int, rest)) for name, *rest in said if name != 'between'}
    assert said.keys() == TOUCHED.keys()
    trace = tmp_path / 'trace'
    exits = {words['pid']: words for _, words in marks(heapledger, trace, 'process_exit')}
    told = list(marks(heapledger, trace, 'memory'))
    status, text, _ = verify(heapledger, trace)
    assert status == 0
    if way == 'classic':
        assert not told and not any('faults' in words for words in exits.values())
        for name, (pid, counted) in said.items():
            assert TOUCHED[name] <= exits[pid]['user_faults']
        total = sum(words['user_faults'] for words in exits.values())
        assert f'5 forks, 2 execs, 6 exits, {total} page faults in user mode\n' in text
        return
    assert {name: exits[pid]['faults'] for name, (pid, _) in said.items()} == {
        name: counted for name, (_, counted) in said.items()}
    assert all(counted >= TOUCHED[name] for name, (_, counted) in said.items())
    total = sum(words['faults'] for words in exits.values())
    assert f'5 forks, 2 execs, 6 exits, {total} page faults\n' in text
    [[pid, before, after]] = between
    own = [words for _, words in told if words['pid'] == pid]
    assert [words for words in own if before <= words['faults'] <= after], (before, after, own)
    assert own[-1]['faults'] == exits[pid]['faults']
    counts = [words['faults'] for words in own]
    assert counts == sorted(counts)


def test_tells_resident_memory_before_it_is_given_back(way, record, heapledger, tmp_path):
    record('/usr/bin/python3', '-I', '-S', '-c', TOUCH)
    told = list(marks(heapledger, tmp_path / 'trace', 'memory'))
    if way == 'classic':
        assert not told
        return
    child = [words['child'] for _, words in marks(heapledger, tmp_path / 'trace', 'process_fork')][1]
    own = [words['rss_anon'] for _, words in told if words['pid'] == child]
    assert own[0] < 1000 * 4096 <= max(own) + 64 * 4096
    assert own[-1] < max(own) - 900 * 4096


def test_sees_no_other_program(record, heapledger, tmp_path):
    """A program that is not ours makes the same calls all the while."""
    busy = subprocess.Popen([sys.executable, '-c', 'import mmap\n'
                             'while True: mmap.mmap(-1, 1 << 20).close()'])
    try:
        record('/bin/sleep', '0.3')
    finally:
        busy.kill()
        busy.wait()
    tids = {call[0] for call in kernel_calls(heapledger, tmp_path / 'trace')}
    assert tids and busy.pid not in tids
    assert len(tids) == 1


def holders(mark):
    """Processes of one run that have one of the kernel's attachments open: pid -> what all is open.
    A variable of its environment marks the run: other recordings may be under way."""
    found = {}
    for folder in Path('/proc').glob('[0-9]*/fd'):
        try:
            opened = [os.readlink(fd) for fd in folder.iterdir()]
            environment = (folder.parent / 'environ').read_bytes()
        except OSError:
            continue
        if mark.encode() in environment and any('bpf' in name for name in opened):
            found[int(folder.parent.name)] = opened
    return found


def is_alone(opened):
    """Whether nothing is open but the links, and the pipe that says when they may go."""
    others = [name for name in opened if 'bpf' not in name]
    return len(others) == 1 and others[0].startswith('pipe:')


def test_nobody_waits_for_the_kernel_to_let_go(heapledger, tmp_path):
    """Switching twelve tracepoints off takes most of a second. What does it has nothing else open,
    so that no reader of our output and no mount waits for it, and soon it is gone."""
    mark = str(tmp_path)
    outcome = run([heapledger, 'record', '-o', tmp_path / 'trace', '--kernel', 'require', '--',
                   '/bin/true'], env={'HEAPLEDGER_PROBE': 'tracefs', 'TEST_MARK': mark})
    assert outcome.status == 0, outcome
    deadline = time.monotonic() + 30
    # It begins as a copy of the recorder, and closes what that had open first of all.
    left, before = holders(mark), {}
    while not all(map(is_alone, left.values())):
        assert time.monotonic() < deadline, left
        left, before = holders(mark), left
    assert left or not before, before  # it went on without, and did not keep it to its end
    while holders(mark):
        assert time.monotonic() < deadline, left
        time.sleep(0.05)


def test_a_recording_that_ends_before_its_program(heapledger, tmp_path):
    """Then the tree is alive, and still the count of what is missing must be right."""
    recorder = subprocess.Popen(
        [heapledger, 'record', '-o', tmp_path / 'trace', '--kernel', 'require', '--', '/bin/sh',
         '-c', f'{sys.executable} -c "import mmap, time\nprint(1, flush=True)\n'
               'end = time.monotonic() + 20\n'
               'while time.monotonic() < end: mmap.mmap(-1, 4096).close()" &'],
        stdout=subprocess.PIPE, env=CLEAN_ENVIRONMENT)
    assert recorder.stdout.readline() == b'1\n'
    time.sleep(0.3)
    recorder.terminate()
    assert recorder.wait(60) == 0
    session = json.loads((tmp_path / 'trace' / 'session.json').read_text())
    assert session['kernel']['state'] == 'recorded' and session['kernel']['lost'] == 0, session
    os.kill(session['streams'][-1]['pid'], signal.SIGKILL)


def totals(kernel):
    """Of each kind over all CPUs: how many there were, how many of them were dropped."""
    sums = {}
    for cpu in kernel['totals']:
        for name, pair in cpu.items():
            if name != 'cpu':
                ended, dropped = sums.get(name, (0, 0))
                sums[name] = ended + pair[0], dropped + pair[1]
    return sums


def test_every_call_is_counted_apart_from_the_events(record, heapledger, build, tmp_path):
    _, kernel = record(build / 'tests' / 'victims' / 'victim_probe_calls')
    assert len({cpu['cpu'] for cpu in kernel['totals']}) == len(kernel['totals'])
    seen = {}
    for call in kernel_calls(heapledger, tmp_path / 'trace'):
        seen[call[1]] = seen.get(call[1], 0) + 1
    for kind in MARKS:
        seen[kind] = len(list(marks(heapledger, tmp_path / 'trace', kind)))
    seen = {name: count for name, count in seen.items() if count}
    counted = totals(kernel)
    assert {name: ended for name, (ended, _) in counted.items() if ended} == seen
    assert not any(dropped for _, dropped in counted.values())


PROCESSES = 8
CALLS_A_MINUTE = 1_000_000


def move_breaks(heapledger, build, trace, pairs, **environment):
    """Eight processes that do nothing but move the break up and down: how many did so in a minute,
    and what session.json says."""
    outcome = run([heapledger, 'record', '-o', trace, '--kernel', 'require', '--set',
                   'trim_threshold=0', '--set', 'top_pad=0', '--',
                   build / 'tests' / 'victims' / 'victim_breaks', str(PROCESSES), str(pairs)],
                  env=environment)
    assert outcome.status == 0, outcome
    kernel = json.loads((trace / 'session.json').read_text())['kernel']
    return 2 * PROCESSES * pairs / int(outcome.stdout) * 60e9, kernel


def verify(heapledger, trace):
    outcome = run([heapledger, 'verify', trace])
    text = outcome.stdout.decode()
    rows = {words[0]: list(map(int, words[1:])) for words in map(str.split, text.splitlines())
            if len(words) == 8 and words[1].isdigit()}
    return outcome.status, text, rows


def test_a_million_calls_a_minute_and_none_is_lost(heapledger, build, tmp_path):
    pairs = 65_536
    rate, kernel = move_breaks(heapledger, build, tmp_path / 'trace', pairs)
    assert rate >= CALLS_A_MINUTE, 'the machine is too busy for this to be a test'
    ended, dropped = totals(kernel)['brk']
    assert ended >= 2 * PROCESSES * pairs
    assert dropped == 0 and kernel['lost'] == 0
    status, text, rows = verify(heapledger, tmp_path / 'trace')
    logged, matched, missing, foreign, events, dropped, counted = rows['brk']
    assert status == 0 and text.startswith('VERIFIED'), text
    assert (missing, dropped) == (0, 0) and logged == matched
    assert counted == events == ended == logged + foreign


def test_a_ring_that_is_too_small_says_what_it_lost(heapledger, build, tmp_path):
    """The same run twice: what is missing with a ring of one page is what the kernel says it dropped,
    to the call."""
    _, whole = move_breaks(heapledger, build, tmp_path / 'whole', 4000)
    _, kernel = move_breaks(heapledger, build, tmp_path / 'trace', 4000,
                            HEAPLEDGER_PROBE_RING='4096')
    counted = totals(kernel)
    ended = {name: pair[0] for name, pair in counted.items() if name != 'memory'}
    assert ended == {name: pair[0] for name, pair in totals(whole).items() if name != 'memory'}
    lost = sum(pair[1] for pair in counted.values())
    assert lost == kernel['lost'] > 1000
    assert lost == sum(pair[0] for pair in counted.values()) - kernel['events']
    status, text, rows = verify(heapledger, tmp_path / 'trace')
    assert status == 4 and text.startswith('INCOMPLETE'), text
    assert f'{lost:8}  events lost by the kernel probe\n' in text
    assert {name: row[5] for name, row in rows.items()} == {
        name: pair[1] for name, pair in counted.items() if name not in MARKS}
    assert ': WRONG' not in text
    _, _, whole_rows = verify(heapledger, tmp_path / 'whole')
    for name, (logged, matched, missing, foreign, events, dropped, counted) in rows.items():
        assert events + dropped == counted == ended[name]
        assert events == matched + foreign
        assert counted == logged + whole_rows[name][3], name


def test_a_ring_that_cannot_be_is_no_kernel_side(heapledger, tmp_path):
    outcome = run([heapledger, 'record', '-o', tmp_path / 'trace', '--kernel', 'require', '--',
                   '/bin/true'], env={'HEAPLEDGER_PROBE_RING': 'much'})
    assert outcome.status == 4 and not outcome.stdout
    assert outcome.stderr.startswith(b'heapledger: record: no kernel record: ')
    assert outcome.stderr.count(b'\n') == 1
