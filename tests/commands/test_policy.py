# SPDX-License-Identifier: MIT
"""Where memory comes from and what steers the heap: the policies keep their word, every tunable has
its effect by each of its ways, what is malformed is said once, purge gives back what is free, and
HEAPLEDGER_CHECK finds damage that nothing else sees."""

import itertools
import json
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest

from conftest import SOURCE, analyze, assert_sound, run

POLICIES = ['hybrid', 'brk', 'mmap']
MODES = Path('/sys/kernel/mm/transparent_hugepage/enabled')

# tunable, value, the part of the victim that shows it, what it prints without and with it
SHOWN = [
    ('mmap_threshold', 1000000, 'large', 'mapped', 'heap'),
    ('mmap_max', 0, 'large', 'mapped', 'heap'),
    ('trim_threshold', 100000000, 'top', 'trimmed', 'kept'),
    ('top_pad', 4194304, 'pad', 'plain', 'padded'),
    ('mxfast', 0, 'fast', 'fast', 'joined'),
    ('tcache_count', 0, 'freed', '0', '2'),
    ('tcache_max', 64, 'freed', '0', '1'),
    ('perturb', 85, 'fill', '0', '0xaa'),
    ('arena_max', 1, 'arenas', 'by cores', 'one'),
    ('arena_test', 64, 'arenas', 'by cores', 'one each'),
]
VARIABLES = {'mmap_threshold': 'MALLOC_MMAP_THRESHOLD_', 'mmap_max': 'MALLOC_MMAP_MAX_',
             'trim_threshold': 'MALLOC_TRIM_THRESHOLD_', 'top_pad': 'MALLOC_TOP_PAD_',
             'perturb': 'MALLOC_PERTURB_', 'arena_max': 'MALLOC_ARENA_MAX',
             'arena_test': 'MALLOC_ARENA_TEST'}
PARAMETERS = {'mxfast': 1, 'trim_threshold': -1, 'top_pad': -2, 'mmap_threshold': -3,
              'mmap_max': -4, 'perturb': -6, 'arena_test': -7, 'arena_max': -8}


@pytest.fixture
def settings(victims, library):
    """Runs parts of the victim under the library, with these variables; what it prints."""
    def start(*parts, **variables):
        outcome = run([victims / 'victim_settings', *parts],
                      env={'LD_PRELOAD': str(library), **variables})
        assert outcome.status == 0, outcome
        assert outcome.stderr == b'', outcome
        return outcome.stdout.decode().splitlines()
    return start


@pytest.fixture
def record(heapledger, tmp_path):
    """Records a command; how it ended, and the trace."""
    def start(options, *command, **more):
        trace = tmp_path / 'trace'
        outcome = run([heapledger, 'record', '-q', '--kernel', 'off', '-o', trace, *options, '--',
                       *command], **more)
        return outcome, trace
    return start


@pytest.fixture
def recorded(record, victims, heapledger):
    """Records parts of the victim; what it prints, and the analysis, which is sound."""
    def start(options, *parts, **variables):
        outcome, trace = record(options, victims / 'victim_settings', *parts, env=variables)
        assert outcome.status == 0 and outcome.stderr == b'', outcome
        analysis = analyze(heapledger, trace)
        assert_sound(analysis, 1, trace)
        return outcome.stdout.decode().splitlines(), analysis
    return start


def count(analysis, syscall=None, reason=None):
    return sum(row['count'] for row in analysis['syscalls']['by_cause']
               if syscall in (None, row['syscall']) and reason in (None, row['reason']))


def regions(heapledger, trace, kind):
    """The regions of the allocator's own calls of a kind."""
    outcome = run([heapledger, 'dump', '--kind', kind, trace])
    assert outcome.status == 0, outcome
    found = set(re.findall(r' reason=(\w+) region=(\w+)', outcome.stdout.decode()))
    return {region for reason, region in found if reason != 'recorder'}


# Policies.

def test_brk_maps_nothing(recorded, heapledger, tmp_path):
    said, analysis = recorded(['--policy', 'brk'], 'large', 'work', 'still', 'arenas')
    assert said == ['heap', 'moved', 'one']
    assert regions(heapledger, tmp_path / 'trace', 'brk') == {'break'}
    for kind in 'mmap', 'munmap', 'mremap', 'mprotect':
        assert regions(heapledger, tmp_path / 'trace', kind) == set()
    assert analysis['policy'] == 'brk'
    assert analysis['peak']['at_mapped']['block_bytes'] == 0
    assert analysis['peak']['at_mapped']['arena_bytes'] == 0


def test_mmap_never_moves_the_break(recorded, heapledger, tmp_path):
    said, analysis = recorded(['--policy', 'mmap'], 'large', 'work', 'still', 'arenas')
    assert said == ['mapped', 'still', 'by cores']
    assert analysis['policy'] == 'mmap'
    assert analysis['syscalls']['brk'] == 0
    assert regions(heapledger, tmp_path / 'trace', 'mmap') == {'arena', 'block'}
    assert analysis['peak']['at_mapped']['break_bytes'] == 0
    assert analysis['peak']['at_mapped']['arena_bytes'] > 0


def test_mmap_with_one_arena(settings):
    said = settings('work', 'arenas', 'still', HEAPLEDGER_POLICY='mmap', MALLOC_ARENA_MAX='1',
                    HEAPLEDGER_CHECK='100')
    assert said == ['one', 'still']


def test_hybrid_is_what_there_is_without_a_policy(recorded):
    for options in [], ['--policy', 'hybrid', '--force']:
        said, analysis = recorded(options, 'large', 'work')
        assert said == ['mapped']
        assert analysis['policy'] == 'hybrid'
        assert count(analysis, 'brk', 'grow_top') and count(analysis, 'mmap', 'over_threshold')


@pytest.mark.parametrize('policy', POLICIES)
def test_no_memory_is_an_error_and_no_end(recorded, policy):
    _, analysis = recorded(['--policy', policy], 'limit')
    assert analysis['events']['by_call']['malloc']['failed'] > 0
    if policy == 'brk':
        assert count(analysis, 'mmap') == 0


# What interrupts itself is served by mappings under every policy; one is enough of a long victim.
@pytest.mark.parametrize('name, policy', [('signals', 'brk'), *itertools.product(
    ['faults', 'fork_threads', 'many_threads', 'late_calls', 'foreign_break', 'no_memory',
     'fork_in_handler', 'own_mapping'], ['brk', 'mmap'])])
def test_promise_holds(victims, library, name, policy):
    outcome = run([victims / f'victim_{name}'], env={
        'LD_PRELOAD': str(library), 'HEAPLEDGER_POLICY': policy, 'HEAPLEDGER_CHECK': '5000'})
    assert outcome.status == 0, outcome.stderr.decode()


def test_the_variable_counts_without_the_option(recorded):
    _, analysis = recorded([], 'work', HEAPLEDGER_POLICY='mmap')
    assert analysis['policy'] == 'mmap' and analysis['syscalls']['brk'] == 0
    _, analysis = recorded(['--policy', 'hybrid', '--force'], 'work', HEAPLEDGER_POLICY='mmap')
    assert analysis['policy'] == 'hybrid' and analysis['syscalls']['brk'] > 0


def test_each_stream_names_its_own_policy(record, victims):
    victim = victims / 'victim_settings'
    outcome, trace = record(
        ['--policy', 'brk'], '/bin/sh', '-c',
        f'{victim} still; HEAPLEDGER_POLICY=mmap {victim} work; exit 0')
    assert outcome.status == 0, outcome
    streams = json.loads((trace / 'session.json').read_text())['streams']
    policies = [(trace / stream['file']).read_bytes()[22] for stream in streams]
    # The shell and its copies, the first victim; the second, and the child that it forks.
    assert policies.count(1) >= 2 and policies.count(2) == 2 and len(set(policies)) == 2


@pytest.mark.parametrize('policy', POLICIES)
@pytest.mark.parametrize('argv, input', [
    (['sqlite3', ':memory:'],
     b'CREATE TABLE t(a, b);\n'
     b'INSERT INTO t WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n '
     b'WHERE x < 20000) SELECT x, hex(zeroblob(x % 300)) FROM n;\n'
     b'SELECT count(*), sum(length(b)), max(a) FROM t WHERE a % 3;\n'),
    (['/usr/bin/python3', '-c',
      'import json, threading\n'
      'def work(n): results[n] = len(json.dumps([list(range(i % 50)) for i in range(9000 + n)]))\n'
      'results = {}\n'
      'threads = [threading.Thread(target=work, args=(n,)) for n in range(3)]\n'
      'for t in threads: t.start()\n'
      'for t in threads: t.join()\n'
      'print(sorted(results.items()), len(bytearray(9 << 20)))\n'], None),
], ids=['sqlite3', 'python3'])
def test_programs_do_the_same(record, heapledger, policy, argv, input):
    plain = run(argv, input=input)
    outcome, trace = record(['--policy', policy], *argv, input=input)
    assert plain.status == 0 and plain.stdout
    assert (outcome.status, outcome.stdout, outcome.stderr) == (0, plain.stdout, plain.stderr)
    analysis = analyze(heapledger, trace)
    assert_sound(analysis, 1000)
    assert (analysis['syscalls']['brk'] == 0) == (policy == 'mmap')
    assert policy != 'brk' or count(analysis, 'mmap') == 0


# Tunables.

@pytest.mark.parametrize('name, value, part, without, with_it', SHOWN)
def test_every_tunable_by_every_way(settings, recorded, name, value, part, without, with_it):
    item = f'{name}={value}'
    assert settings(part) == [without]
    assert settings(part, HEAPLEDGER_SET=item) == [with_it]
    assert settings(part, GLIBC_TUNABLES=f'glibc.rtld.nns=4:glibc.malloc.{item}') == [with_it]
    assert settings(part, GLIBC_TUNABLES=f'glibc.malloc.{name}={value:#x}') == [with_it]
    if name in VARIABLES:
        assert settings(part, **{VARIABLES[name]: str(value)}) == [with_it]
    if name in PARAMETERS:
        assert settings('mallopt', str(PARAMETERS[name]), str(value), part) == [with_it]
    said, analysis = recorded(['--set', item], part)
    assert said == [with_it]
    assert analysis['tunables'][name] == value and analysis['tunables_set'] == [name]


def test_the_summary_names_what_was_set(record, heapledger, victims):
    for options, line in (['--set', 'purge=trim', '--set', 'top_pad=64K'],
                          b'  tunables top_pad=65536, purge=trim\n'), ([], None):
        outcome, trace = record([*options, '--force'], victims / 'victim_settings', 'call')
        assert outcome.status == 0, outcome
        said = run([heapledger, 'analyze', trace]).stdout
        assert line in said if line else b'tunables' not in said


def test_units_of_our_own(settings):
    assert settings('large', HEAPLEDGER_SET='mmap_threshold=1M') == ['heap']
    assert settings('large', HEAPLEDGER_SET='mmap_threshold=64k') == ['mapped']
    assert settings('top', HEAPLEDGER_SET='trim_threshold=-1') == ['kept']


def test_which_of_several_counts(settings, recorded):
    high, low = 'mmap_threshold=1000000', 'mmap_threshold=4096'
    assert settings('large', MALLOC_MMAP_THRESHOLD_='4096',
                    GLIBC_TUNABLES=f'glibc.malloc.{high}') == ['heap']
    assert settings('large', GLIBC_TUNABLES=f'glibc.malloc.{low}', HEAPLEDGER_SET=high) == ['heap']
    assert settings('large', HEAPLEDGER_SET=f'{high}:{low}') == ['mapped']
    said, _ = recorded(['--set', low, '--set', high], 'large', HEAPLEDGER_SET=low)
    assert said == ['heap']


@pytest.mark.parametrize('options, words', [
    (['--policy', 'sbrk'], ['--policy', 'sbrk', 'hybrid, brk or mmap']),
    (['--set', 'mmap_treshold=1'], ['--set', 'mmap_treshold=1', 'no such tunable']),
    (['--set', 'mmap_threshold'], ['--set', 'mmap_threshold', 'value is missing']),
    (['--set', 'mmap_threshold='], ['--set', 'mmap_threshold=', 'value is missing']),
    (['--set', 'top_pad=12q'], ['--set', 'top_pad=12q', 'not a number']),
    (['--set', 'perturb=256'], ['--set', 'perturb=256', 'out of range']),
    (['--set', 'hugetlb=2'], ['--set', 'hugetlb=2', 'only 0 and 1']),
    (['--set', 'purge=soon'], ['--set', 'purge=soon', 'never, trim or']),
    (['--set', 'arena_max=1:perturb=1'], ['--set', 'colon']),
])
def test_wrong_options_start_nothing(record, tmp_path, options, words):
    outcome, trace = record(options, '/usr/bin/touch', tmp_path / 'started')
    assert outcome.status == 2 and outcome.stdout == b''
    line, = outcome.stderr.decode().splitlines()
    assert line.startswith('heapledger: record: ') and all(word in line for word in words), line
    assert list(tmp_path.iterdir()) == []


MALFORMED = [
    ({'GLIBC_TUNABLES': 'glibc.malloc.mmap_threshold=many'}, 'mmap_threshold=many: not a number'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.no_such_thing=1'}, 'no_such_thing=1: there is no such'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.arena_max'}, 'arena_max: a value is missing'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.arena_max=0'}, 'arena_max=0: out of range'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.purge=5'}, 'purge=5: there is no such'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.hugetlb=2'}, 'hugetlb=2: only 0 and 1'),
    ({'GLIBC_TUNABLES': 'glibc.malloc.top_pad=99999999999999999999999'}, 'out of range'),
    ({'MALLOC_TOP_PAD_': '1k'}, 'MALLOC_TOP_PAD_=1k: not a number'),
    ({'MALLOC_TOP_PAD': '1'}, 'MALLOC_TOP_PAD=1: there is no such'),
    ({'MALLOC_NO_SUCH_': '1'}, 'MALLOC_NO_SUCH_=1: there is no such'),
    ({'HEAPLEDGER_SET': 'arena_max=1:nothing'}, 'HEAPLEDGER_SET: nothing: there is no such'),
    ({'HEAPLEDGER_POLICY': 'sbrk'}, 'HEAPLEDGER_POLICY: sbrk: hybrid, brk or mmap'),
    ({'HEAPLEDGER_CHECK': 'yes'}, 'HEAPLEDGER_CHECK: yes: not a number'),
]


@pytest.mark.parametrize('variables, words', MALFORMED)
def test_malformed_is_said_once(record, library, victims, variables, words):
    """Without a recording, each process says it; of a recording, `record` does for all."""
    victim = victims / 'victim_settings'
    script = f'{victim} large; {victim} large & wait; {victim} work'
    alone = run([victim, 'large', 'work'], env={'LD_PRELOAD': str(library), **variables})
    outcome, _ = record([], '/bin/sh', '-c', script, env=variables)
    for said, start in (alone, 'heapledger: ignored: '), (outcome, 'heapledger: record: ignored: '):
        assert said.status == 0, said
        line, = said.stderr.decode().splitlines()
        assert line.startswith(start) and words in line, line
    assert alone.stdout == b'mapped\n' and outcome.stdout == b'mapped\nmapped\n'


@pytest.mark.parametrize('variables', [
    {'GLIBC_TUNABLES': 'glibc.malloc.check=3:glibc.pthread.rseq=0:glibc.cpu.x86_ibt=on::'},
    {'MALLOC_CHECK_': '3', 'MALLOC_CONF': 'stats_print:true', 'MALLOC_TRACE': '/dev/null'},
    {'HEAPLEDGER_SET': '', 'HEAPLEDGER_POLICY': '', 'HEAPLEDGER_CHECK': '', 'GLIBC_TUNABLES': ''},
])
def test_what_is_others_is_not_unknown(settings, recorded, variables):
    assert settings('large', **variables) == ['mapped']
    assert recorded([], 'large', **variables)[0] == ['mapped']


# Only where the kernel gives huge pages to those who ask.
@pytest.mark.skipif(not MODES.exists() or '[madvise]' not in MODES.read_text(),
                    reason=f'{MODES} does not say [madvise]')
@pytest.mark.parametrize('policy, of', [('hybrid', {'break', 'block'}), ('brk', {'break'}),
                                        ('mmap', {'block'})])
def test_huge_pages_are_asked_for(recorded, heapledger, tmp_path, policy, of):
    _, analysis = recorded(['--policy', policy], 'megabytes')
    assert count(analysis, reason='huge_page') == 0
    _, analysis = recorded(['--policy', policy, '--set', 'hugetlb=1', '--force'], 'megabytes')
    assert count(analysis, 'madvise', 'huge_page') > 0
    assert of >= regions(heapledger, tmp_path / 'trace', 'madvise') > set()
    size = int(MODES.with_name('hpage_pmd_size').read_text())
    outcome = run([heapledger, 'dump', '--kind', 'brk', tmp_path / 'trace'])
    breaks = re.findall(r'= 0x(\w+) reason=(?:grow_top|trim_top)', outcome.stdout.decode())
    assert bool(breaks) == (policy != 'mmap')
    assert all(int(end, 16) % size == 0 for end in breaks), breaks


# Purge.

@pytest.mark.parametrize('policy', POLICIES)
@pytest.mark.parametrize('purge, parts, said', [
    ('never', ['holes', 'pause', 'large_free', 'call', 'residence'], ['resident']),
    ('never', ['holes', 'trim', 'residence'], ['gone']),
    ('trim', ['holes', 'pause', 'call', 'residence', 'large_free', 'residence'],
     ['resident', 'gone']),
    ('1', ['holes', 'pause', 'call', 'residence'], ['gone']),
    ('86400000', ['holes', 'pause', 'call', 'large_free', 'residence'], ['resident']),
])
def test_purge(settings, policy, purge, parts, said):
    assert settings(*parts, 'zeroed', 'work', HEAPLEDGER_SET=f'purge={purge}',
                    HEAPLEDGER_POLICY=policy, HEAPLEDGER_CHECK='20') == said


@pytest.mark.parametrize('purge', ['trim', '1'])
def test_no_page_is_purged_twice(recorded, purge):
    """But for what the calls between have used and left again."""
    again = ['pause', 'large_free', 'call'] * 10
    said, analysis = recorded(['--set', f'purge={purge}'], 'holes', *again, 'residence')
    assert said == ['gone']
    assert 100 <= count(analysis, 'madvise', 'purge') <= 100 + 6 * 10
    assert analysis['returned']['break_bytes'] > 100 * 40960


# The check.

DAMAGES = {
    'size': ['size behind', 'chunk sizes'],
    'tiny': ['chunk sizes'],
    'link_forward': ['list links'],
    'link_backward': ['list links'],
    'size_behind': ['size behind'],
    'in_use_mark': ['lists and chunks', 'chunk flags'],
}


@pytest.mark.parametrize('how', ['call', 'trim', 'end'])
@pytest.mark.parametrize('damage', DAMAGES)
def test_check_finds_damage(victims, library, damage, how):
    every = '1' if how == 'call' else '1000000'
    outcome = run([victims / 'victim_planted', damage, how],
                  env={'LD_PRELOAD': str(library), 'HEAPLEDGER_CHECK': every})
    assert outcome.status == -6, outcome
    line, = outcome.stderr.decode().splitlines()
    found = re.fullmatch(r'heapledger: check: ([a-z ]+): arena 0, address 0x[0-9a-f]+'
                         r'(, called from 0x[0-9a-f]+)?', line)
    assert found and found.group(1) in DAMAGES[damage], line


@pytest.mark.parametrize('damage', [name for name in DAMAGES if name != 'link_forward'])
def test_nothing_else_finds_it(victims, library, damage):
    """The control: it is the check that speaks."""
    for how in 'call', 'trim', 'end':
        outcome = run([victims / 'victim_planted', damage, how], env={'LD_PRELOAD': str(library)})
        assert outcome.status == 0 and outcome.stderr == b'', outcome


@pytest.mark.parametrize('policy', POLICIES)
def test_check_is_silent_on_a_sound_heap(victims, settings, library, policy):
    variables = {'HEAPLEDGER_CHECK': '1', 'HEAPLEDGER_POLICY': policy}
    assert settings('work', 'holes', 'trim', 'zeroed', **variables) == []
    for how in 'call', 'trim', 'end':
        outcome = run([victims / 'victim_planted', 'none', how],
                      env={'LD_PRELOAD': str(library), **variables})
        assert outcome.status == 0 and outcome.stderr == b'', outcome


def test_invariants_are_those_of_the_page():
    page = (SOURCE / 'docs' / 'allocator.md').read_text()
    source = (SOURCE / 'interposer' / 'check.c').read_text()
    named = set(re.findall(r'require\([^;]*?"([a-z ]+)"', source))
    listed = set(re.findall(r'^    ([a-z ]+?)  +\S', page.split('## Invariants')[1].split('##')[0],
                            re.M))
    assert len(named) > 8
    assert named == listed


# malloc_info.

def test_malloc_info_lists_sizes(victims, library):
    """What it lists is what it sums up, heap by heap and in all."""
    outcome = run([victims / 'victim_settings', 'fast', 'holes', 'fast', 'info'],
                  env={'LD_PRELOAD': str(library)})
    assert outcome.status == 0, outcome
    document = ElementTree.fromstring(outcome.stdout.decode().split('fast\n')[2])
    for heap in document.findall('heap'):
        sizes = heap.findall('sizes/size') + heap.findall('sizes/unsorted')
        assert sizes
        for entry in sizes:
            low, high, total, number = (int(entry.get(key))
                                        for key in ('from', 'to', 'total', 'count'))
            assert 32 <= low <= high and number > 0 and low % 16 == high % 16 == 0
            assert low * number <= total <= high * number
        rest = {kind: heap.find(f'total[@type="{kind}"]') for kind in ('fast', 'rest')}
        free = sum(int(entry.get('total')) for entry in sizes)
        top = sum(int(one.get('size')) for one in rest.values()) - free
        assert 0 < top < int(heap.find('system[@type="current"]').get('size'))
        assert int(rest['fast'].get('count')) > 0
        assert heap.find('aspace[@type="total"]') is not None
    assert int(document.find('system[@type="current"]').get('size')) > 5_000_000


@pytest.mark.parametrize('policy', [None, *POLICIES])
def test_malloc_stats_and_mallinfo_agree(victims, library, policy):
    """On glibc's own heap, too: it is what the words mean."""
    env = {'LD_PRELOAD': str(library), 'HEAPLEDGER_POLICY': policy} if policy else {}
    outcome = run([victims / 'victim_settings', 'holes', 'stats'], env=env)
    assert outcome.status == 0, outcome
    wide, narrow = outcome.stdout.decode().splitlines()[1:]
    assert wide == narrow
    arena, used, blocks, mapped = map(int, wide.split())
    said = outcome.stderr.decode()
    figures = re.findall(r'^(\w[\w ]*?) *= +(\d+)$', said, re.M)
    system = [int(value) for name, value in figures if name == 'system bytes']
    in_use = [int(value) for name, value in figures if name == 'in use bytes']
    most = {name: int(value) for name, value in figures if name.startswith('max mmap')}
    arenas = re.findall(r'^Arena (\d+):$', said, re.M)
    assert arenas == [str(number) for number in range(1 if policy == 'brk' else 2)]
    assert len(system) == len(in_use) == len(arenas) + 1
    assert system[-1] == arena + mapped and in_use[-1] == used + mapped
    assert sum(system[:-1]) == arena and sum(in_use[:-1]) == used
    assert blocks == (0 if policy == 'brk' else 2)
    assert most['max mmap regions'] == (0 if policy == 'brk' else 3)
    assert mapped <= most['max mmap bytes']


def test_settings_are_documented():
    names = re.findall(r'^HL_SETTING\((\w+),', (
        SOURCE / 'include' / 'heapledger' / 'settings.def').read_text(), re.M)
    manual = (SOURCE / 'docs' / 'man' / 'heapledger-record.1').read_text()
    assert len(names) == 13
    for name in names:
        assert re.search(rf'^\.It Cm {name}\b', manual, re.M), name
