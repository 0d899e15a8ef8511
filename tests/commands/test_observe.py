# SPDX-License-Identifier: MIT
"""`record --observe`: the program keeps its own allocator, whichever that is; every call to it is
logged, and what cannot be known of it is said to be unknown."""

import os
import subprocess
import tempfile
from pathlib import Path

import pytest

from conftest import analyze, assert_sound, run, session, without_own_lines
from probe_fixture import rewrite, skip_without_probe
from witness_fixture import Witness, assert_same_calls

LIBRARIES = {'glibc': None, 'jemalloc': 'libjemalloc.so.2', 'mimalloc': 'libmimalloc.so.2.0',
             'tcmalloc': 'libtcmalloc_minimal.so.4'}
UNKNOWN_INSIDE = ('slack_bytes', 'free_bytes', 'arena_bytes', 'block_bytes', 'metadata_bytes')
UNKNOWN_MAPPED = ('mapped_bytes', 'break_bytes', 'reserved_bytes')
TIMEOUT = 120


def find_library(name):
    """It lies where libc does; it is not loaded here."""
    maps = Path('/proc/self/maps').read_text().split()
    libc = next(word for word in maps if word.endswith('/libc.so.6'))
    path = Path(libc).with_name(name)
    return str(path) if path.exists() else None


@pytest.fixture(scope='module', params=list(LIBRARIES))
def allocator(request):
    """A name, and what makes it a program's allocator: variables of its environment."""
    file = LIBRARIES[request.param]
    path = find_library(file) if file else None
    if file and not path:
        pytest.skip(f'{file} is not installed')
    return request.param, {'LD_PRELOAD': path} if path else {}


@pytest.fixture
def observe(heapledger, trace):
    """Observes a program, which must do what it does on its own; the analysis."""
    def call(*argv, env=None, options=(), input=None, kernel='off', least_calls=1, same=True):
        alone = run(argv, env=env, input=input)
        outcome = run([heapledger, 'record', '--observe', '--force', '-o', trace, '--kernel', kernel,
                       *options, '--', *argv], env=env, input=input)
        assert outcome.status == alone.status, outcome
        if same:
            assert outcome.stdout == alone.stdout
            assert without_own_lines(outcome.stderr) == alone.stderr
        analysis = analyze(heapledger, trace)
        assert_sound(analysis, least_calls, trace)
        assert analysis['mode'] == 'observe'
        return analysis
    return call


# Counts

ROUNDS, KEPT = 2000, 3000
CALLS = {'calloc': ROUNDS, 'aligned_alloc': ROUNDS, 'memalign': ROUNDS, 'posix_memalign': ROUNDS,
         'realloc': 2 * ROUNDS, 'valloc': ROUNDS, 'malloc': ROUNDS, 'free': 7 * ROUNDS}


def assert_exact(empty, full):
    """Both runs have what libc and the allocator did for themselves: what differs is the victim's."""
    for name, calls in CALLS.items():
        kept = KEPT if name == 'malloc' else 0
        found = full['events']['by_call'][name]['count']
        assert found - empty['events']['by_call'].get(name, {'count': 0})['count'] == calls + kept, name
    sizes = [i % 2000 + 1 for count in (KEPT // 2, KEPT - KEPT // 2) for i in range(count)]
    assert full['end']['live_blocks'] - empty['end']['live_blocks'] == KEPT
    assert full['end']['requested_bytes'] - empty['end']['requested_bytes'] == sum(sizes)
    assert full['peak']['live_blocks'] >= KEPT
    assert full['peak']['requested_bytes'] >= full['end']['requested_bytes']


def test_counts_of_a_preloaded_allocator(observe, allocator, victims):
    name, env = allocator
    victim = victims / 'victim_observed'
    assert_exact(observe(victim, 0, 0, env=env), observe(victim, ROUNDS, KEPT, env=env))


def test_counts_of_a_linked_allocator(observe, allocator, victims):
    name, _ = allocator
    victim = victims / ('victim_observed' if name == 'glibc' else f'victim_observed_{name}')
    assert victim.exists(), 'it was installed after the build was configured'
    full = observe(victim, ROUNDS, KEPT)
    assert_exact(observe(victim, 0, 0), full)


def test_operators_of_cpp(observe, allocator, victims):
    """new and delete, of libstdc++ or the allocator's own; what throws still throws."""
    name, env = allocator
    victim = victims / 'victim_observed_cpp'
    if not victim.exists():
        pytest.skip('built without a C++ compiler')
    empty, full = observe(victim, 0, env=env), observe(victim, 1000, env=env)

    def more(*names):
        return sum(analysis['events']['by_call'].get(call, {'count': 0})['count'] * sign
                   for analysis, sign in ((full, 1), (empty, -1)) for call in names)
    assert more('malloc', 'aligned_alloc', 'memalign', 'posix_memalign') == 4000
    assert more('free', 'free_sized', 'free_aligned_sized') == 3000
    assert full['end']['live_blocks'] - empty['end']['live_blocks'] == 1000
    assert full['end']['requested_bytes'] - empty['end']['requested_bytes'] == 78000
    assert sum(call['failed'] for call in full['events']['by_call'].values()) >= 1


def test_plugins_in_cpp(observe, allocator, victims):
    """Their operators are found beside them, as nothing else of the program has any."""
    name, env = allocator
    modules = [victims / f'module_{which}.so' for which in ('first', 'second')]
    if not all(module.exists() for module in modules):
        pytest.skip('built without a C++ compiler')
    observe(victims / 'victim_plugins', *modules, env=env, least_calls=100)


def test_it_is_that_allocator_that_serves(heapledger, allocator, victims, trace):
    """The blocks lie where the allocator puts them: in its mappings, or, with glibc, at the break."""
    name, env = allocator
    code = ('import ctypes; libc = ctypes.CDLL(None); libc.malloc.restype = ctypes.c_void_p\n'
            'block = libc.malloc(5000)\n'
            'print([line.split()[-1] for line in open("/proc/self/maps") if int(line.split("-")[0], 16)'
            ' <= block < int(line.split("-")[1].split()[0], 16)], '
            '[line.split()[-1] for line in open("/proc/self/maps") if "malloc" in line][:1])')
    argv = ['/usr/bin/python3', '-c', code]
    places = [run(way, env=env) for way in (
        argv, [heapledger, 'record', '--observe', '-q', '--kernel', 'off', '-o', trace, '--', *argv])]
    assert places[0].stdout == places[1].stdout, places
    assert name.encode() in places[0].stdout if name != 'glibc' else b'[heap]' in places[0].stdout


@pytest.mark.parametrize('words, calls, streams', [
    ('count 5000', 1, 1), ('threads 5000 8', 8, 1), ('short-threads 10 300', 300, 1),
    ('fork 3000', 3, 2), ('_Fork 3000', 3, 2), ('exec 3000', 2, 2), ('spawn 3000', 2, 2),
    ('vfork 3000', 2, 1), ('system 3000', 2, 3), ('daemon 2000', 3, 3), ('children 20 50', 100, 51)])
def test_every_call_is_kept(heapledger, allocator, victims, trace, tmp_path, words, calls, streams):
    name, env = allocator
    witness = Witness(victims / 'libwitness.so', tmp_path)
    process = witness.start(
        heapledger, trace, victims / 'victim_record_calls', *words.split(), options=['--observe'],
        before=['env', *(f'{key}={value}' for key, value in env.items())],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert (process.returncode, stdout, stderr) == (0, b'', b'')
    analysis = analyze(heapledger, trace)
    assert_sound(analysis, 1, trace)
    assert_same_calls(witness, analysis, own=2 if name == 'tcmalloc' else 0)
    count = int(words.split()[1])
    assert analysis['events']['by_call']['posix_memalign']['count'] == calls * count
    assert len(session(trace)['streams']) == 1 + streams


@pytest.mark.parametrize('words', ['fork_family 20', 'hand_over', 'many_threads', 'thousand_threads',
                                   'fork_threads 40', 'spawns', 'late_calls'])
def test_hostile_programs(observe, allocator, victims, words):
    """Blocks that pass between threads and to children, at once; in order, and none unknown."""
    name, env = allocator
    observe(*f'{victims}/victim_{words}'.split(), env=env, least_calls=30)


def test_signal_handlers_that_allocate(observe, victims):
    """They interrupt the program, not the allocator: glibc's would wait for itself for ever."""
    code = ('import signal, time\n'
            'made = []\n'
            'signal.signal(signal.SIGALRM, lambda *_: made.append(bytes(5000)))\n'
            'signal.setitimer(signal.ITIMER_REAL, .001, .001)\n'
            'while len(made) < 200: bytes(3000)\n'
            'signal.setitimer(signal.ITIMER_REAL, 0)\n'
            'print(len(made))')
    observe('/usr/bin/python3', '-c', code, env={'PYTHONMALLOC': 'malloc'}, least_calls=400)


# Real programs

def test_sqlite(observe, allocator):
    name, env = allocator
    script = ("create table t(x); with recursive c(x) as (select 1 union all select x+1 from c where "
              "x<20000) insert into t select hex(x*7919) from c; select count(*), max(x) from t; "
              "create index i on t(x); select * from t where x like '38%' order by x limit 5;")
    observe('/usr/bin/sqlite3', ':memory:', script, env=env, least_calls=20000)


def test_python(observe, allocator):
    name, env = allocator
    code = ('import threading, json\n'
            'def work(): return [json.dumps({"a": i, "b": [str(i)] * 5}) for i in range(2000)]\n'
            'threads = [threading.Thread(target=work) for _ in range(4)]\n'
            '[t.start() for t in threads]; [t.join() for t in threads]; print(len(work()))')
    observe('/usr/bin/python3', '-c', code, env={**env, 'PYTHONMALLOC': 'malloc'}, least_calls=50000)


def test_bash(observe, allocator):
    name, env = allocator
    script = 'for i in {1..30}; do (:); echo $i | cat; done; exit 3'
    analysis = observe('/bin/bash', '-c', script, env=env, least_calls=1000)
    assert len(analysis['processes']) > 60


def test_the_users_own_preload_is_kept(observe):
    """Behind ours, so that what it brings is what is observed."""
    own = find_library('libm.so.6')
    code = ('import os; print(os.environ["LD_PRELOAD"].split(":")[-1], '
            '"/libm.so.6" in open("/proc/self/maps").read())')
    observe('/usr/bin/python3', '-c', code, env={'LD_PRELOAD': own}, least_calls=100)


# What is not known

def assert_unknown(figures):
    for name in 'brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect', 'total', 'time_ns', 'by_cause':
        assert figures['syscalls'][name] is None, name
    assert figures['events']['syscalls'] is None
    for name in UNKNOWN_INSIDE + UNKNOWN_MAPPED:
        assert figures['end'][name] is None, name
    assert figures['peak']['mapped_bytes'] is None and figures['peak']['at_mapped'] is None
    assert figures['returned_bytes'] is None and figures['returned'] is None
    assert figures['free_to_return'] is None and figures['fragmentation']['mapped'] is None


def test_what_is_unknown_is_null(observe, allocator, victims, trace):
    name, env = allocator
    analysis = observe(victims / 'victim_observed', 100, 100, env=env)
    for figures in analysis, *analysis['processes']:
        assert_unknown(figures)
    assert analysis['policy'] is analysis['model'] is analysis['tunables'] is None
    assert session(trace)['mode'] == 'observe'
    assert session(trace)['policy'] is None and session(trace)['model'] is None
    assert any('system calls' in note for note in analysis['notes'])
    assert analysis['end']['rss_bytes'] > 0


def test_usable_bytes(observe, victims):
    """glibc's blocks are 16 n + 8 bytes, at least 24."""
    empty = observe(victims / 'victim_observed', 0, 0)['end']['usable_bytes']
    full = observe(victims / 'victim_observed', 0, KEPT)['end']['usable_bytes']
    sizes = [i % 2000 + 1 for _ in range(2) for i in range(KEPT // 2)]
    assert full - empty == sum(max(24, (size + 8 + 15) // 16 * 16 - 8) for size in sizes)


def test_the_tables_leave_out_what_is_unknown(heapledger, observe, victims, trace, tmp_path):
    observe(victims / 'victim_observed', 100, 100)
    assert run([heapledger, 'analyze', trace, '--csv', tmp_path / 'csv']).status == 0
    head, *rows = [line.split(',') for line in
                   (tmp_path / 'csv' / 'timeline.csv').read_text().splitlines()]
    unknown = {'chunk_bytes', 'mapped_bytes', 'break_bytes', 'arena_bytes', 'block_bytes',
               'free_bytes', 'returned_bytes', 'peak_mapped_bytes', 'slack_bytes', 'metadata_bytes',
               'reserved_bytes', 'thrash_cycles', 'resident_heap_bytes',
               'event'}  # the last is of imported logs
    assert rows and all((name in unknown) == (cell == '') for row in rows
                        for name, cell in zip(head, row))


def test_the_summary_says_unknown(heapledger, observe, victims, trace):
    observe(victims / 'victim_observed', 100, 100)
    text = run([heapledger, 'analyze', trace]).stdout.decode()
    lines = {line.split('  ')[1].strip(): line for line in text.splitlines() if 'unknown  ' in line}
    assert {'slack', 'free', 'metadata', '= mapped'} <= lines.keys(), text
    assert 'mode observe' in text and 'policy' not in text
    assert 'None were made' not in text


def test_the_report_says_unknown(heapledger, observe, victims, trace, tmp_path):
    observe(victims / 'victim_observed', 2000, 100)
    outcome = run([heapledger, 'report', trace, '-o', tmp_path / 'report.html'])
    assert outcome.status == 0 and outcome.stderr == b'', outcome
    page = (tmp_path / 'report.html').read_text()
    assert 'own allocator was observed' in page and '>unknown</dd>' in page
    assert 'policy None' not in page and 'nan' not in page.split('<svg')[0]


def test_a_budget_on_what_is_unknown_is_not_kept(heapledger, observe, victims, trace, tmp_path):
    observe(victims / 'victim_observed', 100, 100)
    budget = tmp_path / 'budget.toml'
    for text, status, word in (
            ('[peak]\nrequested = "1 GiB"\n', 0, b'KEPT'),
            ('[peak]\nmapped = "1 GiB"\n', 4, b'not measured'),
            ('[syscalls]\ntotal = 1000000\n', 4, b'not measured'),
            ('[end]\nmapped = "1 GiB"\n', 4, b'not measured'),
            ('[events]\ncalls = 10\n', 1, b'EXCEEDED')):
        budget.write_text(text)
        outcome = run([heapledger, 'check', trace, '--budget', budget])
        assert outcome.status == status and word in outcome.stdout, (text, outcome)


def test_verify_has_nothing_to_compare(heapledger, observe, victims, trace):
    observe(victims / 'victim_observed', 10, 10)
    outcome = run([heapledger, 'verify', trace])
    assert outcome.status == 4 and outcome.stdout.startswith(b'UNVERIFIED: '), outcome


def test_dump_shows_the_calls(heapledger, observe, victims, trace):
    observe(victims / 'victim_observed', 10, 10)
    text = run([heapledger, 'dump', trace]).stdout.decode()
    assert text.count(' posix_memalign ') == 10


# The kernel's side

@pytest.fixture
def watched(build, observe):
    skip_without_probe(build)

    def call(*argv, **more):
        analysis = observe(*argv, kernel='require', **more)
        for figures in analysis, *analysis['processes']:
            assert None not in figures['syscalls'].values(), analysis['notes']
            assert all(row['reason'] == 'observed' and row['call']
                       for row in figures['syscalls']['by_cause'])
        return analysis
    return call


def by_cause(analysis, syscall, *calls):
    return sum(row['count'] for row in analysis['syscalls']['by_cause']
               if row['syscall'] == syscall and row['call'] in calls)


def test_system_calls_have_their_cause(watched, victims):
    """One mapping a block, and the program's own beside them, in between: to the last call."""
    empty = watched(victims / 'victim_observed', 0, 0, 0, 0)
    full = watched(victims / 'victim_observed', 0, 0, 200, 300)

    def more(figure):
        return figure(full) - figure(empty)
    assert more(lambda a: by_cause(a, 'mmap', 'malloc')) == 400
    assert more(lambda a: by_cause(a, 'munmap', 'free')) == 200
    assert more(lambda a: a['syscalls']['total']) == 600
    assert more(lambda a: a['syscalls']['foreign']) == 600
    assert more(lambda a: a['end']['mapped_bytes']) == 200 * ((1 << 20) + 4096)
    assert more(lambda a: a['peak']['mapped_bytes']) == 200 * ((1 << 20) + 4096)
    assert full['end']['break_bytes'] == empty['end']['break_bytes'] > 0
    assert full['peak']['at_mapped']['requested_bytes'] >= 200 << 20
    for name in UNKNOWN_INSIDE:
        assert full['end'][name] is None and full['peak']['at_mapped'][name] is None, name
    assert full['returned_bytes'] is None and full['free_to_return'] is None


@pytest.mark.parametrize('shift', [-2000, -1000, 3000, 6000])
def test_clocks_that_differ_are_brought_together(watched, heapledger, victims, tmp_path, shift):
    """By longer than some calls last: the recorder's own calls, on both sides, tell by how much."""
    def figures(analysis):
        causes = [(row['syscall'], row['call'], row['count'], row['bytes'])
                  for row in analysis['syscalls']['by_cause']]
        return analysis['syscalls']['total'], analysis['syscalls']['foreign'], causes
    full = watched(victims / 'victim_observed', 0, 0, 200, 300)
    trace, = (path.parent for path in tmp_path.rglob('session.json'))
    kernel, = trace.glob('*.kernel.hlt')
    rewrite(kernel, lambda records: [{**record, 'tick': record['tick'] + shift} for record in records])
    moved = analyze(heapledger, trace)
    assert not moved['notes'] and figures(moved) == figures(full)


def test_the_programs_own_mappings_are_not_the_allocators(watched, allocator, victims):
    name, env = allocator
    empty = watched(victims / 'victim_observed', 0, 0, 0, 0, env=env)
    full = watched(victims / 'victim_observed', 0, 0, 0, 500, env=env)
    assert full['syscalls']['foreign'] - empty['syscalls']['foreign'] == 1000
    assert full['end']['mapped_bytes'] < empty['end']['mapped_bytes'] + (4 << 20)
    assert full['syscalls']['total'] > 0 and full['end']['mapped_bytes'] > 0
    assert full['end']['usable_bytes'] is None or (
        full['end']['usable_bytes'] <= full['end']['mapped_bytes'])


def kernel_calls(heapledger, trace):
    """By process: what the kernel saw, and what the recorder's own calls in its log are of that."""
    seen, own = {}, {}
    for line in run([heapledger, 'dump', trace]).stdout.decode().splitlines():
        words = line.split()
        if words[3] not in ('brk', 'mmap', 'munmap', 'mremap', 'madvise', 'mprotect'):
            continue
        fields = dict(word.split('=', 1) for word in words if '=' in word)
        if 'sequence' in fields:
            seen[int(fields['pid'])] = seen.get(int(fields['pid']), 0) + 1
        else:
            pid = int(words[0].split('.')[0])
            own[pid] = own.get(pid, 0) + 1
    return seen, own


@pytest.mark.parametrize('words', ['threads 3000 8', 'fork 2000', '_Fork 2000', 'spawn 2000',
                                   'children 20 30', 'short-threads 20 100'])
def test_every_system_call_is_somebodys(heapledger, watched, allocator, victims, trace, words):
    """The allocator's, the program's, or the recorder's: together what the kernel saw."""
    name, env = allocator
    analysis = watched(victims / 'victim_record_calls', *words.split(), env=env)
    seen, own = kernel_calls(heapledger, trace)
    for process in analysis['processes']:
        pid, count = process['pid'], process['syscalls']
        if sum(other['pid'] == pid for other in analysis['processes']) == 1:
            assert count['total'] + count['foreign'] + own.get(pid, 0) == seen.get(pid, 0), process
    assert analysis['syscalls']['total'] > 0


def test_real_programs_with_the_kernel(watched, allocator):
    name, env = allocator
    watched('/usr/bin/python3', '-c', 'print(sum(len(str(i) * 50) for i in range(20000)))',
            env={**env, 'PYTHONMALLOC': 'malloc'}, least_calls=20000)
    watched('/bin/bash', '-c', 'for i in {1..20}; do (:); echo $i | cat; done', env=env)


def test_glibc_is_as_it_is_said_to_be(heapledger, watched, tmp_path):
    """Observed and under our allocator, which grows and returns memory by the same rules."""
    argv = ['/usr/bin/sqlite3', ':memory:', 'create table t(x); with recursive c(x) as (select 1 union '
            'all select x+1 from c where x<50000) insert into t select hex(x) from c; select count(*) '
            'from t;']
    observed = watched(*argv)
    ours = tmp_path / 'ours'
    assert run([heapledger, 'record', '-o', ours, '--kernel', 'off', '--', *argv]).status == 0
    ours = analyze(heapledger, ours)
    assert observed['events']['by_call'] == ours['events']['by_call']
    for name in 'mapped_bytes', 'requested_bytes', 'live_blocks':
        assert abs(observed['peak'][name] - ours['peak'][name]) <= ours['peak'][name] / 50, name
    assert abs(observed['syscalls']['total'] - ours['syscalls']['total']) <= 5


def test_verify_of_an_observed_program(heapledger, watched, victims, trace):
    watched(victims / 'victim_observed', 10, 10)
    outcome = run([heapledger, 'verify', trace])
    assert outcome.status == 4 and b'known from the kernel alone' in outcome.stdout, outcome


def test_the_report_of_both_sides(heapledger, watched, victims, trace, tmp_path):
    watched(victims / 'victim_observed', 1000, 100, 50, 50)
    outcome = run([heapledger, 'report', trace, '-o', tmp_path / 'report.html'])
    assert outcome.status == 0 and outcome.stderr == b'', outcome
    page = (tmp_path / 'report.html').read_text()
    assert 'decided by the program' in page and '>unknown<' in page
    text = run([heapledger, 'analyze', trace]).stdout.decode()
    assert 'that were in no allocator call' in text and 'by mmap' in text
    budget = tmp_path / 'budget.toml'
    budget.write_text('[peak]\nmapped = "1 GiB"\n[syscalls]\nmmap = 1000\n')
    assert run([heapledger, 'check', trace, '--budget', budget]).status == 0


def test_a_kernels_record_that_is_not_whole(heapledger, watched, victims, trace):
    """Nothing is made of a part of it."""
    watched(victims / 'victim_observed', 100, 100)
    kernel = next(trace.glob('*.kernel.hlt'))
    kernel.unlink()
    analysis = analyze(heapledger, trace)
    assert_unknown(analysis)


# The command

@pytest.mark.parametrize('option', [('--policy', 'brk'), ('--set', 'mmap_threshold=1M')])
def test_our_allocators_options_are_refused(heapledger, trace, option):
    for words in (['--observe', *option], [*option, '--observe']):
        outcome = run([heapledger, 'record', *words, '-o', trace, '--', '/bin/true'])
        assert outcome.status == 2 and outcome.stdout == b''
        assert outcome.stderr.count(b'\n') == 1 and option[0].encode() in outcome.stderr, outcome
        assert not trace.exists()


def test_settings_of_our_allocator_are_not_looked_at(observe, trace):
    """They may be glibc's own: a value that only glibc understands is no reason for a word."""
    observe('/bin/bash', '-c', 'echo hello', env={'GLIBC_TUNABLES': 'glibc.malloc.tcache_count=0', 'MALLOC_ARENA_MAX': '1'})
    assert session(trace)['tunables'] is None


def test_without_privilege(heapledger, allocator, victims):
    """The calls and the samples are there, and one line says what is not."""
    if os.geteuid() != 0:
        pytest.skip('only root can become somebody else')
    name, env = allocator
    with tempfile.TemporaryDirectory(dir='/tmp') as folder:
        Path(folder).chmod(0o777)
        observe_as_nobody(heapledger, victims, env, Path(folder) / 'trace')


def observe_as_nobody(heapledger, victims, env, trace):
    command = ['setpriv', '--reuid', '65534', '--regid', '65534', '--clear-groups', '--',
               heapledger, 'record', '--observe', '-o', trace, '--',
               victims / 'victim_observed', 500, 500]
    for parent in Path(victims).parents:
        if not parent.stat().st_mode & 1:
            pytest.skip(f'{parent} is closed to others')
    outcome = run(command, env=env)
    assert outcome.status == 0, outcome
    assert outcome.stderr.count(b'\n') == 1, outcome
    assert b'system calls are missing' in outcome.stderr
    analysis = analyze(heapledger, trace)
    assert_sound(analysis, 500)
    assert_unknown(analysis)
    assert analysis['end']['rss_bytes'] > 0
    assert any('no kernel side' in note for note in analysis['notes'])


def test_stacks_and_phases(heapledger, observe, victims, trace):
    """What the other library can, this one can."""
    observe(victims / 'victim_observed', 10, 10, options=['--stacks', '8'])
    text = run([heapledger, 'dump', trace, '--stacks']).stdout.decode()
    assert ' one_round' in text
    analysis = observe(victims / 'victim_phases_pie', 'names', 100, 'load', 'run', 'load')
    assert [phase['name'] for phase in analysis['phases']] == [None, 'load', 'run', 'load']
    assert all(phase['peak']['mapped_bytes'] is None for phase in analysis['phases'])


def test_alone(heapledger, victims, build, tmp_path):
    """Without `record`, by the library alone."""
    folder = tmp_path / 'alone'
    folder.mkdir()
    outcome = run([victims / 'victim_observed', 100, 100], env={
        'LD_PRELOAD': build / 'interposer' / 'libheapledger-observe.so', 'HEAPLEDGER_OUT': folder})
    assert outcome.status == 0, outcome
    analysis = analyze(heapledger, folder)
    assert_sound(analysis, 500)
    assert analysis['mode'] == 'observe' and analysis['model'] is None
    assert_unknown(analysis)
