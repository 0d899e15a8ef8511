# SPDX-License-Identifier: MIT
"""`heapledger verify` believes what is true and nothing else: real programs are VERIFIED, and every
lie told about a single system call is found."""

import json
import os
import shutil

import pytest

from conftest import run
from probe_fixture import SYSCALL_KINDS, rewrite, rewrite_header, skip_without_probe

SQL = '''create table t(a integer primary key, b text);
with recursive c(x) as (select 1 union all select x + 1 from c where x < 20000)
insert into t select x, hex(randomblob(50)) from c;
update t set b = b || b where a % 3 = 0; drop table t;'''

THREADS = '''import threading, ctypes
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def work():
    for n in range(2000):
        libc.free(libc.malloc(1000 + n * 997 % 400000))
threads = [threading.Thread(target=work) for _ in range(4)]
[t.start() for t in threads]; [t.join() for t in threads]'''

FORKS = '''import os
for n in range(10):
    if os.fork() == 0:
        blocks = [bytes(300000) for _ in range(5)]
        os._exit(0)
    os.wait()
os.spawnv(os.P_WAIT, '/bin/true', ['true'])'''

GIT = r'''set -e
export GIT_CONFIG_NOSYSTEM=1 GIT_CONFIG_GLOBAL=/dev/null
git init -q -b main .
for i in 1 2 3; do
	seq 1 "$((i * 5000))" > a; seq "$i" 9000 > b; git add -A
	git -c user.name=A -c user.email=a@example.org commit -q -m "$i"
done
git gc -q --aggressive --prune=now
git fsck --full --strict'''

# redis-tools has the server, which goes by the name it is called by. The save is by a forked child.
REDIS = r'''set -e
ln -s "$(command -v redis-server || command -v redis-check-rdb)" ./redis-server
./redis-server --port 0 --unixsocket ./socket --io-threads 2 --io-threads-do-reads yes --save '' \
	--logfile log &
until redis-cli -s ./socket ping; do sleep 0.05; done
redis-benchmark -q -s ./socket -n 12000 -c 10 -t set,lpush -d 300 -r 4000
redis-cli -s ./socket bgsave
until redis-cli -s ./socket info persistence | grep rdb_bgsave_in_progress:0; do sleep 0.05; done
redis-cli -s ./socket shutdown nosave
wait'''

CODE = '\n'.join(f'int f{n}(int *a) {{ for (int i = 0; i < {n}; i++) a[i] += {n}; return a[1]; }}'
                 for n in range(1000)) + '\n'

LOST_OFFSET = 96  # of `lost` in a stream's header
PYTHON = ['/usr/bin/python3', '-I', '-S', '-c']


def record(heapledger, trace, *command, kernel='require', **more):
    outcome = run([heapledger, 'record', '-o', trace, '--kernel', kernel, '--', *command], **more)
    assert outcome.status == 0, outcome


def verify(heapledger, trace):
    outcome = run([heapledger, 'verify', trace])
    text = outcome.stdout.decode()
    assert all(len(line) <= 80 for line in text.splitlines()), text
    return outcome.status, text


def assert_verified(heapledger, trace, least):
    status, text = verify(heapledger, trace)
    assert status == 0 and text.startswith('VERIFIED: the kernel saw all '), text
    assert int(text.split()[5]) >= least, text


@pytest.mark.parametrize('command, input, least', [
    (['sqlite3', ':memory:'], SQL.encode(), 20),
    ([*PYTHON, THREADS], None, 100),
    ([*PYTHON, FORKS], None, 50),
    (['/bin/bash', '-c', 'for i in 1 2 3 4 5 6; do /bin/true; (exit 0); done; true'], None, 20),
    (['gcc', '-O2', '-x', 'c', '-c', '-o', '/dev/null', '-'], CODE.encode(), 50),
    (['xz', '-T2', '--block-size=200000', '-c'], bytes(range(256)) * 3000, 5),
    (['/bin/sh', '-c', GIT], None, 100),
    (['/bin/sh', '-c', REDIS], None, 100),
], ids=['sqlite3', 'threads', 'forks', 'shell', 'gcc', 'xz', 'git', 'redis'])
def test_true_traces_are_verified(build, heapledger, tmp_path, command, input, least):
    skip_without_probe(build)
    (tmp_path / 'place').mkdir()
    record(heapledger, tmp_path / 'trace', *command, input=input, cwd=tmp_path / 'place')
    assert_verified(heapledger, tmp_path / 'trace', least)


@pytest.mark.parametrize('command, input, least', [
    (['sqlite3', ':memory:'], SQL.encode(), 20),
    ([*PYTHON, THREADS], None, 100),
    (['/bin/bash', '-c', 'for i in 1 2 3 4 5 6; do /bin/true; (exit 0); done; true'], None, 20),
    (['victim_breaks', '8', '2000'], None, 32_000),
], ids=['sqlite3', 'threads', 'shell', 'breaks'])
def test_true_traces_are_verified_without_the_kernels_types(build, heapledger, tmp_path, command, input,
                                                            least):
    skip_without_probe(build)
    place = f"{build / 'tests' / 'victims'}:{os.environ['PATH']}"
    outcome = run([heapledger, 'record', '-o', tmp_path / 'trace', '--kernel', 'require', '--set',
                   'trim_threshold=0', '--set', 'top_pad=0', '--', *command], input=input,
                  env={'HEAPLEDGER_PROBE': 'classic', 'PATH': place})
    assert outcome.status == 0, outcome
    assert_verified(heapledger, tmp_path / 'trace', least)


def notes_of(heapledger, trace):
    """As session.json has them, and as people are told."""
    said = run([heapledger, 'analyze', '--json', '-', trace])
    notes = json.loads((trace / 'session.json').read_text())['notes']
    assert json.loads(said.stdout)['notes'] == notes
    assert said.stderr.decode() == ''.join(f'heapledger: analyze: note: {note}\n' for note in notes)
    return notes


@pytest.mark.parametrize('way', ['', 'classic'])
def test_images_that_record_nothing_are_named(build, heapledger, tmp_path, way):
    """Static programs load no library. Those that do are never among them, whether an exec began
    them, one that replaced another, or only a fork."""
    skip_without_probe(build)
    victim = build / 'tests' / 'victims' / 'victim_attached_static'
    shutil.copy(victim, tmp_path / 'plain')
    shutil.copy(victim, tmp_path / 'a\x1b[31m b')
    script = './plain; ./a*b; (exec ./plain); /bin/true; (exec sh -c "exec /bin/true"); (exit 0); ./plain; true'
    env = {'HEAPLEDGER_PROBE': way} if way else {}
    record(heapledger, tmp_path / 'trace', '/bin/bash', '-c', script, cwd=tmp_path, env=env, input=b'')
    assert notes_of(heapledger, tmp_path / 'trace') == [
        '4 program images ran unrecorded, static or set-user-ID perhaps: plain (3), a\\x1b[31m b']
    assert_verified(heapledger, tmp_path / 'trace', 5)
    names = [line.split(' name=')[1].split(' pid=')[0] for line in run(
        [heapledger, 'dump', '--kind', 'process_exec', tmp_path / 'trace']).stdout.decode().splitlines()]
    assert names == ['"bash"', '"plain"', '"a\\x1b[31m b"', '"plain"', '"true"', '"sh"', '"true"',
                     '"plain"']


def test_images_that_record_are_not_named_as_others(build, heapledger, tmp_path):
    skip_without_probe(build)
    record(heapledger, tmp_path / 'trace', '/bin/bash', '-c', 'for i in {1..50}; do /bin/true & done; wait')
    assert notes_of(heapledger, tmp_path / 'trace') == []


@pytest.fixture(scope='module')
def true_trace(build, heapledger, tmp_path_factory):
    """One trace for all the lies; it holds every kind of call."""
    skip_without_probe(build)
    trace = tmp_path_factory.mktemp('true') / 'trace'
    record(heapledger, trace, *PYTHON, THREADS)
    assert_verified(heapledger, trace, 100)
    return trace


@pytest.fixture
def trace(true_trace, tmp_path):
    """A copy to damage."""
    return shutil.copytree(true_trace, tmp_path / 'trace')


def log_of(trace):
    path, = [p for p in trace.glob('*.hlt') if '.kernel.' not in p.name]
    return path


def kernel_of(trace):
    path, = trace.glob('*.kernel.hlt')
    return path


class Once:
    """Changes one record of a kind that `fits`, in the middle of the first block with enough."""

    def __init__(self, kind, change, fits, least=2):
        self.kind, self.change, self.fits, self.done = SYSCALL_KINDS[kind], change, fits, False
        self.least = least

    def __call__(self, records):
        places = [i for i, record in enumerate(records)
                  if record['kind'] == self.kind and self.fits(record)]
        if self.done or len(places) < self.least:
            return records
        self.done = True
        return self.change(records, places[len(places) // 2])


def without(records, place):
    return records[:place] + records[place + 1:]


def twice(records, place):
    return records[:place + 1] + records[place:]


def longer(records, place):
    records[place]['words'][0] += 4096
    return records


def elsewhere(records, place):
    records[place]['words'][2] += 4096
    return records


def failed(records, place):
    records[place]['words'][2] = -12
    return records


def is_heap(record):
    """Not one of the recorder's own calls: bits 8..15 of the cause are the reason."""
    return record['words'][5] >> 8 & 0xff != 16


def lie(trace, kind, change):
    once = Once(kind, change, is_heap)
    rewrite(log_of(trace), once)
    assert once.done, f'the trace has no {kind} to change'


def forget_in_kernel(trace, kind):
    """Takes a call that the log has out of the kernel's side."""
    logged = set()

    def collect(records):
        logged.update((r['addr'], *r['words'][:3]) for r in records
                      if r['kind'] == SYSCALL_KINDS[kind])
        return records

    rewrite(log_of(trace), collect)
    once = Once(kind, without, lambda record: (record['addr'], *record['words'][:3]) in logged)
    rewrite(kernel_of(trace), once)
    assert once.done, f'the trace has no {kind} to forget'


def test_rewriting_alone_changes_nothing(heapledger, trace):
    rewrite(log_of(trace), lambda records: records)
    rewrite(kernel_of(trace), lambda records: records)
    assert_verified(heapledger, trace, 100)


@pytest.mark.parametrize('kind, change, text', [
    ('brk', without, 'the break was moved by a call that is not in the log'),
    ('munmap', without, 'a call that is not in the log reached into'),
    ('mmap', without, 'blocks in mappings that no logged call had obtained'),
    ('mprotect', without, 'a call that is not in the log reached into'),
    ('brk', twice, 'logged, but the kernel has not seen it'),
    ('mmap', twice, 'logged, but the kernel has not seen it'),
    ('mprotect', longer, 'logged, but the kernel has not seen it'),
    ('munmap', longer, 'logged, but the kernel has not seen it'),
    ('mmap', elsewhere, 'logged, but the kernel has not seen it'),
    ('brk', elsewhere, 'logged, but the kernel has not seen it'),
    ('munmap', failed, 'logged, but the kernel has not seen it'),
])
def test_a_lie_is_found(heapledger, trace, kind, change, text):
    lie(trace, kind, change)
    status, said = verify(heapledger, trace)
    assert status == 1 and said.startswith('INCOMPLETE: '), said
    assert text in said


@pytest.fixture
def record_by_liar(build, heapledger, tmp_path):
    """Records a program on the library that lies; gives what that says of its lie."""
    skip_without_probe(build)
    environment = {'HEAPLEDGER_LIBRARY': str(build / 'tests' / 'victims' / 'libliar.so'),
                   'GLIBC_TUNABLES': 'glibc.malloc.mmap_threshold=131072'}

    def call(**more):
        outcome = run([heapledger, 'record', '-q', '-o', tmp_path / 'trace', '--kernel', 'require', '--',
                       *PYTHON, THREADS], env={**environment, **more})
        assert outcome.status == 0, outcome
        return [line.split()[1:] for line in outcome.stderr.decode().splitlines()
                if line.startswith('lie: ')]
    return call


def test_a_liar_that_does_not_lie_is_verified(heapledger, tmp_path, record_by_liar):
    assert record_by_liar() == []
    assert_verified(heapledger, tmp_path / 'trace', 100)


@pytest.mark.parametrize('lie, finding', [
    ('hide', 'a call that is not in the log reached into'),
    ('size', 'logged, but the kernel has not seen it'),
    ('drop', 'blocks in mappings that no logged call had obtained')])
@pytest.mark.disorder
def test_a_library_that_lies_is_found(heapledger, tmp_path, record_by_liar, lie, finding):
    """One call of a whole program is hidden, wrong by a page, or lost and not counted: it is named."""
    (kind, *words), = record_by_liar(HEAPLEDGER_LIE=lie)
    thread, address, length = (int(word, 16) for word in words)
    assert kind == ('mmap' if lie == 'drop' else 'munmap')
    status, said = verify(heapledger, tmp_path / 'trace')
    assert status == 1 and said.startswith('INCOMPLETE: ') and finding in said, said
    named = [line.partition(f'/{thread} ')[2] for line in said.splitlines() if f'/{thread} ' in line]
    truth = f'munmap({address:#x}, {length}, 0) = 0x0'
    if lie == 'drop':  # nobody can tell it from the program's, but what lies in it can be told
        assert named[0] == truth and named[1].endswith(f') = {address + 16:#x}'), said
    else:
        lied = f'munmap({address:#x}, {length - 4096}, 0) = 0x0'
        assert named == ([truth] if lie == 'hide' else [lied, truth]), said


@pytest.mark.parametrize('lie, finding', [
    ('malloc', 'frees of blocks that no logged call had allocated'),
    ('free', 'blocks allocated anew that no logged call had freed')])
@pytest.mark.disorder
def test_an_allocator_call_that_is_not_in_the_log_is_found(
        heapledger, tmp_path, record_by_liar, lie, finding):
    """One record of a whole program is dropped and not counted: the next one of that block is named."""
    (kind, *words), = record_by_liar(HEAPLEDGER_LIE=lie)
    thread, address, _ = (int(word, 16) for word in words)
    assert kind == lie
    status, said = verify(heapledger, tmp_path / 'trace')
    assert status == 1 and said.startswith('INCOMPLETE: '), said
    assert f'       1  {finding}\n' in said, said
    after = said.partition(finding)[2].splitlines()[1]
    if lie == 'malloc':
        assert after.endswith(f'/{thread} free({address:#x})'), said
    else:
        assert ' malloc(' in after and after.endswith(f' = {address:#x}'), said


@pytest.mark.parametrize('kind', ['mmap', 'munmap', 'mprotect'])
def test_what_the_kernel_did_not_see_is_found(heapledger, trace, kind):
    forget_in_kernel(trace, kind)
    status, said = verify(heapledger, trace)
    assert status == 1 and said.startswith('INCOMPLETE: '), said
    assert 'logged, but the kernel has not seen it' in said


def test_loss_is_no_lie(heapledger, trace):
    """What the probe says it lost may be what is missing: not enough evidence, but no finding."""
    forget_in_kernel(trace, 'mprotect')
    rewrite_header(kernel_of(trace), LOST_OFFSET, '<Q', 1)
    status, said = verify(heapledger, trace)
    assert status == 4 and said.startswith('INCOMPLETE: '), said
    assert 'events lost by the kernel probe' in said


def edit_session(trace, edit):
    session = json.loads((trace / 'session.json').read_text())
    edit(session)
    (trace / 'session.json').write_text(json.dumps(session))


def busiest(session):
    return max(session['kernel']['totals'], key=lambda cpu: cpu.get('munmap', [0])[0])['munmap']


def one_more(session):
    busiest(session)[0] += 1


def one_less(session):
    busiest(session)[0] -= 1


def one_dropped(session):
    busiest(session)[1] += 1


@pytest.mark.parametrize('edit, text', [
    (one_more, 'events that the kernel counted and neither sent nor dropped'),
    (one_less, 'events more than the kernel counted'),
    (one_dropped, 'events more than the kernel counted'),
])
def test_the_kernels_own_count_must_add_up(heapledger, trace, edit, text):
    edit_session(trace, edit)
    status, said = verify(heapledger, trace)
    assert status == 1 and said.startswith('INCOMPLETE: '), said
    assert f'       1  {text}\n' in said
    assert 'that the kernel counted: WRONG\n' in said


def test_a_loss_that_is_counted_is_no_lie(heapledger, trace):
    """One call more has ended and was dropped, and the stream says so: it adds up, but not enough."""
    edit_session(trace, lambda session: (one_more(session), one_dropped(session)))
    rewrite_header(kernel_of(trace), LOST_OFFSET, '<Q', 1)
    status, said = verify(heapledger, trace)
    assert status == 4 and said.startswith('INCOMPLETE: '), said
    assert 'WRONG' not in said and ' + 1 dropped = ' in said


@pytest.mark.parametrize('change', [
    lambda number: number - 1,       # that of another event
    lambda number: number + 10**9])  # beyond all ends
def test_a_wrong_number_of_an_event_is_found(heapledger, trace, change):
    def renumber(records, place):
        records[place]['words'][6] = change(records[place]['words'][6])
        return records

    once = Once('munmap', renumber, lambda record: record['words'][6] > 0)
    rewrite(kernel_of(trace), once)
    assert once.done
    status, said = verify(heapledger, trace)
    assert status == 1 and '       1  events with a number that no event can have\n' in said, said


def failed_in_another_way(records, place):
    records[place]['words'][1] = 77 << 8
    return records


def of_another(records, place):
    records[place]['words'][1] = 1
    return records


@pytest.mark.parametrize('kind, change, text', [
    ('process_exit', failed_in_another_way, 'processes that the kernel saw end in another way'),
    ('process_fork', of_another, 'processes that the kernel has not seen being forked'),
])
def test_beginnings_and_ends_of_processes_are_held_against_the_kernels(
        build, heapledger, tmp_path, kind, change, text):
    skip_without_probe(build)
    trace = tmp_path / 'trace'
    record(heapledger, trace, *PYTHON, FORKS)
    assert_verified(heapledger, trace, 10)
    once = Once(kind, change, lambda record: True, least=1)
    rewrite(kernel_of(trace), once)
    assert once.done
    status, said = verify(heapledger, trace)
    assert status == 1 and said.startswith('INCOMPLETE: '), said
    assert f'       1  {text}\n' in said


def drop_totals(session):
    session['kernel']['totals'] = None


def spoil_totals(session):
    session['kernel']['totals'][0]['brk'] = ['many', 0]


def impossible_cpu(session):
    session['kernel']['totals'][0]['cpu'] = 10**12


@pytest.mark.parametrize('edit', [drop_totals, spoil_totals, impossible_cpu])
def test_without_the_kernels_count_loss_cannot_be_ruled_out(heapledger, trace, edit):
    edit_session(trace, edit)
    status, said = verify(heapledger, trace)
    assert status == 4 and said.startswith('INCOMPLETE: '), said
    assert "The kernel's count of all events is not in session.json.\n" in said


def test_half_a_trace_is_not_verified(build, heapledger, tmp_path):
    skip_without_probe(build)
    trace = tmp_path / 'trace'
    record(heapledger, trace, '/bin/bash', '-c', '/bin/true; /bin/true; :')
    assert_verified(heapledger, trace, 3)
    next(trace.glob('*.3.hlt')).unlink()
    status, said = verify(heapledger, trace)
    assert status == 4 and said.startswith('INCOMPLETE: '), said
    assert '1  streams not there, not closed whole' in said
    kernel_of(trace).unlink()
    assert verify(heapledger, trace) == (
        4, "UNVERIFIED: the kernel's stream was recorded, and is not there\n"
           "       1  streams not there, not closed whole, or without their parent's\n")


def test_a_foreign_break_is_found(build, heapledger, tmp_path):
    skip_without_probe(build)
    record(heapledger, tmp_path / 'trace', build / 'tests' / 'victims' / 'victim_foreign_break')
    status, said = verify(heapledger, tmp_path / 'trace')
    assert status == 1 and said.startswith('INCOMPLETE: '), said
    assert 'the break was moved by a call that is not in the log' in said


# What it does before its end is there to be seen in /proc.
KEEPS = '''import ctypes, os, threading, time
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def work(kept):
    for n in range(300):
        block = libc.malloc(1000 + n * 997 % 400000)
        ctypes.memset(block, 1, 1000)
        libc.free(block) if n % 3 else kept.append(block)
    libc.free(libc.malloc(64 << 20))
    kept.append(libc.malloc(1 << 20))
work([])
thread = threading.Thread(target=work, args=([],))
thread.start(); thread.join()
if os.fork() == 0:
    work([])
    time.sleep(0.6)
    os._exit(0)
time.sleep(0.6)
os.wait()'''

BY_PROC = "by /proc, not by the kernel's trace: "


@pytest.fixture(scope='module')
def true_proc_trace(heapledger, tmp_path_factory):
    trace = tmp_path_factory.mktemp('proc') / 'trace'
    record(heapledger, trace, *PYTHON, KEEPS, kernel='off')
    status, said = verify(heapledger, trace)
    assert status == 0 and said.startswith(f'VERIFIED {BY_PROC}processes as logged\n'), said
    assert "\nNo kernel's trace:\n  switched off with --kernel off\n" in said
    assert '\n[heap]          2 breaks are compared' in said
    return trace


@pytest.fixture
def proc_trace(true_proc_trace, tmp_path):
    return shutil.copytree(true_proc_trace, tmp_path / 'trace')


class Last:
    """Changes the last system call of a kind that `fits`, wherever it is in the stream."""

    def __init__(self, path, kind, change, fits=is_heap):
        self.kind, self.fits, self.change = SYSCALL_KINDS[kind], fits, change
        self.left, self.counting = 0, True
        rewrite(path, self)
        self.counting = False
        assert self.left > 0
        rewrite(path, self)

    def __call__(self, records):
        for place in [i for i, record in enumerate(records)
                      if record['kind'] == self.kind and self.fits(record)]:
            if self.counting:
                self.left += 1
                continue
            self.left -= 1
            if self.left == 0:
                return self.change(records, place)
        return records


def first_log(trace):
    return next(trace.glob('*.1.hlt'))


def far_away(records, place):
    records[place]['words'][2] += 1 << 40
    return records


def is_big(record):
    return is_heap(record) and record['words'][0] >= 64 << 20


def another_break(records, place):
    records[place]['words'][2] += 1 << 20
    return records


@pytest.mark.parametrize('kind, change, fits, text', [
    ('brk', another_break, is_heap, 'breaks that are not where the log left them'),
    ('mmap', far_away, is_heap, 'ranges that the log holds and that are not in maps'),
    ('munmap', without, is_big, 'ranges that the log holds and that are not in maps'),
    ('mmap', without, is_big, 'blocks in mappings that no logged call had obtained'),
])
@pytest.mark.disorder
def test_proc_finds_a_lie(heapledger, proc_trace, kind, change, fits, text):
    Last(first_log(proc_trace), kind, change, fits)
    status, said = verify(heapledger, proc_trace)
    assert status == 1 and said.startswith(f'INCOMPLETE {BY_PROC}'), said
    assert text in said


def other_break(proc):
    proc['heap_end'] += 4096


def nothing_mapped(proc):
    proc['ranges'] = []


def more_than_there_is(proc):
    proc['resident'].update(quiet=True, own_bytes=proc['resident']['anonymous_bytes'] +
                            proc['resident']['swap_bytes'] + 4096)


@pytest.mark.parametrize('edit, text', [
    (other_break, 'breaks that are not where the log left them'),
    (nothing_mapped, 'ranges that the log holds and that are not in maps'),
    (more_than_there_is, 'processes with more in pagemap than in smaps_rollup'),
])
def test_proc_that_says_otherwise_is_a_finding(heapledger, proc_trace, edit, text):
    edit_session(proc_trace, lambda session: edit(session['streams'][0]['proc']))
    status, said = verify(heapledger, proc_trace)
    assert status == 1 and said.startswith(f'INCOMPLETE {BY_PROC}'), said
    assert text in said


def unseen(session):
    session['streams'][1]['proc'] = None


def nonsense(session):
    session['streams'][1]['proc'] = {'from_ns': 'never', 'ranges': [[1], 'x', [5, 2]]}


@pytest.mark.parametrize('edit', [unseen, nonsense])
def test_a_process_that_was_not_seen_is_missing(heapledger, proc_trace, edit):
    edit_session(proc_trace, edit)
    status, said = verify(heapledger, proc_trace)
    assert status == 4 and said.startswith(f'INCOMPLETE {BY_PROC}1 of 2 processes seen\n'), said


def test_proc_says_nothing_of_a_log_with_loss(heapledger, proc_trace):
    Last(first_log(proc_trace), 'brk', another_break)
    rewrite_header(first_log(proc_trace), LOST_OFFSET, '<Q', 1)
    status, said = verify(heapledger, proc_trace)
    assert status == 4 and said.startswith(f'INCOMPLETE {BY_PROC}'), said
    assert 'events lost by the log' in said


def test_proc_finds_a_foreign_break(heapledger, tmp_path):
    record(heapledger, tmp_path / 'trace', *PYTHON, 'import ctypes, time\n'
           'ctypes.CDLL(None).sbrk(1 << 20)\ntime.sleep(0.6)', kernel='off')
    status, said = verify(heapledger, tmp_path / 'trace')
    assert status == 1 and said.startswith(f'INCOMPLETE {BY_PROC}1 findings\n'), said
    assert 'breaks that are not where the log left them' in said


def test_the_buffers_are_no_anonymous_memory_of_the_process(heapledger, tmp_path):
    """Shared memory, also where the recorder has not looked at a page yet: 16 MB of records."""
    record(heapledger, tmp_path / 'trace', *PYTHON, 'import time\n'
           'for i in range(1000): [bytes(600) for n in range(500)]\ntime.sleep(0.6)', kernel='off')
    stream, = json.loads((tmp_path / 'trace' / 'session.json').read_text())['streams']
    resident = stream['proc']['resident']
    assert resident['quiet'] and 0 < resident['own_bytes'] <= resident['present_bytes']
    assert resident['present_bytes'] <= resident['anonymous_bytes'] + resident['swap_bytes'] + 65536


def test_without_privilege_proc_stands_in(heapledger, tmp_path):
    """Threads and processes at work while they are looked at are no finding."""
    outcome = run(['setpriv', '--bounding-set=-all', '--inh-caps=-all', heapledger, 'record', '-o',
                   tmp_path / 'trace', '--', *PYTHON, THREADS.replace('range(2000)', 'range(9000)')])
    assert outcome.status == 0, outcome
    status, said = verify(heapledger, tmp_path / 'trace')
    assert status == 0 and said.startswith(f'VERIFIED {BY_PROC}process as logged\n'), said
    assert "\nNo kernel's trace:\n  no permission: CAP_BPF and CAP_PERFMON are missing" in said


def test_without_any_witness_it_is_unverified(heapledger, proc_trace):
    edit_session(proc_trace, lambda session: [stream.update(proc=None)
                                              for stream in session['streams']])
    assert verify(heapledger, proc_trace) == (4, 'UNVERIFIED: switched off with --kernel off\n')


def test_a_recording_that_began_late_is_not_held_against_proc(heapledger, tmp_path):
    """Its log has no calls from before, only the heap that they made."""
    outcome = run([heapledger, 'record', '-o', tmp_path / 'trace', '--start-after', '100ms', '--',
                   *PYTHON, KEEPS])
    assert outcome.status == 0, outcome
    assert verify(heapledger, tmp_path / 'trace') == (
        4, 'UNVERIFIED: switched off with --kernel off\n')


def test_what_is_no_trace(heapledger, tmp_path):
    outcome = run([heapledger, 'verify', tmp_path])
    assert outcome.status == 3
    assert outcome.stderr.count(b'\n') == 1 and str(tmp_path).encode() in outcome.stderr


def test_a_broken_kernel_stream_is_named(heapledger, trace):
    path = kernel_of(trace)
    data = bytearray(path.read_bytes())
    data[-5] ^= 0x55
    path.write_bytes(data)
    outcome = run([heapledger, 'verify', trace])
    assert outcome.status == 3, outcome
    assert path.name.encode() in outcome.stderr and not outcome.stdout


@pytest.mark.parametrize('arguments', [[], ['a', 'b'], ['--what']])
def test_wrong_usage(heapledger, arguments):
    outcome = run([heapledger, 'verify', *arguments])
    assert outcome.status == 2
    assert outcome.stderr.startswith(b'heapledger: verify: ')
