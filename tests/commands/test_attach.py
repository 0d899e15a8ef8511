# SPDX-License-Identifier: MIT
"""`heapledger attach` follows a process that runs already: its system calls and, with --malloc, its
allocator's calls to the last one; and leaves it as it was."""

import json
import os
import pty
import re
import signal
import struct
import subprocess
from pathlib import Path

import pytest

from conftest import CLEAN_ENVIRONMENT, analyze, run, wait_for
from probe_fixture import skip_without_probe
from test_observe import LIBRARIES, find_library

WAIT = 60
MAPS = {'mmap': 2, 'munmap': 1, 'mremap': 1, 'madvise': 1, 'mprotect': 2}  # of the order `maps 1`
CALLS = {'malloc': 2, 'realloc': 2, 'calloc': 1, 'memalign': 1, 'posix_memalign': 1, 'free': 6}
OLD = 100
INSIDE = ('slack_bytes', 'free_bytes', 'arena_bytes', 'block_bytes', 'metadata_bytes')


class Victim:
    """A process that does what it is told, on a line each."""

    def __init__(self, path, env=None, before=()):
        self.process = subprocess.Popen([*before, path], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, env={**CLEAN_ENVIRONMENT, **(env or {})})
        assert self.process.stdout.readline() == b'ready\n'
        self.pid = self.process.pid
        self.proc = Path(f'/proc/{self.pid}')

    def order(self, line):
        self.process.stdin.write(line.encode() + b'\n')
        self.process.stdin.flush()
        assert self.process.stdout.readline() == b'done\n'

    def end(self):
        self.process.stdin.close()
        self.process.wait(WAIT)
        self.process.stdout.close()

    def own_code(self):
        return next((start, end) for start, end, rights, name in self.maps()
                    if 'x' in rights and 'victim_attached' in name)

    def maps(self):
        """(start, end, rights, name) of each mapping."""
        found = []
        for line in (self.proc / 'maps').read_text().splitlines():
            words = line.split(maxsplit=5)
            start, end = (int(word, 16) for word in words[0].split('-'))
            found.append((start, end, words[1], words[5] if len(words) > 5 else ''))
        return found

    def code(self):
        """All that can be executed and is in a file, as it is in memory."""
        with open(self.proc / 'mem', 'rb') as memory:
            text = {}
            for start, end, rights, name in self.maps():
                if 'x' in rights and name.startswith('/'):
                    memory.seek(start)
                    text[start] = memory.read(end - start)
            return text

    def copies(self):
        """KiB of its code that are its own copy and no more the file's."""
        kib, code = 0, False
        for line in (self.proc / 'smaps').read_text().splitlines():
            if re.match('[0-9a-f]+-[0-9a-f]+ ', line):
                code = ' r-xp ' in line and '/' in line
            elif code and line.startswith('Anonymous:'):
                kib += int(line.split()[1])
        return kib

    def state(self):
        """What somebody could leave behind."""
        status = (self.proc / 'status').read_text()
        return {'tracer': re.search(r'TracerPid:\s*(\d+)', status)[1],
                'pending': re.findall(r'(?:SigPnd|ShdPnd|SigBlk|SigCgt):\s*(\w+)', status),
                'files': sorted(os.listdir(self.proc / 'fd')),
                'threads': sorted(os.listdir(self.proc / 'task'))}


def forget_file(path):
    """Its pages that no process has mapped leave memory."""
    with open(path, 'rb') as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


class Footprint:
    """What a process was like before; it must be so again."""

    def __init__(self, victim):
        self.victim = victim
        self.code, self.state, self.maps = victim.code(), victim.state(), victim.maps()
        self.copies = victim.copies()

    def assert_probed(self):
        """So that what would be left can be seen."""
        assert self.victim.code() != self.code and self.victim.state() == self.state
        assert self.victim.copies() > self.copies

    def assert_left(self):
        # The kernel leaves a copy in place that somebody reads when the last probe goes: smaps first.
        wait_for(lambda: self.victim.copies() == self.copies)
        assert self.victim.code() == self.code and self.victim.state() == self.state
        more = [mapping for mapping in self.victim.maps() if mapping not in self.maps]
        (start, end, rights, name), = [one for one in more if one[3] not in ('', '[heap]')]
        assert name == '[uprobes]' and end - start == 4096 and 'r' not in rights and 'w' not in rights


@pytest.fixture
def victim(victims):
    victim = Victim(victims / 'victim_attached')
    yield victim
    victim.end()


class Attached:
    """heapledger attach, from when it is there on."""

    def __init__(self, heapledger, trace, pid, *options, env=None, before=(), stderr=subprocess.PIPE):
        self.heapledger, self.trace = heapledger, trace
        self.process = subprocess.Popen(
            [*before, heapledger, 'attach', '-o', trace, *options, str(pid)],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=stderr,
            env={**CLEAN_ENVIRONMENT, **(env or {})})
        wait_for(lambda: (trace / 'session.json').exists() or self.process.poll() is not None)

    def end(self, number=signal.SIGINT):
        """Its exit status and what it said."""
        self.process.send_signal(number)
        return self.wait()

    def wait(self):
        stdout, stderr = self.process.communicate(timeout=WAIT)
        assert stdout == b''
        return self.process.returncode, stderr.decode() if stderr is not None else ''

    def result(self):
        """The analysis and session.json, of an end as it should be."""
        return analyze(self.heapledger, self.trace), json.loads(
            (self.trace / 'session.json').read_text())


@pytest.fixture
def attach(build, heapledger, tmp_path):
    skip_without_probe(build)

    def call(pid, *options, **more):
        return Attached(heapledger, tmp_path / 'trace', pid, *options, **more)
    return call


def counts(analysis, names=MAPS):
    return {name: analysis['syscalls'][name] for name in names}


def test_system_calls_of_a_process_and_its_children(attach, victim, heapledger, tmp_path):
    attached = attach(victim.pid)
    for order in 'maps 25', 'children 4', 'break 100':
        victim.order(order)
    mapped = [(start, end, rights, name) for start, end, rights, name in victim.maps()
              if rights.endswith('p') and (name in ('', '[heap]') or name.startswith('[anon:'))]
    heap = sum(end - start for start, end, _, name in mapped if name == '[heap]')
    assert attached.end() == (0, '')
    analysis, session = attached.result()
    root, *children = analysis['processes']

    assert analysis['mode'] == session['mode'] == 'attached' and analysis['complete']
    assert analysis['sizes'] is None and analysis['lifetimes'] is None
    assert session['kernel']['state'] == 'recorded' and session['kernel']['lost'] == 0
    assert counts(root) == {name: 24 + count for name, count in MAPS.items()} and root['syscalls']['brk'] == 1
    ended = [(child['exit'], counts(child)) for child in children if child['exit']]
    assert len(ended) == 4 and all(exit == {'status': 7} for exit, _ in ended)
    assert sum(found == MAPS for _, found in ended) == 2  # copies; the others have a loader
    assert all(found[name] >= 1 for _, found in ended for name in MAPS)
    # What there was before is counted, and followed.
    held = sum(end - start for start, end, rights, _ in mapped if rights != '---p')
    assert root['end']['mapped_bytes'] == held
    assert root['end']['mapped_bytes'] + root['end']['reserved_bytes'] == sum(
        end - start for start, end, *_ in mapped)
    assert root['end']['break_bytes'] == heap and root['began_late'] and root['ran_on']
    assert root['since_attach']['minor_faults'] >= 100

    # Nothing is known of the allocator, and so nothing is said.
    assert analysis['events']['calls'] is None and analysis['events']['by_call'] is None
    for figures in root['end'], root['peak'], root['peak']['at_mapped']:
        assert figures['requested_bytes'] is None and figures['live_blocks'] is None
    assert all(root['end'][name] is None for name in INSIDE)
    assert all(root['since_attach'][name] is None for name in ('live_bytes', 'allocated_blocks'))
    assert root['syscalls']['foreign'] is None and root['returned'] is None
    text = run([heapledger, 'analyze', attached.trace]).stdout.decode()
    assert 'unknown allocator calls' in text and max(map(len, text.splitlines())) <= 80
    dump = run([heapledger, 'dump', '--kind', 'memory,process_exit', attached.trace]).stdout.decode()
    told = re.findall(r' (memory|process_exit) .*?faults=(\w+) .*?pid=(\d+) ', dump)
    assert {faults for _, faults, pid in told if int(pid) == victim.pid} == {'unknown'}
    assert sum(kind == 'process_exit' and int(faults) > 0 for kind, faults, pid in told
               if int(pid) != victim.pid) == 4
    assert run([heapledger, 'verify', attached.trace]).stdout.startswith(b'UNVERIFIED: the process was')
    page = tmp_path / 'report.html'
    assert run([heapledger, 'report', attached.trace, '-o', page]).status == 0
    assert 'mode attached' in page.read_text()
    assert '<h2>Where in the code</h2>\n<p class="missing">' in page.read_text()
    budget = tmp_path / 'heap.toml'
    budget.write_text('[syscalls]\nbrk = 10\n[peak]\nmapped = "1 GiB"\n')
    assert run([heapledger, 'check', attached.trace, '--budget', budget]).status == 0
    budget.write_text('[peak]\nrequested = "1 GiB"\n')
    assert run([heapledger, 'check', attached.trace, '--budget', budget]).status == 4


def own_calls(heapledger, trace, victim_code, names=(*CALLS, 'realloc_begin')):
    """How often each call was made from the victim's own code."""
    found = {}
    start, end = victim_code
    kinds = ','.join(names)
    for line in run([heapledger, 'dump', '--no-time', '--kind', kinds, trace]).stdout.decode().splitlines():
        caller = int(line.rsplit('caller=', 1)[1], 16)
        if start <= caller < end:
            kind = line.split()[2]
            found[kind] = found.get(kind, 0) + 1
    return found


@pytest.mark.parametrize('name', [*LIBRARIES, 'static'])
def test_calls_of_an_allocator(attach, victims, heapledger, name):
    path = find_library(LIBRARIES[name]) if LIBRARIES.get(name) else None
    if LIBRARIES.get(name) and not path:
        pytest.skip(f'{LIBRARIES[name]} is not installed')
    # A static glibc's own calls of free, when a thread ends, look like anybody's.
    threads, rounds = 1 if name == 'static' else 3, 40
    victim = Victim(victims / ('victim_attached_static' if name == 'static' else 'victim_attached'),
                    {'LD_PRELOAD': path} if path else {})
    victim.order('calls 2 0')  # the first thread has libc set up what threads need
    code, before = victim.own_code(), Footprint(victim)
    attached = attach(victim.pid, '--malloc')
    before.assert_probed()
    victim.order(f'calls {threads} {rounds}')
    victim.order('old')
    victim.order('break 4000')
    if path:
        forget_file(path)  # or the kernel does, as nobody else uses the pages with the probes
    status, said = attached.end()
    before.assert_left()
    victim.end()
    assert status == 0, said
    assert not said
    analysis, session = attached.result()

    expected = {call: count * threads * rounds for call, count in CALLS.items()}
    expected |= {'free': expected['free'] + OLD, 'realloc_begin': expected['realloc']}
    assert own_calls(heapledger, attached.trace, code) == expected
    assert analysis['complete'] and analysis['events']['lost'] == 0
    assert not any(analysis['anomalies'].values()), analysis['anomalies']
    since = analysis['since_attach']
    assert since['live_blocks'] >= threads * rounds and since['live_bytes'] >= 10 * threads * rounds
    assert since['peak_live_bytes'] >= since['live_bytes']
    assert since['unseen_blocks_freed'] == OLD
    # What the old ones took and how long they lived is not known, and they are in no sum.
    lives = analysis['lifetimes']
    assert lives['live_blocks'] + lives['before']['live_blocks'] == since['live_blocks']
    assert lives['freed_blocks'] >= (CALLS['free'] - 1) * threads * rounds and lives['time'] is not None
    assert sum(row['count'] for row in analysis['sizes']) == since['allocated_blocks']
    assert all(row['chunk_bytes'] is None for row in analysis['sizes'])
    # Each system call says in which call it was made, or that it was in none.
    causes = {(cause['syscall'], cause['call']) for cause in analysis['syscalls']['by_cause']}
    assert ('brk', None) in causes
    if name == 'glibc':
        assert any(call == 'malloc' for _, call in causes)
    # What it cost was measured, and is the hits' sum.
    hits = session['attach']['hits']
    least = sum(CALLS.values()) * threads * rounds
    assert sum(hit['count'] for hit in hits.values()) >= least
    assert hits['return']['count'] >= 7 * threads * rounds
    total = sum(hit['count'] * hit['ns_each'] for hit in hits.values())
    assert total == pytest.approx(session['attach']['seconds'] * 1e9)
    assert hits['stepped']['ns_each'] > hits['emulated']['ns_each'] > 50


OBJECTS = {'malloc': 8, 'aligned_alloc': 6, 'free': 14}  # of the order `objects 1 1`


@pytest.mark.parametrize('name', LIBRARIES)
def test_objects_of_cpp_by_an_allocators_own_operators(attach, victims, heapledger, name):
    """Every form of new and delete is told once, and one that throws goes on to do so."""
    path = find_library(LIBRARIES[name]) if LIBRARIES[name] else None
    if LIBRARIES[name] and not path:
        pytest.skip(f'{LIBRARIES[name]} is not installed')
    if not (victims / 'victim_attached_cpp').exists():
        pytest.skip('built without C++')
    threads, rounds, failures = 3, 40, 5 if name != 'mimalloc' else 0  # which never throws
    victim = Victim(victims / 'victim_attached_cpp', {'LD_PRELOAD': path} if path else {})
    victim.order('objects 2 0')  # the first thread has libc set up what threads need
    code, before = victim.own_code(), Footprint(victim)
    attached = attach(victim.pid, '--malloc')
    before.assert_probed()
    victim.order(f'objects {threads} {rounds}')
    victim.order(f'throws {failures}')
    victim.order('objects 1 1')
    status, said = attached.end()
    before.assert_left()
    victim.end()
    assert (status, said) == (0, '')
    analysis, _ = attached.result()

    made = {kind: count * (threads * rounds + 1) for kind, count in OBJECTS.items()}
    made['malloc'] += failures * (3 if path else 1)  # that of deeper(), and each new of a library
    made['free'] += 2 * failures  # and that of the exception, by jumps from here
    if not path:  # its operators are libstdc++'s: new calls malloc, delete jumps to free
        made = {'free': made['free'], 'malloc': threads * rounds + 1 + failures}
    assert own_calls(heapledger, attached.trace, code, OBJECTS) == made
    assert analysis['complete'] and analysis['events']['lost'] == 0
    assert not any(analysis['anomalies'].values()), analysis['anomalies']
    since = analysis['since_attach']
    assert since['live_blocks'] >= threads * rounds and since['live_bytes'] >= 10 * threads * rounds


@pytest.mark.disorder
def test_calls_that_were_lost_are_counted_and_said(attach, victim, heapledger):
    code = victim.own_code()
    ours, theirs = pty.openpty()
    attached = attach(victim.pid, '--malloc', stderr=theirs,
                      env={'HEAPLEDGER_ALLOCATOR_RING': '4096', 'TERM': 'dumb'})
    os.close(theirs)
    victim.order('calls 1 3000')
    status, _ = attached.end()
    analysis, session = attached.result()
    found, lost = own_calls(heapledger, attached.trace, code), analysis['events']['lost']
    made = (sum(CALLS.values()) + CALLS['realloc']) * 3000
    assert status == 0 and 0 < lost < made and sum(found.values()) + lost == made
    assert not analysis['complete'] and session['streams'][0]['lost'] == lost

    lines = os.read(ours, 65536).decode().split('\r\n')
    os.close(ours)
    assert lines.pop() == '' and all(len(line) <= 80 or str(attached.trace) in line for line in lines)
    assert lines[0] == f'heapledger: attached to process {victim.pid}; Ctrl-C ends it'
    assert lines[1] == f'heapledger: attach: {lost} records of allocator calls were lost'
    assert re.match(r'heapledger: \d+ system calls of 1 process image in \d+\.\d s$', lines[2]), lines
    assert re.match(r'heapledger: RSS \S+ .iB at the attach, \S+ .iB at last, \d+ page faults$', lines[3])
    assert re.match(fr'heapledger: \d+ allocator calls of libc\.so\.6, {lost} records lost$', lines[4])
    assert re.match(r'heapledger: \d+ probe hits at \d+\.\d\d us cost it \d+\.\d\d s, \d+\.\d % of', lines[5])
    assert lines[-2:] == ['heapledger: detached, the process runs on',
                          f'heapledger: next: heapledger analyze {attached.trace}']


def test_nothing_is_left_by_an_attach_that_is_killed(attach, victim):
    victim.order('calls 1 2')
    before = Footprint(victim)
    attached = attach(victim.pid, '--malloc')
    victim.order('calls 1 2')
    assert victim.copies() > before.copies  # nobody reads the code, which would keep the copies
    attached.end(signal.SIGKILL)
    before.assert_left()
    victim.order('calls 1 2')


def test_the_end_of_the_process_is_the_end(attach, victim):
    attached = attach(victim.pid)
    victim.order('maps 1')
    victim.end()  # which then exits with 3
    assert attached.wait() == (0, '')
    analysis, session = attached.result()
    assert session['exit'] == analysis['exit'] == {'status': 3} and analysis['complete']
    assert session['streams'][0]['end'] == 'exit' and not analysis['processes'][0]['ran_on']


def test_a_process_without_privileges_is_sampled(attach, heapledger, victims, tmp_path):
    bare = ['setpriv', '--bounding-set=-all', '--inh-caps=-all']
    victim = Victim(victims / 'victim_attached', before=bare)
    missing = 'no permission: CAP_BPF and CAP_PERFMON are missing (run as root, or give both)'
    for options, said in (['--malloc'], f"--malloc needs the kernel's probes: {missing}"), (
            ['--kernel', 'require'], f'no kernel record: {missing}'):
        outcome = run([*bare, heapledger, 'attach', '-o', tmp_path / 'none', *options, victim.pid])
        assert (outcome.status, outcome.stderr.decode()) == (4, f'heapledger: attach: {said}\n')
        assert not (tmp_path / 'none').exists()
    attached = attach(victim.pid, before=bare)
    victim.order('maps 5')
    assert attached.end() == (0, f'heapledger: attach: system calls are missing: {missing}\n')
    victim.end()
    analysis, session = attached.result()
    assert session['kernel']['state'] == 'unavailable' and analysis['complete']
    assert analysis['syscalls']['total'] is None and analysis['end']['mapped_bytes'] is None
    assert analysis['peak']['rss_bytes'] > 100000 and analysis['since_attach']['minor_faults'] >= 20
    text = run([heapledger, 'analyze', attached.trace]).stdout.decode()
    assert 'unknown allocator calls, unknown system calls' in text
    assert missing in analysis['notes'][0]


def program_32(path):
    """One that pauses for ever: mov $29, %eax; int $0x80; jmp to the start."""
    code = b'\xb8\x1d\x00\x00\x00\xcd\x80\xeb\xf7'
    header = struct.pack('<16sHHIIIIIHHHHHH', b'\x7fELF\1\1\1', 2, 3, 1, 0x8048054, 52, 0, 0, 52, 32,
                         1, 40, 0, 0)
    segment = struct.pack('<8I', 1, 0, 0x8048000, 0x8048000, 84 + len(code), 84 + len(code), 5, 4096)
    path.write_bytes(header + segment + code)
    path.chmod(0o755)
    return path


@pytest.fixture
def started():
    """Starts programs, and ends them."""
    processes = []

    def start(*argv, **more):
        processes.append(subprocess.Popen([str(word) for word in argv], stdin=subprocess.PIPE,
                                          stdout=subprocess.PIPE, env=CLEAN_ENVIRONMENT, **more))
        return processes[-1]
    yield start
    for process in processes:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def test_what_cannot_be_followed_is_said_in_a_line(heapledger, victim, victims, started, tmp_path):
    def refused(pid, status, said, *before):
        outcome = run([*before, heapledger, 'attach', '-o', tmp_path / 'none', pid])
        assert (outcome.status, outcome.stderr.decode()) == (status, f'heapledger: attach: {said}\n')
        assert not outcome.stdout and not (tmp_path / 'none').exists()

    most = int(Path('/proc/sys/kernel/pid_max').read_text())
    refused(most + 1, 127, f'there is no process {most + 1}')
    refused('12x', 2, 'the number of a process is needed, not 12x')
    zombie = started('/bin/true')
    wait_for(lambda: ') Z ' in Path(f'/proc/{zombie.pid}/stat').read_text())
    refused(zombie.pid, 126, f'process {zombie.pid} has ended (a zombie)')
    recorded = started(heapledger, 'record', '-q', '-o', tmp_path / 'recorded', '--kernel', 'off', '--',
                       victims / 'victim_attached')
    assert recorded.stdout.readline() == b'ready\n'
    child = int(Path(f'/proc/{recorded.pid}/task/{recorded.pid}/children').read_text().split()[0])
    refused(child, 126, f'process {child} is being recorded already')
    recorded.stdin.close()
    recorded.wait(WAIT)
    recorded.stdin = open(os.devnull, 'rb')
    if os.geteuid() == 0:
        refused(victim.pid, 126, f'process {victim.pid}: it is not yours: run as root, or as its user',
                'setpriv', '--reuid=65534', '--clear-groups')
    kernel = [path for path in Path('/proc/2').glob('comm') if path.read_text() == 'kthreadd\n']
    if kernel:
        refused(2, 126, '2 is a thread of the kernel, without memory')
    try:
        small = started(program_32(tmp_path / 'small'))
    except OSError:
        return  # a kernel without 32-bit programs
    refused(small.pid, 126, f'process {small.pid} is a 32-bit program')


def test_wrong_usage(heapledger, tmp_path):
    for options, said in ([], 'one process is needed (see --help)'), (
            ['1', '2'], 'one process is needed (see --help)'), (
            ['--duration', 'soon', '1'], '--duration: a time such as 500ms, 10s or 2m is needed, not soon'), (
            ['--interval', '0', '1'], '--interval: milliseconds from 1 to 3600000 are needed, not 0'), (
            ['--malloc', '--kernel', 'off', '1'], "--malloc needs the kernel's probes, not --kernel off"):
        outcome = run([heapledger, 'attach', *options])
        assert (outcome.status, outcome.stderr.decode()) == (2, f'heapledger: attach: {said}\n')
    help = run([heapledger, 'attach', '--help'])
    assert help.status == 0 and help.stdout.startswith(b'usage: heapledger attach')
