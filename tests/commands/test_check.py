# SPDX-License-Identifier: MIT
"""`heapledger check` passes what kept its budget, fails what did not and says why, and never takes
missing evidence for a pass. The last tests hold real recordings against their own figures."""

import json
import os
import subprocess
import sys
import time

import pytest

from analysis_fixture import Situation
from conftest import CLEAN_ENVIRONMENT, run


@pytest.fixture
def situation(tmp_path):
    return Situation(tmp_path)


def lines(outcome):
    return outcome.stdout.decode().splitlines()


# Each budget's key with the value that ordinary() measures, and one unit less.
MEASURED = [
    ('syscalls', 'brk', 212), ('syscalls', 'mmap', 61), ('syscalls', 'munmap', 58),
    ('syscalls', 'total', 331), ('peak', 'rss', 51_208_192), ('peak', 'requested', 41_200_000),
    ('peak', 'mapped', 46_340_000), ('events', 'calls', 2_104_332),
    ('end', 'requested', 1_310_000), ('end', 'mapped', 1_870_000), ('end', 'live_blocks', 2_043),
]


@pytest.mark.parametrize('table, key, value', MEASURED)
def test_a_value_at_its_limit_is_kept_and_one_more_is_not(situation, table, key, value):
    kept = situation.check(f'[{table}]\n{key} = {value}\n')
    assert (kept.status, kept.stderr) == (0, b'')
    assert lines(kept)[-1] == 'KEPT: 1 budget'
    over = situation.check(f'[{table}]\n{key} = {value - 1}\n')
    assert over.status == 1
    assert lines(over)[-1] == 'EXCEEDED: 1 of 1 budget (heap.toml, line 2)'
    assert f'OVER     2  {table}.{key}' in over.stdout.decode()


@pytest.mark.parametrize('key', ['mremap', 'madvise', 'mprotect'])
def test_a_system_call_never_made_keeps_a_budget_of_zero(situation, key):
    assert situation.check(f'[syscalls]\n{key} = 0\n').status == 0


def test_the_line_the_excess_and_the_causes_are_named(situation):
    outcome = situation.check('# heap\n\n[syscalls]\nmmap = 61\nbrk = 200\n')
    assert outcome.status == 1
    assert lines(outcome) == [
        '      line  budget         limit  measured',
        'ok       4  syscalls.mmap     61        61  100 %',
        'OVER     5  syscalls.brk     200       212  +12 (+6.0 %)',
        '            205 no free block fits: grow the break, in malloc',
        '            7 free top reached trim_threshold, in free',
        'EXCEEDED: 1 of 2 budgets (heap.toml, line 5)',
    ]


def test_causes_of_a_total_name_their_system_call_and_sum_up(situation):
    outcome = situation.check('[syscalls]\ntotal = 0\n')
    assert lines(outcome)[1:6] == [
        'OVER     2  syscalls.total      0       331  +331',
        '            205 brk: no free block fits: grow the break, in malloc',
        '            61 mmap: request at or over mmap_threshold, in malloc',
        '            58 munmap: a mapped block was freed, in free',
        '            7 for 1 other cause',
    ]


def test_a_peak_says_what_the_heap_consisted_of(situation):
    outcome = situation.check('[peak]\nrequested = "39 MiB"\n')
    assert lines(outcome)[1:-1] == [
        'OVER     2  peak.requested  39.0 MiB  39.3 MiB  +298.4 KiB (+0.7 %)',
        '            when most was mapped: 44.2 MiB mapped, 210,443 live blocks',
        '            holds requested 39.3 MiB, slack 2.96 MiB, free 1.81 MiB,',
        '              metadata 136.7 KiB',
        '            lies in break 40.0 MiB, mapped blocks 4.10 MiB, metadata 136.7 KiB',
    ]


def test_sizes_that_would_look_equal_are_shown_in_bytes(situation):
    outcome = situation.check('[peak]\nrequested = 41199999\n')
    assert '41,199,999 B  41,200,000 B  +1 B (+<0.1 %)' in outcome.stdout.decode()


def test_every_line_fits_80_columns(situation):
    situation.data['peak']['rss_bytes'] = 987_654_321_987
    budget = '[peak]\nrss = 987654321986\nmapped = 1\nrequested = 1\n[end]\nlive_blocks = 1\n' \
             'mapped = 2\n[syscalls]\ntotal = 1\n[events]\ncalls = 1\n'
    outcome = situation.check(budget)
    assert outcome.status == 1
    assert max(len(line) for line in lines(outcome)) <= 80
    assert '987,654,321,987 B' in outcome.stdout.decode()


@pytest.mark.parametrize('text, expected', [
    ('"49 MiB"', 0), ('"48.8 MiB"', 1), ('"0.05 GiB"', 0), ('"50008K"', 0), ('"50007 KiB"', 1),
    ('"51208192"', 0), ('"51208191 B"', 1), ('"1 T"', 0), ('51208192', 0), ('0', 1)])
def test_sizes_are_binary(situation, text, expected):
    outcome = situation.check(f'[peak]\nrss = {text}\n')
    assert outcome.status == expected, outcome


# What is wrong with the budget, and how it is said.
WRONG = [
    ('[syscalls]\nbrkk = 1\n', '2: unknown key brkk in [syscalls]; did you mean brk?'),
    ('[syscalls]\nfoo = 1\n', '2: unknown key foo in [syscalls]; there are brk, mmap, munmap, '
                              'mremap, madvise, mprotect, total'),
    ('\n[peek]\nrss = 1\n', '2: unknown table [peek]; did you mean peak?'),
    ('[x]\n', '1: unknown table [x]; there are syscalls, causes, peak, events, end, fragmentation, '
     'returned, phases, sites'),
    ('# one\n[syscalls]\n\n# two\nbrk = "200"\n',
     '5: syscalls.brk must be an integer, not a string'),
    ('[syscalls]\nbrk = true\n', '2: syscalls.brk must be an integer, not a boolean'),
    ('[syscalls]\nbrk = 2.5\n', '2: syscalls.brk must be an integer, not a float'),
    ('[syscalls]\nbrk = nan\n', '2: syscalls.brk must be an integer, not a float'),
    ('[syscalls]\nmmap = 1\nbrk = [\n 1,\n 2,\n]\n',
     '3: syscalls.brk must be an integer, not an array'),
    ('[syscalls.brk]\nlimit = 1\n', '1: syscalls.brk must be an integer, not a table'),
    ('[syscalls]\nbrk = 2026-01-01\n', '2: syscalls.brk must be an integer, not a date or time'),
    ('syscalls = 3\n', '1: syscalls must be a table [syscalls], not an integer'),
    ('[[syscalls]]\nbrk = 1\n', '1: syscalls must be a table [syscalls], not an array'),
    ('syscalls.brk = -1\n', '1: syscalls.brk must not be negative: -1'),
    ('[peak]\nmapped = 1\nrss = -5\n', '3: peak.rss must not be negative: -5'),
    ('[peak]\nrss = 1.5\n',
     '2: peak.rss must be an integer of bytes or a string like "64 MiB", not a float'),
    ('[peak]\nrss = "64 MB"\n', '2: peak.rss: "64 MB": write MiB (binary units) instead of MB'),
    ('[peak]\nrss = "lots"\n', '2: peak.rss: "lots" is not a size; write one like "64 MiB"'),
    ('[peak]\nrss = "-1 MiB"\n', '2: peak.rss: "-1 MiB" is not a size; write one like "64 MiB"'),
    ('[peak]\nrss = ""\n', '2: peak.rss: "" is not a size; write one like "64 MiB"'),
    ('[peak]\nrss = "1 MiB MiB"\n',
     '2: peak.rss: "1 MiB MiB" is not a size; write one like "64 MiB"'),
    ('[syscalls]\nbrk 1\n',
     "2: not TOML: Expected '=' after a key in a key/value pair"),
    ('[syscalls]\nbrk = 1\nbrk = 2\n', '3: not TOML: Cannot overwrite a value'),
    ('[syscalls]\nx = """abc', '2: not TOML: Unterminated string'),
    (b'[syscalls]\n# \xff\n', '2: not UTF-8 text'),
    ('[peak]\nrss = 1\n[syscalls]\nbrk = 1\n[end]\nlive = 3\n',
     '6: unknown key live in [end]; did you mean live_blocks?'),
]


@pytest.mark.parametrize('budget, message', WRONG)
def test_a_wrong_budget_is_a_usage_error_that_names_the_line(situation, budget, message):
    outcome = situation.check(budget)
    assert outcome.stderr.decode() == f'heapledger: check: heap.toml:{message}\n'
    assert (outcome.status, outcome.stdout) == (2, b'')


@pytest.mark.parametrize('budget', ['', '# nothing\n', '[syscalls]\n', '[syscalls]\n[peak]\n'])
def test_a_budget_without_limits_does_not_pass(situation, budget):
    outcome = situation.check(budget)
    assert outcome.status == 2
    assert outcome.stderr.decode() == (
        'heapledger: check: heap.toml: no budget in it, so nothing would be checked; '
        'tables are [syscalls], [causes], [peak], [events], [end], [fragmentation], [returned], '
        '[phases], [sites]\n')


def test_a_huge_or_missing_budget_file_is_a_usage_error(situation):
    outcome = situation.check('#' * 70_000)
    assert (outcome.status, outcome.stderr) == (
        2, b'heapledger: check: heap.toml: larger than 64 KiB: not a budget\n')
    outcome = situation.script('check.py', situation.trace, '--budget', 'none.toml')
    assert (outcome.status, outcome.stderr) == (
        2, b'heapledger: check: none.toml: No such file or directory\n')


def test_wrong_arguments_are_one_line(situation):
    outcome = situation.script('check.py', situation.trace)
    assert outcome.status == 2
    assert outcome.stderr.decode() == (
        'heapledger: check: name --budget FILE, --baseline FILE or both; '
        'see heapledger check --help\n')


def lose_events(data):
    data['complete'] = False
    data['events']['lost'] = 3


def cut_short(data):
    data['complete'] = False
    data['processes'][0]['complete'] = False


@pytest.mark.parametrize('harm, said', [
    (lose_events, '3 events lost'),
    (cut_short, '1 stream not closed: the recording was cut short')])
def test_an_incomplete_trace_proves_no_budget_kept(situation, harm, said):
    harm(situation.data)
    outcome = situation.check('[syscalls]\nbrk = 1000\n[end]\nmapped = 1\n')
    assert outcome.status == 4
    assert lines(outcome)[-1] == f'NOT ENOUGH EVIDENCE: {said}'
    assert outcome.stderr.decode() == f'heapledger: check: not enough evidence: {said}\n'
    assert all(line.startswith('?  ') for line in lines(outcome)[1:-1])


@pytest.mark.parametrize('harm', [lose_events, cut_short])
def test_an_incomplete_trace_proves_a_budget_exceeded(situation, harm):
    harm(situation.data)
    outcome = situation.check('[syscalls]\nbrk = 211\n')
    assert (outcome.status, outcome.stderr) == (1, b'')


def test_lost_events_have_a_budget_too(situation):
    assert situation.check('[events]\nlost = 0\n').status == 0
    lose_events(situation.data)
    assert situation.check('[events]\nlost = 2\n').status == 1
    assert situation.check('[events]\nlost = 3\n').status == 4


def test_what_was_not_measured_is_not_kept(situation):
    situation.data['peak']['rss_bytes'] = None
    outcome = situation.check('[syscalls]\nbrk = 212\n[peak]\nrss = "1 GiB"\n')
    assert outcome.status == 4
    assert '?        4  peak.rss      1.00 GiB         -  not measured' in lines(outcome)
    assert lines(outcome)[-1] == 'NOT ENOUGH EVIDENCE: not measured: peak.rss (line 4)'
    assert situation.check('[syscalls]\nbrk = 1\n[peak]\nrss = "1 GiB"\n').status == 1


def test_a_heap_that_was_not_measured_at_its_peak_is_said_so(situation):
    situation.data['peak']['at_mapped'] = None
    outcome = situation.check('[peak]\nrss = 1\n')
    assert outcome.status == 1
    assert '            what the heap consisted of: not measured' in lines(outcome)


def test_the_recorders_own_calls_are_no_cause(situation):
    situation.data['syscalls']['by_cause'].insert(0, {
        'syscall': 'mmap', 'reason': 'recorder', 'reason_text': 'heapledger itself', 'call': None,
        'count': 999, 'bytes': 0, 'time_ns': 1, 'failed': 0})
    assert 'heapledger itself' not in situation.check('[syscalls]\nmmap = 1\n').stdout.decode()


def test_processes_that_were_not_recorded_are_told(situation):
    (situation.trace / 'session.json').write_text('{"unrecorded_processes": 1}')
    outcome = situation.check('[syscalls]\nbrk = 212\n')
    assert (outcome.status, outcome.stderr.decode()) == (0, (
        'heapledger: check: 1 process of this run could not be recorded; these figures are without '
        'its part\n'))
    situation.data['complete'] = False  # as the analyzer says then
    outcome = situation.check('[syscalls]\nbrk = 212\n')
    assert outcome.status == 4
    assert lines(outcome)[-1] == 'NOT ENOUGH EVIDENCE: 1 process not recorded'


def test_an_unreadable_trace_passes_the_analyzers_line_through(situation):
    situation.analyzer_status = 3
    outcome = situation.check('[syscalls]\nbrk = 1\n')
    assert (outcome.status, outcome.stdout) == (3, b'')
    assert outcome.stderr.decode() == (
        f'heapledger: analyze: {situation.trace}: broken at 64\n')


def test_an_analysis_of_another_version_is_refused(situation):
    situation.data['schema'] = 'heapledger-analysis/9'
    outcome = situation.check('[syscalls]\nbrk = 1\n')
    assert outcome.status == 3
    assert b"schema 'heapledger-analysis/9'; this reads 'heapledger-analysis/1'" in outcome.stderr


def test_check_needs_no_matplotlib(situation):
    blocker = situation.folder / 'blocked' / 'matplotlib.py'
    blocker.parent.mkdir()
    blocker.write_text('raise ImportError("blocked")\n')
    outcome = situation.check('[syscalls]\nbrk = 212\n', env={'PYTHONPATH': str(blocker.parent)})
    assert outcome.status == 0


# Real recordings: a Python program on malloc, which frees most of what it takes.
PROGRAM = 'blocks = [bytes(n * 100) for n in range(3000)]; del blocks; x = bytes(3000000)'


@pytest.fixture(scope='module')
def recorded(heapledger, tmp_path_factory):
    trace = tmp_path_factory.mktemp('check') / 'trace'
    outcome = run([heapledger, 'record', '-q', '-o', trace, '--', sys.executable, '-c', PROGRAM],
                  env={'PYTHONMALLOC': 'malloc'})
    assert outcome.status == 0, outcome
    output = trace.parent / 'analysis.json'
    assert run([heapledger, 'analyze', trace, '--json', output]).status == 0
    return trace, json.loads(output.read_text())


def real_check(heapledger, trace, text):
    budget = trace.parent / 'real.toml'
    budget.write_text(text)
    return run([heapledger, 'check', trace, '--budget', budget])


REAL = ['syscalls.brk', 'syscalls.mmap', 'syscalls.munmap', 'syscalls.total', 'peak.requested',
        'peak.mapped', 'peak.rss', 'end.requested', 'end.live_blocks', 'events.calls']


@pytest.mark.parametrize('name', REAL)
def test_the_gate_on_a_real_recording_shuts_one_below_what_was_measured(heapledger, recorded, name):
    trace, analysis = recorded
    table, key = name.split('.')
    is_size = table == 'peak' or (table, key) == ('end', 'requested')
    value = analysis[table][key + '_bytes' if is_size else key]
    assert value > 0
    kept = real_check(heapledger, trace, f'[{table}]\n{key} = {value}\n')
    assert kept.status == 0, kept
    over = real_check(heapledger, trace, f'[{table}]\n{key} = {value - 1}\n')
    assert over.status == 1, over
    assert b'OVER     2' in over.stdout


def test_causes_of_a_real_recording_sum_up_to_the_count(heapledger, recorded):
    trace, analysis = recorded
    outcome = real_check(heapledger, trace, '[syscalls]\nbrk = 0\n')
    named = [line.split()[0] for line in lines(outcome) if line.startswith(' ' * 12)]
    assert sum(int(word.replace(',', '')) for word in named) == analysis['syscalls']['brk']


def kill_recorder_early(heapledger, trace):
    """Kills `record` while its program runs; the trace is then what had been written."""
    ready = trace.parent / 'ready'
    program = f'x = [bytes(n) for n in range(9000)]; open({str(ready)!r}, "w"); ' \
              'import sys; sys.stdin.read()'
    recorder = subprocess.Popen(
        [heapledger, 'record', '-q', '-o', trace, '--', sys.executable, '-c', program],
        env={**CLEAN_ENVIRONMENT, 'PYTHONMALLOC': 'malloc'}, stdin=subprocess.PIPE)
    deadline = time.monotonic() + 60
    while not (ready.exists() and any(file.stat().st_size > 1000 for file in trace.glob('*.hlt'))):
        assert time.monotonic() < deadline and recorder.poll() is None
        time.sleep(0.05)
    recorder.kill()
    recorder.wait()
    recorder.stdin.close()  # the program reads its end and ends


def test_the_trace_of_a_killed_recorder_passes_no_budget(heapledger, tmp_path):
    trace = tmp_path / 'trace'
    kill_recorder_early(heapledger, trace)
    outcome = real_check(heapledger, trace, '[syscalls]\ntotal = 100000000\n')
    assert outcome.status == 4, outcome
    assert lines(outcome)[-1] == ('NOT ENOUGH EVIDENCE: 1 stream not closed: '
                                  'the recording was cut short')
    assert real_check(heapledger, trace, '[syscalls]\ntotal = 0\n').status == 1
    outcome = run([heapledger, 'report', trace, '-o', tmp_path / 'cut.html'])
    assert outcome.status == 0, outcome
    assert 'INCOMPLETE: 1 stream not closed' in (tmp_path / 'cut.html').read_text()


def test_half_a_trace_passes_no_budget(heapledger, tmp_path):
    trace = tmp_path / 'trace'
    assert run([heapledger, 'record', '-q', '-o', trace, '--', '/bin/sh', '-c',
                '/bin/true; :']).status == 0
    budget = '[syscalls]\ntotal = 100000\n'
    assert real_check(heapledger, trace, budget).status == 0
    next(trace.glob('*.2.hlt')).unlink()
    outcome = real_check(heapledger, trace, budget)
    assert outcome.status == 4, outcome
    assert lines(outcome)[-1] == 'NOT ENOUGH EVIDENCE: 1 stream not in the trace'


@pytest.mark.parametrize('where', ['>/dev/full', '>&-'])
def test_a_verdict_that_cannot_be_printed(heapledger, tmp_path, where):
    """It must not look like a finding; with nobody to read it the status alone says it."""
    trace = tmp_path / 'trace'
    assert run([heapledger, 'record', '-q', '-o', trace, '--', '/bin/true']).status == 0
    (tmp_path / 'b.toml').write_text('[syscalls]\ntotal = 100000\n')
    outcome = run(['/bin/sh', '-c', f'exec "$@" {where}', 'sh', heapledger, 'check', trace,
                   '--budget', tmp_path / 'b.toml'])
    assert outcome.status == (2 if 'full' in where else 0), outcome
    said = b'heapledger: check: standard output: No space left on device\n'
    assert outcome.stderr == (said if 'full' in where else b''), outcome


def test_a_truncated_trace_is_unreadable(heapledger, tmp_path):
    trace = tmp_path / 'trace'
    assert run([heapledger, 'record', '-q', '-o', trace, '--', '/bin/sh', '-c', ':']).status == 0
    stream = next(trace.glob('*.1.hlt'))
    os.truncate(stream, stream.stat().st_size - 7)
    outcome = real_check(heapledger, trace, '[syscalls]\ntotal = 100000\n')
    assert (outcome.status, outcome.stdout) == (3, b''), outcome
    assert stream.name.encode() in outcome.stderr and b'offset' in outcome.stderr


def test_a_directory_that_is_no_trace_is_unreadable(heapledger, tmp_path):
    empty = tmp_path / 'empty'
    empty.mkdir()
    for folder in empty, tmp_path / 'missing':
        outcome = run([heapledger, 'check', folder, '--budget', '/dev/null'])
        assert outcome.status == 2  # the budget is read first
        (tmp_path / 'b.toml').write_text('[syscalls]\nbrk = 1\n')
        outcome = run([heapledger, 'check', folder, '--budget', tmp_path / 'b.toml'])
        assert outcome.status == 3
        assert outcome.stdout == b'' and len(outcome.stderr.splitlines()) == 1
